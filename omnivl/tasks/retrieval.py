"""Retrieval evaluation: all items are encoded once, ranked by similarity, then reranked by the matching score; and the
world's two tests of the order of time, which are retrieval among a clip's siblings and against its own reverse.

Ranks share the items: each encodes its own and scores the pairs that they stand in. Visual tokens are the large thing:
they are kept on the host until a limit, and those past it are encoded again, block by block, when they are reranked.
Scores are rounded to what is above the noise of float32, which differs from batch to batch: items that are alike stay
level, and share their ranks. Axes: V visual inputs, M texts, N visual tokens, L text tokens, E embedding, D width.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnivl import distributed
from omnivl.data.sample import Gallery
from omnivl.metrics import chance_at_k, hits_at_k, median_rank, recall_at_k, words
from omnivl.model import OmniVL
from omnivl.model.rerank import SCORE, behind, candidates, match_log_probability
from omnivl.tasks.base import Result, gallery_result
from omnivl.tasks.work import Work, table
from omnivl.tokenizer import Tokenizer

log = logging.getLogger(__name__)

LETTER = {"image": "i", "video": "v"}
GIB = 2**30
UNREAD = -2.0  # below every cosine: what cannot be read is never found
COSINE_DIGITS, LOG_DIGITS = 5, 4  # behind the point, that scores are rounded to


@dataclass
class VisualTokens:
    """The visual tokens of this rank's items, kept on the host while they take at most `limit` bytes; the others are
    encoded again whenever they are asked for."""

    model: OmniVL
    gallery: Gallery
    batch_size: int
    limit: float
    kept: dict[int, Tensor] = field(default_factory=dict)  # item -> (N, D)
    again: list[int] = field(default_factory=list)

    def add(self, indices: Sequence[int], tokens: Tensor) -> None:
        """Take in (b, N, D)."""
        size = tokens[0].numel() * tokens.element_size()
        room = max(0, int(self.limit // size) - len(self.kept))
        self.kept |= {index: row.clone() for index, row in zip(indices[:room], tokens[:room].cpu(), strict=True)}

    def blocks(self, known: Collection[int] = ()) -> Iterator[tuple[list[int], Tensor]]:
        """(items, tokens (b, N, D) on the model's device), every item that can be read once, but those `known`."""
        device, numbers = self.model.temperature.device, [number for number in self.kept if number not in known]
        for first in range(0, len(numbers), self.batch_size):
            part = numbers[first : first + self.batch_size]
            yield part, torch.stack([self.kept[number] for number in part]).to(device)
        again = [number for number in self.again if number not in known]
        for part, pixels in self.gallery.batches(self.batch_size, again):
            yield part, self.model.encode_visual(pixels.to(device)).tokens

    def told(self) -> str:
        size = sum(row.numel() * row.element_size() for row in self.kept.values()) / GIB
        return (
            f"{self.gallery.name}: visual tokens of {len(self.kept)} items are kept ({size:.2f} of at most "
            f"{self.limit / GIB:g} GiB), those of {len(self.again)} are encoded again for reranking"
        )


@dataclass
class Encoded:
    """A gallery and its texts as vectors and tokens. `owner` (M,) is the item that each text belongs to."""

    visual: Tensor  # (V, E)
    tokens: VisualTokens
    text: Tensor  # (M, E)
    ids: Tensor  # (M, L), starting with [ENC]
    mask: Tensor
    owner: Tensor
    read: Tensor  # (V,) false where an item could not be read


@torch.inference_mode()
def encode(
    model: OmniVL,
    tokenizer: Tokenizer,
    gallery: Gallery,
    *,
    batch_size: int = 64,
    max_tokens: int = 40,
    token_memory: float = 1.0,
    work: Work | None = None,
) -> Encoded:
    """Raises ValueError where no item can be read, where there are no captions, or one without words."""
    device = model.temperature.device
    texts = [caption for captions in gallery.captions for caption in captions]
    if not texts:
        raise ValueError(f"{gallery.name} has no captions to retrieve by")
    for key, captions in zip(gallery.keys, gallery.captions, strict=True):
        if not all(words(caption) for caption in captions):
            raise ValueError(f"{gallery.name}: {key} has a caption without words, which nothing can be found by")
    tokens = VisualTokens(model, gallery, batch_size, token_memory * GIB)

    def embed(items: list[int], pixels: Tensor) -> list[Tensor]:
        visual = model.encode_visual(pixels.to(device))
        tokens.add(items, visual.tokens)
        return list(visual.embed.cpu())

    rows = (work or Work()).rows("vectors", gallery, batch_size, embed)
    tokens.again = [item for item in rows if item not in tokens.kept]
    vectors, read = (made.to(device) for made in table(rows, len(gallery), model.config.embed_dim))
    if not read.any():
        raise ValueError(f"{gallery.name}: none of the {len(gallery)} {gallery.medium} items can be read")
    owner = torch.tensor([item for item, captions in enumerate(gallery.captions) for _ in captions], device=device)
    embeds = encode_texts(model, tokenizer, texts, batch_size=batch_size, max_tokens=max_tokens)
    ids, mask = tokenizer(texts, max_tokens=max_tokens)
    ids[:, 0] = tokenizer.enc_id
    return Encoded(vectors, tokens, embeds, ids.to(device), mask.to(device), owner, read)


@torch.inference_mode()
def match_pairs(
    model: OmniVL, tokens: VisualTokens, ids: Tensor, mask: Tensor, wanted: Tensor, work: Work | None = None
) -> Tensor:
    """log p(matched) (V, M) of the pairs that are `wanted` (V, M) bool; 0 for all others. Each pair is scored by the
    rank whose visual input it is."""
    work, gallery, device = work or Work(), tokens.gallery, wanted.device
    part, own = work.part("matches", gallery), distributed.own_part(len(gallery))
    scores = torch.zeros(wanted.shape, device=device)
    known: set[int] = set()
    for item, row in work.known(part, gallery, own).items():
        numbers, values = row.to(device).view(2, -1)
        texts = numbers.long()
        if torch.equal(texts, wanted[item].nonzero()[:, 0]):  # else they were wanted for another K
            scores[item, texts] = values
            known.add(item)
    total = len(tokens.kept) + len(tokens.again)
    step = work.steps(f"matches, {gallery.name}, {gallery.medium}", total, len(known))
    for indices, block in tokens.blocks(known):
        pairs = wanted[indices].nonzero()
        rows = torch.tensor(indices, device=device)[pairs[:, 0]]
        scores[rows, pairs[:, 1]] = match_log_probability(model, block, ids, mask, pairs)
        made = {item: wanted[item].nonzero()[:, 0] for item in indices}
        kept = {item: torch.cat([texts.float(), scores[item, texts]]).cpu() for item, texts in made.items()}
        work.keep(part, gallery, kept)
        step(len(indices))
    return distributed.fill_from_ranks(scores).round(decimals=LOG_DIGITS)


@torch.inference_mode()
def encode_texts(
    model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int = 64, max_tokens: int = 40
) -> Tensor:
    """(M, E) unit vectors; ranks share the texts."""
    device = model.temperature.device
    different = list(dict.fromkeys(texts))  # the same text has the same vector to the last bit
    vectors = torch.zeros(len(different), model.config.embed_dim, device=device)
    own = distributed.own_part(len(different))
    for first in range(0, len(own), batch_size):
        part = list(own[first : first + batch_size])
        ids, mask = tokenizer([different[number] for number in part], max_tokens=max_tokens)
        vectors[part] = model.encode_text(ids.to(device), mask.to(device)).embed
    places = {text: place for place, text in enumerate(different)}
    return distributed.fill_from_ranks(vectors)[[places[text] for text in texts]]


@torch.inference_mode()
def evaluate_retrieval(
    model: OmniVL,
    tokenizer: Tokenizer,
    gallery: Gallery,
    *,
    k: int,
    batch_size: int = 64,
    max_tokens: int = 40,
    token_memory: float = 1.0,
    work: Work | None = None,
) -> list[Result]:
    """R@1/5/10 and median rank in both directions, without reranking and with the best `k` reranked; any of an item's
    own captions is a hit."""
    if k < 0:
        raise ValueError(f"k is {k}, wanted 0 (no reranking) or more")
    encoded = encode(
        model,
        tokenizer,
        gallery,
        batch_size=batch_size,
        max_tokens=max_tokens,
        token_memory=token_memory if k else 0.0,
        work=work,
    )
    if k:
        log.info(encoded.tokens.told())
    similarity = (encoded.visual @ encoded.text.T).round(decimals=COSINE_DIGITS)  # (V, M)
    read = encoded.read
    similarity[~read] = UNREAD
    own = torch.arange(len(gallery), device=similarity.device)[:, None] == encoded.owner[None, :]  # (V, M)
    letter, results = LETTER[gallery.medium], []
    for depth in dict.fromkeys((0, k)):
        to_text, to_visual = (found & read[:, None] for found in candidates(similarity, depth))
        matched = torch.zeros_like(similarity)
        if depth:
            matched = match_pairs(model, encoded.tokens, encoded.ids, encoded.mask, to_text | to_visual, work)
            read = read & readable(gallery).to(read.device)  # files may be gone since they were encoded
            similarity[~read] = UNREAD
            to_text, to_visual = to_text & read[:, None], to_visual & read[:, None]
        scaled = similarity / model.temperature.clamp(0.001, 0.5)
        final = matched.add_(scaled)
        results += score_direction(gallery, f"t2{letter}", behind(scaled, final, to_visual, 0).T, own.T, depth)
        by_visual = behind(scaled, final, to_text, 1)
        by_visual[~read] = 0.0  # an unreadable query finds its own texts last
        by_visual[own & ~read[:, None]] = -1.0
        captioned = own.any(1)
        results += score_direction(gallery, f"{letter}2t", by_visual[captioned], own[captioned], depth)
    return results


def readable(gallery: Gallery) -> Tensor:
    """(V,) false for the items that a rank could not read so far. Every rank must call it."""
    gallery.gather_bad()
    bad = {key for key, _ in gallery.bad}
    return torch.tensor([key not in bad for key in gallery.keys])


def score_direction(gallery: Gallery, name: str, scores: Tensor, targets: Tensor, depth: int) -> list[Result]:
    """The numbers of scores (Q, G), where `targets` (Q, G) says whose items are whose."""
    settings = {"rerank": bool(depth), "k": depth, "rerank_score": SCORE if depth else None, "bad": len(gallery.bad)}
    owned, size = targets.sum(1), scores.shape[1]
    items = {1: hits_at_k(scores, targets, 1).tolist()}
    results = [
        gallery_result(
            gallery, "retrieval", f"{name}_r{at}", value, len(scores), chance_at_k(owned, size, at), settings,
            items.get(at, ()),
        )
        for at, value in recall_at_k(scores, targets, (1, 5, 10)).items()
    ]  # fmt: skip
    told, rank = {**settings, "direction": name}, median_rank(scores, targets)
    return [*results, gallery_result(gallery, "retrieval", "median_rank", rank, len(scores), None, told)]


@torch.inference_mode()
def pair_scores(model: OmniVL, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """(V, M) cosines, and log p(matched) of every pair."""
    similarity = (encoded.visual @ encoded.text.T).round(decimals=COSINE_DIGITS)
    everything = torch.ones_like(similarity, dtype=torch.bool)
    return similarity, match_pairs(model, encoded.tokens, encoded.ids, encoded.mask, everything)


@torch.inference_mode()
def evaluate_siblings(model: OmniVL, tokenizer: Tokenizer, groups: Sequence[Gallery]) -> list[Result]:
    """Each group holds one scene in every motion: is the right one found among its siblings, by text and by clip?"""
    found: dict[str, list[float]] = {}
    for group in groups:
        encoded = encode(model, tokenizer, group)
        target = torch.eye(len(group), dtype=torch.bool)
        for kind, scores in zip(("", "match_"), pair_scores(model, encoded), strict=True):
            found.setdefault(f"{kind}sibling_v2t", []).extend(hits_at_k(scores, target, 1).tolist())
            found.setdefault(f"{kind}sibling_t2v", []).extend(hits_at_k(scores.T, target, 1).tolist())
    chance = 1 / len(groups[0])
    return [
        gallery_result(groups[0], "motion", metric, sum(hits) / len(hits), len(hits), chance, {}, hits)
        for metric, hits in found.items()
    ]


@torch.inference_mode()
def evaluate_reverse(model: OmniVL, tokenizer: Tokenizer, forward: Gallery, backward: Gallery) -> list[Result]:
    """A caption between its clip and the same clip played backwards: who scores higher; a tie counts half."""
    results = []
    encoded, reverse = encode(model, tokenizer, forward), encode(model, tokenizer, backward)
    own = torch.eye(len(forward), dtype=torch.bool, device=encoded.visual.device)
    sides = []
    for side in (encoded, reverse):
        cosine = (side.visual * encoded.text).sum(1).round(decimals=COSINE_DIGITS)
        sides.append((cosine, match_pairs(model, side.tokens, encoded.ids, encoded.mask, own).diagonal()))
    for kind, right, wrong in zip(("", "match_"), *sides, strict=True):
        hits = (right > wrong).double() + (right == wrong).double() / 2
        value = float(hits.mean())
        results.append(gallery_result(forward, "motion", f"{kind}reverse", value, len(hits), 0.5, {}, hits.tolist()))
    return results
