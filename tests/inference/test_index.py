"""The index: vectors equal those made by hand, a second run reads only what changed, nothing is lost or left over."""

import gc
import importlib.util
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnivl.data.media import BadSample, read_video
from omnivl.data.media import kind as media_kind
from omnivl.inference import reader, store
from omnivl.inference.forward import BATCH
from omnivl.inference.indexer import Report
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.store import Store, Writer, read_description
from tests.data.make_media import numbered, write_video
from tests.helpers import mini_folder, picture
from tests.inference.conftest import fill

Rows = dict[str, list[tuple[float | None, float | None, np.ndarray]]]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return fill(tmp_path / "media")


@pytest.fixture
def build(pipeline: Pipeline, media: Path, tmp_path: Path) -> Callable[..., Report]:
    def run(**options: Any) -> Report:
        made = MediaIndex.build(options.pop("folders", media), pipeline, index=tmp_path / "index", **options)
        made.close()
        assert made.report is not None
        return made.report

    return run


def contents(index: Path) -> Rows:
    """path -> (start, end, vector) of its windows: all that an index holds."""
    description = read_description(index)
    assert description is not None
    opened = Store(index, description)
    vectors, rows = opened.snapshot(
        "SELECT path, start, windows.end, row FROM files JOIN windows ON windows.content = files.content "
        "ORDER BY path, number"
    )
    found: Rows = {}
    for path, start, end, row in rows:
        found.setdefault(os.fsdecode(path), []).append((start, end, np.array(vectors[row], np.float32)))
    opened.close()
    return found


def same(one: Rows, other: Rows) -> None:
    assert one.keys() == other.keys()
    for path, windows in one.items():
        assert [w[:2] for w in windows] == [w[:2] for w in other[path]], path
        for mine, yours in zip(windows, other[path], strict=True):
            np.testing.assert_allclose(mine[2], yours[2], atol=2e-3)  # batches are cut elsewhere


def embedded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the model is given from now on."""
    sizes: list[int] = []
    original = pipeline.embed

    def counting(media: Sequence[Any]) -> np.ndarray:
        sizes.append(len(media))
        return original(media)

    monkeypatch.setattr(pipeline, "embed", counting)
    return sizes


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_a_picture_is_one_vector_and_a_film_one_a_window(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path
) -> None:
    report = build()
    assert (report.found, report.embedded, report.known) == (10, 8, 1)
    assert [Path(path).name for path, _ in report.failed] == ["broken.jpg"]
    found = contents(tmp_path / "index")
    assert {Path(path).name for path in found} == {
        *(f"{i}.png" for i in range(6)),
        "copy.png",
        "moves.gif",
        "film.mp4",
    }
    for path in (media / "3.png", media / "sub" / "copy.png"):
        ((start, end, vector),) = found[str(path)]
        assert start is None and end is None
        np.testing.assert_allclose(vector, pipeline.embed(path), atol=1e-3)
    film = found[str(media / "film.mp4")]
    assert [(start, end) for start, end, _ in film] == [(0.0, 4.0), (2.0, 6.0)]
    for start, end, vector in film:
        frames = read_video(media / "film.mp4", 4, start, end).frames
        np.testing.assert_allclose(vector, pipeline.embed(frames), atol=1e-3)


def test_windows_and_stride_are_settings_that_an_index_keeps(build: Callable[..., Report], tmp_path: Path) -> None:
    build(seconds=2.0, stride=1.5)
    film = next(windows for path, windows in contents(tmp_path / "index").items() if path.endswith("film.mp4"))
    assert [(start, end) for start, end, _ in film] == [(0, 2), (1.5, 3.5), (3, 5), (4.5, 6)]
    assert build().unchanged == 9
    with pytest.raises(ValueError, match=r"every 1\.5 s, not .* --rebuild .* --window 4"):
        build(seconds=4.0)
    with pytest.raises(ValueError, match="stride"):
        build(seconds=4.0, stride=5.0)
    assert build(seconds=4.0, rebuild=True).embedded == 8


def test_windows_by_scenes_are_a_setting(build: Callable[..., Report], media: Path, tmp_path: Path) -> None:
    plain = [np.full((32, 48, 3), shade, np.uint8) for shade in (20, 200, 90) for _ in range(25)]
    write_video(media / "film.mp4", plain, fps=10)
    build(scenes=True)
    film = next(windows for path, windows in contents(tmp_path / "index").items() if path.endswith("film.mp4"))
    assert [(start, end) for start, end, _ in film] == [(0, 2.5), (2.5, 5), (5, 7.5)]
    assert build().unchanged == 9, "the index keeps it"
    with pytest.raises(ValueError, match=r"every 2 s of each scene, not .* every 2 s: .*--no-scenes"):
        build(scenes=False)


def test_vectors_that_are_cut_short_are_told_and_not_filled_up(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path
) -> None:
    build()
    (vectors,) = (tmp_path / "index").glob("*.f16")
    os.truncate(vectors, size := vectors.stat().st_size - 3)
    told = rf"{vectors.name} is cut short \({size} bytes of {size + 3}\): .*`rm -r .* omnivl index --index .* {media}`"
    with pytest.raises(ValueError, match=told):
        MediaIndex.open(tmp_path / "index", pipeline).search("a red circle")
    with pytest.raises(ValueError, match=told):
        build()
    assert vectors.stat().st_size == size
    vectors.unlink()
    with pytest.raises(ValueError, match=f"{vectors.name} is gone: make the index anew"):
        MediaIndex.open(tmp_path / "index", pipeline).search("a red circle")
    with pytest.raises(ValueError, match=f"{vectors.name} is gone: make the index anew"):
        build()
    shutil.rmtree(tmp_path / "index")
    assert build().embedded == 8


def test_an_empty_database_is_told_with_what_to_do(
    pipeline: Pipeline, build: Callable[..., Report], tmp_path: Path
) -> None:
    build()
    (database,) = (tmp_path / "index").glob("*.db")
    database.write_bytes(b"")
    told = rf"{database.name} is damaged \(no such table: \w+\): index again after `rm -r {tmp_path / 'index'}`"
    with pytest.raises(ValueError, match=told):
        build()
    with pytest.raises(ValueError, match=told):
        MediaIndex.open(tmp_path / "index", pipeline).search("a red circle")


def test_folders_that_hold_no_media_of_ours_are_left_out(build: Callable[..., Report], media: Path) -> None:
    for name in (".git", "node_modules", "@eaDir", ".hidden"):
        (media / name).mkdir()
        picture(media / name / "a.png")
    picture(media / ".a.png")
    assert build().found == 10


def test_names_of_any_bytes_are_kept(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = [b"caf\xc3\xa9 \xf0\x9f\x8c\xb2.png", b"not utf-8 \xff.png", b"a 'quote'\n.png"]
    for seed, name in enumerate(names):
        picture(folder / f"{seed}.png", seed).rename(folder / os.fsdecode(name))
    with MediaIndex.build(folder, pipeline, index=tmp_path / "index") as index:
        paths = [os.fsencode(Path(result.path).name) for result in index.search("a red circle")]
    assert sorted(paths) == sorted(names)


def test_a_date_beyond_the_calendar_is_no_reason_not_to_be_found(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path
) -> None:
    os.utime(media / "1.png", (2e10, 2e10))  # the year 2603
    report = build()
    assert str(media / "1.png") not in dict(report.failed) and build().embedded == 0
    with MediaIndex.open(tmp_path / "index", pipeline) as index:
        assert index.search(media / "1.png", 1)[0].path == str(media / "1.png")


def test_vectors_that_are_not_finite_are_never_stored(
    pipeline: Pipeline, build: Callable[..., Report], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = pipeline.embed

    def broken(media: Sequence[Any]) -> np.ndarray:
        vectors = original(media)
        vectors[0, 3] = np.nan
        return vectors

    monkeypatch.setattr(pipeline, "embed", broken)
    report = build()
    assert sum("no finite vector" in reason for _, reason in report.failed) >= 1
    stored = contents(tmp_path / "index")
    assert all(np.isfinite(vector).all() for windows in stored.values() for _, _, vector in windows)
    assert len(stored) + len(report.failed) == 10


def test_what_a_decoder_has_not_foreseen_is_told_of_its_file_alone(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pipeline.read

    def read(path: Any) -> Any:
        if str(path).endswith("2.png"):
            raise IndexError("off the map")
        return original(path)

    monkeypatch.setattr(pipeline, "read", read)
    assert (str(media / "2.png"), "cannot be read (IndexError: off the map)") in build().failed
    monkeypatch.setattr(pipeline, "read", original)
    assert build().embedded == 1


# --- the second run --------------------------------------------------------------------------------------------------


def test_a_second_run_opens_only_what_changed(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build()
    sizes = embedded(pipeline, monkeypatch)
    opened: list[str] = []
    original = reader.content_hash

    def hashing(path: str) -> bytes:
        opened.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(reader, "content_hash", hashing)
    assert build().unchanged == 9 and not opened and not sizes
    (media / "1.png").rename(media / "sub" / "moved.png")  # known by its bytes
    shutil.copy(media / "film.mp4", media / "again.mp4")
    os.utime(media / "2.png", (1, 1))
    picture(media / "3.png", 99)
    report = build()
    assert sorted(opened) == ["2.png", "3.png", "again.mp4", "moved.png"] and sizes == [1]
    assert (report.embedded, report.known, report.removed) == (1, 3, 1)
    found = contents(tmp_path / "index")
    assert str(media / "1.png") not in found and len(found[str(media / "again.mp4")]) == 2
    shutil.rmtree(tmp_path / "index")
    build()
    same(found, contents(tmp_path / "index"))


def test_copies_in_one_run_are_embedded_once(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(20):
        picture(folder / f"{number}.png", number % 2)
        (folder / f"{number}.jpg").write_text("no picture")
    sizes = embedded(pipeline, monkeypatch)
    report = MediaIndex.build(folder, pipeline, index=tmp_path / "index").report
    assert report is not None and sum(sizes) == 2 and (report.embedded, report.known) == (2, 18)
    assert len(report.failed) == 20 and len(contents(tmp_path / "index")) == 20


def test_deleted_files_leave_but_an_unmounted_disk_empties_nothing(build: Callable[..., Report], media: Path) -> None:
    build()
    (media / "0.png").unlink()
    shutil.rmtree(media / "sub")
    assert build().removed == 3
    away = media.with_name("away")
    media.rename(away)
    report = build()
    assert report.removed == 0 and "is not there: 7 files" in report.kept[0] and "no such folder" in report.failed[0][1]
    media.mkdir()  # the mount point alone
    report = build()
    assert report.removed == 0 and "is empty: 7 files" in report.kept[0] and not report.failed
    media.rmdir()
    away.rename(media)
    assert build().unchanged == 6
    shutil.rmtree(media)
    media.mkdir()
    assert build(prune=True).removed == 7


def test_without_folders_those_of_the_index_are_brought_up_to_date(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="name the folders"):
        build(folders=[])
    other = fill(tmp_path / "other", 2)
    build(folders=[media, other])
    (other / "1.png").unlink()
    report = build(folders=[])
    assert report.found == 15 and report.removed == 1
    assert build(folders=other).found == 5, "files of other folders are not looked for"
    assert len(contents(tmp_path / "index")) == 13


def test_a_pipe_in_a_folder_is_refused_and_holds_nothing_up(build: Callable[..., Report], media: Path) -> None:
    os.mkfifo(media / "pipe.jpg")
    os.mkfifo(media / "pipe.mp4")
    report = build()
    told = "cannot be opened (it is not a regular file)"
    assert {(str(media / name), told) for name in ("pipe.jpg", "pipe.mp4")} <= set(report.failed)
    assert report.embedded + report.known == 9, "all the others but the broken one"


def test_files_refused_for_a_missing_extra_are_tried_again_once_it_is_there(
    build: Callable[..., Report], media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, refusing, tried = media / "photo.heic", [True], []
    picture(media / "photo.png", 50).rename(photo)
    original = media_kind

    def kind(path: str) -> Any:
        if path == str(photo):
            tried.append(path)
            if refusing:
                raise BadSample(f'{path}: HEIC needs a decoder: pip install "omnivl[heic]"')
        return original(path)

    monkeypatch.setattr(reader, "kind", kind)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (str(photo), 'HEIC needs a decoder: pip install "omnivl[heic]"') in build().failed
    assert build().unchanged == 9 and len(tried) == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "pi_heif" else None)
    refusing.clear()
    assert build().embedded == 1 and len(tried) == 2
    assert build().unchanged == 10 and len(tried) == 2


def test_rows_that_nothing_needs_are_given_back(
    build: Callable[..., Report], media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    before = contents(tmp_path / "index")
    monkeypatch.setattr(store, "SPARE", 2)
    for name in ("0.png", "2.png", "3.png", "4.png", "sub/copy.png", "sub/moves.gif"):
        (media / name).unlink()
    build()
    after = contents(tmp_path / "index")
    same(after, {path: windows for path, windows in before.items() if path in after})
    (vectors,) = (tmp_path / "index").glob("vectors-*")
    assert vectors.name.endswith("-2.f16") and vectors.stat().st_size == 4 * 16 * 2


# --- who may write, and with which model -----------------------------------------------------------------------------


def test_a_second_writer_is_told_so_and_readers_go_on(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path
) -> None:
    build()
    description = read_description(tmp_path / "index")
    assert description is not None
    with MediaIndex.open(tmp_path / "index", pipeline) as index:
        writer = Writer(tmp_path / "index", description)
        with pytest.raises(ValueError, match="written to by another"):
            build()
        assert len(index.search("a red circle", 20)) == 9
        writer.close()
        picture(media / "new.png", 77)
        build()
        assert len(index.search("a red circle", 20)) == 10, "a reader sees what was added since"


def test_an_index_of_another_model_is_refused_and_stays_until_the_new_one_is_whole(
    pipeline: Pipeline, build: Callable[..., Report], media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    other = Pipeline.from_pretrained(mini_folder(tmp_path / "other-model", seed=1), device="cpu")
    index = tmp_path / "index"
    for act in (lambda: MediaIndex.open(index, other), lambda: MediaIndex.build(media, other, index=index)):
        with pytest.raises(ValueError, match=r"made by .*mini.*, not by .*other-model.* --rebuild .*other-model"):
            act()
    original, calls = other.embed, []

    def fails(media: Sequence[Any]) -> np.ndarray:
        calls.append(len(media))
        if len(calls) > 1:
            raise RuntimeError("the machine caught fire")
        return original(media)

    monkeypatch.setattr(other, "embed", fails)
    with pytest.raises(RuntimeError, match="fire"):
        MediaIndex.build(media, other, index=index, rebuild=True)
    with MediaIndex.open(index, pipeline) as opened:
        assert len(opened.search("a red circle", 20)) == 9, "the old one stays"
    monkeypatch.setattr(other, "embed", original)
    made = MediaIndex.build([], other, index=index, rebuild=True)
    assert made.report is not None and made.report.unchanged + made.report.unreadable >= 1, (
        "what was made before the fire is kept"
    )
    assert len(made.search("a red circle", 20)) == 9
    assert len(list(index.glob("media-*.db"))) == len(list(index.glob("vectors-*"))) == 1
    with pytest.raises(ValueError, match="not by"):
        MediaIndex.open(index, pipeline)


@pytest.mark.parametrize("text", ["{}", '{"format_version": 99}', "not json", '{"format_version": 1, "model": 3}'])
def test_a_damaged_description_is_one_sentence(build: Callable[..., Report], tmp_path: Path, text: str) -> None:
    build()
    (tmp_path / "index" / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json") as told:
        build()
    assert "\n" not in str(told.value)


def test_a_damaged_database_is_one_sentence(pipeline: Pipeline, build: Callable[..., Report], tmp_path: Path) -> None:
    build()
    (database,) = (tmp_path / "index").glob("media-*.db")
    database.write_bytes(b"no database at all" * 500)
    for act in (build, lambda: MediaIndex.open(tmp_path / "index", pipeline).search("a red circle")):
        with pytest.raises(ValueError, match=r"\.db is damaged"):
            act()
    database.unlink()
    with pytest.raises(ValueError, match="is missing"):
        MediaIndex.open(tmp_path / "index", pipeline)


# --- killed ----------------------------------------------------------------------------------------------------------


def kill_and_go_on(pipeline: Pipeline, folder: Path, index: Path, kills: int, seconds: float) -> list[int]:
    """Index in a child process that is killed (-9) at random moments, then once to the end; rows after each kill."""
    delays, rows = random.Random(kills), [0]
    for _ in range(kills):
        gc.collect()  # decoders whose threads a child does not have must not be freed in it
        gc.freeze()
        child = os.fork()
        if child == 0:
            try:
                MediaIndex.build(folder, pipeline, index=index)
                os._exit(0)
            finally:
                os._exit(1)
        time.sleep(delays.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        gc.unfreeze()
        assert status in (0, signal.SIGKILL), "it ended in another way"
        description = read_description(index)
        if description is not None:
            opened = Store(index, description)
            rows.append(opened.meta("rows"))
            opened.close()
    MediaIndex.build(folder, pipeline, index=index).close()
    return rows


def check_kills(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, seconds: float
) -> None:
    monkeypatch.setitem(BATCH, "image", 2)
    monkeypatch.setitem(BATCH, "video", 2)
    folder = fill(tmp_path / "media", 40)
    write_video(folder / "long.mp4", numbered(240, first=101), fps=10)
    MediaIndex.build(folder, pipeline, index=tmp_path / "whole").close()
    original = pipeline.embed

    def slowly(media: Sequence[Any]) -> np.ndarray:
        time.sleep(0.02)
        return original(media)

    monkeypatch.setattr(pipeline, "embed", slowly)
    rows = kill_and_go_on(pipeline, folder, tmp_path / "killed", kills, seconds)
    assert rows == sorted(rows), "what was stored stays"
    expected = contents(tmp_path / "whole")
    total = len({vector.tobytes() for windows in expected.values() for _, _, vector in windows})
    assert any(0 < count < total for count in rows), f"it was never killed in the middle: {rows} of {total}"
    same(contents(tmp_path / "killed"), expected)
    (vectors,) = (tmp_path / "killed").glob("vectors-*")
    assert vectors.stat().st_size == total * 16 * 2, "no row is left over, none is there twice"


def test_killed_at_any_moment_it_goes_on_and_ends_as_if_it_had_not_been(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_kills(pipeline, tmp_path, monkeypatch, 4, 0.4)


@pytest.mark.long
def test_killed_twenty_times(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_kills(pipeline, tmp_path, monkeypatch, 20, 0.25)
