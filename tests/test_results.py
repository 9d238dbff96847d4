"""results.json: rows merged whatever else is in the file's way, and whose commit a number names."""

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from omnivl import results
from omnivl.cli import main
from omnivl.config import read_json
from omnivl.results import commit, prepare_results, read_rows, write_results
from omnivl.tasks.base import Result
from tests.helpers import mini_folder


def row(metric: str, value: float | None = 0.5) -> Result:
    return Result("task", "data", "test", metric, value, 4, 0.25, {"seed": 0})


def write(path: Path, *metrics: str) -> None:
    write_results(path, [row(metric) for metric in metrics], config={}, seed=0, seconds=1.0)


def test_rows_that_are_written_at_the_same_time_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write(path, "before")

    def slowly(file: Path) -> Any:
        held = read_json(file)
        time.sleep(0.02)
        return held

    monkeypatch.setattr("omnivl.results.read_json", slowly)
    monkeypatch.setattr(results, "commit", lambda: None)
    writers = [threading.Thread(target=write, args=(path, f"m{i}")) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {found["metric"] for found in read_rows(path)} == {"before", *(f"m{i}" for i in range(8))}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_the_card_tells_the_directions_of_a_median_rank_apart(tmp_path: Path) -> None:
    model = mini_folder(tmp_path / "m")
    words = ["--task", "retrieval", "--data", "world:", "--num-items", "4", "--medium", "image", "--k", "0"]
    assert main(["evaluate", str(model), "--device", "cpu", *words]) == 0
    ranks = [row for row in read_rows(model / "results.json") if row["metric"] == "median_rank"]
    assert [row["settings"]["direction"] for row in ranks] == ["t2i", "i2t"]
    card = (model / "README.md").read_text()
    assert "| median_rank t2i |" in card and "| median_rank i2t |" in card


def spoilt(**changes: Any) -> Any:
    held = {
        "task": "a",
        "dataset": "b",
        "split": "c",
        "metric": "d",
        "value": 1,
        "n": 1,
        "chance": None,
        "settings": {},
    }
    return {"results": [{**held, **changes}]}


@pytest.mark.parametrize(
    "held",
    [
        *([3], {}, {"results": 5}, {"results": [3]}, {"results": [{}]}, {"results": {"a": 1}}),
        *(spoilt(settings=None), spoilt(task=None), spoilt(value="high")),
    ],
)
def test_what_is_no_results_file_is_refused_before_anything_is_measured(tmp_path: Path, held: Any) -> None:
    (tmp_path / "r.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"r\.json is not a results file: choose another --out"):
        prepare_results(tmp_path / "r.json")
    (tmp_path / "r.json").write_text(json.dumps(spoilt()))
    prepare_results(tmp_path / "r.json")


def test_a_card_that_cannot_be_read_costs_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mini_folder(tmp_path / "m")
    (model / "README.md").write_text("---\ntags: [a\n---\nmine\n")
    words = ["--task", "classify", "--data", "world:", "--num-items", "4", "--medium", "image", "--device", "cpu"]
    assert main(["evaluate", str(model), *words]) == 1
    out, err = capsys.readouterr()
    assert "top1" in out and "Traceback" not in err
    told = err.splitlines()[-1]
    assert told.startswith("omnivl: ") and "README.md is given no results, its header cannot be read: " in told
    assert read_rows(model / "results.json") and not (model / "results.json.work").exists()
    assert (model / "README.md").read_text() == "---\ntags: [a\n---\nmine\n"


def test_a_package_within_somebodys_repository_names_no_commit_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        named = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("add", ".gitignore")
    git("commit", "-qm", "theirs")
    installed = tmp_path / ".venv" / "omnivl"
    installed.mkdir(parents=True)
    shutil.copy(results.__file__, installed)
    here = commit()
    assert here is None or len(here.split("+")[0]) == 40
    monkeypatch.setattr(results, "__file__", str(installed / "results.py"))
    assert commit() is None
