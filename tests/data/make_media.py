"""Small media files for tests: frames that carry their number, and containers around them (PyAV).

`numbered(n)` draws frames whose number survives lossy codecs; `numbers(frames)` reads it back. Axes: T, H, W.
"""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

BITS = 8
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 40), (40, 60, 220), (255, 255, 255)
UPRIGHT = {  # orientation tag -> where the four quarters of `quarters` are shown
    1: ["red", "green", "blue", "white"],
    2: ["green", "red", "white", "blue"],
    3: ["white", "blue", "green", "red"],
    4: ["blue", "white", "red", "green"],
    5: ["red", "blue", "green", "white"],
    6: ["blue", "red", "white", "green"],
    7: ["white", "green", "blue", "red"],
    8: ["green", "white", "red", "blue"],
}


def numbered(count: int, height: int = 48, width: int = 64, first: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8: eight bars, bright for the ones of the frame's number."""
    frames = np.full((count, height, width, 3), 30, np.uint8)
    for index in range(count):
        for bit in range(BITS):
            if (first + index) >> bit & 1:
                frames[index, :, bit * width // BITS : (bit + 1) * width // BITS] = 220
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that `numbered` drew, read at the middle of each bar."""
    height, width = frames.shape[1:3]
    columns = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    rows = slice(height // 4, max(3 * height // 4, 1))
    bright = frames[:, rows][:, :, columns].mean((1, 3)) > 125
    return [sum(int(on) << bit for bit, on in enumerate(row)) for row in bright]


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """(H, W, 3): red, green / blue, white quarters, which tell each of the eight orientations from the others."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return picture


def corners(picture: np.ndarray) -> list[str]:
    """Names of the colours of the four quarters of (H, W, 3): top left, top right, bottom left, bottom right."""
    height, width = picture.shape[:2]
    colours = {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
    spots = [picture[y * height // 4, x * width // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    return [min(colours, key=lambda name: int(np.abs(spot - colours[name]).sum())) for spot in spots]


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write_video(
    path: Path,
    frames: Sequence[np.ndarray] | np.ndarray,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 10,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    form: str | None = None,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    turn: Sequence[int] | None = None,
    shape: Fraction | None = None,
    layout: str = "rgb24",
    sound: bool = False,
    cover: bool = False,
    thumbnail: np.ndarray | None = None,
) -> Path:
    """Encode `frames` (H, W, C). `stamps` are their times in units of `time_base` (default: 1 / fps); `turn` is a
    display matrix of nine integers, `shape` the width of a pixel over its height; a `thumbnail` becomes a first video
    stream of its own."""
    with av.open(str(path), "w", format=form, container_options=dict(container or {})) as out:
        small: Any = None
        if thumbnail is not None:
            small = add_stream(out, "mjpeg", "yuvj420p", thumbnail, fps)
        stream = add_stream(out, codec, pixels, frames[0], fps, options)
        if time_base:
            stream.codec_context.time_base = time_base
        if turn is not None:
            stream.set_display_matrix(list(turn))
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        audio: Any = out.add_stream("aac", rate=16000) if sound else None
        if cover:
            art = add_stream(out, "mjpeg", "yuvj420p", quarters(), fps)
            art.disposition = Disposition.attached_pic
        if small is not None:
            encode(out, small, [thumbnail], None, None, "rgb24")
        encode(out, stream, frames, stamps, time_base, layout)
        if cover:
            encode(out, art, [quarters()], None, None, "rgb24")
        if audio is not None:
            encode_silence(out, audio)
    return path


def add_stream(
    out: Any, codec: str, pixels: str, frame: Any, fps: int, options: Mapping[str, str] | None = None
) -> Any:
    stream = out.add_stream(codec, rate=fps, options=dict(options or {}))
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = pixels
    return stream


def encode(
    out: Any, stream: Any, frames: Any, stamps: Sequence[int] | None, time_base: Fraction | None, layout: str
) -> None:
    for index, array in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=layout)
        frame.pts = index if stamps is None else stamps[index]
        frame.time_base = time_base or 1 / stream.codec_context.framerate
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def encode_silence(out: Any, stream: Any, samples: int = 16000) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
    out.mux(stream.encode(frame))
    out.mux(stream.encode())


def write_planes(
    path: Path, values: Sequence[int], *, codec: str, pixels: str, matrix: int, full: bool, transfer: int = 2
) -> Path:
    """Three flat frames whose luma and two chroma planes are these numbers, unconverted, with the colour matrix, range
    (full or limited) and transfer (16: PQ, 18: HLG) stated by their numbers in H.273."""
    with av.open(str(path), "w") as out:
        stream = add_stream(out, codec, pixels, quarters(), 10)
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_trc = matrix, 2 if full else 1, transfer
        for index in range(3):
            frame = av.VideoFrame(64, 48, pixels)
            for plane, value in zip(frame.planes, values, strict=True):
                deep = frame.format.components[0].bits > 8
                plane.update(
                    (value.to_bytes(2, "little") if deep else bytes([value])) * (plane.buffer_size // (1 + deep))
                )
            frame.pts, frame.time_base = index, Fraction(1, 10)
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def write_sound(path: Path, cover: bool = False) -> Path:
    """A second of silence, with a picture as its cover where asked."""
    with av.open(str(path), "w", format="mp4" if cover else None) as out:
        audio = out.add_stream("aac", rate=16000)
        art: Any = None
        if cover:
            art = add_stream(out, "mjpeg", "yuvj420p", quarters(), 1)
            art.disposition = Disposition.attached_pic
        encode_silence(out, audio)
        if art is not None:
            encode(out, art, [quarters()], None, None, "rgb24")
    return path


def animation(path: Path, frames: np.ndarray, delays: Sequence[int], **options: Any) -> Path:
    """An animated picture (GIF, WebP, PNG, AVIF by its extension) with delays in milliseconds."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=list(delays), **options)
    return path


def png(width: int, height: int, depth: int, colours: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG of one colour type (0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA) from packed rows; `chunks` such as
    PLTE and tRNS stand before the pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = len(rows) // height
    filtered = b"".join(b"\0" + rows[y * size : (y + 1) * size] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + body
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


def tiff(
    bits: int,
    photometric: int,
    data: bytes,
    *,
    width: int = 2,
    samples: int = 1,
    extra: int = -1,
    sample_format: int = 0,
    order: str = "<",
) -> bytes:
    """A TIFF of one row, uncompressed. `photometric` 0: white is zero, 1: grey, 2: RGB; `extra`: what a further sample
    is (1 premultiplied alpha, 2 alpha); `order` "<" or ">"."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: samples, 278: 1, 279: len(data)}
    tags |= {338: extra} if extra >= 0 else {}
    tags |= {339: sample_format} if sample_format else {}
    ends = 8 + 2 + 12 * len(tags) + 4
    depths = struct.pack(f"{order}{samples}H", *[bits] * samples)
    outside = depths if samples > 2 else b""
    table = struct.pack(f"{order}H", len(tags))
    for tag, value in sorted(tags.items()):
        long = tag in (273, 279)
        content = struct.pack(f"{order}I" if long else f"{order}HH", *([value] if long else [value, 0]))
        if tag == 258:
            content = struct.pack(f"{order}I", ends) if outside else depths.ljust(4, b"\0")
        if tag == 273:
            content = struct.pack(f"{order}I", ends + len(outside))
        count = samples if tag == 258 else 1
        table += struct.pack(f"{order}HHI", tag, 4 if long else 3, count) + content
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + table + bytes(4) + outside + data


def gif(
    canvas: tuple[int, int],
    patches: Sequence[tuple[Any, ...]],
    colours: bytes,
    *,
    clear: int = -1,
    disposal: int = 0,
    delay: int = 10,
) -> bytes:
    """A GIF of patches (place, size, indices[, own colours]) without compression; `delay` in hundredths of a second.
    Colours are at most four."""
    out = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x81, 0, 0) + colours.ljust(12, b"\0")
    for place, size, indices, *own in patches:
        out += b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2 | (clear >= 0), delay, max(clear, 0), 0)
        out += b"\x2c" + struct.pack("<HHHHB", *place, *size, 0x81 if own else 0)
        out += b"".join(own).ljust(12, b"\0") if own else b""
        bits = "".join(f"{code:03b}"[::-1] for index in indices for code in (4, index)) + "101"  # 4: start over, 5: end
        data = int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
        chunks = [data[at : at + 255] for at in range(0, len(data), 255)]
        out += b"\x02" + b"".join(bytes([len(chunk)]) + chunk for chunk in chunks) + b"\0"
    return out + b";"


def damage(path: Path, start: float, stop: float, seed: int = 0) -> Path:
    """Overwrite the bytes between two shares of a file with noise."""
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(stop * len(data))
    data[first:last] = np.random.default_rng(seed).bytes(last - first)
    path.write_bytes(data)
    return path


def mp4_boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """(name, start, end) of the outermost boxes of an MP4."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        size = struct.unpack(">Q", data[at + 8 : at + 16])[0] if size == 1 else size or len(data) - at
        found.append((name, at, at + size))
        at += size
    return found
