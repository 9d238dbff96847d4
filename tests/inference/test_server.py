"""The server: answers as the pipeline gives them, to whom they belong, and refusals in one sentence (P100 to P107)."""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openapi_spec_validator import validate
from PIL import Image
from starlette.testclient import TestClient

from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.server.app import create_app
from omnivl.inference.server.batching import Batcher
from omnivl.inference.server.guard import Limits
from tests.data.make_media import animation, numbered, write_video
from tests.helpers import picture
from tests.inference.conftest import fill

HERE = "http://localhost"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """media/ is indexed, beside/ is not; links lead from one to the other."""
    place = tmp_path_factory.mktemp("served")
    media, beside = fill(place / "media"), place / "beside"
    beside.mkdir()
    picture(beside / "secret.png", 40)
    picture(media / ".hidden.png", 41)
    (media / "link.png").symlink_to(beside / "secret.png")
    (media / "linked").symlink_to(beside)
    (media / "inner.png").symlink_to(media / "1.png")
    return place


@pytest.fixture(scope="module")
def index(pipeline: Pipeline, place: Path) -> MediaIndex:
    return MediaIndex.build(place / "media", pipeline, index=place / "index")


@pytest.fixture(scope="module")
def client(pipeline: Pipeline, place: Path, index: MediaIndex) -> Iterator[TestClient]:
    opened = MediaIndex.open(place / "index", pipeline)
    with TestClient(create_app(opened), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def sent(path: Path, name: str = "a.png") -> dict[str, Any]:
    return {"file": (name, path.read_bytes(), "image/jpeg")}


def refused(answer: Any, status: int, told: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and told in answer.json()["error"] and "\n" not in answer.json()["error"]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_search_answers_as_the_index_does(client: TestClient, index: MediaIndex, place: Path) -> None:
    found = client.post("/v1/search", json={"query": "a red circle", "top_k": 4}).json()
    expected = index.search("a red circle", 4)
    assert [(row["path"], row["id"]) for row in found["results"]] == [(r.path, r.id) for r in expected]
    assert found["query"] == "a red circle" and found["results"][0]["score"] == pytest.approx(expected[0].score)
    films = client.post("/v1/search", json={"query": "a", "type": "video", "min_duration": 1}).json()["results"]
    assert [set(row) for row in films] == [{"id", "path", "media", "score", "kind", "start", "end"}]
    inside = client.post("/v1/search", json={"query": "a", "in": "sub", "type": "image"}).json()["results"]
    assert [Path(row["path"]).name for row in inside] == ["copy.png"]
    matched = client.post("/v1/search", json={"query": "a red circle", "min_match": 1}).json()
    assert matched["results"] == [] and 0 < matched["best"] < 1
    example = client.post("/v1/search", files=sent(place / "media" / "3.png"), data={"top_k": "1"}).json()
    assert Path(example["results"][0]["path"]).name == "3.png" and example["query"] == "a.png"
    example = client.post("/v1/search", json={"path": "3.png", "top_k": 1}).json()
    assert Path(example["results"][0]["path"]).name == "3.png"


def test_verbs_answer_as_the_pipeline_does(client: TestClient, pipeline: Pipeline, place: Path) -> None:
    for name, kind in (("1.png", "image"), ("film.mp4", "video")):
        path = place / "media" / name
        for body in ({"json": {"path": name}}, {"json": {"path": str(path)}}, {"files": sent(path, name)}):
            answer = client.post("/v1/embed", **body).json()
            np.testing.assert_allclose(answer["embedding"], pipeline.embed(path), atol=1e-5)
            assert answer["kind"] == kind and ("times" in answer) == (kind == "video")
        caption = pipeline.caption(path)
        answer = client.post("/v1/caption", json={"path": name}).json()
        assert answer["text"] == caption.text and answer["score"] == pytest.approx(caption.score, abs=1e-4)
        assert answer["kind"] == "logprob" and answer["media"] == name
        answer = client.post("/v1/match", files=sent(path, name), data={"text": "a red circle"}).json()
        assert answer["score"] == pytest.approx(pipeline.match(path, "a red circle").score, abs=1e-5)
        assert answer["kind"] == "match" and answer["text"] == "a red circle"
        said = pipeline.answer(path, "what is it?")
        answer = client.post("/v1/ask", json={"path": name, "question": "what is it?"}).json()
        assert answer["text"] == said.text and answer["score"] == pytest.approx(said.score, abs=1e-5)
        assert [other["text"] for other in answer["alternatives"]] == [other.text for other in said.alternatives]
        assert answer["question"] == "what is it?" and answer["kind"] == "probability"
        labels = pipeline.classify(path, ["a red circle", "a blue star"])
        listed: dict[str, Any] = {"json": {"path": name, "labels": ["a red circle", "a blue star"]}}
        form = {"files": sent(path, name), "data": {"labels": "a red circle, a blue star"}}
        for body in (listed, form):
            answer = client.post("/v1/classify", **body).json()
            assert [row["label"] for row in answer["labels"]] == [label.text for label in labels]
            assert answer["labels"][0]["score"] == pytest.approx(labels[0].score, abs=1e-5)
            assert answer["kind"] == "probability" and ("times" in answer) == (kind == "video")


def test_media_come_whole_and_in_ranges(client: TestClient, index: MediaIndex, place: Path) -> None:
    film = next(r for r in index.search("a", 100) if r.path.endswith("film.mp4"))
    data = Path(film.path).read_bytes()
    whole = client.get(f"/v1/media/{film.id}")
    assert whole.content == data and whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(f"/v1/media/{film.id}", headers={"range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    assert client.get(f"/v1/media/{film.id}", headers={"range": "bytes=-5"}).content == data[-5:]
    for asked, status in ((f"bytes={len(data)}-", 416), ("bytes=5-1", 400), ("bytes=x", 400), ("pages=1-2", 400)):
        answer = client.get(f"/v1/media/{film.id}", headers={"range": asked})
        refused(answer, status, "the Range header names no bytes of this file")
        assert status != 416 or answer.headers["content-range"].endswith(f"*/{len(data)}")
    head = client.head(f"/v1/media/{film.id}")
    assert head.status_code == 200 and head.headers["content-length"] == str(len(data)) and not head.content


def test_thumbnails_are_small_and_of_the_moment(client: TestClient, index: MediaIndex, tmp_path: Path) -> None:
    found = {Path(r.path).name: r.id for r in index.search("a", 100)}
    shown = client.get(f"/v1/thumbnail/{found['0.png']}?size=32")
    assert shown.headers["content-type"] == "image/jpeg"
    (tmp_path / "t.jpg").write_bytes(shown.content)
    assert Image.open(tmp_path / "t.jpg").size == (32, 24)
    moments = [client.get(f"/v1/thumbnail/{found['film.mp4']}?at={at}").content for at in (0.5, 4.5)]
    assert moments[0] != moments[1]
    assert client.get(f"/v1/thumbnail/{found['film.mp4']}?at=999").status_code == 200
    for query in ("size=0", "size=1000000", "at=-1", "at=nan", "size=x"):
        assert client.get(f"/v1/thumbnail/{found['0.png']}?{query}").status_code == 422


def test_the_description_is_valid_and_nothing_of_it_loads_from_elsewhere(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    validate(described)
    verbs = {f"/v1/{verb}" for verb in ("search", "caption", "ask", "embed", "match", "classify", "health")}
    assert verbs <= set(described["paths"])
    body = described["paths"]["/v1/match"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert client.get("/v1/health").json()["files"] == 12
    assert client.head("/").status_code == client.head("/page.js").status_code == 200
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../beside/secret.png",
        "sub/../1.png",
        "link.png",
        "linked/secret.png",
        ".hidden.png",
        "/etc/passwd",
        "nowhere.png",
        "",
        "sub",
        "1.png\0",
        "a" * 5000,
        "http://localhost/1.png",
        "file:///etc/passwd",
        "https://example.org/a.png",
    ],
)
def test_paths_that_lead_outside_are_not_there(client: TestClient, place: Path, path: str) -> None:
    """P100 and P102: no `..`, no link out of the folders, nothing hidden, no URL."""
    refused(client.post("/v1/caption", json={"path": path}), 404, "no such file in the indexed folders")
    refused(client.post("/v1/embed", json={"path": str(place / "beside" / "secret.png")}), 404, "no such file")


def test_a_link_that_stays_inside_is_read(client: TestClient) -> None:
    assert client.post("/v1/embed", json={"path": "inner.png"}).status_code == 200


def test_an_indexed_link_that_leads_outside_is_not_handed_out(client: TestClient, index: MediaIndex) -> None:
    ids = {Path(r.path).name: r.id for r in index.search("a", 100)}
    for name in ("link.png", "secret.png"):
        refused(client.get(f"/v1/media/{ids[name]}"), 404, "no such file")
        refused(client.get(f"/v1/thumbnail/{ids[name]}"), 404, "no such file")
    refused(client.get("/v1/media/99999"), 404, "no such file in the index")
    for strange in ("../../etc/passwd", "-1", "1.5", "%2e%2e%2fpage.js", str(10**30)):
        assert client.get(f"/v1/media/{strange}").status_code in (404, 422)
    assert client.get("/..%2fapp.py").status_code == client.get("/app.py").status_code == 404


def test_an_upload_writes_nothing_but_a_file_of_its_own(client: TestClient, place: Path) -> None:
    before = sorted(place.rglob("*"))
    answer = client.post("/v1/embed", files=sent(place / "media" / "1.png", "../../escaped.png"))
    assert answer.status_code == 200 and sorted(place.rglob("*")) == before


def test_what_is_no_picture_is_told_with_its_reason(client: TestClient, place: Path) -> None:
    """P101."""
    refused(client.post("/v1/caption", files=sent(place / "media" / "broken.jpg", "a.jpg")), 422, "it is text")
    refused(client.post("/v1/caption", json={"path": "broken.jpg"}), 422, "it is text")
    refused(client.post("/v1/caption", files={"file": ("a.png", b"", "image/png")}), 422, "empty")


@pytest.mark.parametrize("query", ["", "  ", "\n\t"])
def test_an_empty_query_is_told(client: TestClient, query: str) -> None:
    """P105."""
    refused(client.post("/v1/search", json={"query": query}), 400, "empty")
    refused(client.post("/v1/match", json={"path": "1.png", "text": query}), 400, "empty")


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/search", {}, 400, "give a `query`"),
        ("/v1/search", {"query": "a", "path": "1.png"}, 400, "one of them"),
        ("/v1/search", {"query": "a", "top_k": 0}, 422, "top_k"),
        ("/v1/search", {"query": "a", "top_k": 10**9}, 422, "top_k"),
        ("/v1/search", {"query": "a", "top_k": True}, 422, "top_k: wanted a number"),
        ("/v1/search", {"query": "a", "min_match": False}, 422, "min_match: wanted a number"),
        ("/v1/search", {"query": "\ud800", "top_k": 1}, 400, "surrogate"),
        ("/v1/match", {"path": "1.png", "text": "\udcff"}, 400, "surrogate"),
        ("/v1/ask", {"path": "1.png", "question": "a\ud800"}, 400, "surrogate"),
        ("/v1/classify", {"path": "1.png", "labels": ["a", "\ud800"]}, 400, "surrogate"),
        ("/v1/caption", {"path": "\ud800.png"}, 400, "surrogate"),
        ("/v1/search", {"query": "a", "after": "soon"}, 400, "'soon' is not a date"),
        ("/v1/search", {"query": "a", "type": "sound"}, 422, "type"),
        ("/v1/search", {"query": "a", "topk": 3}, 422, "topk"),
        ("/v1/search", {"path": "1.png", "rerank": 3}, 400, "only a text"),
        ("/v1/search", {"query": 3}, 422, "query"),
        ("/v1/search", [1], 422, "the request"),
        ("/v1/caption", {}, 422, "one of both"),
        ("/v1/match", {"path": "1.png"}, 422, "text"),
        ("/v1/ask", {"path": "1.png", "question": " "}, 400, "the question is empty"),
        ("/v1/classify", {"path": "1.png", "labels": ["a"]}, 400, "at least two labels"),
        ("/v1/classify", {"path": "1.png"}, 400, "no classifier of its own"),
        ("/v1/classify", {"path": "1.png", "labels": 3}, 422, "labels"),
        ("/v1/classify", {"path": "1.png", "labels": ["a"] * 1001}, 422, "labels: 1001 labels: 1000 are allowed"),
        ("/v1/classify", {"path": "1.png", "labels": "a," * 1001}, 422, "labels: 1001 labels: 1000 are allowed"),
    ],
)
def test_senseless_requests_are_one_sentence(client: TestClient, path: str, body: Any, status: int, told: str) -> None:
    refused(client.post(path, content=json.dumps(body), headers={"content-type": "application/json"}), status, told)


@pytest.mark.parametrize("name", ["a" * 100_000, "~no-such-user/a", "a\0b"])
def test_a_folder_of_no_possible_name_holds_nothing(client: TestClient, name: str) -> None:
    answer = client.post("/v1/search", json={"query": "a", "in": name})
    assert answer.status_code == 200 and answer.json()["results"] == []


def test_what_is_not_a_request_is_one_sentence(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/search", content=b"{", headers={"content-type": "application/json"}), 400, "not JSON")
    refused(client.post("/v1/search", content=b"a", headers={"content-type": "text/plain"}), 415, "application/json")
    refused(client.post("/v1/caption", content=b"--x\r\nbad", headers=form), 422, "one of both")
    refused(client.post("/v1/caption", content=b"x", headers={"content-type": "multipart/form-data"}), 400, "boundary")
    refused(client.get("/v1/search"), 405, "")
    refused(client.get("/v1/nowhere"), 404, "")
    refused(client.post("/page.css"), 405, "")
    for path in ("/nope", "/search", "/v1/nope"):
        refused(client.post(path, json={}), 404, "")
    deep: dict[str, Any] = {"content": b"[" * 200_000, "headers": {"content-type": "application/json"}}
    refused(client.post("/v1/search", **deep), 400, "")


def test_a_field_of_a_form_may_be_given_more_than_once(client: TestClient, place: Path) -> None:
    form: dict[str, Any] = {"files": sent(place / "media" / "1.png"), "data": {"labels": ["a star, red", "ring"]}}
    labels = [row["label"] for row in client.post("/v1/classify", **form).json()["labels"]]
    assert sorted(labels) == ["a star, red", "ring"]
    form["data"] = {"text": ["a star", "ring"]}
    refused(client.post("/v1/match", **form), 422, "text")


# --- limits ----------------------------------------------------------------------------------------------------------


def limited(pipeline: Pipeline, place: Path, **options: Any) -> TestClient:
    limits = Limits(**options.pop("limits", {}))
    opened = MediaIndex.open(place / "index", pipeline)
    return TestClient(create_app(opened, limits=limits, **options), base_url=HERE, raise_server_exceptions=False)


def test_large_uploads_are_refused_before_they_are_in_memory(
    pipeline: Pipeline, place: Path, index: MediaIndex, tmp_path: Path
) -> None:
    """P101."""
    with limited(pipeline, place, limits={"upload_bytes": 10_000, "pixels": 2000, "video_seconds": 3}) as client:
        refused(client.post("/v1/caption", files={"file": ("a.png", b"x" * 20_000)}), 413, "larger than")
        taken = []

        def endless() -> Iterator[bytes]:  # no length is stated
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(100):
                taken.append(1)
                yield b"x" * 1000

        form = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post("/v1/caption", content=endless(), headers=form), 413, "larger than")
        refused(client.post("/v1/caption", files=sent(picture(tmp_path / "a.png", size=(64, 40)))), 413, "pixels")
        film = write_video(tmp_path / "long.mp4", numbered(50, 32, 32), fps=10)
        refused(client.post("/v1/caption", files=sent(film, "long.mp4")), 413, "lasts 5 seconds")
        slow = animation(tmp_path / "slow.gif", numbered(5, 32, 32), [1000] * 5)
        refused(client.post("/v1/caption", files=sent(slow, "slow.gif")), 413, "lasts 5 seconds")
        live = write_video(tmp_path / "a.webm", numbered(50, 32, 32), codec="libvpx", container={"live": "1"})
        refused(client.post("/v1/caption", files=sent(live, "a.webm")), 413, "lasts 5 seconds")
        assert client.post("/v1/embed", files=sent(picture(tmp_path / "b.png"))).status_code == 200


def test_when_the_queue_is_full_clients_are_told_to_come_again(
    pipeline: Pipeline, place: Path, index: MediaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()
    original = pipeline.embed_text

    def slowly(texts: Any) -> np.ndarray:
        started.set()
        go_on.wait(10)
        return original(texts)

    with limited(pipeline, place, limits={"waiting": 1}) as client, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(pipeline, "embed_text", slowly)
        waiting = pool.submit(client.post, "/v1/search", json={"query": "a"})
        assert started.wait(10)
        answer = client.post("/v1/search", json={"query": "one too many"})
        refused(answer, 429, "too many requests")
        assert answer.headers["retry-after"] == "1"
        assert client.get("/v1/health").status_code == 200
        go_on.set()
        assert waiting.result().status_code == 200
        assert client.post("/v1/search", json={"query": "a"}).status_code == 200


def test_a_request_that_takes_too_long_ends(
    pipeline: Pipeline, place: Path, index: MediaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(pipeline, "embed_text", lambda texts: go_on.wait(10))
    with limited(pipeline, place, limits={"seconds": 0.1}) as client:
        refused(client.post("/v1/search", json={"query": "a"}), 503, "longer than 0.1 seconds")
        go_on.set()


def test_a_token_is_asked_for_where_there_is_one(pipeline: Pipeline, place: Path, index: MediaIndex) -> None:
    with limited(pipeline, place, token="s3cret; é") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            refused(client.post("/v1/search", json={"query": "a"}, headers=headers), 401, "Bearer")
            assert client.get("/v1/media/1", headers=headers).status_code == 401
        assert client.get("/v1/health").status_code == client.get("/").status_code == 200
        good = {b"authorization": "Bearer s3cret; é".encode()}
        body = {"query": "a", "type": "video"}
        found = client.post("/v1/search", json=body, headers=good).json()["results"][0]
        cookie = {"cookie": "omnivl_token=s3cret%3B%20%C3%A9"}
        assert client.get(f"/v1/thumbnail/{found['id']}", headers=cookie).status_code == 200


def test_other_sites_pages_may_not_ask(client: TestClient) -> None:
    body = {"query": "a"}
    refused(client.post("/v1/search", json=body, headers={"origin": "http://evil.example"}), 403, "another site")
    refused(client.post("/v1/search", json=body, headers={"origin": "null"}), 403, "another site")
    assert client.post("/v1/search", json=body, headers={"origin": HERE}).status_code == 200
    refused(client.get("/v1/media/1", headers={"host": "evil.example"}), 421, "that name")
    assert client.get("/v1/health", headers={"host": "127.0.0.1:8080"}).status_code == 200


def test_deleted_files_are_not_returned(pipeline: Pipeline, tmp_path: Path) -> None:
    """P103 and P106."""
    folder = fill(tmp_path / "media")
    app = create_app(MediaIndex.build(folder, pipeline, index=tmp_path / "index"))
    with TestClient(app, base_url=HERE) as client:
        found = client.post("/v1/search", json={"query": "a", "top_k": 100}).json()["results"]
        assert len(found) == 9
        gone = found[0]
        os.unlink(gone["path"])
        again = client.post("/v1/search", json={"query": "a", "top_k": 100}).json()["results"]
        assert again == found[1:]
        refused(client.get(f"/v1/media/{gone['id']}"), 404, "no such file")
        refused(client.get(f"/v1/thumbnail/{gone['id']}"), 404, "no such file")


def test_a_name_that_is_no_text_is_answered_all_the_same(pipeline: Pipeline, tmp_path: Path) -> None:
    """P13."""
    (folder := tmp_path / "media").mkdir()
    picture(folder / "a.png").rename(folder / os.fsdecode(b"\xff.png"))
    picture(folder / "b.png", 1).rename(folder / "caf\u0065\u0301 \U0001f332.png")
    app = create_app(MediaIndex.build(folder, pipeline, index=tmp_path / "index"))
    with TestClient(app, base_url=HERE) as client:
        found = client.post("/v1/search", json={"query": "a"}).json()["results"]
        assert {Path(row["path"]).name for row in found} == {"\\xff.png", "caf\u0065\u0301 \U0001f332.png"}
        assert all(client.get(f"/v1/media/{row['id']}").status_code == 200 for row in found)
        assert client.post("/v1/embed", json={"path": "caf\u0065\u0301 \U0001f332.png"}).status_code == 200


# --- many at once ----------------------------------------------------------------------------------------------------


def test_many_at_once_get_their_own_answers(
    client: TestClient, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P107: requests that wait together share a batch, and nobody gets a neighbour's answer."""
    batches: list[int] = []
    original = pipeline.embed

    def slowly(media: Sequence[Any]) -> np.ndarray:
        batches.append(len(media))
        time.sleep(0.05)
        return original(media)

    monkeypatch.setattr(pipeline, "embed", slowly)
    paths = [picture(tmp_path / f"{seed}.png", 100 + seed) for seed in range(24)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda path: client.post("/v1/embed", files=sent(path, path.name)).json(), paths))
    assert [answer["media"] for answer in answers] == [path.name for path in paths]
    np.testing.assert_allclose([a["embedding"] for a in answers], original(paths), atol=1e-5)
    assert sum(batches) == 24 and len(batches) < 24, "some were computed together"


def test_labels_of_different_requests_are_not_mixed(client: TestClient, pipeline: Pipeline, place: Path) -> None:
    choices = [["red", "blue"], ["star", "circle", "square"], ["red", "blue"], ["a", "b"]] * 3

    def ask(number: int) -> list[str]:
        body = {"path": f"{number % 6}.png", "labels": choices[number]}
        return [row["label"] for row in client.post("/v1/classify", json=body).json()["labels"]]

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(12)))
    for number, labels in enumerate(found):
        expected = pipeline.classify(place / "media" / f"{number % 6}.png", choices[number])
        assert labels == [label.text for label in expected]


def test_a_batch_that_fails_is_asked_one_by_one() -> None:
    def act(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return [2 * item for item in items]

    batcher = Batcher({"double": act, "negate": lambda items: [-item for item in items]}, size=4)
    answers = [batcher.submit("double", item) for item in range(6)]
    other = batcher.submit("negate", 5)
    assert [answer.result(5) for answer in answers if answer is not answers[3]] == [0, 2, 4, 8, 10]
    with pytest.raises(ValueError, match="three"):
        answers[3].result(5)
    assert other.result(5) == -5
    batcher.close()


def test_an_error_of_ours_is_a_500_that_says_nothing_of_our_source(
    client: TestClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "embed_text", lambda texts: 1 / 0)
    refused(client.post("/v1/search", json={"query": "a"}), 500, "failed")
    assert "division" not in json.dumps(client.post("/v1/search", json={"query": "a"}).json())
