"""Captions by beam search with its caches, against the same search without any, and with the cross-attention's alone.

    python benchmarks/generation.py [--tiny] [--pairs N]

All are our beam search and give the same texts. Without a cache every beginning is read again from its start, and the
picture's keys and values are computed again for each token; the second peer keeps those, so that its figure is what the
cache of the self-attention spares. Weights are random and no text may end early: every caption has the full number of
tokens.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from benchmarks.train_step import SMALL, TINY
from omnivl.config import ModelConfig
from omnivl.model import OmniVL
from omnivl.model.generation import Generated, Specials, Writer, beam_search
from omnivl.model.layers import CrossKV

BEAMS, LENGTH, ITEMS = 3, 20, 8
SPECIALS = Specials(dec_id=1, sep_id=2)


class Rereader(Writer):
    """A writer that reads every beginning again from its start."""

    def read(self, tokens: Tensor) -> None:
        self.texts = torch.cat([self.texts, tokens], 1)
        states = self.model.decode_states(self.texts, None, self.looked_at(), self.context_mask)
        self.logits = self.model.lm_logits(states[:, -1]).float()

    def select(self, rows: Tensor) -> None:
        self.texts, self.logits = self.texts[rows], self.logits[rows]

    def looked_at(self) -> CrossKV:
        return self.context


class Forgetful(Rereader):
    """A writer that also looks at the picture anew for each token."""

    visual: Tensor

    def looked_at(self) -> CrossKV:
        return self.model.context_keys_values(self.visual)


def model_and_tokens(config: ModelConfig, items: int) -> tuple[OmniVL, Tensor]:
    """A random model, and visual tokens (B, N, D) of random pictures."""
    torch.manual_seed(0)
    model = OmniVL(config).eval()
    size = config.vision.image_size
    with torch.inference_mode():
        return model, model.encode_visual(torch.randn(items, 1, 3, size, size)).tokens


@torch.inference_mode()
def write(kind: type[Writer], model: OmniVL, tokens: Tensor, length: int) -> list[Generated]:
    if issubclass(kind, Forgetful):
        kind.visual = tokens
    found = beam_search(kind(model, tokens, None, SPECIALS, (), length, length, 1.0), BEAMS)
    return [texts[0] for texts in found]


def measure(tiny: bool, pairs: int) -> list[Row]:
    config, items, length = (TINY, 2, 5) if tiny else (SMALL, ITEMS, LENGTH)
    model, tokens = model_and_tokens(config, items)
    settings = {
        "us": "beam search with its caches",
        "width": config.text.width,
        "layers": config.text.layers,
        "beams": BEAMS,
        "tokens": length,
        "batch": items,
    }
    rows = []
    for what, peer, about in (
        ("captions, beam 3", Forgetful, {"goal": 3, "them": "the same without a cache"}),
        ("captions, beam 3, self-attention", Rereader, {"them": "keeping the picture's keys and values alone"}),
    ):
        times = take_turns(
            partial(write, Writer, model, tokens, length), partial(write, peer, model, tokens, length), pairs
        )
        rows.append(against(what, times, settings | about))
    return rows


if __name__ == "__main__":
    command(__doc__, measure, pairs=5)
