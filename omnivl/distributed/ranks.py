"""Ranks, and what they tell each other. On one process every function here is a no-op.

Started by torchrun (RANK, WORLD_SIZE and the like are set), each process is one rank; gradients are averaged over them.
A task's loss on a rank is `share(sum, count)`: its sum times the number of ranks over the global count, so that the
average is the mean over the whole batch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def resolve_device(name: str = "auto") -> torch.device:
    """auto | cpu | cuda | cuda:N | mps as a device that is there. Raises ValueError where it is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {name} is not a device: choose auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {name} was asked for, but there is no usable CUDA GPU here: use --device cpu or auto"
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"--device {name} was asked for, but there are only {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps was asked for, but this machine has none: use --device cpu or auto")
    return device


@contextmanager
def process_group(device: str = "auto") -> Iterator[torch.device]:
    """Join the other ranks when started by torchrun; gives this rank's device, leaves the group at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield resolve_device(device)
        return
    local = resolve_device(device)
    if local.type == "cuda":
        if local.index is None:
            local = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(local)
    # gloo beside nccl: counts, flags and errors travel between the hosts and never wait for a GPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if local.type == "cuda" else "gloo")
    try:
        yield local
        dist.barrier()  # a rank that leaves first would break the connections of one that is still at work
    finally:
        dist.destroy_process_group()


def share(total: Tensor, count: Tensor | int) -> Tensor:
    """This rank's part of a global mean: total * ranks / (count over all ranks); 0 where nothing was counted."""
    if world_size() > 1:
        counted = torch.as_tensor(count, dtype=torch.float32, device=total.device).detach().clone()
        dist.all_reduce(counted)
        return total * world_size() / counted.clamp(min=1)
    return total / max(1, count) if isinstance(count, int) else total / count.clamp(min=1)


def gather(tensor: Tensor) -> Tensor:
    """Rows (n, ...) of all ranks in rank order (world * n, ...), without gradient. Ranks give equally many."""
    if world_size() == 1:
        return tensor.detach()
    tensor = tensor.detach().contiguous()
    out = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(out, tensor)
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # what comes in may be read by others too
        dist.all_reduce(grad)  # gloo has no reduce-scatter
        return grad.chunk(world_size())[rank()]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """As `gather`; the gradients that other ranks send to a row come back to it."""
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def gather_padded(tensor: Tensor, fill: int) -> Tensor:
    """As `gather`, for (n, L) whose L differs among ranks: padded with `fill` to the longest."""
    if world_size() == 1:
        return tensor
    longest = torch.tensor(tensor.shape[1], device=tensor.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return gather(nn.functional.pad(tensor, (0, int(longest) - tensor.shape[1]), value=fill))


def sum_over_ranks(values: list[float]) -> list[float]:
    return _reduce(values, dist.ReduceOp.SUM)


def max_over_ranks(values: list[float]) -> list[float]:
    return _reduce(values, dist.ReduceOp.MAX)


def _reduce(values: list[float], op: Any) -> list[float]:
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, op=op)
    return tensor.tolist()


def gather_objects(item: T) -> list[T]:
    """One picklable item a rank, in rank order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def own_part(length: int) -> range:
    """The numbers below `length` that are this rank's to work on: every one is exactly one rank's."""
    return range(rank(), length, world_size())


def fill_from_ranks(tensor: Tensor) -> Tensor:
    """A tensor of which each rank has filled its own part and left the rest zero, whole on every rank."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def merge_from_ranks(items: dict[int, T]) -> dict[int, T]:
    """Each rank's items by their number, all of them on every rank, in order."""
    merged = {number: item for part in gather_objects(items) for number, item in part.items()}
    return dict(sorted(merged.items()))


def main_first(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and give its result to all; an error there is raised on every rank."""
    result: list[Any] = [None, None]
    if is_main():
        try:
            result[0] = action()
        except Exception as error:
            if world_size() == 1:
                raise
            result[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise result[1]
    return result[0]
