"""Animated pictures as videos: GIF, APNG, WebP and AVIF, by their own delays, each frame completed from those before.

Delays are read by walking the blocks of the file, so that telling a still from an animation decodes nothing. What a
file says about the number of its frames is not believed: they are counted. The paper (OmniVL, arXiv 2209.07526) says
nothing about files: all of this is ours. This room knows no path and no model.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

from omnivl.data import gif
from omnivl.data.clips import Clip, stacked, still, wanted, warn
from omnivl.data.images import bad, decode_image, opened, shown
from omnivl.data.sampling import Choice, Timeline

ANIMATED = ("GIF", "PNG", "WebP", "AVIF")  # pictures that may move
HURRY = 0.010  # seconds: delays up to this mean "unset", and last UNSET_DELAY as in browsers
UNSET_DELAY = 0.100
MAX_PIXELS_MOVING = 2**32  # of all frames together: about a minute of decoding
MILLIONS = MAX_PIXELS_MOVING // 10**6


def read_animation(file: BinaryIO, name: str, content: str, choices: Sequence[Choice]) -> list[Clip]:
    """The clips chosen from an animated picture by its own delays, each frame completed from the ones before."""
    shown, whole = lengths(file, name, content)
    if shown and not whole:
        warn(name, f"cut short or damaged behind {len(shown)} frames")
    while len(shown) > 1:
        times = [0.0, *itertools.accumulate(shown)]
        timeline = Timeline(name, times[:-1], times[-1])
        chosen = [choose(timeline) for choose in choices]
        indices = wanted(chosen)
        frames = decode_animation(file, name, content, indices)
        if len(frames) == len(indices):
            return stacked(frames, chosen, timeline)
        lost = indices[len(frames)]
        warn(name, f"frame {lost} of {len(shown)} does not decode, used those before it")
        shown = shown[:lost]
    file.seek(0)
    return still(np.asarray(decode_image(file, name, content)), name, choices)


def decode_animation(file: BinaryIO, name: str, content: str, indices: list[int]) -> dict[int, np.ndarray]:
    """Frames of an animated picture by number, each (H, W, 3) uint8; from the first on that does not decode, none."""
    frames: dict[int, np.ndarray] = {}
    file.seek(0)
    with opened(file, name, content) as image:
        try:
            if content == "GIF":
                for index, frame in gif.frames(file, indices):
                    frames[index] = np.asarray(frame)
                return frames
            first = 1 if getattr(image, "default_image", False) else 0
            for index in indices:
                image.seek(first + index)
                frames[index] = np.asarray(shown(image))
        except Exception:  # a decoder's complaint about a damaged file can be of any type
            if not frames:
                raise
    return frames


# --- how long each frame is shown ------------------------------------------------------------------------------------


def moves(file: BinaryIO, content: str) -> bool:
    """Whether a picture of an ANIMATED format has more than one whole frame."""
    try:
        return len(list(itertools.islice(delays(file, content), 2))) > 1
    except Exception:  # what is damaged is told when it is decoded
        return False


def lengths(file: BinaryIO, name: str, content: str) -> tuple[list[float], bool]:
    """Seconds that each frame is shown, and whether the file is whole; where it is not, of the frames before.

    Raises BadSample where all of them together have more than MAX_PIXELS_MOVING.
    """
    with opened(file, name, content) as image:
        room = MAX_PIXELS_MOVING // (image.width * image.height)
    shown: list[float] = []
    try:
        for seconds in delays(file, content):
            shown.append(seconds)
            if len(shown) > room:
                break
    except Exception:  # a decoder's complaint about a damaged file can be of any type
        return shown, False
    if len(shown) > room:
        raise bad(name, f"more than {room} frames of this size: a moving picture may have {MILLIONS} million pixels")
    return shown, True


def delays(file: BinaryIO, content: str) -> Iterator[float]:
    """Seconds each frame of a GIF, PNG, WebP or AVIF is shown; a still yields one. Only an AVIF that moves is decoded.

    Delays of 10 ms or less count as 100 ms, as in browsers. Raises an error of any type where the file is cut short.
    """
    file.seek(0)
    walk = {"GIF": gif_delays, "PNG": png_delays, "WebP": webp_delays, "AVIF": avif_delays}[content]
    for seconds in walk(file):
        yield seconds if seconds > HURRY else UNSET_DELAY


def gif_delays(file: BinaryIO) -> Iterator[float]:
    return (patch.delay for patch in gif.patches(file))


def png_delays(file: BinaryIO) -> Iterator[float]:
    file.seek(8)
    animated = False
    while True:
        size, name = gif.take(file, ">I4s")
        if name == b"acTL":
            animated = True  # its frame count is not trusted: frames are counted
        elif name == b"fcTL" and size >= 26:
            top, bottom = gif.take(file, ">20xHH2x")
            yield top / (bottom or 100)
            size -= 26
        elif name == b"IEND" or (name == b"IDAT" and not animated):
            if not animated:
                yield 0.0
            return
        file.seek(size + 4, io.SEEK_CUR)


def webp_delays(file: BinaryIO) -> Iterator[float]:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        end = file.tell() + size + size % 2
        if name == b"ANMF":
            low, high = gif.take(file, "<12xHB")
            yield (low | high << 16) / 1000
        elif name in (b"VP8 ", b"VP8L"):
            yield 0.0
            return
        file.seek(end)


def avif_delays(file: BinaryIO) -> Iterator[float]:
    with Image.open(file, formats=["AVIF"]) as image:
        count = getattr(image, "n_frames", 1)
        for index in range(count):
            image.seek(index)
            if count > 1:
                image.load()
            yield image.info.get("duration", 0) / 1000
