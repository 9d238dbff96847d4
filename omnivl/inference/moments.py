"""Moments: the spans of one long video that a text describes.

Windows slide over the film; each stretch of a stride takes the mean similarity of the windows that show it, and a
moment reaches from a peak down to two thirds of its height on both sides. The paper (OmniVL, arXiv 2209.07526) has no
such task: this is ours. Axes: W windows, C stretches, E embedding.
"""

import os
from dataclasses import dataclass

import numpy as np

from omnivl.data.media import kind
from omnivl.data.windows import read_windows
from omnivl.inference.forward import BATCH
from omnivl.inference.identity import SHORTEST, check_windows
from omnivl.inference.inputs import Loaded
from omnivl.inference.pipeline import Pipeline

FLOOR = 0.1  # share of a film that is taken for not showing what is looked for
REACH = 2 / 3  # of a peak's height: chosen by `studies/moments.py` on the validation split
ALIKE = 0.05  # cosines that differ by less tell nothing: a film of one thing is one moment


@dataclass(frozen=True)
class Moment:
    """A span in seconds; `score` is its mean cosine."""

    start: float
    end: float
    score: float


def find_moments(
    pipeline: Pipeline,
    film: str | os.PathLike[str],
    text: str,
    *,
    top_k: int = 5,
    seconds: float = 4.0,
    stride: float | None = None,
) -> list[Moment]:
    """The best moments of a video, best first, found in windows of `seconds` every `stride` (None: a quarter of it).

    Raises BadSample; ValueError for an empty text, a picture, or lengths that make no sense.
    """
    if not text.strip():
        raise ValueError("the text is empty: say what to look for")
    if kind(film) == "image":
        raise ValueError(f"{os.fspath(film)} is a picture: moments are of a video")
    step = max(seconds / 4, SHORTEST) if stride is None else stride
    check_windows(seconds, step)
    spans, vectors = embedded(pipeline, film, seconds, step)
    return moments_in(spans, vectors @ pipeline.embed_text(text), step, top_k)


def moments_in(spans: np.ndarray, scores: np.ndarray, stride: float, top_k: int) -> list[Moment]:
    """The best moments, given the windows (W, 2) of a film in seconds and the cosine of each with what is sought."""
    stretches, scores = stretched(spans, scores, stride)
    found = [
        Moment(float(stretches[first, 0]), float(stretches[last, 1]), float(scores[first : last + 1].mean()))
        for first, last in peaks(scores, top_k)
    ]
    return sorted(found, key=lambda moment: (-moment.score, moment.start))


def embedded(
    pipeline: Pipeline, film: str | os.PathLike[str], seconds: float, stride: float
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (W, 2) in seconds, and vectors (W, E), of the windows of a film."""
    spans: list[tuple[float, float]] = []
    vectors: list[np.ndarray] = []
    batch: list[Loaded] = []
    vision = pipeline.config.vision
    size, how = vision.image_size, pipeline.config.interpolation
    for window in read_windows(film, vision.num_frames, seconds=seconds, stride=stride, size=size, interpolation=how):
        spans.append((window.start, window.end))
        batch.append(Loaded(window.frames, window.times))
        if len(batch) == BATCH["video"]:
            vectors.append(pipeline.embed(batch))
            batch = []
    if batch:
        vectors.append(pipeline.embed(batch))
    return np.array(spans), np.concatenate(vectors)


def stretched(spans: np.ndarray, scores: np.ndarray, stride: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (C, 2) of the stretches of a film, and for each the mean score of the windows that show it."""
    length = spans[-1, 1]
    starts = np.arange(max(int(np.floor(length / stride + 0.5)), 1)) * stride
    stretches = np.stack([starts, [*starts[1:], length]], 1)  # what is left at the end is one where it is half of one
    middles = stretches.mean(1)[:, None]
    shows = (spans[:, 0] <= middles) & (middles <= spans[:, 1])  # (C, W)
    return stretches, shows @ scores / shows.sum(1)


def peaks(scores: np.ndarray, top_k: int) -> list[tuple[int, int]]:
    """(first, last) of the runs of stretches around the highest peaks, down to REACH of their height above the
    floor; none whose peak is below that of the highest."""
    floor = min(float(np.quantile(scores, FLOOR)), float(scores.max()) - ALIKE)
    free = np.ones(len(scores), bool)
    found: list[tuple[int, int]] = []
    while free.any() and len(found) < top_k:
        peak = int(np.where(free, scores, -np.inf).argmax())
        if scores[peak] < floor + REACH * (scores.max() - floor):
            break
        level = floor + REACH * (scores[peak] - floor)
        first = last = peak
        while first > 0 and free[first - 1] and scores[first - 1] >= level:
            first -= 1
        while last + 1 < len(scores) and free[last + 1] and scores[last + 1] >= level:
            last += 1
        free[first : last + 1] = False
        found.append((first, last))
    return found
