"""Decoded frames (PyAV) as a player shows them: 8-bit RGB, upright, on white.

Display matrix (turns and mirrors) and pixel shape are applied; the side that pixels are too short on is stretched, so
that none is lost. Colours follow the matrix and range that the stream states (where it states none, BT.601 and limited,
as FFmpeg does). High dynamic range is not tone mapped: PQ and HLG come out flat, but whole. Interlaced frames stay
woven. Axes: H height, W width. This room knows no file and no model.
"""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from omnivl.data.clips import scaled

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the transparency


def decoder_of(stream: Any) -> Any:
    """A decoder that keeps the transparency where the stream's own would drop it; None: the stream's own."""
    wanted = ALPHA_DECODERS.get(stream.codec_context.name, "") if stream.metadata.get("alpha_mode") == "1" else ""
    if wanted not in av.codecs_available:
        return None
    decoder: Any = av.CodecContext.create(wanted, "r")
    decoder.extradata = stream.codec_context.extradata
    return decoder


def pixel_shape(stream: Any) -> Fraction:
    """Width of a pixel over its height; an absurd or missing one is 1."""
    sar = stream.sample_aspect_ratio
    return sar if sar and Fraction(1, 8) <= sar <= 8 else Fraction(1)


def displayed(frame: Any, shape: Fraction) -> np.ndarray:
    """A decoded frame, whose pixels have this shape, as a player shows it: (H, W, 3) uint8."""
    alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
    pixels = frame.reformat(format="rgba" if alpha else "rgb24", threads=1).to_ndarray()
    if alpha:
        cover = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    if shape > 1:
        pixels = scaled(pixels, round(width * shape), height)
    elif shape < 1:
        pixels = scaled(pixels, width, round(height / shape))
    return turned(pixels, frame)


def turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """(H, W, 3) as the display matrix of the frame shows it: quarter turns and mirrors, the nearest of the eight."""
    side = frame.side_data.get(SideData.DISPLAYMATRIX)
    if side is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(side)[:20], np.int32).tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)  # x and y change places; then x' follows c, y' follows b
        a, d = c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
