"""What a run shows and writes while it trains: metrics.jsonl, a progress line, TensorBoard where it is installed.

Results go to files, progress to standard error: a moving line on a terminal, elsewhere a plain line every few seconds.
"""

import importlib.util
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Column

SHOWN = ("loss", "univlc", "vlm", "lm", "masked", "words", "match_accuracy")
SHORT = {"match_accuracy": "match"}


def by_source(bad: Mapping[str, int]) -> str:
    """Counts of bad samples in words."""
    return ", ".join(f"{count} of {source}" for source, count in bad.items())


class Tracker:
    """Only rank 0 has one. `first` is the number of steps done before (a resumed run)."""

    def __init__(self, folder: Path, total: int, first: int, *, every_seconds: float = 10.0) -> None:
        # unbuffered, so that a line is there when its step is done, and a full disk is told of once
        self.file = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 (held for the life of the run)
        self.bad_file = folder / "bad_samples.jsonl"
        self.total, self.first, self.every = total, first, every_seconds
        self.started = time.monotonic()
        self.printed = float("-inf")
        self.console = Console(stderr=True)
        self.progress: Progress | None = None
        if self.console.is_terminal:
            whole = TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=False)
            )  # two lines if narrow
            self.progress = Progress(whole, console=self.console, auto_refresh=False)
            self.bar = self.progress.add_task("starting", total=total, completed=first)
            self.progress.start()
        self.board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def step(self, record: dict[str, Any], bad: Iterable[tuple[str, str]]) -> None:
        """Write one finished step, and show it. Raises OSError where the files cannot be written."""
        self.file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        for source, reason in bad:
            with open(self.bad_file, "a") as file:
                file.write(json.dumps({"step": record["step"], "source": source, "reason": reason}) + "\n")
            self.say(f"bad sample replaced: {reason}")
        if self.board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, record["step"])
        now = time.monotonic()
        if self.progress is not None:
            self.progress.update(self.bar, description=self.line(record, now), completed=record["step"], refresh=True)
        elif now - self.printed > self.every or record["step"] == self.total:
            self.printed = now
            self.say(self.line(record, now))

    def line(self, record: dict[str, Any], now: float) -> str:
        """Step, time left, losses, matching accuracy, items a second, bad samples: what matters most comes first."""
        done = record["step"] - self.first
        left = int((now - self.started) / done * (self.total - record["step"]))
        clock = (
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}" if left >= 3600 else f"{left // 60}:{left % 60:02d}"
        )
        values = " ".join(
            f"{SHORT.get(name, name)} {record[name]:.2f}" for name in SHOWN if record.get(name) is not None
        )
        return (
            f"{record['stage']} {record['step']}/{self.total} | {clock} left | {values} | "
            f"{record['samples_per_second']:.0f} items/s | {record['bad_samples']} bad"
            + (f" ({by_source(sources)})" if len(sources := record.get("bad_by_source", {})) > 1 else "")
        )

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.board is not None:
            with suppress(OSError):  # a full disk was told of already
                self.board.close()
        self.file.close()
