"""The one door through which media come in: finding files, telling what they are, reading pictures and videos.

The content of a file decides what it is, never its extension. `read_image` and `read_video` (`read_clips`, where frames
are chosen otherwise or several clips of one video are wanted) are used by training, evaluation, embedding and serving
alike, so that one file gives the same pixels everywhere; whatever is wrong with a file is a `BadSample` whose one line
names it. How they are found and told apart is in `files`; which frames are looked at in `sampling`; how pixels and
frames come out in `images`, `animations` and `videos`.
The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from omnivl.data.animations import ANIMATED, moves, read_animation
from omnivl.data.clips import Clip, stacked, still, wanted, warn
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
from omnivl.data.sampling import Choice, Timeline, dense, segments
from omnivl.data.videos import decode_video

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "BadSample",
    "Choice",
    "Clip",
    "dense",
    "find_media",
    "kind",
    "read_clips",
    "read_image",
    "read_video",
    "resolve",
    "segments",
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
    return read_clips(source, segments(num_frames, start=start, end=end))[0]


def read_clips(source: Source, choices: Sequence[Choice]) -> list[Clip]:
    """A clip for each choice (of `segments` or `dense`) from one video, which is decoded once; else as `read_video`."""
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(resolve(source)):
        return read_folder(resolve(source), choices)
    with opened(source) as (file, name, path):
        medium, content = recognised(file, name)
        if medium == "video":
            return decode_video(path or file, name, content, choices)
        if content in ANIMATED:
            return read_animation(file, name, content, choices)
        return still(np.asarray(decode_image(file, name, content)), name, choices)


def read_folder(folder: Path, choices: Sequence[Choice]) -> list[Clip]:
    """A folder of numbered pictures as a video of 25 frames a second; those that cannot be read are left out."""
    name = str(folder)
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS]
    except OSError as error:
        raise bad(name, f"cannot be opened ({error.strerror})") from error
    pictures = sorted((path for path in paths if not path.name.startswith(".")), key=natural)
    shown = {path: i / FOLDER_RATE for i, path in enumerate(pictures)}
    duration, frames, errors = len(pictures) / FOLDER_RATE, dict[Path, np.ndarray](), list[BadSample]()
    while pictures:
        first = shown[pictures[0]]
        timeline = Timeline(name, [shown[path] - first for path in pictures], duration - first)
        chosen = [choose(timeline) for choose in choices]
        indices = wanted(chosen)
        try:
            for path in (pictures[index] for index in indices):
                if path not in frames:
                    frames[path] = np.asarray(read_image(path))
        except BadSample as error:
            if getattr(error.__cause__, "errno", None):  # of the disk, not of the picture
                raise
            errors.append(error)
            pictures.remove(path)
        else:
            if errors:
                warn(name, f"left out {len(errors)} pictures that cannot be read ({errors[0]})")
            return stacked({index: frames[pictures[index]] for index in indices}, chosen, timeline)
    raise bad(name, errors[0] if errors else "a folder without pictures is not a video")


def kind(source: Source) -> Literal["image", "video"]:
    """Whether a file holds a picture or a video, by its content: more than one frame is a video. Decodes nothing
    (but an AVIF that moves). Raises BadSample where it is neither, and says what it is."""
    with opened(source) as (file, name, _):
        medium, content = recognised(file, name)
        if medium == "video":
            return "video"
        return "video" if content in ANIMATED and moves(file, content) else "image"
