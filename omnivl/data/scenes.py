"""Where a film is cut: the times at which the picture changes all at once.

Frames are made very small, and two that follow one another differ by the mean of what their pixels do. A cut is a
difference that is large beside those around it, so neither a camera that pans nor a thing that runs by is one; a slow
dissolve is none either. Numbers and rule are those of PySceneDetect's adaptive detector.
The paper (OmniVL, arXiv 2209.07526) says nothing about long films: all of this is ours. This room knows no model.
"""

import os
from collections.abc import Sequence

import av
import numpy as np

from omnivl.data.containers import Film
from omnivl.data.files import opened, recognised
from omnivl.data.images import bad
from omnivl.data.videos import timed

SIZE = 32  # pixels of a frame that is compared, each way
LEAST = 0.06  # of the range of a pixel: less is no cut
TIMES = 3.0  # as large as the mean difference of the frames around it
AROUND = 2  # frames before, and as many after
SHORTEST = 0.5  # seconds of a scene: a flash is no scene of its own


def find_cuts(path: str | os.PathLike[str]) -> list[float]:
    """When each scene but the first begins, in seconds of the film; none for an animated picture. Decodes all frames.

    Raises BadSample where it cannot be read.
    """
    with opened(path) as (file, name, where):
        medium, content = recognised(file, name)
    if medium != "video" or where is None:
        return []
    times: list[float] = []
    changes: list[float] = []
    origin, before = 0.0, None
    try:
        with Film(where, name, content) as film:
            for time, frame in timed(film):
                small = frame.reformat(SIZE, SIZE, "rgb24", threads=1).to_ndarray().astype(np.int16)
                changes.append(0.0 if before is None else float(np.abs(small - before).mean()) / 255)
                origin, before = (time if before is None else origin), small
                times.append(time - origin)
    except (av.FFmpegError, OverflowError, MemoryError) as error:
        raise bad(name, f"cannot be read as {content} ({getattr(error, 'strerror', None) or error})") from error
    return cuts_among(times, changes)


def cuts_among(times: Sequence[float], changes: Sequence[float]) -> list[float]:
    """The times of those frames that differ from the one before (`changes`, 0 to 1) as a cut does."""
    found: list[float] = []
    for number in range(1, len(changes)):
        first = max(number - AROUND, 1)
        around = [*changes[first:number], *changes[number + 1 : number + 1 + AROUND]]
        usual = sum(around) / max(len(around), 1)
        long = times[number] - (found[-1] if found else times[0]) >= SHORTEST
        if changes[number] >= max(LEAST, TIMES * usual) and long:
            found.append(times[number])
    return found
