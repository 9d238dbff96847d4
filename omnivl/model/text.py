"""The text stack: one BERT-shaped block used three ways (paper, section 3.1; sharing after BLIP, *ours*).

Axes: B texts, L tokens, N context tokens, D width, V vocabulary. `TextEncoder` reads text alone, both ways;
`AlignmentDecoder` also looks at visual tokens; `GenerationDecoder` does too, but sees only what came before. A block is
post-norm: self-attention, cross-attention (where there is one), feed-forward. A decoder built with `shared` takes
modules of another stack as its own, so that they are one storage. Masks are 1 where a token is real, and None where
all are. This room knows no tokenizer: which token means what is the caller's business.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivl.config import ConfigError, TextConfig
from omnivl.model.layers import MLP, CrossAttention, KVCache, SelfAttention, linear


class TextEmbeddings(nn.Module):
    """Word, position and token-type vectors (every token has type 0), normed."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(1, config.width)
        for table in (self.word, self.position, self.token_type):
            nn.init.normal_(table.weight, std=0.02)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None, start: int = 0) -> Tensor:
        """(B, L) -> (B, L, D). Positions count from `start`, or are given (B, L)."""
        longest = start + ids.shape[1]
        if longest > self.position.num_embeddings:
            raise ValueError(
                f"a text of {longest} tokens does not fit the model's {self.position.num_embeddings} positions: cut it"
            )
        place = self.position.weight[start:longest] if positions is None else self.position(positions)
        return self.dropout(self.norm(self.word(ids) + place + self.token_type.weight))


class TextBlock(nn.Module):
    """Self-attention, cross-attention where `context_width` is given, feed-forward; each followed by its norm.

    `attention_of`, `cross_of` and `mlp_of` are blocks whose sub-layer (its norm included) this one shares.
    """

    attention: SelfAttention
    attention_norm: nn.LayerNorm
    cross: CrossAttention | None
    cross_norm: nn.LayerNorm
    mlp: MLP
    mlp_norm: nn.LayerNorm

    def __init__(
        self,
        config: TextConfig,
        context_width: int | None = None,
        *,
        attention_of: "TextBlock | None" = None,
        cross_of: "TextBlock | None" = None,
        mlp_of: "TextBlock | None" = None,
    ) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.width, eps=config.layer_norm_eps)

        self.cross = None
        if attention_of is None:
            self.attention, self.attention_norm = SelfAttention(config.width, config.heads, config.dropout), norm()
        else:
            self.attention, self.attention_norm = attention_of.attention, attention_of.attention_norm
        if cross_of is not None:
            self.cross, self.cross_norm = cross_of.cross, cross_of.cross_norm
        elif context_width is not None:
            self.cross = CrossAttention(config.width, context_width, config.heads, config.dropout)
            self.cross_norm = norm()
        self.mlp = MLP(config.width, config.mlp_width) if mlp_of is None else mlp_of.mlp
        self.mlp_norm = norm() if mlp_of is None else mlp_of.mlp_norm
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        keys_values: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        layer: int = 0,
        queries: int | None = None,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), or (B, queries, D). Masks and what follows as in `SelfAttention`; the cross-attention
        reads `keys_values` (C, N, 2 D)."""
        mixed = self.attention(x, mask, causal=causal, cache=cache, layer=layer, queries=queries)
        x = self.attention_norm(x[:, :queries] + self.dropout(mixed))
        if keys_values is not None:
            assert self.cross is not None
            x = self.cross_norm(x + self.dropout(self.cross(x, keys_values, context_mask)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


def starting_with(ids: Tensor, first: int) -> Tensor:
    """The same texts with another first token ([ENC] or [DEC] for [CLS])."""
    ids = ids.clone()
    ids[:, 0] = first
    return ids


def key_mask(mask: Tensor | None) -> Tensor | None:
    """(B, L) as the bool (B, 1, 1, L) that attention wants."""
    return None if mask is None else mask[:, None, None, :].bool()


def block_list(blocks: Iterable[TextBlock]) -> Sequence[TextBlock]:
    """A ModuleList, known to the type checker as the blocks that it holds."""
    return cast(Sequence[TextBlock], nn.ModuleList(blocks))


def read_context(blocks: Iterable[TextBlock], context: Tensor) -> tuple[Tensor, ...]:
    """The keys and values (B, N, 2 D) of each block's cross-attention for a context (B, N, its width)."""
    return tuple(block.cross.key_value(context) for block in blocks if block.cross is not None)


class TextEncoder(nn.Module):
    """Text alone, both ways."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(f"text.width ({config.width}) must be a multiple of text.heads ({config.heads})")
        self.embeddings = TextEmbeddings(config)
        self.blocks = block_list(TextBlock(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor | None, queries: int | None = None) -> Tensor:
        """(B, L), padding on the right -> (B, L, D), or of the first tokens alone (B, queries, D), which spares the
        last block the others."""
        x, attend = self.embeddings(ids), key_mask(mask)
        for left, block in zip(reversed(range(len(self.blocks))), self.blocks, strict=True):
            x = block(x, attend, queries=None if left else queries)
        return x


class AlignmentDecoder(nn.Module):
    """Text that looks at visual tokens, both ways; its first output says whether they match.

    With `shared` it is the text encoder plus cross-attentions.
    """

    def __init__(self, config: TextConfig, context_width: int, shared: TextEncoder | None) -> None:
        super().__init__()
        others = shared.blocks if shared else [None] * config.layers
        blocks = [TextBlock(config, context_width, attention_of=other, mlp_of=other) for other in others]
        self.embeddings = shared.embeddings if shared else TextEmbeddings(config)
        self.blocks = block_list(blocks)
        self.head = linear(config.width, 2)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Visual tokens (B, N, visual width) -> keys and values (B, N, 2 D) of each layer."""
        return read_context(self.blocks, tokens)

    def forward(
        self, ids: Tensor, mask: Tensor | None, keys_values: tuple[Tensor, ...], queries: int | None = None
    ) -> Tensor:
        """(B, L) starting with [ENC] -> states (B, L, D), or (B, queries, D) as in `TextEncoder`. B may be a multiple
        of the contexts (see `CrossAttention`)."""
        x, attend = self.embeddings(ids), key_mask(mask)
        for left, block, layer in zip(reversed(range(len(self.blocks))), self.blocks, keys_values, strict=True):
            x = block(x, attend, layer, queries=None if left else queries)
        return x


class LMHead(nn.Module):
    """BERT's prediction head up to the vocabulary, whose matrix is the word embedding's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """(..., D) and the word vectors (V, D) -> logits (..., V)."""
        return F.linear(self.norm(F.gelu(self.dense(states))), words, self.bias)


class GenerationDecoder(nn.Module):
    """Text from left to right, looking at visual tokens or at the states of a question.

    With `shared` only its self-attention (output projection and norm included) and its head are its own. Question
    states have the text's width: where that is not the visual one, their keys and values come from projections of
    their own.
    """

    def __init__(self, config: TextConfig, context_width: int, shared: AlignmentDecoder | None) -> None:
        super().__init__()
        others = shared.blocks if shared else [None] * config.layers
        blocks = [TextBlock(config, context_width, cross_of=other, mlp_of=other) for other in others]
        self.context_width = context_width
        self.embeddings = shared.embeddings if shared else TextEmbeddings(config)
        self.blocks = block_list(blocks)
        self.question_key_value = nn.ModuleList()
        if config.width != context_width:
            self.question_key_value.extend(linear(config.width, 2 * config.width) for _ in range(config.layers))
        self.head = LMHead(config)

    def keys_values(self, context: Tensor) -> tuple[Tensor, ...]:
        """Visual tokens or question states (B, N, their width) -> keys and values (B, N, 2 D) of each layer."""
        if context.shape[-1] == self.context_width:
            return read_context(self.blocks, context)
        return tuple(project(context) for project in self.question_key_value)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None,
        keys_values: tuple[Tensor, ...],
        context_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """(B, L) starting with [DEC] -> states (B, L, D).

        With a `cache`, `ids` and `mask` are the new tokens alone. Padding may stand anywhere but first: it is neither
        seen nor counted by positions, so a padded prompt may be written on from.
        """
        past, length = (0 if cache is None else cache.length), ids.shape[1]
        whole = mask if cache is None else cache.extend_mask(mask, ids)  # (B, past + L)
        positions, attend = None, None
        if whole is not None:
            positions = (whole.cumsum(1)[:, past:] - 1).clamp(min=0)
        if whole is not None or (past and length > 1):
            attend = torch.ones(length, past + length, dtype=torch.bool, device=ids.device).tril(past)
            attend = attend if whole is None else attend & whole[:, None, None, :].bool()  # (B, 1, L, past + L)
        x = self.embeddings(ids, positions, past)
        causal, look = attend is None and length > 1, key_mask(context_mask)
        for i, (block, layer) in enumerate(zip(self.blocks, keys_values, strict=True)):
            x = block(x, attend, layer, look, causal=causal, cache=cache, layer=i)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.head(states, self.embeddings.word.weight)
