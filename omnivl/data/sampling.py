"""Which frames of a video are looked at: choices by time, as plain functions.

A `Choice` takes the `Timeline` of a video and names its frames by number, in order; where there are fewer than asked,
frames are repeated in order (0, 0, 1, 1, 2, 2). Two ways are common:

- `segments`: [start, end] in as many equal spans as frames, a frame from each: the whole video at a glance (TSN, Wang
  et al., arXiv 1608.00859). One clip at the middle of each span is what `read_video` gives.
- `dense`: frames a fixed stride apart, a window somewhere in [start, end] (as of I3D, SlowFast and TimeSformer).

With a generator the place within each span, or of the window, is random (training); without one it is the middle, or
for several clips of one video the middles of as many equal parts (testing). Random numbers are drawn when the choice is
made, never when it is used. All choices of one video go into one `read_clips`, which decodes it once.
This room knows no file and no pixels.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omnivl.data.images import bad


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown, in seconds from the first shown frame."""

    name: str  # of the file, for messages
    times: Sequence[float] | np.ndarray  # of each frame, ascending, the first 0
    duration: float
    tick: float = 0.0  # precision of the times

    def span(self, start: float | None, end: float | None) -> tuple[float, float]:
        """[start, end] within the video; none: its start, its end. Raises BadSample where it is empty or outside."""
        begin, stop = start or 0.0, self.duration if end is None else end
        if not begin >= 0:
            raise bad(self.name, f"start is {begin:g} s, which must be 0 or more")
        if end is not None and not end > begin:
            raise bad(self.name, f"end is {end:g} s, which must be later than start ({begin:g} s)")
        if begin > 0 and begin >= self.duration:
            raise bad(self.name, f"start is {begin:g} s, past the end of the video ({self.duration:.3f} s)")
        return begin, min(stop, self.duration)

    def shown_at(self, moment: float) -> int:
        """The frame shown at `moment`; one that begins there but for rounding is the one."""
        return max(bisect.bisect_right(self.times, moment + self.slack) - 1, 0)

    def shown_before(self, moment: float) -> int:
        """The last frame that begins before `moment`."""
        return max(bisect.bisect_left(self.times, moment - self.slack) - 1, 0)

    @property
    def slack(self) -> float:
        return min(self.tick, 0.001) + 1e-6


Choice = Callable[[Timeline], list[int]]


def segments(
    num_frames: int,
    num_clips: int = 1,
    rng: np.random.Generator | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
) -> list[Choice]:
    """Clips of a frame from each of `num_frames` equal spans of [start, end] (seconds; none: all of the video).

    With `rng` at a random time within each span; else clip k of K at (k + 1/2) / K of every span, one at the middle.
    """
    at_least_one(num_frames=num_frames, num_clips=num_clips)
    places = middles(num_clips)[:, None].repeat(num_frames, 1) if rng is None else rng.random((num_clips, num_frames))

    def choice(places: np.ndarray) -> Choice:
        def choose(timeline: Timeline) -> list[int]:
            begin, stop = timeline.span(start, end)
            moments = begin + (stop - begin) * (np.arange(num_frames) + places) / num_frames
            return [timeline.shown_at(moment) for moment in moments]

        return choose

    return [choice(own) for own in places]


def dense(
    num_frames: int,
    stride: float,
    num_clips: int = 1,
    rng: np.random.Generator | None = None,
    *,
    unit: Literal["seconds", "frames"] = "seconds",
    start: float | None = None,
    end: float | None = None,
) -> list[Choice]:
    """Clips of `num_frames` frames, `stride` seconds (or frames) apart, from [start, end] (seconds; none: all of it).

    With `rng` each clip lies at random; else they lie in the middles of `num_clips` equal parts of the room there is,
    one in the middle of the video. A video too short for the window gives all of it, in equal steps.
    """
    at_least_one(num_frames=num_frames, num_clips=num_clips)
    if unit not in ("seconds", "frames"):
        raise ValueError(f"the unit of a stride is seconds or frames, got {unit!r}")
    if not stride > 0 or (unit == "frames" and stride != int(stride)):
        raise ValueError(f"stride must be {'a whole number of frames' if unit == 'frames' else 'above 0 seconds'}")

    def choice(place: float) -> Choice:
        def by_seconds(timeline: Timeline) -> list[int]:
            begin, stop = timeline.span(start, end)
            step = min(stride, (stop - begin) / num_frames)
            first = begin + (stop - begin - step * num_frames) * place
            return [timeline.shown_at(moment) for moment in first + step * (np.arange(num_frames) + 0.5)]

        def by_frames(timeline: Timeline) -> list[int]:
            begin, stop = timeline.span(start, end)
            first = timeline.shown_at(begin)
            count = max(timeline.shown_before(stop) - first, 0) + 1
            room = count - ((num_frames - 1) * int(stride) + 1)
            if room < 0:
                return [first + (2 * i + 1) * count // (2 * num_frames) for i in range(num_frames)]
            first += int(place * (room + 1))
            return [first + i * int(stride) for i in range(num_frames)]

        return by_seconds if unit == "seconds" else by_frames

    return [choice(place) for place in (middles(num_clips) if rng is None else rng.random(num_clips))]


def middles(count: int) -> np.ndarray:
    """The middles of `count` equal parts of [0, 1]."""
    return (np.arange(count) + 0.5) / count


def at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")
