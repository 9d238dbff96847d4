"""Pretrain a small model on your own pictures: write a manifest, then run two recipes on it.

python examples/pretrain_from_folder.py pictures/ out/        # pictures/dog.jpg is described by pictures/dog.txt
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from omnivl.cli.training import apply_overrides
from omnivl.config import MODELS
from omnivl.presets import RECIPES
from omnivl.run import train


def main(pictures: str, out: str, steps: str = "200") -> None:
    manifest = Path(out) / "manifest.jsonl"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with open(manifest, "w") as file:
        for text in sorted(Path(pictures).glob("*.txt")):
            picture = next(path for path in text.parent.glob(f"{text.stem}.*") if path != text)
            file.write(json.dumps({"media": str(picture.resolve()), "caption": text.read_text().strip()}) + "\n")

    settings = ["--data.sources", f"manifest:{manifest}", "--data.batch_size", "8", "--data.num_workers", "0"]
    settings += ["--train.steps", steps, "--optim.lr", "1e-3", "--optim.warmup_steps", "10"]
    language = replace(RECIPES["pretrain_language"](), model=MODELS["tiny"])
    first = train(apply_overrides(language, settings), Path(out) / "language")

    images = apply_overrides(RECIPES["pretrain_stage1"](), [*settings, "--optim.text_lr_factor", "0.02"])
    model = train(replace(images, init=str(first)), Path(out) / "images")
    print(f"model: {model}")


if __name__ == "__main__":
    main(*sys.argv[1:])
