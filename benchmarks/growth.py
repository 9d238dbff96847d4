"""How cost grows with frames, batch, gallery and index: the exponent of a power, fitted to the medians of all sizes.

    python benchmarks/growth.py [--tiny] [--pairs N]

Sizes take turns, and what is measured is CPU time, which others on the machine change least. The figure of a row is the
exponent: 1 is proportional, 2 is quadratic. Ours and the peer are the largest and the smallest size.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, command
from benchmarks.search import TOP, vectors
from omnivl.config import MODELS
from omnivl.inference.search import Exact
from omnivl.metrics.ranking import recall_at_k
from omnivl.model import VisualEncoder

Work = Callable[[], object]
TEXTS = 64  # that a gallery is ranked for


def encoding(size: str, shapes: Sequence[tuple[int, int]]) -> list[Work]:
    """The visual encoder on (clips, frames)."""
    config = MODELS[size].vision
    encoder = VisualEncoder(config).eval()

    @torch.inference_mode()
    def encode(clips: int, frames: int) -> torch.Tensor:
        return encoder(torch.zeros(clips, frames, 3, config.image_size, config.image_size))

    return [lambda s=shape: encode(*s) for shape in shapes]  # type: ignore[misc]


def ranking(count: int) -> Work:
    """Recall of TEXTS texts in a gallery, one item of which is right for each."""
    scores = torch.rand(TEXTS, count, generator=torch.Generator().manual_seed(0))
    targets = [[i] for i in range(TEXTS)]
    return lambda: recall_at_k(scores, targets)


def searching(count: int) -> Work:
    rows = vectors(count).astype(np.float16)
    query, every, searcher = rows[0].astype(np.float32), np.arange(count), Exact(rows)
    return lambda: searcher.search(query, TOP, every)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth(name: str, what: str, sizes: Sequence[int], works: Sequence[Work], turns: int) -> Row:
    found: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 1):
        for work, costs in zip(works, found, strict=True):
            begun = time.process_time()
            work()
            if turn:  # the first is not counted
                costs.append(time.process_time() - begun)
    medians = [median(costs) for costs in found]
    settings = {
        "us": f"{sizes[-1]:,} {what}",
        "them": f"{sizes[0]:,} {what}",
        "CPU seconds": ", ".join(f"{size:,}: {cost:.3g}" for size, cost in zip(sizes, medians, strict=True)),
    }
    fitted = round(exponent(sizes, medians), 3)
    return Row(f"growth, {name} (exponent)", round(medians[-1], 4), round(medians[0], 4), fitted, turns, settings)


def measure(tiny: bool, pairs: int) -> list[Row]:
    size = "tiny" if tiny else "small"
    frames, clips = ([2, 4], [1, 2]) if tiny else ([4, 8, 16, 32], [1, 2, 4, 8])
    gallery, index = ([200, 400], [2000, 4000]) if tiny else ([8000, 32_000, 128_000], [10_000, 40_000, 160_000])
    with_frames = encoding(size, [(1, count) for count in frames])
    with_batch = encoding(size, [(count, 1) for count in clips])
    return [
        growth("visual encoder with frames", "frames of a clip", frames, with_frames, pairs),
        growth("visual encoder with the batch", "pictures", clips, with_batch, pairs),
        growth(f"recall of {TEXTS} texts with the gallery", "items", gallery, [ranking(n) for n in gallery], pairs),
        growth("exact search with the index", "vectors", index, [searching(n) for n in index], pairs),
    ]


if __name__ == "__main__":
    command(__doc__, measure, pairs=5)
