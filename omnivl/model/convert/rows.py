"""Rows of the tables: which of our tensors is made of which of theirs, and how; `{i}` is the number of a block.

Names are those of the files that the sources publish: timm's ViT, DeiT, DINOv2 and TimeSformer, BERT, BLIP, and the
Hugging Face forms of these.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# --- how one of our tensors is made of theirs ---


def stacked(*parts: Tensor) -> Tensor:
    """Along the first axis, in the order given: the one way that has a way back."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def scaled(value: Tensor, scale: Tensor) -> Tensor:
    """A linear map's weight or bias with the LayerScale that follows it folded in."""
    return value * scale.view(-1, *[1] * (value.dim() - 1))


def folded_weight(first: Tensor, second: Tensor) -> Tensor:
    """The weight of two linear maps, one after the other, as one."""
    return second @ first


def folded_bias(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    return second @ first + bias


def first_row(table: Tensor) -> Tensor:
    return table[:1]


def without_second_row(table: Tensor) -> Tensor:
    """Positions without that of the distillation token."""
    return torch.cat([table[:1], table[2:]])


class Row(NamedTuple):
    ours: str
    theirs: tuple[str, ...]
    how: Callable[..., Tensor] = stacked
    lead: int = 0  # axes of length one that theirs have in front


def both(ours: str, *theirs: str, how: Callable[..., Tensor] = stacked) -> tuple[Row, ...]:
    """The weight and the bias of one module."""
    return tuple(Row(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), how) for kind in ("weight", "bias"))


def scaled_both(ours: str, theirs: str, scale: str) -> tuple[Row, ...]:
    return tuple(Row(f"{ours}.{kind}", (f"{theirs}.{kind}", scale), scaled) for kind in ("weight", "bias"))


# --- visual encoders ---


class VisionNames(NamedTuple):
    """What a ViT's file calls its parts; those of a block stand behind `block`."""

    cls: str
    position: str
    patches: str
    norm: str
    block: str
    norm1: str
    qkv: tuple[str, ...]
    out: str
    norm2: str
    fc1: str
    fc2: str
    scales: tuple[str, str] | None = None  # LayerScale after attention and after the feed-forward


TIMM = VisionNames(
    "cls_token", "pos_embed", "patch_embed.proj", "norm",
    "blocks.{i}.", "norm1", ("attn.qkv",), "attn.proj", "norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip
HF_QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
HF = VisionNames(
    "embeddings.cls_token", "embeddings.position_embeddings", "embeddings.patch_embeddings.projection", "layernorm",
    "encoder.layer.{i}.", "layernorm_before", HF_QKV, "attention.output.dense",
    "layernorm_after", "intermediate.dense", "output.dense",
)  # fmt: skip
# the same in the memory of transformers 5, as torch.save(model.state_dict()) writes it
HF_IN_MEMORY = HF._replace(
    block="layers.{i}.", qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"), out="attention.o_proj",
    fc1="mlp.fc1", fc2="mlp.fc2",
)  # fmt: skip
HF_DINO = HF._replace(
    norm1="norm1", norm2="norm2", fc1="mlp.fc1", fc2="mlp.fc2", scales=("layer_scale1.lambda1", "layer_scale2.lambda1")
)
HF_BLIP = VisionNames(
    "embeddings.class_embedding", "embeddings.position_embedding", "embeddings.patch_embedding", "post_layernorm",
    "encoder.layers.{i}.", "layer_norm1", ("self_attn.qkv",), "self_attn.projection",
    "layer_norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def vision(names: VisionNames, prefix: str = "", *, distilled: bool = False) -> tuple[Row, ...]:
    block, ours = prefix + names.block, "visual.blocks.{i}"
    scales = names.scales or ("", "")

    def last(our: str, their: str, scale: str) -> tuple[Row, ...]:
        return scaled_both(our, block + their, block + scale) if scale else both(our, block + their)

    how = without_second_row if distilled else stacked
    return (
        Row("visual.cls", (prefix + names.cls,), lead=2),
        Row("visual.position", (prefix + names.position,), how, lead=1),
        *both("visual.patches.image", prefix + names.patches),
        *both("visual.norm", prefix + names.norm),
        *both(f"{ours}.spatial_norm", block + names.norm1),
        *both(f"{ours}.spatial.qkv", *(block + name for name in names.qkv)),
        *last(f"{ours}.spatial.out", names.out, scales[0]),
        *both(f"{ours}.mlp_norm", block + names.norm2),
        *both(f"{ours}.mlp.fc1", block + names.fc1),
        *last(f"{ours}.mlp.fc2", names.fc2, scales[1]),
    )


def temporal(table: str, block: str, norm: str, qkv: str, out: str, then: str) -> tuple[Row, ...]:
    """TimeSformer's attention over time, whose output goes through a second linear map `then`."""
    ours = "visual.blocks.{i}"
    out, then = block + out, block + then
    return (
        Row("visual.time_position", (table,), lead=1),
        *both(f"{ours}.temporal_norm", block + norm),
        *both(f"{ours}.temporal.qkv", block + qkv),
        Row(f"{ours}.temporal.out.weight", (f"{out}.weight", f"{then}.weight"), folded_weight),
        Row(f"{ours}.temporal.out.bias", (f"{out}.bias", f"{then}.weight", f"{then}.bias"), folded_bias),
    )


# --- text: BERT's names, which BLIP keeps ---


def text(ours: str, theirs: str, *, cross: str = "", types: bool = False) -> tuple[Row, ...]:
    """One stack. `cross` is where its cross-attentions go; BLIP's stacks have no table of token types."""
    block, layer = f"{ours}.blocks.{{i}}", f"{theirs}encoder.layer.{{i}}"
    rows = [
        Row(f"{ours}.embeddings.word.weight", (f"{theirs}embeddings.word_embeddings.weight",)),
        Row(f"{ours}.embeddings.position.weight", (f"{theirs}embeddings.position_embeddings.weight",)),
        *both(f"{ours}.embeddings.norm", f"{theirs}embeddings.LayerNorm"),
        *both(f"{block}.attention.qkv", *(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))),
        *both(f"{block}.attention.out", f"{layer}.attention.output.dense"),
        *both(f"{block}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        *both(f"{block}.mlp.fc1", f"{layer}.intermediate.dense"),
        *both(f"{block}.mlp.fc2", f"{layer}.output.dense"),
        *both(f"{block}.mlp_norm", f"{layer}.output.LayerNorm"),
    ]
    if types:
        table = f"{theirs}embeddings.token_type_embeddings.weight"
        rows.append(Row(f"{ours}.embeddings.token_type.weight", (table,), first_row))
    if cross:
        block = f"{cross}.blocks.{{i}}"
        rows += both(f"{block}.cross.query", f"{layer}.crossattention.self.query")
        rows += both(f"{block}.cross.key_value", *(f"{layer}.crossattention.self.{name}" for name in ("key", "value")))
        rows += both(f"{block}.cross.out", f"{layer}.crossattention.output.dense")
        rows += both(f"{block}.cross_norm", f"{layer}.crossattention.output.LayerNorm")
    return tuple(rows)


def lm_head(theirs: str) -> tuple[Row, ...]:
    return (
        *both("generation.head.dense", f"{theirs}transform.dense"),
        *both("generation.head.norm", f"{theirs}transform.LayerNorm"),
        Row("generation.head.bias", (f"{theirs}bias",)),
    )


def tied_words(theirs: str, words: str) -> dict[str, str]:
    return {
        f"{theirs}decoder.weight": f"{words}embeddings.word_embeddings.weight",
        f"{theirs}decoder.bias": f"{theirs}bias",
    }
