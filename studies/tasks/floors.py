"""What copying from the training item with the nearest pixels gives, task by task, without any learning.

Pictures and frames are shrunk to 16 x 16; a query takes the caption, the label and the answers of the training item at
the smallest squared distance (the first of several). Recognition, captions and answers are scored by the package's own
scores. For retrieval the texts are ranked by the words that they share with the copied caption (token F1, ties shared),
so that a copied caption which is exactly right comes first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnivl.data.sample import Gallery, Question
from omnivl.metrics import words
from omnivl.metrics.texts import word_f1
from omnivl.tasks.answering import score_answers
from omnivl.tasks.base import Result
from omnivl.tasks.captioning import score_captions
from omnivl.tasks.classification import score_classes
from omnivl.tasks.retrieval import score_direction
from studies.mini.floors import SIDE, nearest, small


@dataclass(frozen=True)
class Known:
    """Training items as pixels and what can be copied from them."""

    pixels: np.ndarray  # (N, F) float64 of whole numbers
    captions: list[tuple[str, ...]]
    labels: list[str]
    questions: list[tuple[Question, ...]]


def pixels(gallery: Gallery) -> np.ndarray:
    """(N, T x 16 x 16 x 3)."""
    shrunk = [small(Image.fromarray(frame) for frame in gallery.read(index)) for index in range(len(gallery))]
    return np.stack(shrunk).astype(np.float64)


def learn(galleries: Iterable[Gallery]) -> Known:
    """All items of several galleries; one after the other, as each may hold its frames."""
    parts = [Known(pixels(own), own.captions, own.labels, own.questions) for own in galleries]
    return Known(
        np.concatenate([part.pixels for part in parts]),
        *([one for part in parts for one in getattr(part, name)] for name in ("captions", "labels", "questions")),
    )


def copy_from(known: Known, queries: np.ndarray, places: list[int]) -> list[int]:
    """For each query the nearest of the training items at `places`."""
    return [places[found[0]] for found in nearest(queries, known.pixels[places])]


Floor = Callable[[Known, Gallery, np.ndarray, dict[str, Any]], list[Result]]


def retrieval(known: Known, gallery: Gallery, queries: np.ndarray, settings: dict[str, Any]) -> list[Result]:
    copied = [words(known.captions[place][0]) for place in copy_from(known, queries, list(range(len(known.labels))))]
    texts = [(words(text), item) for item, own in enumerate(gallery.captions) for text in own]
    scores = torch.tensor([[word_f1(one, text) for text, _ in texts] for one in copied])  # (items, texts)
    own = torch.arange(len(gallery))[:, None] == torch.tensor([item for _, item in texts])
    letter = {"image": "i", "video": "v"}[gallery.medium]
    found = score_direction(gallery, f"t2{letter}", scores.T, own.T, 0)
    found += score_direction(gallery, f"{letter}2t", scores, own, 0)
    return [replace(result, settings={**result.settings, **settings}) for result in found]


def classify(known: Known, gallery: Gallery, queries: np.ndarray, settings: dict[str, Any]) -> list[Result]:
    labels = sorted({*known.labels, *gallery.labels})
    copied = [known.labels[place] for place in copy_from(known, queries, list(range(len(known.labels))))]
    scores = torch.tensor([[float(name == label) for label in labels] for name in copied])
    found = score_classes(gallery, "classify", scores, labels, settings)
    return [result for result in found if result.metric != "top5"]  # a neighbour has one label


def caption(known: Known, gallery: Gallery, queries: np.ndarray, settings: dict[str, Any]) -> list[Result]:
    copied = [known.captions[place][0] for place in copy_from(known, queries, list(range(len(known.labels))))]
    return score_captions(gallery, copied, settings)


def answer(known: Known, gallery: Gallery, queries: np.ndarray, settings: dict[str, Any]) -> list[Result]:
    """Each question by the nearest training item that is asked the same."""
    answered: list[tuple[Question, str]] = []
    told = [{asked.text: asked.answers[0][0] for asked in own} for own in known.questions]
    for text in dict.fromkeys(asked.text for own in gallery.questions for asked in own):
        places = [place for place, own in enumerate(told) if text in own]
        asked = [(item, one) for item, own in enumerate(gallery.questions) for one in own if one.text == text]
        found = copy_from(known, queries[[item for item, _ in asked]], places)
        answered += [(one, told[place][text]) for (_, one), place in zip(asked, found, strict=True)]
    return score_answers(gallery, answered, settings)


FLOORS: dict[str, Floor] = {"retrieval": retrieval, "classify": classify, "caption": caption, "answer": answer}


def measure(known: Known, gallery: Gallery, tasks: Iterable[str], frames: int) -> list[Result]:
    """The floors of some tasks on one gallery."""
    queries = pixels(gallery)
    settings = {"features": f"{SIDE}x{SIDE} pixels", "items": len(known.labels), "frames": frames}
    return [result for task in tasks for result in FLOORS[task](known, gallery, queries, settings)]
