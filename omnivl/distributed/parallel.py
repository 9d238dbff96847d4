"""How a task is spread over the ranks: DDP, where each holds all of it, or FSDP2, where each holds a part of every
tensor; and the recomputing of activations. The task does not know: within its forward every parameter is whole.

Under FSDP2 the task is the root, whose parameters are gathered for a whole step; the parts it names are gathered one by
one, when they run. A single number (the temperature) cannot be sharded: every rank holds it, and `average_gradients`
averages its gradient. FSDP2's own modules take a second to import, so they are where they are used.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnivl.config import ConfigError
from omnivl.distributed.ranks import is_main, world_size

TRAINED_BYTES = 16  # a parameter that learns: float32 weight, gradient and AdamW's two means; one that does not: 4


def choose(parallel: str, module: nn.Module, device: torch.device, half: torch.dtype | None) -> str:
    """TrainConfig.parallel as what is done: "one" process, "ddp" or "fsdp".

    "auto" is DDP, which sends less, while what every rank then holds fits in half of a GPU. Raises ConfigError for
    FSDP in fp16, whose overflows a rank would not hear of from the others.
    """
    if world_size() == 1:
        return "one"
    if parallel == "fsdp" and half == torch.float16:
        raise ConfigError("train.parallel fsdp does not go with train.precision fp16: choose bf16, or ddp")
    if parallel != "auto":
        return parallel
    if device.type != "cuda" or half == torch.float16:
        return "ddp"
    held = sum(p.numel() * (TRAINED_BYTES if p.requires_grad else 4) for p in module.parameters())
    return "fsdp" if held > torch.cuda.get_device_properties(device).total_memory / 2 else "ddp"


def wrap(module: nn.Module) -> nn.Module:
    """DDP: the module whose backward averages gradients over the ranks.

    A parameter that no rank used in a step keeps the gradient None (an image step leaves the temporal part alone).
    """
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


def shard(module: nn.Module, parts: Sequence[nn.Module], device: torch.device, half: torch.dtype | None) -> None:
    """FSDP2: shard every parameter over the ranks along its first axis, in place, and move the module to `device`.

    Args:
        module: takes and gives what a step does; parameters outside `parts` are gathered while it runs.
        parts: modules in it that are gathered one by one, inner ones first; each is called as a module, and nothing in
            it from outside.
        half: the type of autocast, in which parts that are nothing but matrix products are gathered: autocast would
            cast their weights anyway. Gradients are reduced in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # what a linear layer gives is a view; nothing here changes it in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    numbers = {parameter for parameter in module.parameters() if parameter.dim() == 0}
    for part in [*parts, module]:
        products = all(isinstance(leaf, nn.Linear) for leaf in part.modules() if not list(leaf.children()))
        policy = MixedPrecisionPolicy(half if products else None, torch.float32, cast_forward_inputs=False)
        fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=numbers)
        # gathered once, as torch 2.13 stumbles over parts that no micro-batch has run (pytorch/pytorch#194058)
        cast(FSDPModule, part).unshard()
        cast(FSDPModule, part).reshard()
    for number in numbers:
        number.data = number.data.to(device)


@contextmanager
def average_gradients(module: nn.Module, *, now: bool) -> Iterator[None]:
    """Forward and backward of a micro-batch. Gradients stay with their rank for those that are not the last of a step;
    at the end of the last (`now`) each is the average over the ranks."""
    if world_size() == 1:
        yield
    elif isinstance(module, nn.parallel.DistributedDataParallel):
        with nullcontext() if now else module.no_sync():
            yield
    else:
        cast(Any, module).set_requires_gradient_sync(now)
        yield
        for parameter in module.parameters() if now else ():
            if parameter.dim() == 0 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()


def clip_gradients(module: nn.Module, largest: float) -> Tensor:
    """Scale all gradients alike, in place, so that their global norm is at most `largest`; gives the norm before."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    shards = [local(g) for g in gradients if is_sharded(g)]
    if not shards:
        return nn.utils.clip_grad_norm_(module.parameters(), largest, foreach=True)
    others = [g for g in gradients if not is_sharded(g)]
    square = nn.utils.get_total_norm(shards, foreach=True) ** 2
    dist.all_reduce(square)
    norm = (square + nn.utils.get_total_norm(others, foreach=True) ** 2).sqrt()
    torch._foreach_mul_([*shards, *others], (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


# --- whole tensors and shards ----------------------------------------------------------------------------------------


def is_sharded(value: Any) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; the same storage."""
    return cast(Any, tensor).to_local()


@torch.no_grad()
def whole(state: Any) -> Any:
    """A nested state with every sharded tensor in it gathered into the memory of rank 0; elsewhere it becomes None.
    Every rank must call it."""
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    if not is_sharded(state):
        return state
    full = state.full_tensor()
    return full.cpu() if is_main() else None


@torch.no_grad()
def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value`, which every rank has, sharded as a parameter of its shape is; as it is where that one is not."""
    if not is_sharded(parameter) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    value = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def copy_weights(module: nn.Module, into: nn.Module) -> None:
    """Give `into`, whose tensors are whole, the weights of a sharded module of the same shape, one after the other.
    Every rank must call it."""
    for name, parameter in module.named_parameters():
        into.get_parameter(name).copy_(cast(Any, parameter).full_tensor() if is_sharded(parameter) else parameter)


# --- activations and compiling ---------------------------------------------------------------------------------------


def recompute(parts: Iterable[nn.Module], wanted: bool) -> None:
    """Whether what is computed within each of these modules is computed again for the backward pass instead of kept:
    a third more work for a fraction of the memory, and the same gradients."""
    for part in parts:
        vars(part).pop("forward", None)
        if wanted:
            vars(part)["forward"] = functools.partial(_recomputed, part.forward)


def _recomputed(forward: Callable[..., Any], *words: Any, **settings: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*words, **settings)
    return checkpoint(forward, *words, use_reentrant=False, **settings)


def compile_parts(parts: Sequence[nn.Module]) -> None:
    """Compile modules for the shapes that they see, each once: blocks that differ in nothing but their weights share
    their code."""
    import torch._dynamo  # takes seconds

    # a rate of drop-path is another code, and so is a medium, and a pass without gradients
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(parts))
    for part in parts:
        part.compile(dynamic=False)
