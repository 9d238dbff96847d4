"""What a run shows and writes while it trains: metrics.jsonl, a progress line, TensorBoard where it is installed.

Results go to files, progress to standard error: one moving line on a terminal, a plain line every few seconds elsewhere.
"""

import importlib.util
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SHOWN = ("loss", "univlc", "vlm", "lm", "masked", "words", "match_accuracy")
SHORT = {"match_accuracy": "match"}


class Tracker:
    """Only rank 0 has one. `first` is the number of steps done before (a resumed run)."""

    def __init__(self, folder: Path, total: int, first: int, *, every_seconds: float = 10.0) -> None:
        self.file = open(folder / "metrics.jsonl", "a")  # noqa: SIM115 (held for the life of the run)
        self.bad_file = folder / "bad_samples.jsonl"
        self.total, self.first, self.every = total, first, every_seconds
        self.started = self.printed = time.monotonic()
        console = Console(stderr=True)
        self.progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[line]}"))
            self.progress = Progress(*columns, console=console, transient=False)
            self.bar = self.progress.add_task("train", total=total, completed=first, line="")
            self.progress.start()
        self.console = console
        self.board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def step(self, record: dict[str, Any], bad: Iterable[tuple[str, str]]) -> None:
        """Write one finished step, and show it."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
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
            self.progress.update(self.bar, description=record["stage"], completed=record["step"], line=self.line(record, now))
        elif now - self.printed > self.every or record["step"] in (self.first + 1, self.total):
            self.printed = now
            self.console.print(f"{record['stage']} step {record['step']}/{self.total} {self.line(record, now)}", highlight=False, soft_wrap=True)

    def line(self, record: dict[str, Any], now: float) -> str:
        values = " ".join(f"{SHORT.get(name, name)} {record[name]:.3f}" for name in SHOWN if record.get(name) is not None)
        done = record["step"] - self.first
        left = (now - self.started) / done * (self.total - record["step"])
        clock = f"{int(left) // 60}:{int(left) % 60:02d}"
        return f"{values} | {record['samples_per_second']:.0f} items/s | {clock} left | {record['bad_samples']} bad"

    def say(self, text: str) -> None:
        (self.progress.console if self.progress is not None else self.console).print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.board is not None:
            self.board.close()
        self.file.close()
