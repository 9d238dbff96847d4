"""Training the upper part of a model on what its lower part, which stays as it was, made of every picture once.

A lower part that does not learn need not be run again: its tokens are kept in half precision, of several redrawn copies
of each picture, and of the texts alike. Axes: I items, C copies, T frames, S patches of a frame, L tokens of a text, D
width.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.data.annotations import Item
from omnivl.data.media import read_image, read_video
from omnivl.data.transforms import prepare
from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer
from studies.encoders.redraw import redraw

BATCH = 64  # frames at once, through the lower part


def shortened(model: OmniVL, *, vision_layers: int, image_size: int, num_frames: int) -> OmniVL:
    """The model without its last visual blocks, for clips of which each frame has a time slot of its own."""
    model.resize(image_size, num_frames)
    vision = dataclasses.replace(model.config.vision, layers=vision_layers, tubelet_size=1)
    made = OmniVL(dataclasses.replace(model.config, vision=vision))
    only_clips = ("visual.patches.video", "visual.time_position")
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(only_clips)}
    gone = tuple(f"visual.blocks.{i}." for i in range(vision_layers, len(model.visual.blocks)))
    # what only clips read has another shape here, and is derived below
    missing, unknown = made.load_state_dict({n: v for n, v in weights.items() if not n.startswith(gone)}, strict=False)
    assert not unknown and all(name.startswith(only_clips) for name in missing), (missing, unknown)
    made.extra = dict(model.extra)
    made.start_video_from_image()
    return made.eval()


# --- the lower part ---


@torch.inference_mode()
def lower_visual(model: OmniVL, pixels: Tensor, layers: int) -> Tensor:
    """uint8 pixels (B, T, 3, H, W) -> tokens (B, T, 1 + S, D) after `layers` blocks, in half precision. Their temporal
    attention is silent, so it is skipped."""
    visual = model.visual
    with torch.autocast("cpu", torch.bfloat16):
        x = visual.patches(model.normalised(pixels)).flatten(2, 3) + visual.position[1:]
        cls = (visual.cls + visual.position[0]).to(x.dtype).expand(*x.shape[:2], 1, -1)
        x = torch.cat([cls, x], 2)
        for block in visual.blocks[:layers]:
            x = block(x, over_time=False)
    return x.half()


def cached_pictures(model: OmniVL, items: Sequence[Item], layers: int, copy: int) -> Tensor:
    """(I, 1, 1 + S, D). Copy 0 is the pictures as they are, every other one redraws each in its own way."""
    size = model.config.vision.image_size
    made = []
    for first in range(0, len(items), BATCH):
        pictures = []
        for number, item in enumerate(items[first : first + BATCH], first):
            image = read_image(item.media)
            drawn = redraw(image, np.random.default_rng([copy, number])) if copy else image
            pictures.append(prepare(np.asarray(drawn)[None], size))
        made.append(lower_visual(model, to_pixels(pictures), layers))
    return torch.cat(made)


def cached_clips(model: OmniVL, items: Sequence[Item], layers: int) -> Tensor:
    """(I, T, 1 + S, D)."""
    size, frames = model.config.vision.image_size, model.config.vision.num_frames
    made = []
    for first in range(0, len(items), BATCH // frames):
        some = items[first : first + BATCH // frames]
        clips = [prepare(read_video(item.media, num_frames=frames).frames, size) for item in some]
        made.append(lower_visual(model, to_pixels(clips), layers))
    return torch.cat(made)


def to_pixels(clips: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)


@torch.inference_mode()
def cached_texts(model: OmniVL, tokenizer: Tokenizer, texts: Sequence[str], layers: int) -> tuple[Tensor, Tensor]:
    """Tokens (N, L, D) after `layers` blocks, and their mask (N, L)."""
    ids, mask = tokenizer(texts)
    parts = []
    for first in range(0, len(ids), BATCH):
        rows = slice(first, first + BATCH)
        x = model.text.embeddings(ids[rows])
        for block in model.text.blocks[:layers]:
            x = block(x, mask[rows, None, None].bool())
        parts.append(x)
    return torch.cat(parts), mask


# --- the upper part ---


def upper_visual(model: OmniVL, x: Tensor, layers: int) -> Tensor:
    """Tokens (B, T, 1 + S, D) after `layers` blocks -> unit vectors (B, E): what `embed_visual` gives of the pixels."""
    blocks = model.visual.blocks[layers:]
    for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
        x = block(x, x.shape[1] > 1, None if left else 1)
    return F.normalize(model.visual_projection(model.visual.norm(x[:, 0, 0])).float(), dim=-1)


def upper_text(model: OmniVL, x: Tensor, mask: Tensor, layers: int) -> Tensor:
    """The same of texts: tokens (B, L, D), mask (B, L) -> (B, E)."""
    blocks = model.text.blocks[layers:]
    for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
        x = block(x, mask[:, None, None].bool(), queries=None if left else 1)
    return F.normalize(model.text_projection(x[:, 0]).float(), dim=-1)
