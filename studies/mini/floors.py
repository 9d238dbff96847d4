"""Floors of the mini benchmark: what copying from the nearest training pixels gives, without any learning.

    python studies/mini/floors.py [DATA] [--out docs/results/mini_floors.json]

Pictures and frames are shrunk to 16 x 16; a query takes caption or label of the training item at the smallest squared
distance (several at the same distance share). For FLARE from one frame (the middle), from eight, and from nothing but
how many of the sampled frames differ: actions have 2 to 8 frames in the game, and equal spans repeat the frames of
short ones. A model has learnt something where it beats all of these, not where it beats chance.
"""

import argparse
import collections
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.data.annotations import Item, read_manifest
from omnivl.data.media import read_image, read_video
from omnivl.results import write_results
from omnivl.tasks.base import Result

SIDE = 16  # pixels
QUERIES = 256  # compared at once: memory


@dataclass(frozen=True)
class Split:
    """One manifest as features."""

    captions: list[str]
    labels: list[str]
    features: np.ndarray  # (N, F) float64 of whole numbers, so that distances are exact

    def __len__(self) -> int:
        return len(self.labels)


def small(frames: Iterable[Image.Image]) -> np.ndarray:
    """Pictures as one vector of 16 x 16 pixels each."""
    shrunk = [frame.resize((SIDE, SIDE), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(frame) for frame in shrunk]).reshape(-1)


def picture(item: Item) -> np.ndarray:
    return small([read_image(item.media)])


def clip(item: Item, num_frames: int) -> np.ndarray:
    """The frames in the middle of equal spans, as a model gets them."""
    return small(Image.fromarray(frame) for frame in read_video(item.media, num_frames=num_frames).frames)


def num_distinct(item: Item, num_frames: int) -> np.ndarray:
    frames = read_video(item.media, num_frames=num_frames).frames
    return np.array([len({frame.tobytes() for frame in frames})])


def read_split(data: Path, name: str, feature: Callable[[Item], np.ndarray]) -> Split:
    """A manifest with the features that `feature` (Item -> vector) gives. Raises ValueError where there is none."""
    items = read_manifest(data / f"{name}.jsonl", None, "").items
    features = np.stack([feature(item) for item in items]).astype(np.float64)
    return Split([item.captions[0] for item in items], [item.label for item in items], features)


def nearest(queries: np.ndarray, train: np.ndarray) -> Iterable[np.ndarray]:
    """For each query the places of the training vectors at the smallest squared distance."""
    lengths = (train**2).sum(1)
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        distance = lengths - 2 * some @ train.T  # (Q, N), but for what each query adds to all
        for row in distance:
            yield np.flatnonzero(row == row.min())


def copied(train: Split, queries: Split, kind: str) -> np.ndarray:
    """(N,) for each query the share of its nearest training items that have its caption or label."""
    have, want = getattr(train, kind), getattr(queries, kind)
    found = nearest(queries.features, train.features)
    return np.array([np.mean([have[i] == name for i in places]) for places, name in zip(found, want, strict=True)])


def by_class(hits: np.ndarray, labels: Sequence[str]) -> float:
    """Accuracy of each class, averaged over the classes."""
    return float(np.mean([hits[np.array(labels) == label].mean() for label in sorted(set(labels))]))


def label_results(dataset: str, split: str, train: Split, queries: Split, settings: dict[str, Any]) -> list[Result]:
    """top1 and mean_per_class of labels. Chance of the first: always the commonest class of the split."""
    hits = copied(train, queries, "labels")
    counts = collections.Counter(queries.labels)
    commonest, balanced = max(counts.values()) / len(queries), by_class(hits, queries.labels)
    return [
        Result("classify", dataset, split, "top1", float(hits.mean()), len(queries), commonest, settings),
        Result("classify", dataset, split, "mean_per_class", balanced, len(queries), 1 / len(counts), settings),
    ]


def emoji_results(data: Path) -> list[Result]:
    """The caption of a training concept drawn by the unseen hand, and the group of unseen concepts."""
    settings = {"features": f"{SIDE}x{SIDE} pixels", "classifier": "nearest neighbour", "frames": 1}
    train = read_split(data, "emoji_train", picture)
    hand = read_split(data, "emoji_unseen_hand", picture)
    top1, chance = float(copied(train, hand, "captions").mean()), 1 / len(set(train.captions))
    results = [Result("classify", "mini_emoji_names", "unseen_hand", "top1", top1, len(hand), chance, settings)]
    results += label_results("mini_emoji_groups", "unseen_hand", train, hand, settings)
    for split in ("validation", "unseen_concepts"):
        queries = read_split(data, f"emoji_{split}", picture)
        results += label_results("mini_emoji_groups", split, train, queries, settings)
    return results


def flare_results(data: Path) -> list[Result]:
    """The action of species that training has not."""
    results = []
    for features, feature, frames in (
        (f"{SIDE}x{SIDE} pixels", clip, 1),
        (f"{SIDE}x{SIDE} pixels", clip, 8),
        ("number of distinct frames", num_distinct, 4),
        ("number of distinct frames", num_distinct, 8),
    ):
        settings = {"features": features, "classifier": "nearest neighbour", "frames": frames}
        feature = functools.partial(feature, num_frames=frames)
        train = read_split(data, "flare_train", feature)
        for split in ("validation", "test"):
            queries = read_split(data, f"flare_{split}", feature)
            results += label_results("mini_flare_actions", split, train, queries, settings)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Nearest-neighbour floors of the mini benchmark.")
    parser.add_argument("data", nargs="?", type=Path, default=Path("runs/mini-data"), help="what build.py wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/results/mini_floors.json"), help="results file to write")
    options = parser.parse_args()
    begun = time.perf_counter()
    try:
        results = emoji_results(options.data) + flare_results(options.data)
    except ValueError as error:
        print(f"floors.py: {error}: run studies/mini/build.py first", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.unlink(missing_ok=True)  # all floors are measured each time: nothing to merge with
    config = {"command": "python studies/mini/floors.py", "side": SIDE}
    write_results(options.out, results, config=config, seed=0, seconds=round(time.perf_counter() - begun, 1))
    for row in results:
        chance = f"{row.chance:.4f}"
        print(
            f"{row.dataset:20} {row.split:16} {row.metric:15} {row.value:.4f}  chance {chance}  n {row.n}  "
            f"{row.settings['features']}, frames {row.settings['frames']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
