"""results.json: measured numbers beside what guessing gives, with all that is needed to measure them again."""

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omnivl.config import read_json
from omnivl.tasks.base import Result
from omnivl.train.checkpoint import write_json

NUMBER = (int, float, type(None))


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    seconds: list[float] = []
    started = time.monotonic()
    yield seconds
    seconds.append(round(time.monotonic() - started, 2))


def prepare_file(path: Path) -> None:
    """Make sure, before the work, that a file can be written; its folder is made. Raises ValueError."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: its folder may not be written in")


def prepare_results(path: Path) -> None:
    """The same for a results file, which is merged into where it is there already."""
    prepare_file(path)
    read_rows(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file, none where there is no file. Raises ValueError where it is no results file."""
    if not path.exists():
        return []
    held = read_json(path)
    rows = held.get("results") if isinstance(held, dict) else None
    if not isinstance(rows, list) or not all(map(is_row, rows)):
        raise ValueError(f"{path} is not a results file: choose another --out")
    return rows


def is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {"value", "n", "chance"} <= set(row) or not isinstance(row["value"], NUMBER):
        return False
    named = all(isinstance(row.get(name), str) for name in ("task", "dataset", "split", "metric"))
    return named and isinstance(row.get("settings"), dict)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time of those that ask for this folder, in which nothing is left; where it cannot be locked
    nobody waits."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_results(path: Path, results: Sequence[Result], *, config: Any, seed: int, seconds: float) -> None:
    """Write results.json, or merge into it: a number measured again under the same settings replaces the earlier
    one, and what other processes write meanwhile is kept."""

    def identity(row: dict[str, Any]) -> str:
        settings = {name: value for name, value in row["settings"].items() if name != "not_run"}
        return repr([row[name] for name in ("task", "dataset", "split", "metric")] + sorted(settings.items(), key=str))

    told = {
        "omnivl": version("omnivl"),
        "commit": commit(),
        "config": config,
        "seed": seed,
        "machine": machine(),
        "seconds": seconds,
    }
    with alone_in(path.parent):
        rows = {identity(row): row for row in read_rows(path)}
        rows |= {identity(row): row for row in (clean(asdict(result)) for result in results)}
        write_json(path, {**told, "results": list(rows.values())})


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinities as null; without what each item scored."""
    return {
        k: None if isinstance(v, float) and v - v != 0 else round(v, 6) if isinstance(v, float) else v
        for k, v in row.items()
        if k != "items"
    }


def commit() -> str | None:
    """The commit of a source checkout, "+changes" where it is not clean; None for an installed package, also within
    somebody's repository, which does not track it."""
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", here.name)
        found, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip() + ("+changes" if changes.strip() else "")


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, {versions}"
