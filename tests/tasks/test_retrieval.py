"""Two-step retrieval against scoring pairs one by one, whatever K, batch, memory and order (P90, P91, P92, P95)."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from omnivl.data.sample import BadSample, Gallery
from omnivl.metrics import median_rank, recall_at_k
from omnivl.model import OmniVL, rerank
from omnivl.tasks.base import Result
from omnivl.tasks.retrieval import evaluate_retrieval
from omnivl.tokenizer import Tokenizer
from tests.helpers import mini_model

CAPTIONS = [
    ("a red circle lies left", "a big red circle"),
    ("a star",),
    ("a blue square on a white ground lies up", "a square", "something blue"),
    (),
    ("a small pink ring",),
    ("a green cross on a black ground", "a cross"),
    ("two words",),
]


def gallery(order: list[int], broken: int | None = None, alike: bool = False) -> Gallery:
    def read(index: int) -> np.ndarray:
        number = order[index]
        if number == broken:
            raise BadSample(f"{number}.jpg: broken")
        seed = 0 if alike else number
        return np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)

    captions = [("the same",) if alike else CAPTIONS[number] for number in order]
    return Gallery("g", "test", "image", [str(n) for n in order], captions, [""] * len(order), read)


def shaken() -> tuple[OmniVL, Tokenizer]:
    model, tokenizer = mini_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, tokenizer


def values(results: list[Result], k: int) -> dict[str, float | None]:
    names = [" ".join((result.metric, result.settings.get("direction", ""))).strip() for result in results]
    return {name: r.value for name, r in zip(names, results, strict=True) if r.settings["k"] == k}


@torch.no_grad()
def by_hand(model: OmniVL, tokenizer: Tokenizer, items: Gallery, k: int) -> dict[str, float]:
    """Every pair by its own forward pass; the best k of each query re-ordered, the rest behind them."""
    texts = [text for own in items.captions for text in own]
    owner = [i for i, own in enumerate(items.captions) for _ in own]
    cosine, matched = torch.zeros(2, len(items), len(texts), dtype=torch.float64)  # the shift below needs the digits
    for i in range(len(items)):
        visual = model.encode_visual(torch.from_numpy(items.read(i)).permute(0, 3, 1, 2)[None])
        for j, text in enumerate(texts):
            ids, mask = tokenizer([text])
            cosine[i, j] = float(visual.embed[0] @ model.encode_text(ids, mask).embed[0])
            ids[:, 0] = tokenizer.enc_id
            matched[i, j] = model.match(ids, mask, visual.tokens).log_softmax(1)[0, 1]

    def reordered(scores: Tensor, match: Tensor) -> Tensor:
        final = scores / model.temperature - 1e5
        for query in range(len(scores)):
            best = sorted(range(scores.shape[1]), key=lambda item: -float(scores[query, item]))[:k]
            final[query, best] = scores[query, best] / model.temperature + match[query, best]
        return final

    found: dict[str, float] = {}
    own = torch.tensor([[owner[j] == i for j in range(len(texts))] for i in range(len(items))])
    kept = own.any(1)
    for name, scores, targets in (
        ("t2i", reordered(cosine.T, matched.T), own.T),
        ("i2t", reordered(cosine, matched)[kept], own[kept]),
    ):
        found |= {f"{name}_r{at}": value for at, value in recall_at_k(scores, targets).items()}
        found[f"median_rank {name}"] = median_rank(scores, targets)
    return found


@pytest.mark.parametrize("k", [0, 1, 2, 3, 7, 100])
def test_any_k_equals_scoring_the_pairs_one_by_one(k: int) -> None:
    model, tokenizer = shaken()
    items = gallery(list(range(7)))
    assert values(evaluate_retrieval(model, tokenizer, items, k=k), k) == pytest.approx(
        by_hand(model, tokenizer, items, k)
    )


def test_batch_memory_and_order_change_no_number(caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = shaken()
    expected = values(evaluate_retrieval(model, tokenizer, gallery(list(range(7))), k=3), 3)
    kept = 5 * 32 * 4  # bytes of one item's tokens: 5 of width 32
    for batch, memory in ((1, 1.0), (7, 0.0), (64, 2.5 * kept / 2**30), (2, 4 * kept / 2**30)):
        with caplog.at_level(logging.INFO):
            found = evaluate_retrieval(
                model, tokenizer, gallery([3, 6, 0, 2, 1, 5, 4]), k=3, batch_size=batch, token_memory=memory
            )
        assert values(found, 3) == pytest.approx(expected)
    assert "tokens of 2 items are kept" in caplog.text and "those of 5 are encoded again" in caplog.text


@pytest.mark.parametrize(("side", "batch"), [(64, 256), (2, 5), (1, 1)])
def test_pairs_are_scored_the_same_however_they_lie_in_passes(
    side: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerank, "SIDE", side)
    model, tokenizer = shaken()
    ids, mask = tokenizer([text for own in CAPTIONS for text in own])
    tokens = torch.randn(4, 5, 32)
    pairs = torch.tensor([(2, 1), (0, 4), (2, 0), (2, 8), (0, 3), (2, 5), (3, 3), (2, 3), (3, 0), (2, 2)])
    with torch.no_grad():
        expected = [
            float(model.match(ids[t, : int(mask[t].sum())][None], None, tokens[v][None]).log_softmax(1)[0, 1])
            for v, t in pairs.tolist()
        ]
    found = rerank.match_log_probability(model, tokens, ids, mask, pairs, batch)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert len(rerank.match_log_probability(model, tokens, ids, mask, pairs[:0], batch)) == 0


def test_one_score_for_all_is_chance_at_any_k() -> None:
    model, tokenizer = shaken()
    items = gallery(list(range(6)), alike=True)
    items.captions = [("the same",) * (1 + i % 4) for i in range(6)]
    for k in (0, 1, 3):
        for result in evaluate_retrieval(model, tokenizer, items, k=k):
            if "_r" in result.metric and "rank" not in result.metric:
                assert result.value == pytest.approx(result.chance)


@pytest.mark.parametrize("k", [2, 128])
def test_what_cannot_be_read_is_counted_and_never_found(k: int) -> None:
    model, tokenizer = shaken()
    items = gallery(list(range(7)), broken=2)
    results = evaluate_retrieval(model, tokenizer, items, k=k)
    assert {result.n for result in results} == {10, 6} and {result.settings["bad"] for result in results} == {1}
    assert items.bad == [("2", "2.jpg: broken")]
    alone = [i for i in range(7) if i != 2]
    found = values(evaluate_retrieval(model, tokenizer, gallery(alone), k=k), k)
    # its three texts never find it within the first 6 of 7: those of the others do as they did, at most
    value = values(results, k)["t2i_r5"]
    assert value is not None and found["t2i_r5"] is not None and value <= found["t2i_r5"] * 7 / 10 + 1e-9
    # and what it is asked for, it finds last: not within the first 5 of 10
    value = values(results, k)["i2t_r5"]
    assert value is not None and found["i2t_r5"] is not None and value <= found["i2t_r5"] * 5 / 6 + 1e-9


@pytest.mark.parametrize(
    ("captions", "k", "told"),
    [
        ([("a",), ("!?",)], 1, "g: 1 has a caption without words"),
        ([(), ()], 1, "g has no captions to retrieve by"),
        ([("a",), ("b",)], -1, "k is -1, wanted 0"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(captions: list[tuple[str, ...]], k: int, told: str) -> None:
    model, tokenizer = mini_model()
    items = gallery([0, 1])
    items.captions = captions
    with pytest.raises(ValueError, match=told.replace("?", r"\?")):
        evaluate_retrieval(model, tokenizer, items, k=k)


def test_an_item_that_is_gone_when_it_is_reranked_is_never_found() -> None:
    """As one that could not be read at all: what was not matched must not pass for a perfect match."""
    model, tokenizer = mini_model()
    found = []
    for first in (0, 1):  # the read that fails, of two
        reads: list[int] = []

        def read(index: int, reads: list[int] = reads, first: int = first) -> np.ndarray:
            reads += [index] if index == 2 else []
            if index == 2 and len(reads) > first:
                raise BadSample("2.png: is gone")
            return np.random.default_rng(index).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)

        captions: list[tuple[str, ...]] = [
            (f"a {name} star",) for name in ("red", "blue", "green", "pink", "grey", "white")
        ]
        items = Gallery("g", "test", "image", [str(i) for i in range(6)], captions, [""] * 6, read)
        results = evaluate_retrieval(model, tokenizer, items, k=6, token_memory=0.0)
        found.append({r.metric: float(r.value or 0) for r in results if r.settings["k"]})
        assert all(r.settings["bad"] == 1 for r in results if r.settings["k"]) and len(reads) == 1 + first
    assert found[0] == pytest.approx(found[1]) and found[0]["t2i_r5"] <= 5 / 6
