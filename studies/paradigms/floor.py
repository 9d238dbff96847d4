"""What copying from the nearest training pixels gives on the test items, without any learning.

Frames are shrunk to 16 x 16; a test item takes caption, label and answers of the nearest of some training items. As the
scenes of the two are not the same, no copied caption is exact: in retrieval the items are ranked by the words that
their copied captions share with a text (F1; ties share).
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from omnivl.data import world
from omnivl.data.asked import questions_about
from omnivl.data.sample import Gallery
from omnivl.metrics import hits_at_k, token_f1
from omnivl.tasks.answering import score_answers
from omnivl.tasks.base import Result, gallery_result
from omnivl.tasks.captioning import score_words
from studies.paradigms.measure import FRAMES, MEDIA, WHOLE, Row, TestItems, rows
from studies.paradigms.plan import Size

FLOOR = "pixel_neighbour"  # its results file
SIDE, PIXELS = 16, 64


def small(frames: np.ndarray) -> np.ndarray:
    """Frames (T, 64, 64, 3) as one vector of 16 x 16 pixels each."""
    parts = PIXELS // SIDE
    shrunk = frames.reshape(len(frames), SIDE, parts, SIDE, parts, 3).mean((2, 4), dtype=np.float32)
    return shrunk.reshape(-1)


class Copier:
    """Training items of one medium, of which the nearest is copied."""

    def __init__(self, medium: str, number: int) -> None:
        self.items = [
            world.train_item("train", medium, i, world.generator("copied", medium, i), num_frames=FRAMES, size=PIXELS)
            for i in range(number)
        ]
        self.pixels = np.stack([small(item.frames) for item in self.items])
        self.lengths = (self.pixels**2).sum(1)

    def nearest(self, gallery: Gallery) -> list[world.WorldItem]:
        """For each item of a gallery the training item at the smallest squared distance."""
        queries = np.stack([small(gallery.read(index)) for index in range(len(gallery))])
        places = (self.lengths - 2 * queries @ self.pixels.T).argmin(1)
        return [self.items[place] for place in places]


@cache
def shared(one: str, other: str) -> float:
    return token_f1([one], [other])


def overlap(copied: Sequence[world.WorldItem], gallery: Gallery) -> Tensor:
    """(V, M) words that the copied captions share with the gallery's texts."""
    return torch.tensor([[shared(item.caption, own[0]) for own in gallery.captions] for item in copied])


def measure_floor(size: Size) -> list[Row]:
    found: list[Result] = []
    test = TestItems(size, PIXELS)
    for medium in MEDIA:
        copier, gallery = Copier(medium, size.copied), test.gallery(medium)
        copied = copier.nearest(gallery)
        found += both_ways("retrieval", "{}_r1", gallery, [overlap(copied, gallery)])
        right = [float(item.label == label) for item, label in zip(copied, gallery.labels, strict=True)]
        found.append(result(gallery, "classify", "top1", right, 1 / len(set(gallery.labels))))
        found += score_words(gallery, [item.caption for item in copied], {})
        answered = [
            (question, answer)
            for item, asked in zip(copied, gallery.questions, strict=True)
            for question, answer in zip(asked, answers_of(item), strict=True)
        ]
        found += [r for r in score_answers(gallery, answered, {}) if r.settings["answer_type"] == "all"]
    groups = test.siblings()
    found += both_ways("motion", "sibling_{}", groups[0], [overlap(copier.nearest(group), group) for group in groups])
    forward, backward = (overlap(copier.nearest(side), side).diagonal() for side in test.reverse())
    hits = (forward > backward).double() + (forward == backward).double() / 2
    found.append(result(groups[0], "motion", "reverse", hits.tolist(), 0.5))
    return list(rows(found, WHOLE))


def both_ways(task: str, name: str, gallery: Gallery, tables: Iterable[Tensor]) -> list[Result]:
    """R@1 by text and by picture or clip, over one or several sets of scores (V, M)."""
    letter = gallery.medium[0]
    found: dict[str, list[float]] = {f"t2{letter}": [], f"{letter}2t": []}
    for scores in tables:
        target = torch.eye(len(scores), dtype=torch.bool)
        for way, own in zip(found, (scores.T, scores), strict=True):
            found[way] += hits_at_k(own, target, 1).tolist()
    return [result(gallery, task, name.format(way), hits, 1 / len(gallery)) for way, hits in found.items()]


def answers_of(item: world.WorldItem) -> list[str]:
    return [question.answers[0][0] for question in questions_about(item)]


def result(gallery: Gallery, task: str, metric: str, items: Sequence[float], chance: float) -> Result:
    return gallery_result(gallery, task, metric, sum(items) / len(items), len(items), chance, {}, items)
