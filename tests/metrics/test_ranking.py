"""Every metric against brute force: where items tie, against the mean over all orders in which they could be listed."""

import itertools
import math
import statistics

import pytest
import torch
from torch import Tensor

from omnivl.metrics import (
    chance_at_k,
    exact_match,
    hits_at_k,
    mean_per_class,
    median_rank,
    recall_at_k,
    token_f1,
    top_k_accuracy,
)


def first_ranks(scores: list[float], own: set[int]) -> list[int]:
    """Rank from 1 of the first own item, for every order of the gallery that the scores allow."""
    orders = itertools.permutations(range(len(scores)))
    allowed = [order for order in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))]
    return [1 + min(place for place, item in enumerate(order) if item in own) for order in allowed]


def random_case(seed: int, levels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (6, 6), generator=generator).float() - 1
    targets = torch.rand(6, 6, generator=generator) < 0.3
    targets[torch.arange(6), torch.randint(6, (6,), generator=generator)] = True
    return scores, targets


@pytest.mark.parametrize("levels", [1, 2, 3, 100])
def test_recall_and_rank_are_the_mean_over_all_orders_of_ties(levels: int) -> None:
    for seed in range(3):
        scores, targets = random_case(seed, levels)
        ranks = [
            first_ranks(row, set(own.nonzero()[:, 0].tolist()))
            for row, own in zip(scores.tolist(), targets, strict=True)
        ]
        got = recall_at_k(scores, targets, range(1, 9))
        for k in range(1, 9):
            want = statistics.mean(statistics.mean(float(rank <= k) for rank in each) for each in ranks)
            assert got[k] == pytest.approx(want, abs=1e-9)
            each_query = [statistics.mean(float(rank <= k) for rank in each) for each in ranks]
            assert hits_at_k(scores, targets, k).tolist() == pytest.approx(each_query, abs=1e-9)
        want_rank = statistics.median(statistics.mean(each) for each in ranks)
        assert median_rank(scores, targets) == pytest.approx(want_rank)


def test_a_model_that_scores_all_alike_gets_chance() -> None:
    scores = torch.full((50, 400), 0.3, dtype=torch.bfloat16)
    targets = [[i] for i in range(50)]
    got = recall_at_k(scores, targets, (1, 5, 10))
    assert got == pytest.approx({1: 1 / 400, 5: 5 / 400, 10: 10 / 400})
    assert median_rank(scores, targets) == 200.5
    assert top_k_accuracy(scores, torch.arange(50), 20) == pytest.approx(20 / 400)
    assert mean_per_class(hits_at_k(scores, torch.arange(50)[:, None].tolist(), 1), torch.arange(50)) == pytest.approx(
        1 / 400
    )


def test_chance_is_exact_in_a_gallery_of_a_million() -> None:
    assert recall_at_k(torch.zeros(1, 1_000_000), [[7]], (10,))[10] == pytest.approx(1e-5)


def test_chance_is_that_of_a_draw_without_putting_back() -> None:
    for size, owned, k in ((8, 2, 5), (60, 20, 5), (200, 41, 5), (25_010, 5, 10), (5, 1, 10), (7, 1, 5)):
        drawn = min(size, k)
        exact = 1 - math.comb(size - owned, drawn) / math.comb(size, drawn)
        assert chance_at_k(torch.tensor([owned]), size, k) == pytest.approx(exact)
    assert chance_at_k(torch.tensor([1, 3]), 9, 2) == pytest.approx((2 / 9 + 1 - 6 * 5 / (9 * 8)) / 2)


def test_the_order_of_the_gallery_changes_nothing() -> None:
    scores, targets = random_case(0, 3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert recall_at_k(scores[:, order], targets[:, order], (1, 3)) == recall_at_k(scores, targets, (1, 3))


def test_a_hit_is_any_of_the_querys_own_items() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.4], [0.9, 0.8, 0.1, 0.2]])
    assert recall_at_k(scores, [{0, 1}, {2, 3}], (1, 3, 4)) == {1: 0.5, 3: 1.0, 4: 1.0}
    assert recall_at_k(scores, [[0, 2], [1, 3]], (1, 2)) == {1: 0.0, 2: 1.0}


def test_index_sets_and_masks_say_the_same() -> None:
    scores, targets = random_case(2, 4)
    sets = [set(row.nonzero()[:, 0].tolist()) for row in targets]
    assert recall_at_k(scores, sets) == recall_at_k(scores, targets)


def test_items_that_were_not_scored_share_the_last_places() -> None:
    scores = torch.tensor([[0.5, -torch.inf, -torch.inf]])
    assert recall_at_k(scores, [[1]], (1, 2, 3)) == pytest.approx({1: 0.0, 2: 0.5, 3: 1.0})


def test_mean_per_class_weighs_classes_not_samples() -> None:
    scores = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [2, 1, 0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert top_k_accuracy(scores, labels) == 0.75
    assert mean_per_class(hits_at_k(scores, labels[:, None].tolist(), 1), labels) == 0.5
    assert top_k_accuracy(scores, labels, 2) == top_k_accuracy(scores, labels, 9) == 1.0


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.zeros(0, 3), [], "at least one query"),
        (torch.zeros(2, 3), [[0]], "2 queries but targets for 1"),
        (torch.zeros(2, 3), [[0], []], "query 1 has no item"),
        (torch.zeros(2, 3), [[0], [3]], "query 1 has item 3"),
        (torch.zeros(1, 3), [[-1]], "query 0 has item -1"),
        (torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), "of the scores' shape"),
        (torch.zeros(1, 3), torch.ones(1, 3), "must be bool"),
        (torch.tensor([[0.0, torch.nan]]), [[0]], "not numbers"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores: Tensor, targets: Tensor | list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_at_k(scores, targets)


def test_recall_at_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="K must be 1 or more"):
        recall_at_k(torch.zeros(1, 2), [[0]], (0,))


def test_exact_match_sets_case_accents_and_punctuation_aside() -> None:
    assert exact_match(["A café , it's red."], ["a cafe it's red"]) == 1.0
    assert exact_match(["a dog", "a cat"], [["the dog", "A dog!"], ["the cat"]]) == 0.5
    assert exact_match(["", "!"], ["", "a"]) == 0.0


def test_token_f1_is_that_of_shared_words_with_the_best_reference() -> None:
    assert token_f1(["a red circle moves"], ["a red square moves left"]) == pytest.approx(
        2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)
    )
    assert token_f1(["red red"], ["red"]) == pytest.approx(2 / 3)
    assert token_f1(["a b"], [["c", "a b", "a"]]) == 1.0


def test_a_reference_is_never_read_letter_by_letter() -> None:
    assert token_f1(["dog"], ["dog"]) == token_f1(["dog"], [["dog"]]) == 1.0
    assert exact_match(["d"], ["dog"]) == 0.0


def test_an_empty_prediction_scores_nothing_and_an_empty_set_is_an_error() -> None:
    assert token_f1([""], ["dog"]) == exact_match([""], [[]]) == 0.0
    with pytest.raises(ValueError, match="0 predictions"):
        token_f1([], [])
    with pytest.raises(ValueError, match="1 predictions and references for 2"):
        exact_match(["a"], ["a", "b"])
