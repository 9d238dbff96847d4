"""What a step says of itself: its losses as numbers, over all micro-batches and ranks."""

import math
from typing import Any

import torch
from torch import Tensor

from omnivl import distributed
from omnivl.data.sample import Batch
from omnivl.tasks.base import Losses
from omnivl.train.stopping import TrainingError


def measure(losses: list[Losses], norm: Tensor, batch: Batch) -> dict[str, Any]:
    """A step's numbers, the same on every rank. Here, once a step, the host waits for the device.

    Args:
        losses: of each micro-batch.
        norm: of the whole gradient, which ranks share.

    Returns:
        "loss", each of `Losses.parts` and `Losses.sums` by its name (None where nothing was counted),
        "gradient_norm", and the counts "samples" and "bad".
    """
    shares = len(losses) * distributed.world_size()
    parts, sums = losses[0].parts, losses[0].sums
    read = [norm.detach(), *(each.total.detach() for each in losses)]
    read += [each.parts[name] for name in parts for each in losses]
    read += [each.sums[name][0] for name in sums for each in losses]
    numbers = torch.stack([value.float() for value in read]).tolist()
    gradient_norm, totals = numbers[0], [sum(numbers[i : i + len(losses)]) for i in range(1, len(numbers), len(losses))]
    counts = [sum(each.sums[name][1] for each in losses) for name in sums]
    values = iter(distributed.sum_over_ranks([*totals, *counts, len(batch), len(batch.bad)]))
    measured: dict[str, Any] = {name: next(values) / shares for name in ("loss", *parts)}
    right = {name: next(values) for name in sums}
    for name in sums:
        of = next(values)
        measured[name] = right[name] / of if of else None
    return measured | {"gradient_norm": gradient_norm, "samples": int(next(values)), "bad": int(next(values))}


def check_finite(measured: dict[str, Any], batch: Batch, step: int, *, overflow_allowed: bool) -> None:
    """Raises TrainingError, on every rank alike, where a loss or the gradient is not finite.

    Args:
        step: counted from 1, for the message.
        overflow_allowed: under fp16 the gradient may overflow, and the step is then done again at a lower scale.
    """
    wrong = [f"{name} is {value}" for name, value in measured.items() if value is not None and not math.isfinite(value)]
    if overflow_allowed and wrong and all(text.startswith("gradient_norm") for text in wrong):
        return
    if wrong:
        raise TrainingError(
            f"not finite at step {step}: {', '.join(wrong)} (samples {', '.join(batch.keys[:3])}, ...); "
            "the last checkpoint holds weights from before it, and a lower optim.lr may help"
        )
