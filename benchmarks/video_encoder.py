"""The visual encoder on clips, forward and backward, against Hugging Face's TimeSformer at equal tokens.

    python benchmarks/video_encoder.py [--tiny] [--pairs N]

Both have divided space-time blocks of the same width and depth. TimeSformer has no tubelets, so ours runs with tubelets
of one frame here: the same clip, the same number of tokens. (With its default of two frames ours has half of them,
which is no part of this figure.) TimeSformer has one linear layer a block more, after the temporal attention; it stays,
as it is part of the peer.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from omnivl.config import MODELS, VisionConfig
from omnivl.model import VisualEncoder

SMALL = replace(MODELS["small"].vision, tubelet_size=1)
TINY = VisionConfig(
    image_size=32, patch_size=16, tubelet_size=1, num_frames=4, width=32, layers=2, heads=2, mlp_width=64
)
CLIPS = 1


def timesformer(config: VisionConfig) -> TimesformerModel:
    """The peer of these sizes, from nothing; its defaults have neither dropout nor drop-path, as ours."""
    assert config.tubelet_size == 1, "TimeSformer has no tubelets"
    sizes = TimesformerConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_frames=config.num_frames,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        layer_norm_eps=config.layer_norm_eps,
    )
    return TimesformerModel(sizes)


def clips(config: VisionConfig, count: int) -> Tensor:
    """Normalised pixels (B, T, C, H, W)."""
    torch.manual_seed(0)
    return torch.randn(count, config.num_frames, 3, config.image_size, config.image_size)


def encoders(
    config: VisionConfig,
) -> tuple[nn.Module, Callable[[Tensor], Tensor], nn.Module, Callable[[Tensor], Tensor]]:
    """Ours and its peer, each with what turns pixels into tokens (B, N, D)."""
    torch.manual_seed(0)
    ours, peer = VisualEncoder(config).train(), timesformer(config).train()
    return ours, ours, peer, lambda pixels: peer(pixel_values=pixels).last_hidden_state


def learning(module: nn.Module, encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[], None]:
    """One forward and backward through every token."""

    def work() -> None:
        module.zero_grad()
        encode(pixels).square().mean().backward()

    return work


def measure(tiny: bool, pairs: int) -> list[Row]:
    config = TINY if tiny else SMALL
    pixels = clips(config, CLIPS)
    ours, encode, peer, encode_as_peer = encoders(config)
    times = take_turns(learning(ours, encode, pixels), learning(peer, encode_as_peer, pixels), pairs)
    settings = {
        "goal": 1.3,
        "us": "`VisualEncoder`",
        "them": "Hugging Face `TimesformerModel`",
        "width": config.width,
        "layers": config.layers,
        "pixels": config.image_size,
        "frames": config.num_frames,
        "tubelet": config.tubelet_size,
        "batch": CLIPS,
        "tokens_a_clip": 1 + config.num_frames * (config.image_size // config.patch_size) ** 2,
    }
    return [against("video encoder, forward and backward", times, settings)]


if __name__ == "__main__":
    command(__doc__, measure, pairs=7)
