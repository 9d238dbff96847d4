"""The two-step search of the paper: the best K by similarity, then ordered by the matching score as well (section 4).

The final score of a candidate is log p(matched) + similarity / temperature *(ours: BLIP adds the raw cosine, which hurt
small models)*. What is not a candidate stays behind all candidates, in the order of its similarity.
"""

import torch
from torch import Tensor

from omnivl.model.omnivl import OmniVL

SCORE = "log p(matched) + similarity / temperature"
SIDE = 64  # texts beside one visual input in one pass, alike in length


@torch.inference_mode()
def match_log_probability(
    model: OmniVL, tokens: Tensor, ids: Tensor, mask: Tensor, pairs: Tensor, batch: int = 256
) -> Tensor:
    """log p(matched) of pairs (P, 2) of (visual, text) numbers; ids (M, L) start with [ENC]; tokens (V, N, D).

    Keys and values of a visual input are computed once however many pairs it stands in, and are not copied for each:
    its texts stand side by side, sorted by length. In one pass are inputs with about as many texts, of which the fewer
    are filled up by repeating one.
    """
    scores = tokens.new_zeros(len(pairs), dtype=torch.float32)
    lengths = mask.sum(1)
    order = (pairs[:, 0] * (ids.shape[1] + 1) + lengths[pairs[:, 1]]).argsort()  # by visual input, then by length
    visuals, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    by_count = counts.argsort(descending=True, stable=True)
    first = 0
    while first < len(visuals):
        most = int(counts[by_count[first]])
        some = by_count[first : first + max(1, batch // min(most, SIDE))]  # (C,)
        first += len(some)
        context = model.cross_keys_values(tokens[visuals[some]])
        places = (
            torch.arange(most, device=pairs.device).minimum(counts[some, None] - 1) + starts[some, None]
        )  # (C, most)
        for part in order[places].split(SIDE, dim=1):
            texts = pairs[part.flatten(), 1]
            longest = int(lengths[texts].max())
            logits = model.match(ids[texts, :longest], mask[texts, :longest], context)
            scores[part.flatten()] = logits.float().log_softmax(1)[:, 1]
    return scores


@torch.inference_mode()
def rerank(
    model: OmniVL, similarity: Tensor, tokens: Tensor, ids: Tensor, mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Final scores in both directions.

    Args:
        similarity: (V, M) cosines of visual inputs and texts.
        tokens: (V, N, D); ids, mask: (M, L), ids starting with [ENC].
        k: candidates a query; clipped to the gallery; 0 gives the similarity alone.

    Returns:
        (V, M) for visual queries and (M, V) for text queries.
    """
    to_text, to_visual = candidates(similarity, k)
    pairs = (to_text | to_visual).nonzero()
    matched = torch.zeros_like(similarity)
    matched[pairs[:, 0], pairs[:, 1]] = match_log_probability(model, tokens, ids, mask, pairs)
    scaled = similarity / model.temperature.clamp(0.001, 0.5)
    final = scaled + matched
    return behind(scaled, final, to_text, 1), behind(scaled, final, to_visual, 0).T


def candidates(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Which pairs are reranked, (V, M) bool each: the best `k` texts of every visual input, and the best `k` visual
    inputs of every text. Items level with the last of them are candidates too, so that no order of the items tells.

    Raises ValueError where k is negative.
    """
    if k < 0:
        raise ValueError(f"k is {k}, wanted 0 (no reranking) or more")
    found = []
    for dim, size in ((1, similarity.shape[1]), (0, similarity.shape[0])):
        if k == 0 or size == 0:
            found.append(torch.zeros_like(similarity, dtype=torch.bool))
        else:
            last = similarity.topk(min(k, size), dim=dim).values.narrow(dim, min(k, size) - 1, 1)
            found.append(similarity >= last)
    return found[0], found[1]


def behind(scaled: Tensor, final: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """The final scores (V, M) of what was chosen of each query along `dim`, and behind them all else in its order:
    moved down as a whole by no more than it takes, as a large number would swallow small differences."""
    lowest = final.masked_fill(~chosen, torch.inf).amin(dim, keepdim=True)
    highest = scaled.masked_fill(chosen, -torch.inf).amax(dim, keepdim=True)
    shift = torch.where(lowest.isinf() | highest.isinf(), 0.0, (lowest - highest - 1).clamp(max=0))
    return torch.where(chosen, final, scaled + shift)
