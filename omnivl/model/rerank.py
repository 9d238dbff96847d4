"""The two-step search of the paper: the best K by similarity, then ordered by the matching score as well (section 4).

The final score of a candidate is log p(matched) + similarity / temperature *(ours: BLIP adds the raw cosine, which hurt
small models)*. What is not a candidate stays behind all candidates, in the order of its similarity.
"""

import torch
from torch import Tensor

from omnivl.model.omnivl import OmniVL

BEHIND = -1e6  # added to the similarity of what was not reranked
SCORE = "log p(matched) + similarity / temperature"


@torch.inference_mode()
def match_log_probability(
    model: OmniVL, tokens: Tensor, ids: Tensor, mask: Tensor, pairs: Tensor, batch: int = 256
) -> Tensor:
    """log p(matched) of pairs (P, 2) of (visual, text) numbers; ids (M, L) start with [ENC]; tokens (V, N, D).

    Keys and values of a visual input are computed once however many pairs it stands in.
    """
    order = pairs[:, 0].argsort(stable=True)
    scores = tokens.new_zeros(len(pairs))
    for part in order.split(batch):
        visuals, inverse = pairs[part, 0].unique(return_inverse=True)
        context = model.cross_keys_values(tokens[visuals]).select(inverse)
        texts = pairs[part, 1]
        longest = int(mask[texts].sum(1).max())
        logits = model.match(ids[texts, :longest], mask[texts, :longest], context)
        scores[part] = logits.float().log_softmax(1)[:, 1]
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
    if k < 0:
        raise ValueError(f"k is {k}, wanted 0 or more")
    scaled = similarity / model.temperature.clamp(0.001, 0.5)
    if k == 0:
        return scaled, scaled.T
    rows, columns = similarity.shape
    to_text = torch.zeros(rows, columns, dtype=torch.bool, device=similarity.device)
    to_text.scatter_(1, similarity.topk(min(k, columns), dim=1).indices, True)
    to_visual = torch.zeros_like(to_text).scatter_(0, similarity.topk(min(k, rows), dim=0).indices, True)
    pairs = (to_text | to_visual).nonzero()
    matched = torch.zeros_like(similarity)
    matched[pairs[:, 0], pairs[:, 1]] = match_log_probability(model, tokens, ids, mask, pairs)
    final = scaled + matched
    return torch.where(to_text, final, scaled + BEHIND), torch.where(to_visual, final, scaled + BEHIND).T
