"""Sources: where samples come from. One protocol over the rendered world and people's own annotated files.

A source says how many samples it has of each medium and hands out one by number, with random numbers given from
outside: the same numbers give the same sample. It raises `BadSample` for one that cannot be read; what then happens is
the loader's business.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from omnivl.config import DataConfig, ModelConfig
from omnivl.data import shapes, world
from omnivl.data.annotations import FORMATS, Annotations, Item
from omnivl.data.media import kind, read_image, read_video, resolve
from omnivl.data.sample import BadSample, Sample
from omnivl.data.transforms import augment
from omnivl.prompts import draw_prompt, fill, label_prompts

log = logging.getLogger(__name__)


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

    def fit(self, frames: np.ndarray, text: str, rng: np.random.Generator) -> np.ndarray:
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
        """Samples of "image", "video" or "text" (captions alone)."""
        ...

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample: ...

    def texts(self, limit: int) -> list[str]:
        """Captions, for learning a vocabulary."""
        ...


class WorldSource:
    """`world:` captions, or `world:labels` class names alone, of the rendered world."""

    def __init__(self, annotations: str, split: str, group_size: int) -> None:
        if annotations not in ("", "labels"):
            raise ValueError(f"world:{annotations} does not exist: write world: or world:labels")
        if split not in world.SPLITS:
            raise ValueError(f"the world has no split {split!r}: choose {', '.join(world.SPLITS)}")
        self.name = f"world:{annotations}"
        self.as_labels = annotations == "labels"
        self.split = split
        self.group_size = group_size
        named = (("image", shapes.SHAPES), ("video", world.MOTIONS))
        self.prompts = [
            fill(prompt, name) for medium, names in named for name in names for prompt in label_prompts(medium)
        ]

    def length(self, medium: str) -> int:
        if medium == "text":
            return sum(world.LENGTHS.values())
        return world.LENGTHS[medium]

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if medium == "text":
            if self.as_labels:
                return Sample(None, self.prompts[index % len(self.prompts)])
            return Sample(None, world.train_text(self.split, index, rng))
        item = world.train_item(
            self.split, medium, index, rng, num_frames=ask.num_frames, size=ask.image_size, group_size=self.group_size
        )
        if self.as_labels:
            return Sample(item.frames, draw_prompt(item.label, medium, rng), item.label, item.key)
        return Sample(item.frames, item.caption, key=item.key)

    def texts(self, limit: int) -> list[str]:
        return (self.prompts if self.as_labels else world.all_captions(self.split))[:limit]


class FileSource:
    """Annotated pictures and clips on disk. Every file is looked at once: missing ones are an error at the start."""

    group_size = 1

    def __init__(self, name: str, annotations: Annotations, prompts: tuple[str, ...] = ()) -> None:
        self.name = name
        self.prompts = prompts
        self.labels = annotations.labels
        self.bad: list[tuple[str, str]] = []  # files that are there but are no media, known before the start
        self.by_medium: dict[str, list[Item]] = {"image": [], "video": []}
        missing: list[str] = []
        usable = [item for item in annotations.items if item.captions or item.label]
        if len(usable) < len(annotations.items):
            annotations.dropped["neither caption nor label"] = len(annotations.items) - len(usable)
        for item in usable:
            path = resolve(item.media)
            if not path.exists():
                missing.append(str(item.media))
                continue
            try:
                medium = "video" if item.start is not None or item.end is not None else kind(path)
            except BadSample as error:
                self.bad.append((str(item.media), str(error)))
                medium = "image"  # counted and replaced when its turn comes, like any other that cannot be read
            self.by_medium[medium].append(Item(path, item.captions, item.label, item.id, item.start, item.end))
        if missing:
            named = ", ".join(missing[:3])
            raise ValueError(
                f"{name}: {len(missing)} of {len(usable)} media files are missing ({named}"
                f"{', ...' if len(missing) > 3 else ''}); mend the paths or say where they start with --data.root"
            )
        for reason, count in annotations.dropped.items():
            log.warning("%s: %d rows dropped: %s", name, count, reason)
        if not usable:
            raise ValueError(f"{name} holds no items with a caption or a label")
        self.all_captions = [caption for item in usable for caption in item.captions]

    def length(self, medium: str) -> int:
        return len(self.all_captions) if medium == "text" else len(self.by_medium[medium])

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if medium == "text":
            return Sample(None, self.all_captions[index])
        item = self.by_medium[medium][index]
        frames, times = self.frames(medium, index, ask)
        # an item with captions and a label is text data; a label alone becomes a text through a prompt
        if item.captions:
            text, label = item.captions[int(rng.integers(len(item.captions)))], ""
        else:
            text, label = draw_prompt(item.label, medium, rng, self.prompts), item.label
        return Sample(ask.fit(frames, text, rng), text, label, item.id or str(item.media), times)

    def frames(self, medium: str, index: int, ask: Ask) -> tuple[np.ndarray, tuple[float, ...]]:
        """An item's frames (T, H, W, 3) as they are, and their times in seconds."""
        item = self.by_medium[medium][index]
        if medium == "image":
            return np.asarray(read_image(item.media))[None], ()
        clip = read_video(item.media, ask.num_frames, item.start, item.end)
        return clip.frames, clip.times

    def texts(self, limit: int) -> list[str]:
        names = [draw_prompt(label, "image", np.random.default_rng(0), self.prompts) for label in self.labels]
        return (self.all_captions + names)[:limit]


def open_source(spec: str, data: DataConfig) -> Source:
    """FORMAT:ANNOTATIONS as a source. Raises ValueError (one sentence) for an unknown format or a bad file."""
    name, colon, annotations = spec.partition(":")
    if not colon or name not in (*FORMATS, "world"):
        raise ValueError(f"{spec!r} is not a data source: write FORMAT:FILE, FORMAT one of world, {', '.join(FORMATS)}")
    if name == "world":
        return WorldSource(annotations, data.split, data.group_size)
    root = Path(data.root).expanduser() if data.root else None
    return FileSource(spec, FORMATS[name](Path(annotations).expanduser(), root, data.split), data.prompts)
