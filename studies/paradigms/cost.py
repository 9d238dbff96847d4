"""What an image step and a clip step of the demo's recipe cost, measured once: the unit in which runs are compared.

    OMP_NUM_THREADS=1 python -m studies.paradigms.cost

Both kinds take turns on one thread, each with its batch rendered, and the figure is the median of the pairs' ratios of
CPU seconds, because a busy machine slows both. The numbers go to docs/results/paradigms/cost.json; every run's budget
follows from them, so they are not measured again for a study that has begun.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

from omnivl.config import StageConfig, read_json
from omnivl.presets import changed, images
from omnivl.presets.pretraining import videos, world
from omnivl.results import commit, machine
from omnivl.run import Run
from omnivl.train.checkpoint import write_json
from omnivl.train.engine import Engine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "paradigms"
COST = RESULTS / "cost.json"
PAIRS, FIRST = 40, 8  # measured pairs, after some that are not


def clip_cost() -> float:
    """A clip step in image steps."""
    return float(read_json(COST)["clip_step"])


class Steps:
    """One kind of step, taken one after the other."""

    def __init__(self, stage: StageConfig) -> None:
        ready = Run(world("cost", stage), None, torch.device("cpu")).stage(0)
        self.engine = Engine(ready.task, stage.train, stage.optim, torch.device("cpu"), None)
        self.batches = iter(ready.batches(0, stage.train.steps))
        self.taken = 0

    def seconds(self) -> float:
        """CPU seconds of the next one, its batch included."""
        begun = time.process_time()
        self.engine.take_step(next(self.batches), self.taken, (0, self.taken, 0), self.taken + 1)
        self.taken += 1
        return time.process_time() - begun


def measure(pairs: int = PAIRS, first: int = FIRST) -> dict[str, float]:
    """`pairs` pairs, after the `first` ones."""
    steps = [Steps(changed(kind(first + pairs), train={"checkpoint_every": 0})) for kind in (images, videos)]
    found = [tuple(each.seconds() for each in steps) for _ in range(first + pairs)][first:]
    image, clip = (statistics.median(side) for side in zip(*found, strict=True))
    return {
        "image_step": 1.0,
        "clip_step": round(statistics.median(clip / image for image, clip in found), 3),
        "image_step_seconds": round(image, 4),
        "clip_step_seconds": round(clip, 4),
    }


def main() -> int:
    if COST.exists():
        print(f"cost.py: {COST} is there, and budgets follow from it: delete it first", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found = measure()
    told = {
        "command": "python -m studies.paradigms.cost",
        "what": "CPU seconds of one thread for a step on 48 pictures and on 32 clips of 4 frames; the ratio is the "
        f"median of {PAIRS} pairs",
        "commit": commit(),
        "machine": f"{machine()}, 1 thread",
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(COST, told | found)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
