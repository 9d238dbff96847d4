"""The training loop, read as a story: plan, forward, check, backward, step, record, save.

All that a run is stands in `Trainer.state()`: weights and the task's copies and banks, optimiser, scaler, position. Random
numbers of a step are keyed by (seed, step, rank), so that resuming needs no generator's state, and data are keyed by the
step (`omnivl.data.loader`). The trainer names no task and no medium.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnivl import distributed
from omnivl.config import RunConfig, StageConfig
from omnivl.data.sample import Batch
from omnivl.tasks.base import Losses, Task
from omnivl.train.checkpoint import RunFolder, SaveModel, read_state
from omnivl.train.optim import build_optimizer, learning_rate, set_learning_rate
from omnivl.train.tracker import Tracker


class Stopped(Exception):
    """Training was asked to stop by a signal and has saved its state."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; its state is saved")
        self.signum = signum


class TrainingError(RuntimeError):
    """Training cannot go on: the message is one sentence."""


@dataclass
class Stage:
    """A stage ready to run. `batches(first, last)` gives the batches of steps first..last-1, counted from 0."""

    config: StageConfig
    task: Task
    batches: Callable[[int, int], Iterable[Batch]]
    fingerprint: str  # of the data plan: a resumed run must have the same
    validate: Callable[[], dict[str, float]] | None = None


class Trainer:
    """Runs the stages of `config` one after the other in a run folder.

    Args:
        make_stage: builds stage number i around the one model that goes through all of them.
        save_model: writes a model folder of its present weights.
        folder: the run folder (rank 0 alone), or None.
    """

    def __init__(
        self,
        config: RunConfig,
        make_stage: Callable[[int], Stage],
        save_model: SaveModel,
        folder: RunFolder | None,
        device: torch.device,
    ) -> None:
        self.config, self.make_stage, self.save_model = config, make_stage, save_model
        self.folder, self.device = folder, device
        self.total = sum(stage.train.steps for stage in config.stages)
        self.step = 0  # finished, over all stages
        self.bad = 0
        self.seen = 0
        self.first_bad: list[str] = []
        self.seconds = 0.0
        self.best: tuple[float, int] | None = None  # (value, step) of the selection metric
        self.stop_signal = 0

    # --- the story ---------------------------------------------------------------------------------------------------

    def train(self, resume: Path | None = None) -> None:
        """Train to the end, from a checkpoint folder if given. Raises Stopped or TrainingError, with the state saved."""
        state = read_state(resume) if resume else None
        first_stage = state["stage"] if state else 0
        if state:
            self.restore(state)
        tracker = Tracker(self.folder.path, self.total, self.step) if self.folder else None
        try:
            with self.signals():
                for number in range(first_stage, len(self.config.stages)):
                    self.run_stage(number, state if number == first_stage else None, tracker)
        finally:
            if tracker:
                tracker.close()
        if self.folder:
            self.folder.publish(self.best[1] if self.best else self.step)

    def run_stage(self, number: int, state: dict[str, Any] | None, tracker: Tracker | None) -> None:
        stage = self.make_stage(number)
        config = stage.config
        before = sum(earlier.train.steps for earlier in self.config.stages[:number])
        self.number, self.stage = number, stage
        stage.task.to(self.device).train()
        self.module = distributed.wrap(stage.task)
        self.optimizer = build_optimizer(stage.task, config.optim, stage.task.slow_names())
        precision = self.precision(config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == torch.float16)
        if state:
            self.restore_stage(state)
        batches = stage.batches(self.step - before, config.train.steps)
        for batch in batches:
            started = time.monotonic()
            step = self.step - before  # of the stage, from 0
            rate = learning_rate(config.optim, step, config.train.steps)
            set_learning_rate(self.optimizer, rate)
            losses, norm = self.optimise(batch.to(self.device), step, precision)
            self.step += 1
            record = self.record(losses, batch, rate, norm, time.monotonic() - started)
            if tracker:
                tracker.step(record, record.pop("new_bad"))
            self.check_bad_samples(config)
            finished = step + 1 == config.train.steps
            self.validate(stage, finished, tracker)
            every = config.train.checkpoint_every
            if finished or self.stop_signal or (every and (step + 1) % every == 0):
                self.save()
            if self.stop_signal and self.step < self.total:
                raise Stopped(self.stop_signal, self.step)

    def optimise(self, batch: Batch, step: int, precision: torch.dtype | None) -> tuple[list[Losses], float]:
        """Forward, backward and one optimiser step; gradients accumulate over micro-batches.

        Under fp16 a step whose gradients overflow is done again at a lower scale, so that neither the schedule nor the
        data run ahead of the weights.
        """
        config = self.stage.config
        parts = batch.split(config.train.accumulate)
        while True:
            torch.manual_seed(step_seed(self.config.seed, self.step, distributed.rank()))
            self.optimizer.zero_grad(set_to_none=True)
            self.stage.task.begin_step()
            losses = []
            for micro, part in enumerate(parts):
                with distributed.no_sync(self.module, unless=micro == len(parts) - 1):
                    with torch.autocast(self.device.type, precision or torch.bfloat16, enabled=precision is not None):
                        losses.append(self.module(part, step, micro))
                    self.check_finite(losses[-1], batch)
                    self.scaler.scale(losses[-1].total / len(parts)).backward()
            self.scaler.unscale_(self.optimizer)
            limit = config.optim.clip or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(self.stage.task.parameters(), limit, foreach=True)
            if not torch.isfinite(norm) and not self.scaler.is_enabled():
                raise TrainingError(f"the gradient is {float(norm)} at step {self.step + 1}: a lower optim.lr may help")
            self.scaler.step(self.optimizer)
            scale = self.scaler.get_scale()
            self.scaler.update()
            if not self.scaler.is_enabled() or self.scaler.get_scale() >= scale:
                break
            if scale < 1e-4:
                raise TrainingError(f"the gradient overflows at any scale at step {self.step + 1}")
        self.stage.task.after_step(step)
        return losses, float(norm)

    def check_finite(self, losses: Losses, batch: Batch) -> None:
        if not torch.isfinite(losses.total):
            wrong = ", ".join(f"{name} is {float(value)}" for name, value in losses.parts.items() if not torch.isfinite(value))
            raise TrainingError(
                f"the loss is not finite at step {self.step + 1}: {wrong or 'the total'} (samples {', '.join(batch.keys[:3])}, ...); "
                "the weights before it are kept in the last checkpoint"
            )

    def record(self, losses: list[Losses], batch: Batch, rate: float, norm: float, seconds: float) -> dict[str, Any]:
        """The line of metrics.jsonl: means over micro-batches and ranks."""
        parts = {name: sum(float(each.parts[name]) for each in losses) / len(losses) for name in losses[0].parts}
        total = sum(float(each.total.detach()) for each in losses) / len(losses)
        sums = {name: [sum(float(each.sums[name][i]) for each in losses) for i in (0, 1)] for name in losses[0].sums}
        world = distributed.world_size()
        flat = [total / world, *(value / world for value in parts.values()), *(v for pair in sums.values() for v in pair)]
        flat += [float(self.stop_signal), float(len(batch)), float(len(batch.bad))]
        flat = distributed.sum_over_ranks(flat, self.device)
        self.stop_signal = int(flat[-3] > 0) and (self.stop_signal or signal.SIGTERM)
        self.seen, self.bad = self.seen + int(flat[-2]), self.bad + int(flat[-1])
        new_bad = [item for items in distributed.gather_objects(batch.bad) for item in items] if flat[-1] else []
        self.first_bad += [reason for _, reason in new_bad][: 5 - len(self.first_bad)]
        self.seconds += seconds
        means = iter(flat[1:])
        named = {name: next(means) for name in parts}
        named |= {name: next(means) / max(1.0, next(means)) for name in sums}
        return {
            "step": self.step,
            "stage": self.stage.config.name,
            "medium": batch.medium,
            "seconds": round(self.seconds, 3),
            "loss": flat[0],
            **named,
            "lr": rate,
            "gradient_norm": norm,
            "samples_per_second": round(flat[-2] / max(seconds, 1e-9), 1),
            "bad_samples": self.bad,
            "new_bad": new_bad,
        }

    def check_bad_samples(self, config: StageConfig) -> None:
        if self.bad >= 10 and self.bad > config.data.max_bad_share * self.seen:
            raise TrainingError(
                f"{self.bad} of {self.seen} samples could not be read, more than data.max_bad_share "
                f"({config.data.max_bad_share:g}); the first: {'; '.join(self.first_bad)}"
            )

    def validate(self, stage: Stage, finished: bool, tracker: Tracker | None) -> None:
        every, metric = stage.config.train.validate_every, stage.config.train.select
        if stage.validate is None or not every or not (finished or self.step % every == 0):
            return
        stage.task.eval()
        values = stage.validate()
        stage.task.train()
        if tracker:
            tracker.say(f"validation after step {self.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
        if metric:
            if metric not in values:
                raise TrainingError(f"train.select is {metric!r}, validation gives {', '.join(values)}")
            if self.best is None or values[metric] > self.best[0]:
                self.best = (values[metric], self.step)
                self.save()

    # --- its state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        task = {name: value for name, value in self.stage.task.state_dict().items() if not name.startswith("model.")}
        return {
            "stage": self.number,
            "step": self.step,
            "task": task,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "samples": {"seen": self.seen, "bad": self.bad, "first_bad": self.first_bad},
            "seconds": self.seconds,
            "fingerprint": self.stage.fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.seen, self.bad, self.first_bad = (state["samples"][name] for name in ("seen", "bad", "first_bad"))
        if self.folder:
            self.folder.cut(self.step)

    def restore_stage(self, state: dict[str, Any]) -> None:
        if state["fingerprint"] != self.stage.fingerprint:
            raise ValueError(
                "the data are not those of the checkpoint (sources, their sizes, weights, batch size or seed changed); "
                "resume with the same ones, or start a new run with --init"
            )
        missing, unexpected = self.stage.task.load_state_dict(state["task"], strict=False)  # the model is loaded already
        assert not unexpected and all(name.startswith("model.") for name in missing)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def save(self) -> None:
        if self.folder:
            try:
                self.folder.save(self.step, self.save_model, self.state())
            except OSError as error:
                raise TrainingError(f"the checkpoint of step {self.step} was not written: {error.strerror}; the earlier ones stand") from error
            self.folder.prune(self.stage.config.train.keep_checkpoints, self.best[1] if self.best else None)
        distributed.barrier()

    def precision(self, config: StageConfig) -> torch.dtype | None:
        """The type of autocast, or None for float32."""
        chosen = config.train.precision
        if chosen == "auto":
            chosen = "bf16" if self.device.type == "cuda" else "fp32"
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[chosen]

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends training after the step in hand; a second Ctrl-C ends it at once."""

        def note(signum: int, frame: Any) -> None:
            if self.stop_signal and signum == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = signum

        try:
            earlier = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            earlier = {}
        try:
            yield
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)


def step_seed(seed: int, step: int, rank: int) -> int:
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
