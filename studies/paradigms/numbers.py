"""From results files to what the page says: means over seeds and items, their spread, intervals, paired differences.

The test items are the same for every run and seed. An interval is a bootstrap over items (95%, percentiles): an item is
drawn with all its seeds, and with all that is measured on it (the eight siblings of a scene, the questions about one
picture). It says nothing of the luck of training, so a difference counts as shown where its interval leaves out zero
*and* every seed, of two or more, has its sign. Axes: S seeds, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnivl.config import read_json
from studies.paradigms.floor import FLOOR
from studies.paradigms.measure import WHOLE

DRAWS, SEED = 2000, 0
PROBES = "probe"  # folder of what was measured of the models later
AGAIN = "again"  # folder of runs that were made a second time


class Key(NamedTuple):
    """What tells one row of a results file from the others."""

    task: str
    metric: str
    medium: str
    k: int = 0
    finetuned: bool = False
    view: str = WHOLE


@dataclass(frozen=True)
class Measure:
    """A line of a table: one row of the results files, or the mean of several on the same items. `together` items
    stand together in a row and are drawn together."""

    title: str
    parts: tuple[Key, ...]
    together: int = 1

    def seen(self, view: str) -> "Measure":
        """The same, of clips seen another way."""
        return replace(self, parts=tuple(part._replace(view=view) for part in self.parts))


def retrieval(metric: str, medium: str, k: int = 0) -> Key:
    return Key("retrieval", metric, medium, k)


PICTURES = Measure("pictures, R@1, both ways", (retrieval("t2i_r1", "image"), retrieval("i2t_r1", "image")))
CLIPS = Measure("clips, R@1, both ways", (retrieval("t2v_r1", "video"), retrieval("v2t_r1", "video")))
SIBLINGS = Measure("text to clip among its siblings", (Key("motion", "sibling_t2v", "video"),), 8)
REVERSE = Measure("clip against itself backwards", (Key("motion", "reverse", "video"),))


class Study:
    """All results files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[tuple[str, int], dict[str, Any]] = {}
        self.floor: dict[str, Any] | None = None
        self.probe_seconds = 0.0
        for path in sorted(folder.glob("*.json")):
            told = read_json(path)
            if told.get("name") == FLOOR:
                self.floor = told
            elif "seed" in told:
                self.files[told["name"], told["seed"]] = told
        self.rows = {place: by_key(told) for place, told in self.files.items()}
        for told in map(read_json, sorted((folder / PROBES).glob("*.json"))):
            if (place := (told["name"], told["seed"])) in self.rows:
                self.rows[place] |= by_key(told)
                self.probe_seconds += sum(told["cpu_seconds"].values())
        self.floor_rows = by_key(self.floor) if self.floor else {}
        again = map(read_json, sorted((folder / AGAIN).glob("*.json")))
        self.again = [told for told in again if (told["name"], told["seed"]) in self.files]

    def seeds(self, name: str, *others: str) -> list[int]:
        """Seeds that this run and the others are there with."""
        return [
            seed for own, seed in sorted(self.files) if own == name and all((o, seed) in self.files for o in others)
        ]

    def values(self, name: str, seeds: Sequence[int], measure: Measure) -> np.ndarray | None:
        """(S, N), or None where a file does not have it or there is none."""
        found = [items_of(self.rows[name, seed], measure) for seed in seeds]
        there = [items for items in found if items is not None]
        return np.stack(there) if there and len(there) == len(found) else None  # never other seeds than were asked for

    def floor_value(self, measure: Measure) -> float | None:
        """Of the pixel neighbour, who neither reranks nor is finetuned, and classifies in one way."""
        plain = [
            part._replace(
                task="classify" if part.task == "probe" else part.task,
                metric=part.metric.removeprefix("match_"),
                k=0,
                finetuned=False,
            )
            for part in measure.parts
        ]
        items = items_of(self.floor_rows, replace(measure, parts=tuple(plain)))
        return None if items is None else float(items.mean())

    def chance(self, measure: Measure) -> float | None:
        for rows in self.rows.values():
            found = [rows[part]["chance"] for part in measure.parts if part in rows]
            if len(found) == len(measure.parts):
                return float(np.mean(found))
        return None

    def cpu_seconds(self) -> float:
        files = [*self.files.values(), *filter(None, [self.floor])]
        return self.probe_seconds + sum(sum(told["cpu_seconds"].values()) for told in files)


def by_key(told: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    return {
        Key(row["task"], row["metric"], row["medium"], row["k"], row.get("finetuned", False), row["view"]): row
        for row in told["results"]
    }


def items_of(rows: dict[Key, dict[str, Any]], measure: Measure) -> np.ndarray | None:
    """(N,) what each item scored."""
    found = [rows.get(part) for part in measure.parts]
    if not all(found):
        return None
    return np.mean([scores(row["items"]) for row in found if row], axis=0)


def scores(items: str) -> np.ndarray:
    """(N,) of a row's text: a digit each, or numbers between blanks."""
    return np.array(items.split() if " " in items or "." in items else list(items), dtype=np.float64)


# --- statistics ------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """A mean over seeds and items, its interval over items, and the values of single seeds."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, None for one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None

    @property
    def verdict(self) -> str:
        """Of a difference whose good side is above zero. One seed shows nothing."""
        if len(self.by_seed) < 2:
            return "not shown"
        if self.low > 0 and min(self.by_seed) > 0:
            return "shown"
        if self.high < 0 and max(self.by_seed) < 0:
            return "the reverse"
        return "not shown"


def told(values: np.ndarray, together: int = 1) -> Told:
    """Of (S, N): what the items scored, or how two runs differ on them."""
    by_item = values.mean(0).reshape(-1, together).mean(1)
    draws = np.random.default_rng(SEED).integers(0, len(by_item), (DRAWS, len(by_item)))
    low, high = np.percentile(by_item[draws].mean(1), (2.5, 97.5))
    return Told(float(values.mean()), float(low), float(high), tuple(values.mean(1).tolist()))


def of_run(study: Study, name: str, measure: Measure, seeds: Sequence[int]) -> Told | None:
    values = study.values(name, seeds, measure)
    return None if values is None else told(values, measure.together)


def difference(study: Study, name: str, other: str, measure: Measure, seeds: Sequence[int] = ()) -> Told | None:
    """How far `name` is ahead of `other`, item by item, on the seeds that both have."""
    seeds = seeds or study.seeds(name, other)
    one, two = study.values(name, seeds, measure), study.values(other, seeds, measure)
    return None if one is None or two is None else told(one - two, measure.together)
