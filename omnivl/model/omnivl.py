"""The whole network: one visual encoder, one text encoder and two visually grounded decoders (paper, section 3.1), with
their projections.

Axes: B items, T frames, C colours, H and W pixels, N visual tokens, L text tokens, D width, E embedding, V
vocabulary. It takes tensors only, and knows no tokenizer, no data, no task, no rank; momentum copies and memory banks
are not part of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivl.config import ModelConfig
from omnivl.model.layers import CrossKV, KVCache, linear
from omnivl.model.text import AlignmentDecoder, GenerationDecoder, TextEncoder
from omnivl.model.vision import VisualEncoder


class Visual(NamedTuple):
    """What an image or a video is encoded to."""

    tokens: Tensor  # (B, N, D) after the final norm, [CLS] first, then time, height, width
    pooled: Tensor  # (B, D) [CLS]
    embed: Tensor  # (B, E) float32 of unit length


class Text(NamedTuple):
    """What a text is encoded to."""

    tokens: Tensor  # (B, L, D)
    pooled: Tensor  # (B, D) [CLS]
    embed: Tensor  # (B, E) float32 of unit length
    pooled_projection: Tensor  # (B, E) `embed` before its length was made one


class OmniVL(nn.Module):
    """The model of `config`, from nothing: see `from_folder` for a saved one.

    `extra` holds what else the model folder's config.json says (such as the labels of a finetuned classifier).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.extra: dict[str, Any] = {}
        shares = config.sharing == "blip"
        self.visual = VisualEncoder(config.vision)
        self.text = TextEncoder(config.text)
        self.alignment = AlignmentDecoder(config.text, config.vision.width, self.text if shares else None)
        self.generation = GenerationDecoder(config.text, config.vision.width, self.alignment if shares else None)
        self.visual_projection = linear(config.vision.width, config.embed_dim)
        self.text_projection = linear(config.text.width, config.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.classifier: nn.Linear | None = None
        self.pixel_scale: Tensor
        self.pixel_shift: Tensor
        self.register_pixel_scale()

    def register_pixel_scale(self) -> None:
        """pixels * scale + shift is (pixels / 255 - mean) / std."""
        mean, std = torch.tensor(self.config.mean).view(3, 1, 1), torch.tensor(self.config.std).view(3, 1, 1)
        self.register_buffer("pixel_scale", 1 / (255 * std), persistent=False)
        self.register_buffer("pixel_shift", -mean / std, persistent=False)

    # --- the two encoders ---

    def encode_visual(self, pixels: Tensor) -> Visual:
        """(B, T, C, H, W) -> tokens, [CLS] and unit vector. uint8 pixels are normalised here, floats are taken as
        normalised already. T = 1 is an image. Raises ValueError on another shape."""
        tokens = self.visual(self.normalised(pixels))
        pooled = tokens[:, 0]
        return Visual(tokens, pooled, F.normalize(self.visual_projection(pooled).float(), dim=-1))

    def embed_visual(self, pixels: Tensor) -> Tensor:
        """`encode_visual(pixels).embed` (B, E), for less work: the last block has no other token to see to."""
        pooled = self.visual(self.normalised(pixels), queries=1)[:, 0]
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels as both encoders of visual input normalise them; what is normalised already stays as it is."""
        if pixels.dim() != 5 or pixels.shape[2] != 3 or not pixels.shape[1]:
            raise ValueError(f"pixels must be (clips, frames, 3, height, width), got {tuple(pixels.shape)}")
        if pixels.dtype == torch.uint8:
            pixels = pixels.float().mul_(self.pixel_scale).add_(self.pixel_shift)
        return pixels.to(self.visual.cls.dtype)

    def encode_text(self, ids: Tensor, mask: Tensor | None) -> Text:
        """(B, L) starting with [CLS], mask 1 = real (None: all) -> tokens, [CLS] and unit vector."""
        tokens = self.text(ids, mask)
        projected = self.text_projection(tokens[:, 0])
        return Text(tokens, tokens[:, 0], F.normalize(projected.float(), dim=-1), projected)

    def embed_text(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """`encode_text(ids, mask).embed` (B, E), for less work, as in `embed_visual`."""
        pooled = self.text(ids, mask, queries=1)[:, 0]
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    # --- the two decoders ---

    def cross_keys_values(self, visual_tokens: Tensor) -> CrossKV:
        """Visual tokens (B, N, D) as what `match`, `match_states` and `decode` read in their place, computed once."""
        keys_values = self.alignment.keys_values(visual_tokens)
        if self.config.sharing == "blip":
            return CrossKV(keys_values, keys_values)
        return CrossKV(keys_values, self.generation.keys_values(visual_tokens))

    def context_keys_values(self, context: Tensor) -> CrossKV:
        """Visual tokens or question states (B, N, D) as what `decode` alone reads in their place, computed once."""
        return CrossKV((), self.generation.keys_values(context))

    def match_states(self, ids: Tensor, mask: Tensor | None, context: Tensor | CrossKV) -> Tensor:
        """(B, L) starting with [ENC], and visual tokens (C, N, D) or their `cross_keys_values` -> (B, L, D).

        B may be a multiple of C: each visual input then serves B / C consecutive texts, without being copied.
        """
        return self.alignment(ids, mask, self.matching_keys_values(ids, context))

    def match(self, ids: Tensor, mask: Tensor | None, context: Tensor | CrossKV) -> Tensor:
        """As `match_states` -> (B, 2) logits: not matched, matched."""
        keys_values = self.matching_keys_values(ids, context)
        return self.alignment.head(self.alignment(ids, mask, keys_values, queries=1)[:, 0])

    def matching_keys_values(self, ids: Tensor, context: Tensor | CrossKV) -> tuple[Tensor, ...]:
        keys_values = context.alignment if isinstance(context, CrossKV) else self.alignment.keys_values(context)
        check_rows(ids, keys_values)
        return keys_values

    def decode_states(
        self,
        ids: Tensor,
        mask: Tensor | None,
        context: Tensor | CrossKV,
        context_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """As `decode`, before the language-modelling head -> (B, L, D)."""
        keys_values = context.generation if isinstance(context, CrossKV) else self.generation.keys_values(context)
        check_rows(ids, keys_values)
        return self.generation(ids, mask, keys_values, context_mask, cache)

    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None,
        context: Tensor | CrossKV,
        context_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Next-token logits (B, L, V) for `ids` (B, L) starting with [DEC]; position i predicts token i + 1.

        Args:
            mask: (B, L), 1 = real; None: all.
            context: visual tokens, question states (C, N, D), or either's keys and values; B may be a multiple of C.
            context_mask: (C, N), 1 = real; None: all.
            cache: holds the tokens before `ids`, and takes `ids` in; then `ids` and `mask` are the new ones alone.
        """
        return self.lm_logits(self.decode_states(ids, mask, context, context_mask, cache=cache))

    def lm_logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits (..., V) of states (..., D): the generation decoder's, or the text encoder's."""
        return self.generation.logits(states)

    # --- parts ---

    def add_classifier(self, labels: Sequence[str]) -> nn.Linear:
        """A new linear head on `Visual.pooled`, one output a label; saved and loaded with the model."""
        self.extra["labels"] = list(labels)
        self.classifier = linear(self.config.vision.width, len(labels)).to(self.temperature.device)
        return self.classifier

    def start_video_from_image(self) -> None:
        """See `VisualEncoder.start_video_from_image`."""
        self.visual.start_video_from_image()

    def resize(self, image_size: int, num_frames: int) -> list[str]:
        """Fit the position tables to other pictures and clips; gives a sentence for each that changed. See
        `VisualEncoder.resize`."""
        before = self.config.vision
        self.config = dataclasses.replace(self.config, vision=self.visual.resize(image_size, num_frames))
        told = []
        if image_size != before.image_size:
            told.append(f"positions resized from {before.image_size} to {image_size} pixels (bicubic)")
        if num_frames != before.num_frames:
            told.append(f"positions in time resized from {before.num_frames} to {num_frames} frames (linear)")
        return told

    def without_decoders(self) -> "OmniVL":
        """This model, its decoders and classifier taken away in place: the two encoders and their projections."""
        del self.alignment, self.generation
        self.classifier = None
        return self

    def text_encoder_parameters(self) -> list[str]:
        """Names of what learns at the text encoder's own rate: its embeddings, self-attention and feed-forward with
        their norms, and the text projection. Not cross-attention, causal self-attention or heads."""
        return [name for name, _ in self.named_parameters() if name.startswith(("text.", "text_projection."))]


def check_rows(ids: Tensor, keys_values: tuple[Tensor, ...]) -> None:
    """Raises ValueError where texts cannot be dealt evenly to contexts."""
    if not keys_values:
        raise ValueError("this context holds nothing that the decoder can read: matching needs visual tokens")
    contexts = len(keys_values[0])
    if not contexts or len(ids) % contexts:
        raise ValueError(f"{len(ids)} texts cannot be dealt evenly to {contexts} contexts: give as many, or a multiple")
