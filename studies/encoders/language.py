"""The text encoder's [CLS] learns to say what the mean over its tokens said, which MiniLM was trained to be used by.

What is learnt next from a thousand names then starts in a space where sentences already lie by their meaning. No
picture takes part, and no text but words of the tokenizer's own vocabulary, put together at random in a few forms,
and the training texts. Axes: N texts, L tokens, D width, E embedding.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.config import OptimConfig
from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer
from omnivl.train.optim import build_optimizer, learning_rate, set_learning_rate
from studies.encoders.cached import cached_texts, upper_text

FORMS = (
    "{}", "{} {}", "a {} {}", "a {} and a {}.", "The {} of a {}.", "A {} {} with {}.", "{} {} {}",
    "the {} {} in the {} {}.",
)  # fmt: skip
OPTIM = OptimConfig(lr=5e-4, warmup_steps=20, betas=(0.9, 0.98))


def phrases(tokenizer: Tokenizer, count: int, rng: np.random.Generator) -> list[str]:
    """Texts of whole words of the vocabulary (which stand there by how often they are used)."""
    words = [word for word in tokenizer.vocab if word.isascii() and word.isalpha() and len(word) > 2]
    return [form.format(*rng.choice(words, form.count("{}"))) for form in rng.choice(FORMS, count)]


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
    main = torch.linalg.eigh(aims.T @ aims).eigenvectors[:, -model.config.embed_dim :]  # (D, E)
    aims = F.normalize(aims @ main, dim=-1)
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
