"""The frames of clips out of video files, against PyAV's two plain ways, and against decord and torchcodec where they
are installed and load.

    python benchmarks/clip_frames.py [--tiny] [--pairs N]

Ours finds out when each frame is shown, chooses by time, and gives the frames upright as RGB. The peers are told which
frames are wanted, so they have less to do: PyAV seeks to each of them, or decodes straight through to the last;
decord and torchcodec have calls of their own for it. Three kinds of reading: a short clip at a glance, a long film of
which a few frames are wanted (a keyframe every 250), and a dense window. The files are made here, and lie in the page
cache; seconds are those of the process, all its threads together. Goal: within 5% of the better of PyAV's two ways, a
ratio of 0.95 against each.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from benchmarks.loader import film
from omnivl.data.media import read_clips
from omnivl.data.sampling import Choice, dense, segments

RATE = 25  # frames a second, as `film` makes them
Way = Callable[[Path, Sequence[float]], np.ndarray]  # the frames (T, H, W, 3) uint8 first shown at these seconds


@dataclass(frozen=True)
class Case:
    name: str
    size: tuple[int, int]  # width, height
    length: int  # frames of the file
    keyframes: int  # one in so many
    told: str  # what is read
    choice: Choice
    repeats: int  # readings of one measurement


SMALL = (
    Case("a short clip", (340, 256), 75, 30, "8 frames over all", segments(8)[0], 8),
    Case("a long film", (640, 360), 3000, 250, "8 frames over all", segments(8)[0], 1),
    Case("a dense window", (340, 256), 250, 30, "32 frames, 0.08 s apart", dense(32, 0.08)[0], 4),
)
TINY = (
    Case("a short clip", (64, 48), 20, 8, "4 frames over all", segments(4)[0], 1),
    Case("a dense window", (64, 48), 40, 8, "6 frames, 0.08 s apart", dense(6, 0.08)[0], 1),
)


def seeking(path: Path, times: Sequence[float]) -> np.ndarray:
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        for moment in times:
            wanted = round(moment / stream.time_base)
            container.seek(wanted, stream=stream)
            found = next(frame for frame in container.decode(stream) if frame.pts is not None and frame.pts >= wanted)
            frames.append(found.to_ndarray(format="rgb24"))
    return np.stack(frames)


def straight_through(path: Path, times: Sequence[float]) -> np.ndarray:
    frames: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        wanted = [round(moment / stream.time_base) for moment in times]
        for frame in container.decode(stream):
            if frame.pts in wanted:
                frames[frame.pts] = frame.to_ndarray(format="rgb24")
            if frame.pts == max(wanted):
                break
    return np.stack([frames[stamp] for stamp in wanted])


def by_decord() -> Way:
    import decord

    return lambda path, times: (
        decord.VideoReader(str(path)).get_batch([round(moment * RATE) for moment in times]).asnumpy()
    )


def by_torchcodec() -> Way:
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, times: Sequence[float]) -> np.ndarray:
        decoder = VideoDecoder(str(path), dimension_order="NHWC")
        return decoder.get_frames_at([round(moment * RATE) for moment in times]).data.numpy()

    return read


def peers() -> dict[str, Way]:
    """PyAV's two ways, and what else loads here; what does not is told."""
    found: dict[str, Way] = {"PyAV, a seek for each frame": seeking, "PyAV, straight through": straight_through}
    for name, make in (("decord", by_decord), ("torchcodec", by_torchcodec)):
        try:
            found[name] = make()
        except (ImportError, OSError, RuntimeError) as error:  # the last two where its libraries do not load
            print(f"{name} is left out: {str(error).strip().splitlines()[0]}")
    return found


def measure(tiny: bool, pairs: int) -> list[Row]:
    rows, ways = [], peers()
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(TINY if tiny else SMALL):
            path = Path(folder) / f"{number}.mp4"
            film(path, np.random.default_rng(0), *case.size, case.length, case.keyframes)
            rows += [one(case, path, name, way, pairs) for name, way in ways.items()]
    return rows


def one(case: Case, path: Path, name: str, way: Way, pairs: int) -> Row:
    (clip,) = read_clips(path, [case.choice])
    times = take_turns(
        lambda: [read_clips(path, [case.choice]) for _ in range(case.repeats)],
        lambda: [way(path, clip.times) for _ in range(case.repeats)],
        pairs,
        time.process_time,
    )
    settings = {
        "us": "`read_clips`",
        "them": name,
        "pixels": "x".join(map(str, case.size)),
        "length": case.length,
        "keyframes": f"one in {case.keyframes}",
        "read": case.told,
        "readings": case.repeats,
        "clock": "CPU seconds",
    }
    if name.startswith("PyAV"):
        settings["goal"] = 0.95
    return against(f"frames of {case.name}, {name}", times, settings)


if __name__ == "__main__":
    command(__doc__, measure, pairs=9)
