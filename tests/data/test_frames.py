"""Frames as a player shows them: upright, on white, unskewed, in the colours that were meant."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from omnivl.data.media import read_image, read_video
from tests.data.make_media import (
    animation,
    corners,
    numbered,
    numbers,
    quarters,
    write_planes,
    write_video,
)

ONE = 1 << 16  # in a display matrix
MATRICES = {  # x' = a x + c y, y' = b x + d y -> where the four quarters of `quarters` are shown
    (1, 0, 0, 1): ["red", "green", "blue", "white"],
    (0, 1, -1, 0): ["blue", "red", "white", "green"],  # a quarter turn to the right
    (-1, 0, 0, -1): ["white", "blue", "green", "red"],
    (0, -1, 1, 0): ["green", "white", "red", "blue"],  # a quarter turn to the left
    (-1, 0, 0, 1): ["green", "red", "white", "blue"],
    (1, 0, 0, -1): ["blue", "white", "red", "green"],
    (0, 1, 1, 0): ["red", "blue", "green", "white"],
    (0, -1, -1, 0): ["white", "green", "blue", "red"],
}


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_display_matrix_turns_and_mirrors_frames_upright(
    matrix: tuple[int, int, int, int], extension: str, tmp_path: Path
) -> None:
    a, b, c, d = (number * ONE for number in matrix)
    path = write_video(tmp_path / f"phone.{extension}", [quarters()] * 3, turn=[a, b, 0, c, d, 0, 0, 0, 1 << 30])
    frames = read_video(path, 2).frames
    assert frames.shape == ((2, 48, 64, 3) if matrix[0] else (2, 64, 48, 3))
    assert [corners(frame) for frame in frames] == [MATRICES[matrix]] * 2


@pytest.mark.parametrize(
    ("degrees", "nearest"), [(10, (1, 0, 0, 1)), (80, (0, 1, -1, 0)), (170, (-1, 0, 0, -1)), (290, (0, -1, 1, 0))]
)
def test_a_matrix_between_quarters_turns_by_the_nearest(
    degrees: int, nearest: tuple[int, int, int, int], tmp_path: Path
) -> None:
    a, b = (round(f(math.radians(degrees)) * ONE) for f in (math.cos, math.sin))
    path = write_video(tmp_path / "a.mp4", [quarters()], turn=[a, b, 0, -b, a, 0, 0, 0, 1 << 30])
    assert corners(read_video(path, 1).frames[0]) == MATRICES[nearest]


@pytest.mark.parametrize(
    ("shape", "turned", "size"),
    [
        (Fraction(4, 3), False, (48, 85)),
        (Fraction(1, 2), False, (96, 64)),
        (Fraction(1, 2), True, (64, 96)),
        (Fraction(1), True, (64, 48)),
        (Fraction(100), False, (48, 64)),  # absurd, not believed
    ],
)
def test_pixels_that_are_no_squares_are_stretched_and_none_is_lost(
    shape: Fraction, turned: bool, size: tuple[int, int], tmp_path: Path
) -> None:
    turn = [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30] if turned else None
    frames = read_video(write_video(tmp_path / "a.mp4", [quarters()] * 2, shape=shape, turn=turn), 1).frames
    assert frames.shape[1:3] == size
    assert corners(frames[0]) == MATRICES[(0, 1, -1, 0) if turned else (1, 0, 0, 1)]


# --- transparency ----------------------------------------------------------------------------------------------------

TRANSPARENT = {  # file -> codec, pixel format
    "vp9.webm": ("libvpx-vp9", "yuva420p"),
    "prores.mov": ("prores_ks", "yuva444p10le"),
    "animation.mov": ("qtrle", "argb"),
    "png.mov": ("png", "rgba"),
    "ffv1.mkv": ("ffv1", "bgra"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_parts_of_a_video_are_white(name: str, tmp_path: Path) -> None:
    codec, pixels = TRANSPARENT[name]
    frames = np.zeros((4, 48, 64, 4), np.uint8)
    frames[..., 0] = 200
    frames[:, :, :32, 3] = 255  # the right half hides a colour
    frames[:, :, 32:, 1] = 99
    path = write_video(tmp_path / name, frames, codec=codec, pixels=pixels, layout="rgba")
    for frame in read_video(path, 2).frames:
        assert np.abs(frame[24, 8].astype(int) - [200, 0, 0]).max() <= 3
        assert frame[24, 56].tolist() == [255, 255, 255]


def test_half_transparency_of_a_video_is_half_white(tmp_path: Path) -> None:
    frames = np.full((2, 16, 16, 4), (0, 0, 0, 128), np.uint8)
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgra", layout="rgba")
    assert read_video(path, 1).frames[0, 8, 8].tolist() == [127, 127, 127]


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.avif"])
def test_what_a_frame_clears_is_white_never_black(name: str, tmp_path: Path) -> None:
    """The second frame covers the left half alone; the first is cleared before it."""
    frames = np.zeros((2, 16, 16, 4), np.uint8)
    frames[0], frames[1, :, :8] = (255, 0, 0, 255), (0, 255, 0, 255)
    lossless: dict[str, dict[str, int]] = {
        "a.webp": {"lossless": True},
        "a.png": {"disposal": 1, "blend": 0},
        "a.gif": {"disposal": 2},
    }
    path = animation(tmp_path / name, frames, [100, 100], **lossless.get(name, {"quality": 100}))
    first, second = read_video(path, 2).frames.astype(int)
    for seen, colour in ((first[8, 4], (255, 0, 0)), (second[8, 4], (0, 255, 0)), (second[8, 12], (255, 255, 255))):
        assert np.abs(seen - colour).max() <= 2
    assert np.abs(np.asarray(read_image(path)).astype(int) - (255, 0, 0)).max() <= 2


# --- depth and colour ------------------------------------------------------------------------------------------------

COLOUR = (220, 30, 60)
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue: BT.709, 601, 2020


def planes(matrix: int, full: bool, bits: int) -> list[int]:
    """COLOUR as luma and chroma by the equations of H.273."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = (value / 255 for value in COLOUR)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    top, scale = 2**bits - 1, 2 ** (bits - 8)
    if full:
        return [round(y * top), round(u * top + 128 * scale), round(v * top + 128 * scale)]
    return [round((16 + 219 * y) * scale), round((128 + 224 * u) * scale), round((128 + 224 * v) * scale)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "yuv444p"), ("ffv1", "yuv420p10le"), ("libx264", "yuv420p")])
def test_the_stated_matrix_and_range_give_the_colour_that_was_meant(
    codec: str, pixels: str, matrix: int, full: bool, tmp_path: Path
) -> None:
    bits = 10 if "10" in pixels else 8
    values = planes(matrix, full, bits)
    path = write_planes(tmp_path / "a.mkv", values, codec=codec, pixels=pixels, matrix=matrix, full=full)
    assert np.abs(read_video(path, 1).frames[0].astype(int) - COLOUR).max() <= 4


@pytest.mark.parametrize("transfer", [16, 18])  # PQ, HLG
@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_high_dynamic_range_is_whole_neither_black_nor_wrapped_round(codec: str, transfer: int, tmp_path: Path) -> None:
    """Ten bits in BT.2020: from black to the brightest, without tone mapping."""
    for luma, level in ((64, 0), (502, 128), (940, 255), (1019, 255)):
        path = tmp_path / f"{luma}.mkv"
        write_planes(path, [luma, 512, 512], codec=codec, pixels="yuv420p10le", matrix=9, full=False, transfer=transfer)
        assert np.abs(read_video(path, 1).frames[0].astype(int) - level).max() <= 4


@pytest.mark.parametrize(
    "pixels", ["gray", "gray10le", "gray16le", "ya8", "yuv410p", "yuv422p", "yuv420p12le", "yuv444p16le", "rgb48le"]
)
def test_every_layout_of_pixels_becomes_rgb_of_8_bits(pixels: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", np.full((2, 48, 64, 3), 128, np.uint8), codec="ffv1", pixels=pixels)
    frames = read_video(path, 1).frames
    assert frames.dtype == np.uint8 and np.abs(frames.astype(int) - 128).max() <= 2


# --- sizes and fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(49, 65), (17, 33), (1, 1), (3, 1000), (136, 239)])
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv444p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "png", "rgb24"),
    ],
)
def test_odd_sizes_are_neither_skewed_nor_edged_with_colour(
    name: str, codec: str, pixels: str, height: int, width: int, tmp_path: Path
) -> None:
    drawn = np.linspace(0, 255, width).astype(np.uint8)[None, None, :, None] + np.zeros((2, height, 1, 3), np.uint8)
    path = write_video(tmp_path / name, drawn, codec=codec, pixels=pixels)
    frames = read_video(path, 2).frames
    assert frames.shape == drawn.shape and np.abs(frames.astype(int) - drawn).mean() < 4
    assert np.ptp(frames[..., :4, :].astype(int), axis=1).max() <= 40, "columns stay columns"
    assert np.ptp(frames.astype(int), axis=-1).max() <= 12, "grey stays grey"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mpg", "mpeg2video"), ("a.ts", "mpeg2video")])
def test_interlaced_frames_stay_woven_and_are_never_black(name: str, codec: str, tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = write_video(tmp_path / name, numbered(20, first=1), fps=25, codec=codec, options=options)
    with av.open(str(path)) as plain:
        assert all(frame.interlaced_frame for frame in plain.decode(video=0))
    assert numbers(read_video(path, 5).frames) == [3, 7, 11, 15, 19]


def test_frames_that_change_their_size_midway_take_the_first_ones(tmp_path: Path) -> None:
    """Two bare streams, one behind the other, as a broadcast that switches."""
    small = write_video(tmp_path / "a.h264", [quarters()] * 10, options={"x264-params": "aud=1"})
    large = write_video(tmp_path / "b.h264", [quarters(96, 128)] * 10, options={"x264-params": "aud=1"})
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = read_video(both, 4).frames
    assert frames.shape == (4, 48, 64, 3) and [corners(f) for f in frames] == [corners(quarters())] * 4
