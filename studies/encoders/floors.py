"""What is had without any training of ours: the name of the nearest training drawing, by pixels or by the encoder.

    python studies/encoders/floors.py [--data runs/mini-data] [--encoders runs/encoders] [--features ...] [--out ...]

A picture takes the name of the training drawing whose 16 x 16 pixels are nearest, or whose tokens after the frozen
blocks are (their mean, by cosine). In the unseen hand that name is right or wrong; Tux Paint's sentences are ranked by
their likeness to it (cosine of MiniLM's mean over tokens, as that model is meant to be used).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.config import read_json
from omnivl.data.annotations import Item, read_manifest
from omnivl.model import OmniVL
from omnivl.results import write_results
from omnivl.tasks.base import Result
from omnivl.tokenizer import Tokenizer
from studies.encoders.cached import cached_pictures, cached_texts
from studies.encoders.features import CUT, DRAWINGS, read, start, training_items
from studies.mini.floors import picture

RANKS = (1, 5, 10)


def by_pixels(items: Sequence[Item]) -> Tensor:
    """(I, 768)."""
    return torch.from_numpy(np.stack([picture(item) for item in items]).astype(np.float32))


def by_tokens(tokens: Tensor) -> Tensor:
    """(I, 1, 1 + S, D) -> (I, D) the mean of all tokens, of unit length."""
    return F.normalize(tokens[:, 0].float().mean(1), dim=-1)


def nearest(queries: Tensor, train: Tensor) -> list[int]:
    return torch.cdist(queries, train).argmin(1).tolist()


def sentence_vectors(model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    states, mask = cached_texts(model, tokenizer, texts, len(model.text.blocks))
    return F.normalize((states * mask[..., None]).sum(1), dim=-1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Floors of the study: names of nearest training drawings.")
    parser.add_argument("--data", type=Path, default=Path("runs/mini-data"), help="what build.py --size 112 wrote")
    parser.add_argument("--encoders", type=Path, default=Path("runs/encoders"), help="what sources.py wrote")
    parser.add_argument("--features", type=Path, default=Path("runs/encoders/features"), help="what features.py wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/results/encoders.json"), help="results file")
    options = parser.parse_args()
    begun = time.process_time()
    model, tokenizer = start(options.encoders)
    train = [item for name in DRAWINGS for item in training_items(options.data, name)]
    frozen = torch.cat([read(options.features, f"{name}_0")[0] for name in DRAWINGS])
    names = [item.captions[0] for item in train]
    known = {"16x16 pixels": by_pixels(train), "frozen tokens": by_tokens(frozen)}
    results = []
    for manifest in ("emoji_unseen_hand", "stamps_transfer"):
        items = read_manifest(options.data / f"{manifest}.jsonl", None, "").items
        asked = {"16x16 pixels": by_pixels(items), "frozen tokens": by_tokens(cached_pictures(model, items, CUT, 0))}
        texts = [item.captions[0] for item in items]
        vectors = sentence_vectors(model, tokenizer, texts)
        for features, queries in asked.items():
            copied = [names[i] for i in nearest(queries, known[features])]
            scores = sentence_vectors(model, tokenizer, copied) @ vectors.T
            ranks = (scores > scores.diagonal()[:, None] + 1e-5).sum(1)
            settings = {"model": f"copied name of the nearest drawing by {features}", "frames": 1}
            results += [
                Result("retrieval", f"mini/{manifest}", "test", f"i2t_r{rank}", float((ranks < rank).float().mean()),
                       len(items), rank / len(items), settings)
                for rank in RANKS
            ]  # fmt: skip
    config = read_json(options.out)["config"] if options.out.exists() else {}
    seconds = round(time.process_time() - begun, 1)
    write_results(options.out, results, config=config, seed=0, seconds=seconds)
    for row in results:
        print(f"{row.dataset:25} {row.metric:8} {row.value:.4f}  chance {row.chance:.4f}  {row.settings['model']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
