"""The one door through which media come in: finding files, telling what they are, reading pictures and videos.

The content of a file decides what it is, never its extension. `read_image` and `read_video` are used by training,
evaluation, embedding and serving alike, so that one file gives the same pixels everywhere; whatever is wrong with a
file is a `BadSample` whose one line names it. How they are found and told apart is in `files`; how pixels and
frames come out in `images`, `animations` and `videos`.
The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import os
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from omnivl.data.animations import ANIMATED, delays, read_animation
from omnivl.data.clips import Clip, choose, stacked, still
from omnivl.data.files import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Source,
    find_media,
    natural,
    opened,
    recognised,
    resolve,
)
from omnivl.data.images import bad, decode_image, shown
from omnivl.data.sample import BadSample
from omnivl.data.videos import decode_video

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "BadSample",
    "Clip",
    "find_media",
    "kind",
    "read_image",
    "read_video",
    "resolve",
    "shown",
]

FOLDER_RATE = 25  # frames a second of a folder of numbered pictures, which states none


def read_image(source: Source) -> Image.Image:
    """The picture in a file (path, bytes or open file) as a PIL image: RGB, upright, on white; the first frame if many.

    Raises BadSample, naming the file and the reason.
    """
    with opened(source) as (file, name, _):
        medium, content = recognised(file, name)
        if medium != "image":
            raise bad(name, f"is a video ({content}), not a picture")
        return decode_image(file, name, content)


def read_video(source: Source, num_frames: int = 8, start: float | None = None, end: float | None = None) -> Clip:
    """The frame shown at the centre of each of `num_frames` equal spans of [start, end] (seconds; none: all of it).

    Reads containers, animated pictures, a picture (one frame, repeated) and a folder of numbered pictures (25 a
    second). Raises BadSample, naming the file and the reason: undecodable, no video stream, or no such span.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be 1 or more, got {num_frames}")
    if isinstance(source, (str, os.PathLike)) and resolve(source).is_dir():
        return read_folder(resolve(source), num_frames, start, end)
    with opened(source) as (file, name, path):
        medium, content = recognised(file, name)
        if medium == "video":
            return decode_video(path or file, name, content, num_frames, start, end)
        if content in ANIMATED:
            return read_animation(file, name, content, num_frames, start, end)
        return still(np.asarray(decode_image(file, name, content)), name, num_frames, start, end)


def read_folder(folder: Path, num_frames: int, start: float | None, end: float | None) -> Clip:
    """A folder of numbered pictures as a video of 25 frames a second."""
    pictures = [path for path in sorted(folder.iterdir(), key=natural) if path.suffix.lower() in IMAGE_EXTENSIONS]
    if not pictures:
        raise bad(str(folder), "a folder without pictures is not a video")
    times, duration = [i / FOLDER_RATE for i in range(len(pictures))], len(pictures) / FOLDER_RATE
    chosen = choose(times, duration, num_frames, start, end, name=str(folder))
    return stacked({i: np.asarray(read_image(pictures[i])) for i in set(chosen)}, chosen, times, duration)


def kind(source: Source) -> Literal["image", "video"]:
    """Whether a file holds a picture or a video, by its content: more than one frame is a video. Decodes nothing
    (but an AVIF that moves). Raises BadSample where it is neither, and says what it is."""
    with opened(source) as (file, name, _):
        medium, content = recognised(file, name)
        if medium == "video":
            return "video"
        moves = content in ANIMATED and len(list(islice(delays(file, content), 2))) > 1
        return "video" if moves else "image"
