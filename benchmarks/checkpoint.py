"""How long a step waits for a checkpoint that is written beside it, against one that is written while it waits.

    python benchmarks/checkpoint.py [--tiny] [--pairs N]

Both sides begin with the same model and AdamW's state and end with the same files; ours is timed until training may
go on, and the writing is waited for outside of what is timed.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, seconds
from omnivl.config import MODELS
from omnivl.model import OmniVL, save_weights
from omnivl.train.checkpoint import RunFolder, Writing, copy_to_host, on_host


def measure(tiny: bool, pairs: int) -> list[Row]:
    config = MODELS["tiny" if tiny else "small"]
    torch.manual_seed(0)
    model = OmniVL(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    size = 0
    with tempfile.TemporaryDirectory() as place:
        folder, writing, times = RunFolder(Path(place)), Writing(), []

        def beside(step: int) -> None:
            copied, state = copy_to_host(model), on_host({"optimizer": optimizer.state_dict()})
            writing.start(lambda: folder.save(step, lambda to: save_weights(copied, to), state))

        def waiting(step: int) -> None:
            folder.save(step, lambda to: save_weights(model, to), {"optimizer": optimizer.state_dict()})

        for step in range(1, 2 * pairs + 3, 2):
            ours = seconds(partial(beside, step))
            writing.wait()
            peer = seconds(partial(waiting, step + 1))
            size = sum(path.stat().st_size for path in folder.at(step).iterdir())
            folder.prune(1, None)
            times.append((ours, peer))
        folder.close()
    settings: dict[str, Any] = {
        "us": "copied, then written beside the steps",
        "them": "written while the step waits",
        "megabytes": round(size / 1e6),
    }
    return [against("checkpoint, pause of a step", times[1:], settings)]


if __name__ == "__main__":
    command(__doc__, measure, pairs=5)
