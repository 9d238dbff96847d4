"""Sources: where samples come from. One protocol over the rendered world and people's own annotated files.

A source says how many samples it has of each medium and hands out one by number, with random numbers given from
outside: the same numbers give the same sample. It raises `BadSample` for one that cannot be read; what then happens is
the loader's business. This room knows no step, no rank and no model.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from omnivl.config import DataConfig, ModelConfig
from omnivl.data import shapes, world
from omnivl.data.annotations import FORMATS, Annotations, Item
from omnivl.data.asked import ANSWERS, QUESTIONS, questions_about
from omnivl.data.reading import frames_of, likely_medium, looked_at, medium_of, patiently
from omnivl.data.sample import BadSample, Question, Sample
from omnivl.data.shard_index import IMAGE, UNREADABLE, VIDEO
from omnivl.data.shards import Captions, Chosen, Shards, open_shards
from omnivl.data.transforms import Frames, augment
from omnivl.prompts import draw_prompt, fill, label_prompts

T = TypeVar("T")

log = logging.getLogger(__name__)

FEW = 9  # bad files that a source may have whatever their share


@dataclass(frozen=True)
class Ask:
    """How a sample is wanted: sizes, and how it is augmented in training (the defaults only resize)."""

    image_size: int
    num_frames: int
    interpolation: str
    min_crop: float = 1.0
    flip: bool = False
    ops: int = 0
    magnitude: int = 5

    @classmethod
    def training(cls, data: DataConfig, model: ModelConfig) -> "Ask":
        augmentation = (data.min_crop, data.flip, data.augment_ops, data.augment_magnitude)
        return cls(model.vision.image_size, data.num_frames, model.interpolation, *augmentation)

    def fit(self, frames: Frames, text: str, rng: np.random.Generator) -> np.ndarray:
        """Frames (T, H, W, 3) as (T, image_size, image_size, 3), augmented alike."""
        return augment(
            frames,
            self.image_size,
            rng,
            min_crop=self.min_crop,
            flip=self.flip,
            ops=self.ops,
            magnitude=self.magnitude,
            interpolation=self.interpolation,
            text=text,
        )


class Source(Protocol):
    name: str
    group_size: int  # neighbours that belong together: 1, or clips of one scene

    def length(self, medium: str) -> int:
        """Samples of "image", "video" or "text" (captions alone; of label data, its prompted class names)."""
        ...

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        """Sample `index` of `length(medium)`. Raises BadSample where it cannot be read."""
        ...

    def texts(self, limit: int) -> list[str]:
        """Texts that training may show, for learning a vocabulary."""
        ...


class WorldSource:
    """`world:` captions, `world:labels` class names alone, or `world:questions`, of the rendered world.

    With `world:` alone DataConfig.reads says which. Its pictures are drawn at the size asked for and never augmented: a
    crop would make place and size untrue.
    """

    def __init__(
        self, annotations: str, split: str, group_size: int, prompts: tuple[str, ...] = (), reads: str = "texts"
    ) -> None:
        if annotations not in ("", "labels", "questions"):
            raise ValueError(f"world:{annotations} does not exist: write world:, world:labels or world:questions")
        if split not in world.SPLITS:
            raise ValueError(f"the world has no split {split!r}: choose {', '.join(world.SPLITS)}")
        if not 1 <= group_size <= len(world.MOTIONS):
            raise ValueError(
                f"data.group_size is {group_size}, but the world has {len(world.MOTIONS)} motions of a scene: "
                f"choose 1 to {len(world.MOTIONS)}"
            )
        self.name = f"world:{annotations}"
        kind = annotations or reads
        self.as_labels, self.as_questions = kind == "labels", kind == "questions"
        self.split, self.group_size, self.prompts = split, group_size, prompts
        self.named = prompted(shapes.SHAPES, "image", prompts) + prompted(world.MOTIONS, "video", prompts)

    def length(self, medium: str) -> int:
        if medium == "text":
            return sum(world.LENGTHS.values())
        return world.LENGTHS[medium]

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if medium == "text" and self.as_questions:
            return Sample(None, QUESTIONS[index % len(QUESTIONS)])
        if medium == "text":
            named = self.named[index % len(self.named)]
            return Sample(None, named if self.as_labels else world.train_text(self.split, index, rng))
        item = world.train_item(
            self.split, medium, index, rng, num_frames=ask.num_frames, size=ask.image_size, group_size=self.group_size
        )
        if self.as_labels:
            return Sample(item.frames, draw_prompt(item.label, medium, rng, self.prompts), item.label, item.key)
        if self.as_questions:
            asked = questions_about(item)
            chosen = asked[int(rng.integers(len(asked)))]
            return Sample(item.frames, chosen.text, answers=chosen.answers, key=item.key)
        return Sample(item.frames, item.caption, key=item.key)

    def texts(self, limit: int) -> list[str]:
        if self.as_questions:
            return [*QUESTIONS, *ANSWERS][:limit]
        return (self.named if self.as_labels else world.all_captions(self.split))[:limit]


class FileSource:
    """Annotated pictures and clips on disk.

    Every file is looked at once. Those that are missing or no media are named in a warning and stay in their place, so
    that training replaces and evaluation counts them; too many of them (over `data.max_bad_share` and more than a few,
    or most) are an error at the start. `DataConfig.reads` says what of an item is read; items without it are left out.
    """

    group_size = 1
    by_medium: Mapping[str, Sequence[Item]]
    all_texts: Sequence[str]

    def __init__(self, name: str, annotations: Annotations, data: DataConfig) -> None:
        self.name, self.prompts, self.labels = name, data.prompts, annotations.labels
        self.reads, wanted = data.reads, WANTED[data.reads]
        items = [item for item in annotations.items if any(getattr(item, part) for part in wanted)]
        left_out = Counter(annotations.dropped)
        told = " or ".join(part.removesuffix("s") for part in wanted)
        left_out[f"items without {told}"] += len(annotations.items) - len(items)
        if not items:
            none = " and no ".join(part.removesuffix("s") + "s" for part in wanted)
            needed = " or ".join(f'"{part.removesuffix("s")}"' for part in wanted)
            raise ValueError(f"{name} has no {none}: its rows need {needed}")
        self._tell_of(left_out)
        media: list[str] = []  # of each item, "" where it cannot be read
        bad: list[str] = []
        for item in items:
            try:
                media.append(medium_of(item))
            except BadSample as error:
                media.append("")
                bad.append(str(error))
        self._judge(bad, len(items), data)
        readable = Counter(filter(None, media))
        by_medium: dict[str, list[Item]] = {"image": [], "video": []}
        for item, medium in zip(items, media, strict=True):
            by_medium[medium or likely_medium(item, readable)].append(item)
        self._hold(by_medium, [caption for item in items for caption in item.captions])

    def _tell_of(self, left_out: Mapping[str, int]) -> None:
        for reason, count in left_out.items():
            if count:
                log.warning("%s: left out: %d %s", self.name, count, reason)

    def _hold(self, by_medium: Mapping[str, Sequence[Item]], captions: Sequence[str]) -> None:
        self.by_medium = by_medium
        shown = [medium for medium, own in by_medium.items() if own]
        self.named = [text for medium in shown for text in prompted(self.labels, medium, self.prompts)]
        self.all_texts = captions or self.named
        if self.reads == "questions":
            self._hold_questions()

    def _hold_questions(self) -> None:
        """The questions that can be learnt from, each with its item's number, and all their texts."""
        asked = {m: [(i, q) for i, item in enumerate(own) for q in item.questions] for m, own in self.by_medium.items()}
        self.asked = {medium: [(i, q) for i, q in own if q.answers] for medium, own in asked.items()}
        questions = [q for own in asked.values() for _, q in own]
        self.all_texts = [text for q in questions for text in (q.text, *(answer for answer, _ in q.answers))]

    def _judge(self, bad: list[str], total: int, data: DataConfig) -> None:
        if not bad:
            return
        told = f"{self.name}: {len(bad)} of {total} media files are missing or cannot be read"
        named = "; ".join(bad[:3]) + ("; ..." if len(bad) > 3 else "")
        allowed = max(data.max_bad_share * total, min(FEW, total // 2)) if data.on_bad_sample == "replace" else 0
        if len(bad) > allowed or len(bad) == total:
            raise ValueError(f"{told} ({named}); mend the paths, or say where they start with --root (--data.root)")
        log.warning("%s (training replaces them, evaluation counts them): %s", told, named)

    def length(self, medium: str) -> int:
        if medium == "text":
            return len(self.all_texts)
        return len(self.asked[medium] if self.reads == "questions" else self.by_medium[medium])

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if medium == "text":
            return Sample(None, self.all_texts[index])
        if self.reads == "questions":
            return self.read_question(medium, *self.asked[medium][index], rng, ask)
        item = self.item(medium, index)
        frames, times = looked_at(item, medium, ask.num_frames)
        # an item with captions and a label is text data; a label alone becomes a text through a prompt
        if item.captions and self.reads != "labels":
            text, label = item.captions[int(rng.integers(len(item.captions)))], ""
        else:
            text, label = draw_prompt(item.label, medium, rng, self.prompts), item.label
        group = f"{self.name} {item.key}" if self.reads == "captions" else ""  # another source has ids of its own
        return Sample(ask.fit(frames, text, rng), text, label, item.key, times, group=group)

    def read_question(self, medium: str, index: int, asked: Question, rng: np.random.Generator, ask: Ask) -> Sample:
        frames, times = self.frames(medium, index, ask)
        told = " ".join((asked.text, *(text for text, _ in asked.answers)))  # of sides, which a flip must not touch
        key = asked.id or self.by_medium[medium][index].key
        return Sample(ask.fit(frames, told, rng), asked.text, answers=asked.answers, key=key, times=times)

    def item(self, medium: str, index: int) -> Item:
        return self.by_medium[medium][index]

    def frames(self, medium: str, index: int, ask: Ask) -> tuple[np.ndarray, tuple[float, ...]]:
        return frames_of(self.item(medium, index), medium, ask.num_frames)

    def texts(self, limit: int) -> list[str]:
        found: dict[str, None] = {}
        for text in chain(self.named, self.all_texts):
            if len(found) >= limit:
                break
            found[text] = None
        return list(found)


class ShardSource(FileSource):
    """Samples of webdataset tars. Their index tells what each is, so that none is opened before its turn."""

    def __init__(self, name: str, shards: Shards, data: DataConfig) -> None:
        self.name, self.prompts, self.labels, self.reads = name, data.prompts, shards.labels, data.reads
        wanted = WANTED[data.reads]
        all_of_them = np.ones(len(shards), bool)  # the index does not tell which are asked about
        has = {
            "captions": shards.samples["captions"] > 0,
            "label": shards.samples["label"] >= 0,
            "questions": all_of_them,
        }
        told = np.logical_or.reduce([has[part] for part in wanted])
        needed = " or ".join(part.removesuffix("s") for part in wanted)
        if not told.any():
            raise ValueError(f"{name} has no samples with a {needed}")
        self._tell_of({**shards.dropped, f"samples without {needed}": int((~told).sum())})
        media = shards.samples["medium"].copy()
        readable = Counter({"image": int((media == IMAGE).sum()), "video": int((media == VIDEO).sum())})
        bad = []
        for place in np.flatnonzero(told & (media == UNREADABLE)).tolist():
            try:
                medium_of(shards[place])
            except BadSample as error:
                bad.append(str(error))
            media[place] = VIDEO if likely_medium(shards[place], readable) == "video" else IMAGE
        self._judge(bad, int(told.sum()), data)
        self._hold(
            {m: Chosen(shards, np.flatnonzero(told & (media == n))) for m, n in (("image", IMAGE), ("video", VIDEO))},
            Captions(Chosen(shards, np.flatnonzero(told))),
        )
        if self.reads == "questions" and not any(self.asked.values()):
            raise ValueError(f"{name} has no questions with answers")

    def item(self, medium: str, index: int) -> Item:
        return patiently(f"{self.name}, {medium} {index}", lambda: self.by_medium[medium][index])


# What a sample is made of, by DataConfig.reads: the fields of an item of which it needs one.
WANTED = {"texts": ("captions", "label"), "captions": ("captions",), "labels": ("label",), "questions": ("questions",)}


def prompted(names: Iterable[str], medium: str, prompts: Sequence[str]) -> list[str]:
    """Every class name in every prompt."""
    return [fill(prompt, name) for name in names for prompt in prompts or label_prompts(medium)]


def classes_of(source: Source, media: Sequence[str]) -> list[str]:
    """Class names of a source's samples of these media, always in the same order. Raises ValueError for a source that
    does not list them."""
    if isinstance(source, WorldSource):
        return [name for medium in media for name in (shapes.SHAPES if medium == "image" else world.MOTIONS)]
    if isinstance(source, ShardSource):
        return source.labels
    if isinstance(source, FileSource):
        present = {item.label for medium in media for item in source.by_medium[medium]}
        return [name for name in source.labels if name in present]
    raise ValueError(f"{source.name} does not list its classes: finetune a classifier on class folders or a manifest")


def open_items(spec: str, root: str, split: str) -> tuple[Sequence[Item], Mapping[str, int]]:
    """The items of FORMAT:ANNOTATIONS, and what was left out of them. Raises ValueError as `open_source` does."""
    name, annotations = parted(spec)
    if name == "world":
        raise ValueError(f"{spec} is rendered, it has no files")
    if name == "shards":
        shards = open_shards(annotations)
        return shards, shards.dropped
    found = FORMATS[name](Path(annotations).expanduser(), Path(root).expanduser() if root else None, split)
    return found.items, found.dropped


def open_source(spec: str, data: DataConfig) -> Source:
    """FORMAT:ANNOTATIONS as a source. Raises ValueError (one sentence) for an unknown format or a bad file."""
    name, annotations = parted(spec)
    if name == "world":
        return WorldSource(annotations, data.split, data.group_size, data.prompts, data.reads)
    if name == "shards":
        return ShardSource(spec, open_shards(annotations, strict=data.on_bad_sample == "raise"), data)
    root = Path(data.root).expanduser() if data.root else None
    return FileSource(spec, FORMATS[name](Path(annotations).expanduser(), root, data.split), data)


def parted(spec: str) -> tuple[str, str]:
    """(FORMAT, ANNOTATIONS)."""
    name, colon, annotations = spec.partition(":")
    known = ("world", *FORMATS, "shards")
    if not colon or name not in known:
        raise ValueError(f"{spec!r} is not a data source: write FORMAT:FILE, FORMAT one of {', '.join(known)}")
    if not annotations and name != "world":
        raise ValueError(f"{spec!r} names no file: write {name}:FILE")
    return name, annotations
