"""The study of all downstream tasks: floors by hand, all runs and their resuming, tables that hold what was found."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnivl.config import read_json
from omnivl.data import galleries
from omnivl.data.sample import Gallery, Question
from studies.tasks import benches, floors, run
from studies.tasks.tables import table
from tests.helpers import mini_folder

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "studies" / "tasks"
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "white": (255, 255, 255)}


def painted(*items: tuple[str, str, str]) -> Gallery:
    """(colour, caption, label); a colour that ends in "ish" is a little off."""
    frames = []
    for colour, _, _ in items:
        pixel = np.array(COLOURS[colour.removesuffix("ish")], np.int64)
        frames.append(np.full((1, 32, 32, 3), np.abs(pixel - 20 * colour.endswith("ish")), np.uint8))
    asked: list[tuple[Question, ...]] = [
        (Question("which?", ((label, 1.0),), str(i), "which"),) for i, (_, _, label) in enumerate(items)
    ]
    return Gallery(
        "painted",
        "test",
        "image",
        keys=[str(i) for i in range(len(items))],
        captions=[(caption,) for _, caption, _ in items],
        labels=[label for _, _, label in items],
        read=lambda index: frames[index],
        questions=asked,
    )


def test_floors_copy_from_the_nearest_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnivl.metrics.captions.missing", lambda: "it needs Java")
    known = floors.learn([painted(("red", "a red thing", "warm")), painted(("blue", "a blue sky", "cold"))])
    queries = painted(
        ("redish", "a red thing", "warm"),  # copied exactly
        ("blueish", "a blue sea", "cold"),  # 2 of 3 words
        ("redish", "an odd blot", "cold"),  # no word, another label
    )
    found = floors.measure(known, queries, ("retrieval", "classify", "caption", "answer"), 1)
    values = {(row.task, row.metric): row.value for row in found if row.value is not None}
    assert values["classify", "top1"] == pytest.approx(2 / 3)
    assert values["classify", "mean_per_class"] == pytest.approx((1 + 1 / 2) / 2)
    assert values["caption", "exact"] == pytest.approx(1 / 3)
    assert values["caption", "token_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert values["answer", "top1"] == pytest.approx(2 / 3)
    # pictures to texts: "a red thing" is first of the first, "a blue sea" of the second, "a red thing" of the third
    assert values["retrieval", "i2t_r1"] == pytest.approx(2 / 3)
    # texts to pictures: the first is level with the third, which copied the same; nobody shares a word with the third
    assert values["retrieval", "t2i_r1"] == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)


def test_the_nearest_is_one_that_is_asked_the_same() -> None:
    train = painted(("red", "a red thing", "warm"), ("blue", "a blue sky", "cold"))
    train.questions[0] = ()
    [result, _] = floors.measure(floors.learn([train]), painted(("red", "a red thing", "cold")), ("answer",), 1)
    assert result.value == 1.0


# --- everything runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("omnivl.metrics.captions.missing", lambda: "it needs Java")
    monkeypatch.setattr("omnivl.tasks.probe.ITERATIONS", 2)
    for name, few in (("world_siblings", 1), ("world_reverse", 4)):
        made = getattr(galleries, name)
        monkeypatch.setattr(
            f"omnivl.evaluation.{name}", lambda split, _, seed, ask, made=made, few=few: made(split, few, seed, ask)
        )
    monkeypatch.chdir(ROOT)  # recipes are named by their file
    return mini_folder(tmp_path / "base")


def study(bench: str, base: Path, out: Path) -> dict[str, Any]:
    words = [bench, "--tiny", "--seeds", "0", "--base", str(base), "--out", str(out / "runs")]
    assert run.main([*words, "--results", str(out / "found.json")]) == 0
    found: dict[str, Any] = read_json(out / "found.json")
    return found


def test_the_world_is_measured_whole_and_what_is_missing_alone_is_done_again(base: Path, tmp_path: Path) -> None:
    found = study("world", base, tmp_path)
    rows = found["results"]
    assert {row["task"] for row in rows} == {"retrieval", "classify", "probe", "caption", "answer", "motion"}
    for row in rows:
        assert len(row["values"]) == 1 and row["mean"] == pytest.approx(row["values"][0], abs=1e-4)
        assert (row["floor"] is None) == (row["task"] == "motion")
        assert len(row["one_frame"]) == (row["medium"] == "video" and row.get("mode") != "generate")
    assert set(found["training"]) == set(benches.World.recipes)
    missing = tmp_path / "runs/seed0/measured-test/classification.json"
    missing.unlink()
    for path in (tmp_path / "runs").rglob("*.json"):
        os.utime(path, (1, 1))
    assert study("world", base, tmp_path)["results"] == rows
    assert [path for path in (tmp_path / "runs").rglob("*.json") if path.stat().st_mtime > 1] == [missing]


def make_mini(folder: Path) -> None:
    """A few drawings in two groups, and clips of two actions, in every manifest that the study reads."""
    rng = np.random.default_rng(0)
    for name in ("emoji_train", "emoji_unseen_hand", "emoji_unseen_concepts", "flare_train", "flare_test"):
        rows = []
        for number in range(6):
            path = folder / f"{name}-{number}.webp"
            frames = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(4)]
            moves = name.startswith("flare")
            frames[0].save(path, save_all=moves, append_images=frames[1:] if moves else [])
            label = ("running", "standing") if moves else ("smiley", "object")
            item = {"media": path.name, "id": path.stem}
            rows.append({**item, "caption": f"a {label[number % 2]} thing {number // 2}", "label": label[number % 2]})
            rows.append({"media": path.name, "question": "what is it?", "answer": label[number % 2]})
            if name != "emoji_train":
                rows.append({"media": path.name, "question": "who is it?", "answer": name})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_mini_benchmark_is_measured_whole(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    make_mini(tmp_path / "data")
    monkeypatch.setattr(benches, "DATA", str(tmp_path / "data"))
    for name in ("DRAWINGS", "CLIPS"):
        kind = {"DRAWINGS": "emoji", "CLIPS": "flare"}[name]
        monkeypatch.setattr(f"studies.mini.recipes.{name}", (f"manifest:{tmp_path}/data/{kind}_train.jsonl",))
    rows = study("mini", base, tmp_path)["results"]
    manifests = {"mini/emoji_unseen_hand", "mini/emoji_unseen_concepts", "mini/flare_test"}
    assert {row["dataset"] for row in rows} == manifests
    for name in manifests:
        own = [row for row in rows if row["dataset"] == name]
        assert {row["task"] for row in own} == {"retrieval", "classify", "probe", "caption", "answer"}
        assert all(row["floor"] is not None for row in own)
        # nobody in training is asked who it is and answers as these do
        assert {row["answer_type"] for row in own if row["task"] == "answer"} == {"what is it"}
    single = tmp_path / "runs/data/flare_test-single.jsonl"
    captions = [json.loads(line)["caption"] for line in single.read_text().splitlines()]
    assert len(captions) == len(set(captions)) > 1


# --- what the page says ----------------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_results_files() -> None:
    page = (STUDY / "README.md").read_text()
    measured = sorted((ROOT / "docs" / "results").glob("tasks_*.json"))
    assert measured
    for path in measured:
        assert table(read_json(path)) in page, path.name
