"""Clips: which frames of a video are looked at, and the frames chosen, whatever kind of file they come from.

The frame shown at the centre of each of `num_frames` equal spans of [start, end] is taken, by timestamps, never by
count and average rate. Axes: T frames, H height, W width. This room knows no file and no model.
"""

import bisect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from omnivl.data.images import bad


@dataclass(frozen=True)
class Clip:
    """Frames chosen from a video: (T, H, W, 3) uint8; when each is first shown, and how long the video is, in seconds
    from the first shown frame."""

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float


def warn(name: str, text: str) -> None:
    warnings.warn(str(bad(name, text)), stacklevel=2)


def choose(
    times: Sequence[float] | np.ndarray,
    duration: float,
    num_frames: int,
    start: float | None,
    end: float | None,
    *,
    name: str,
    tick: float = 0.0,
) -> list[int]:
    """Which frame is shown at the centre of each of `num_frames` equal spans of [start, end].

    `times` are ascending seconds, the first 0; `end` past the duration means the duration. `tick` is the precision of
    the times. Raises BadSample, naming `name`, where the span is empty or lies outside.
    """
    begin, stop = start or 0.0, duration if end is None else end
    if not begin >= 0:
        raise bad(name, f"start is {begin:g} s, which must be 0 or more")
    if end is not None and not end > begin:
        raise bad(name, f"end is {end:g} s, which must be later than start ({begin:g} s)")
    if begin > 0 and begin >= duration:
        raise bad(name, f"start is {begin:g} s, past the end of the video ({duration:.3f} s)")
    stop = min(stop, duration)
    centres = [begin + (stop - begin) * (i + 0.5) / num_frames for i in range(num_frames)]
    slack = min(tick, 0.001) + 1e-6  # a frame that begins at a centre, but for rounding, is the one shown
    return [max(bisect.bisect_right(times, centre + slack) - 1, 0) for centre in centres]


def stacked(
    frames: dict[int, np.ndarray], chosen: list[int], times: Sequence[float] | np.ndarray, duration: float
) -> Clip:
    """The chosen frames in order, as one array; frames of another size (it may change midway) take the first one's."""
    height, width = frames[chosen[0]].shape[:2]
    same = {
        index: frame if frame.shape[:2] == (height, width) else scaled(frame, width, height)
        for index, frame in frames.items()
    }
    return Clip(np.stack([same[i] for i in chosen]), tuple(float(times[i]) for i in chosen), float(duration))


def scaled(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def still(pixels: np.ndarray, name: str, num_frames: int, start: float | None, end: float | None) -> Clip:
    chosen = choose([0.0], 0.0, num_frames, start, end, name=name)
    return stacked({0: pixels}, chosen, [0.0], 0.0)
