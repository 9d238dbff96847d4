"""What the momentum update and the push into the memory bank cost, as a share of a pretraining step.

    python benchmarks/momentum.py [--tiny] [--pairs N]

The momentum encoders' own forward pass is not in the share: it is part of the method, whichever way the copy is kept.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from benchmarks.train_step import BATCH, SMALL, TASK, TINY, batch_of, our_step, our_task
from omnivl.tasks.pretrain import PretrainTask


def keeping(task: PretrainTask, size: int) -> Callable[[], None]:
    """One momentum update and one push of a batch's vectors."""
    vectors = F.normalize(torch.randn(size, task.model.config.embed_dim), dim=-1)
    labels = torch.arange(size)

    def work() -> None:
        task.momentum.update(task.model, task.config.momentum)
        task.bank.push(vectors, vectors, labels)

    return work


def measure(tiny: bool, pairs: int) -> list[Row]:
    config, settings, size = (TINY, replace(TASK, bank_size=64), 4) if tiny else (SMALL, TASK, BATCH["image"])
    task = our_task(config, settings)
    times = take_turns(keeping(task, size), our_step(task, batch_of(config, "image", size)), pairs)
    told = {
        "goal": 0.03,
        "us": "momentum update and push",
        "them": "the whole step on images",
        "width": config.vision.width,
        "layers": config.vision.layers,
        "pixels": config.vision.image_size,
        "batch": size,
        "bank": settings.bank_size,
    }
    return [against("momentum update and bank, share of a step", times, told)]


if __name__ == "__main__":
    command(__doc__, measure, pairs=3)
