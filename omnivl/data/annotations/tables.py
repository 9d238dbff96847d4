"""What the readers share: JSON files, JSON lines, CSV and lists, each row with its line, and media by their id.

A byte order mark, CRLF and blank lines are invisible in all of them. This room knows no format of the field.
"""

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from omnivl.data.annotations.items import Notes
from omnivl.data.files import LEFT_OUT, OTHER_EXTENSIONS, natural, resolve


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text. Raises ValueError (one sentence) where it is missing, a folder, no text, or cannot be read."""
    try:
        with resolve(path).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, where an annotation file is wanted") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path: Path) -> Any:
    with opened(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {json_complaint(error)}, line {getattr(error, 'lineno', 1)}") from None


def json_lines(path: Path, notes: Notes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of a file with one JSON object a line."""
    for where, line in text_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            told = f"not JSON: {json_complaint(error)} (a manifest has one object a line)"
            notes.fault("unreadable rows", where, told)
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            told = f'must be a JSON object like {{"media": ...}}, got {line[:40]}'
            notes.fault("unreadable rows", where, told)


def json_complaint(error: Exception) -> str:
    return getattr(error, "msg", None) or str(error).partition(";")[0]


def text_lines(path: Path, *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """(where, text) of the lines that are not blank, or of all of them."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if (text := line.strip()) or blank:
                yield f"{path}, line {number}", text


def path_labels(path: Path, notes: Notes) -> Iterator[tuple[str, str, str]]:
    """(where, path, label) of a list with `PATH LABEL` a line. Paths may hold blanks: the label is the last word."""
    for where, line in text_lines(path):
        parts = line.rsplit(maxsplit=1)
        if len(parts) == 2:
            yield where, parts[0], parts[1]
        else:
            notes.fault("unreadable rows", where, f"a line needs a path and a label, got {line[:60]!r}")


def csv_rows(
    path: Path, notes: Notes, columns: Sequence[str] = (), *, tabs: bool = False, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row) of a CSV file with standard quoting, or of one with tabs and no quoting; `columns` where it names
    none itself. A row with more or fewer fields is a fault of its line, never a cut caption."""
    with opened(path) as file:
        plain = csv.reader(file, delimiter=delimiter, strict=True)
        table = csv.reader(file, csv.excel_tab, quoting=csv.QUOTE_NONE) if tabs else plain
        names = [name.strip() for name in columns or next(table, [])]
        while True:
            try:
                row = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                notes.fault("unreadable rows", f"{path}, line {table.line_num}", f"not CSV: {error}")
                continue
            where = f"{path}, line {table.line_num}"
            if len(row) == len(names):
                yield where, dict(zip(names, row, strict=True))
            elif any(cell.strip() for cell in row):
                told = f"{len(row)} fields, wanted {len(names)} ({', '.join(names)})"
                notes.fault("unreadable rows", where, told + ("" if tabs else "; a text with a comma needs quotes"))


# --- values ----------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Without blanks around it, and without halves of surrogate pairs, which cannot be written anywhere."""
    return text.encode("utf-8", "replace").decode().strip()


def captions_in(value: Any) -> tuple[str, ...]:
    """A caption or a list of them, empty ones kept for counting; a text is never read letter by letter. Raises
    TypeError for anything else."""
    values = value if isinstance(value, list) else [value]
    if not all(caption is None or isinstance(caption, str) for caption in values):
        raise TypeError(f'"caption" must be a text or a list of texts, got {str(value)[:60]}')
    return tuple(clean(caption or "") for caption in values)


# --- files -----------------------------------------------------------------------------------------------------------


def base_of(path: Path, root: Path | None) -> Path:
    """Where media are looked for: the stated root, else the folder of the annotations."""
    if root is not None:
        return root
    return path if resolve(path).is_dir() else resolve(path).parent


def file_of(path: Path, split: str, names: Mapping[str, str]) -> Path:
    """The file of a split: in the folder `path` the one of its published name, else `path` itself.

    Raises ValueError where `path` is by its name the file of another split.
    """
    if resolve(path).is_dir():
        return path / names[split]
    other = next((own for own, name in names.items() if name == path.name), split)
    if names.get(split) != path.name and other != split:
        raise ValueError(f"{path} is the file of split {other!r}, not {split!r}: name its folder, or --split {other}")
    return path


def beside(path: Path, name: str) -> Path:
    """Another file in the same folder; `path` may be that folder."""
    return (path if resolve(path).is_dir() else path.parent) / name


def media_by_id(base: Path, extension: str) -> Callable[..., Path]:
    """A function from ids to files: anywhere below `base`, with any extension in any case, or none.

    Given several ids the first that is there counts. One that is not there is ID + `extension` in `base`, which is what
    a report then says is missing.
    """
    found: dict[str, Path] = {}
    for at, folders, files in os.walk(resolve(base), followlinks=False):
        folders[:] = sorted(
            (f for f in folders if not f.startswith(".") and f not in LEFT_OUT), key=lambda f: natural(Path(f))
        )
        for name in files:
            stem, ending = os.path.splitext(name)
            if not name.startswith(".") and ending.lower() not in OTHER_EXTENSIONS:
                found.setdefault(unicodedata.normalize("NFC", stem), Path(at, name))

    def find(*ids: str) -> Path:
        there = (found.get(unicodedata.normalize("NFC", each)) for each in ids)
        return next(filter(None, there), base / f"{ids[0]}{extension}")

    return find
