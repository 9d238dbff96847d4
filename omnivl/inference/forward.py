"""A model over batches of pictures and clips: no gradients, batches that the device has room for, half precision where
that is faster. This room knows no file and no text.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from omnivl.inference.inputs import Loaded
from omnivl.model import OmniVL

log = logging.getLogger(__name__)
BATCH = {"image": 32, "video": 8}  # at most; halved on a device that has no room for so many
Precision = Literal["auto", "fp32", "bf16"]  # auto: fp16 on CUDA, fp32 elsewhere
T = TypeVar("T")


class Forward:
    """Runs a model, which it puts into evaluation mode. Raises ValueError for another `precision`."""

    def __init__(self, model: OmniVL, precision: Precision = "auto") -> None:
        self.model, self.precision = model.eval(), precision
        self.batch = dict(BATCH)
        kinds = {"auto": torch.float16 if self.device.type == "cuda" else None, "fp32": None, "bf16": torch.bfloat16}
        if precision not in kinds:
            raise ValueError(f"precision is {precision!r}, wanted {', '.join(kinds)}")
        self.half = kinds[precision]  # what matrices are multiplied in

    @property
    def device(self) -> torch.device:
        return self.model.temperature.device

    @contextmanager
    def inference(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            yield

    def over(self, loaded: Sequence[Loaded], act: Callable[[Tensor, str], list[T]]) -> list[T]:
        """Act on the pixels (B, T, C, H, W) and the medium of each batch; results in the order of `loaded`."""
        results: dict[int, T] = {}
        for medium in BATCH:
            waiting = [i for i, item in enumerate(loaded) if item.medium == medium]
            while waiting:
                part = waiting[: self.batch[medium]]
                frames = np.stack([loaded[i].frames for i in part]).transpose(0, 1, 4, 2, 3)
                try:
                    with self.inference():
                        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
                        results |= zip(part, act(pixels, medium), strict=True)
                    waiting = waiting[len(part) :]
                except torch.OutOfMemoryError:
                    self.halve(medium, len(part))
        return [results[i] for i in range(len(loaded))]

    def halve(self, medium: str, size: int) -> None:
        """Batches from now on, after one of `size` had no room. Raises ValueError where it was one alone."""
        if size == 1:
            raise ValueError(f"{self.device} has no room for this model and one {medium}: choose another device")
        self.batch[medium] = size // 2
        log.warning("%s has no room for batches of %d (%s): going on with %d", self.device, size, medium, size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
