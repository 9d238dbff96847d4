"""Bulk embedding with Ray: the vectors of one machine, nothing lost with a worker; media by URL."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from omnivl.cli import main
from omnivl.data import remote
from omnivl.inference import bulk
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.reader import ALWAYS, End, File, Part, Reader
from omnivl.inference.store import Settings
from tests.helpers import mini_folder
from tests.inference.conftest import fill
from tests.inference.test_index import contents, same


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster of this machine's, with two workers at most."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = bulk.import_ray()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # a short name: its sockets lie in there
        ray.init(num_cpus=2, object_store_memory=100 << 20, _temp_dir=folder, **quiet)
        yield ray
        ray.shutdown()


def workers() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::MapWorker(MapBatches(Worker)") and b"OMNIVL_TEST=ours" in status:
            found.append(int(folder.name))
    return found


@pytest.mark.long
def test_with_ray_an_index_has_the_vectors_of_one_machine_though_a_worker_is_killed(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("OMNIVL_TEST", "ours")
    monkeypatch.setattr(bulk, "TOGETHER", 4)
    request.getfixturevalue("ray")
    media = fill(tmp_path / "media", pictures=40)
    killed: list[int] = []
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, read: int, size: int) -> None:
        told.append((done, total))
        if done >= 4 and not killed:
            killed.extend(workers()[:1])
            for process in killed:
                os.kill(process, signal.SIGKILL)

    url = f"file://{media}"
    with MediaIndex.build(url, pipeline, index=tmp_path / "bulk", engine="ray", progress=progress) as index:
        assert len(killed) == 1 and told[-1] == (44, 44)
        assert index.report and (index.report.embedded, index.report.known) == (42, 1)
        assert [path for path, _ in index.report.failed] == [f"{url}/broken.jpg"]
        (found,) = index.search(media / "7.png", 1)
        assert found.path == f"{url}/7.png"
    MediaIndex.build(media, pipeline, index=tmp_path / "plain").close()
    same(
        {path.removeprefix("file://"): rows for path, rows in contents(tmp_path / "bulk").items()},
        contents(tmp_path / "plain"),
    )
    with MediaIndex.build([], pipeline, index=tmp_path / "bulk", engine="ray") as again:
        assert again.report and again.report.unchanged == 43


# --- the parts, without a cluster ------------------------------------------------------------------------------------


def by_hand(pipeline: Pipeline, known: dict[bytes, int]) -> bulk.Worker:
    worker = bulk.Worker.__new__(bulk.Worker)
    worker.pipeline, worker.reader = pipeline, Reader(pipeline, Settings(4), known, 0)
    return worker


def batch(files: list[File]) -> dict[str, Any]:
    return {name: [getattr(file, name) for file in files] for name in ("path", "size", "mtime")}


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_worker_s_rows_are_the_reader_s_messages_with_vectors(pipeline: Pipeline, tmp_path: Path) -> None:
    media = fill(tmp_path / "media", pictures=3)
    files = [
        File(os.fsencode(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(media.rglob("*.*")) if p.is_file()
    ]
    worker = by_hand(pipeline, {})
    rows = rows_of(worker(batch(files[:3]))) + rows_of(worker(batch(files[3:])))
    rows += rows_of(worker(batch(files[:3])))  # of a worker that was thought dead
    found = list(bulk.received(iter(rows), {}))
    expected = [message for file in files for message in by_hand(pipeline, {}).reader.parts(file)]
    parts = [message for message in found if isinstance(message, Part)]
    wanted = {key(message): message.loaded for message in expected if isinstance(message, Part)}
    assert sorted(map(key, parts)) == sorted(wanted), "copies count once"
    for part in parts:
        assert isinstance(part.loaded, np.ndarray)
        np.testing.assert_allclose(part.loaded, pipeline.embed([wanted[key(part)]])[0], atol=1e-5)
    ends = [message for message in found if isinstance(message, End)]
    assert len(ends) == len(files) + 3 and sum(end.content is not None for end in ends) == 5
    assert [Path(os.fsdecode(end.file.path)).name for end in ends if end.error] == ["broken.jpg"]


def key(part: Part) -> tuple[bytes, int]:
    return part.content.hash, part.number


def test_what_is_known_is_not_embedded_again_and_a_film_goes_on_where_it_was(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    media = fill(tmp_path / "media", pictures=1)
    files = [File(os.fsencode(media / name), 1, 1) for name in ("0.png", "film.mp4")]
    first = list(bulk.received(iter(rows_of(by_hand(pipeline, {})(batch(files)))), {}))
    picture_hash, film_hash = (end.hash for end in first if isinstance(end, End))
    known = {picture_hash: -1, film_hash: 1}
    later = list(bulk.received(iter(rows_of(by_hand(pipeline, known)(batch(files)))), known))
    assert [type(message) for message in later] == [End, Part, End]
    assert isinstance(later[1], Part) and later[1].number == 1 and later[1].content.stored == 1


def test_a_copy_that_failed_with_another_worker_takes_nothing_from_the_index(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    media = fill(tmp_path / "media", pictures=1)
    (row,) = rows_of(by_hand(pipeline, {})(batch([File(os.fsencode(media / "0.png"), 1, 1)])))
    failed: dict[str, Any] = {"kind": "image", "taken": None, "error": "cannot be read", "retry": ALWAYS, "spans": []}
    copy = row | {"path": os.fsencode(media / "copy.png"), "about": json.dumps(failed), "vectors": b""}
    *_, first, last = bulk.received(iter([row, copy]), {})
    assert isinstance(first, End) and isinstance(last, End) and first.content is not None
    assert last == End(File(copy["path"], 1, 1), first.hash)


def test_ray_that_is_not_there_is_named_with_its_command_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "media").mkdir()
    words = ["index", str(tmp_path / "media"), "--model", str(mini_folder(tmp_path / "mini")), "--engine", "ray"]
    assert main([*words, "--index", str(tmp_path / "index")]) == 2
    assert capfd.readouterr().err == 'omnivl: bulk work needs Ray: pip install "omnivl[ray]"\n'
    assert not (tmp_path / "index").exists()


# --- media by URL ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path: Path) -> Callable[[], str]:
    """The usual media in a file system in memory."""
    system, media = fsspec.filesystem("memory"), fill(tmp_path / "media")
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)
    system.put(f"{media}/", "/bucket/photos/", recursive=True)
    system.pipe_file("/bucket/photos/.hidden/a.png", b"")
    system.pipe_file("/bucket/photos/notes.txt", b"")
    return lambda: "memory://bucket/photos"


def test_media_by_url_are_indexed_as_files_are(pipeline: Pipeline, tmp_path: Path, bucket: Callable[[], str]) -> None:
    with MediaIndex.build(tmp_path / "media", pipeline, index=tmp_path / "plain") as plain:
        expected = plain.search("a red circle", 20)
    with MediaIndex.build(bucket() + "/", pipeline, index=tmp_path / "index") as index:
        assert index.report and (index.report.found, index.report.embedded, index.report.known) == (10, 8, 1)
        (failed,) = index.report.failed
        assert failed[0].endswith("photos/broken.jpg") and failed[1].startswith("is neither a picture nor a video")
        found = index.search("a red circle", 20)
        assert [(r.media, r.start) for r in found] == [(r.media, r.start) for r in expected]
        assert [r.score for r in found] == pytest.approx([r.score for r in expected], abs=1e-5)
        judged = index.find("a red circle", 3, rerank=5).results
        assert len(judged) == 3 and judged[0].kind == "match"
        (film,) = [r.path for r in found if r.path.endswith("mp4")]
    fsspec.filesystem("memory").rm("/bucket/photos/1.png")
    with MediaIndex.build([], pipeline, index=tmp_path / "index") as index:
        assert index.report and (index.report.unchanged, index.report.removed) == (8, 1)
        assert film in {r.path for r in index.search("a red circle", 20)}


def test_a_url_that_cannot_be_fetched_is_that_file_s_fault(
    pipeline: Pipeline, tmp_path: Path, bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(fsspec.filesystem("memory")).get_file

    def broken(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        if path.endswith("2.png"):
            raise RuntimeError("the bucket is asleep")
        return original(self, path, *rest, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", broken)
    with MediaIndex.build(bucket(), pipeline, index=tmp_path / "index") as index:
        assert index.report
        (reason,) = [reason for path, reason in index.report.failed if path.endswith("2.png")]
        assert reason == "cannot be opened (RuntimeError: the bucket is asleep)"
    monkeypatch.undo()
    with MediaIndex.build([], pipeline, index=tmp_path / "index") as index:
        assert index.report and index.report.embedded == 1, "such files are tried again each time"


def test_urls_that_are_none_are_told(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nosuch://x cannot be read"):
        MediaIndex.build("nosuch://x", pipeline, index=tmp_path / "index")
    with pytest.raises(ValueError, match="an engine is ray or none, got 'spark'"):
        MediaIndex.build(tmp_path, pipeline, index=tmp_path / "index", engine="spark")


def test_changes_are_dated_however_a_file_system_says_it() -> None:
    moment = 1_700_000_000 * 10**9
    for facts in ({"mtime": 1.7e9}, {"updated": "2023-11-14T22:13:20+00:00"}, {"LastModified": "2023-11-14T22:13:20Z"}):
        assert remote.changed(facts) == moment
    assert remote.changed({}) == 0
