"""Search: equals brute force, filters come first, and what is gone is never an answer."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnivl.data.media import read_image
from omnivl.inference import matching, search
from omnivl.inference.filters import Filters, start_of
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.search import Exact, Graph, grow_graph
from omnivl.model.rerank import match_log_probability, rerank
from tests.helpers import picture
from tests.inference.conftest import fill


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("kept", [0, 2**20])
@pytest.mark.parametrize("k", [1, 7, 400, 1000])
def test_exact_search_equals_brute_force(k: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 64)
    monkeypatch.setattr(search, "KEPT", kept)
    rng = np.random.default_rng(0)
    vectors = unit(rng, 500, 24).astype(np.float16)
    vectors[100:140] = vectors[60]  # ties, over the edge of a block
    some = np.flatnonzero(rng.random(500) < 0.8)
    for rows in (np.arange(500), some, some[::9].copy(), np.array([3]), np.arange(0)):
        for query in unit(rng, 3, 24):
            found, scores = Exact(vectors).search(query, k, rows)
            exact = vectors[rows].astype(np.float64) @ query.astype(np.float64)
            order = sorted(range(len(rows)), key=lambda i: (-np.float32(exact[i]), i))[:k]
            np.testing.assert_allclose(scores, exact[order], atol=1e-6)
            assert len(found) == min(k, len(rows)) == len(set(found.tolist())) and set(found) <= set(rows)
            np.testing.assert_allclose(exact[np.searchsorted(rows, found)], exact[order], atol=1e-6)
    found, _ = Exact(vectors).search(vectors[60].astype(np.float32), 10, np.arange(500))
    assert found.tolist() == [60, *range(100, 109)], "ties keep the order of rows"


def test_the_graph_finds_what_the_exact_product_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW", 100)
    rng = np.random.default_rng(0)
    vectors = unit(rng, 40, 16)[rng.integers(40, size=3000)] + 0.3 * unit(rng, 3000, 16)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    grow_graph(tmp_path / "g.hnsw", vectors[:2000], keep=True)
    graph = grow_graph(tmp_path / "g.hnsw", vectors, keep=False)
    assert graph.ntotal == 3000 and grow_graph(tmp_path / "g.hnsw", vectors[:2000], keep=False).ntotal == 2000
    for rows in (np.arange(3000), np.arange(0, 3000, 3), np.arange(50)):
        hits = 0
        for query in unit(rng, 20, 16):
            found, scores = Graph(vectors, graph).search(query, 10, rows)
            exact, best = Exact(vectors).search(query, 10, rows)
            assert set(found) <= set(rows) and len(found) == 10 and (np.diff(scores) <= 0).all()
            hits += len(set(found) & set(exact))
            assert best[0] >= scores[0] - 1e-5
        assert hits / 200 >= 0.97


def test_a_damaged_graph_is_searched_without_and_made_anew(pipeline: Pipeline, tmp_path: Path) -> None:
    fill(media := tmp_path / "media")
    with MediaIndex.build(media, pipeline, index=tmp_path / "index", backend="faiss") as index:
        expected = names(index.search("a red circle", 5))
    (graph,) = (tmp_path / "index").glob("*.hnsw")
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    with MediaIndex.open(tmp_path / "index", pipeline) as index:
        with pytest.warns(
            UserWarning, match=r"\.hnsw is damaged: `omnivl index` makes it anew; until then every vector"
        ):
            assert names(index.search("a red circle", 5)) == expected
        assert names(index.search("a red circle", 5)) == expected, "told once"
    MediaIndex.build(media, pipeline, index=tmp_path / "index").close()
    assert graph.read_bytes() == whole


def test_faiss_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"omnivl\[faiss\]"):
        grow_graph(tmp_path / "g.hnsw", np.zeros((1, 4), np.float16), keep=False)


# --- an index --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("found") / "media")
    for number, name in enumerate(("0.png", "1.png", "2.png")):
        os.utime(folder / name, (1, 1_700_000_000 + number * 86400))  # 14 to 16 November 2023
    return folder


@pytest.fixture(scope="module")
def index(pipeline: Pipeline, media: Path, tmp_path_factory: pytest.TempPathFactory) -> MediaIndex:
    return MediaIndex.build(media, pipeline, index=tmp_path_factory.mktemp("index"))


def names(results: list) -> list[str]:
    return [Path(result.path).name for result in results]


def test_files_come_in_the_order_of_their_best_window(pipeline: Pipeline, index: MediaIndex, media: Path) -> None:
    query = pipeline.embed_text("a red circle")
    expected = {path.name: float(pipeline.embed(path) @ query) for path in media.glob("*.png")}
    found = index.search("a red circle", 100)
    assert len(found) == 9 == len({result.path for result in found}), "as many as there are, each once (P106)"
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    for result in found:
        if result.path.endswith(".png") and "sub" not in result.path:
            assert result.score == pytest.approx(expected[Path(result.path).name], abs=1e-3)
    film = next(result for result in found if result.media == "video" and result.path.endswith(".mp4"))
    assert (film.start, film.end) in ((0.0, 4.0), (2.0, 6.0)) and film.kind == "cosine"
    assert index.search("a red circle", 3) == found[:3]


def test_by_example_a_file_finds_itself_and_its_copy(index: MediaIndex, media: Path) -> None:
    found = index.search(media / "0.png", 2)
    assert sorted(names(found)) == ["0.png", "copy.png"] and found[0].score == pytest.approx(1, abs=1e-3)
    assert names(index.search(read_image(media / "4.png"), 1)) == ["4.png"]


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_an_empty_query_is_told(index: MediaIndex, query: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        index.search(query)


def test_filters_come_before_the_search(index: MediaIndex, media: Path) -> None:
    def found(**conditions: object) -> set[str]:
        return set(names(index.search("a red circle", 100, filters=Filters(**conditions))))  # type: ignore[arg-type]

    assert found(kind="video") == {"film.mp4", "moves.gif"}
    assert found(folders=("sub",)) == {"copy.png", "moves.gif"} == found(folders=(str(media / "sub"),))
    assert found(folders=(str(media), "sub"), kind="image") == {"copy.png"}
    assert found(folders=("su",)) == set() == found(folders=(str(media / "su"),))
    assert found(before="2023-12", after="2023-11-15") == {"1.png", "2.png"}
    assert found(before="2024") == {"0.png", "1.png", "2.png"}
    assert found(min_duration=1) == {"film.mp4"} and found(max_duration=1) == {"moves.gif"}
    only = index.search("a red circle", 1, filters=Filters(kind="video"))
    assert len(only) == 1, "filters do not eat into the results asked for"


def test_dates_are_days_months_years_or_moments() -> None:
    assert start_of("2024") == "2024-01-01T00:00:00" and start_of("2024-05") == "2024-05-01T00:00:00"
    assert start_of("2024-05-06") == "2024-05-06T00:00:00" and start_of("2024-05-06T07:08") == "2024-05-06T07:08:00"
    for silly in ("yesterday", "2024-13", ""):
        with pytest.raises(ValueError, match="is not a date"):
            start_of(silly)
    with pytest.raises(ValueError, match="is not a date"):
        Filters(after="soon")
    with pytest.raises(ValueError, match="image or video"):
        Filters(kind="sound")


def test_deleted_files_are_not_returned_and_others_take_their_place(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for seed in range(30):
        picture(folder / f"{seed}.png", seed)
    with MediaIndex.build(folder, pipeline, index=tmp_path / "index") as index:
        before = index.search("a red circle", 30)
        for result in before[:12]:
            Path(result.path).unlink()
        assert index.search("a red circle", 5) == before[12:17]


def test_what_a_graph_finds_only_when_it_is_asked_for_more_is_in_its_place(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "media", pictures=24)
    with MediaIndex.build(tmp_path / "media", pipeline, index=tmp_path / "index") as index:
        before = index.search("a red circle", 26)
        exact = index.searcher(index.select(Filters())[0])

        class Careless:
            def search(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                found, scores = exact.search(query, k + 1, rows)
                return (found, scores) if len(found) == len(rows) else (found[1:], scores[1:])

        monkeypatch.setattr(index, "searcher", lambda vectors: Careless())
        for result in before[1:9]:
            Path(result.path).unlink()
        assert index.search("a red circle", 2) == [before[0], before[9]]


def test_matching_orders_as_the_models_own_reranking_does(pipeline: Pipeline, index: MediaIndex, media: Path) -> None:
    text, paths = "a red circle", sorted(media.glob("?.png"))
    found = index.find(text, 6, filters=Filters(kind="image", folders=(str(media),)), rerank=100)
    tokens = torch.stack(pipeline.visual_tokens(paths))
    ids, mask = pipeline.tokenizer([text])
    ids[:, 0] = pipeline.tokenizer.enc_id
    similarity = torch.from_numpy(pipeline.embed(paths) @ pipeline.embed_text(text))[:, None]
    _, by_text = rerank(pipeline.model, similarity, tokens, ids, mask, k=6)
    expected = [paths[i].name for i in by_text[0].argsort(descending=True).tolist()]
    assert [name for name in names(found.results) if name != "copy.png"] == expected[: len(found.results) - 1]
    for result in found.results:
        assert result.kind == "match" and result.score == pytest.approx(
            pipeline.match(result.path, text).score, abs=1e-5
        )
    assert found.best == max(r.score for r in index.find(text, 100, rerank=100).results if r.media == "image")


def test_an_open_index_matches_what_has_been_indexed_since(pipeline: Pipeline, tmp_path: Path) -> None:
    (media := tmp_path / "media").mkdir()
    picture(media / "a.png", 0)
    text, index = "a red circle", tmp_path / "index"
    MediaIndex.build(media, pipeline, index=index).close()
    with MediaIndex.open(index, pipeline) as opened:
        (before,) = opened.search(text, rerank=1)
        picture(media / "a.png", 1)
        MediaIndex.build(media, pipeline, index=index).close()
        (after,) = opened.search(text, rerank=1)
    assert after.similarity != before.similarity
    assert after.score == pytest.approx(pipeline.match(media / "a.png", text).score, abs=1e-5)
    assert after.score != pytest.approx(before.score, abs=1e-5)


def test_a_window_is_matched_as_it_was_found(pipeline: Pipeline, index: MediaIndex, media: Path) -> None:
    from omnivl.data.media import read_video

    (film,) = index.find("a red circle", 1, filters=Filters(min_duration=1), rerank=1).results
    frames = read_video(media / "film.mp4", 4, film.start, film.end).frames
    assert film.score == pytest.approx(pipeline.match(frames, "a red circle").score, abs=1e-5)


def test_half_precision_is_the_pipelines_own(
    pipeline: Pipeline, index: MediaIndex, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = pipeline.match(media / "0.png", "a red circle").score
    monkeypatch.setattr(pipeline.forward, "half", torch.bfloat16)
    half = pipeline.match(media / "0.png", "a red circle").score
    matcher = matching.Matcher(pipeline, 4)
    (log,) = matcher.log_probabilities("a red circle", [matching.Candidate(0, str(media / "0.png"), None, None)])
    assert log is not None and math.exp(log) == pytest.approx(half, abs=1e-7) and half != full


def test_what_does_not_match_is_left_out_and_the_best_is_told(
    index: MediaIndex, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    everything = index.find("a red circle", 5, min_match=0.0)
    assert "matching 5 candidates took" in caplog.text
    assert len(everything.results) == 5 and everything.best is not None
    nothing = index.find("a red circle", 5, min_match=math.nextafter(everything.best, 1))
    assert nothing.results == [] and nothing.best == everything.best
    assert len(index.find("a red circle", 9, rerank=2).results) == 9, "those behind are not left out"


def test_senseless_questions_are_refused(index: MediaIndex, media: Path) -> None:
    with pytest.raises(ValueError, match="only a text"):
        index.search(media / "0.png", rerank=3)
    for top_k in (0, 2.5, True, "3"):
        with pytest.raises(ValueError, match=f"^top_k is {top_k}, wanted a whole number, 1 or more$"):
            index.search("a red circle", top_k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^rerank is -1, wanted a whole number, 0 or more$"):
        index.search("a red circle", rerank=-1)
    with pytest.raises(ValueError, match=r"^min_match is 2, wanted 0 to 1$"):
        index.find("a red circle", min_match=2)
    with pytest.raises(ValueError, match="is no text"):
        index.search("\ud800")
    assert len(index.search("a red circle", np.int64(2))) == 2  # type: ignore[arg-type]


def test_tokens_are_kept_up_to_a_size(pipeline: Pipeline, media: Path) -> None:
    one = pipeline.visual_tokens([media / "0.png"])[0].nbytes
    matcher = matching.Matcher(pipeline, 4, cache=3 * one)
    candidates = [matching.Candidate(i, str(media / f"{i}.png"), None, None) for i in range(6)]
    first = matcher.log_probabilities("a red circle", [*candidates, matching.Candidate(9, "gone.png", None, None)])
    assert first[-1] is None and len(matcher.tokens) == 3 and matcher.size == 3 * one
    assert matcher.log_probabilities("a red circle", candidates) == pytest.approx(first[:-1], abs=1e-5)


def test_matching_is_halved_until_there_is_room(
    pipeline: Pipeline, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [matching.Candidate(i, str(media / f"{i}.png"), None, None) for i in range(5)]
    expected = matching.Matcher(pipeline, 4).log_probabilities("a red circle", candidates)
    sizes, room, score = list[int](), 2, match_log_probability

    def small_device(model: Any, tokens: Any, *rest: Any) -> Any:
        sizes.append(len(tokens))
        if len(tokens) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(model, tokens, *rest)

    monkeypatch.setattr(matching, "match_log_probability", small_device)
    found = matching.Matcher(pipeline, 4).log_probabilities("a red circle", candidates)
    assert found == pytest.approx(expected, abs=1e-5) and sizes == [5, 2, 3, 1, 2]
    room = 0
    with pytest.raises(ValueError, match="no room to match one text"):
        matching.Matcher(pipeline, 4).log_probabilities("a red circle", candidates)


def test_an_index_with_a_graph_answers_alike(
    pipeline: Pipeline, index: MediaIndex, media: Path, tmp_path: Path
) -> None:
    with MediaIndex.build(media, pipeline, index=tmp_path / "index", backend="faiss") as graph:
        assert list((tmp_path / "index").glob("*.hnsw"))
        assert not logging.getLogger("faiss.loader").isEnabledFor(logging.INFO), "how it was loaded is not told"
        for top_k in (1, 4, 100):
            assert names(graph.search("a red circle", top_k)) == names(index.search("a red circle", top_k))
    with MediaIndex.build(media, pipeline, index=tmp_path / "index") as again:
        assert again.store.description.settings.backend == "faiss", "the choice is kept"
