"""Retrieval and recognition: recall, ranks and accuracies as pure functions of tensors.

They share ties: items with equal scores count by the expected hit rate over all orders of them, so no result depends on
the order of the data and a model that gives one score to everything gets chance. This is the protocol of the paper's
tables where there are no ties. Axes: Q queries, G items of the gallery, N samples, C classes.
This room knows no model, no data set and no rank: whoever calls it has gathered everything, each sample once.
"""

import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Targets = Tensor | Sequence[Iterable[int]]


def recall_at_k(scores: Tensor, targets: Targets, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Share of queries with at least one of their own items among the best K, for each K; ties share.

    scores (Q, G), higher is better; targets (Q, G) bool, or for each query the indices of its own items. K may exceed
    G. Raises ValueError for no queries, NaN scores, a query without an item of its own, or K under 1.
    """
    before, tied, own = places(scores, targets)
    if smaller := [k for k in ks if k < 1]:
        raise ValueError(f"recall at {smaller[0]} means nothing: K must be 1 or more")
    return {k: hit_rates(before, tied, own, k).mean().item() for k in ks}


def hits_at_k(scores: Tensor, targets: Targets, k: int) -> Tensor:
    """What each query adds to `recall_at_k`: (Q,) float64 in [0, 1]. Takes and raises what it does."""
    if k < 1:
        raise ValueError(f"recall at {k} means nothing: K must be 1 or more")
    return hit_rates(*places(scores, targets), k)


def chance_at_k(owned: Tensor, size: int, k: int) -> float:
    """The recall that a random order of `size` items gives queries of which each owns `owned` (Q,) of them: the mean of
    1 - C(size - owned, k) / C(size, k)."""
    counts = owned.double().cpu()
    return hit_rates(torch.zeros_like(counts), torch.full_like(counts, size), counts, k).mean().item()


def median_rank(scores: Tensor, targets: Targets) -> float:
    """Median over the queries of the rank, from 1, at which the first of their own items is expected; ties share.

    Takes and raises what `recall_at_k` does.
    """
    before, tied, own = places(scores, targets)
    return statistics.median((before + (tied + 1) / (own + 1)).tolist())


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples whose class is among the best k. scores (N, C), labels (N,) int64; ties share, k may exceed
    C."""
    return recall_at_k(scores, labels[:, None].tolist(), (k,))[k]


def mean_per_class(hits: Tensor, labels: Tensor) -> float:
    """The mean of the hits (N,) of each class that occurs in labels (N,), averaged over these classes."""
    return torch.stack([hits[labels == label].mean() for label in labels.unique()]).mean().item()


def places(scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Where each query's best own item stands: items strictly before it, items level with it (itself included), and
    how many of those are own. Three (Q,) float64 tensors on the CPU."""
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"scores must be queries x items with at least one query, got {tuple(scores.shape)}")
    owned = own_items(scores, targets)
    if bool(scores.isnan().any()):
        raise ValueError(
            f"{int(scores.isnan().any(1).sum())} of {len(scores)} queries have scores that are not numbers"
        )
    if not bool(owned.any(1).all()):
        raise ValueError(f"query {int((~owned.any(1)).nonzero()[0])} has no item of its own in the gallery")
    best = torch.where(owned, scores, -torch.inf).amax(1, keepdim=True)  # (Q, 1)
    level = scores == best
    counts = ((scores > best).sum(1), level.sum(1), (level & owned).sum(1))
    before, tied, own = (count.double().cpu() for count in counts)
    return before, tied, own


def own_items(scores: Tensor, targets: Targets) -> Tensor:
    """Targets as (Q, G) bool on the scores' device."""
    if isinstance(targets, Tensor):
        if targets.shape != scores.shape or targets.dtype != torch.bool:
            raise ValueError(
                f"targets must be bool of the scores' shape {tuple(scores.shape)}, "
                f"got {targets.dtype} {tuple(targets.shape)}"
            )
        return targets.to(scores.device)
    if len(targets) != len(scores):
        raise ValueError(f"there are {len(scores)} queries but targets for {len(targets)}")
    owned = torch.zeros(scores.shape, dtype=torch.bool)
    for query, indices in enumerate(targets):
        for index in indices:
            if not 0 <= index < scores.shape[1]:
                raise ValueError(
                    f"query {query} has item {index}, but the gallery holds {scores.shape[1]}, counted from 0"
                )
            owned[query, index] = True
    return owned.to(scores.device)


def hit_rates(before: Tensor, tied: Tensor, own: Tensor, k: int) -> Tensor:
    """For each query (Q,) the chance that a random order of the tied items puts an own one among the best k.

    With r = k - before places left for the tied, it misses when every own item falls among the tied - r others' places:
    the product over the own items i of (tied - r - i) / (tied - i). Exact where logarithms of factorials are not.
    """
    room = (k - before).clamp(min=0).minimum(tied)
    misses = torch.ones_like(before)
    for i in range(int(own.max())):
        factor = ((tied - room - i) / (tied - i).clamp(min=1)).clamp(min=0)
        misses *= factor.where(i < own, 1.0)
    return 1 - misses
