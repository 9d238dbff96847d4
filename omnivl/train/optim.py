"""AdamW over named parameters, its learning rate as a pure function of the step, and the precision of a step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from omnivl import distributed
from omnivl.config import OptimConfig

NO_DECAY = "position"  # part of a name; vectors (biases, norms, [CLS]) never decay


def build_optimizer(module: nn.Module, config: OptimConfig, factors: Mapping[str, float]) -> torch.optim.AdamW:
    """One group for each of (decay or not) x factor of the rate; `factors` gives those that are not 1, by name. Single
    numbers stand apart: under FSDP they alone are no shards, and one kernel takes no mixture."""
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    unknown = set(factors) - {name for name, _ in module.named_parameters()}
    assert not unknown, f"not parameters: {sorted(unknown)}"
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and NO_DECAY not in name
            groups.setdefault((decays, -factors.get(name, 1.0), parameter.ndim == 0), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "factor": -factor}
        for (decays, factor, _), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    fused = next(module.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(settings, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser a whole state, sharded as its parameters are. Raises ValueError for that of another one."""
    has, wanted = ([len(group["params"]) for group in each["param_groups"]] for each in (state, optimizer.state_dict()))
    if has != wanted:
        raise ValueError(
            f"the checkpoint's optimiser has groups of {has} parameters, this version makes groups of {wanted}: "
            "start a new run from its model with --init"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = {
        number: {name: distributed.shard_like(value, parameters[number]) for name, value in own.items()}
        for number, own in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": values})


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of a stage's step, counted from 0: linear warm-up, then cosine, or constant and a linear end."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "cosine":
        remaining = (1 + math.cos(math.pi * progress)) / 2
    else:
        remaining = min(1.0, (1 - progress) / config.decay_share) if config.decay_share else 1.0
    return config.min_lr + (config.lr - config.min_lr) * remaining


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast for TrainConfig.precision, or None for float32."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
