"""The text encoder's [CLS] comes to say what the mean over its tokens said, which MiniLM was trained to be used by: one
more block starts that way.

What is learnt next from a thousand names then starts in a space where sentences already lie by their meaning. No
picture takes part, and no text but words of the tokenizer's own vocabulary, put together at random in a few forms.
Axes: N texts, L tokens, D width, E embedding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer
from studies.encoders.cached import cached_texts

FORMS = (
    "{}", "{} {}", "a {} {}", "a {} and a {}.", "The {} of a {}.", "A {} {} with {}.", "{} {} {}",
    "the {} {} in the {} {}.",
)  # fmt: skip
MEAN_SHARE = 8.0  # how much louder the mean is than [CLS] as it was


def phrases(tokenizer: Tokenizer, count: int, rng: np.random.Generator) -> list[str]:
    """Texts of whole words of the vocabulary (which stand there by how often they are used)."""
    words = [word for word in tokenizer.vocab if word.isascii() and word.isalpha() and len(word) > 2]
    return [form.format(*rng.choice(words, form.count("{}"))) for form in rng.choice(FORMS, count)]


@torch.no_grad()
def with_mean_block(model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str]) -> OmniVL:
    """The model with one more text block, whose [CLS] attends to all tokens alike and passes their mean on, without
    what `texts` have in common and in their E main directions. Its feed-forward is silent at first."""
    config = dataclasses.replace(model.config.text, layers=model.config.text.layers + 1)
    made = OmniVL(dataclasses.replace(model.config, text=config)).eval()
    # the added block has nothing to take, and is made below
    missing, unknown = made.load_state_dict(model.state_dict(), strict=False)
    last = config.layers - 1
    assert not unknown and all(f".blocks.{last}." in name for name in missing), (missing, unknown)
    made.extra = dict(model.extra)
    block, width = made.text.blocks[last], config.width
    asked, _, values = block.attention.qkv.weight.split(width)
    nn.init.zeros_(asked)  # keys are left as they were drawn: with neither, attention could not learn
    nn.init.eye_(values)
    nn.init.eye_(block.attention.out.weight).mul_(MEAN_SHARE)
    nn.init.zeros_(block.mlp.fc2.weight)
    states, mask = cached_texts(made, tokenizer, texts, last)
    parts = zip(states.split(256), mask.split(256), strict=True)
    said = torch.cat([block(x, seen[:, None, None].bool(), queries=1)[:, 0] for x, seen in parts])
    main = main_directions(said - said.mean(0), model.config.embed_dim)
    made.text_projection.weight.copy_(main.T)
    made.text_projection.bias.copy_(-said.mean(0) @ main)
    return made


def main_directions(vectors: Tensor, count: int) -> Tensor:
    """(N, D) without their mean -> (D, count), orthonormal."""
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -count:]
