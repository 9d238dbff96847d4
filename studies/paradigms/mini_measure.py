"""What is measured of a run on the mini benchmark, item by item: drawings in an unseen hand, unseen concepts, Tux
Paint's pictures, and clips of species that training lacks.

The part of the model that stays as it was looks at every test item once, for all runs; a run's own part then goes over
what is kept. Clips are looked at as they are, in one frame (the third of four) and with their frames shuffled.
Axes: I items, T frames, S patches, L tokens, D width, E embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnivl.data import world
from omnivl.data.annotations import Item, read_manifest
from omnivl.metrics import hits_at_k
from omnivl.model import OmniVL
from omnivl.prompts import fill, label_prompts
from omnivl.tokenizer import Tokenizer
from studies.encoders.cached import cached_clips, cached_pictures, cached_texts, upper_text, upper_visual
from studies.encoders.fit import Upper
from studies.paradigms.measure import ONE, SHUFFLED, WHOLE, Row

PICTURES = ("emoji_unseen_hand", "emoji_unseen_concepts", "stamps_transfer")
CLIPS = ("flare_validation", "flare_test")
RETRIEVED = ("emoji_unseen_hand", "stamps_transfer", "flare_test")
GROUPED = ("emoji_unseen_hand", "emoji_unseen_concepts", *CLIPS)  # whose labels are asked for
ACTING = "flare_test"  # whose clips are told from others of the same figure
NAMED = "emoji_unseen_concepts"  # several hands draw each of its names, which are asked for as classes
KS = (1, 5, 10)
BATCH = 64


class LowerTexts:
    """Tokens of texts after the blocks that stay as they were, for all runs."""

    def __init__(self, model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str], layers: int) -> None:
        self.places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self.states, self.mask = cached_texts(model, tokenizer, list(self.places), layers)

    def __call__(self, model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str], layers: int) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, D) and their mask (N, L), L as long as the longest of these texts. As `cached_texts`, whose
        place it takes."""
        rows = torch.tensor([self.places[text] for text in texts])
        mask = self.mask[rows]
        length = int(mask.sum(1).max())
        return self.states[rows, :length], mask[:, :length]


@dataclass(frozen=True)
class Shown:
    """The items of a manifest, those of one caption beside each other, and their tokens (I, T, 1 + S, D)."""

    name: str
    medium: str
    items: list[Item]
    tokens: Tensor

    @property
    def captions(self) -> list[str]:
        return [item.captions[0] for item in self.items]

    def texts(self) -> list[str]:
        """All that is asked about them."""
        named = sorted(set(self.captions)) if self.name == NAMED else []
        labels = [*sorted({item.label for item in self.items}), *named]
        return [*self.captions, *(fill(prompt, label) for label in labels for prompt in label_prompts(self.medium))]


def read_shown(model: OmniVL, data: Path, folder: Path, layers: int) -> list[Shown]:
    """Every manifest that there is, with tokens from `folder` where they are kept there."""
    found = []
    for name in (*PICTURES, *CLIPS):
        path = data / f"{name}.jsonl"
        if path.exists():
            items = list(read_manifest(path, None, "").items)
            first = {caption: i for i, caption in reversed([*enumerate(item.captions[0] for item in items)])}
            items.sort(key=lambda item: first[item.captions[0]])
            medium = "video" if name in CLIPS else "image"
            found.append(Shown(name, medium, items, kept(folder / f"{name}.safetensors", model, items, medium, layers)))
    return found


def kept(path: Path, model: OmniVL, items: list[Item], medium: str, layers: int) -> Tensor:
    if not path.exists():
        made = cached_clips(model, items, layers) if medium == "video" else cached_pictures(model, items, layers, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        save_file({"tokens": made}, partial)
        partial.rename(path)
    with safe_open(path, "pt") as file:
        return file.get_tensor("tokens")


def measure(
    model: OmniVL, tokenizer: Tokenizer, upper: Upper, shown: Sequence[Shown], texts: LowerTexts, *, still: bool
) -> list[Row]:
    """All rows of a run; `still` shows it pictures as clips that stand still."""
    found: list[Row] = []
    for each in shown:
        for view in (WHOLE, ONE, SHUFFLED) if each.medium == "video" else (WHOLE,):
            asked = Asked.of(model, tokenizer, upper, texts, each, view, still=still)
            found += [{**row, "view": view} for row in asked.rows()]
    return found


def seen(shown: Shown, view: str, still: bool) -> Tensor:
    """The tokens, as a run is to see them."""
    tokens = shown.tokens
    if shown.medium == "image":
        return tokens.expand(-1, 2 if still else 1, -1, -1)  # two frames or more: the same, if they are
    if view == ONE:
        return tokens[:, tokens.shape[1] // 2, None]
    if view == SHUFFLED:
        orders = [world.generator("shuffled", item.key).permutation(tokens.shape[1]) for item in shown.items]
        return tokens[torch.arange(len(tokens))[:, None], torch.from_numpy(np.stack(orders))]
    return tokens


@torch.inference_mode()
def visual_vectors(model: OmniVL, layers: int, tokens: Tensor) -> Tensor:
    """(I, E)."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([upper_visual(model, part.float(), layers) for part in tokens.split(BATCH)])


@dataclass(frozen=True)
class Asked:
    """The vectors of some items, of which questions are asked in words."""

    model: OmniVL
    tokenizer: Tokenizer
    layers: int
    texts: LowerTexts
    shown: Shown
    vectors: Tensor  # (I, E)

    @classmethod
    def of(
        cls,
        model: OmniVL,
        tokenizer: Tokenizer,
        upper: Upper,
        texts: LowerTexts,
        shown: Shown,
        view: str,
        *,
        still: bool,
    ) -> "Asked":
        """The items as a run is to see them."""
        return cls(
            model, tokenizer, upper.text, texts, shown, visual_vectors(model, upper.visual, seen(shown, view, still))
        )

    def rows(self) -> Iterator[Row]:
        name = self.shown.name
        if name in RETRIEVED:
            yield from self.retrieval()
        if name in GROUPED:
            yield from self.classes("top{}", [item.label for item in self.shown.items], (1,))
        if name == NAMED:
            yield from self.classes("name_top{}", self.shown.captions, (1, 5))
        if name == ACTING:
            yield from self.siblings()

    def retrieval(self) -> Iterator[Row]:
        """Both ways, by different texts: several clips have the same."""
        names = list(dict.fromkeys(self.shown.captions))
        scores = self.vectors @ self.text_vectors(names).T
        target = torch.tensor([[own == name for name in names] for own in self.shown.captions])
        letter = self.shown.medium[0]
        for way, own, targets in ((f"t2{letter}", scores.T, target.T), (f"{letter}2t", scores, target)):
            for k in KS:
                chance = float(hits_at_k(torch.zeros_like(own), targets, k).mean())
                yield self.row(f"{way}_r{k}", hits_at_k(own, targets, k), chance)

    def siblings(self) -> Iterator[Row]:
        """Each clip and its text among those of one figure that faces one way, which differ by what it does."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, item in enumerate(self.shown.items):  # an id is FIGURE/ACTION-DIRECTION
            figure, _, action = item.id.rpartition("/")
            groups.setdefault((figure, action.rpartition("-")[2]), []).append(place)
        texts, (to_text, to_clip) = (
            self.text_vectors(self.shown.captions),
            torch.zeros(2, len(self.vectors), dtype=torch.float64),
        )
        for places in groups.values():
            scores, own = self.vectors[places] @ texts[places].T, torch.eye(len(places), dtype=torch.bool)
            to_text[places], to_clip[places] = hits_at_k(scores, own, 1), hits_at_k(scores.T, own, 1)
        chance = len(groups) / len(self.vectors)
        yield self.row("sibling_v2t", to_text, chance)
        yield self.row("sibling_t2v", to_clip, chance)

    def classes(self, metric: str, labels: Sequence[str], ks: Sequence[int]) -> Iterator[Row]:
        """Zero-shot, a class being the mean of its prompts. What several hands draw counts once, by their mean."""
        classes, prompts = sorted(set(labels)), label_prompts(self.shown.medium)
        texts = self.text_vectors([fill(prompt, label) for label in classes for prompt in prompts])
        vectors = F.normalize(texts.view(len(classes), len(prompts), -1).mean(1), dim=-1)
        target = torch.tensor([[own == name for name in classes] for own in labels])
        for k in ks:
            hits = hits_at_k(self.vectors @ vectors.T, target, k)
            if self.shown.name == NAMED:
                _, place, counts = np.unique(self.shown.captions, return_inverse=True, return_counts=True)
                hits = torch.from_numpy(np.bincount(place, hits.numpy()) / counts)
            yield self.row(metric.format(k), hits, k / len(classes))

    @torch.inference_mode()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        made = []
        with torch.autocast("cpu", torch.bfloat16):
            for first in range(0, len(texts), BATCH):
                states, mask = self.texts(self.model, self.tokenizer, texts[first : first + BATCH], self.layers)
                made.append(upper_text(self.model, states, mask, self.layers))
        return torch.cat(made)

    def row(self, metric: str, hits: Tensor, chance: float) -> Row:
        return {
            "task": self.shown.name,
            "metric": metric,
            "medium": self.shown.medium,
            "k": 0,
            "value": round(float(hits.mean()), 6),
            "chance": round(chance, 6),
            "n": len(hits),
            "items": as_text(hits.tolist()),
        }


def as_text(items: Sequence[float]) -> str:
    """Scores of items as numbers.scores reads them: a digit each where all are right or wrong."""
    plain = all(item in (0, 1) for item in items)
    return ("" if plain else " ").join(f"{item:.4g}" for item in items)
