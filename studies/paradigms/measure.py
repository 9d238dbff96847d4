"""What is measured of a run, item by item, on the world's test scenes: the same items whatever the run and its seed.

Clips are looked at three ways: as they are, in one frame (their middle), and with their frames shuffled.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from omnivl.data import world
from omnivl.data.asked import ANSWERS
from omnivl.data.galleries import world_gallery, world_reverse, world_siblings
from omnivl.data.sample import Gallery
from omnivl.data.sources import Ask
from omnivl.model import OmniVL
from omnivl.tasks.answering import answer_questions, score_answers
from omnivl.tasks.base import Result
from omnivl.tasks.captioning import score_words, write_captions
from omnivl.tasks.classification import evaluate_classes
from omnivl.tasks.retrieval import evaluate_retrieval, evaluate_reverse, evaluate_siblings
from omnivl.tokenizer import Tokenizer
from studies.paradigms.plan import Size

SPLIT, ITEMS_SEED, FRAMES = "test", 0, 4
MEDIA = ("image", "video")
WHOLE, ONE, SHUFFLED = "whole clips", "one frame", "shuffled frames"
BEAM: dict[str, Any] = {"method": "beam", "num_beams": 3, "min_length": 5, "max_length": 20}  # as the demo writes

Row = dict[str, Any]


class TestItems:
    """Galleries of the test split, for a model's size of pictures, clips seen one of three ways; `still` shows pictures
    as clips that stand still."""

    __test__ = False  # no test of pytest's

    def __init__(self, size: Size, image_size: int, view: str = WHOLE, *, still: bool = False) -> None:
        self.size, self.view, self.still = size, view, still
        self.ask = Ask(image_size, 1 if view == ONE else FRAMES, "bicubic")

    def gallery(self, medium: str) -> Gallery:
        gallery = world_gallery(SPLIT, medium, self.size.items, ITEMS_SEED, self.ask)
        if medium == "video":
            return self.seen(gallery)
        read, frames = gallery.read, FRAMES if self.still else 1
        return replace(gallery, read=lambda index: np.repeat(read(index), frames, axis=0))

    def siblings(self) -> list[Gallery]:
        return [self.seen(group) for group in world_siblings(SPLIT, self.size.scenes, ITEMS_SEED, self.ask)]

    def reverse(self) -> tuple[Gallery, Gallery]:
        forward, backward = world_reverse(SPLIT, self.size.clips, ITEMS_SEED, self.ask)
        return self.seen(forward), self.seen(backward)

    def seen(self, gallery: Gallery) -> Gallery:
        """The gallery, with the frames of each item in an order of its own where they are to be shuffled."""
        if self.view != SHUFFLED:
            return gallery
        read = gallery.read

        def shuffled(index: int) -> np.ndarray:
            return read(index)[world.generator("shuffled", gallery.keys[index]).permutation(FRAMES)]

        return replace(gallery, read=shuffled)


def measure(model: OmniVL, tokenizer: Tokenizer, size: Size, ks: tuple[int, ...], *, still: bool) -> list[Row]:
    """Retrieval without and with reranking, siblings, reverse, zero-shot classes and captions of a pretrained model;
    of clips in one frame and in shuffled ones what needs no writing."""
    model.eval()
    parts = (model, tokenizer)
    found: list[Row] = []
    for view in (WHOLE, ONE, SHUFFLED):
        items = TestItems(size, model.config.vision.image_size, view, still=still)
        for medium in MEDIA if view == WHOLE else MEDIA[1:]:
            gallery = items.gallery(medium)
            for number, k in enumerate(ks if view == WHOLE else (0,)):
                results = evaluate_retrieval(*parts, gallery, k=k)  # without reranking, and with it
                found += rows([r for r in results if r.settings["k"] or not number], view)
            found += rows(evaluate_classes(*parts, gallery), view)
            if view == WHOLE:
                found += rows(captions(model, tokenizer, gallery), view)
        found += rows(evaluate_siblings(*parts, items.siblings()), view)
        found += rows(evaluate_reverse(*parts, *items.reverse()), view)
    return found


def captions(model: OmniVL, tokenizer: Tokenizer, gallery: Gallery) -> list[Result]:
    return score_words(gallery, write_captions(model, tokenizer, gallery, **BEAM), {})


def finetuned_captions(model: OmniVL, tokenizer: Tokenizer, size: Size) -> list[Row]:
    return finetuned(model, size, lambda gallery: captions(model, tokenizer, gallery))


def finetuned_answers(model: OmniVL, tokenizer: Tokenizer, size: Size) -> list[Row]:
    """Of all questions about an item: five of a picture, four of a clip."""

    def answers(gallery: Gallery) -> list[Result]:
        answered = answer_questions(model, tokenizer, gallery, answers=ANSWERS)
        return [r for r in score_answers(gallery, answered, {}) if r.settings["answer_type"] == "all"]

    return finetuned(model, size, answers)


def finetuned(model: OmniVL, size: Size, score: Callable[[Gallery], list[Result]]) -> list[Row]:
    model.eval()
    items = TestItems(size, model.config.vision.image_size)
    return [row | {"finetuned": True} for medium in MEDIA for row in rows(score(items.gallery(medium)), WHOLE)]


def rows(results: list[Result], view: str) -> Iterator[Row]:
    """The numbers that have items, as they stand in a results file."""
    for result in results:
        if result.items and result.metric != "token_f1":
            yield {
                "task": result.task,
                "metric": result.metric,
                "medium": result.settings["medium"],
                "view": view,
                "k": result.settings.get("k", 0),
                "value": round(float(result.value or 0.0), 6),
                "chance": None if result.chance is None else round(result.chance, 6),
                "n": result.n,
                "items": " ".join(f"{item:g}" for item in result.items),
            }
