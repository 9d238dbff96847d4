"""How everything here is timed and told: two ways of doing the same work take turns in one process, and the figure is
their ratio.

A machine that is busy with something else slows both members of a pair alike, so the median of the pairs' ratios holds
still where seconds do not. Rows are merged into docs/results/benchmarks.json, and docs/results/benchmarks.md is written
anew from it. This room knows no model; what is timed, and against whom, is the business of the scripts beside it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omnivl.config import read_json
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

SHARE = 0.5  # a goal below this is a share that should not be exceeded, any other a ratio that should be reached
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"

PAGE = """# Speed, each beside a named peer

Written by `make bench`; the numbers with all their settings stand in [benchmarks.json](benchmarks.json). Both sides of
a row take turns in one process; the figure is the median ratio of the pairs, because seconds depend on what else the
machine does. Tests assert none of them.

Machine: {machine}.

| what | ours | peer | seconds, ours | seconds, peer | figure | goal | pairs |
|---|---|---|---|---|---|---|---|
{rows}

A ratio is the peer's time divided by ours: above 1, ours is faster. A share is a part of a whole step: lower is better.
The figure of a growth is an exponent: 1 is proportional to the size.

{notes}
"""


@dataclass(frozen=True)
class Row:
    """One figure. `ours` and `peer` are median seconds; `ratio` is the median of peer / ours over `n` pairs, or where
    the goal is a largest share (below SHARE), of ours / peer. `settings` say what was timed, and hold `us`, `them`, and
    `goal` where there is one."""

    benchmark: str
    ours: float
    peer: float
    ratio: float
    n: int
    settings: dict[str, Any]

    @property
    def is_share(self) -> bool:
        return 0 < self.settings.get("goal", 0) < SHARE

    @property
    def met(self) -> bool:
        goal = self.settings.get("goal", 0)
        return self.ratio < goal if self.is_share else self.ratio >= goal


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begun = clock()
    work()
    return clock() - begun


def take_turns(
    ours: Callable[[], object],
    peer: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Seconds of (ours, peer) for each pair, run as A B A B after one unmeasured pair. What lasts a few milliseconds is
    timed by the process's own (`time.process_time`), as another program's turn is as long."""
    ours(), peer()
    return [(seconds(ours, clock), seconds(peer, clock)) for _ in range(pairs)]


def against(benchmark: str, times: Sequence[tuple[float, float]], settings: dict[str, Any]) -> Row:
    """The row of pairs of seconds (ours, peer)."""
    share = 0 < settings.get("goal", 0) < SHARE
    ratio = statistics.median(a / b if share else b / a for a, b in times)
    ours, peer = (statistics.median(side) for side in zip(*times, strict=True))
    return Row(benchmark, round(ours, 4), round(peer, 4), round(ratio, 4), len(times), settings)


def figure(row: dict[str, Any]) -> tuple[str, str]:
    """A row's figure and its goal as the table tells them."""
    goal, value = row["settings"].get("goal"), row["ratio"]
    made = Row(**row)
    if goal is None:
        return f"{value:.2f}", ""
    if made.is_share:
        return f"{value:.2%}" + ("" if made.met else " (missed)"), f"< {goal:.0%}"
    return f"{value:.2f}" + ("" if made.met else " (missed)"), f">= {goal:g}"


def page(found: dict[str, Any]) -> str:
    """benchmarks.json as a page."""
    lines, notes = [], []
    for row in found["results"]:
        told, goal = figure(row)
        settings = dict(row["settings"])
        us, them = settings.pop("us"), settings.pop("them")
        settings.pop("goal", None)
        lines.append(
            f"| {row['benchmark']} | {us} | {them} | {row['ours']:.3g} | {row['peer']:.3g} "
            f"| {told} | {goal} | {row['n']} |"
        )
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
        notes.append(f"- **{row['benchmark']}**: {listed}.")
    return PAGE.format(machine=found["machine"], rows="\n".join(lines), notes="\n".join(notes))


def publish(rows: Sequence[Row], folder: Path = RESULTS) -> None:
    """Merge rows into benchmarks.json and write benchmarks.md from it. Each row keeps the commit that it was measured
    at and its threads; rows of another machine are dropped, as one table has one machine."""
    path, here = folder / "benchmarks.json", machine()
    kept: dict[str, dict[str, Any]] = {}
    if path.exists() and (before := read_json(path))["machine"] == here:
        kept = {row["benchmark"]: row for row in before["results"]}
    for row in rows:
        settings = row.settings | {"threads": torch.get_num_threads(), "commit": commit()}
        kept[row.benchmark] = asdict(row) | {"settings": settings}
    order = sorted(kept.values(), key=lambda row: row["benchmark"])
    found = {"omnivl": version("omnivl"), "commit": commit(), "machine": here, "results": order}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    (folder / "benchmarks.md").write_text(page(found), encoding="utf-8")


def command(doc: str | None, measure: Callable[[bool, int], list[Row]], pairs: int) -> None:
    """The command line of a benchmark: print its rows, and keep them unless they are of the tiny shapes.

    `measure` takes whether to use tiny shapes, which show that it runs and nothing else, and the number of pairs.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, a few seconds; nothing is kept")
    parser.add_argument("--pairs", type=int, default=pairs, help="pairs to time (default: %(default)s)")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}, wanted at least 1")
    begun = time.perf_counter()
    rows = measure(options.tiny, options.pairs)
    for row in rows:
        told, goal = figure(asdict(row))
        wanted = f"goal {goal}; " if goal else ""
        print(f"{row.benchmark}: {told} ({wanted}ours {row.ours:.3g} s, {row.settings['them']} {row.peer:.3g} s,")
        print(f"  {row.n} pairs)")
    print(f"{machine()}, {torch.get_num_threads()} threads; {time.perf_counter() - begun:.0f} s in all")
    if not options.tiny:
        publish(rows)
