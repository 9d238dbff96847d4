"""Animated pictures as videos: GIF, APNG, WebP and AVIF, by their own delays, each frame completed from those before.

Delays are read by walking the blocks of the file, so that telling a still from an animation decodes nothing. What a
file says about the number of its frames is not believed: they are counted. The paper (OmniVL, arXiv 2209.07526) says
nothing about files: all of this is ours. This room knows no path and no model.
"""

import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from omnivl.data import gif
from omnivl.data.clips import Clip, choose, stacked, still, warn
from omnivl.data.images import decode_image, opened, shown

ANIMATED = ("GIF", "PNG", "WebP", "AVIF")  # pictures that may move
HURRY = 0.010  # seconds: delays up to this mean "unset", and last UNSET_DELAY as in browsers
UNSET_DELAY = 0.100


def read_animation(
    file: BinaryIO, name: str, content: str, num_frames: int, start: float | None, end: float | None
) -> Clip:
    """Frames of an animated picture by its own delays, each completed from the ones before."""
    shown = list(delays(file, content))
    while len(shown) > 1:
        times = [0.0, *itertools.accumulate(shown)]
        duration = times.pop()
        chosen = choose(times, duration, num_frames, start, end, name=name)
        file.seek(0)
        wanted = sorted(set(chosen))
        frames = decode_animation(file, name, content, wanted)
        if len(frames) == len(wanted):
            return stacked(frames, chosen, times, duration)
        lost = wanted[len(frames)]
        warn(name, f"frame {lost} of {len(shown)} does not decode, used those before it")
        shown = shown[:lost]
    file.seek(0)
    return still(np.asarray(decode_image(file, name, content)), name, num_frames, start, end)


def decode_animation(file: BinaryIO, name: str, content: str, wanted: list[int]) -> dict[int, np.ndarray]:
    """Frames of an animated picture by number, each (H, W, 3) uint8; from the first on that does not decode, none."""
    frames: dict[int, np.ndarray] = {}
    with opened(file, name, content) as image:
        try:
            if content == "GIF":
                for index, frame in enumerate(itertools.islice(gif.frames(file), wanted[-1] + 1)):
                    if index in wanted:
                        frames[index] = np.asarray(frame)
                return frames
            first = 1 if getattr(image, "default_image", False) else 0
            for index in wanted:
                image.seek(first + index)
                frames[index] = np.asarray(shown(image))
        except Exception:  # a decoder's complaint about a damaged file can be of any type
            if not frames:
                raise
    return frames


# --- how long each frame is shown ------------------------------------------------------------------------------------


def delays(file: BinaryIO, content: str) -> Iterator[float]:
    """Seconds each frame of a GIF, PNG, WebP or AVIF is shown; a still yields one. Only an AVIF that moves is decoded.

    Stops quietly where the file is cut short. Delays of 10 ms or less count as 100 ms, as in browsers.
    """
    file.seek(0)
    walk = {"GIF": gif_delays, "PNG": png_delays, "WebP": webp_delays, "AVIF": avif_delays}[content]
    try:
        for seconds in walk(file):
            yield seconds if seconds > HURRY else UNSET_DELAY
    except Exception:  # what is damaged is told when frames are decoded
        return


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
    while True:
        name, size = gif.take(file, "<4sI")
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
