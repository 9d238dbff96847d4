"""The run folder: one writer, and checkpoints that are whole or absent.

    RUN/config.json           the whole run
    RUN/checkpoints/step-N/   a model folder + training.pt, after N steps; written under another name, then renamed
    RUN/model/                the model folder of the last or the best step
    RUN/metrics.jsonl, RUN/bad_samples.jsonl
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SaveModel = Callable[[Path], None]  # writes a model folder


class RunFolder:
    """Opens a run folder for writing, or refuses: ValueError where another process writes to it.

    The lock is advisory (`flock`) and goes with the process that held it, however that ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.bad_samples = path / "bad_samples.jsonl"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.lock = open(path / ".lock", "w")  # noqa: SIM115 (held for the life of the run)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            raise ValueError(
                f"{path} is in use by another run; wait for it, stop it, or choose another --out"
            ) from None
        for leftover in [*self.checkpoints.glob(".tmp-*"), *path.glob(".tmp-*")]:  # of a run that was killed
            shutil.rmtree(leftover)

    def close(self) -> None:
        self.lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        write_json(self.path / "config.json", config)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, in order."""
        return checkpoint_steps(self.path)

    def at(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"

    def save(self, step: int, save_model: SaveModel, state: dict[str, Any]) -> None:
        """Write checkpoints/step-N whole or not at all; an OSError (a full disk) leaves the earlier ones as they are."""
        if self.at(step).exists():
            return  # the same step gives the same bits
        temporary = self.checkpoints / f".tmp-step-{step}"
        try:
            save_model(temporary)
            with open(temporary / "training.pt", "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        os.rename(temporary, self.at(step))

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the `keep` latest checkpoints and the best one."""
        for step in self.steps()[: -max(1, keep)]:
            if step != best:
                shutil.rmtree(self.at(step))

    def publish(self, step: int) -> Path:
        """RUN/model from a checkpoint, replacing an earlier one."""
        temporary, target = self.path / ".tmp-model", self.path / "model"
        shutil.copytree(self.at(step), temporary, ignore=shutil.ignore_patterns("training.pt"))
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        return target

    def cut(self, step: int) -> None:
        """Forget the lines of metrics.jsonl and bad_samples.jsonl past a step; a half-written last line goes too."""
        for path in (self.metrics, self.bad_samples):
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if line_step(line) <= step]
                temporary = path.with_suffix(".tmp")
                temporary.write_text("".join(f"{line}\n" for line in kept))
                os.replace(temporary, path)


def checkpoint_steps(run: Path) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def line_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a checkpoint folder. Raises ValueError where it is missing or not whole."""
    try:
        return torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{checkpoint} has no training.pt: a model folder cannot be resumed, start from it with --init") from None
    except Exception as error:  # torch and zipfile raise many kinds for a damaged file
        raise ValueError(f"{checkpoint / 'training.pt'} cannot be read ({type(error).__name__}): it is damaged") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)
