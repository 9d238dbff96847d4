"""Choices of frames by time: against brute force over a timeline, and what peers' rules come to."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from omnivl.data import containers
from omnivl.data.media import BadSample, Clip, dense, read_clips, read_video, segments
from omnivl.data.sampling import Choice, Timeline
from omnivl.data.transforms import spatial_crops
from tests.data.make_media import animation, numbered, numbers, write_video

STEADY = Timeline("steady", [i / 25 for i in range(100)], 4.0)  # 25 a second
SLOW = Timeline("slow", [*(i / 10 for i in range(10)), *range(1, 11)], 11.0)  # ten in a second, then one a second


def shown(timeline: Timeline, moment: float) -> int:
    """The frame shown at a moment, by looking at them all."""
    return max(i for i, time in enumerate(timeline.times) if time <= moment + 1e-6)


@pytest.mark.parametrize("timeline", [STEADY, SLOW], ids=lambda timeline: timeline.name)
@pytest.mark.parametrize(("start", "end"), [(None, None), (0.3, 2.7), (3.9, None), (None, 0.05), (1.0, 99.0)])
@pytest.mark.parametrize("num_frames", [1, 4, 8, 33])
def test_segments_are_the_frames_at_the_middles_of_equal_spans(
    timeline: Timeline, start: float | None, end: float | None, num_frames: int
) -> None:
    begin, stop = start or 0.0, min(end or timeline.duration, timeline.duration)
    (choose,) = segments(num_frames, start=start, end=end)
    length = (stop - begin) / num_frames
    assert choose(timeline) == [shown(timeline, begin + length * (i + 0.5)) for i in range(num_frames)]


def test_in_training_a_frame_is_drawn_at_random_within_each_span() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([choose(STEADY) for choose in segments(4, 500, rng)])
    for span in range(4):
        own = drawn[:, span]
        assert set(own) == set(range(25 * span, 25 * (span + 1))), "every frame of a span can be drawn, and no other"
    assert np.abs(drawn.mean(0) - [12, 37, 62, 87]).max() < 1.5
    alone = [choose(SLOW)[0] for choose in segments(1, 2000, rng)]
    assert np.mean(np.array(alone) >= 10) == pytest.approx(10 / 11, abs=0.03), "evenly in time, not in frame numbers"


def test_several_clips_of_a_test_take_the_middles_of_equal_parts_of_every_span() -> None:
    """Two clips of four frames over eight spans' middles, as TSN's two test clips are interleaved."""
    (eight,) = segments(8)
    even, odd = segments(4, 2)
    assert even(STEADY) == eight(STEADY)[0::2] and odd(STEADY) == eight(STEADY)[1::2]


@pytest.mark.parametrize("timeline", [STEADY, SLOW], ids=lambda timeline: timeline.name)
@pytest.mark.parametrize(("start", "end"), [(None, None), (0.5, 3.5)])
def test_dense_windows_by_seconds_lie_evenly_within_the_span(
    timeline: Timeline, start: float | None, end: float | None
) -> None:
    begin, stop = start or 0.0, end or timeline.duration
    room = stop - begin - 4 * 0.2
    for k, choose in enumerate(dense(4, 0.2, 3, start=start, end=end)):
        first = begin + room * (k + 0.5) / 3
        assert choose(timeline) == [shown(timeline, first + 0.2 * (i + 0.5)) for i in range(4)]


def test_dense_windows_by_frames_are_a_stride_apart() -> None:
    (middle,) = dense(8, 4, unit="frames")
    assert middle(STEADY) == [36 + 4 * i for i in range(8)]  # 29 of 100 frames: 36 or 35 on either side
    views = [choose(STEADY) for choose in dense(8, 4, 4, unit="frames")]
    assert [view[0] for view in views] == [9, 27, 45, 63] and {n for v in views for n in np.diff(v)} == {4}
    inside = dense(4, 2, unit="frames", start=1.0, end=2.0)[0](STEADY)
    assert inside == [34, 36, 38, 40] and min(inside) >= 25 and max(inside) < 50
    exact = dense(5, 5, unit="frames", start=0.0, end=21 / 25)[0](STEADY)
    assert exact == [0, 5, 10, 15, 20], "a window that just fits"


def test_in_training_a_dense_window_can_lie_anywhere_and_never_leaves_the_span() -> None:
    rng = np.random.default_rng(0)
    by_frames = np.array([choose(STEADY) for choose in dense(8, 4, 1000, rng, unit="frames", start=1.0)])
    assert set(by_frames[:, 0]) == set(range(25, 72)) and by_frames[:, -1].max() == 99
    by_seconds = np.array([choose(STEADY) for choose in dense(8, 0.16, 1000, rng, start=1.0)])
    assert set(by_seconds[:, 0]) == set(range(27, 70)), "the frame shown at the middle of each stride"
    assert by_seconds.max() == 97 and (np.abs(np.diff(by_seconds) - 4) <= 1).all()


@pytest.mark.parametrize(
    "choices",
    [
        lambda: dense(8, 1.0),
        lambda: dense(8, 25, unit="frames"),
        lambda: dense(8, 25, 3, np.random.default_rng(0), unit="frames"),
        lambda: segments(8),
    ],
)
def test_a_video_too_short_for_the_window_gives_all_of_it_in_order(choices: Callable[[], list[Choice]]) -> None:
    three = Timeline("three", [0.0, 0.1, 0.2], 0.3)
    for choose in choices():
        assert choose(three) == [0, 0, 0, 1, 1, 2, 2, 2]
        assert choose(Timeline("one", [0.0], 0.04)) == [0] * 8
        assert choose(Timeline("still", [0.0], 0.0)) == [0] * 8


def test_six_frames_of_three_are_each_twice() -> None:
    for (choose,) in (segments(6), dense(6, 1.0), dense(6, 9, unit="frames")):
        assert choose(Timeline("three", [0.0, 0.1, 0.2], 0.3)) == [0, 0, 1, 1, 2, 2]


def test_the_same_generator_gives_the_same_frames_and_a_choice_is_pure() -> None:
    for make in (segments, lambda n, k, rng: dense(n, 0.1, k, rng)):
        one, same, other = (make(6, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert [c(STEADY) for c in one] == [c(STEADY) for c in one] == [c(STEADY) for c in same]
        assert [c(STEADY) for c in one] != [c(STEADY) for c in other]
        assert len({tuple(choose(STEADY)) for choose in one}) > 1, "each clip of a video draws its own"


def test_what_cannot_be_chosen_is_refused_in_one_sentence() -> None:
    for wrong, told in (
        (lambda: segments(0), "num_frames must be 1 or more, got 0"),
        (lambda: segments(4, 0), "num_clips must be 1 or more, got 0"),
        (lambda: dense(4, 0.0), "stride must be above 0 seconds"),
        (lambda: dense(4, float("nan")), "stride must be above 0 seconds"),
        (lambda: dense(4, 1.5, unit="frames"), "stride must be a whole number of frames"),
        (lambda: dense(4, 1.0, unit="minutes"), "the unit of a stride is seconds or frames, got 'minutes'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=told):
            wrong()
    for start, end, told in (
        (-1.0, None, "start is -1 s, which must be 0 or more"),
        (float("nan"), None, "start is nan s"),
        (2.0, 2.0, "end is 2 s, which must be later than start"),
        (None, 0.0, "end is 0 s"),
        (None, float("nan"), "end is nan s"),
        (4.0, None, "start is 4 s, past the end of the video"),
        (float("inf"), None, "start is inf s, past the end"),
    ):
        for (choose,) in (segments(2, start=start, end=end), dense(2, 0.1, start=start, end=end)):
            with pytest.raises(BadSample, match=f"steady: {told}"):
                choose(STEADY)


# --- clips of files --------------------------------------------------------------------------------------------------


def same(one: Clip, other: Clip) -> bool:
    return np.array_equal(one.frames, other.frames) and (one.times, one.duration) == (other.times, other.duration)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.h264", "a.gif", "frames"])
def test_several_clips_are_read_from_any_kind_of_video_as_each_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "frames":
        path.mkdir()
        for index, frame in enumerate(numbered(40)):
            (path / f"{index}.png").write_bytes(animation(tmp_path / "one.png", frame[None], [1]).read_bytes())
    elif name == "a.gif":
        animation(path, numbered(40), [40] * 40)
    else:
        write_video(path, numbered(40), fps=25, options={"g": "10", "bf": "2"})
    choices = [*segments(4, 2), *dense(4, 0.08, 3), *dense(4, 3, unit="frames", start=0.8)]
    clips = read_clips(path, choices)
    assert same(read_clips(path, segments(8))[0], read_video(path))
    assert all(same(clip, read_clips(path, [choose])[0]) for clip, choose in zip(clips, choices, strict=True))
    assert [numbers(clip.frames) for clip in clips[:2]] == [[2, 12, 22, 32], [7, 17, 27, 37]]
    assert all(numbers(clip.frames) == [round(time * 25) for time in clip.times] for clip in clips)


def test_several_clips_cost_one_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that come out of the decoder, counted: twelve views of a video cost what its last frame costs."""
    path = write_video(tmp_path / "a.ts", numbered(60), fps=25)
    opened, decoded, plain, frames = 0, 0, av.open, containers.Film.frames

    def counting(*arguments: object, **options: object) -> object:
        nonlocal opened
        opened += 1
        return plain(*arguments, **options)  # type: ignore[call-overload]

    def counted(film: containers.Film) -> object:
        nonlocal decoded
        for frame in frames(film):
            decoded += 1
            yield frame

    monkeypatch.setattr(av, "open", counting)
    monkeypatch.setattr(containers.Film, "frames", counted)
    read_clips(path, segments(8, 4))
    assert decoded <= 60 and opened <= 2
    once, opened, decoded = decoded, 0, 0
    read_clips(path, segments(8, 1, end=2.4))
    assert once - decoded <= 8


def test_four_clips_by_three_crops_are_twelve_views_of_one_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(50, 48, 80), fps=25)
    clips = read_clips(path, dense(8, 0.08, 4))
    views = np.stack([crop for clip in clips for crop in spatial_crops(clip.frames, 32)])
    assert views.shape == (12, 8, 32, 32, 3)
    assert len({view.tobytes() for view in views}) == 12
