"""Clips as people have them: the frames shown at the centres of equal spans, or one sentence that says why not."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from omnivl.data.media import BadSample, kind, read_video
from tests.data.make_media import animation, damage, numbered, numbers, write_sound, write_video


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_the_frames_at_the_centres_of_equal_spans_are_read_from_any_container(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(40), fps=25)
    clip = read_video(path, num_frames=4)
    assert kind(path) == "video" and clip.frames.shape == (4, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert all(abs(got - want) <= 1 for got, want in zip(numbers(clip.frames), (5, 15, 25, 35), strict=True))
    assert list(clip.times) == sorted(clip.times) and clip.duration == pytest.approx(40 / 25, abs=0.1)


def test_start_and_end_bound_the_span_and_a_start_past_the_end_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(50), fps=25)  # two seconds
    inside = numbers(read_video(path, num_frames=5, start=1.0, end=1.4).frames)
    assert min(inside) >= 24 and max(inside) <= 36
    with pytest.raises(BadSample, match=r"a\.mp4"):
        read_video(path, start=5.0)


def test_fewer_frames_than_asked_are_repeated_in_order(tmp_path: Path) -> None:
    assert numbers(read_video(write_video(tmp_path / "a.mp4", numbered(3)), 6).frames) == [0, 0, 1, 1, 2, 2]
    assert numbers(read_video(write_video(tmp_path / "b.mp4", numbered(1)), 4).frames) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animated_picture_is_a_video_with_its_delays(name: str, tmp_path: Path) -> None:
    path = animation(tmp_path / name, numbered(4), [100, 100, 100, 700])
    clip = read_video(
        path, num_frames=5
    )  # spans of 0.2 s, of which the last frame is shown in the last three and a half
    assert kind(path) == "video" and numbers(clip.frames) == [1, 3, 3, 3, 3]
    assert clip.duration == pytest.approx(1.0, abs=0.01)


def test_odd_widths_are_not_skewed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", numbered(8, 50, 70), codec="ffv1")
    frames = read_video(path, 8).frames
    assert frames.shape == (8, 50, 70, 3) and numbers(frames) == list(range(8))


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_refused_and_cover_art_is_no_video(cover: bool, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.m4a", cover=cover)
    with pytest.raises(BadSample, match=r"a\.m4a.*video"):
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


def test_times_of_a_variable_rate_decide_not_frame_numbers(tmp_path: Path) -> None:
    """Ten frames in the first second, then ten at one a second: equal spans of time see the slow ones."""
    stamps = [*range(0, 1000, 100), *range(1000, 11_000, 1000)]
    path = write_video(tmp_path / "a.mkv", numbered(20), stamps=stamps, time_base=Fraction(1, 1000))
    seen = numbers(read_video(path, num_frames=10).frames)
    assert seen[1:] == sorted(seen[1:]) and min(seen[1:]) >= 10
