"""index, search and moments as they are typed."""

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnivl.cli import main
from tests.helpers import mini_folder, picture
from tests.inference.conftest import fill

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mini_folder(tmp_path_factory.mktemp("cli") / "mini"))


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("OMNIVL_MODEL", raising=False)
    monkeypatch.setenv("OMNIVL_INDEX", str(tmp_path / "index"))
    yield


def test_index_then_search(capfd: Capture, tmp_path: Path, model: str) -> None:
    media = fill(tmp_path / "media")
    assert main(["index", str(media), "--model", model]) == 1  # one file cannot be read
    out, err = capfd.readouterr()
    assert out == "10 files, 8 new, 1 known\n" and "broken.jpg: is neither" in err and "10/10 files" in err
    assert main(["index"]) == 1
    out, err = capfd.readouterr()
    assert out == "10 files, 9 unchanged, 1 still unreadable\n"
    assert err.count("omnivl: 1 file still cannot be read; omnivl index --errors lists it\n") == 1
    assert main(["index", "--errors"]) == 0
    assert capfd.readouterr().out.startswith(f"{media}/broken.jpg\tis neither")

    assert main(["search", "a red circle", "--top", "3", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["query"] == "a red circle" and len(found["results"]) == 3
    assert main(["search", "a red circle", "--json", "--type", "video", "--min-duration", "1"]) == 0
    (film,) = json.loads(capfd.readouterr().out)["results"]
    assert set(film) == {"path", "media", "score", "kind", "start", "end"} and film["media"] == "video"
    assert main(["search", str(media / "0.png"), "-t", "2", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["results"]
    assert {Path(row["path"]).name for row in rows} == {"0.png", "copy.png"}
    assert set(rows[0]) == {"path", "media", "score", "kind"}
    assert main(["search", "a red circle", "--in", "sub", "-0"]) == 0
    paths = capfd.readouterr().out.split("\0")
    assert sorted(paths) == ["", str(media / "sub" / "copy.png"), str(media / "sub" / "moves.gif")]
    assert main(["search", "a red circle", "--paths-only", "-t", "1"]) == 0
    assert Path(capfd.readouterr().out.rstrip("\n")).exists()
    assert main(["search", "a red circle", "--min-match", "1"]) == 0
    out, err = capfd.readouterr()
    assert out == "" and "nothing matches (best 0." in err
    assert main(["search", "a red circle", "--rerank", "2", "-t", "3"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [re.fullmatch(r"0\.\d{3} \(-?0\.\d{3}\)\t.*", line) is not None for line in lines] == [True, True, False]
    assert main(["search", "a red circle", "--rerank", "1", "-t", "1", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["results"]
    assert row["kind"] == "match" and -1 <= row["similarity"] <= 1


def test_a_file_that_is_not_there_is_a_text_and_told(capfd: Capture, tmp_path: Path, model: str) -> None:
    assert main(["index", str(fill(tmp_path / "media")), "--model", model]) == 1
    capfd.readouterr()
    assert main(["search", "holiday.jpg", "-t", "1"]) == 0
    assert "no file holiday.jpg: it is searched for as a text" in capfd.readouterr().err
    assert main(["search", "a red circle. " * 400, "-t", "1"]) == 0, "too long for a name"


def test_search_in_a_folder_indexes_what_is_missing_first(capfd: Capture, tmp_path: Path, model: str) -> None:
    (media := tmp_path / "media").mkdir()
    picture(media / "a.png")
    words = ["search", "a red circle", str(media), "--model", model, "--paths-only"]
    assert main([*words, "--no-update"]) == 2
    assert "there is no index" in capfd.readouterr().err
    assert main(words) == 0
    assert capfd.readouterr().out == f"{media / 'a.png'}\n"
    picture(media / "b.png", 1)
    assert main([*words, "--no-update"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1
    picture(tmp_path / "elsewhere.png", 2)
    assert main(["search", "a red circle", str(media), "--paths-only"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    (media / "a.png").unlink()
    assert main([*words, "--no-update"]) == 0
    assert capfd.readouterr().out == f"{media / 'b.png'}\n"


def test_moments_of_a_film(capfd: Capture, tmp_path: Path, model: str) -> None:
    film = str(fill(tmp_path / "media") / "film.mp4")
    assert main(["moments", film, "a red circle", "--model", model]) == 0
    line = capfd.readouterr().out.splitlines()[0]
    assert line.split("\t")[1].count(":") == 2
    assert main(["moments", film, "a red circle", "--model", model, "--json", "-t", "1"]) == 0
    found = json.loads(capfd.readouterr().out)
    (moment,) = found["results"]
    assert set(moment) == {"path", "media", "kind", "start", "end", "score"} and moment["media"] == "video"


def test_a_folder_that_is_not_there_is_named_and_the_others_are_done(
    capfd: Capture, tmp_path: Path, model: str
) -> None:
    (media := tmp_path / "media").mkdir()
    picture(media / "a.png")
    assert main(["index", str(tmp_path / "gone"), str(media), "--model", model]) == 1
    out, err = capfd.readouterr()
    assert out == "1 files, 1 new\n" and f"{tmp_path / 'gone'}: no such folder" in err
    assert main(["index", str(media / "a.png"), str(media)]) == 1
    assert f"{media / 'a.png'}: is not a folder" in capfd.readouterr().err
    assert main(["index", str(tmp_path / "gone")]) == 2
    capfd.readouterr()
    assert main(["index"]) == 0, "what is no folder was not kept as one"
    media.rename(tmp_path / "away")
    assert main(["index"]) == 1, "a folder of the index that is away is not refused"
    assert "1 files below it stay" in capfd.readouterr().err


def test_a_full_disk_ends_the_run_in_one_sentence_and_the_next_goes_on(
    capfd: Capture, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = fill(tmp_path / "media")
    (media / "broken.jpg").unlink()
    written: list[int] = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert main(["index", str(media), "--model", model]) == 1
    err = capfd.readouterr().err
    assert "omnivl: the index cannot be written (No space left on device); what it had stays" in err
    assert main(["index", str(media), "--model", model]) == 0
    assert main(["search", "a red circle", "--paths-only", "-t", "50"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1 + 9


def test_a_name_that_is_no_text_is_written_as_the_system_has_it(
    capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, model: str
) -> None:
    (media := tmp_path / "media").mkdir()
    picture(media / "a.png").rename(media / os.fsdecode(b"\xff\n.png"))
    (media / os.fsdecode(b"bad\xff.jpg")).write_text("no picture")
    assert main(["index", str(media), "--model", model]) == 1
    assert b"bad\\xff.jpg" in capfdbinary.readouterr().err
    for option, end in (("-0", b"\0"), ("--paths-only", b"\n")):
        assert main(["search", "a red circle", option]) == 0
        assert capfdbinary.readouterr().out == os.fsencode(media) + b"/\xff\n.png" + end
    assert main(["search", "a red circle"]) == 0
    assert capfdbinary.readouterr().out.endswith(b"/\xff\\n.png\n"), "one line"
    assert main(["search", "a red circle", "--json"]) == 0
    (row,) = json.loads(capfdbinary.readouterr().out.decode("utf-8"))["results"]
    assert os.fsencode(row["path"]) == os.fsencode(media) + b"/\xff\n.png"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["index"], "no model was given"),
        (["index", "--model", "MODEL"], "name the folders to index"),
        (["index", "--errors"], "there is no index"),
        (["index", ".", "--model", "MODEL", "--stride", "9"], "at most the length"),
        (["index", ".", "--model", "MODEL", "--window", "1e-6"], "at least 0.05 s"),
        (["index", ".", "--model", "MODEL", "--stride", "1e-9"], "at least 0.05 s"),
        (["index", ".", "--model", "nowhere"], "no such folder"),
        (["index", "nope", "--model", "MODEL"], "nope: no such folder"),
        (["index", "~no-such-user", "--model", "MODEL"], "~no-such-user: no such folder"),
        (["index", ".", "--model", "~no-such-user/m"], "no such folder"),
        (["search", "a", "--index", "~no-such-user/i"], "there is no index"),
        (["index", "MODEL/config.json", "--model", "MODEL"], "config.json: is not a folder"),
        (["search", "a red circle", "--model", "MODEL"], "there is no index"),
        (["search", "a red circle"], "there is no index"),
        (["search", "a", "--index", "MODEL/config.json"], "config.json is a file: an index is a folder"),
        (["index", ".", "--index", "MODEL/config.json", "--model", "MODEL"], "config.json is a file: an index is a"),
        (["serve", "--index", "MODEL/config.json"], "config.json is a file: an index is a folder"),
        (["search", " ", "--model", "MODEL"], "the query is empty"),
        (["search", "a", "nowhere", "--model", "MODEL"], "nowhere is not a folder"),
        (["search", "a", "--after", "soon"], "'soon' is not a date"),
        (["moments", "nowhere.mp4", "a", "--model", "MODEL"], "no such file"),
        (["moments", "nowhere.mp4", "", "--model", "MODEL"], "the text is empty"),
        (["moments", "nowhere.mp4", "a"], "no model was given"),
    ],
)
def test_what_cannot_begin_is_one_sentence(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("MODEL", model) for word in words]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("omnivl: ") and err.count("\n") == 1 and told in err
    assert not (tmp_path / "index").exists()
