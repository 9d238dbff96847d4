"""Run the part of the model that stays as it was over all training media once, and keep its tokens.

    python studies/encoders/features.py [ENCODERS] [--data runs/mini-data] [--out runs/encoders/features] [--random]

ENCODERS (runs/encoders unless given) is what sources.py wrote, --data what studies/mini/build.py wrote with --size 112.
A file a pass, each with the CPU seconds that it took; what is there already is not made again. --random draws all
weights anew instead (seed 0): the control. --only names the passes to make.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.data.annotations import Item, read_manifest
from omnivl.model import OmniVL
from omnivl.model.folder import load_folder
from omnivl.tokenizer import Tokenizer
from studies.encoders.cached import cached_clips, cached_pictures, shortened

CUT = 9  # visual blocks that stay as they were
VISION_LAYERS = CUT + 1  # of twelve: the last ones were probably tuned to what is salient
IMAGE_SIZE, NUM_FRAMES = 112, 4
DRAWINGS = ("emoji_train", "emoji_more_train")
COPIES = 3  # of each drawing, the first as it is
EVERY = (
    7  # of the training clips one in so many (people differ by outfit and weapon alone); not a multiple of 8 directions
)


def start(encoders: Path, *, random: bool = False) -> tuple[OmniVL, Tokenizer]:
    """The converted model without its last visual blocks; with `random` the same shape from nothing."""
    model, tokenizer = load_folder(encoders / "converted")
    torch.manual_seed(0)
    made = shortened(model, vision_layers=VISION_LAYERS, image_size=IMAGE_SIZE, num_frames=NUM_FRAMES)
    return (OmniVL(made.config).eval() if random else made), tokenizer


def training_items(data: Path, name: str) -> list[Item]:
    """The items of a manifest of drawings, or one in EVERY of flare_train."""
    items = list(read_manifest(data / f"{name}.jsonl", None, "").items)
    return items[::EVERY] if name == "flare_train" else items


def passes(model: OmniVL, data: Path) -> dict[str, Callable[[], Tensor]]:
    """File name -> what makes the tokens (I, T, 1 + S, D) in it."""

    def drawings(name: str, copy: int) -> Callable[[], Tensor]:
        return lambda: cached_pictures(model, training_items(data, name), CUT, copy)

    return {
        **{f"{name}_{copy}": drawings(name, copy) for copy in range(COPIES) for name in DRAWINGS},
        "flare_train": lambda: cached_clips(model, training_items(data, "flare_train"), CUT),
    }


def read(folder: Path, name: str) -> tuple[Tensor, float]:
    """The tokens of a pass, and its CPU seconds."""
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        return file.get_tensor("tokens"), float(file.metadata()["cpu_seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokens of the part of the model that stays as it was.")
    parser.add_argument("encoders", nargs="?", type=Path, default=Path("runs/encoders"), help="what sources.py wrote")
    parser.add_argument("--data", type=Path, default=Path("runs/mini-data"), help="what build.py --size 112 wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/encoders/features"), help="folder to write to")
    parser.add_argument("--random", action="store_true", help="from random weights")
    parser.add_argument(
        "--only", nargs="+", metavar="PASS", help="emoji_train_0, emoji_more_train_0, ..., flare_train (all)"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model, _ = start(options.encoders, random=options.random)
    made = passes(model, options.data)
    if unknown := set(options.only or ()) - set(made):
        parser.error(f"there is no pass {', '.join(sorted(unknown))}: choose of {', '.join(made)}")
    for name in options.only or made:
        path = options.out / f"{name}.safetensors"
        if not path.exists():
            begun = time.process_time()
            tokens = made[name]()
            seconds = f"{time.process_time() - begun:.1f}"
            partial = path.with_suffix(".part")
            save_file({"tokens": tokens}, partial, metadata={"cpu_seconds": seconds})
            partial.rename(path)
            print(f"{name}: {tuple(tokens.shape)}, {seconds} CPU seconds", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
