"""GIF: its frames as a viewer shows them, and how long each is shown.

Pillow decodes the single patches; they are put together here, because it fills what a frame leaves open or clears with
a colour of some palette, where viewers leave it transparent. Transparency ends on white. The frames are counted, never
believed. This room knows no path; damage is an OSError or ValueError.
"""

import io
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

CLEAR, RESTORE = 2, 3  # what happens to a patch after its time: made transparent, or what was there before
INTERLACED, HAS_TABLE, TABLE_SIZE = 0x40, 0x80, 0x07  # bits of the flags


@dataclass(frozen=True)
class Patch:
    """One image of the file: where it goes on the canvas, and what becomes of it."""

    canvas: tuple[int, int]  # width, height
    place: tuple[int, int]  # left, top
    size: tuple[int, int]
    picture: bytes  # a GIF of its own
    clear: int | None  # index of the transparent colour
    disposal: int
    delay: float  # seconds, as stated


def patches(file: BinaryIO) -> Iterator[Patch]:
    """The whole patches of a file, without decoding. Raises OSError behind them where the file is cut short."""
    file.seek(0)
    try:
        width, height, flags = take(file, "<6xHHBxx")
        canvas, colours = (width, height), table(file, flags)
        control = bytes(4)
        first = True
        while (mark := file.read(1)) not in (b";", b""):
            if mark == b"!":
                label = take(file, "B")[0]
                content = blocks(file)
                control = content[1:5] if label == 0xF9 and len(content) > 4 else control
            elif mark == b",":
                left, top, width, height, flags = take(file, "<HHHHB")
                own = table(file, flags) or colours
                data = file.read(1) + blocks(file)
                if first:  # viewers enlarge a canvas that is too small for the first one
                    canvas = (max(canvas[0], left + width), max(canvas[1], top + height))
                elif width * height > canvas[0] * canvas[1]:
                    raise OSError("an image larger than the canvas")
                picture = standalone(width, height, flags & INTERLACED, own, data)
                clear = control[3] if control[0] & 1 else None
                delay = int.from_bytes(control[1:3], "little") / 100
                yield Patch(canvas, (left, top), (width, height), picture, clear, control[0] >> 2 & 7, delay)
                control, first = bytes(4), False
    except struct.error:
        raise OSError("cut short") from None


def frames(file: BinaryIO, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of these numbers (ascending) as shown, each with its number: RGB, the whole canvas, completed from
    those before."""
    canvas: Image.Image | None = None
    chosen = set(indices)
    for number, patch in enumerate(itertools.islice(patches(file), indices[-1] + 1)):
        if canvas is None:
            canvas = Image.new("RGBA", patch.canvas)
        (left, top), (width, height) = patch.place, patch.size
        box = (left, top, left + width, top + height)
        before = canvas.crop(box) if patch.disposal == RESTORE else None
        with Image.open(io.BytesIO(patch.picture), formats=["GIF"]) as image:
            image.load()
            opaque = np.asarray(image) != (-1 if patch.clear is None else patch.clear)
            canvas.paste(image.convert("RGB"), patch.place, Image.fromarray(opaque.astype(np.uint8) * 255))
        if number in chosen:
            white = Image.new("RGB", canvas.size, (255, 255, 255))
            white.paste(canvas, mask=canvas.getchannel("A"))
            yield number, white
        if before is not None:
            canvas.paste(before, box)
        elif patch.disposal == CLEAR:
            canvas.paste((0, 0, 0, 0), box)
    if canvas is None:
        raise OSError("no whole frame in it")


def standalone(width: int, height: int, interlaced: int, colours: bytes, data: bytes) -> bytes:
    """A GIF that holds nothing but one patch."""
    colours = colours or bytes(level for grey in range(256) for level in (grey, grey, grey))
    bits = (len(colours) // 3 - 1).bit_length() - 1
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, HAS_TABLE | interlaced | bits)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame + colours + data + b";"


def take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def table(file: BinaryIO, flags: int) -> bytes:
    """The colours that follow, three bytes each; none where the flags say so."""
    size = 3 << ((flags & TABLE_SIZE) + 1) if flags & HAS_TABLE else 0
    return bytes(take(file, f"{size}s")[0])


def blocks(file: BinaryIO) -> bytes:
    """Sub-blocks with their lengths, up to and with the empty one that ends them."""
    found = bytearray()
    while size := take(file, "B")[0]:
        found.append(size)
        found += take(file, f"{size}s")[0]
    return bytes(found) + b"\0"
