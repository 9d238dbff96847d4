"""Retrieval evaluation: all items are encoded once, ranked by similarity, then reranked by the matching score; and the
world's two tests of the order of time, which are retrieval among a clip's siblings and against its own reverse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnivl.data.sample import Gallery
from omnivl.metrics import median_rank, recall_at_k
from omnivl.model import OmniVL
from omnivl.model.rerank import SCORE, match_log_probability, rerank
from omnivl.tasks.base import Result
from omnivl.tokenizer import Tokenizer

LETTER = {"image": "i", "video": "v"}


@dataclass
class Encoded:
    """A gallery and its texts as vectors and tokens. `owner` (M,) is the item that each text belongs to."""

    visual: Tensor  # (V, E)
    tokens: Tensor  # (V, N, D)
    text: Tensor  # (M, E)
    ids: Tensor  # (M, L), starting with [ENC]
    mask: Tensor
    owner: Tensor
    read: Tensor  # (V,) false where an item could not be read


@torch.inference_mode()
def encode(
    model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, batch_size: int = 64, max_tokens: int = 40
) -> Encoded:
    device = model.temperature.device
    vectors: Tensor | None = None
    for indices, pixels in gallery.batches(batch_size):
        visual = model.encode_visual(pixels.to(device))
        if vectors is None:
            vectors = visual.embed.new_zeros(len(gallery), visual.embed.shape[1])
            tokens = visual.tokens.new_zeros(len(gallery), *visual.tokens.shape[1:])
            read = torch.zeros(len(gallery), dtype=torch.bool, device=device)
        vectors[indices], tokens[indices], read[indices] = visual.embed, visual.tokens, True
    if vectors is None:
        raise ValueError(f"{gallery.name}: none of the {len(gallery)} {gallery.medium} items can be read")
    texts = [caption for captions in gallery.captions for caption in captions]
    if not texts:
        raise ValueError(f"{gallery.name} has no captions to retrieve by")
    owner = torch.tensor([item for item, captions in enumerate(gallery.captions) for _ in captions], device=device)
    embeds = encode_texts(model, tokenizer, texts, batch_size=batch_size, max_tokens=max_tokens)
    ids, mask = tokenizer(texts, max_tokens=max_tokens)
    ids[:, 0] = tokenizer.enc_id
    return Encoded(vectors, tokens, embeds, ids.to(device), mask.to(device), owner, read)


@torch.inference_mode()
def encode_texts(
    model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int = 64, max_tokens: int = 40
) -> Tensor:
    """(M, E) unit vectors."""
    device = model.temperature.device
    parts = []
    for first in range(0, len(texts), batch_size):
        ids, mask = tokenizer(texts[first : first + batch_size], max_tokens=max_tokens)
        parts.append(model.encode_text(ids.to(device), mask.to(device)).embed)
    return torch.cat(parts)


@torch.inference_mode()
def evaluate_retrieval(model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, k: int) -> list[Result]:
    """R@1/5/10 and median rank in both directions, without reranking and with the best `k` reranked."""
    encoded = encode(model, tokenizer, gallery)
    similarity = encoded.visual @ encoded.text.T  # (V, M)
    similarity[~encoded.read] = -2.0  # below every cosine: what cannot be read is never found
    own = torch.arange(len(gallery), device=similarity.device)[:, None] == encoded.owner[None, :]  # (V, M)
    letter = LETTER[gallery.medium]
    results = []
    for depth in dict.fromkeys((0, k)):
        by_visual, by_text = rerank(model, similarity, encoded.tokens, encoded.ids, encoded.mask, depth)
        by_visual[~encoded.read] = 0.0  # an unreadable query knows nothing: chance
        settings = {
            "rerank": bool(depth),
            "k": depth,
            "rerank_score": SCORE if depth else None,
            "bad": len(gallery.bad),
        }
        for name, scores, targets in (
            (f"t2{letter}", by_text, own.T),
            (f"{letter}2t", by_visual[own.any(1)], own[own.any(1)]),
        ):
            recalls = recall_at_k(scores, targets, (1, 5, 10))
            size = scores.shape[1]
            hits = targets.sum(1).double().mean().item()
            for at, value in recalls.items():
                chance = min(1.0, at * hits / size)
                results.append(
                    gallery_result(gallery, "retrieval", f"{name}_r{at}", value, len(scores), chance, settings)
                )
            results.append(
                gallery_result(
                    gallery,
                    "retrieval",
                    f"{name}_median_rank",
                    median_rank(scores, targets),
                    len(scores),
                    None,
                    settings,
                )
            )
    return results


def gallery_result(
    gallery: Gallery, task: str, metric: str, value: float, n: int, chance: float | None, settings: Mapping[str, Any]
) -> Result:
    return Result(
        task, gallery.name, gallery.split, metric, float(value), n, chance, {"medium": gallery.medium, **settings}
    )


@torch.inference_mode()
def pair_scores(model: OmniVL, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """(V, M) cosines, and log p(matched) of every pair."""
    similarity = encoded.visual @ encoded.text.T
    pairs = torch.ones_like(similarity, dtype=torch.bool).nonzero()
    matched = match_log_probability(model, encoded.tokens, encoded.ids, encoded.mask, pairs)
    return similarity, matched.view_as(similarity)


@torch.inference_mode()
def evaluate_siblings(model: OmniVL, tokenizer: Tokenizer, groups: Sequence[Gallery]) -> list[Result]:
    """Each group holds one scene in every motion: is the right one found among its siblings, by text and by clip?"""
    found: dict[str, list[float]] = {}
    for group in groups:
        encoded = encode(model, tokenizer, group)
        target = torch.eye(len(group), dtype=torch.bool)
        for kind, scores in zip(("", "match_"), pair_scores(model, encoded), strict=True):
            found.setdefault(f"{kind}sibling_v2t", []).append(recall_at_k(scores, target, (1,))[1])
            found.setdefault(f"{kind}sibling_t2v", []).append(recall_at_k(scores.T, target, (1,))[1])
    size = len(groups[0])
    return [
        gallery_result(groups[0], "motion", metric, sum(values) / len(values), len(groups) * size, 1 / size, {})
        for metric, values in found.items()
    ]


@torch.inference_mode()
def evaluate_reverse(model: OmniVL, tokenizer: Tokenizer, forward: Gallery, backward: Gallery) -> list[Result]:
    """A caption between its clip and the same clip played backwards: who scores higher; a tie counts half."""
    results = []
    encoded, reverse = encode(model, tokenizer, forward), encode(model, tokenizer, backward)
    own = torch.stack([torch.arange(len(forward))] * 2, 1)
    sides = []
    for side in (encoded, reverse):
        cosine = (side.visual * encoded.text).sum(1)
        matched = match_log_probability(model, side.tokens, encoded.ids, encoded.mask, own.to(side.tokens.device))
        sides.append((cosine, matched))
    for kind, right, wrong in zip(("", "match_"), *sides, strict=True):
        value = ((right > wrong).double() + (right == wrong).double() / 2).mean()
        results.append(gallery_result(forward, "motion", f"{kind}reverse", float(value), len(forward), 0.5, {}))
    return results
