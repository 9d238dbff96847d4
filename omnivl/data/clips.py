"""Clips: the frames chosen from a video, whatever kind of file they come from.

Axes: T frames, H height, W width. This room knows no file and no model.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from omnivl.data.images import bad
from omnivl.data.sampling import Choice, Timeline


@dataclass(frozen=True)
class Clip:
    """Frames chosen from a video: (T, H, W, 3) uint8; when each is first shown, and how long the video is, in seconds
    from the first shown frame."""

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float


def warn(name: str, text: str) -> None:
    warnings.warn(str(bad(name, text)), stacklevel=2)


def wanted(chosen: Iterable[list[int]]) -> list[int]:
    """All frames of several choices, each once, ascending."""
    return sorted({index for own in chosen for index in own})


def stacked(frames: dict[int, np.ndarray], chosen: Sequence[list[int]], timeline: Timeline) -> list[Clip]:
    """The chosen frames of each clip in order, as one array; frames of another size (it may change midway) take that
    of the earliest."""
    height, width = frames[min(frames)].shape[:2]
    same = {
        index: frame if frame.shape[:2] == (height, width) else scaled(frame, width, height)
        for index, frame in frames.items()
    }
    return [
        Clip(np.stack([same[i] for i in own]), tuple(float(timeline.times[i]) for i in own), float(timeline.duration))
        for own in chosen
    ]


def scaled(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def still(pixels: np.ndarray, name: str, choices: Sequence[Choice]) -> list[Clip]:
    """A picture as a video of one frame."""
    timeline = Timeline(name, [0.0], 0.0)
    return stacked({0: pixels}, [choose(timeline) for choose in choices], timeline)
