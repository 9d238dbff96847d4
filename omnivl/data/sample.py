"""`Sample` and `Batch`: the one language in which data of all four kinds reaches a task.

An image is a clip of one frame. Label data has a text too (a prompt filled with the class name) and is told apart only
by its label key. Axes: B samples, T frames, C colours, H height, W width, L tokens. This room reads no file.
"""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from omnivl import distributed


class BadSample(ValueError):
    """A sample that cannot be used. The message is one line: the file (or key) and the reason."""


class LoadingError(ValueError):
    """A batch cannot be made, whatever stands in for its bad samples. The message is one sentence."""


@dataclass(frozen=True)
class Question:
    """One question about a picture or clip, with its annotators' answers; none where they are not published."""

    text: str
    answers: tuple[tuple[str, float], ...] = ()  # (answer, weight): how many annotators gave it
    id: str = ""
    kind: str = ""  # of the answer, as the data set names it: "yes/no", "number", "other"


@dataclass
class Sample:
    """One (x, y, t): visual input, label, text (paper, section 3.2); or a question, its text, with its answers."""

    pixels: np.ndarray | None  # (T, H, W, C) uint8; None for text alone
    text: str
    label: str = ""  # class name; empty for text data
    key: str = ""  # names the sample in reports
    times: tuple[float, ...] = ()  # seconds of the frames
    bad: tuple[tuple[str, str], ...] = ()  # (key, reason) of those it stands in for
    group: str = ""  # what makes samples of other texts positives of each other: the item that all of them describe
    answers: tuple[tuple[str, float], ...] = ()  # (answer, weight) where the text is a question


@dataclass
class Answers:
    """The answers of a batch's questions, one after the other. Axes: A answers, L tokens."""

    ids: Tensor  # (A, L) int64, starting with [CLS]
    mask: Tensor  # (A, L) int64, 1 where real
    weights: Tensor  # (A,) the share of a question's annotators
    rows: Tensor  # (A,) int64: the question of the batch that each answers, ascending

    def map(self, change: Callable[[Tensor], Tensor]) -> "Answers":
        return Answers(change(self.ids), change(self.mask), change(self.weights), change(self.rows))

    def of_rows(self, first: int, last: int) -> "Answers":
        """Those of the questions first..last-1, counted from `first`."""
        kept = (self.rows >= first) & (self.rows < last)
        return Answers(self.ids[kept], self.mask[kept], self.weights[kept], self.rows[kept] - first)


@dataclass
class Batch:
    """Samples of one medium as tensors."""

    medium: str  # image, video or text
    pixels: Tensor | None  # (B, T, C, H, W) uint8
    ids: Tensor  # (B, L) int64, starting with [CLS]
    mask: Tensor  # (B, L) int64, 1 where real
    labels: Tensor  # (B,) int64: equal where two samples are positives of each other
    keys: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    answers: Answers | None = None  # where the texts are questions

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        """Small tensors go to another process by value: each shared one costs it a file of its own."""
        return {n: v.numpy(force=True) if n in ("ids", "mask", "labels") else v for n, v in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update((n, torch.from_numpy(v) if isinstance(v, np.ndarray) else v) for n, v in state.items())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        pixels = None if self.pixels is None else change(self.pixels)
        answers = None if self.answers is None else self.answers.map(change)
        ids, mask, labels = change(self.ids), change(self.mask), change(self.labels)
        return replace(self, pixels=pixels, ids=ids, mask=mask, labels=labels, answers=answers)

    def to(self, device: torch.device | str) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, parts: int) -> list["Batch"]:
        """Consecutive micro-batches of equal size; the length must divide."""
        assert len(self) % parts == 0, f"a batch of {len(self)} does not split in {parts}"
        size = len(self) // parts
        return [
            Batch(
                self.medium,
                None if self.pixels is None else self.pixels[i : i + size],
                self.ids[i : i + size],
                self.mask[i : i + size],
                self.labels[i : i + size],
                self.keys[i : i + size],
                self.bad if i == 0 else [],
                None if self.answers is None else self.answers.of_rows(i, i + size),
            )
            for i in range(0, len(self), size)
        ]


def label_key(text: str, label: str = "", group: str = "") -> int:
    """The y of a sample: a signed 64-bit hash of "class:" + class name, of "item:" + the group, or of the text in lower
    case, its accents composed and its blanks made one.

    Streams need no index of classes, and two samples with the same text are positives of each other (method, ours).
    """
    told = f"class:{label}" if label else f"item:{group}" if group else " ".join(text.lower().split())
    name = unicodedata.normalize("NFC", told)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def collate(samples: Sequence[Sample], medium: str, tokenizer: Any, max_tokens: int) -> Batch:
    """Stack samples of one medium. Text is padded to the longest of the batch, never to `max_tokens`."""
    ids, mask = tokenizer([sample.text for sample in samples], max_tokens=max_tokens)
    pixels = None
    if medium != "text":
        frames = [sample.pixels for sample in samples if sample.pixels is not None]
        assert len(frames) == len(samples), f"a {medium} sample came without pixels"
        pixels = stacked(frames)
    labels = torch.tensor([label_key(sample.text, sample.label, sample.group) for sample in samples])
    bad = [item for sample in samples for item in sample.bad]
    answers = collate_answers(samples, tokenizer, max_tokens) if any(sample.answers for sample in samples) else None
    return Batch(medium, pixels, ids, mask, labels, [sample.key for sample in samples], bad, answers)


def collate_answers(samples: Sequence[Sample], tokenizer: Any, max_tokens: int) -> Answers:
    """All answers of all samples; the weights of one sample's answers sum to one."""
    given = [(row, *answer) for row, sample in enumerate(samples) for answer in sample.answers]
    totals = [sum(weight for _, weight in sample.answers) for sample in samples]
    ids, mask = tokenizer([text for _, text, _ in given], max_tokens=max_tokens)
    weights = torch.tensor([weight / totals[row] for row, _, weight in given])
    return Answers(ids, mask, weights, torch.tensor([row for row, _, _ in given]))


def stacked(frames: Sequence[np.ndarray]) -> Tensor:
    """Arrays (T, H, W, C) uint8 of one shape as one tensor (B, T, C, H, W); in a worker, written where the parent will
    read it, as torch's own collate does, else it would be copied there."""
    t, h, w, c = frames[0].shape
    shape = len(frames), t, c, h, w
    if get_worker_info() is None:
        out = torch.empty(shape, dtype=torch.uint8)
    else:
        out = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(math.prod(shape))).view(shape)
    np.stack([each.transpose(0, 3, 1, 2) for each in frames], out=out.numpy())
    return out


@dataclass
class Gallery:
    """An evaluation set of one medium: every item once, in order, its media read when asked for.

    An item that cannot be read is listed once in `bad` (key, reason), however often the gallery is gone through, and
    stays in the denominator: nothing can find it. `read` may be a local function: a gallery stays in its process.
    """

    name: str  # of the data set
    split: str
    medium: str  # image or video
    keys: list[str]
    captions: list[tuple[str, ...]]  # of each item, its own; may be empty
    labels: list[str]  # of each item; empty where it has none
    read: Callable[[int], np.ndarray]  # item -> (T, H, W, C) uint8 of the model's size; raises BadSample
    motions: list[str] = field(default_factory=list)  # of the world's clips
    bad: list[tuple[str, str]] = field(default_factory=list)
    questions: list[tuple[Question, ...]] = field(default_factory=list)  # of each item, where they are asked for
    views: int = 1  # that `read` gives of an item, one after the other along T
    state: Callable[[int], str] = lambda item: ""  # of an item's file: another one where it has been changed

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, size: int, among: Sequence[int] | None = None) -> Iterator[tuple[list[int], Tensor]]:
        """(indices, pixels (b, T, C, H, W) uint8) of the items that can be read, `among` some or all."""
        wanted = range(len(self)) if among is None else among
        for first in range(0, len(wanted), size):
            kept, frames = [], []
            for index in wanted[first : first + size]:
                try:
                    frames.append(self.read(index))
                    kept.append(index)
                except BadSample as error:
                    bad = (self.keys[index], str(error))
                    self.bad += [] if bad in self.bad else [bad]
            if kept:
                yield kept, stacked(frames)

    def gather_bad(self) -> None:
        """After ranks have shared the items: `bad` of all of them, on every one, in the order of the items."""
        found = {item for part in distributed.gather_objects(self.bad) for item in part}
        places = {key: place for place, key in enumerate(self.keys)}
        self.bad[:] = sorted(found, key=lambda item: places[item[0]])
