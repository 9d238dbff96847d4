"""Which files a search may answer with: conditions on kind, folder, date and length, applied before the search."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omnivl.data.media import resolve

SELECT = """
SELECT windows.row, files.id FROM files JOIN contents ON contents.id = files.content
JOIN windows ON windows.content = contents.id {} ORDER BY windows.row, files.id
"""


@dataclass(frozen=True)
class Filters:
    """Conditions that all hold; none by default. Raises ValueError for a date or kind that is none."""

    kind: str | None = None  # image or video
    folders: tuple[str, ...] = ()  # each a folder and all in it, or the name of a folder anywhere, such as "Holiday"
    after: str | None = None  # taken at this moment or later: "2024-05-01", "2024-05", "2024", "2024-05-01T13:30"
    before: str | None = None  # taken earlier than this
    min_duration: float | None = None  # seconds; pictures have none
    max_duration: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, "image", "video"):
            raise ValueError(f"a kind is image or video, got {self.kind!r}")
        for moment in (self.after, self.before):
            if moment is not None:
                start_of(moment)

    def query(self) -> tuple[str, Sequence[Any]]:
        """SQL for (row, file) of what may be found, and its values."""
        conditions: list[tuple[str, list[Any]]] = []
        if self.kind:
            conditions.append(("contents.kind = ?", [self.kind]))
        conditions += [in_folder(folder) for folder in self.folders]
        if self.after:
            conditions.append(("files.taken >= ?", [start_of(self.after)]))
        if self.before:
            conditions.append(("files.taken < ?", [start_of(self.before)]))
        if self.min_duration is not None:
            conditions.append(("contents.duration >= ?", [self.min_duration]))
        if self.max_duration is not None:
            conditions.append(("contents.duration <= ?", [self.max_duration]))
        where = f"WHERE {' AND '.join(text for text, _ in conditions)}" if conditions else ""
        return SELECT.format(where), [value for _, values in conditions for value in values]


def below(folder: str | Path) -> tuple[bytes, bytes]:
    """The range of paths in a folder and all folders in it: from the first to before the second."""
    prefix = os.fsencode(folder).rstrip(b"/")
    return prefix + b"/", prefix + b"0"  # the byte after "/"


def folder_here(folder: str) -> Path | None:
    """The folder of this machine that is meant; None where there is none: then it is a name, which many may have."""
    path = resolve(Path(os.path.expanduser(folder)).absolute())
    return path if os.path.isdir(path) else None  # also where it is too long for a path


def in_folder(folder: str) -> tuple[str, list[Any]]:
    if path := folder_here(folder):
        return "files.path >= ? AND files.path < ?", list(below(path))
    return "instr(files.path, ?) > 0", [b"/" + os.fsencode(folder).strip(b"/") + b"/"]


def start_of(moment: str) -> str:
    """The first second of a day, month or year, or a time as it is. Raises ValueError."""
    for form in ("%Y", "%Y-%m"):
        try:
            return datetime.strptime(moment, form).isoformat()
        except ValueError:
            continue
    try:
        return datetime.fromisoformat(moment).replace(tzinfo=None).isoformat()
    except ValueError:
        raise ValueError(f"{moment!r} is not a date: write it like 2024-05-01, 2024-05 or 2024") from None
