"""Annotation files to items: one short reader function a format, listed in `FORMATS`.

A reader gets (path, root, split) and returns the data set's items; it opens no media. Problems of the file are errors
that name the line; texts that are empty are dropped and counted.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivl.data.media import find_media


@dataclass(frozen=True)
class Item:
    """One picture or clip with all that is said of it."""

    media: Path
    captions: tuple[str, ...] = ()
    label: str = ""
    id: str = ""
    start: float | None = None  # seconds
    end: float | None = None


@dataclass
class Annotations:
    items: list[Item]
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> count

    @property
    def labels(self) -> list[str]:
        """The classes, in numeric order where they are numbers."""
        return sorted({item.label for item in self.items if item.label}, key=natural)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: "2" before "10"."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def read_manifest(path: Path, root: Path | None, split: str) -> Annotations:
    """JSON lines: {"media": .., "caption": ".." or [".."], "label": .., "id": .., "start": s, "end": s}.

    Rows of the same media and span are one item with several captions. A row may carry "split"; others are left out.
    Raises ValueError naming the line that is not a JSON object, or lacks "media" or anything said of it.
    """
    base = root if root is not None else path.parent
    spans: dict[tuple[str, float | None, float | None], dict[str, Any]] = {}
    owners: dict[str, tuple[str, float | None, float | None]] = {}
    dropped: dict[str, int] = {}
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        media = row.get("media")
        if not isinstance(media, str) or not media.strip():
            raise ValueError(f'{where}: a row needs "media", a path, got {media!r}')
        if "split" in row and row["split"] != split:
            continue
        span = (media, seconds(row, "start", where), seconds(row, "end", where))
        captions = caption_list(row.get("caption"), where)
        label = row.get("label")
        if (label is not None and not isinstance(label, (str, int))) or isinstance(label, bool):
            raise ValueError(f'{where}: "label" must be a name or a whole number, got {label!r}')
        label = "" if label is None else str(label).strip()
        said = [caption for caption in captions if caption]
        if not said and not label and "question" not in row:
            if not captions and "caption" not in row:
                raise ValueError(f'{where}: a row needs "caption", "label" or "question" beside "media"')
            dropped["empty caption"] = dropped.get("empty caption", 0) + 1
            continue
        if len(said) < len(captions):
            dropped["empty caption"] = dropped.get("empty caption", 0) + len(captions) - len(said)
        identity = str(row.get("id", ""))
        if identity and owners.setdefault(identity, span) != span:
            raise ValueError(
                f"{where}: id {identity!r} was given to {owners[identity][0]!r} before; ids must be unique"
            )
        seen = spans.setdefault(span, {"captions": {}, "label": label, "id": identity})
        if label and seen["label"] and seen["label"] != label:
            raise ValueError(f"{where}: {media!r} has the label {label!r} here and {seen['label']!r} before")
        seen["label"] = seen["label"] or label
        seen["captions"] |= dict.fromkeys(said)
    items = [
        Item(base / media, tuple(entry["captions"]), entry["label"], entry["id"], start, end)
        for (media, start, end), entry in spans.items()
    ]
    return Annotations(items, dropped)


def read_folder(path: Path, root: Path | None, split: str) -> Annotations:
    """A folder of class folders, each full of pictures and clips; the folder's name is the class.

    A subfolder named like the split is descended into first (train/cat/1.jpg). Raises ValueError where nothing is
    found.
    """
    base = path / split if (path / split).is_dir() else path
    if not base.is_dir():
        raise ValueError(f"{base}: no such folder")
    classes = sorted(
        (p for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: natural(p.name)
    )
    items = [Item(media, label=folder.name) for folder in classes for media in find_media(folder)]
    if not items:
        raise ValueError(f"{base} holds no class folders with pictures or clips (wanted: CLASS/picture.jpg)")
    return Annotations(items)


FORMATS: dict[str, Callable[[Path, Path | None, str], Annotations]] = {
    "manifest": read_manifest,
    "folder": read_folder,
}


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON lines file; a byte order mark, CRLF and blank lines are invisible."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number} must be a JSON object like {{"media": ...}}, got {line.strip()[:40]}'
            )
        yield number, row


def caption_list(value: Any, where: str) -> list[str]:
    """A caption or a list of them as stripped texts, empty ones kept for counting; never letter by letter."""
    values = value if isinstance(value, list) else [value]
    if not all(caption is None or isinstance(caption, str) for caption in values):
        raise ValueError(f'{where}: "caption" must be a text or a list of texts, got {value!r}')
    return [] if value is None else [(caption or "").strip() for caption in values]


def seconds(row: dict[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f'{where}: "{name}" must be seconds from 0, got {value!r}')
    return float(value)
