"""Items, and how the rows of an annotation file become them.

A reader is a short generator of rows: (where it stands in the file, an `Item` of what that row says). `gather` makes
one item of all rows of the same media and span, drops what is empty and counts it, and finds ids and labels that clash.
What is wrong with a file is raised as it is met, or collected while reading goes on (`on_error`), which is how a whole
set is checked. This room knows no format and decodes no media.
"""

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from omnivl.data.files import natural
from omnivl.data.sample import Question as Question
from omnivl.data.tar import Member

Span = tuple[str, float | None, float | None]  # media, start, end: what is one item
OnError = Literal["raise", "collect"]


@dataclass(frozen=True)
class Item:
    """One picture or clip with all that is said and asked of it."""

    media: Path
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    label: str = ""
    id: str = ""
    start: float | None = None  # seconds
    end: float | None = None
    content: bytes | Member = field(default=b"", repr=False)  # the file, where `media` names a place within another

    @property
    def key(self) -> str:
        """What names the item in reports: its id, else its file, with the span where there is one."""
        if self.id or (self.start is None and self.end is None):
            return self.id or str(self.media)
        return f"{self.media} [{self.start or 0:g} s to {'the end' if self.end is None else f'{self.end:g} s'}]"

    @property
    def source(self) -> Path | bytes | Member:
        """What `read_image` and `read_video` take."""
        return self.content or self.media


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set."""

    kind: str
    item: str  # the line of the file, the item's key, or the file
    reason: str


@dataclass
class Annotations:
    items: list[Item]
    dropped: dict[str, int] = field(default_factory=dict)  # what was left out -> how often
    problems: list[Problem] = field(default_factory=list)  # with on_error="collect" alone

    @property
    def labels(self) -> list[str]:
        """The classes, in numeric order where they are numbers."""
        return sorted({item.label for item in self.items if item.label}, key=lambda name: natural(Path(name)))

    def counts(self) -> tuple[int, int, int]:
        """Items, captions, questions."""
        sizes = ((len(item.captions), len(item.questions)) for item in self.items)
        captions, questions = map(sum, zip(*sizes, strict=True)) if self.items else (0, 0)
        return len(self.items), captions, questions


class Notes:
    """What a reader noticed beside its rows."""

    def __init__(self, on_error: OnError = "raise") -> None:
        self.collecting = on_error == "collect"
        self.problems: list[Problem] = []
        self.dropped: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()  # rows of other splits

    def fault(self, kind: str, where: str, reason: str) -> None:
        """An error in the file: raised as one sentence, or kept."""
        if not self.collecting:
            raise ValueError(f"{where}: {reason}")
        self.problems.append(Problem(kind, where, reason))

    def drop(self, what: str, where: str, reason: str, count: int = 1) -> None:
        """Something that says nothing: left out and counted, no error."""
        self.dropped[what] += count
        if self.collecting:
            self.problems += [Problem(what, where, reason)] * count


Row = tuple[str, Item]  # where it stands, what it says; its captions may be empty
Rows = Callable[[Path, Path | None, str, Notes], Iterator[Row]]


class Reader(Protocol):
    def __call__(self, path: Path, root: Path | None, split: str, on_error: OnError = "raise") -> Annotations:
        """The items of a split of the file or folder `path`; `root` is where media are looked for (none: beside it).

        Raises ValueError (one sentence) for a file that is missing or not of the format, or holds nothing of the split;
        and for the first bad row, unless problems are to be collected.
        """
        ...


def reader(*, distinct: bool = False) -> Callable[[Rows], Reader]:
    """Makes a reader of a generator of rows. `distinct`: what is said twice of an item counts once; published sets keep
    their repeated captions, on which the field's numbers rest."""

    def decorate(rows: Rows) -> Reader:
        @functools.wraps(rows)
        def read(path: Path, root: Path | None, split: str, on_error: OnError = "raise") -> Annotations:
            notes = Notes(on_error)
            items = gather(of_that_shape(path, rows(path, root, split, notes)), notes, distinct)
            if not items and not notes.problems:
                others = (f"{count:,} of split {name!r}" for name, count in notes.elsewhere.items())
                left_out = (f"{count:,} {reason}" for reason, count in notes.dropped.items())
                told = "; ".join(filter(None, (", ".join(others), ", ".join(left_out)))) or "it has no rows"
                raise ValueError(f"{path} holds no items of split {split!r}: {told}")
            return Annotations(items, dict(notes.dropped), notes.problems)

        return read

    return decorate


def of_that_shape(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows; where a published file lacks a field or holds another type there, one sentence says so."""
    try:
        yield from rows
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not what this format reads: {told} (see `omnivl data formats`)") from error


@dataclass
class Gathered:
    """The first row of an item, and what all of its rows say."""

    first: Item
    captions: Counter[str] = field(default_factory=Counter)  # in the order in which they came
    questions: dict[Question, None] = field(default_factory=dict)
    label: str = ""
    id: str = ""


def gather(rows: Iterator[Row], notes: Notes, distinct: bool) -> list[Item]:
    """One item of all rows of the same media and span, in the order of the first ones; of several ids the first."""
    found: dict[Span, Gathered] = {}
    owners: dict[str, Span] = {}
    askers: dict[str, Span] = {}
    for where, row in rows:
        if told := no_text(row):
            notes.fault("unreadable rows", where, told)
            continue
        texts = [caption for caption in row.captions if caption]
        if blank := len(row.captions) - len(texts):
            notes.drop("empty captions", where, f"an empty caption of {str(row.media)!r}", blank)
        silent = not (texts or row.label or row.questions)
        if silent and not blank:
            notes.drop("rows that say nothing", where, f"nothing is said of {str(row.media)!r}")
        if silent and not notes.collecting:  # whoever collects wants to know of its file, too
            continue
        span = (unicodedata.normalize("NFC", os.path.normpath(row.media)), row.start, row.end)
        if row.id and owners.setdefault(row.id, span) != span:
            was = owners[row.id][0]
            notes.fault("clashing ids", where, f"id {row.id!r} was given to {was!r} before; ids must be unique")
        for asked in row.questions:
            if asked.id and askers.setdefault(asked.id, span) != span:
                was = askers[asked.id][0]
                notes.fault("clashing ids", where, f"question id {asked.id!r} was asked of {was!r} before")
        item = found.setdefault(span, Gathered(row))
        if row.label and item.label and row.label != item.label:
            told = f"{str(row.media)!r} has the label {row.label!r} here and {item.label!r} before"
            notes.fault("clashing labels", where, told)
        elif distinct and not silent and says_no_more(row, texts, item):
            notes.drop("repeated rows", where, f"all of it was said of {str(row.media)!r} before")
        item.captions.update(texts)
        item.questions.update(dict.fromkeys(row.questions))
        item.label, item.id = item.label or row.label, item.id or row.id
    return [
        replace(
            item.first,
            captions=tuple(item.captions if distinct else item.captions.elements()),
            questions=tuple(item.questions),
            label=item.label,
            id=item.id,
        )
        for item in found.values()
    ]


def no_text(row: Item) -> str:
    """A sentence where a question, an answer or a label of a row is no text, as JSON may have it; else ""."""
    for asked in row.questions:
        if not isinstance(asked.text, str) or not asked.text.strip():
            return f'"question" must be a text, got {str(asked.text)[:60]!r}'
        for answer, _ in asked.answers:
            if not isinstance(answer, str):
                return f'"answer" must be a text, got {str(answer)[:60]}'
    return "" if isinstance(row.label, str) else f"a label must be a text, got {str(row.label)[:60]}"


def says_no_more(row: Item, texts: list[str], item: Gathered) -> bool:
    """Whether all that a row says of an item was said before."""
    old = all(text in item.captions for text in texts) and all(asked in item.questions for asked in row.questions)
    return old and (not row.label or row.label == item.label)
