"""Evaluation as a whole: the same numbers from any batch and any number of processes, and bad input in one sentence."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from omnivl import distributed
from omnivl.cli import main
from omnivl.config import EvaluationConfig
from omnivl.data.annotations import FORMATS, Annotations, Format, Item
from omnivl.data.reading import state_of
from omnivl.data.sample import Gallery, Question
from omnivl.data.sources import FileSource
from omnivl.data.tar import Member
from omnivl.evaluation import evaluate
from omnivl.metrics import captions
from omnivl.model.folder import load_folder
from omnivl.tasks.base import Result
from omnivl.tasks.work import Work
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
        (("--task", "classify", "--views", "0x3"), "views are 0x3, wanted clips x crops, each 1 to 32"),
        (("--task", "retrieval", "--batch-size", "0"), "batch_size is 0, wanted 1 or more"),
        (("--task", "probe", "--shots", "9"), "9 shots were asked for, but class 'ring' has 6 training items"),
        (("--task", "answer", "--answers", "ONE"), "ranking needs at least two different answers, got yes"),
        (("--task", "answer", "--answers", "nowhere.txt"), "nowhere.txt cannot be read as a list of answers"),
        (("--task", "answer", "--answers", "nowhere.json"), "nowhere.json: no such file"),
        (("--task", "retrieval", "--predictions", "x"), "a file of predictions holds those of one task"),
        (("--task", "classify", "--views", "1x100000"), "views are 1x100000, wanted clips x crops, each 1 to 32"),
        (("--task", "classify", "--num-items", "100000000000"), "num_items is 100,000,000,000, wanted 1 to 100,000"),
        (("--task", "caption", "--repetition-penalty", "nan"), "repetition_penalty nan"),
        (("--task", "retrieval", "--token-memory", "nan"), "token_memory is nan GiB, wanted 0 or more"),
        (("--task", "classify", "--num-frames", "1000000"), "num_frames is 1,000,000, wanted 0 to 512"),
        (("--task", "caption", "--num-beams", "0"), "num_beams is 0, wanted 1 to 64"),
        (("--task", "caption", "--num-beams", "100000"), "num_beams is 100,000, wanted 1 to 64"),
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


# --- stopped and gone on with ----------------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, reads: int) -> list[str]:
    """Ctrl-C at the read of one item; gives the list of what was read."""
    seen: list[str] = []
    frames = FileSource.frames

    def counted(self: FileSource, medium: str, index: int, ask: Any) -> Any:
        if len(seen) == reads:
            raise KeyboardInterrupt
        seen.append(self.item(medium, index).key)
        return frames(self, medium, index, ask)

    monkeypatch.setattr(FileSource, "frames", counted)
    return seen


def test_a_stopped_evaluation_goes_on_and_comes_to_the_same_numbers(
    model: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", data, "--k", "4", "--batch-size", "4", "--method", "nucleus"]
    words += [word for task in TASKS for word in ("--task", task)]
    kept = tmp_path / "results.json.work"
    assert run(model, tmp_path, *words) == 1 and not kept.exists()
    expected = rows(tmp_path)
    (tmp_path / "results.json").unlink()
    reads, stops, code = 0, 0, 130
    while code == 130:
        with monkeypatch.context() as patch:
            seen = stop_after(patch, 31)
            code = run(model, tmp_path, *words)
        reads += len(seen)
        if code == 130:
            stops += 1
            assert kept.exists() and "the same command goes on from there" in capsys.readouterr().err
            assert not (tmp_path / "results.json").exists()
    assert code == 1 and 1 < stops < 9 and not kept.exists()
    assert rows(tmp_path) == expected, "to the last digit"
    with monkeypatch.context() as patch:
        whole = stop_after(patch, 10_000)
        run(model, tmp_path, *words)
    lost = 4 + 2 * 7 + 1  # of each stop: a batch, what was broken, and tokens that are needed again
    assert reads <= len(whole) + stops * lost


def test_work_of_another_model_or_data_is_told_and_not_used(
    model: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--task", "caption", "--data", data, "--batch-size", "4", "--method", "greedy"]
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        assert run(model, tmp_path, *words) == 130
    other = mini_folder(tmp_path / "other", seed=1)
    caplog.clear()
    assert run(other, tmp_path, *words, "--split", "validation") == 0
    assert "unfinished work of another model, other data or other settings" in caplog.text
    assert "were done before" not in caplog.text and len(list((tmp_path / "results.json.work").iterdir())) == 1
    caplog.set_level("INFO")
    assert run(model, tmp_path, *words) == 1
    assert "7 of 13 items were done before" in caplog.text and not (tmp_path / "results.json.work").exists()


def test_what_cannot_be_scored_is_refused_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "my.jsonl"
    said = [{"media": picture(tmp_path / f"{i}.png", i).name, "caption": "..." if i else "a star"} for i in range(3)]
    asked = [{"media": row["media"], "question": "what?", "answer": "yes"} for row in said]
    with monkeypatch.context() as patch:
        seen = stop_after(patch, 99)
        for rows, task, told in ((said, "caption", "1.png has a caption without words"), (asked, "answer", "an id")):
            listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
            words = ["--task", task, "--data", f"manifest:{listed}", "--predictions", str(tmp_path / "p.json")]
            assert run(model, tmp_path, *words) == 2
            assert told in capsys.readouterr().err.splitlines()[-1]
    assert not seen and not (tmp_path / "results.json.work").exists()


def test_an_item_whose_file_was_changed_is_done_anew(
    model: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--task", "classify", "--task", "retrieval", "--k", "4", "--data", data, "--batch-size", "4"]
    with monkeypatch.context() as patch:
        stop_after(patch, 13 + 11)  # the vectors of 8 of 13 are kept, and all classes
        assert run(model, tmp_path, *words) == 130
    picture(tmp_path / "test2.png", seed=77)
    with monkeypatch.context() as patch:
        seen = stop_after(patch, 99)
        assert run(model, tmp_path, *words) == 1
    assert seen.count("test-2") == 2, "both of its rows"
    assert seen.count("test-3") == 1, "its tokens, for reranking"
    resumed = rows(tmp_path)
    (tmp_path / "results.json").unlink()
    assert run(model, tmp_path, *words) == 1
    assert rows(tmp_path) == resumed


def test_the_state_of_a_file_tells_places_sizes_times_and_bytes(tmp_path: Path) -> None:
    file, tar = picture(tmp_path / "a.png", 1), str(tmp_path / "a.tar")
    items = [Item(file), Item(tmp_path / "none.png"), Item(tmp_path / "no\udce9.png")]
    items += [Item(file, content=Member(tar, "a.png", offset, 10)) for offset in (512, 2048)]
    items += [Item(file, content=Member("https://host/a.tar", "a.png", 512, 10))]
    items += [Item(file, content=content) for content in (b"one", b"two")]
    states = [state_of(item) for item in items]
    assert len(set(states)) == len(items) and states == [state_of(item) for item in items]
    os.utime(file, (1, 1))
    assert state_of(items[0]) != states[0]


GALLERY = Gallery("g", "test", "image", [""] * 4, [()] * 4, [""] * 4, lambda item: np.zeros(0))


def test_rows_belong_to_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = torch.tensor([0.1, -2.0, 3e-38])
    halves: list[dict[int, Any]] = [{0: "a", 2: ["b", "ü"]}, {1: vector, 3: torch.empty(0)}]
    for rank, kept in enumerate(halves):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        Work(tmp_path / "w", "key").keep("part", GALLERY, kept)
    monkeypatch.undo()
    work = Work(tmp_path / "w", "key")
    found = work.known("part", GALLERY, range(3))
    assert (found[0], found[2]) == ("a", ["b", "ü"]) and torch.equal(found[1], vector) and len(found) == 3
    assert work.known("part", GALLERY, [3])[3].shape == (0,) and not work.known("other part", GALLERY, range(3))
    (tmp_path / "w" / "key.7.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(OSError, match=r"key\.7\.sqlite, which keeps what is done so far, cannot be used: file is not"):
        work.known("part", GALLERY, range(3))
    work.remove()
    assert not (tmp_path / "w").exists()
