"""An index in Milvus Lite finds what the folder's index finds; what Milvus refuses is one sentence."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from omnivl.cli import main
from omnivl.inference import filling
from omnivl.inference.filling import Filler
from omnivl.inference.filters import Filters
from omnivl.inference.identity import describe
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.milvus import Collection, expression, known_index, located, shown
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.search import Exact
from omnivl.inference.server.app import create_app
from omnivl.inference.store import Description, Settings, Writer
from tests.helpers import mini_folder, picture
from tests.inference.conftest import fill

WIDTH = 32


def made_up(folder: Path, count: int, seconds: float | None = None) -> tuple[Writer, np.ndarray]:
    """A folder's index of `count` made-up vectors (N, E), pictures and every fourth a film."""
    writer = Writer(folder, Description("made up", "f", WIDTH, Settings(8)))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, WIDTH)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    with writer.transaction():
        assert writer.append(vectors) == 0
        for i in range(count):
            video = i % 4 == 0
            span = (2.0 * (i % 3), 2.0 * (i % 3) + 4) if video else (None, None)
            day = f"20{10 + i % 10}-0{1 + i % 9}-01T00:00:00"
            name = f'/nowhere/{"ab"[i % 2]}_%/{"Holiday" if i % 5 == 0 else "x"}/é "{i}".jpg'.encode()
            values = (i + 1, f"{i:016}".encode(), "video" if video else "image", span[1])
            writer.execute("INSERT INTO contents (id, hash, kind, duration, done) VALUES (?, ?, ?, ?, 1)", values)
            writer.execute("INSERT INTO windows VALUES (?, 0, ?, ?, ?)", (i + 1, i, *span))
            writer.execute(
                "INSERT INTO files (path, size, mtime, taken, content) VALUES (?, 0, 0, ?, ?)", (name, day, i + 1)
            )
    return writer, vectors


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Writer, np.ndarray, Collection]]:
    folder = tmp_path_factory.mktemp("large")
    writer, vectors = made_up(folder / "catalogue", 20_000)
    with closing(Filler(str(folder / "large.db"))) as collection:
        assert collection.fill(writer) == []
    with closing(Collection(str(folder / "large.db"))) as collection:
        yield writer, vectors, collection
    writer.close()


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(kind="video"),
        Filters(folders=("Holiday",)),
        Filters(folders=("b_%",), after="2012", before="2017-05"),
        Filters(folders=("bx%",)),
        Filters(folders=("/nowhere/a_%/Holiday", "Holiday"), min_duration=5),
        Filters(max_duration=6.5),
    ],
)
def test_twenty_thousand_vectors_are_found_as_by_the_exact_product(
    large: tuple[Writer, np.ndarray, Collection], filters: Filters
) -> None:
    writer, vectors, collection = large
    rows = np.array([row for row, _ in writer.execute(*filters.query())], np.int64)
    for query in np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32):
        expected, scores = Exact(vectors).search(query, 50, rows)
        hits = collection.nearest(query, 50, filters)
        assert [hit.file for hit in hits] == (expected + 1).tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-4)
        for hit in hits[:3]:
            (told,) = writer.execute(
                "SELECT path, kind, start, windows.end FROM files JOIN contents ON contents.id = files.content JOIN "
                "windows ON windows.content = contents.id WHERE files.id = ?",
                (hit.file,),
            )
            assert (hit.path, hit.kind, hit.start, hit.end) == (told[0].decode(), *told[1:])


def test_conditions_are_one_expression_with_nothing_let_through(tmp_path: Path) -> None:
    assert expression(Filters()) == ""
    odd = tmp_path / 'a "b" \\ c'
    odd.mkdir()
    assert expression(Filters(folders=(str(odd),))).startswith(f'path >= "{tmp_path}/a \\"b\\" \\\\ c/" and path < ')
    assert expression(Filters(kind="image", folders=('x" or 1 == 1',))) == (
        'kind == "image" and path like "%/x\\" or 1 == 1/%"'
    )


def test_only_what_changed_is_sent_and_what_a_killed_run_did_not_note_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "TOGETHER", 10)
    writer, vectors = made_up(tmp_path / "catalogue", 40)
    with closing(Filler(str(tmp_path / "a.db"))) as filler:
        sent: list[int] = []
        upsert = filler.client.upsert

        def counted(name: str, rows: list[Any], **options: Any) -> Any:
            if len(sent) == 2 and not sent[1]:
                raise KeyboardInterrupt
            sent.append(len(rows))
            return upsert(name, rows, **options)

        monkeypatch.setattr(filler.client, "upsert", counted)
        sent += [0, 0]
        with pytest.raises(KeyboardInterrupt):
            filler.fill(writer)
        assert not filler.exists(), "nothing is searched before it is whole"
        sent.clear()
        filler.fill(writer)
        assert sent == [10] * 4
        writer.execute("DELETE FROM files WHERE id IN (3, 4)")
        writer.execute("UPDATE files SET taken = '1999-01-01T00:00:00' WHERE id = 5")
        sent.clear()
        filler.fill(writer)
        assert sent == [1]
        files = [hit.file for hit in filler.nearest(vectors[2].astype(np.float32), 100, Filters())]
        assert sorted(files) == [i + 1 for i in range(40) if i not in (2, 3)]
        assert [hit.file for hit in filler.nearest(vectors[4], 9, Filters(before="2000"))] == [5]
        # rows that were lost there are noticed, and all of it is sent
        filler.client.delete("omnivl", filter="file == 7")
        sent.clear()
        filler.fill(writer)
        assert sum(sent) == 38
    writer.close()


def test_the_index_of_a_folder_answers_alike(pipeline: Pipeline, tmp_path: Path) -> None:
    media = fill(tmp_path / "media")
    place = f"milvus:{tmp_path / 'local.db'}"
    with (
        MediaIndex.build(media, pipeline, index=tmp_path / "index") as plain,
        MediaIndex.build(media, pipeline, index=place) as there,
    ):
        assert (there.report.embedded, there.report.known) == (8, 1) if there.report else False
        assert there.store.count() == 9 and there.store.roots() == [str(media)]
        for filters in (Filters(), Filters(kind="video"), Filters(folders=("sub",)), Filters(min_duration=1)):
            for rerank in (0, 4):
                mine = there.find("a red circle", 9, filters=filters, rerank=rerank).results
                theirs = plain.find("a red circle", 9, filters=filters, rerank=rerank).results
                assert [(r.media, r.kind, r.start) for r in mine] == [(r.media, r.kind, r.start) for r in theirs]
                assert {r.path for r in mine} == {r.path for r in theirs}  # copies are level
                assert [r.score for r in mine] == pytest.approx([r.score for r in theirs], abs=1e-4)
        first = there.search("a red circle", 1)[0]
        assert there.store.path_of(first.id) == first.path and there.store.path_of(10**6) is None
    (media / "1.png").unlink()
    with MediaIndex.open(place, pipeline) as there:
        assert str(media / "1.png") not in {r.path for r in there.search("a red circle", 50)}, "gone (P103)"
    media.rename(tmp_path / "elsewhere")
    with MediaIndex.open(place, pipeline) as there:
        assert len(there.search("a red circle", 50)) == 9, "a machine without the media still searches"
    (tmp_path / "elsewhere").rename(media)
    with MediaIndex.build([], pipeline, index=place) as there:
        assert there.report and there.report.removed == 1 and there.store.count() == 8
    other = Pipeline(type(pipeline.model)(pipeline.config), pipeline.tokenizer)
    with pytest.raises(ValueError, match=r"local\.db was made by .*--rebuild --index milvus:"):
        MediaIndex.open(place, other)
    with MediaIndex.build([], other, index=place, rebuild=True) as there:
        assert there.store.description.fingerprint == describe(other, None).fingerprint
        assert there.search("a red circle", 50)


def test_a_graph_of_milvus_answers_alike(tmp_path: Path) -> None:
    writer, vectors = made_up(tmp_path / "catalogue", 500)
    writer.description = Description("made up", "f", WIDTH, Settings(8, backend="faiss"))
    with closing(Filler(str(tmp_path / "a.db"))) as filler:
        filler.fill(writer)
        found = [[h.file - 1 for h in filler.nearest(vector.astype("f4"), 5, Filters())] for vector in vectors[:20]]
    exact = [Exact(vectors).search(vector.astype("f4"), 5, np.arange(500))[0].tolist() for vector in vectors[:20]]
    assert sum(len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)) >= 97
    writer.close()


def test_names_that_are_no_text_are_told(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    picture(tmp_path / "media" / "a.png")
    odd = os.fsdecode(os.fsencode(tmp_path / "media") + b"/\xff.png")
    Path(odd).write_bytes((tmp_path / "media" / "a.png").read_bytes())
    with MediaIndex.build(tmp_path / "media", pipeline, index=f"milvus:{tmp_path}/a.db") as index:
        assert index.report and [path for path, _ in index.report.failed] == [odd]
        assert len(index.search("a red circle")) == 1


def test_the_server_searches_there(pipeline: Pipeline, tmp_path: Path) -> None:
    media = fill(tmp_path / "media")
    with MediaIndex.build(media, pipeline, index=f"milvus:{tmp_path}/a.db") as index:
        expected = index.search("a red circle", 3)
        with TestClient(create_app(index), base_url="http://127.0.0.1") as client:
            assert client.get("/v1/health").json()["files"] == 9
            found = client.post("/v1/search", json={"query": "a red circle", "top_k": 3}).json()["results"]
            assert [row["path"] for row in found] == [result.path for result in expected]
            assert client.get(f"/v1/media/{expected[0].id}").status_code == 200
            assert client.get("/v1/media/999999").status_code == 404


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["milvus:", "milvus:local", "milvus:ftp://host", "milvus:http://", "milvus:tcp://a.db"]
)
def test_places_that_are_none_are_told(place: str) -> None:
    with pytest.raises(ValueError, match=r"is neither milvus:FILE\.db nor milvus:http://HOST:PORT"):
        located(place)


def test_where_the_folder_of_an_index_in_milvus_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert located("milvus:./local.db") == (tmp_path / "local.db.catalogue", str(tmp_path / "local.db"))
    assert located("milvus:http://host:19530/db") == (
        tmp_path / "omnivl" / "milvus-host-19530-db",
        "http://host:19530/db",
    )
    secret = "milvus:http://me:secret@host"
    assert located(secret) == (tmp_path / "omnivl" / "milvus-host", "http://me:secret@host")
    assert shown("http://me:secret@host") == "milvus:http://host" and shown("/a@b.db") == "milvus:/a@b.db"
    monkeypatch.setenv("OMNIVL_INDEX", "milvus:https://host")
    assert located(None)[1] == "https://host"
    assert known_index("milvus:./local.db") is None


def test_a_file_of_another_process_is_told_with_the_way_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pymilvus import MilvusClient; MilvusClient(sys.argv[1]); print('open', flush=True); "
        "sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout and owner.stdin
    assert owner.stdout.readline() == b"open\n"
    try:
        with pytest.raises(ValueError, match=r"a\.db is in use by another process, .* one owner at a time: wait"):
            Collection(str(tmp_path / "a.db"))
    finally:
        owner.communicate(timeout=60)
    Collection(str(tmp_path / "a.db")).close()
    Collection(str(tmp_path / "a.db")).close()  # closed is let go


def test_a_collection_has_one_folder(tmp_path: Path) -> None:
    writer, _ = made_up(tmp_path / "one", 3)
    with closing(Filler(str(tmp_path / "a.db"))) as filler:
        filler.fill(writer)
    writer.close()
    with closing(Filler(str(tmp_path / "a.db"))) as filler:
        filler.check_owner(tmp_path / "one")
        with pytest.raises(ValueError, match=f"is filled from {tmp_path / 'one'} on .*: index there"):
            filler.check_owner(tmp_path / "two")


def test_other_people_s_files_and_collections_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("mine")
    with pytest.raises(ValueError, match="is not a database of Milvus Lite"):
        Collection(str(tmp_path / "a.db"))
    with pytest.raises(ValueError, match="cannot be written to"):
        Collection(str(tmp_path / "no" / "a.db"))
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "b.db"))
    client.create_collection("omnivl", dimension=4)
    with pytest.raises(ValueError, match="'omnivl' that omnivl has not made"):
        Collection(str(tmp_path / "b.db"))
    client.close()


def test_a_server_that_does_not_answer_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("omnivl.inference.milvus.TIMEOUT", 1.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    model = str(mini_folder(tmp_path / "mini"))
    (tmp_path / "media").mkdir()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        for words in (["index", str(tmp_path / "media")], ["search", "a red circle"]):
            place = f"milvus:http://127.0.0.1:{silent.getsockname()[1]}"
            assert main([*words, "--index", place, "--model", model]) == 2
            out, err = capfd.readouterr()
            assert out == "" and err.startswith(f"omnivl: {place} does not answer") and err.count("\n") == 1
        assert time.monotonic() - started < 60
    assert main(["search", "x", "--index", f"milvus:{tmp_path}/a.db", "--model", model]) == 2
    assert "there is no index in milvus:" in capfd.readouterr().err


def test_milvus_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "omnivl\[milvus\]"$'):
        Collection(str(tmp_path / "a.db"))
