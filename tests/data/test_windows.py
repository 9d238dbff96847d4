"""Windows of a film show what reading each span on its own shows, in one pass; a film no longer than one is one."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from omnivl.data import world
from omnivl.data.media import BadSample, read_video
from omnivl.data.scenes import cuts_among, find_cuts
from omnivl.data.transforms import prepare
from omnivl.data.windows import read_windows, spans
from tests.data.make_media import animation, damage, numbered, write_sound, write_video

SIZE = 32


def read(path: Path, **options: float) -> list:
    return list(read_windows(path, 4, **{"seconds": 1.0, "stride": 0.5, "size": SIZE, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.0, [(0, 0)]),
        (3.0, [(0, 3)]),
        (4.0, [(0, 4)]),
        (4.5, [(0, 4), (2, 4.5)]),
        (8.0, [(0, 4), (2, 6), (4, 8)]),
        (8.1, [(0, 4), (2, 6), (4, 8), (6, 8.1)]),
    ],
)
def test_spans_cover_the_film_and_stop_once_it_is_covered(duration: float, expected: list[tuple[float, float]]) -> None:
    assert spans(duration, 4.0, 2.0) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {"fps": 12}),
        ("keyframes.mkv", {"fps": 30, "options": {"g": "5"}}),
        ("variable.mp4", {"stamps": [i * (i + 3) for i in range(37)], "fps": 200}),
        ("stream.ts", {"fps": 10}),
        ("turned.mp4", {"fps": 10, "turn": (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)}),
        ("bare.avi", {"fps": 10, "codec": "mpeg4"}),
    ],
)
def test_each_window_equals_the_span_read_on_its_own(tmp_path: Path, name: str, options: dict) -> None:
    path = write_video(tmp_path / name, numbered(37), **options)
    found = read(path)
    duration = read_video(path, 1).duration
    assert [(w.start, w.end) for w in found] == spans(duration, 1.0, 0.5) and len(found) > 1
    for window in found:
        clip = read_video(path, 4, window.start, window.end)
        assert window.times == pytest.approx(clip.times)
        np.testing.assert_array_equal(window.frames, prepare(clip.frames, SIZE))


def test_an_animation_has_windows_too_and_any_can_be_the_first(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", numbered(20), [100] * 20)
    found = read(path)
    assert [w.number for w in found] == [0, 1, 2] and found[2].times == pytest.approx((1.1, 1.3, 1.6, 1.8))
    clip = write_video(tmp_path / "a.mp4", numbered(30))
    for film in (path, clip):
        later = read(film, first=2)
        assert [w.number for w in later] == [w.number for w in read(film)][2:]
        np.testing.assert_array_equal(later[0].frames, read(film)[2].frames)
    assert read(clip, first=99) == []


def test_lengths_without_sense_and_files_without_a_film_are_refused(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", numbered(10))
    with pytest.raises(ValueError, match="stride"):
        read(clip, stride=2.0)
    with pytest.raises(BadSample, match="no video stream"):
        read(write_sound(tmp_path / "a.m4a"))


def test_a_film_with_damage_gives_windows_in_order(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "a.ts", numbered(60), fps=10, options={"g": "5"}), 0.4, 0.5)
    with pytest.warns(UserWarning, match=r"a\.ts"):
        found = read(path)
    numbers = [w.number for w in found]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 8


# --- scenes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Clips in which something moves on other grounds, 25 frames a second, and when each but the first begins."""
    lengths = (60, 35, 110, 20, 75)
    items = world.gallery("train", "video", 40, 0, num_frames=max(lengths))
    items = [item for item in items if item.motion != "still"]
    clips = [items[0]]
    for item in items:
        clips += [item] if item.scene.ground != clips[-1].scene.ground and len(clips) < len(lengths) else []
    frames = np.concatenate([clip.frames[:n] for clip, n in zip(clips, lengths, strict=True)])
    path = write_video(tmp_path_factory.mktemp("scenes") / "joined.mp4", frames, fps=25)
    return path, (np.cumsum(lengths)[:-1] / 25).tolist()


def test_cuts_are_where_clips_were_joined(joined: tuple[Path, list[float]], tmp_path: Path) -> None:
    path, expected = joined
    assert find_cuts(path) == pytest.approx(expected, abs=1e-3)
    (clip, *_) = world.gallery("train", "video", 1, 0, num_frames=50)
    assert find_cuts(write_video(tmp_path / "one.mp4", clip.frames, fps=25)) == []
    assert find_cuts(animation(tmp_path / "a.gif", numbered(9), [100] * 9)) == []


def test_a_pan_or_a_flash_is_no_cut() -> None:
    times = [i / 10 for i in range(30)]
    assert cuts_among(times, [0.0, *[0.2] * 29]) == [], "all frames differ alike"
    changes = [0.01] * 30
    changes[10], changes[11], changes[20] = 0.5, 0.5, 0.05
    assert cuts_among(times, changes) in ([], [1.0]), "there and back is one cut at most; a small change is none"
    changes[22] = 0.3
    assert cuts_among(times, changes)[-1] == 2.2
    assert cuts_among([], []) == cuts_among([0.0], [0.0]) == []


def test_no_window_by_scenes_shows_two_and_all_are_covered(joined: tuple[Path, list[float]]) -> None:
    path, cuts = joined
    found = read(path, seconds=2.0, stride=1.0, scenes=True)
    duration = read_video(path, 1).duration
    ends = [0.0, *cuts, duration]
    expected = [(a + s, a + e) for a, b in pairwise(ends) for s, e in spans(b - a, 2.0, 1.0)]
    np.testing.assert_allclose([(w.start, w.end) for w in found], expected, atol=1e-3)
    for window in found:
        clip = read_video(path, 4, window.start, window.end)
        assert window.times == pytest.approx(clip.times)
        np.testing.assert_array_equal(window.frames, prepare(clip.frames, SIZE))
    later = read(path, seconds=2.0, stride=1.0, scenes=True, first=3)
    assert [(w.number, w.start) for w in later] == [(w.number, w.start) for w in found][3:]
