"""The text encoder's [CLS] comes to say what the mean over its tokens said, which MiniLM was trained to be used by: the
last block learns to (`learn_meaning`), or one more block starts that way (`with_mean_block`).

What is learnt next from a thousand names then starts in a space where sentences already lie by their meaning. No
picture takes part, and no text but words of the tokenizer's own vocabulary, put together at random in a few forms,
and the training texts. Axes: N texts, L tokens, D width, E embedding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivl.config import OptimConfig
from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer
from omnivl.train.optim import build_optimizer, learning_rate, set_learning_rate
from studies.encoders.cached import cached_texts, upper_text

FORMS = (
    "{}", "{} {}", "a {} {}", "a {} and a {}.", "The {} of a {}.", "A {} {} with {}.", "{} {} {}",
    "the {} {} in the {} {}.",
)  # fmt: skip
MEAN_SHARE = 8.0  # how much louder the mean is than [CLS] as it was
OPTIM = OptimConfig(lr=5e-4, warmup_steps=20, betas=(0.9, 0.98))


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


@torch.inference_mode()
def mean_vectors(model: OmniVL, states: Tensor, mask: Tensor, layers: int) -> Tensor:
    """Tokens (N, L, D) after `layers` blocks -> (N, D) the mean over the tokens of the last block, of unit length."""
    parts = []
    for x, seen in zip(states.split(256), mask.split(256), strict=True):
        for block in model.text.blocks[layers:]:
            x = block(x, seen[:, None, None].bool())
        parts.append(F.normalize((x * seen[..., None]).sum(1), dim=-1))
    return torch.cat(parts)


def learn_meaning(
    model: OmniVL, tokenizer: Tokenizer, texts: list[str], layers: int, *, steps: int, batch: int, seed: int
) -> list[float]:
    """Train the text blocks from `layers` on and the projection, in place; gives the loss (1 - cosine) of every step.

    The aim is the mean vector without what is common to all, in its E main directions.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.eval()
    states, mask = cached_texts(model, tokenizer, texts, layers)
    aims = mean_vectors(model, states, mask, layers)
    aims = aims - aims.mean(0)
    aims = F.normalize(aims @ main_directions(aims, model.config.embed_dim), dim=-1)
    blocks = model.text.blocks[layers:]
    model.requires_grad_(False)
    for part in (*blocks, model.text_projection):
        part.requires_grad_(True)
    optimizer = build_optimizer(model, OPTIM, {})
    losses = []
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate(OPTIM, step, steps))
        rows = torch.from_numpy(rng.choice(len(texts), batch, replace=False))
        length = int(mask[rows].sum(1).max())
        with torch.autocast("cpu", torch.bfloat16):
            said = upper_text(model, states[rows, :length], mask[rows, :length], layers)
        loss = 1 - (said * aims[rows]).sum(1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses
