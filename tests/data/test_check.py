"""A data set checked: every fault of a spoiled one named, none missed, none invented; what is printed, which exit."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnivl.cli import main
from omnivl.data.annotations import Item
from omnivl.data.check import check, look
from omnivl.data.tar import Member
from tests.data.make_media import numbered, write_video
from tests.data.test_annotations import COMPOSED, DECOMPOSED
from tests.helpers import moving_gif, picture

Fault = tuple[str, str]  # kind, line of the manifest or file name


def once(looks: Iterable[Any], total: int) -> Iterable[Any]:
    """No progress is shown."""
    return looks


def spoiled(folder: Path) -> tuple[Path, set[Fault], int]:
    """A manifest of 40 items and 3 broken lines, its faults, and how many items decode."""
    lines: list[str] = []
    faults: set[Fault] = set()

    def add(row: dict[str, Any] | str, kind: str = "", where: str = "") -> None:
        lines.append(row if isinstance(row, str) else json.dumps(row))
        if kind:
            faults.add((kind, where or f"line {len(lines)}"))

    def media(name: str, make: Callable[[Path], object], **row: Any) -> dict[str, Any]:
        make(folder / name)
        return {"media": name, "caption": f"this is {name}", **row}

    def clip(path: Path) -> None:
        write_video(path, numbered(10), form="mp4")

    def cut(path: Path) -> None:
        Image.effect_noise((64, 64), 60).save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[:-400])

    def headless(path: Path) -> None:
        clip(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for i in range(14):  # nothing is wrong with these
        picture(folder / f"{i}.{('png', 'JPG', 'webp')[i % 3]}", 100 + i)
        add({"media": f"{i}.{('png', 'JPG', 'webp')[i % 3]}", "caption": f"picture {i}", "id": i})
    picture(folder / "x.png", 50).rename(folder / "wrong name.jpg")
    add({"media": "wrong name.jpg", "caption": ["null", "NA"]})
    picture(folder / f"{DECOMPOSED}.png", 51)
    add({"media": f"{COMPOSED}.png", "caption": "one file"})
    add({"media": "0.png", "caption": "said again in other words"})
    add(media("a.mp4", clip))
    add(media("b.MP4", lambda path: write_video(path, numbered(9), form="mp4")))
    add(media("c.gif", moving_gif))
    add({"media": "a.mp4", "caption": "its first half", "start": 0, "end": 0.5})
    add({"media": "a.mp4", "label": "counting", "start": 0.5})
    add({"media": "1.JPG", "question": "what?", "answer": {"this": 2}})
    good = 21

    for name in ("gone.jpg", "gone.mp4", "folder/gone.png"):
        add({"media": name, "caption": "x"}, "missing media", name)
    kind = "media that do not decode"
    add(media("empty.jpg", Path.touch), kind, "empty.jpg")
    add(media("text.jpg", lambda path: path.write_text("<html>not found</html>")), kind, "text.jpg")
    add(media("cut.jpg", cut), kind, "cut.jpg")
    add(media("headless.mp4", headless), kind, "headless.mp4")
    add({"media": "a.mp4", "caption": "after its end", "start": 60}, kind, "a.mp4 [60 s to the end]")
    add(media("copy.png", lambda path: shutil.copy(folder / "0.png", path)), "repeated media", "copy.png")
    good += 1
    add('{"media": "d.png", "caption": "no end', "unreadable rows")
    add('["media", "e.png"]', "unreadable rows")
    add({"caption": "of nothing"}, "unreadable rows")
    add(media("blank.png", lambda path: picture(path, 60), caption=" "), "empty captions")
    add(media("none.png", lambda path: picture(path, 61), caption=None), "empty captions")
    add(media("silent.png", Path.touch, caption=[]), "rows that say nothing")
    faults.add((kind, "silent.png"))  # whose file is looked at all the same
    add(media("half.png", lambda path: picture(path, 63), caption=["", "half"]), "empty captions")
    add(media("sameid.png", lambda path: picture(path, 64), id=3), "clashing ids")
    add(media("cat.png", lambda path: picture(path, 65), label="cat"))
    add({"media": "cat.png", "label": "dog"}, "clashing labels")
    add({"media": "2.webp", "caption": "picture 2"}, "repeated rows")
    good += 5
    path = folder / "spoiled.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path, faults, good


@pytest.fixture(scope="module")
def set_of_40(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[Fault], int]:
    return spoiled(tmp_path_factory.mktemp("spoiled"))


def test_every_fault_is_named_none_is_missed_and_none_invented(
    set_of_40: tuple[Path, set[Fault], int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, faults, good = set_of_40
    assert main(["data", "check", f"manifest:{path}", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = [(p["kind"], p["item"].replace(f"{path}, ", "").replace(f"{path.parent}/", "")) for p in report["problems"]]
    assert sorted(found) == sorted(faults) and len(set(found)) == len(found)
    assert all(p["reason"] and "\n" not in p["reason"] for p in report["problems"])
    assert sum(report["media"].values()) == good and report["items"] == good + 9
    assert sum(report["counts"].values()) == len(faults)


def test_workers_find_the_same(set_of_40: tuple[Path, set[Fault], int]) -> None:
    data = f"manifest:{set_of_40[0]}"
    assert check(data, None, "train", once, num_workers=2) == check(data, None, "train", once, num_workers=0)


def test_a_decoder_that_takes_its_worker_with_it_is_one_sentence(
    set_of_40: tuple[Path, set[Fault], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnivl.data.check.looked_at", lambda *words: os._exit(3))
    with pytest.raises(ValueError, match="a process that decodes media ended"):
        check(f"manifest:{set_of_40[0]}", None, "train", once, num_workers=1)


def test_the_report_is_a_line_a_problem_and_progress_is_elsewhere(
    set_of_40: tuple[Path, set[Fault], int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, faults, _ = set_of_40
    assert main(["data", "check", f"manifest:{path}"]) == 1
    out, err = capsys.readouterr()
    *problems, total, last = out.splitlines()
    assert len(problems) == len(faults) and "decoding" in err and "decoding" not in out
    assert f"missing media: {path.parent / 'gone.jpg'}: no such file" in problems
    assert total.startswith(f"manifest:{path}, split train: ") and last.startswith(f"{len(faults)} problems: ")


def test_a_tar_that_is_gone_is_a_problem_of_its_items(tmp_path: Path) -> None:
    member = Member(str(tmp_path / "gone.tar"), "a.png", 512, 100)
    medium, (problem,) = look(Item(Path(str(member)), ("a star",), id="a", content=member))
    assert not medium and problem.kind == "media that do not decode" and problem.item == "a"
    assert problem.reason.endswith("a.png: cannot be read (No such file or directory)")


def test_a_clean_set_is_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / name).mkdir(parents=True)
        picture(tmp_path / name / "a.png", len(name) + ord(name[-1]))
    moving_gif(tmp_path / "train/dog/b.gif")
    assert main(["data", "check", f"folder:{tmp_path}"]) == 0
    total, last = capsys.readouterr().out.splitlines()
    assert total == f"folder:{tmp_path}, split train: 3 items (2 images, 1 videos), 0 captions, 0 questions, 2 labels"
    assert last == "nothing is wrong with it"


def test_counts_other_than_the_field_s_are_a_problem_and_media_lie_below_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = {"filename": "1.jpg", "split": "test", "imgid": 0, "sentences": [{"raw": "a dog"}]}
    (tmp_path / "f.json").write_text(json.dumps({"images": [image]}))
    (tmp_path / "disk/flickr30k-images").mkdir(parents=True)
    picture(tmp_path / "disk/flickr30k-images/1.jpg")
    words = ["data", "check", f"flickr30k:{tmp_path / 'f.json'}", "--root", str(tmp_path / "disk"), "--split", "test"]
    assert main([*words, "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["kind"] == "other counts" and "1 items where the field has 1,000" in problem["reason"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("nowhere", "cannot be checked: write FORMAT:FILE"),
        ("manifest:", "cannot be checked: write FORMAT:FILE"),
        ("manifest:nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("manifest:elsewhere.jsonl", "elsewhere.jsonl holds no items of split 'train': 1 of split 'test'"),
        ("folder:nowhere", "nowhere: no such folder"),
        ("coco:elsewhere.jsonl", "elsewhere.jsonl is not what this format reads: it has no 'images'"),
        ("coco:utf16.json", "utf16.json is not UTF-8 text"),
        ("msrvtt_qa:.", "train_qa.json: no such file"),
    ],
)
def test_what_cannot_be_begun_is_one_sentence_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("elsewhere.jsonl").write_text('{"media": "a.jpg", "caption": "x", "split": "test"}\n')
    Path("utf16.json").write_text("{}", encoding="utf-16")
    assert main(["data", "check", data]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.startswith("omnivl: ") and err.count("\n") == 1


def test_the_table_of_formats_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "formats"]) == 0
    out = capsys.readouterr().out
    assert "\ncoco: COCO captions" in out and "test1k (1,000 items, 1,000 captions)" in out and "UNVERIFIED" in out
    assert main(["data", "formats", "--json"]) == 0
    table = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert table["msrvtt"]["splits"]["test"] == {"items": 2990, "captions": 59800, "questions": None}
    assert {"files", "media", "terms", "obtainable", "verified"} <= table["webvid"].keys()


def test_shards_are_checked_too(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png").read_bytes()
    files = {"a.png": good, "a.txt": b"one", "b.png": good[:60], "b.txt": b"two", "c.txt": b"no media"}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    report = check(f"shards:{tmp_path}/{{0,1}}.tar", None, "train", once)
    assert report.media == {"image": 1} and report.items == 2
    assert sorted(problem.kind for problem in report.problems) == ["left out", "media that do not decode", "shards"]
