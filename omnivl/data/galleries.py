"""Evaluation sets: every item once, in order, from the rendered world or from a source on disk.

An item may be looked at in several views: clips of it, whose frames interleave over its whole length, times square
crops along its longer side. Axes: T frames, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omnivl.data import world
from omnivl.data.asked import questions_about
from omnivl.data.reading import state_of
from omnivl.data.sample import Gallery
from omnivl.data.sources import Ask, FileSource
from omnivl.data.transforms import prepare, spatial_crops

Views = tuple[int, int]  # clips and crops of an item
ONE: Views = (1, 1)


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
        questions=[questions_about(item) for item in items],
    )


def world_gallery(split: str, medium: str, num_items: int, seed: int, ask: Ask, views: Views = ONE) -> Gallery:
    clips, crops = views_of(medium, views)
    items = world.gallery(split, medium, num_items, seed, num_frames=clips * ask.num_frames, size=ask.image_size)
    gallery = of_items("world", split, medium, items)
    gallery.read = lambda index: all_views(items[index].frames, clips, crops, ask)
    gallery.views = clips * crops
    return gallery


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


def file_gallery(source: FileSource, split: str, medium: str, ask: Ask, views: Views = ONE) -> Gallery:
    items = list(source.by_medium[medium])  # each read once, also from shards
    clips, crops = views_of(medium, views)
    more = replace(ask, num_frames=clips * ask.num_frames)
    return Gallery(
        source.name,
        split,
        medium,
        keys=[item.key for item in items],
        captions=[item.captions for item in items],
        labels=[item.label for item in items],
        read=lambda index: all_views(source.frames(medium, index, more)[0], clips, crops, ask),
        questions=[item.questions for item in items],
        views=clips * crops,
        state=lambda index: state_of(items[index]),
    )


def views_of(medium: str, views: Views) -> Views:
    """A picture has crops alone."""
    return views if medium == "video" else (1, views[1])


def all_views(frames: np.ndarray, clips: int, crops: int, ask: Ask) -> np.ndarray:
    """Frames (clips T, H, W, 3) as the model looks at them, one view after the other: (clips crops T, size, size, 3).

    Clip number c has the frames c, c + clips, c + 2 clips, ... With one crop it is the whole picture, as everywhere.
    """
    parts = [frames[clip::clips] for clip in range(clips)]
    if crops == 1:
        return np.concatenate([prepare(part, ask.image_size, ask.interpolation) for part in parts])
    return np.concatenate(
        [cut for part in parts for cut in spatial_crops(part, ask.image_size, crops, ask.interpolation)]
    )
