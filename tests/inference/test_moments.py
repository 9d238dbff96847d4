"""Moments: in a film joined from known clips the right one is found, by a stand-in for a model that sees colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnivl.inference.inputs import Loaded
from omnivl.inference.moments import find_moments, peaks, stretched
from omnivl.inference.pipeline import Pipeline
from tests.data.make_media import numbered, write_video
from tests.helpers import picture

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


class SeesColours(Pipeline):
    """Vectors are mean colours: a window over a cut lies between."""

    def embed(self, media: list[Loaded]) -> np.ndarray:
        colours = np.stack([item.frames.mean((0, 1, 2)) for item in media]).astype(np.float32)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)

    def embed_text(self, texts: object) -> np.ndarray:
        colour = np.array(COLOURS[str(texts)], np.float32)
        return colour / np.linalg.norm(colour)


@pytest.fixture(scope="module")
def sees_colours(pipeline: Pipeline) -> Pipeline:
    return SeesColours(pipeline.model, pipeline.tokenizer)


def joined(path: Path, *parts: tuple[str, float]) -> Path:
    frames = [
        np.full((32, 48, 3), COLOURS[name], np.uint8) for name, seconds in parts for _ in range(int(seconds * 10))
    ]
    return write_video(path, frames, fps=10)


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans."""
    shared = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def test_the_span_of_each_clip_is_found(sees_colours: Pipeline, tmp_path: Path) -> None:
    film = joined(tmp_path / "a.mp4", ("red", 9), ("green", 6), ("blue", 12.5))
    for colour, span in (("red", (0, 9)), ("green", (9, 15)), ("blue", (15, 27.5))):
        (best, *_) = find_moments(sees_colours, film, colour)
        assert overlap((best.start, best.end), span) >= 0.8, (colour, best)


def test_a_thing_seen_twice_is_two_moments_and_no_more(sees_colours: Pipeline, tmp_path: Path) -> None:
    film = joined(tmp_path / "a.mp4", ("blue", 8), ("red", 6), ("blue", 8), ("red", 7), ("blue", 5))
    found = sorted((m.start, m.end) for m in find_moments(sees_colours, film, "red", top_k=5))
    assert len(found) == 2
    assert overlap(found[0], (8, 14)) >= 0.7 and overlap(found[1], (22, 29)) >= 0.7
    assert len(find_moments(sees_colours, film, "red", top_k=1)) == 1


def test_a_film_of_one_thing_is_one_moment(sees_colours: Pipeline, tmp_path: Path) -> None:
    for seconds in (2.0, 13.0):
        (found,) = find_moments(sees_colours, joined(tmp_path / "a.mp4", ("red", seconds)), "red")
        assert found.start == 0 and found.end == pytest.approx(seconds)


def test_stretches_average_the_windows_that_show_them() -> None:
    spans = np.array([(0, 4), (2, 6), (4, 7.0)])
    stretches, scores = stretched(spans, np.array([1.0, 3.0, 5.0]), 2.0)
    np.testing.assert_allclose(stretches, [(0, 2), (2, 4), (4, 6), (6, 7)])
    np.testing.assert_allclose(scores, [1, 2, 4, 5])


def test_what_is_left_at_the_end_of_a_film_is_no_stretch_of_its_own() -> None:
    stretches, _ = stretched(np.array([(0, 4), (1, 5), (2, 5.3)]), np.ones(3), 1.0)
    np.testing.assert_allclose(stretches[-2:], [(3, 4), (4, 5.3)])


def test_peaks_reach_down_to_two_thirds_of_their_height() -> None:
    assert peaks(np.array([0, 0, 0.6, 0.7, 1, 0.8, 0.2, 0]), 3) == [(3, 5)], "a shoulder is no moment of its own"
    assert peaks(np.array([0.1, 0, 1, 0, 0, 0.9, 0.9, 0, 0.6, 0, 0]), 9) == [(2, 2), (5, 6)]


def test_what_has_no_moments_is_told(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a picture"):
        find_moments(pipeline, picture(tmp_path / "a.png"), "red")
    film = write_video(tmp_path / "a.mp4", numbered(20))
    with pytest.raises(ValueError, match="empty"):
        find_moments(pipeline, film, " ")
    with pytest.raises(ValueError, match="stride"):
        find_moments(pipeline, film, "red", stride=9)
    shorts: list[dict[str, Any]] = [{"stride": 1e-9}, {"seconds": 1e-6}, {"stride": float("nan")}]
    for short in shorts:
        with pytest.raises(ValueError, match=r"a stride is at least 0\.05 s"):
            find_moments(pipeline, film, "red", **short)
