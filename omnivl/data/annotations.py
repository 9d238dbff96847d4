"""Annotation files to items: one short reader function a format, listed in `FORMATS`.

A reader gets (path, root, split) and returns the data set's items; it decodes no media. Problems of the file are errors
that name the line; texts that are empty are dropped and counted. The paper (OmniVL, arXiv 2209.07526) says nothing
about files: both formats are ours.
"""

import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omnivl.data.files import LEFT_OUT, find_media, is_media, natural, resolve

Span = tuple[str, float | None, float | None]  # media, start, end: what is one item
VALIDATION = ("validation", "val", "valid")
SPLITS = ("train", *VALIDATION, "test")


@dataclass(frozen=True)
class Question:
    """One question about a picture or clip, with its annotators' answers; none where they are not published."""

    text: str
    answers: tuple[tuple[str, float], ...] = ()  # (answer, weight): how many annotators gave it
    id: str = ""
    kind: str = ""  # of the answer, as the data set names it: "yes/no", "number", "other"


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

    @property
    def key(self) -> str:
        """What names the item in reports: its id, else its file, with the span where there is one."""
        if self.id or (self.start is None and self.end is None):
            return self.id or str(self.media)
        return f"{self.media} [{self.start or 0:g} s to {'the end' if self.end is None else f'{self.end:g} s'}]"


@dataclass
class Annotations:
    items: list[Item]
    dropped: dict[str, int] = field(default_factory=dict)  # what was left out -> how often

    @property
    def labels(self) -> list[str]:
        """The classes, in numeric order where they are numbers."""
        return sorted({item.label for item in self.items if item.label}, key=lambda name: natural(Path(name)))


# --- manifest --------------------------------------------------------------------------------------------------------


def read_manifest(path: Path, root: Path | None, split: str) -> Annotations:
    """JSON lines: {"media": .., "caption": ".." or [".."], "label": .., "id": .., "start": s, "end": s}.

    `media` is relative to `root`, or to the manifest's folder. Rows of the same media and span are one item with
    several captions; of several ids it keeps the first. A row may carry "split"; those of another one are left out. A
    row that only asks a "question" gives an item without texts.

    Raises ValueError naming the line that is not a JSON object, lacks "media" or anything said of it, gives an id to
    two items or two labels to one; and where nothing is left.
    """
    base = root if root is not None else resolve(path).parent
    found: dict[Span, Item] = {}  # with the first label and id
    said: dict[Span, dict[str, None]] = {}  # captions; one item may have millions
    owners: dict[str, Span] = {}
    dropped: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()  # rows of other splits
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        named = text_of(row, "split", where)
        if named and named != split:
            elsewhere[named] += 1
            continue
        media, label, identity = media_of(row, where), name_of(row, "label", where), name_of(row, "id", where)
        captions = captions_of(row, where)
        blank = captions.count("")
        if blank:
            dropped["empty captions"] += blank
        if len(captions) == blank and not label and not text_of(row, "question", where):
            if not blank:
                dropped["rows that say nothing"] += 1
            continue
        span = (unicodedata.normalize("NFC", os.path.normpath(media)), *span_of(row, where))
        if identity and owners.setdefault(identity, span) != span:
            raise ValueError(
                f"{where}: id {identity!r} was given to {owners[identity][0]!r} before; ids must be unique"
            )
        item = found.setdefault(span, Item(base / media, label=label, id=identity, start=span[1], end=span[2]))
        if label and item.label and item.label != label:
            raise ValueError(f"{where}: {media!r} has the label {label!r} here and {item.label!r} before")
        found[span] = replace(item, label=item.label or label, id=item.id or identity)
        said.setdefault(span, {}).update((caption, None) for caption in captions if caption)
    if not found:
        others = ", ".join(f"{count:,} of split {name!r}" for name, count in elsewhere.items())
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise ValueError(
            f"{path} holds no items of split {split!r}: "
            + ("; ".join(filter(None, (others, left_out))) or "it has no rows")
        )
    return Annotations([replace(item, captions=tuple(said[span])) for span, item in found.items()], dict(dropped))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON lines file; a byte order mark, CRLF and blank lines are invisible."""
    try:
        with resolve(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json_object(line, f"{path}, line {number}")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a manifest; class folders are written folder:{path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        told = getattr(error, "msg", None) or str(error).partition(";")[0]
        raise ValueError(f"{where} is not JSON: {told} (a manifest has one object a line)") from None
    if not isinstance(row, dict):
        raise ValueError(f'{where} must be a JSON object like {{"media": ...}}, got {line.strip()[:40]}')
    return row


def clean(text: str) -> str:
    """Without blanks around it, and without halves of surrogate pairs, which cannot be written anywhere."""
    return text.encode("utf-8", "replace").decode().strip()


def media_of(row: dict[str, Any], where: str) -> str:
    media = row.get("media")
    if not isinstance(media, str) or not media.strip():
        raise ValueError(f'{where}: a row needs "media", a path, got {media!r}')
    if not {"caption", "label", "question"} & set(row):
        raise ValueError(f'{where}: a row needs "caption", "label" or "question" beside "media"')
    return media


def captions_of(row: dict[str, Any], where: str) -> list[str]:
    """A caption or a list of them, empty ones kept for counting; a text is never read letter by letter."""
    value = row.get("caption", [])
    values = value if isinstance(value, list) else [value]
    if not all(caption is None or isinstance(caption, str) for caption in values):
        raise ValueError(f'{where}: "caption" must be a text or a list of texts, got {str(value)[:60]}')
    return [clean(caption or "") for caption in values]


def text_of(row: dict[str, Any], name: str, where: str) -> str:
    """A text; "" where there is none."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'{where}: "{name}" must be a text, got {str(value)[:60]}')
    return clean(value or "")


def name_of(row: dict[str, Any], name: str, where: str) -> str:
    """A name or a whole number, as a text with its accents composed; "" where there is none."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
        raise ValueError(f'{where}: "{name}" must be a name or a whole number, got {str(value)[:60]}')
    return unicodedata.normalize("NFC", clean("" if value is None else str(value)))


def span_of(row: dict[str, Any], where: str) -> tuple[float | None, float | None]:
    """(start, end) in seconds, None where not given."""
    for name in ("start", "end"):
        value = row.get(name)
        number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if not number or (value is not None and not 0 <= value < math.inf):
            raise ValueError(f'{where}: "{name}" must be seconds from 0, got {str(value)[:60]}')
    start, end = (None if row.get(name) is None else float(row[name]) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise ValueError(f'{where}: "end" is {end:g} s, which must be later than "start" ({start or 0:g} s)')
    return start, end


# --- class folders ---------------------------------------------------------------------------------------------------


def read_folder(path: Path, root: Path | None, split: str) -> Annotations:
    """A folder of class folders, each full of pictures and clips; the folder's name is the class. `root` means nothing.

    Where the folder holds train/, test/ and the like, each with class folders, the split's is read (train/cat/1.jpg).
    Raises ValueError where nothing is found.
    """
    base = split_folder(resolve(path), split)
    items: list[Item] = []
    dropped: Counter[str] = Counter()
    for folder in subfolders(base):
        media = find_media(folder)
        items += [Item(file, label=unicodedata.normalize("NFC", folder.name)) for file in media]
        if not media:
            dropped["class folders without pictures or clips"] += 1
    loose = sum(file.is_file() and not file.name.startswith(".") and is_media(file) for file in base.iterdir())
    if loose:
        dropped["pictures or clips outside of class folders"] += loose
    if not items:
        beside = "".join(f"; it has {count:,} {reason}" for reason, count in dropped.items())
        raise ValueError(f"{base} holds no class folders with pictures or clips (wanted: CLASS/picture.jpg){beside}")
    return Annotations(items, dict(dropped))


def split_folder(path: Path, split: str) -> Path:
    """Where the class folders of a split are: below `path`, or `path` itself where it is not taken apart."""
    for name in VALIDATION if split in VALIDATION else (split,):
        if subfolders(path / name):  # without folders of its own it is a class of that name
            return path / name
    parts = [folder.name for folder in subfolders(path) if folder.name in SPLITS and subfolders(folder)]
    if parts:
        raise ValueError(f"{path} has no folder of split {split!r}; it has {', '.join(parts)}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a folder" if path.exists() else f"{path}: no such folder")
    return path


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder that may hold media, in natural order; none where `path` is no folder."""
    try:
        found = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in LEFT_OUT]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda folder: natural(Path(folder.name)))


FORMATS: dict[str, Callable[[Path, Path | None, str], Annotations]] = {
    "manifest": read_manifest,
    "folder": read_folder,
}
