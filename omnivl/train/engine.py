"""A stage's task made ready to take steps: placed, wrapped or sharded for the ranks, compiled, with its optimiser and
fp16's scale. Under FSDP what is trained is a sharded copy of the task; the whole model, which is saved, validated and
handed on to the next stage, waits in the host's memory. This room knows no stage, no file and no medium.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from omnivl import distributed
from omnivl.config import OptimConfig, TrainConfig
from omnivl.data.sample import Batch
from omnivl.tasks.base import Losses, Task
from omnivl.train.measure import check_finite, measure
from omnivl.train.optim import autocast_type, build_optimizer, load_optimizer
from omnivl.train.stopping import TrainingError

SMALLEST_SCALE = 1e-4  # of fp16 gradients: one that still overflows here is not finite at all


class Engine:
    """Begins a stage's task, or restores it from a saved state, and takes its steps.

    `task` is what is trained; `task.model` of the task that was given stays whole.
    """

    def __init__(
        self, task: Task, train: TrainConfig, optim: OptimConfig, device: torch.device, state: dict[str, Any] | None
    ) -> None:
        self.train, self.optim, self.device, self.model = train, optim, device, task.model
        self.precision = autocast_type(train.precision, device)
        parallel = distributed.choose(train.parallel, task, device, self.precision)
        self.sharded = parallel == "fsdp"
        task.to("cpu" if self.sharded else device)
        if state:  # without the model, which is loaded already
            missing, unexpected = task.load_state_dict(state["task"], strict=False)
            assert not unexpected and all(name.startswith("model.") for name in missing)
        else:
            task.begin_stage()
        task.train()
        distributed.recompute(task.recomputed_parts(), train.checkpoint_activations)
        if self.sharded:
            task = copy.deepcopy(task)
            distributed.shard(task, task.sharded_parts(), device, self.precision)
        self.task = task
        self.optimizer = build_optimizer(task, optim, task.lr_factors(optim))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        if state:
            load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        if train.compile:
            distributed.compile_parts(task.compiled_parts())
        self.module = distributed.wrap(task) if parallel == "ddp" else task

    def take_step(self, batch: Batch, step: int, key: tuple[int, ...], number: int) -> dict[str, Any]:
        """Forward, backward and one optimiser step; gradients accumulate over micro-batches. Gives the step's numbers.

        Under fp16 a step whose gradients overflow is done again at a lower scale, so that neither the schedule nor the
        data run ahead of the weights.

        Args:
            step: of the stage, from 0.
            key: of the step's random numbers.
            number: of the step in the run, from 1, for messages.
        """
        parts = batch.split(self.train.accumulate)
        while True:
            torch.manual_seed(hash(key) & 0x7FFF_FFFF_FFFF_FFFF)
            self.optimizer.zero_grad(set_to_none=True)
            self.task.begin_step()
            losses: list[Losses] = []
            for micro, part in enumerate(parts):
                with distributed.average_gradients(self.module, now=micro == len(parts) - 1):
                    with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                        losses.append(self.module(part, step, micro))
                    self.scaler.scale(losses[-1].total / len(parts)).backward()
            self.scaler.unscale_(self.optimizer)
            norm = distributed.clip_gradients(self.task, self.optim.clip or math.inf)
            measured = measure(losses, norm, batch)
            check_finite(measured, batch, number, overflow_allowed=self.scaler.is_enabled())
            if self.update(number):
                break
        self.task.after_step(step)
        return measured

    def update(self, number: int) -> bool:
        """The optimiser's step. False where fp16 gradients overflowed: then only their scale has changed."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:
            return True
        if scale < SMALLEST_SCALE:
            raise TrainingError(f"the gradient overflows fp16 at any scale at step {number}: use bf16 or fp32")
        return False

    def update_model(self) -> None:
        """Bring the whole model's weights up to date. Every rank must call it."""
        if self.sharded:
            distributed.copy_weights(self.task.model, self.model)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The whole model, up to date, on the device and in evaluation mode; nothing is compiled for it anew."""
        self.update_model()
        self.model.to(self.device).eval()
        with torch.compiler.set_stance("force_eager") if self.train.compile else nullcontext():
            yield
        self.task.train()
        if self.sharded:
            self.model.to("cpu")

    def state(self) -> dict[str, Any]:
        """What the task, the optimiser and the scaler are, beside the model's weights. Every rank must call it; where
        tensors are sharded rank 0 alone is given them."""
        task = {name: value for name, value in self.task.state_dict().items() if not name.startswith("model.")}
        return {
            "task": distributed.whole(task),
            "optimizer": distributed.whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
        }
