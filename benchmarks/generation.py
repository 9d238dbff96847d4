"""Captions by beam search with the key-value cache, against the same search that reads every beginning again from its
start.

    python benchmarks/generation.py [--tiny] [--pairs N]

Both are our beam search and give the same texts. The peer keeps the cross-attention's keys and values too, so that the
figure is what the cache of the self-attention spares and nothing else. Weights are random and no text may end early:
every caption has the full number of tokens.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from benchmarks.train_step import SMALL, TINY
from omnivl.config import ModelConfig
from omnivl.model import OmniVL
from omnivl.model.generation import Generated, Specials, Writer, beam_search

BEAMS, LENGTH, ITEMS = 3, 20, 8
SPECIALS = Specials(dec_id=1, sep_id=2)


class Rereader(Writer):
    """A writer without a cache."""

    def read(self, tokens: Tensor) -> None:
        self.texts = torch.cat([self.texts, tokens], 1)
        states = self.model.decode_states(self.texts, None, self.context, self.context_mask)
        self.logits = self.model.lm_logits(states[:, -1]).float()

    def select(self, rows: Tensor) -> None:
        self.texts, self.logits = self.texts[rows], self.logits[rows]


def model_and_tokens(config: ModelConfig, items: int) -> tuple[OmniVL, Tensor]:
    """A random model, and visual tokens (B, N, D) of random pictures."""
    torch.manual_seed(0)
    model = OmniVL(config).eval()
    size = config.vision.image_size
    with torch.inference_mode():
        return model, model.encode_visual(torch.randn(items, 1, 3, size, size)).tokens


@torch.inference_mode()
def write(kind: type[Writer], model: OmniVL, tokens: Tensor, length: int) -> list[Generated]:
    return beam_search(kind(model, tokens, None, SPECIALS, (), length, length, 1.0), BEAMS)


def measure(tiny: bool, pairs: int) -> list[Row]:
    config, items, length = (TINY, 2, 5) if tiny else (SMALL, ITEMS, LENGTH)
    model, tokens = model_and_tokens(config, items)
    times = take_turns(
        lambda: write(Writer, model, tokens, length), lambda: write(Rereader, model, tokens, length), pairs
    )
    settings = {
        "goal": 3,
        "us": "beam search with a cache",
        "them": "the same without",
        "width": config.text.width,
        "layers": config.text.layers,
        "beams": BEAMS,
        "tokens": length,
        "batch": items,
    }
    return [against("captions, beam 3", times, settings)]


if __name__ == "__main__":
    command(__doc__, measure, pairs=5)
