"""Videos that are damaged, cut short or very long: what decodes is used and the rest told; memory stays flat."""

import resource
import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from omnivl.data.media import BadSample, read_clips, read_video, segments
from tests.data.make_media import damage, mp4_boxes, numbered, numbers, write_video


def noisy(count: int = 60) -> np.ndarray:
    """Numbered frames under noise, so that damage anywhere hits a frame."""
    noise = np.random.default_rng(0).integers(-25, 25, (count, 96, 128, 3))
    return (numbered(count, 96, 128) + noise).clip(0, 255).astype(np.uint8)


DAMAGED = {
    "a.mp4": "libx264",
    "b.mp4": "libx265",
    "a.mkv": "libx264",
    "a.ts": "libx264",
    "a.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
    "a.mov": "mjpeg",
    "a.mpg": "mpeg2video",
}


def write_noisy(path: Path, codec: str) -> Path:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    container = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    options = {"g": "10", "bf": "0", "deadline": "realtime", "cpu-used": "8"}
    return write_video(path, noisy(), fps=25, codec=codec, pixels=pixels, options=options, container=container)


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_in_the_middle_is_told_and_later_frames_are_read(name: str, tmp_path: Path) -> None:
    path = damage(write_noisy(tmp_path / name, DAMAGED[name]), 0.4, 0.55)
    with pytest.warns(UserWarning, match=rf"{name}: damaged or missing frames"):
        clip = read_video(path)
    seen = numbers(clip.frames)
    assert clip.duration == pytest.approx(2.4, abs=0.25) and seen[-1] >= 54 and seen[0] <= 4


@pytest.mark.parametrize("name", [name for name in DAMAGED if name not in ("a.ts", "a.mpg")])
def test_an_end_that_is_lost_is_told_and_what_is_there_is_read(name: str, tmp_path: Path) -> None:
    """The container still counts sixty frames. (MPEG streams state no length, so that nothing seems missing.)"""
    path = write_noisy(tmp_path / name, DAMAGED[name])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.warns(UserWarning, match=rf"{name}: damaged or missing frames"):
        clip = read_video(path)
    assert clip.times[0] < 0.3 and 0.2 < clip.duration < 2.3
    assert list(clip.times) == sorted(clip.times)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damaged_last_frames_are_left_out(name: str, tmp_path: Path) -> None:
    path = damage(write_noisy(tmp_path / name, DAMAGED[name]), 0.9, 0.97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        clip = read_video(path, 30)
    assert 1.2 <= clip.duration <= 2.45 and numbers(clip.frames[:15]) == [round(time * 25) for time in clip.times[:15]]


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_whole_gives_no_warning_whatever_else_is_long(tmp_path: Path) -> None:
    """A second of sound beside half a second of film, a late start, a last frame that stays."""
    for name in ("a.mkv", "a.mp4", "a.avi"):
        read_video(write_video(tmp_path / name, numbered(5), sound=True))
    read_video(write_video(tmp_path / "b.mkv", numbered(5), stamps=[i + 100 for i in range(5)]))
    read_video(
        write_video(tmp_path / "c.mkv", numbered(5), stamps=[0, 1, 2, 3, 9000], time_base=Fraction(1, 1000), fps=1)
    )


def test_a_video_of_which_no_frame_decodes_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", noisy(5), fps=25)
    data = bytearray(path.read_bytes())
    start, end = next((start, end) for box, start, end in mp4_boxes(bytes(data)) if box == b"mdat")
    data[start + 8 : end] = np.random.default_rng(0).bytes(end - start - 8)
    path.write_bytes(data)
    with pytest.raises(BadSample, match=r"a\.mp4: no frame of its video can be decoded"):
        read_video(path)


def test_damage_in_the_middle_goes_on_and_a_ruined_file_is_named(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "a.ts", numbered(60)), 0.45, 0.5)
    assert read_video(path, 8).frames.shape == (8, 48, 64, 3)
    for name, content in (
        ("empty.mp4", b""),
        ("cut.mp4", (write_video(tmp_path / "b.mp4", numbered(9))).read_bytes()[:600]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadSample, match=name):
            read_video(tmp_path / name)
    with pytest.raises(BadSample, match="missing"):
        read_video(tmp_path / "missing.mp4")


# --- memory ----------------------------------------------------------------------------------------------------------


def write_long(path: Path, count: int) -> Path:
    frame = np.full((240, 320, 3), 90, np.uint8)
    return write_video(path, [frame] * count, fps=25, options={"preset": "ultrafast", "tune": "zerolatency"})


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.h264"])
def test_memory_depends_on_the_frames_asked_for_not_on_the_length(name: str, tmp_path: Path) -> None:
    """Two thousand frames, 460 MB as RGB, for eight of them and for three clips of eight; a short film goes first."""
    read_video(write_long(tmp_path / f"short.{name}", 50))
    path = write_long(tmp_path / name, 2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        clip = read_video(path)
        assert clip.duration == pytest.approx(80, abs=0.1)
        assert tracemalloc.get_traced_memory()[1] < 12e6, "eight frames of 230 kB, twice"
        tracemalloc.reset_peak()
        del clip
        assert len(read_clips(path, segments(8, 3))) == 3
        assert tracemalloc.get_traced_memory()[1] < 24e6
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB, FFmpeg's own included
