"""What is wrong with a data set: every bad row, every medium that is missing or does not decode, each named.

All annotations are read, then every picture is decoded whole and a few frames of every clip, which is what training
would do. Files of equal size are compared by their bytes. The paper (OmniVL, arXiv 2209.07526) says nothing about this.
"""

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from omnivl.data.annotations import FORMATS, Annotations, Item, Problem
from omnivl.data.loader import follow_the_parent, started
from omnivl.data.media import resolve
from omnivl.data.reading import looked_at, medium_of
from omnivl.data.sample import BadSample
from omnivl.data.shards import open_shards

NUM_FRAMES = 4  # of a clip that must decode
MANY = 200  # items for which starting workers is worth it

Look = tuple[str, "list[Problem]"]  # the medium of an item ("" where it does not decode), what is wrong with its file
Progress = Callable[[Iterable[Look], int], Iterable[Look]]  # shows how far it is while they pass through


@dataclass
class Report:
    """What a data set holds and what is wrong with it."""

    data: str
    split: str
    items: int
    captions: int
    questions: int
    labels: int
    media: dict[str, int]  # items that decode, by image and video
    problems: list[Problem] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Problems of each kind, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())


def check(data: str, root: Path | None, split: str, progress: Progress, *, num_workers: int | None = None) -> Report:
    """Everything that is wrong with the data set FORMAT:FILE. Its media are decoded by this process (0) or by workers;
    by default one a core, where there are enough items for it.

    Raises ValueError (one sentence) where it cannot be read at all, or a decoder takes its worker with it.
    """
    name, _, path = data.partition(":")
    if name not in (*FORMATS, "shards") or not path:
        raise ValueError(
            f"{data!r} cannot be checked: write FORMAT:FILE, FORMAT one of {', '.join(FORMATS)}, shards "
            "(`omnivl data formats` describes them)"
        )
    if name == "shards":
        annotations = of_shards(path)
    else:
        annotations = FORMATS[name](Path(os.path.expanduser(path)), root, split, on_error="collect")
    media: Counter[str] = Counter()
    problems = annotations.problems
    if num_workers is None:
        num_workers = (os.cpu_count() or 1) if len(annotations.items) >= MANY else 0
    for medium, found in progress(looks(annotations.items, num_workers), len(annotations.items)):
        problems += found
        media.update([medium] if medium else [])
    problems += same_files(annotations.items)
    return Report(data, split, *annotations.counts(), len(annotations.labels), dict(media), problems)


def of_shards(pattern: str) -> Annotations:
    """All samples of some shards, and what is wrong before any is decoded."""
    shards = open_shards(pattern)
    problems = [Problem("shards", pattern, line) for line in shards.told]
    problems += [Problem("left out", pattern, f"{count:,} {reason}") for reason, count in shards.dropped.items()]
    return Annotations(list(shards), shards.dropped, problems)


class Looks(Dataset[Look]):
    """A `look` at each item."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Look:
        return look(self.items[place])


def looks(items: Sequence[Item], num_workers: int) -> Iterator[Look]:
    """A look at each item, in order."""
    loader = DataLoader(Looks(items), batch_size=None, num_workers=num_workers, worker_init_fn=follow_the_parent)
    try:
        yield from started(loader)
    except RuntimeError as error:  # a decoder's own crash
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ValueError(
            "a process that decodes media ended: a damaged file may have crashed its decoder, or memory is short; "
            "check with --workers 0 to see at which item"
        ) from None


def look(item: Item) -> Look:
    if not item.content and not os.path.exists(resolve(item.media)):
        return "", [problem("missing media", item, f"{item.media}: no such file")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            medium = medium_of(item)
            looked_at(item, medium, NUM_FRAMES)
        except BadSample as error:
            return "", [problem("media that do not decode", item, str(error))]
    return medium, [problem("damaged media", item, str(warned.message)) for warned in told]


def problem(kind: str, item: Item, reason: str) -> Problem:
    """A problem of an item's file, which is named once."""
    return Problem(kind, item.key, reason.removeprefix(f"{item.key}: "))


def same_files(items: list[Item]) -> Iterator[Problem]:
    """Items whose files hold the same bytes as another's. Only files of equal size are read for it."""
    by_size: dict[int, dict[Path, Item]] = defaultdict(dict)  # spans of one file are no copies
    for item in items:
        file = resolve(item.media)
        if not item.content and os.path.isfile(file) and os.access(file, os.R_OK):
            by_size[file.stat().st_size].setdefault(file, item)
    for size, files in by_size.items():
        first: dict[bytes, Path] = {}
        for file, item in files.items() if size and len(files) > 1 else ():
            try:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "blake2b").digest()
            except OSError:  # which has been told when it was looked at
                continue
            if first.setdefault(digest, file) != file:
                yield Problem("repeated media", item.key, f"{file} holds the same bytes as {first[digest]}")
