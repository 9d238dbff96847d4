"""Shards: tars against Python's tarfile, and every odd tar that people have (shared cases P50 to P55)."""

import io
import itertools
import json
import logging
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
import torch
from PIL import Image

from omnivl.config import DataConfig
from omnivl.data import shard_index as rooms
from omnivl.data.annotations import Question
from omnivl.data.galleries import file_gallery
from omnivl.data.loader import PlannedBatches, training_loader
from omnivl.data.media import kind, read_image, read_video
from omnivl.data.plan import Plan
from omnivl.data.sample import BadSample, Sample
from omnivl.data.shards import Shards, expanded, open_shards
from omnivl.data.sources import Ask, ShardSource, open_source
from omnivl.data.tar import CutShort, filesystem, members
from tests.helpers import mini_model

ASK = Ask(16, 2, "bicubic")
TOKENIZER = mini_model()[1]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def picture(number: int = 0, form: str = "PNG", size: tuple[int, int] = (20, 12)) -> bytes:
    """A picture whose first pixel is its number."""
    pixels = np.full((size[1], size[0], 3), number, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def clip(number: int = 0, frames: int = 4) -> bytes:
    """An MP4 of grey frames, each of its own level."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in range(frames):
            pixels = np.full((32, 32, 3), number + 40 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


Files = dict[str, bytes | str]
Pairs = list[tuple[str, bytes | str]]  # where a name comes twice


def write_tar(path: Path, files: Files | Pairs, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items() if isinstance(files, dict) else files:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def numbered(*numbers: int) -> Pairs:
    """Samples that tell their number in media, text and id."""
    return [
        part
        for number in numbers
        for part in (
            (f"{number:05d}.png", picture(number)),
            (f"{number:05d}.txt", f"text {number}"),
            (f"{number:05d}.json", json.dumps({"caption": f"text {number}", "id": f"id {number}"})),
        )
    ]


def told(shards: Shards) -> list[tuple[str, tuple[str, ...]]]:
    """(name of the media, captions) of every sample."""
    return [(str(item.media).partition(".tar/")[2], item.captions) for item in shards]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- headers ---------------------------------------------------------------------------------------------------------

LONG = "folder/" * 20 + "ä" * 90 + ".txt"  # past the 100 bytes of a header, and not to be split into its prefix
SPLIT = "f" * 120 + "/" + "n" * 90 + ".txt"  # what ustar can split


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(tmp_path: Path, form: int) -> None:
    names = ["a.txt", "folder/b.txt", SPLIT] + ([LONG, "日本.txt"] if form != tarfile.USTAR_FORMAT else [])
    path = write_tar(tmp_path / "a.tar", {name: f"content of {name}" * index for index, name in enumerate(names)}, form)
    with tarfile.open(path, "a", format=form) as tar:  # what is no plain file
        for kind_of, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "s.txt"), (tarfile.LNKTYPE, "l.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind_of, "a.txt"
            tar.addfile(info)
    with path.open("rb") as file, tarfile.open(path) as tar:
        found = list(members(file, path.stat().st_size, str(path)))
        wanted = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert [(member.name, member.offset, member.size) for member in found] == wanted and len(wanted) == len(names)
    assert all(member.read().decode() == f"content of {member.name}" * index for index, member in enumerate(found))


def test_sizes_past_eight_gigabytes_are_read_in_both_spellings(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.mp4")
        info.size = 9 * 1024**3
        path = tmp_path / "a.tar"
        path.write_bytes(info.tobuf(form))
        with path.open("rb") as file:
            (found,) = itertools.islice(members(file, 10 * 1024**3, "a.tar"), 1)
            assert found.size == info.size
            with pytest.raises(CutShort) as caught:
                list(members(file, path.stat().st_size, "a.tar"))
        assert caught.value.member == "big.mp4"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", ["-512", "12abc", "9" * 5000])
def test_a_size_that_is_none_is_damage_and_not_read_for_ever(kind: bytes, size: str) -> None:
    record = next(r for n in range(10, 9999) if len(r := f"{n} size={size}\n".encode()) == n)
    heads = []
    for name, length, of in (("pax", len(record), kind), ("a.jpg", 0, tarfile.REGTYPE)):
        heads.append(tarfile.TarInfo(name))
        heads[-1].size, heads[-1].type = length, of
    head, file = (info.tobuf(tarfile.USTAR_FORMAT) for info in heads)
    tar = head + record.ljust(-(-len(record) // 512) * 512, b"\0") + file + bytes(1024)
    with pytest.raises(CutShort, match=r"^damaged at byte [\d,]+: a member of '.{0,20}' bytes"):
        list(itertools.islice(members(io.BytesIO(tar), len(tar), "a.tar"), 9))


@pytest.mark.parametrize("chunk", [4, 1 << 20])
def test_a_member_is_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("omnivl.data.tar.CHUNK", chunk)  # a large one is read in parts
    path = write_tar(tmp_path / "a.tar", {"x.txt": "0123456789", "y.txt": "after"})
    with path.open("rb") as file:
        member = next(members(file, path.stat().st_size, str(path)))
    with member.open() as opened:
        reference = io.BytesIO(b"0123456789")
        for offset, whence, length in ((0, 0, 4), (2, 1, 3), (-2, 2, 9), (0, 0, -1), (50, 0, 3)):
            assert opened.seek(offset, whence) == reference.seek(offset, whence)
            assert opened.read(length) == reference.read(length)
        assert opened.name == f"{path}/x.txt" == str(member)


def test_a_tar_that_shrank_since_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", numbered(1, 2))
    made = open_source(f"shards:{path}", DataConfig())
    os.truncate(path, 700)
    with pytest.raises(BadSample, match=r"a\.tar"):
        made.read("image", 1, np.random.default_rng(0), ASK)


# --- samples ---------------------------------------------------------------------------------------------------------


def test_samples_as_img2dataset_and_video2dataset_write_them(tmp_path: Path) -> None:
    meta = {"caption": "a cat", "url": "http://x/y.jpg", "key": "000000000", "status": "success", "width": 20}
    files: Files = {
        "000000000.jpg": picture(7, "JPEG"),
        "000000000.txt": "a cat",
        "000000000.json": json.dumps(meta),
        "000000001.mp4": clip(3),
        "000000001.txt": "\ufeffa clip\r\n",
        "000000001.json": json.dumps({"captions": ["a clip", "it moves", " ", None], "start": 0.1, "end": 0.3}),
        "000000002.webp": picture(5, "WEBP"),
        "000000002.cls": "10",
        "000000003.png": picture(9),
        "000000003.json": json.dumps({"caption": ["one", "two"], "label": "tabby", "id": 12}),
    }
    shards = open_shards(str(write_tar(tmp_path / "a.tar", files)))
    assert told(shards) == [
        ("000000000.jpg", ("a cat",)),
        ("000000001.mp4", ("a clip", "it moves")),
        ("000000002.webp", ()),
        ("000000003.png", ("one", "two")),
    ]
    assert [item.label for item in shards] == ["", "", "10", "tabby"] and [item.id for item in shards][-1] == "12"
    assert (shards[1].start, shards[1].end) == (0.1, 0.3)
    assert [kind(item.source) for item in shards] == ["image", "video", "image", "image"]
    assert np.array_equal(np.asarray(read_image(shards[3].source)), np.full((12, 20, 3), 9))
    assert np.array_equal(read_video(shards[1].source, 4).frames, read_video(clip(3), 4).frames)


def test_types_of_others_in_the_json_are_left(tmp_path: Path) -> None:
    odd = {"caption": "x", "label": {"a": 1}, "id": [1], "start": "0:10", "end": True, "questions": "none"}
    late = {"caption": "x", "start": 5, "end": 2}
    files: Files = {"a.png": picture(), "a.json": json.dumps(odd), "b.png": picture(), "b.json": json.dumps(late)}
    for item in open_shards(str(write_tar(tmp_path / "a.tar", files))):
        assert (item.captions, item.label, item.id, item.start, item.end) == (("x",), "", "", None, None)
        assert item.questions == ()


def test_questions_are_read(tmp_path: Path) -> None:
    rows = [{"question": "who?", "answer": {"he": 2, "she": 0.6}, "id": 5, "kind": "other"}, {"question": "why?"}]
    files: Files = {"a.png": picture(), "a.json": json.dumps({"questions": [*rows, {"question": "", "answer": 3}]})}
    files |= {"b.png": picture(), "b.json": json.dumps({"question": "where?", "answer": ["here", "here"], "id": 7})}
    shards = open_shards(str(write_tar(tmp_path / "a.tar", files)))
    assert shards[1].questions == (Question("where?", (("here", 2.0),), "7"),)
    assert shards[0].questions == (Question("who?", (("he", 2.0), ("she", 0.6)), "5", "other"), Question("why?"))
    spec = f"shards:{tmp_path / 'a.tar'}"
    with pytest.raises(ValueError, match="has no samples with a caption or label"):
        open_source(spec, DataConfig())
    source = open_source(spec, DataConfig(reads="questions"))
    ask = Ask(image_size=16, num_frames=2, interpolation="bicubic")
    read = [source.read("image", i, np.random.default_rng(0), ask) for i in range(source.length("image"))]
    assert [(sample.text, sample.answers, sample.key) for sample in read] == [
        ("who?", (("he", 2.0), ("she", 0.6)), "5"),
        ("where?", (("here", 2.0),), "7"),
    ]
    assert source.texts(9) == ["who?", "he", "she", "why?", "where?", "here"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.png", "a.txt"], {"a.png": "a.txt"}),
        (["d/a.png", "d/a.txt", "e/a.png", "e/a.txt"], {"d/a.png": "d/a.txt", "e/a.png": "e/a.txt"}),
        (["v1.0/a.png", "v1.0/a.txt"], {"v1.0/a.png": "v1.0/a.txt"}),  # a folder's dots end nothing
        (["a.rgb.png", "a.txt"], {"a.rgb.png": "a.txt"}),  # the rule of webdataset
        (["x.1.png", "x.1.txt", "x.2.png", "x.2.txt"], {"x.1.png": "x.1.txt", "x.2.png": "x.2.txt"}),
        (["x.png", "x.txt", "x.2.png", "x.2.txt"], {"x.png": "x.txt", "x.2.png": "x.2.txt"}),
        (["x.1.png", "x.2.txt", "y.png", "y.txt"], {"y.png": "y.txt"}),  # never the text of another
        (["x.png", "y.png", "z.png", "z.txt", "y.txt", "x.txt"], {f"{k}.png": f"{k}.txt" for k in "xyz"}),
        (["A.PNG", "A.Txt"], {"A.PNG": "A.Txt"}),
        (["a.png", "A.txt", "a.txt"], {"a.png": "a.txt"}),
        (["a.caption", "a.png"], {"a.png": "a.caption"}),
        (["._a.png", ".txt", "a.png", "a.txt", "a.npy"], {"a.png": "a.txt"}),
        (["a.picture", "a.txt"], {"a.picture": "a.txt"}),  # the content decides
    ],
)
def test_the_key_ends_at_the_first_dot_and_never_merges_two_samples(
    tmp_path: Path, names: list[str], wanted: dict[str, str]
) -> None:
    """P50, P55."""
    texts = {".txt", ".caption", ".npy"}
    files = {name: name if Path(name).suffix.lower() in texts or name == ".txt" else picture() for name in names}
    found = told(open_shards(str(write_tar(tmp_path / "a.tar", files))))
    assert dict(found) == {media: (text,) for media, text in wanted.items()} and len(found) == len(wanted)


def test_a_name_that_comes_again_begins_another_sample(tmp_path: Path) -> None:
    files: Pairs = [("a.png", picture(1)), ("a.txt", "one"), ("a.png", picture(2)), ("a.txt", "two")]
    shards = open_shards(str(write_tar(tmp_path / "a.tar", files)))
    shown = [(int(np.asarray(read_image(item.source))[0, 0, 0]), item.captions) for item in shards]
    assert shown == [(1, ("one",)), (2, ("two",))]


def test_of_a_clip_and_its_thumbnail_the_clip_is_meant(tmp_path: Path) -> None:
    files: Files = {"a.jpg": picture(1, "JPEG"), "a.mp4": clip(), "a.txt": "moves"}
    assert told(open_shards(str(write_tar(tmp_path / "a.tar", files)))) == [("a.mp4", ("moves",))]


def test_samples_that_lack_a_part_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """P51."""
    files: Files = {
        "a.png": picture(), "a.txt": "whole",
        "b.txt": "no media", "c.json": '{"caption": "no media either"}',
        "d.png": picture(), "e.png": picture(), "e.txt": " \n", "f.png": picture(), "f.json": '{"caption": null}',
        "g.png": picture(), "g.json": "{cut",
        "h.png": picture(), "h.json": "{cut", "h.txt": "null",
    }  # fmt: skip
    made = open_source(f"shards:{write_tar(tmp_path / 'a.tar', files)}", DataConfig())
    assert made.texts(9) == ["whole", "null"] and made.length("image") == 2
    assert sorted(line.partition(": left out: ")[2] for line in warnings_of(caplog)) == [
        "1 samples whose .json is not JSON, and without other text",
        "2 samples without media",
        "3 samples without caption, label or question",
    ]


def test_where_nothing_is_left_the_members_seen_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.npy": b"x", "a.txt": "a", "b.npy": b"x", "b.txt": "b"})
    write_tar(tmp_path / "1.tar", {"c.jpg": picture()})
    with pytest.raises(ValueError) as caught:
        open_shards(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} holds no sample with media and text: 2 samples without media; "
        "1 samples without caption, label or question; members seen: a.npy, a.txt, c.jpg"
    )


def test_media_that_cannot_be_read_stay_in_their_place_as_files_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files: Pairs = [
        *numbered(*range(8)),
        ("00008.jpg", b""),
        ("00008.txt", "empty"),
        ("00009.jpg", "<html>"),
        ("00009.txt", "x"),
    ]
    path = write_tar(tmp_path / "a.tar", files)
    made = open_source(f"shards:{path}", DataConfig())
    (line,) = warnings_of(caplog)
    assert "2 of 10 media files are missing or cannot be read" in line and f"{path}/00008.jpg: " in line
    assert (made.length("image"), made.length("video")) == (10, 0)
    with pytest.raises(BadSample, match=r"a\.tar/00009\.jpg: "):
        made.read("image", 9, np.random.default_rng(0), ASK)
    with pytest.raises(ValueError, match="2 of 10 media files"):
        open_source(f"shards:{path}", DataConfig(on_bad_sample="raise"))


# --- tars that are cut short or none at all --------------------------------------------------------------------------


def test_whole_samples_before_a_cut_are_used_wherever_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """P52: at every block, and within blocks, against what tarfile says of the whole tar."""
    path = write_tar(tmp_path / "a.tar", numbered(1, 2, 3))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [info.offset_data + info.size for info in tar]
    last = -(-ends[-1] // 512) * 512
    cuts = [*range(600, last, 512), *range(700, last, 1024), *ends[2:], last]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        caplog.clear()
        # a picture and its text, whose third part would follow behind a clean cut, cannot be told from two parts
        least, most = (sum(end <= cut for end in ends[k::3]) for k in (2, 1))
        if not most:
            with pytest.raises(ValueError, match=f"{path} is cut short at byte {cut:,}"):
                open_shards(str(path))
            continue
        shards = open_shards(str(path))
        assert least <= len(shards) <= most
        assert [item.captions for item in shards] == [(f"text {n + 1}",) for n in range(len(shards))]
        assert [int(np.asarray(read_image(item.source))[0, 0, 0]) for item in shards] == [*range(1, len(shards) + 1)]
        (line,) = warnings_of(caplog)
        told_count = f"the whole samples before that are used: {len(shards)}"
        assert f"{path} is cut short at byte {cut:,}; {told_count}" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"<html>" * 200, "no tar file"),
        (b"\x1f\x8b\x08" + bytes(600), "compressed (gzip)"),
    ],
)
def test_a_shard_that_is_no_tar_is_named_and_the_others_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    write_tar(tmp_path / "0.tar", numbered(1))
    (tmp_path / "1.tar").write_bytes(content)
    assert len(open_shards(str(tmp_path))) == 1
    (line,) = warnings_of(caplog)
    assert f"{tmp_path / '1.tar'} is {reason}" in line
    with pytest.raises(ValueError, match=r"1\.tar is "):
        open_shards(str(tmp_path), strict=True)
    with pytest.raises(ValueError) as caught:
        open_shards(str(tmp_path / "1.tar"))
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_header_ends_a_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tar(tmp_path / "a.tar", numbered(1, 2))
    with tarfile.open(path) as tar:
        place = tar.getmember("00002.txt").offset
    content = bytearray(path.read_bytes())
    content[place + 130] = ord("z")
    path.write_bytes(content)
    assert told(open_shards(str(path))) == [("00001.png", ("text 1",))]
    assert f"is damaged at byte {place:,}" in warnings_of(caplog)[0]


# --- which tars ------------------------------------------------------------------------------------------------------


def test_braces_are_written_out_as_a_shell_does() -> None:
    assert expanded("a/{008..011}.tar") == [f"a/{number:03d}.tar" for number in range(8, 12)]
    assert expanded("{8..11}.tar") == ["8.tar", "9.tar", "10.tar", "11.tar"]
    assert expanded("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expanded("plain{}.tar") == ["plain{}.tar"]
    with pytest.raises(ValueError, match="goes backwards"):
        expanded("{9..1}.tar")


def test_patterns_name_the_same_shards(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10):
        write_tar(tmp_path / f"{number}.tar", numbered(number))
    (tmp_path / "0_stats.json").write_text("{}")
    for pattern in ("{0,1,2,10}.tar", "*.tar", ".", "{0..2}*.tar"):
        found = [item.id for item in open_shards(str(tmp_path / pattern))]
        wanted = ["id 0", "id 1", "id 2", "id 10"] if pattern != "{0..2}*.tar" else ["id 0", "id 1", "id 10", "id 2"]
        assert found == wanted, pattern
    assert [item.id for item in open_shards(str(tmp_path / "10.tar"))] == ["id 10"]


def test_gaps_are_named_and_the_rest_is_used_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """P54."""
    for number in (0, 2, 5):
        write_tar(tmp_path / f"{number:05d}.tar", numbered(number))
    pattern = str(tmp_path / "{00000..00005}.tar")
    assert [item.id for item in open_shards(pattern)] == ["id 0", "id 2", "id 5"]
    missing = ", ".join(str(tmp_path / f"0000{number}.tar") for number in (1, 3, 4))
    assert warnings_of(caplog) == [f"shards: 3 of 6 shards are missing: {missing}"]
    with pytest.raises(ValueError, match="3 of 6 shards are missing"):
        open_source(f"shards:{pattern}", DataConfig(on_bad_sample="raise"))
    for nothing in ("9{0..8}.tar", "9*.tar", "nowhere/"):
        with pytest.raises(ValueError, match=r"no shard is there: |no file matches ") as caught:
            open_source(f"shards:{tmp_path / nothing}", DataConfig())
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a folder without \.tar files"):
        open_shards(str(tmp_path / "empty"))


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_is_built_once_and_anew_when_the_tar_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", numbered(1, 2))
    built: list[str] = []
    scan = rooms.scan

    def noted(file: BinaryIO, size: int, tar: str) -> rooms.Index:
        built.append(tar)
        return scan(file, size, tar)

    monkeypatch.setattr(rooms, "scan", noted)
    first = told(open_shards(str(path)))
    assert told(open_shards(str(path))) == first and len(built) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"a.tar", "a.tar.omnivl-index"}
    write_tar(path, numbered(3, 4))
    os.utime(path, ns=(1, 1))
    assert [captions for _, captions in told(open_shards(str(path)))] == [("text 3",), ("text 4",)] and len(built) == 2
    for damage in (b"", b"PK\3\4 no index", (tmp_path / "a.tar.omnivl-index").read_bytes()[:-40]):
        (tmp_path / "a.tar.omnivl-index").write_bytes(damage)
        assert len(open_shards(str(path))) == 2
    assert len(built) == 5


def test_where_nothing_may_be_written_beside_the_tar_the_index_goes_into_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tar", numbered(1, 2))
    save = rooms.Index.save

    def refused(index: rooms.Index, place: Path, state: str) -> None:
        if place.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        save(index, place, state)

    monkeypatch.setattr(rooms.Index, "save", refused)
    first = told(open_shards(str(path)))
    (kept,) = (cache / "omnivl" / "shards").iterdir()
    monkeypatch.setattr(rooms, "scan", None)
    assert told(open_shards(str(path))) == first and kept.suffix == ".index"
    monkeypatch.undo()


def test_an_index_that_can_be_kept_nowhere_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", numbered(1))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert len(open_shards(str(path))) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"a.tar"}


# --- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, which counts what is fetched."""
    system, _ = filesystem("memory://x")
    yield system
    system.store.clear()


def test_a_url_is_read_in_ranges(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        memory.pipe(
            f"/set/{number}.tar", write_tar(tmp_path / f"{number}.tar", numbered(number, number + 10)).read_bytes()
        )
    here = [item.captions for item in open_shards(str(tmp_path / "{0..2}.tar"))]
    for pattern in ("memory://set/{0..2}.tar", "memory://set/*.tar"):
        assert [item.captions for item in open_shards(pattern)] == here
    monkeypatch.setattr(rooms, "scan", None)  # kept in the cache
    fetched: list[int] = []
    cat_file = type(memory).cat_file

    def counted(self: Any, path: str, start: int, end: int) -> Any:
        fetched.append(end - start)
        return cat_file(self, path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", counted)
    made = open_source("shards:memory://set/{0..3}.tar", DataConfig())
    there = made.read("image", 3, np.random.default_rng(0), ASK)
    assert there.text == "text 11" and len(fetched) == 3 and max(fetched) < 600, "text, json and media, once each"
    assert there.pixels is not None and (there.pixels == 11).all()
    monkeypatch.undo()
    memory.pipe("/set/1.tar", (tmp_path / "0.tar").read_bytes())
    assert len(open_shards("memory://set/1.tar")) == 2


def test_a_url_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def absent(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ValueError, match=r"^s3://b/0\.tar: reading s3:// needs .*: pip install fsspec s3fs$"):
        open_source("shards:s3://b/{0..3}.tar", DataConfig())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^nothing://b/0\.tar cannot be read: "):
        open_source("shards:nothing://b/0.tar", DataConfig())


# --- as a source -----------------------------------------------------------------------------------------------------


def sets(folder: Path, *shards: int) -> tuple[str, str]:
    """The same samples as shards of these sizes, and as files with a manifest."""
    rows = []
    for shard, size in enumerate(shards):
        numbers = range(sum(shards[:shard]), sum(shards[:shard]) + size)
        write_tar(folder / "tars" / f"{shard}.tar", numbered(*numbers))
        for number in numbers:
            (folder / f"{number}.png").write_bytes(picture(number))
            rows.append({"media": f"{number}.png", "caption": f"text {number}", "id": f"id {number}"})
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"shards:{folder / 'tars'}", f"manifest:{folder / 'a.jsonl'}"


def same(one: Sample, other: Sample) -> bool:
    assert one.pixels is not None and other.pixels is not None
    return np.array_equal(one.pixels, other.pixels) and (one.text, one.label, one.key) == (
        other.text, other.label, other.key,
    )  # fmt: skip


def test_shards_and_files_give_the_same_samples(tmp_path: Path) -> None:
    tars, files = (open_source(spec, DataConfig()) for spec in sets(tmp_path, 4, 1, 3))
    ask = Ask(16, 2, "bicubic", 0.2, True, 2)
    assert tars.length("image") == files.length("image") == 8 and tars.texts(99) == files.texts(99)
    for index in range(8):
        one, other = (made.read("image", index, np.random.default_rng(index), ask) for made in (tars, files))
        assert same(one, other)
        assert tars.read("text", index, np.random.default_rng(0), ASK).text == f"text {index}"


def test_captions_are_counted_over_samples_with_none_one_and_many(tmp_path: Path) -> None:
    files: Files = {}
    for number, captions in enumerate((["a", "b"], [], ["c"], ["d", "e", "f"])):
        files |= {f"{number}.png": picture(), f"{number}.json": json.dumps({"captions": captions, "label": "x"})}
    made = open_source(f"shards:{write_tar(tmp_path / 'a.tar', files)}", DataConfig())
    drawn = [made.read("text", i, np.random.default_rng(0), ASK).text for i in range(made.length("text"))]
    assert drawn == list("abcdef") and isinstance(made, ShardSource) and made.all_texts[1:3] == ["b", "c"]
    assert made.all_texts[-1] == "f" and made.labels == ["x"]


def test_labels_of_several_tars_are_one_list_in_numeric_order(tmp_path: Path) -> None:
    for tar, labels in enumerate((("2", "10"), ("1", "2"))):
        files: Files = {
            f"{n}{e}": c for n, label in enumerate(labels) for e, c in ((".png", picture()), (".cls", label))
        }
        write_tar(tmp_path / f"{tar}.tar", files)
    made = open_source(f"shards:{tmp_path}", DataConfig(prompts=("{}",)))
    assert isinstance(made, ShardSource) and made.labels == ["1", "2", "10"]
    drawn = [made.read("image", i, np.random.default_rng(0), ASK) for i in range(4)]
    assert [sample.label for sample in drawn] == [sample.text for sample in drawn] == ["2", "10", "1", "2"]


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fewer_shards_than_workers_and_ranks_give_equal_steps_and_every_sample_once(
    tmp_path: Path, workers: int
) -> None:
    """P53: one and two unequal shards, two ranks with up to three workers each."""
    for sizes in ((9,), (11, 1)):
        spec, _ = sets(tmp_path / str(len(sizes)), *sizes)
        source = open_source(spec, DataConfig())
        total, seen = sum(sizes), Counter[str]()
        data = DataConfig(media="image", batch_size=4)
        steps = total  # of four samples: four epochs
        for rank in range(2):
            plan = Plan(data, 0, [spec], [{"image": total}], [1], rank=rank, world=2)
            batches = PlannedBatches([source], ASK, TOKENIZER, 0, 40, "raise")
            loaded = list(training_loader(plan, batches, 0, steps, workers))
            assert len(loaded) == steps and {len(batch) for batch in loaded} == {2}
            seen.update(key for batch in loaded for key in batch.keys)
        assert seen == {f"id {number}": 4 for number in range(total)}


@pytest.mark.parametrize("size", [1, 4, 5, 64])
def test_evaluation_reads_every_sample_of_every_shard_once_in_order(tmp_path: Path, size: int) -> None:
    spec, _ = sets(tmp_path, 5, 1, 3)
    made = open_source(spec, DataConfig())
    assert isinstance(made, ShardSource)
    gallery = file_gallery(made, "test", "image", ASK)
    read = list(gallery.batches(size))
    assert [index for indices, _ in read for index in indices] == list(range(9))
    assert torch.cat([pixels for _, pixels in read])[:, 0, 0, 0, 0].tolist() == list(range(9))
    assert gallery.captions == [(f"text {n}",) for n in range(9)] and gallery.keys == [f"id {n}" for n in range(9)]


def test_a_source_of_shards_goes_to_workers_that_are_spawned(tmp_path: Path) -> None:
    spec, _ = sets(tmp_path, 3)
    made = open_source(spec, DataConfig())
    wanted = made.read("image", 1, np.random.default_rng(0), ASK)
    again = pickle.loads(pickle.dumps(made))
    assert same(again.read("image", 1, np.random.default_rng(0), ASK), wanted)
