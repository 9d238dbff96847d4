"""What a CPU gains by multiplying in bfloat16 or in 8-bit integers, and what it costs.

    python -m studies.precision MODEL

Speed is of `small` with random weights, embedding pictures, clips and texts, in CPU seconds of one thread, the three
taking turns. Accuracy is of MODEL, trained on the built-in world, on its test split. bfloat16 is autocast, as
`omnivl.load(..., precision="bf16")`; 8-bit integers are torch's dynamic quantisation of the linear layers (weights
once, what they are multiplied with at each call), which is not built in. Written to docs/results/precision.json.
"""

import argparse
import copy
import statistics
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from omnivl.config import MODELS, EvaluationConfig
from omnivl.evaluation import evaluate
from omnivl.model import OmniVL
from omnivl.model.folder import load_folder
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TOLD = ("t2i_r1", "i2t_r1", "t2v_r1", "v2t_r1", "exact")
PAIRS = 5


def quantised(model: OmniVL) -> OmniVL:
    """A copy with 8-bit linear layers, but for the last blocks' projections, of which a part is used alone."""
    last = [
        f"{stack}.{len(getattr(model, stack.split('.')[0]).blocks) - 1}.{attention}.qkv"
        for stack, attention in (
            ("visual.blocks", "spatial"),
            ("text.blocks", "attention"),
            ("alignment.blocks", "attention"),
        )
    ]
    linear = {name for name, part in model.named_modules(remove_duplicate=False) if isinstance(part, nn.Linear)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch will give this up for torchao
        made = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), linear - set(last), dtype=torch.qint8)
    assert isinstance(made, OmniVL)
    return made


def ways(model: OmniVL) -> dict[str, tuple[OmniVL, AbstractContextManager[object]]]:
    return {
        "float32": (model, nullcontext()),
        "bfloat16": (model, torch.autocast("cpu", torch.bfloat16)),
        "int8": (quantised(model), nullcontext()),
    }


def embed(model: OmniVL, given: Tensor) -> Tensor:
    return model.embed_visual(given) if given.dim() == 5 else model.embed_text(given, None)


@torch.inference_mode()
def speed() -> list[dict[str, object]]:
    """CPU seconds of each way, how many times as fast as float32 (the median of pairs), and the least cosine with its
    vectors."""
    torch.manual_seed(0)
    made = ways(OmniVL(MODELS["small"]).eval())
    inputs = {
        "8 pictures": torch.randint(0, 255, (8, 1, 3, 224, 224), dtype=torch.uint8),
        "2 clips of 8 frames": torch.randint(0, 255, (2, 8, 3, 224, 224), dtype=torch.uint8),
        "32 texts of 16 tokens": torch.randint(1000, 20000, (32, 16)),
    }
    rows: list[dict[str, object]] = []
    for what, given in inputs.items():
        costs: dict[str, list[float]] = {name: [] for name in made}
        vectors = {}
        for _ in range(1 + PAIRS):
            for name, (model, precision) in made.items():
                begun = time.process_time()
                with precision:
                    vectors[name] = embed(model, given)
                costs[name].append(time.process_time() - begun)
        for name in made:
            pairs = zip(costs["float32"][1:], costs[name][1:], strict=True)
            rows.append(
                {
                    "embedding": what,
                    "in": name,
                    "CPU seconds": round(statistics.median(costs[name][1:]), 4),
                    "ratio": round(statistics.median(a / b for a, b in pairs), 3),
                    "least cosine": round(float((vectors["float32"] * vectors[name]).sum(1).min()), 5),
                }
            )
    return rows


def accuracy(folder: Path) -> list[dict[str, object]]:
    """Of the model in a folder on the world's test split, 256 pictures and 256 clips."""
    model, tokenizer = load_folder(folder, torch.device("cpu"))
    config = EvaluationConfig(tasks=("retrieval", "caption"), data="world:")
    rows: list[dict[str, object]] = []
    for name, (own, precision) in ways(model.eval()).items():
        with precision:
            results, bad = evaluate(own, tokenizer, config)
        assert not bad
        rows += [
            {"in": name, "metric": each.metric, "dataset": each.dataset, "value": each.value, "n": each.n}
            for each in results
            if each.metric in TOLD
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="a model folder, trained on the world")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = speed(), accuracy(options.model)
    found = {
        "command": "python -m studies.precision MODEL",
        "omnivl": version("omnivl"),
        "commit": commit(),
        "machine": machine(),
        "speed": parts[0],
        "accuracy": parts[1],
    }
    write_json(RESULTS / "precision.json", found)
    for row in (row for part in parts for row in part):
        print(", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
