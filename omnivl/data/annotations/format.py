"""What is known of a format beside its reader: files, media, the field's counts, terms, and where its shape was read.

A set that has other counts than the field reports is still read, and one warning says so.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omnivl.data.annotations.items import Annotations, OnError, Problem, Reader
from omnivl.data.annotations.own import VALIDATION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """How many items, captions and questions a split has; None where the field names no number."""

    items: int | None = None
    captions: int | None = None
    questions: int | None = None


@dataclass(frozen=True)
class Format:
    reader: Reader
    title: str
    files: str  # what is written after the colon, and what must lie beside it
    media: str  # how the media lie below the root
    splits: Mapping[str, Count] = field(default_factory=dict)  # none: any split
    terms: str = ""
    obtainable: str = ""
    verified: str = ""  # what its shape was read in; "" where neither documentation nor a peer's loader could be

    def __call__(self, path: Path, root: Path | None, split: str, on_error: OnError = "raise") -> Annotations:
        """The items of a split. Other counts than the field's are a warning, or with "collect" one of the problems.

        Raises ValueError (one sentence) for a split or file that is not there or a row that is wrong.
        """
        name = self.own_split(split)
        annotations = self.reader(path, root, name, on_error)
        told = self.differs(annotations, name)
        if told and on_error == "collect":
            annotations.problems.append(Problem("other counts", str(path), told))
        elif told:
            log.warning("%s: %s", path, told)
        return annotations

    def own_split(self, split: str) -> str:
        """The format's name of a split: "val" is "validation", and of several folds the first is meant.

        Raises ValueError where it has none such.
        """
        if not self.splits or split in self.splits:
            return split
        plain = "validation" if split in VALIDATION else split
        for name in (plain, f"{plain}1"):
            if name in self.splits:
                return name
        raise ValueError(f"{self.title} has no split {split!r}: choose {', '.join(self.splits)}")

    def differs(self, annotations: Annotations, split: str) -> str:
        """A sentence on counts that are not the field's; "" where all are."""
        expected = self.splits.get(split, Count())
        wanted = (expected.items, expected.captions, expected.questions)
        told = [
            f"{has:,} {what} where the field has {number:,}"
            for what, number, has in zip(("items", "captions", "questions"), wanted, annotations.counts(), strict=True)
            if number is not None and number != has
        ]
        return f"split {split} has {' and '.join(told)}" if told else ""


def folds(count: int, **splits: int) -> dict[str, Count]:
    """Official folds of one size, each a split with a name of its own: train1, test1, train2, ..."""
    return {f"{split}{fold}": Count(size) for fold in range(1, count + 1) for split, size in splits.items()}
