"""Whether the span of a clip is found in a film joined from known clips of the world, by the clip's caption.

    python -m studies.moments MODEL [--split test] [--films 25] [--seed 0]

A film is CLIPS clips of different captions, each SHORTEST to LONGEST seconds, joined by hard cuts and encoded as H.264;
every clip's caption is one query, and the best span found is compared with the clip's. Goal: an overlap (intersection
over union) of at least 0.5 for nine queries in ten. What is changed in `omnivl.inference.moments` is tried on the
validation split. The numbers of the test split go to docs/results/moments.json.
"""

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np

import omnivl
from omnivl.data import world
from omnivl.inference.moments import embedded, moments_in
from omnivl.inference.pipeline import Pipeline
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[1]
CLIPS, FPS = 8, 8  # of a film; frames a second
SHORTEST, LONGEST = 4.0, 10.0  # seconds of a clip
WINDOW, STRIDE = 4.0, 1.0  # seconds: the command line's
GOAL = {"overlap": 0.5, "share": 0.9}


def write_film(path: Path, frames: np.ndarray) -> None:
    """(T, H, W, 3) uint8."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def film(path: Path, clips: list[world.WorldItem], rng: np.random.Generator) -> np.ndarray:
    """Join the clips, each played faster or slower; gives their spans (CLIPS, 2) in seconds."""
    counts = (rng.uniform(SHORTEST, LONGEST, len(clips)) * FPS).round().astype(int)
    played = [
        clip.frames[np.linspace(0, len(clip.frames) - 1, n).round().astype(int)]
        for clip, n in zip(clips, counts, strict=True)
    ]
    write_film(path, np.concatenate(played))
    ends = counts.cumsum() / FPS
    return np.stack([ends - counts / FPS, ends], 1)


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans."""
    shared = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def measure(pipeline: Pipeline, split: str, films: int, seed: int) -> list[float]:
    """The overlap of the best span with the right one, for each clip of each film."""
    found: list[float] = []
    rng = np.random.default_rng(seed)
    longest = int(LONGEST * FPS)
    items = world.gallery(split, "video", films * CLIPS, seed, num_frames=longest)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        for first in range(0, len(items), CLIPS):
            clips = items[first : first + CLIPS]
            right = film(path, clips, rng)
            spans, vectors = embedded(pipeline, path, WINDOW, STRIDE)
            for clip, span in zip(clips, right.tolist(), strict=True):
                (best, *_) = moments_in(spans, vectors @ pipeline.embed_text(clip.caption), STRIDE, 1)
                found.append(overlap((best.start, best.end), span))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--films", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    overlaps = np.array(measure(omnivl.load(options.model, device="cpu"), options.split, options.films, options.seed))
    row: dict[str, Any] = {
        "split": options.split,
        "films": options.films,
        "queries": len(overlaps),
        "share_at_0.5": round(float((overlaps >= GOAL["overlap"]).mean()), 4),
        "elsewhere": round(float((overlaps == 0).mean()), 4),
        "mean_overlap": round(float(overlaps.mean()), 4),
    }
    print(row)
    if options.split == "test":
        write_json(
            ROOT / "docs" / "results" / "moments.json",
            {
                "command": f"python -m studies.moments MODEL --films {options.films} --seed {options.seed}",
                "model": "make demo, seed 0",
                "omnivl": version("omnivl"),
                "commit": commit(),
                "machine": machine(),
                "seed": options.seed,
                "goals": GOAL,
                "settings": {"clips": CLIPS, "seconds_a_clip": [SHORTEST, LONGEST], "window": WINDOW, "stride": STRIDE},
                "results": [row],
            },
        )


if __name__ == "__main__":
    main()
