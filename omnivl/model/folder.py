"""Model folders: weights, tokenizer and preprocessing in one place, as they also stand in a hub repository.

config.json, model.safetensors, vocab.txt, tokenizer.json, tokenizer_config.json, preprocessor_config.json, README.md
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from omnivl.config import ModelConfig, read_json
from omnivl.model.omnivl import OmniVL
from omnivl.model.weights import load_model, read_settings, save_weights
from omnivl.tokenizer import Tokenizer, read_table

CARD = """---
library_name: omnivl
tags:
- omnivl
- image-text-to-text
- video-text-to-text
- image-to-text
- zero-shot-image-classification
pipeline_tag: image-to-text
---

# An OmniVL model

One model for images, videos and text: {vision} visual layers of width {width}, {text} text layers, pictures of {size}
pixels, {frames} frames a clip. {parameters:,} parameters.

```python
import omnivl

model = omnivl.load("PATH_OR_HUB_ID")
model.caption(["cat.jpg", "clip.mp4"])
```
"""
ORIGIN = """
## Where the weights come from

```
{origin}
```
"""
RESULTS = """
## Results

Fractions, never percent. results.json holds all settings.

| task | data set | split | metric | value | chance | items |
|---|---|---|---|---|---|---|
{rows}
"""
HUB_TASKS = {  # ours -> the hub's, where it has the like
    "caption": "image-to-text",
    "classify": "zero-shot-image-classification",
    "answer": "visual-question-answering",
}


def preprocessing(config: ModelConfig) -> dict[str, Any]:
    """preprocessor_config.json."""
    return {
        "size": {"height": config.vision.image_size, "width": config.vision.image_size},
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "interpolation": config.interpolation,
        "num_frames": config.vision.num_frames,
    }


def save_folder(model: OmniVL, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a whole model folder; an existing README.md is kept. `model.extra["origin"]` tells in the card where the
    weights come from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder)
    tokenizer.save(folder)
    write_text(folder / "preprocessor_config.json", json.dumps(preprocessing(model.config), indent=2) + "\n")
    card = folder / "README.md"
    if not card.exists():
        vision, text = model.config.vision, model.config.text
        numbers = sum(parameter.numel() for parameter in model.parameters())
        values = {"vision": vision.layers, "width": vision.width, "text": text.layers, "size": vision.image_size}
        origin = "\n".join(model.extra.get("origin", ()))
        filled = CARD.format(**values, frames=vision.num_frames, parameters=numbers)
        write_text(card, filled + (ORIGIN.format(origin=origin) if origin else ""))


def add_results(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Put measured numbers (rows of results.json) into the card of a model folder: the hub's `model-index` in its
    header, and a table. What else the card says is kept. Raises ValueError where its header cannot be read."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData
    from yaml import YAMLError

    rows = [row for row in results if row["value"] is not None]
    if not rows or not (folder / "README.md").exists():
        return
    try:
        card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{folder / 'README.md'} is given no results, its header cannot be read: {told}") from None
    assert isinstance(card.data, ModelCardData)
    card.data.model_name = card.data.model_name or folder.resolve().name
    card.data.eval_results = [
        EvalResult(
            task_type=HUB_TASKS.get(row["task"], row["task"]),
            dataset_type=row["dataset"],
            dataset_name=row["dataset"],
            dataset_split=row["split"],
            dataset_args=dict(row["settings"]),
            metric_type=row["metric"],
            metric_value=row["value"],
        )
        for row in rows
    ]
    names = ("task", "dataset", "split", "metric", "value", "chance", "n")
    named = [{**row, "metric": f"{row['metric']} {row['settings'].get('direction', '')}".rstrip()} for row in rows]
    lines = (" | ".join(f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names) for row in named)
    table = RESULTS.format(rows="\n".join(f"| {line} |" for line in lines))
    kept = re.sub(r"\n## Results\n.*?(?=\n## |\Z)", "", str(card), flags=re.DOTALL)
    write_text(folder / "README.md", kept.rstrip("\n") + "\n" + table)


def read_config(folder: Path) -> ModelConfig:
    """The architecture of a model folder. Raises ValueError (one sentence) for a folder that is not one."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a model folder: there is no such folder")
    if not (folder / "config.json").exists():
        nearby = folder / "model"
        hint = f"; did you mean {nearby}?" if (nearby / "config.json").exists() else ""
        raise ValueError(f"{folder} is not a model folder: it has no config.json{hint}")
    settings = read_json(folder / "config.json")
    if isinstance(settings, dict) and "stages" in settings:
        raise ValueError(f"{folder} is a run folder, not a model folder; did you mean {folder / 'model'}?")
    return read_settings(settings, folder / "config.json")[0]


def load_folder(folder: Path, device: torch.device | str = "cpu") -> tuple[OmniVL, Tokenizer]:
    """The model and tokenizer of a folder. Raises ValueError (one sentence) for a folder that is not one, is
    incomplete, or whose parts do not belong together."""
    read_config(folder)
    model = load_model(folder, device)
    check_preprocessing(folder, model.config)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size != model.config.text.vocab_size:
        raise ValueError(
            f"{folder}: the vocabulary has {tokenizer.vocab_size} entries, "
            f"the model's embedding {model.config.text.vocab_size}"
        )
    return model, tokenizer


def check_preprocessing(folder: Path, config: ModelConfig) -> None:
    """preprocessor_config.json, which others read, says what config.json says, where it is there. Raises ValueError."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    said, ours = read_table(path), preprocessing(config)
    wrong = [name for name, value in ours.items() if said.get(name, value) != value]
    if wrong:
        raise ValueError(
            f"{path} says {wrong[0]} {said[wrong[0]]}, config.json {ours[wrong[0]]}: make them say the same"
        )


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
