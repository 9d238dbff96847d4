"""Evaluation as a whole: the same numbers from any batch and any number of processes, and bad input in one sentence."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from omnivl import distributed
from omnivl.cli import main
from omnivl.config import EvaluationConfig
from omnivl.data.annotations import FORMATS, Annotations, Format, Item
from omnivl.data.sample import Question
from omnivl.evaluation import evaluate
from omnivl.metrics import captions
from omnivl.model.folder import load_folder
from omnivl.tasks.base import Result
from tests.helpers import mini_folder, picture

TASKS = ("retrieval", "classify", "probe", "caption", "answer")
WORDS = ("a red star", "a blue ring", "green", "crosses", "a grey ground")
PLACES = ("left", "right", "up", "down", "big", "small", "pink", "white", "black", "navy", "cyan", "grows", "turns")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_folder(tmp_path_factory.mktemp("model") / "m")


def read_made_up(path: Path, root: Path | None, split: str, on_error: str = "raise") -> Annotations:
    """13 test pictures, of which one is broken, 12 training pictures and 5 of validation; several captions and
    questions each."""
    count = {"train": 12, "validation": 5, "test": 13}[split.rstrip("2")]  # test2 is a fold of its own
    items = []
    for i in range(count):
        media = path / f"{split}{i}.png"
        if not media.exists() and (split, i) == ("test", 5):
            media.write_text("broken")
        elif not media.exists():
            picture(media, seed=i + len(split) * 100)
        said = tuple(f"{WORDS[(i + j) % 5]} {PLACES[i]}" for j in range(1 + i % 3))
        asked = tuple(
            Question(f"what is {j}?", ((WORDS[i % 3], 7.0), ("other", 3.0)), f"{i}{j}", ("yes/no", "other")[j % 2])
            for j in range(i % 4)
        )
        items.append(Item(media, said, asked, ("star", "ring")[i % 2], f"{split}-{i}"))
    return Annotations(items)


MADE_UP = Format(read_made_up, "made up", "folder/", "beside")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of all kinds of annotations, which no process has to read from a file."""
    monkeypatch.setitem(FORMATS, "madeup", MADE_UP)
    monkeypatch.setattr(captions, "missing", lambda: "it needs Java")
    return f"madeup:{tmp_path}"


def told(results: list[Result]) -> dict[str, float | None]:
    """Values by all that tells a row apart."""
    names = ("k", "answer_type", "views", "mode")
    return {
        " ".join([r.task, r.metric, *(f"{n}={r.settings[n]}" for n in names if n in r.settings)]): r.value
        for r in results
    }


def rank_evaluates(rank: int, ports: dict[int, int], model: str, data: str, out: str) -> None:
    """One process of each of several worlds, one after the other."""
    torch.set_num_threads(1)
    FORMATS["madeup"] = MADE_UP
    vars(captions)["missing"] = lambda: "it needs Java"
    config = EvaluationConfig(tasks=TASKS, data=data, rerank=4, batch_size=7, views=(1, 2), token_memory=1e-6)
    for world, port in ports.items():
        if rank < world:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            with distributed.process_group("cpu"):
                results, bad = evaluate(*load_folder(Path(model)), config)
            (Path(out) / f"{world}.{rank}.json").write_text(json.dumps([told(results), bad]))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_batch_and_world_size_change_no_number(model: Path, data: str, tmp_path: Path) -> None:
    config = EvaluationConfig(tasks=TASKS, data=data, rerank=4, views=(1, 2))
    results, bad = evaluate(*load_folder(model), config)
    expected = told(results)
    assert {r.task for r in results} == set(TASKS) and len(bad) == 1 and "test5.png" in bad[0][1]
    counts = {r.task: r.n for r in results if r.settings.get("answer_type", "all") == "all"}
    assert counts == {"retrieval": 13, "classify": 13, "probe": 13, "caption": 13, "answer": 18}
    for r in (r for r in results if r.items):
        assert sum(r.items) / len(r.items) == pytest.approx(r.value) and len(r.items) == r.n, r.metric
    itemised = {r.metric for r in results if r.items}
    assert itemised == {"t2i_r1", "i2t_r1", "top1", "exact", "token_f1", "vqa_accuracy"}
    assert all(r.settings["bad"] == 1 for r in results), "what cannot be read is counted in every row"
    for size in (1, 7):
        again, _ = evaluate(*load_folder(model), replace(config, batch_size=size, token_memory=0.0))
        assert told(again) == pytest.approx(expected)
    ports = {3: free_port(), 2: free_port()}
    spawn(rank_evaluates, (ports, str(model), data, str(tmp_path)), nprocs=3)
    for world in ports:
        for rank in range(world):
            values, unread = json.loads((tmp_path / f"{world}.{rank}.json").read_text())
            assert values == pytest.approx(expected), (world, rank)
            assert [tuple(item) for item in unread] == bad


# --- the command -----------------------------------------------------------------------------------------------------


def run(model: Path, tmp_path: Path, *words: str) -> int:
    return main(["evaluate", str(model), "--device", "cpu", "--out", str(tmp_path / "results.json"), *words])


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "results.json").read_text())["results"]


def test_answers_are_ranked_written_and_handed_in(model: Path, data: str, tmp_path: Path) -> None:
    handed_in = tmp_path / "answers.json"
    words = ["--task", "answer", "--data", data, "--predictions", str(handed_in)]
    assert run(model, tmp_path, *words) == 1, "one picture cannot be read"
    found = json.loads(handed_in.read_text())
    assert [row["question_id"] for row in found][:3] == [10, 20, 21] and set(found[0]) == {"question_id", "answer"}
    assert {row["answer"] for row in found} <= {*WORDS[:3], "other", ""}
    made = {row["settings"]["answer_type"]: row for row in rows(tmp_path)}
    assert set(made) == {"all", "yes/no", "other"} and made["all"]["metric"] == "vqa_accuracy"
    assert made["all"]["settings"]["answer_list"] == "train" and made["all"]["settings"]["answers"] == 4
    assert 0 < made["all"]["chance"] < 1
    listed = tmp_path / "list.txt"
    listed.write_text("a red star\n\nother\nother\n")
    assert run(model, tmp_path, *words, "--answers", str(listed)) == 1
    assert {row["answer"] for row in json.loads(handed_in.read_text())} <= {"a red star", "other", ""}
    assert run(model, tmp_path, *words, "--mode", "generate") == 1
    assert {row["settings"]["mode"] for row in rows(tmp_path)} == {"rank", "generate"}


def test_captions_are_handed_in_with_their_ids(model: Path, data: str, tmp_path: Path) -> None:
    handed_in = tmp_path / "captions.json"
    words = ["--task", "caption", "--data", data, "--predictions", str(handed_in), "--max-length", "7"]
    assert run(model, tmp_path, *words, "--method", "greedy") == 1
    found = json.loads(handed_in.read_text())
    assert len(found) == 13 and found[5] == {"image_id": "test-5", "caption": ""} and found[0]["caption"]
    assert rows(tmp_path)[0]["settings"]["max_length"] == 7


def test_a_probe_learns_on_the_training_split(model: Path, data: str, tmp_path: Path) -> None:
    assert run(model, tmp_path, "--task", "probe", "--data", data, "--shots", "2") == 1
    row = rows(tmp_path)[0]
    assert (row["task"], row["split"], row["n"]) == ("probe", "test", 13)
    assert row["settings"]["shots"] == 2 and row["settings"]["trained_on"] == 4


def test_a_probe_of_a_fold_learns_on_the_same_fold(model: Path, data: str, tmp_path: Path) -> None:
    assert run(model, tmp_path, "--task", "probe", "--data", data, "--split", "test2") == 0
    assert {row["split"] for row in rows(tmp_path)} == {"test2"}
    assert (tmp_path / "train20.png").exists() and not (tmp_path / "train0.png").exists()


def test_the_worlds_questions_need_no_file(model: Path, tmp_path: Path) -> None:
    words = ["--task", "answer", "--data", "world:questions", "--num-items", "4"]
    assert run(model, tmp_path, *words) == 0
    media = {row["settings"]["medium"]: row for row in rows(tmp_path) if row["settings"]["answer_type"] == "all"}
    assert (media["image"]["n"], media["video"]["n"]) == (20, 16)
    kinds = {row["settings"]["answer_type"] for row in rows(tmp_path)}
    assert {"where does it lie", "how does it move", "what colour is it"} <= kinds
    assert run(model, tmp_path, *words, "--medium", "image") == 0
    assert not any("items" in row for row in rows(tmp_path)), "what single items scored stands in no results file"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--task", "retrieval", "--k", "-1"), "--k is -1, wanted 0 (no reranking) or more"),
        (("--task", "classify", "--views", "4"), "--views is '4', wanted clips x crops such as 4x3"),
        (("--task", "classify", "--views", "0x3"), "views are 0x3, wanted clips x crops, each 1 or more"),
        (("--task", "retrieval", "--batch-size", "0"), "batch_size is 0, wanted 1 or more"),
        (("--task", "probe", "--shots", "9"), "9 shots were asked for, but class 'ring' has 6 training items"),
        (("--task", "answer", "--answers", "ONE"), "ranking needs at least two different answers, got yes"),
        (("--task", "answer", "--answers", "nowhere.txt"), "nowhere.txt cannot be read as a list of answers"),
        (("--task", "answer", "--answers", "nowhere.json"), "nowhere.json: no such file"),
        (("--task", "retrieval", "--predictions", "x"), "a file of predictions holds those of one task"),
        (("--task", "caption", "--num-beams", "0"), "num_beams 0"),
        (("--task", "caption", "--max-length", "3"), "min_length is 5 and max_length 3"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence_and_exit_2(
    model: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    one = tmp_path / "one.txt"
    one.write_text("yes\nyes\n")
    assert run(model, tmp_path, "--data", data, *(str(one) if word == "ONE" else word for word in words)) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and last.startswith("omnivl: ") and sentence in last and "Traceback" not in err
    assert not (tmp_path / "results.json").exists()


def test_a_split_that_trains_is_never_the_test(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "my.jsonl"
    rows = [{"media": picture(tmp_path / f"{i}.png", i).name, "label": "ab"[i % 2]} for i in range(4)]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(model, tmp_path, "--task", "probe", "--data", f"manifest:{listed}") == 2
    assert "give --train-data" in capsys.readouterr().err


def test_without_a_decoder_nothing_is_written(model: Path, data: str) -> None:
    network, tokenizer = load_folder(model)
    del network.generation
    for task in ("caption", "answer"):
        with pytest.raises(ValueError, match="this model has no generation decoder"):
            evaluate(network, tokenizer, EvaluationConfig(tasks=(task,), data=data))
