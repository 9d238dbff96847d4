"""results.json: measured numbers beside what guessing gives, with all that is needed to measure them again."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omnivl.config import read_json
from omnivl.tasks.base import Result
from omnivl.train.checkpoint import write_json


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
    if path.exists():
        earlier = read_json(path)
        if not isinstance(earlier, dict) or "results" not in earlier:
            raise ValueError(f"{path} is not a results file: choose another --out")


def write_results(path: Path, results: Sequence[Result], *, config: Any, seed: int, seconds: float) -> None:
    """Write results.json, or merge into it: a number measured again under the same settings replaces the earlier
    one."""

    def identity(row: dict[str, Any]) -> str:
        settings = {name: value for name, value in row["settings"].items() if name != "not_run"}
        return repr([row[name] for name in ("task", "dataset", "split", "metric")] + sorted(settings.items(), key=str))

    rows = {}
    if path.exists():
        rows = {identity(row): row for row in read_json(path)["results"]}
    rows |= {identity(row): row for row in (clean(asdict(result)) for result in results)}
    write_json(
        path,
        {
            "omnivl": version("omnivl"),
            "commit": commit(),
            "config": config,
            "seed": seed,
            "machine": machine(),
            "seconds": seconds,
            "results": list(rows.values()),
        },
    )


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinities as null; without what each item scored."""
    return {
        k: None if isinstance(v, float) and v - v != 0 else round(v, 6) if isinstance(v, float) else v
        for k, v in row.items()
        if k != "items"
    }


def commit() -> str | None:
    """The commit of a source checkout, "+changes" where it is not clean; None for an installed package."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout
        changes = subprocess.run(
            ["git", "status", "--porcelain", "."], cwd=here, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip() + ("+changes" if changes.strip() else "")


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}, {versions}"
