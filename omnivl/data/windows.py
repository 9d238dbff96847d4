"""Windows of a video: spans of equal length, one every stride, each as the frames that a model looks at; by scenes, the
same anew from each cut on, so that none shows two scenes.

A file is decoded once, however many windows it has and however they overlap (and once before to find the cuts); memory
holds the frames of the windows that are open, at the model's size. Each window shows what
`read_video(path, num_frames, start, end)` would show.
The paper (OmniVL, arXiv 2209.07526) says nothing about long films: all of this is ours. This room knows no model.
Axes: T frames, H height, W width.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from omnivl.data.clips import warn
from omnivl.data.containers import Film
from omnivl.data.files import opened, recognised
from omnivl.data.frames import displayed
from omnivl.data.images import bad
from omnivl.data.media import read_video
from omnivl.data.scenes import find_cuts
from omnivl.data.transforms import prepare
from omnivl.data.videos import timed


@dataclass(frozen=True)
class Window:
    """The frames (T, size, size, 3) uint8 of [start, end] and when each is first shown, in seconds of the film."""

    number: int  # counted from 0
    start: float
    end: float
    frames: np.ndarray
    times: tuple[float, ...]


def spans(duration: float, seconds: float, stride: float) -> list[tuple[float, float]]:
    """(start, end) of the windows of a film: the last one may be shorter; a film no longer than one window is one."""
    count = 1 + max(math.ceil((duration - seconds) / stride - 1e-9), 0)
    return [(i * stride, min(i * stride + seconds, duration)) for i in range(count)]


def read_windows(
    path: str | os.PathLike[str],
    num_frames: int,
    *,
    seconds: float,
    stride: float,
    size: int,
    interpolation: str = "bicubic",
    scenes: bool = False,
    first: int = 0,
) -> Iterator[Window]:
    """The windows of a video from number `first` on, in order. `stride` may be at most `seconds`; with `scenes` each
    scene has windows of its own.

    Raises BadSample, as `read_video` does; ValueError for lengths that make no sense.
    """
    if not 0 < stride <= seconds < math.inf:
        raise ValueError(f"windows of {seconds:g} s every {stride:g} s: wanted 0 < stride <= length")
    head = read_video(path, num_frames, 0, seconds)
    ends = [0.0, *(find_cuts(path) if scenes else []), head.duration]
    planned = [
        (begin + start, begin + end)
        for begin, over in pairwise(ends)
        for start, end in spans(over - begin, seconds, stride)
    ]
    rest = [(number, *planned[number]) for number in range(first, len(planned))]
    if first == 0 and planned[0][1] == min(seconds, head.duration):  # it has been read
        yield Window(0, 0.0, planned[0][1], prepare(head.frames, size, interpolation), head.times)
        rest = rest[1:]
    del head
    if not rest:
        return
    with opened(path) as (file, name, where):
        medium, content = recognised(file, name)
    if medium == "video" and where is not None:
        yield from streamed(where, name, content, rest, num_frames, size, interpolation)
        return
    for number, start, end in rest:  # an animated picture
        clip = read_video(path, num_frames, start, end)
        yield Window(number, start, end, prepare(clip.frames, size, interpolation), clip.times)


def streamed(
    path: Path,
    name: str,
    content: str,
    planned: Sequence[tuple[int, float, float]],
    num_frames: int,
    size: int,
    interpolation: str,
) -> Iterator[Window]:
    """The planned windows (number, start, end) of a container, in one pass over its frames."""
    wanted = sorted(
        (start + (end - start) * (i + 0.5) / num_frames, number, start, end)
        for number, start, end in planned
        for i in range(num_frames)
    )
    collected: dict[int, list[tuple[float, np.ndarray]]] = {number: [] for number, _, _ in planned}
    try:
        with Film(path, name, content) as film:
            last: Any = None
            pixels = np.empty(0, np.uint8)
            # a film that ends before its time shows fewer frames than are wanted
            for (_, number, start, end), (time, frame) in zip(
                wanted, shown_at([centre for centre, *_ in wanted], film), strict=False
            ):
                if frame is not last:
                    last, pixels = frame, prepare(displayed(frame, film.shape)[None], size, interpolation)[0]
                collected[number].append((time, pixels))
                if len(collected[number]) == num_frames:
                    times, frames = zip(*collected.pop(number), strict=True)
                    yield Window(number, start, end, np.stack(frames), times)
            if film.damaged:
                warn(name, f"damaged or missing frames in {film.damaged} places, went on with those that decode")
    except (av.FFmpegError, OverflowError, MemoryError) as error:
        raise bad(name, f"cannot be read as {content} ({getattr(error, 'strerror', None) or error})") from error


def shown_at(centres: Sequence[float], film: Film) -> Iterator[tuple[float, Any]]:
    """The frame (time, frame) shown at each of `centres`, ascending seconds; ends where the film does: what lies
    more than a second past the end of its last frame is not there."""
    slack = min(float(film.time_base), 0.001) + 1e-6  # as in `Timeline`
    shown: tuple[float, Any] | None = None
    origin, at = 0.0, 0
    for now, frame in timed(film):
        origin = now if shown is None else origin
        time = now - origin if shown is None else max(now - origin, shown[0])  # an AVI's times are guesses
        while shown is not None and at < len(centres) and centres[at] + slack < time:
            yield shown
            at += 1
        if at == len(centres):
            return
        shown = (time, frame)
    if shown is not None:
        end = shown[0] + float((shown[1].duration or 0) * film.time_base) + 1
        yield from (shown for centre in centres[at:] if centre <= end)
