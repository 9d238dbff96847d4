"""The FLOPs that the plan rests on are those that torch counts on the modules themselves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omnivl.config import MODELS, ModelConfig, TaskConfig
from omnivl.model import OmniVL
from studies import scaling
from tests.training import TINY, make_batch, pretrain_task, tiny_model


def counted(work: Any) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


SMALL = MODELS["tiny"]
WIDER = replace(SMALL, text=replace(SMALL.text, width=192, mlp_width=700))  # than the visual side, as large is narrower


@pytest.mark.parametrize("config", [MODELS["base"], WIDER])
def test_forward_passes_are_counted_as_torch_counts_them(config: ModelConfig) -> None:
    side = config.vision.image_size
    with torch.device("meta"):
        model = OmniVL(config).eval()
        ids, mask = torch.zeros(1, 20, dtype=torch.int64), torch.ones(1, 20, dtype=torch.int64)
        clips = {frames: torch.zeros(1, frames, 3, side, side) for frames in (1, 8)}
        tokens = torch.zeros(1, 197, config.vision.width)
        states = torch.zeros(1, 19, config.text.width)
    for frames, pixels in clips.items():
        assert counted(lambda p=pixels: model.encode_visual(p)) == scaling.visual(config, frames)
        assert counted(lambda p=pixels: model.embed_visual(p)) == scaling.visual(config, frames, 1)
    projection = 2 * config.text.width * config.embed_dim
    assert counted(lambda: model.encode_text(ids, mask)) == scaling.text(config, 20) + projection
    assert counted(lambda: model.embed_text(ids, mask)) == scaling.text(config, 20, queries=1) + projection
    assert counted(lambda: model.cross_keys_values(tokens)) == scaling.keys_values(config, 197)
    context = model.cross_keys_values(tokens)
    head = 2 * config.text.width * 2
    assert counted(lambda: model.match(ids, mask, context)) == scaling.text(config, 20, 197, queries=1) + head
    assert counted(lambda: model.decode_states(ids, mask, context)) == scaling.text(config, 20, 197)
    assert counted(lambda: model.lm_logits(states)) == scaling.words(config, 20)


@pytest.mark.parametrize("medium", ["image", "video"])
def test_a_whole_step_is_counted_as_torch_counts_it(medium: str) -> None:
    vision = replace(TINY.vision, image_size=64, width=96, mlp_width=384, layers=4)
    config: ModelConfig = replace(TINY, vision=vision)
    batch = make_batch(medium, 4, 0)
    assert batch.pixels is not None
    batch = replace(batch, pixels=torch.zeros(*batch.pixels.shape[:3], 64, 64), mask=torch.ones_like(batch.mask))
    task = pretrain_task(tiny_model(config), TaskConfig(name="pretrain", bank_size=64)).train()
    assert batch.pixels is not None
    total = counted(lambda: task(batch, 0, 0).total.backward())
    told = scaling.step(config, batch.pixels.shape[1], batch.ids.shape[1], bank=64 + 4)
    assert sum(told.values()) * 4 == pytest.approx(total, rel=0.06)


def test_parameters_are_those_of_the_model() -> None:
    found = scaling.sizes(TINY)
    model = tiny_model(TINY)
    assert found.whole == sum(p.numel() for p in model.parameters()) == found.visual + found.rest
    assert found.temporal == sum(p.numel() for b in model.visual.blocks for p in b.temporal.parameters())


def test_what_is_received_grows_with_cards_to_a_bound_and_negatives_without_one() -> None:
    rows = {cards: scaling.communication(MODELS["base"], cards, 1) for cards in (8, 64, 512)}
    assert rows[8]["parameters GB"] < rows[512]["parameters GB"] < rows[8]["parameters GB"] * 8 / 7
    assert rows[512]["tokens of negatives GB"] > 50 * rows[8]["tokens of negatives GB"]
    assert rows[8]["compute s"] == rows[512]["compute s"]
