"""Attention, feed-forward and drop-path: the parts that the visual and the text stacks are made of.

Axes: B rows, L tokens, N context tokens, D width, H heads. Self-attention has one fused projection whose output rows
are the queries, then the keys, then the values (so separate q, k, v matrices are stacked in that order). Keys and
values travel as one tensor (B, N, 2 D), which makes choosing rows and appending tokens one operation a layer. This
room knows nothing of pictures, words or norms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 3  # tokens; where plain products stop being the faster way (measured on a CPU)


class CrossKV(NamedTuple):
    """What the cross-attentions read, computed once: keys and values (B, N, 2 D) for each layer of both decoders.

    With shared cross-attentions both fields are the same tuple; one is empty where that decoder cannot read the
    context.
    """

    alignment: tuple[Tensor, ...]
    generation: tuple[Tensor, ...]

    def select(self, index: Tensor) -> "CrossKV":
        """The rows `index` (R,), repeats allowed; gradients flow back to them."""

        def rows(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(layer.index_select(0, index.to(layer.device)) for layer in layers)

        alignment = rows(self.alignment)
        return CrossKV(alignment, alignment if self.generation is self.alignment else rows(self.generation))


class KVCache:
    """Keys and values of the tokens that causal self-attention has already read, layer by layer, and their mask."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []  # each (B, past, 2 D)
        self.mask: Tensor | None = None  # (B, past); None: all real

    @property
    def length(self) -> int:
        return self.layers[0].shape[1] if self.layers else 0

    def append(self, layer: int, keys_values: Tensor) -> Tensor:
        """Add new tokens (B, L, 2 D) to a layer and return all of them (B, past + L, 2 D)."""
        if layer == len(self.layers):
            self.layers.append(keys_values)
        else:
            self.layers[layer] = torch.cat([self.layers[layer], keys_values], 1)
        return self.layers[layer]

    def extend_mask(self, mask: Tensor | None, ids: Tensor) -> Tensor | None:
        """The mask (B, past + L) once the tokens `ids` (B, L) are read too; None where every token is real."""
        if mask is not None or self.mask is not None:
            past = self.mask if self.mask is not None else ids.new_ones(len(ids), self.length)
            self.mask = torch.cat([past, torch.ones_like(ids) if mask is None else mask.to(past.dtype)], 1)
        return self.mask

    def select(self, index: Tensor) -> None:
        """Keep the rows `index` (R,), in that order: what a beam search does after each step."""
        self.layers = [layer.index_select(0, index) for layer in self.layers]
        self.mask = None if self.mask is None else self.mask.index_select(0, index)


def split_heads(parts: Sequence[Tensor], heads: int) -> list[Tensor]:
    """Tensors (B, L, D) as (B, H, L, D / H), without a copy."""
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]


def attend_few(parts: Sequence[Tensor], heads: int) -> Tensor:
    """Attention of queries, keys and values (B, L, D) -> (B, L, D) in plain products: for a handful of tokens in very
    many rows, such as time slots at every patch, kernels made for long sequences mostly set themselves up."""
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in parts)  # (B, L, H, D / H)
    scores = (q.unsqueeze(2) * k.unsqueeze(1)).sum(-1, keepdim=True) * q.shape[-1] ** -0.5  # (B, L, L, H, 1)
    return (scores.softmax(2) * v.unsqueeze(1)).sum(2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; `dropout` acts on the attention weights while training."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        layer: int = 0,
        queries: int | None = None,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), or (B, queries, D).

        Args:
            mask: bool, broadcastable to (B, H, L, past + L), true where a key may be looked at. None: everywhere.
            causal: each token sees itself and those before it; only without `mask`, which then says so itself.
            cache: holds the tokens before `x`, and takes those of `x` in, at `layer`.
            queries: how many tokens, from the first, are asked for; all of them are looked at. None: all.
        """
        if queries is None:
            parts = self.qkv(x).chunk(3, -1)
        else:
            weights, biases = (each.split([x.shape[-1], 2 * x.shape[-1]]) for each in (self.qkv.weight, self.qkv.bias))
            asked = F.linear(x[:, :queries], weights[0], biases[0])
            parts = (asked, *F.linear(x, weights[1], biases[1]).chunk(2, -1))
        if cache is not None:
            parts = (parts[0], *cache.append(layer, torch.cat(parts[1:], -1)).chunk(2, -1))
        dropout = self.dropout if self.training else 0.0
        if x.shape[1] <= FEW and queries is None and cache is None and mask is None and not causal and not dropout:
            return self.out(attend_few(parts, self.heads))
        q, k, v = split_heads(parts, self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens of one width to a context of another."""

    def __init__(self, width: int, context_width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = linear(width, width)
        self.key_value = linear(context_width, 2 * width)
        self.out = linear(width, width)

    def forward(self, x: Tensor, keys_values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D).

        Args:
            keys_values: (C, N, 2 D) from `key_value`. B may be a multiple of C: then each context serves B / C
                consecutive rows, whose queries are laid side by side, so that beams and candidates need no copy of
                their context.
            mask: bool, broadcastable to (C, H, 1, N). None: everything may be looked at.
        """
        query = self.query(x)
        sides = query.reshape(len(keys_values), -1, query.shape[-1])  # (C, B / C * L, D)
        q, k, v = split_heads((sides, *keys_values.chunk(2, -1)), self.heads)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(query.shape))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = linear(width, hidden)
        self.fc2 = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def drop_path_scale(x: Tensor, rate: float) -> Tensor:
    """One factor a row of x, (B, 1, ...): 0 with probability `rate`, else 1 / (1 - rate) (stochastic depth)."""
    keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= rate
    return keep.to(x.dtype) / max(1.0 - rate, 1e-6)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer from nothing: weights normal with deviation 0.02, biases zero (BERT, ViT).

    Fewer inputs than the 768 that this deviation was made for get larger weights *(ours)*: else a narrow network passes
    on so little of a picture that contrast stays at chance.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02 * max(1.0, (768 / inputs) ** 0.5))
    nn.init.zeros_(layer.bias)
    return layer
