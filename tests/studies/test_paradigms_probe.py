"""The linear probe of the study: what it chooses beside fits that know nothing of each other, and which models it
takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from studies.paradigms import probe
from studies.paradigms.numbers import Key, Measure, Study
from studies.paradigms.plan import TINY
from tests.helpers import mini_folder

FEW = probe.Scenes({"image": 24, "video": 24}, {"image": 16, "video": 16})


def clouds(count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    centres = np.random.default_rng(9).normal(size=(4, 12))
    return torch.from_numpy(centres[labels] + 1.5 * rng.normal(size=(count, 12))), [
        f"class {label}" for label in labels
    ]


def test_the_strength_is_that_of_single_fits() -> None:
    train, held, test = clouds(150, 0), clouds(100, 1), clouds(400, 2)
    fitted, strength = probe.learn(train, held)
    right = {}
    for each in probe.STRENGTHS:
        alone = LogisticRegression(C=each, max_iter=5000, tol=1e-6).fit(train[0].numpy(), train[1])
        right[each] = alone.score(held[0].numpy(), held[1])
    assert right[strength] == pytest.approx(max(right.values()), abs=0.011)
    both = torch.cat([train[0], held[0]]).numpy()
    alone = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(both, [*train[1], *held[1]])
    assert (fitted.predict(test[0].numpy()) == alone.predict(test[0].numpy())).mean() > 0.99


def test_scenes_that_choose_and_that_are_measured_are_others() -> None:
    keys = [set(probe.scenes(split, "video", 8, 32).keys) for split in ("train", "validation")]
    texts = [{own[0] for own in probe.scenes(split, "video", 30, 32).captions} for split in ("train", "validation")]
    assert keys[0].isdisjoint(keys[1]) and texts[0].isdisjoint(texts[1])
    assert not any("test" in key for key in keys[0] | keys[1])


def test_models_of_finished_runs_are_probed_once_and_stand_beside_their_runs(tmp_path: Path) -> None:
    one, two, results = tmp_path / "one", tmp_path / "two", tmp_path / "results"
    mini_folder(one / "decoupled_joint_seed0" / "model")
    mini_folder(two / "video_only_seed0" / "model", 1)
    mini_folder(two / "joint_seed0" / "model")
    (two / "joint_seed0" / "checkpoints").mkdir()  # not over yet
    words = ["--runs", str(one), str(two), "--results", str(results)]
    assert probe.main(words, TINY, FEW) == 0
    files = {path.stem: path for path in (results / "probe").glob("*.json")}
    assert set(files) == {"decoupled_joint_seed0", "video_only_seed0"}
    told = json.loads(files["video_only_seed0"].read_text())
    found = {(row["medium"], row["view"]) for row in told["results"]}
    assert found == {("image", "whole clips"), *(("video", v) for v in ("whole clips", "one frame", "shuffled frames"))}
    assert all(row["n"] == TINY.items and row["strength"] in probe.STRENGTHS for row in told["results"])
    before = files["video_only_seed0"].stat().st_mtime_ns
    assert probe.main(words, TINY, FEW) == 0 and files["video_only_seed0"].stat().st_mtime_ns == before
    measure = Measure("m", (Key("probe", "top1", "image"),))
    assert Study(results).seeds("video_only") == [], "without its run it is not shown"
    run = {"name": "video_only", "seed": 0, "results": [], "cpu_seconds": {"pretraining": 2.0}}
    (results / "video_only_seed0.json").write_text(json.dumps(run))
    study = Study(results)
    values = study.values("video_only", [0], measure)
    assert values is not None and values.shape == (1, TINY.items)
    assert study.cpu_seconds() == 2.0 + sum(told["cpu_seconds"].values())
