"""What an evaluation has done so far: rows of items, kept on disk as they come, so that one that was stopped goes on
where it was and comes to the same numbers.

A row is what the model made of one item: texts, or float32 numbers. It belongs to a part of the evaluation (a task on a
gallery) and to no rank: each rank writes a file of its own and reads all of them, so any number of processes goes on
with what any other number began. Whoever opens a `Work` gives it a key of all that changes its rows but the media: a
row holds the state of its item's file, and counts while that is the same. What could not be read has no row, and is
tried again. This room knows no model and no task.
"""

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivl import distributed
from omnivl.data.sample import Gallery

log = logging.getLogger(__name__)

Row = Any  # a text, a list of texts, or a tensor (n,) float32 on the CPU
Act = Callable[[list[int], Tensor], Sequence[Row]]  # items and their pixels (b, T, C, H, W) -> a row of each
Tell = Callable[[str, int, int], None]  # what is being done, how many items of it are done, of how many


def digest(*told: object) -> str:
    """What names things in a key, by how they are written."""
    return hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Work:
    """Rows in FOLDER/KEY.RANK.sqlite, one file a rank; without a folder nothing is kept, and all else is the same.

    `tell` hears of the progress. Raises OSError where the files cannot be read or written.
    """

    def __init__(self, folder: Path | None = None, key: str = "", tell: Tell | None = None) -> None:
        self.folder, self.key, self.tell = folder, key, tell
        self.writer: sqlite3.Connection | None = None
        others = [] if folder is None else [p for p in folder.glob("*.sqlite") if p.name.partition(".")[0] != key]
        if others and distributed.is_main():
            log.warning(
                "%s holds unfinished work of another model, other data or other settings: it is not used (remove the "
                "folder if nobody will go on with it)",
                folder,
            )

    def rows(self, what: str, gallery: Gallery, size: int, act: Act, *more: object) -> dict[int, Row]:
        """The rows of this rank's items that can be read, `size` of them made at a time by `act`; then what could not
        be read is known on every rank. `more` is what they depend on beside the gallery."""
        own, part = distributed.own_part(len(gallery)), self.part(what, gallery, *more)
        found = self.known(part, gallery, own)
        step = self.steps(f"{what}, {gallery.name}, {gallery.medium}", len(own), len(found))
        for first in range(0, len(own), size):  # the same batches, whatever is known already
            wanted = [item for item in own[first : first + size] if item not in found]
            for items, pixels in gallery.batches(size, wanted):
                made = dict(zip(items, act(items, pixels), strict=True))
                self.keep(part, gallery, made)
                found |= made
            step(len(wanted))
        gallery.gather_bad()
        return found

    def part(self, what: str, gallery: Gallery, *more: object) -> str:
        """The name of a part: what it is of, with all that is said of the items."""
        g = gallery
        return f"{what} " + digest(
            g.name, g.split, g.medium, g.keys, g.captions, g.labels, g.questions, g.views, g.motions, *more
        )

    def steps(self, what: str, total: int, known: int) -> Callable[[int], None]:
        """To be called with how many more items are done: tells of those of all ranks that were not known."""
        if known:
            log.info("%s: %d of %d items were done before", what, known, total)
        done, tell, ranks = 0, self.tell, distributed.world_size()
        if tell is not None and known < total:
            tell(what, 0, (total - known) * ranks)

        def step(count: int) -> None:
            nonlocal done
            done += count
            if tell is not None and count:
                tell(what, done * ranks, (total - known) * ranks)

        return step

    # --- files ---

    def known(self, part: str, gallery: Gallery, items: Sequence[int]) -> dict[int, Row]:
        """The rows of some items that were kept and whose files are as they were."""
        found: dict[int, Row] = {}
        for path in [] if self.folder is None else sorted(self.folder.glob(f"{self.key}.*.sqlite")):
            with self.told(path), contextlib.closing(connect(path)) as file:
                for item, state, row in file.execute("SELECT item, state, row FROM rows WHERE part = ?", (part,)):
                    if item in items and state == gallery.state(item):
                        found[item] = decoded(row)
        return found

    def keep(self, part: str, gallery: Gallery, rows: Mapping[int, Row]) -> None:
        """All of these rows, or none where the process is killed meanwhile."""
        if self.folder is None:
            return
        path = self.folder / f"{self.key}.{distributed.rank()}.sqlite"
        with self.told(path):
            if self.writer is None:
                self.folder.mkdir(exist_ok=True)
                self.writer = connect(path)
            with self.writer:
                rows_to_write = [(part, item, gallery.state(item), encoded(row)) for item, row in rows.items()]
                self.writer.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", rows_to_write)

    def remove(self) -> None:
        """At the end, when the numbers are safe: every rank's rows."""
        if self.folder is None:
            return
        if self.writer is not None:
            self.writer.close()
        distributed.gather_objects(None)  # no rank has its file open any more
        if distributed.is_main():
            for path in self.folder.glob(f"{self.key}.*"):
                path.unlink()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    @contextlib.contextmanager
    def told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{path}, which keeps what is done so far, cannot be used: {error}") from error


def connect(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=60)
    file.execute("CREATE TABLE IF NOT EXISTS rows (part TEXT, item INTEGER, state TEXT, row, PRIMARY KEY (part, item))")
    return file


def encoded(row: Row) -> str | bytes:
    return row.numpy().astype("<f4").tobytes() if isinstance(row, Tensor) else json.dumps(row)


def decoded(row: str | bytes) -> Row:
    return torch.from_numpy(np.frombuffer(row, "<f4").copy()) if isinstance(row, bytes) else json.loads(row)


def table(rows: Mapping[int, Tensor], length: int, width: int) -> tuple[Tensor, Tensor]:
    """The rows of all ranks as (length, width) float32, zero where an item has none, and (length,) bool, which have
    one; on the CPU."""
    found, there = torch.zeros(length, width), torch.zeros(length)
    if rows:
        numbers = list(rows)
        found[numbers], there[numbers] = torch.stack([rows[number] for number in numbers]), 1.0
    return distributed.fill_from_ranks(found), distributed.fill_from_ranks(there).bool()
