"""The optimiser and its schedule: rates by hand, what decays and what does not, and who learns slowly."""

import math
from dataclasses import replace

import pytest
import torch

from omnivl.config import OptimConfig
from omnivl.train.optim import autocast_type, build_optimizer, learning_rate, load_optimizer, set_learning_rate
from tests.training import pretrain_task, text_task, tiny_model

COSINE = OptimConfig(lr=1.0, min_lr=0.2, warmup_steps=4)
HOLD = OptimConfig(lr=1.0, min_lr=0.2, warmup_steps=2, schedule="hold", decay_share=0.5)


@pytest.mark.parametrize(
    ("config", "steps", "rates"),
    [
        (COSINE, 12, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 8: 0.6, 6: 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2}),
        (COSINE, 12, {10: 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2}),
        (HOLD, 10, {0: 0.5, 1: 1.0, 2: 1.0, 6: 1.0, 7: 0.2 + 0.8 * 0.75, 8: 0.2 + 0.8 * 0.5, 9: 0.2 + 0.8 * 0.25}),
        (replace(HOLD, decay_share=0.0), 10, {1: 1.0, 9: 1.0}),
        (OptimConfig(lr=2.0), 2, {0: 2.0, 1: 1.0}),
        (OptimConfig(lr=1.0, warmup_steps=10), 4, {0: 0.1, 3: 0.4}),
        (OptimConfig(lr=1.0, warmup_steps=4), 4, {3: 1.0}),
    ],
)
def test_the_rate_of_a_step_is_what_the_hand_computes(config: OptimConfig, steps: int, rates: dict[int, float]) -> None:
    assert {step: learning_rate(config, step, steps) for step in rates} == pytest.approx(rates)


def test_only_matrices_decay_and_neither_positions_nor_class_token() -> None:
    task = pretrain_task(tiny_model())
    optimizer = build_optimizer(task, OptimConfig(weight_decay=0.05), {})
    names = {id(parameter): name.removeprefix("model.") for name, parameter in task.named_parameters()}
    split: dict[float, set[str]] = {0.05: set(), 0.0: set()}
    for group in optimizer.param_groups:
        split[group["weight_decay"]] |= {names[id(parameter)] for parameter in group["params"]}
    free = split[0.0]
    assert {"visual.cls", "visual.position", "visual.time_position", "temperature", "visual.norm.weight"} <= free
    assert {"text.embeddings.position.weight", "generation.head.bias", "alignment.head.bias"} <= free
    assert all(name.endswith("weight") and "norm" not in name and "position" not in name for name in split[0.05])
    assert {
        "text.embeddings.word.weight",
        "visual.patches.video.weight",
        "visual.blocks.0.temporal.qkv.weight",
    } <= split[0.05]
    # each parameter of the model once, shared ones too, and none of the momentum copy
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(map(id, held))) == len(list(task.model.parameters()))


def test_the_text_encoder_and_nothing_else_gets_the_slow_rate() -> None:
    task = text_task(tiny_model())
    config = OptimConfig(text_lr_factor=0.1)
    optimizer = build_optimizer(task, config, task.lr_factors(config))
    set_learning_rate(optimizer, 0.5)
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    slow = {name for name, rate in rates.items() if rate == pytest.approx(0.05)}
    assert {rate for name, rate in rates.items() if name not in slow} == {0.5}
    assert slow == {name for name in rates if name.startswith(("model.text.", "model.text_projection."))}
    assert {"words.weight", "model.alignment.blocks.0.cross.query.weight", "model.generation.head.bias"} <= set(
        rates
    ) - slow


def test_layers_further_from_the_end_learn_slower() -> None:
    task = pretrain_task(tiny_model())  # two blocks
    config = OptimConfig(layer_decay=0.5)
    optimizer = build_optimizer(task, config, task.lr_factors(config))
    set_learning_rate(optimizer, 1.0)
    names = {id(parameter): name.removeprefix("model.") for name, parameter in task.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "visual.norm.weight": 1.0,
        "visual.blocks.1.mlp.fc1.weight": 0.5,
        "visual.blocks.0.spatial.qkv.bias": 0.25,
    }
    expected |= {"visual.patches.image.weight": 0.125, "visual.cls": 0.125, "visual.position": 0.125}
    assert {name: rates[name] for name in expected} == expected
    assert {rate for name, rate in rates.items() if not name.startswith("visual.")} == {1.0}


def test_the_temperature_stands_alone_for_no_kernel_takes_shards_and_whole_tensors_together() -> None:
    task = pretrain_task(tiny_model())
    groups = [group["params"] for group in build_optimizer(task, OptimConfig(), {}).param_groups]
    assert [task.model.temperature] in [list(group) for group in groups if len(group) == 1]


def test_a_state_of_another_build_is_refused_in_one_sentence() -> None:
    one, other = (build_optimizer(torch.nn.Linear(2, 2, bias=bias), OptimConfig(), {}) for bias in (True, False))
    with pytest.raises(
        ValueError, match=r"has groups of \[1, 1\] parameters, .* makes groups of \[1\]: start a new run"
    ):
        load_optimizer(other, one.state_dict())


def test_a_name_that_is_no_parameter_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match=r"model\.nothing"):
        build_optimizer(text_task(tiny_model()), OptimConfig(), {"model.nothing": 0.5})


def test_a_step_is_one_of_adamw_written_by_hand() -> None:
    config = OptimConfig(lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    module = torch.nn.Linear(3, 2)
    matrix, bias = module.weight.detach().clone(), module.bias.detach().clone()
    optimizer = build_optimizer(module, config, {"bias": 1.0})
    set_learning_rate(optimizer, 0.1)
    module.weight.grad, module.bias.grad = torch.full((2, 3), 2.0), torch.full((2,), -3.0)
    optimizer.step()  # the first step moves by the rate along the gradient's sign
    torch.testing.assert_close(module.weight.detach(), matrix * (1 - 0.1 * 0.5) - 0.1, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module.bias.detach(), bias + 0.1, atol=1e-6, rtol=1e-5)


def test_precision_is_bf16_on_cuda_and_fp32_elsewhere_unless_asked() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert autocast_type("auto", cpu) is None and autocast_type("auto", cuda) is torch.bfloat16
    assert autocast_type("fp32", cuda) is None and autocast_type("fp16", cpu) is torch.float16
