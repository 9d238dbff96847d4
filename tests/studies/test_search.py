"""The studies of searching: the graph finds what is near among embeddings of pictures, and films are what they say."""

from pathlib import Path

import numpy as np
import pytest

import omnivl
from omnivl.data import world
from omnivl.data.media import read_video
from omnivl.inference import search
from studies import moments, recall
from tests.helpers import mini_folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> omnivl.Pipeline:
    return omnivl.load(mini_folder(tmp_path_factory.mktemp("studies") / "mini"), device="cpu")


def test_the_graph_finds_the_nearest_pictures(
    pipeline: omnivl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW", 0)
    vectors = recall.embeddings(pipeline, 1500, 0)
    queries = vectors[::30].astype(np.float32)
    for rows in (np.arange(1500), np.arange(0, 1500, 3)):
        assert recall.recall(vectors, queries, rows, tmp_path) >= 0.97


def test_a_joined_film_is_as_long_as_its_clips_and_each_is_sought(pipeline: omnivl.Pipeline, tmp_path: Path) -> None:
    clips = world.gallery("validation", "video", 8, 0, num_frames=80)
    spans = moments.film(tmp_path / "film.mp4", clips, np.random.default_rng(0))
    assert spans[0, 0] == 0 and (spans[1:, 0] == spans[:-1, 1]).all()
    lengths = spans[:, 1] - spans[:, 0]
    assert (lengths >= moments.SHORTEST).all() and (lengths <= moments.LONGEST).all()
    assert read_video(tmp_path / "film.mp4", 1).duration == pytest.approx(spans[-1, 1], abs=0.01)
    assert len(moments.measure(pipeline, "validation", 1, 0)) == moments.CLIPS
