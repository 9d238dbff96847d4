"""The architecture of what was translated: widths, depths and tables from the shapes, the rest from the config.json
beside the file or from the source's own table; what was assumed is noted. It never asks the user."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from omnivl.config import ModelConfig, TextConfig, VisionConfig
from omnivl.model.convert.tables import Source

FORBIDDEN = {"position_embedding_type": ("absolute",), "hidden_act": ("gelu",), "use_swiglu_ffn": (False,)}


def check_settings(source: Source, settings: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where config.json says that this is another model, or one that computes otherwise."""
    kind = settings.get("model_type")
    if kind and source.model_types and kind not in source.model_types:
        raise ValueError(
            f"{where} has the names of {source.name}, but its config.json says {kind}, which computes otherwise"
        )
    for table in (settings, part_of(settings, "vision_config"), part_of(settings, "text_config")):
        for name, allowed in FORBIDDEN.items():
            if table.get(name, allowed[0]) not in allowed:
                raise ValueError(f"{where} has {name} {table[name]!r}, omnivl computes {allowed[0]!r} alone")


def vision_config(
    values: dict[str, Tensor], source: Source, settings: Mapping[str, Any], where: str, notes: list[str]
) -> VisionConfig:
    """The visual encoder of `values`, whose position table is made square where it is not. Raises ValueError."""
    settings = part_of(settings, "vision_config") or settings
    kernel, positions = values["visual.patches.image.weight"], values["visual.position"]
    width, colours, patch, other = kernel.shape
    if colours != 3 or patch != other:
        raise ValueError(f"{where} reads {colours} colours in patches of {patch} x {other}, wanted 3 in squares")
    rows, columns = grid_of(len(positions) - 1, settings, patch, where)
    side = max(rows, columns)
    if rows != columns:
        square = F.interpolate(positions[1:].T.reshape(1, width, rows, columns), (side, side), mode="bicubic")
        values["visual.position"] = positions.new_empty(1 + side * side, width)
        values["visual.position"][0], values["visual.position"][1:] = positions[0], square[0].flatten(1).T
        notes.append(
            f"positions of {rows} x {columns} patches resized to {side} x {side} (bicubic): pictures are square"
        )
    timed = values.get("visual.time_position")
    return VisionConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=depth(values, "visual.blocks"),
        heads=heads("vision", width, source, settings, where, notes),
        mlp_width=len(values["visual.blocks.0.mlp.fc1.bias"]),
        layer_norm_eps=told(settings, "layer_norm_eps", source.vision_eps, "vision layer_norm_eps", notes),
        # TimeSformer looks at every frame through the same 2-D kernel
        **({} if timed is None else {"tubelet_size": 1, "num_frames": len(timed)}),
    )


def part_of(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table within a config, empty where there is none."""
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}


def grid_of(patches: int, settings: Mapping[str, Any], patch: int, where: str) -> tuple[int, int]:
    """Rows and columns of a position table. Raises ValueError where they cannot be told."""
    size = settings.get("image_size")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(one, int) for one in size):
        rows, columns = (one // patch for one in size)
        if rows * columns == patches:
            return rows, columns
    side = math.isqrt(patches)
    if side * side != patches or not side:
        raise ValueError(
            f"{where} has {patches} patch positions, which are no square: its config.json must say image_size as "
            "[height, width]"
        )
    return side, side


def text_config(
    values: Mapping[str, Tensor], source: Source, settings: Mapping[str, Any], where: str, notes: list[str]
) -> TextConfig:
    """The text stack of `values` (text.*, or generation.* where a captioner has that alone)."""
    settings = part_of(settings, "text_config") or settings
    stack = "text" if "text.embeddings.word.weight" in values else "generation"
    rows, width = values[f"{stack}.embeddings.word.weight"].shape
    return TextConfig(
        vocab_size=rows,
        width=width,
        layers=depth(values, f"{stack}.blocks"),
        heads=heads("text", width, source, settings, where, notes),
        mlp_width=len(values[f"{stack}.blocks.0.mlp.fc1.bias"]),
        max_positions=len(values[f"{stack}.embeddings.position.weight"]),
        layer_norm_eps=told(settings, "layer_norm_eps", source.text_eps, "text layer_norm_eps", notes),
    )


def heads(what: str, width: int, source: Source, settings: Mapping[str, Any], where: str, notes: list[str]) -> int:
    """From the config, else by the source's width of a head. Raises ValueError where neither can be."""
    number = settings.get("num_attention_heads")
    if number is None:
        number = width // source.head_width
        if number * source.head_width != width:
            raise ValueError(
                f"{where} has the width {width}, which is no multiple of the {source.head_width} a head of "
                f"{source.name}: put its config.json beside it"
            )
        notes.append(f"{what} heads: {number} ({source.head_width} a head, as {source.name} has; no config.json tells)")
    if not isinstance(number, int) or number < 1 or width % number:
        raise ValueError(f"{where}: its config.json says {number} heads, but its tensors have the width {width}")
    return number


def told(settings: Mapping[str, Any], name: str, default: float, what: str, notes: list[str]) -> float:
    value = settings.get(name)
    if isinstance(value, (int, float)):
        return float(value)
    notes.append(f"{what}: {default:g} (the source's own; no config.json tells)")
    return default


def depth(values: Mapping[str, Tensor], blocks: str) -> int:
    pattern = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    return 1 + max(int(found[1]) for name in values if (found := pattern.match(name)))


def with_pixels(
    config: ModelConfig,
    source: Source,
    settings: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    where: str,
    notes: list[str],
) -> ModelConfig:
    """The config with mean, deviation and interpolation of pixels: preprocessor_config.json's, timm's in config.json,
    else the source's own. Raises ValueError for a mean or deviation that is none."""
    timm = part_of(settings, "pretrained_cfg")
    mean = preprocessor.get("image_mean") or timm.get("mean")
    std = preprocessor.get("image_std") or timm.get("std")
    how = timm.get("interpolation", source.interpolation)
    how = {2: "bilinear", 3: "bicubic"}.get(preprocessor.get("resample", -1), how)
    if mean is None or std is None:
        mean, std = source.mean, source.std
        notes.append(f"pixel mean {mean} and deviation {std}, {how} (the source's own; nothing beside it tells)")
    size = preprocessor.get("crop_size") or preprocessor.get("size") or {}
    usual = size.get("height", size.get("shortest_edge")) if isinstance(size, Mapping) else size
    if usual and usual != config.vision.image_size:
        notes.append(
            f"pictures of {config.vision.image_size} pixels, as its positions are; its own preprocessing "
            f"gives {usual}: --image-size {usual} would follow it"
        )
    return replace(
        config,
        mean=three_colours(mean, f"{where} has the pixel mean {mean!r}"),
        std=three_colours(std, f"{where} has the pixel deviation {std!r}", above=0),
        interpolation="bilinear" if how == "bilinear" else "bicubic",
    )


def three_colours(values: Any, told: str, above: float = -math.inf) -> tuple[float, float, float]:
    """Raises ValueError where they are not three numbers above some limit."""
    listed = list(values) if isinstance(values, (list, tuple)) else []
    numbers = [float(value) for value in listed if isinstance(value, (int, float)) and above < value < math.inf]
    if len(listed) != 3 or len(numbers) != 3:
        raise ValueError(f"{told}, wanted three numbers{'' if above < 0 else ' above 0'}, one a colour")
    return numbers[0], numbers[1], numbers[2]
