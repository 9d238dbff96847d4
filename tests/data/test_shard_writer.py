"""Written shards: read back whole, the same bytes whatever ended the run before, and within the size asked for."""

import itertools
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnivl.cli.sharding import add_shard
from omnivl.data import shard_writer
from omnivl.data.annotations import Annotations, Item, Question
from omnivl.data.media import read_image, read_video
from omnivl.data.shard_writer import STATE, parse_size, write_shards
from omnivl.data.shards import open_shards
from omnivl.data.sources import open_items
from omnivl.data.tar import Member
from tests.data.test_annotations import manifest
from tests.helpers import moving_gif, picture

KB = 1000


def many(folder: Path, count: int = 12) -> list[Item]:
    """Pictures and clips with everything that can be said of them."""
    items = []
    for number in range(count):
        path = (moving_gif if number % 4 == 3 else picture)(
            folder / f"{number}.{'gif' if number % 4 == 3 else 'PNG'}", number
        )
        item = Item(path, captions=(f"a {number}", f"b, “{number}”\nnext line", f"a {number}")[: number % 4])
        if number % 4 in (0, 3):
            item = replace(item, label=str(number % 5))
        if number % 4 == 3:
            item = replace(item, start=0.1 * number / 7, end=0.5, id=f"clip {number}")
        if number % 2:
            asked = Question("what?", (("yes", 3.0), ("no", 0.3)), f"q{number}", "yes/no")
            item = replace(item, questions=(asked, Question("why?")))
        items.append(item)
    return items


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-index")}


def arguments(*words: object) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    add_shard(parser.add_subparsers())
    return parser.parse_args(["shard", *map(str, words)])


def run(*words: object) -> int:
    options = arguments(*words)
    return int(options.act(options))


# --- read back -------------------------------------------------------------------------------------------------------


def test_every_sample_comes_back_as_the_annotations_gave_it(tmp_path: Path) -> None:
    items = many(tmp_path)
    done = write_shards(items, tmp_path / "out", 30 * KB)
    assert len(done) > 2 and sum(shard.samples for shard in done) == len(items)
    back = open_shards(str(tmp_path / "out"))
    for item, read in zip(items, back, strict=True):
        assert replace(read, media=item.media, content=b"") == item
        assert isinstance(read.content, Member) and read.content.read() == item.media.read_bytes(), "the original bytes"
    assert back.labels == Annotations(items).labels


def test_members_are_what_webdataset_wants(tmp_path: Path) -> None:
    items = many(tmp_path, 4)
    write_shards(items, tmp_path / "out", 10**6)
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        names = tar.getnames()
        held = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}
    assert names == [
        "000000000.png", "000000000.json", "000000000.cls",
        "000000001.png", "000000001.txt", "000000001.json",
        "000000002.png", "000000002.txt", "000000002.json",
        "000000003.gif", "000000003.txt", "000000003.json", "000000003.cls",
    ]  # fmt: skip
    assert held["000000001.txt"] == b"a 1" and held["000000000.cls"] == b"0" and held["000000003.cls"] == b"1"
    row = json.loads(held["000000003.json"])
    assert row["captions"] == list(items[3].captions) and row["caption"] == "a 3" and row["label"] == "3"
    assert row["questions"][0]["answer"] == {"yes": 3.0, "no": 0.3} and row["end"] == 0.5


def test_media_without_a_known_ending_are_found_by_their_content(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").rename(tmp_path / "a")
    moving_gif(tmp_path / "b.gif").rename(tmp_path / "b.part1")
    write_shards([Item(tmp_path / name, captions=(name,)) for name in ("a", "b.part1")], tmp_path / "out", 10**6)
    one, two = open_shards(str(tmp_path / "out"))
    assert str(one.media).endswith("000000000.image") and str(two.media).endswith("000000001.video")
    assert read_image(one.source).size == (40, 30) and len(read_video(two.source, 3).frames) == 3


def test_shards_are_written_anew_from_shards(tmp_path: Path) -> None:
    write_shards(many(tmp_path), tmp_path / "one", 30 * KB)
    items, _ = open_items(f"shards:{tmp_path / 'one'}", "", "train")
    write_shards(items, tmp_path / "other", 90 * KB)
    other, _ = open_items(f"shards:{tmp_path / 'other'}", "", "train")
    for item, again in zip(items, other, strict=True):
        assert replace(item, media=again.media, content=again.content) == again
    assert len(list((tmp_path / "other").glob("*.tar"))) < len(list((tmp_path / "one").glob("*.tar")))


def test_media_that_lie_within_another_file_are_written_too(tmp_path: Path) -> None:
    content = picture(tmp_path / "a.png").read_bytes()
    write_shards([Item(tmp_path / "batch" / "7.png", label="cat", content=content)], tmp_path / "out", 10**6)
    (item,) = open_shards(str(tmp_path / "out"))
    assert isinstance(item.content, Member) and item.content.read() == content and item.label == "cat"


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [15 * KB, 20480, 33 * KB, 10**6])
def test_no_tar_is_larger_than_asked_but_one_of_a_single_sample(tmp_path: Path, size: int) -> None:
    done = write_shards(many(tmp_path), tmp_path / "out", size)
    for shard in done:
        assert (tmp_path / "out" / shard.name).stat().st_size == shard.bytes
        assert shard.bytes <= size or shard.samples == 1
    assert (size == 10**6) == (len(done) == 1)
    for one, other in itertools.pairwise(done):  # the first sample of the next did not fit any more
        with tarfile.open(tmp_path / "out" / one.name) as tar, tarfile.open(tmp_path / "out" / other.name) as after:
            used = max(blocks(info) for info in tar)
            first = after.getnames()[0].partition(".")[0]
            more = max(blocks(info) for info in after if info.name.startswith(first))
        assert -(-(used + more + 1024) // 10240) * 10240 > size


def blocks(info: tarfile.TarInfo) -> int:
    """Where the next member begins."""
    return info.offset_data + -(-info.size // 512) * 512


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("500MB", 5 * 10**8), ("2 GiB", 2**31), ("1.5k", 1500), ("1000", 1000), ("7B", 7), ("3kb", 3000)],
)
def test_sizes_are_read(text: str, wanted: int) -> None:
    assert parse_size(text) == wanted


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "0", "5 apples", "1e9", "5MBB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size is written as 500MB or 2GB, got "):
        parse_size(text)


# --- ended and gone on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", range(7))
def test_a_run_that_ended_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Ended by a full disk or a kill at every rename, of tars and of the state."""
    items = many(tmp_path)
    (tmp_path / "empty.png").touch()
    items.insert(5, Item(tmp_path / "empty.png", captions=("bad",)))
    whole = write_shards(items, tmp_path / "whole", 30 * KB)
    assert len(whole) > 3 and [len(shard.left_out) for shard in whole].count(1) == 1
    rename, left = os.replace, [nth]

    def ends(source: Any, target: Any) -> None:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", ends)
    with pytest.raises(OSError, match="No space"):
        write_shards(items, tmp_path / "out", 30 * KB)
    monkeypatch.undo()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".tar", ".json"}
    begun = max(nth - 1, 0) // 2  # renames: of the state, then of each tar and the state again
    (tmp_path / "out" / f"{begun:05d}.tar.part").write_bytes(b"what a kill leaves")
    prepared: list[int] = []
    prepare = shard_writer.prepared

    def noted(number: int, *rest: Any) -> Any:
        prepared.append(number)
        return prepare(number, *rest)

    monkeypatch.setattr(shard_writer, "prepared", noted)
    assert write_shards(items, tmp_path / "out", 30 * KB) == whole
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert prepared[0] == (whole[begun - 1].end if begun else 0), "what is whole is not made again"


def test_a_finished_set_is_left_alone_and_a_lost_shard_is_made_again(tmp_path: Path) -> None:
    items = many(tmp_path)
    write_shards(items, tmp_path / "out", 30 * KB)
    first = files(tmp_path / "out")
    stamp = (tmp_path / "out" / "00000.tar").stat().st_mtime_ns
    write_shards(items, tmp_path / "out", 30 * KB)
    assert files(tmp_path / "out") == first and (tmp_path / "out" / "00000.tar").stat().st_mtime_ns == stamp
    (tmp_path / "out" / "00001.tar").unlink()
    os.truncate(tmp_path / "out" / "00002.tar", 5000)
    write_shards(items, tmp_path / "out", 30 * KB)
    assert files(tmp_path / "out") == first
    (tmp_path / "out" / "00000.tar").unlink()
    for item in items[1:]:
        item.media.unlink()
    (shard,) = write_shards(items, tmp_path / "out", 30 * KB)
    assert (shard.samples, len(shard.left_out)) == (1, len(items) - 1)
    assert set(files(tmp_path / "out")) == {"00000.tar", STATE}, "no tar of the run before is left"


def test_media_that_were_mended_are_taken_in(tmp_path: Path) -> None:
    items = many(tmp_path)
    wanted = {}
    for number in (0, 7):
        path = items[number].media
        wanted[path] = path.read_bytes()
    write_shards(items, tmp_path / "whole", 30 * KB)
    for path in wanted:
        path.write_bytes(b"")
    assert [n for shard in write_shards(items, tmp_path / "out", 30 * KB) for n, _ in shard.left_out] == [0, 7]
    for path, content in wanted.items():
        path.write_bytes(content)
        write_shards(items, tmp_path / "out", 30 * KB)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_shards_of_something_else_are_not_written_over(tmp_path: Path) -> None:
    items = many(tmp_path)
    write_shards(items, tmp_path / "out", 30 * KB)
    first = files(tmp_path / "out")
    changes: list[tuple[list[Item], int]] = [
        (items, 40 * KB),
        (items[:-1], 30 * KB),
        ([replace(items[0], captions=("other",)), *items[1:]], 30 * KB),
    ]
    for other, size in changes:
        with pytest.raises(ValueError, match="holds shards of other items, or of another --size"):
            write_shards(other, tmp_path / "out", size)
    (tmp_path / "out" / STATE).write_text("{}")
    with pytest.raises(ValueError, match="holds shards of other items"):
        write_shards(items, tmp_path / "out", 30 * KB)
    (tmp_path / "out" / STATE).unlink()
    with pytest.raises(ValueError, match="holds shards of other items"):
        write_shards(items, tmp_path / "out", 30 * KB)
    assert {**files(tmp_path / "out"), STATE: first[STATE]} == first


def test_one_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        shard_writer.alone(tmp_path / "out"),
        pytest.raises(ValueError, match=r"out is being written by another process$"),
    ):
        write_shards(many(tmp_path, 2), tmp_path / "out", 10**6)
    assert write_shards(many(tmp_path, 2), tmp_path / "out", 10**6)


# --- the command -----------------------------------------------------------------------------------------------------


def spoil(folder: Path) -> None:
    (folder / "empty.jpg").touch()
    (folder / "page.png").write_text("<!doctype html><html>")
    (folder / "cut.png").write_bytes(picture(folder / "whole.png").read_bytes()[:-900])
    (folder / "frames").mkdir()
    picture(folder / "frames" / "0.png")


BAD = ("empty.jpg", "page.png", "cut.png", "gone.png", "frames", "late.gif")


def test_bad_media_are_named_and_left_out_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tmp_path)
    moving_gif(tmp_path / "late.gif")
    rows: list[dict[str, Any]] = [{"media": f"{n}.png", "caption": f"text {n}"} for n in range(4)]
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    rows[2:2] = [{"media": name, "caption": name, **({"start": 9} if name == "late.gif" else {})} for name in BAD]
    path = manifest(tmp_path, *rows, {"media": "0.png", "caption": " "})
    for _ in range(2):  # the second run has nothing to do, and says the same
        assert run(f"manifest:{path}", "--out", tmp_path / "out") == 1
        printed = capsys.readouterr()
        told = [line for line in printed.err.splitlines() if str(tmp_path) in line]
        assert len(told) == len(BAD) and all(
            f"{tmp_path / name}: " in line for name, line in zip(BAD, told, strict=True)
        )
        assert "omnivl: left out: 1 empty captions" in printed.err
        assert (
            printed.out.splitlines()[-1] == f"4 samples written, 6 left out; read them with shards:{tmp_path / 'out'}"
        )
        assert printed.out.startswith(f"{tmp_path / 'out' / '00000.tar'}: 4 samples, ")
    assert [item.captions for item in open_shards(str(tmp_path / "out"))] == [(f"text {n}",) for n in range(4)]


def test_where_everything_is_bad_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(tmp_path)
    path = manifest(tmp_path, *({"media": name, "caption": "x"} for name in ("empty.jpg", "gone.png")))
    assert run(f"manifest:{path}", "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert printed.out == "0 samples written, 2 left out\n"
    assert printed.err.count("omnivl: left out: ") == 2 and set(files(tmp_path / "out")) == {STATE}


def test_a_whole_set_is_written_with_root_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "lists").mkdir()
    rows = ({"media": "a.png", "caption": "x", "split": "test"}, {"media": "b.png", "caption": "y", "split": "train"})
    path = manifest(tmp_path / "lists", *rows)
    words = (f"manifest:{path}", "--root", tmp_path, "--split", "test", "--size", "1MB", "--out", tmp_path / "out")
    assert run(*words) == 0 and capsys.readouterr().err == ""
    assert [item.captions for item in open_shards(str(tmp_path / "out"))] == [("x",)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("world:", "--out", "out"), "world: is rendered, it has no files"),
        (("manifest:nowhere.jsonl", "--out", "out"), "no such file"),
        (("my.jsonl", "--out", "out"), "is not a data source"),
        (("manifest:nowhere.jsonl", "--out", "out", "--size", "big"), "a size is written as 500MB"),
        (("manifest:nowhere.jsonl", "--out", "file"), "--out file is a file, wanted a folder"),
    ],
)
def test_what_cannot_be_begun_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ValueError) as caught:
        run(*words)
    assert told in str(caught.value) and "\n" not in str(caught.value) and not Path("out").exists()


def test_a_disk_that_is_full_is_one_line_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png")
    path = manifest(tmp_path, {"media": "a.png", "caption": "x"})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writer, "put", full)
    assert run(f"manifest:{path}", "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        f"omnivl: {tmp_path / 'out'} cannot be written (No space left on device); "
        "the same command goes on after the last whole tar\n"
    )
    assert set(files(tmp_path / "out")) == {STATE}
    monkeypatch.undo()
    assert run(f"manifest:{path}", "--out", tmp_path / "out") == 0
