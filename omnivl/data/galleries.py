"""Evaluation sets: every item once, in order, from the rendered world or from a source on disk."""

from collections.abc import Sequence

from omnivl.data import world
from omnivl.data.sample import Gallery
from omnivl.data.sources import Ask, FileSource
from omnivl.data.transforms import prepare


def of_items(name: str, split: str, medium: str, items: Sequence[world.WorldItem]) -> Gallery:
    return Gallery(
        name,
        split,
        medium,
        keys=[item.key for item in items],
        captions=[(item.caption,) for item in items],
        labels=[item.label for item in items],
        read=lambda index: items[index].frames,
        motions=[item.motion for item in items if item.motion],
    )


def world_gallery(split: str, medium: str, num_items: int, seed: int, ask: Ask) -> Gallery:
    items = world.gallery(split, medium, num_items, seed, num_frames=ask.num_frames, size=ask.image_size)
    return of_items("world", split, medium, items)


def world_siblings(split: str, num_scenes: int, seed: int, ask: Ask) -> list[Gallery]:
    """Groups of one scene in every motion."""
    groups = world.siblings(split, num_scenes, seed, num_frames=ask.num_frames, size=ask.image_size)
    return [of_items("world", split, "video", group) for group in groups]


def world_reverse(split: str, num_clips: int, seed: int, ask: Ask) -> tuple[Gallery, Gallery]:
    """Clips that move left, right, up or down, and the same clips played backwards."""
    items = world.reverse_pairs(split, num_clips, seed, num_frames=ask.num_frames, size=ask.image_size)
    forward = of_items("world", split, "video", items)
    backward = of_items("world", split, "video", items)
    backward.read = lambda index: items[index].frames[::-1]
    return forward, backward


def file_gallery(source: FileSource, split: str, medium: str, ask: Ask) -> Gallery:
    items = source.by_medium[medium]
    return Gallery(
        source.name,
        split,
        medium,
        keys=[item.key for item in items],
        captions=[item.captions for item in items],
        labels=[item.label for item in items],
        read=lambda index: prepare(source.frames(medium, index, ask)[0], ask.image_size, ask.interpolation),
    )
