"""The run folder: one writer, and checkpoints that are whole or absent.

RUN/config.json           the whole run
RUN/checkpoints/step-N/   a model folder + training.pt, after N steps; written under another name, then renamed
                          + validated.json, once the step has been validated: the best (value, step) so far
RUN/model/                the model folder of the last or the best step
RUN/metrics.jsonl, RUN/bad_samples.jsonl

A checkpoint is copied to the host's memory and written beside the training (`Writing`). This room knows files; what a
model folder or a state holds is its callers' business.
"""

import copy
import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from omnivl.config import read_json
from omnivl.train.stopping import TrainingError, reason

VALIDATED = "validated.json"
BEGUN = {".lock", "checkpoints", ".config.json.tmp"}  # what a run folder may hold before its config.json
SaveModel = Callable[[Path], None]  # writes a model folder
M = TypeVar("M", bound=nn.Module)


class RunFolder:
    """Opens a run folder for writing, or refuses: ValueError where another process writes to it, or nobody may.

    The lock is advisory (`flock`) and goes with the process that held it, however that ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.metrics = path / "metrics.jsonl"
        self.bad_samples = path / "bad_samples.jsonl"
        self.made = not path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lock = open(path / ".lock", "w")  # noqa: SIM115 (held for the life of the run)
        except OSError as error:
            raise ValueError(f"{path} cannot be written to ({reason(error)}); choose another --out") from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            raise ValueError(
                f"{path} is in use by another run; wait for it, stop it, or choose another --out"
            ) from None
        let_go_after_fork(self.lock)
        for leftover in [*self.checkpoints.iterdir(), *path.glob(".tmp-model")]:  # of a run that was killed
            if re.fullmatch(r"\.tmp-(model|(step|old)-\d+)", leftover.name):
                shutil.rmtree(leftover)

    def close(self) -> None:
        """Let others write; a new folder goes where no step was taken."""
        if self.made and not self.metrics.exists() and not self.steps():
            shutil.rmtree(self.path)
        self.lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        write_json(self.path / "config.json", config)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, in order."""
        return checkpoint_steps(self.path)

    def at(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"

    def save(self, step: int, save_model: SaveModel, state: dict[str, Any]) -> None:
        """Write checkpoints/step-N whole or not at all. Raises TrainingError where the disk is full or fails."""
        if self.at(step).exists():
            return  # the same step gives the same bits
        temporary = self.checkpoints / f".tmp-step-{step}"
        with whole_or_not(temporary, self.at(step), f"the checkpoint of step {step}"):
            save_model(temporary)
            with open(temporary / "training.pt", "wb") as file:  # a file of Python's, whose errors say what is wrong
                torch.save(state, file)

    def note_validated(self, step: int, best: tuple[float, int] | None) -> None:
        """Raises TrainingError where the disk is full or fails."""
        try:
            write_json(self.at(step) / VALIDATED, {"best": best})
        except OSError as error:
            raise TrainingError(f"the validation of step {step} was not noted: {reason(error)}") from error

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the `keep` latest checkpoints and the best one."""
        for step in self.steps()[: -max(1, keep)]:
            if step != best:
                going = self.checkpoints / f".tmp-old-{step}"  # what has the name of a checkpoint is always whole
                os.rename(self.at(step), going)
                shutil.rmtree(going)

    def publish(self, step: int) -> None:
        """RUN/model from a checkpoint, in place of an earlier one. Raises TrainingError as `save` does."""
        temporary = self.path / ".tmp-model"
        with whole_or_not(temporary, self.model, "model/"):
            shutil.copytree(self.at(step), temporary, ignore=shutil.ignore_patterns("training.pt", VALIDATED))
            if self.model.exists():
                shutil.rmtree(self.model)

    def cut(self, step: int) -> None:
        """Forget the lines of metrics.jsonl and bad_samples.jsonl past a step; a half-written last line goes too."""
        for path in (self.metrics, self.bad_samples):
            if path.exists():
                temporary = path.with_suffix(".tmp")
                with open(path, "rb") as old, open(temporary, "wb") as new:
                    new.writelines(line for line in old if line.endswith(b"\n") and line_step(line) <= step)
                os.replace(temporary, path)


class Writing:
    """Work that a thread does beside the training, one at a time. What it raises, `wait` raises; `failed` says that
    there is something to raise."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.failed: Exception | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Raises what an earlier work raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except Exception as error:  # raised by `wait`
                self.failed = error

        self.thread = threading.Thread(target=run, name="checkpoint")
        self.thread.start()

    def join(self) -> None:
        """Wait, and raise nothing."""
        if self.thread:
            self.thread.join()

    def wait(self) -> None:
        self.join()
        failed, self.failed = self.failed, None
        if failed:
            raise failed


def refuse_foreign(path: Path) -> None:
    """Raises ValueError for a folder that holds something, and no run of ours: a run would write over it. One that
    was killed before it had written its config.json is ours."""
    held = {each.name for each in path.iterdir()} if path.is_dir() else set()
    config = read_json(path / "config.json") if "config.json" in held else None
    if held <= BEGUN or (isinstance(config, dict) and "stages" in config):
        return
    raise ValueError(f"{path} holds files that are not of a run: choose another --out, a new or an empty folder")


def on_host(value: Any) -> Any:
    """A copy of dicts, lists and tuples of tensors, in the host's memory; other values as they are."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: on_host(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(each) for each in value)
    return value


def copy_to_host(model: M) -> M:
    """A copy of a module, weights and buffers in the host's memory, whose sharing is that of the original."""
    copies: dict[int, Any] = {id(weight): nn.Parameter(on_host(weight), False) for weight in model.parameters()}
    copies |= {id(buffer): on_host(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, copies)


@contextmanager
def whole_or_not(temporary: Path, target: Path, what: str) -> Iterator[None]:
    """What the block writes into `temporary` becomes `target` once all of it is on the disk; else nothing is left."""
    try:
        yield
        for path in [*temporary.iterdir(), temporary]:
            flush(path)
        os.rename(temporary, target)
        flush(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, RuntimeError, SafetensorError)):  # what the writers make of a full disk
            raise TrainingError(f"{what} was not written: {reason(error)}; the earlier checkpoints stand") from error
        raise


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def let_go_after_fork(lock: IO[str]) -> None:
    """A loader's workers outlive a killed run for some seconds; they must not hold its lock for it."""
    os.register_at_fork(after_in_child=lock.close)


def checkpoint_steps(run: Path) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def line_step(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a checkpoint folder, with whether its step has been `validated`, and the `best` as of then.
    Raises ValueError where it is missing or not whole."""
    path, note = checkpoint / "training.pt", checkpoint / VALIDATED
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: a model folder alone is not resumed, start from it with --init") from None
    except Exception as error:  # torch and zipfile raise many kinds for a damaged file
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): it is damaged") from error
    if not note.exists():
        return {**state, "validated": False}
    best = read_json(note)["best"]
    return {**state, "validated": True, "best": tuple(best) if best else None}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)
