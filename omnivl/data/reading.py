"""An item's file: what it is, and its frames; read again where a disk or a network failed for a moment.

This room knows no source: which item is wanted is told from outside.
"""

import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import numpy as np

from omnivl.data.annotations import Item
from omnivl.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind, read_image, read_video, resolve
from omnivl.data.sample import BadSample
from omnivl.data.tar import Member
from omnivl.data.transforms import Frames

T = TypeVar("T")

PASSING = frozenset(  # errors of a disk or network that may be over a moment later
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ESTALE", "EREMOTEIO", "EPROTO", "ENETDOWN", "ENETUNREACH"),
        *("ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENFILE", "EMFILE"),
    )
    if hasattr(errno, name)
)
WAITS = (0.1, 0.5, 2.0)  # seconds before reading again


def frames_of(item: Item, medium: str, num_frames: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """An item's frames (T, H, W, 3) as they are, and their times in seconds. Raises BadSample."""
    frames, times = looked_at(item, medium, num_frames)
    return frames if isinstance(frames, np.ndarray) else np.asarray(frames)[None], times


def looked_at(item: Item, medium: str, num_frames: int) -> tuple[Frames, tuple[float, ...]]:
    """The same, a picture as Pillow's own."""
    if medium == "image":
        return patiently(item.media, lambda: read_image(item.source)), ()
    clip = patiently(item.media, lambda: read_video(item.source, num_frames, item.start, item.end))
    return clip.frames, clip.times


def medium_of(item: Item) -> str:
    """What an item's file is, by its content: a span of it, or a folder of numbered pictures, is a video.

    Raises BadSample where it is missing, or no media.
    """
    if os.path.isdir(resolve(item.media)):
        return "video"
    found = patiently(item.media, lambda: kind(item.source))
    return found if item.start is None and item.end is None else "video"


def likely_medium(item: Item, readable: Counter[str]) -> str:
    """What a file that cannot be read was meant to be: as its name says, if others that can be read are that too."""
    extension = item.media.suffix.lower()
    if item.start is not None or item.end is not None or extension in VIDEO_EXTENSIONS:
        named = "video"
    else:
        named = "image" if extension in IMAGE_EXTENSIONS else ""
    return named if readable[named] else readable.most_common(1)[0][0]


def state_of(item: Item) -> str:
    """Tells an item's file from others, and from what it was before it was changed: a hash of its place, size and time,
    and of its bytes where they are at hand. No file is opened."""
    content = item.content
    place = content.tar if isinstance(content, Member) else os.path.abspath(resolve(item.media))
    told: list[object] = [place, content]
    with suppress(OSError, ValueError):  # not there, or a URL
        facts = os.stat(place)
        told += [facts.st_size, facts.st_mtime_ns]
    return hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def patiently(name: object, read: Callable[[], T]) -> T:
    """What `read` gives; tried again where a disk or network failed for a moment. Raises BadSample, with the name."""
    for wait in (*WAITS, None):
        try:
            return read()
        except (BadSample, OSError) as error:
            cause = error.__cause__ if isinstance(error, BadSample) else error
            if wait is None or not (isinstance(cause, OSError) and cause.errno in PASSING):
                if isinstance(error, BadSample):
                    raise
                raise BadSample(f"{name}: cannot be read ({error.strerror or error})") from error
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")
