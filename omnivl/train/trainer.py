"""The training loop, read as a story: plan, step (`omnivl.train.engine`), record, save, validate.

All that a run is stands in `Trainer.state()`: weights, the task's copies and banks, optimiser, scaler, position. Random
numbers of a step are keyed by (seed, step, rank), so resuming needs no generator's state; data are keyed by the step
(`omnivl.data.loader`). Ranks decide together: whether to stop, to go on or to give up is agreed before each step, so
none waits for one that has left. The trainer names no task and no medium.
"""

import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnivl import distributed
from omnivl.config import RunConfig, StageConfig
from omnivl.data.sample import Batch
from omnivl.tasks.base import Task
from omnivl.train.checkpoint import RunFolder, SaveModel, Writing, on_host, read_state
from omnivl.train.engine import Engine
from omnivl.train.optim import learning_rate, set_learning_rate
from omnivl.train.stopping import Stopped, StopRequest, TrainingError, reason
from omnivl.train.tracker import Tracker, by_source

__all__ = ["Stage", "Stopped", "Trainer", "TrainingError"]

log = logging.getLogger(__name__)


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
        copy_model: copies the model's present weights to the host's memory, and gives what writes a model folder of
            the copy.
        folder: the run folder (rank 0 alone), or None.
    """

    def __init__(
        self,
        config: RunConfig,
        make_stage: Callable[[int], Stage],
        copy_model: Callable[[], SaveModel],
        folder: RunFolder | None,
        device: torch.device,
    ) -> None:
        self.config, self.make_stage, self.copy_model = config, make_stage, copy_model
        self.folder, self.device = folder, device
        self.ends = list(itertools.accumulate(stage.train.steps for stage in config.stages))
        self.step = 0  # finished, over all stages
        self.saved = 0  # the latest step whose checkpoint was begun
        self.writing = Writing()
        self.seen = 0  # samples
        self.bad: Counter[str] = Counter()  # of them, by their source
        self.first_bad: list[str] = []
        self.seconds = 0.0
        self.unvalidated = False  # the step that is resumed from
        self.best: tuple[float, int] | None = None  # (value, step) of the stage's selection metric
        self.tracker: Tracker | None = None
        self.stop = StopRequest()
        self.trouble: Exception | None = None  # of this rank, told to the others before the next step

    # --- the story ---------------------------------------------------------------------------------------------------

    def train(self, resume: Path | None = None) -> None:
        """Train to the end, from a checkpoint folder if given.

        Raises Stopped, with the state saved, where a signal asks for it; TrainingError where it cannot go on.
        """
        state, first = read_state(resume) if resume else None, 0
        if state:
            self.restore(state)
            first = state["stage"]
            self.unvalidated = self.validates(first) and not state["validated"]
            if self.step == self.ends[first] and not self.unvalidated:  # a stage that is over is not built again
                first, state = first + 1, None
        finished = first == len(self.config.stages)
        if finished:
            log.info("this run is finished: its %d steps are done", self.step)
        with ExitStack() as stack:
            stack.callback(self.writing.join)  # however this ends, nothing is left half written
            if self.folder:
                self.tracker = stack.enter_context(closing(Tracker(self.folder.path, self.ends[-1], self.step)))
            stack.enter_context(self.stop.listening())
            for number in range(first, len(self.config.stages)):
                self.run_stage(number, state if number == first else None)

        def publish() -> None:
            if self.folder and not (finished and self.folder.model.exists()):
                self.folder.publish(self.best[1] if self.best else self.step)

        distributed.main_first(publish)

    def run_stage(self, number: int, state: dict[str, Any] | None) -> None:
        """The steps of one stage, from its beginning or from a saved state."""
        self.begin_stage(number, state)
        config, before = self.stage.config, self.ends[number] - self.stage.config.train.steps
        if state and self.unvalidated:
            self.validate()
        batches = iter(self.stage.batches(self.step - before, config.train.steps))
        self.stop.mind_workers()
        started = time.monotonic()
        while (batch := self.next_batch(batches)) is not None:
            step = self.step - before  # of the stage, from 0
            rate = learning_rate(config.optim, step, config.train.steps)
            set_learning_rate(self.engine.optimizer, rate)
            key = (self.config.seed, self.step, distributed.rank())
            measured = self.engine.take_step(batch.to(self.device), step, key, self.step + 1)
            self.step += 1
            self.record(measured, batch, rate, time.monotonic() - started)
            self.check_bad_samples()
            every = config.train.checkpoint_every
            if self.step == self.ends[number] or (every and (step + 1) % every == 0):
                self.save()
            if self.validates(number):
                self.validate()
            started = time.monotonic()
        self.finish_writing()

    def begin_stage(self, number: int, state: dict[str, Any] | None) -> None:
        """Build a stage: its first step, or the state of one that was stopped."""
        self.number, self.stage = number, self.make_stage(number)
        if not state:
            self.best = None  # another stage's metric and data are not to be compared with
        if state and state["fingerprint"] != self.stage.fingerprint:
            raise ValueError(
                "the data are not those of the checkpoint (sources, their sizes, weights, batch size or seed changed); "
                "resume with the same ones, or start a new run with --init"
            )
        config = self.stage.config
        self.engine = Engine(self.stage.task, config.train, config.optim, self.device, state)

    def next_batch(self, batches: Iterator[Batch]) -> Batch | None:
        """The next step's batch; None where the stage is over. What stops one rank stops all of them here."""
        batch, error = None, self.trouble or self.writing.failed
        if not self.stop.signum and not error:
            try:
                with self.stop.reading_batches():
                    batch = next(batches, None)
            except Exception as caught:  # raised below, when the other ranks know
                error = caught
        # the loader's workers may have died of the signal that stops us: no fault of theirs
        failed = error is not None and not self.stop.signum
        signum, failures = distributed.max_over_ranks([self.stop.signum, failed])
        if not signum and not failures:
            return batch
        self.save()
        self.finish_writing()
        if signum:
            raise Stopped(int(signum), self.step)
        if error is None:
            raise TrainingError(f"another process could not go on after step {self.step}; its own message says why")
        if isinstance(error, (ValueError, OSError, RuntimeError)):
            raise TrainingError(f"training stopped after step {self.step}: {reason(error)}") from error
        raise error

    # --- between steps -----------------------------------------------------------------------------------------------

    def record(self, measured: dict[str, Any], batch: Batch, rate: float, seconds: float) -> None:
        """Count the step's samples; write its line of metrics.jsonl, and name its bad samples."""
        samples, bad = measured.pop("samples"), measured.pop("bad")
        new_bad = [item for items in distributed.gather_objects(batch.bad) for item in items] if bad else []
        self.seen += samples
        self.bad.update(source for source, _ in new_bad)
        self.first_bad += [why for _, why in new_bad][: 5 - len(self.first_bad)]
        self.seconds += seconds
        line = {
            "step": self.step,
            "stage": self.stage.config.name,
            "medium": batch.medium,
            "seconds": round(self.seconds, 3),
            **measured,
            "lr": rate,
            "samples_per_second": round(samples / max(seconds, 1e-9), 1),
            "bad_samples": self.bad.total(),
            **({"bad_by_source": dict(self.bad)} if self.bad else {}),
        }
        if self.tracker:
            try:
                self.tracker.step(line, new_bad)
            except OSError as error:  # a full disk
                self.trouble = error

    def check_bad_samples(self) -> None:
        bad, share = self.bad.total(), self.stage.config.data.max_bad_share
        if bad >= 10 and bad > share * self.seen:
            self.save()
            self.finish_writing()
            raise TrainingError(
                f"{bad} of {self.seen} samples could not be read ({by_source(self.bad)}), more than "
                f"data.max_bad_share ({share:g}); the first: {'; '.join(self.first_bad)}"
            )

    def validates(self, number: int) -> bool:
        """Whether the present step of stage `number` is to be validated."""
        train = self.config.stages[number].train
        step = self.step - (self.ends[number] - train.steps)
        return bool(train.validate_every) and (step == train.steps or step % train.validate_every == 0)

    def validate(self) -> None:
        """Measure the validation split; keep the checkpoint of the best step where the recipe names a metric.

        The step is saved first: who asks to stop may not wait for the numbers, and a resumed run measures them then.
        """
        assert self.stage.validate
        metric = self.stage.config.train.select
        self.save()
        self.finish_writing()  # its readers are forked, which no thread should be in the middle of something at
        if distributed.max_over_ranks([self.stop.signum])[0]:
            return
        try:
            with self.engine.evaluating():
                values = self.stage.validate()
        except (ValueError, OSError) as error:
            told = f"the validation after step {self.step} failed: {reason(error)}; the step is saved"
            raise TrainingError(told) from error
        if self.tracker:
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            self.tracker.say(f"validation after step {self.step}: {numbers}")
        if metric and metric not in values:
            raise TrainingError(f"train.select is {metric!r}, validation gives {', '.join(values)}")
        if metric and math.isfinite(values[metric]) and (self.best is None or values[metric] > self.best[0]):
            self.best = (float(values[metric]), self.step)

        def note() -> None:
            if self.folder:
                self.folder.note_validated(self.step, self.best)
                self.folder.prune(self.stage.config.train.keep_checkpoints, self.best[1] if self.best else None)

        distributed.main_first(note)

    # --- its state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a run is, beside the model's weights, which the checkpoint's model folder holds. Every rank must
        call it."""
        return {
            "stage": self.number,
            "step": self.step,
            **self.engine.state(),
            "best": self.best,
            "samples": {"seen": self.seen, "bad": dict(self.bad), "first_bad": self.first_bad},
            "seconds": self.seconds,
            "fingerprint": self.stage.fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.saved = self.step
        self.seen, bad, self.first_bad = (state["samples"][name] for name in ("seen", "bad", "first_bad"))
        self.bad = Counter(bad)
        if self.folder:
            self.folder.cut(self.step)

    def save(self) -> None:
        """Begin a checkpoint of the present step, when the one before is on the disk; before the first step there is
        nothing to save. An error is every rank's, and may be the earlier checkpoint's."""
        if self.step == self.saved:
            return
        self.finish_writing()  # before another copy is made
        self.engine.update_model()
        state, step, folder = self.state(), self.step, self.folder
        keep, best = self.stage.config.train.keep_checkpoints, self.best[1] if self.best else None

        def begin() -> None:
            if not folder:
                return
            save_model, copied = self.copy_model(), on_host(state)

            def write() -> None:
                folder.save(step, save_model, copied)
                folder.prune(keep, best)

            self.writing.start(write)

        distributed.main_first(begin)
        self.saved = step

    def finish_writing(self) -> None:
        """Wait until the checkpoint in hand is on the disk. An error is every rank's."""
        distributed.main_first(self.writing.wait)
