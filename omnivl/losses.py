"""The objectives of OmniVL as pure functions of tensors (paper, section 3.2; method names in brackets are ours).

They return one value a row, not a mean: whoever calls them divides by the count over all ranks, so that two processes
on half batches equal one on the whole. Axes: B queries, K keys, E embedding, L tokens, V vocabulary. This room knows no
model, no bank and no rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def univlc_loss(
    visual: Tensor,
    text: Tensor,
    labels: Tensor,
    key_visual: Tensor,
    key_text: Tensor,
    key_labels: Tensor,
    temperature: Tensor | float,
    key_mask: Tensor | None = None,
    *,
    soft_visual: Tensor | None = None,
    soft_text: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Unified vision-language contrast: keys with the query's label are its positives, all other keys its negatives.

    Args:
        visual, text: (B, E) unit-length queries; `labels` (B,) names what they show.
        key_visual, key_text: (K, E) momentum vectors, the batch's followed by the bank's; `key_labels` (K,).
        temperature: what similarities are divided by.
        key_mask: (K,) true where a key exists; empty bank slots never match and never count. None: all exist.
        soft_visual, soft_text: (B, E) momentum vectors of the queries; with `alpha` > 0 their similarities to the keys
            are mixed into the targets (momentum distillation, ALBEF; off in the paper's formula).

    Returns:
        (B,) half the sum of both directions: the mean over the positives of the negative log-softmax. Every query needs
        at least one positive, which holds as the batch's own keys come first.
    """
    exists = key_labels.new_ones(len(key_labels), dtype=torch.bool) if key_mask is None else key_mask
    positive = (labels[:, None] == key_labels[None, :]) & exists  # (B, K)
    hard = positive / positive.sum(1, keepdim=True)

    def direction(query: Tensor, keys: Tensor, soft_query: Tensor | None) -> Tensor:
        def scores(vectors: Tensor) -> Tensor:
            return (vectors @ keys.T / temperature).masked_fill(~exists, float("-inf"))

        target = hard
        if alpha > 0 and soft_query is not None:
            target = alpha * scores(soft_query).detach().softmax(1) + (1 - alpha) * hard
        log_probability = scores(query).log_softmax(1).masked_fill(~exists, 0.0)  # 0 * -inf would be NaN
        return -(target * log_probability).sum(1)

    return (direction(visual, key_text, soft_visual) + direction(text, key_visual, soft_text)) / 2


def sample_hard_negatives(
    similarity: Tensor, labels: Tensor, candidate_labels: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw one negative a row with probability proportional to exp(similarity), never one of the row's own label.

    Args:
        similarity: (B, K) scaled similarities of rows to candidates.
        labels, candidate_labels: (B,) and (K,).
        uniforms: (B,) in [0, 1), one a row: the same numbers give the same negatives however rows are spread over
        ranks.

    Returns:
        rows (R,) that have a negative at all, and the candidate drawn for each (R,). R may be 0 (a batch of one, or of
        one label); nothing is raised.
    """
    allowed = labels[:, None] != candidate_labels[None, :]
    rows = allowed.any(1).nonzero().squeeze(1)
    weights = similarity[rows].float().masked_fill(~allowed[rows], float("-inf")).softmax(1)
    cumulative = weights.double().cumsum(1)
    aim = uniforms[rows].double() * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, aim[:, None], right=True).squeeze(1)
    last = (
        weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(1)
    )  # rounding must not step past the last allowed one
    return rows, torch.minimum(drawn, last)


def vlm_loss(logits: Tensor, matched: Tensor) -> Tensor:
    """Vision-language matching: two-way cross-entropy, (R, 2) logits and (R,) 0 or 1 -> (R,) nats."""
    return F.cross_entropy(logits.float(), matched, reduction="none")


def lm_loss(logits: Tensor, ids: Tensor, target_mask: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Language modelling: cross-entropy of each token given those before it, summed over a row's targets.

    Args:
        logits: (B, L, V), position i predicting token i + 1; or (M, V), of the positions that predict a target alone.
        ids: (B, L) starting with [DEC].
        target_mask: (B, L), 1 where the token is to be predicted: neither padding nor prompt; position 0 is ignored.
        label_smoothing: 0 when scoring.

    Returns:
        (B,) sums in nats; divide by the number of targets.
    """
    wanted = target_mask[:, 1:].bool()
    rows = wanted.nonzero()[:, 0]
    if logits.dim() == 3:
        logits = logits[:, :-1][wanted]
    losses = F.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none", label_smoothing=label_smoothing)
    return losses.new_zeros(len(ids)).index_add(0, rows, losses)


def text_loss(
    logits: Tensor, ids: Tensor, masked: Tensor, words_logits: Tensor | None = None, words: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The language warm-up of a model that starts without a language *(ours)*: masked words (BERT), and the bag of a
    text's words from its projected [CLS] vector, which forces the words into it.

    Args:
        logits: (M, V) for the masked positions; ids: (B, L) the true tokens; masked: (B, L) true at those positions.
        words_logits: (B, V) from the projected [CLS]; words: (B, V) 1 where the word occurs in the text.

    Returns:
        (M,) masked-word losses, and (B,) bag-of-words losses: binary cross-entropies summed over the vocabulary, so
        that one rare word that is wrong weighs as much as any other.
    """
    masked_loss = F.cross_entropy(logits.float(), ids[masked], reduction="none")
    if words_logits is None or words is None:
        return masked_loss, masked_loss.new_zeros(len(ids))
    return masked_loss, F.binary_cross_entropy_with_logits(words_logits.float(), words, reduction="none").sum(1)
