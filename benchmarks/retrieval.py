"""Reranking a gallery of pictures and texts in both directions, against the same done one query at a time.

    python benchmarks/retrieval.py [--tiny] [--pairs N]

The peer goes through the queries as BLIP's retrieval evaluation does: for each picture its best K texts beside K copies
of its tokens, for each text its best K pictures, so that a pair on both lists is scored twice, every picture's keys and
values are computed again for each pair, and texts are padded to the longest of the gallery. Both have the same network
and the same candidates, and come to the same scores. The network is the tiny one with random weights, which scores all
pairs of a thousand pictures and texts in minutes on a CPU; visual tokens and vectors are drawn.
"""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, seconds
from benchmarks.train_step import TINY, batch_of
from omnivl.config import MODELS, ModelConfig
from omnivl.model import OmniVL, starting_with
from omnivl.model.rerank import behind, candidates, rerank

SIZE, K, ENC = 1000, 128, 103


class Gallery(NamedTuple):
    similarity: Tensor  # (V, M)
    tokens: Tensor  # (V, N, D)
    ids: Tensor  # (M, L), starting with [ENC]
    mask: Tensor


def made_up(config: ModelConfig, size: int) -> tuple[OmniVL, Gallery]:
    """A random model, and as many pictures as texts, each picture nearest to its own text."""
    torch.manual_seed(0)
    model = OmniVL(config).eval()
    texts, vision = batch_of(config, "image", size), config.vision
    vectors = torch.nn.functional.normalize(torch.randn(size, 32), dim=-1)
    near = torch.nn.functional.normalize(vectors + 0.5 * torch.randn(size, 32) / 32**0.5, dim=-1)
    tokens = torch.randn(size, (vision.image_size // vision.patch_size) ** 2 + 1, vision.width)
    return model, Gallery(vectors @ near.T, tokens, starting_with(texts.ids, ENC), texts.mask)


@torch.inference_mode()
def one_query_at_a_time(model: OmniVL, gallery: Gallery, k: int) -> tuple[Tensor, Tensor]:
    """What `rerank` gives, query by query."""
    similarity, tokens, ids, mask = gallery
    by_picture, by_text = torch.zeros(2, *similarity.shape)
    for picture, scores in enumerate(similarity):
        best = scores.topk(min(k, len(scores))).indices
        seen = tokens[picture].expand(len(best), -1, -1)
        by_picture[picture, best] = log_matched(model, ids[best], mask[best], seen)
    for text, scores in enumerate(similarity.T):
        best = scores.topk(min(k, len(scores))).indices
        same = ids[text].expand(len(best), -1), mask[text].expand(len(best), -1)
        by_text[best, text] = log_matched(model, *same, tokens[best])
    scaled = similarity / model.temperature.clamp(0.001, 0.5)
    to_text, to_picture = candidates(similarity, k)
    return behind(scaled, scaled + by_picture, to_text, 1), behind(scaled, scaled + by_text, to_picture, 0).T


def log_matched(model: OmniVL, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    states = model.match_states(ids, mask, tokens)
    return model.alignment.head(states[:, 0]).log_softmax(1)[:, 1]


def measure(tiny: bool, pairs: int) -> list[Row]:
    config, size, k = (TINY, 12, 4) if tiny else (MODELS["tiny"], SIZE, K)
    model, gallery = made_up(config, size)
    settings = {
        "goal": 3,
        "us": "`rerank`",
        "them": "one query at a time",
        "pictures": size,
        "texts": size,
        "k": k,
        "pairs scored": int(torch.stack(candidates(gallery.similarity, k)).any(0).sum()),
        "visual tokens": gallery.tokens.shape[1],
        "text tokens": f"{int(gallery.mask.sum(1).min())} to {int(gallery.mask.sum(1).max())}",
        "width": config.text.width,
        "layers": config.text.layers,
    }
    ours, peer = partial(rerank, model), partial(one_query_at_a_time, model)
    few = Gallery(gallery.similarity[:20, :20], gallery.tokens[:20], gallery.ids[:20], gallery.mask[:20])
    ours(*few, k), peer(few, k)  # an unmeasured pair; a whole one takes minutes
    times = [(seconds(lambda: ours(*gallery, k)), seconds(lambda: peer(gallery, k))) for _ in range(pairs)]
    return [against(f"reranking {size:,} pictures and texts", times, settings)]


if __name__ == "__main__":
    command(__doc__, measure, pairs=2)
