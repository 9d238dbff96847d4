"""People's own data: a manifest, class folders, a list of paths and labels, media with their captions beside them.

All four formats are ours. Media are relative to `root`, or to the folder of the file.
"""

import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivl.data.annotations.items import Item, Notes, Question, Row, reader
from omnivl.data.annotations.tables import base_of, captions_in, clean, json_lines, path_labels, text_lines
from omnivl.data.files import LEFT_OUT, find_media, is_media, natural, resolve

VALIDATION = ("validation", "val", "valid")
MOST = sys.float_info.max  # a whole number in JSON may be more than a float holds
SPLITS = ("train", *VALIDATION, "test")


# --- manifest --------------------------------------------------------------------------------------------------------


@reader(distinct=True)
def read_manifest(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """JSON lines: {"media": .., "caption": ".." or [".."], "label": .., "question": .., "answer": .., "id": ..,
    "start": s, "end": s}; an answer is a text, {"yes": 3, "no": 1}, or a list of what each annotator said.

    Rows of the same media and span are one item with several captions and questions. A row may carry "split"; those of
    another one are left out.
    """
    if resolve(path).is_dir():
        raise ValueError(f"{path} is a folder, not a manifest; class folders are written folder:{path}")
    base = base_of(path, root)
    for where, row in json_lines(path, notes):
        try:
            named = text_of(row, "split")
            item = None if named and named not in spellings(split) else manifest_item(row, base)
        except (TypeError, ValueError) as error:
            notes.fault("unreadable rows", where, str(error))
            continue
        if item is None:
            notes.elsewhere[named] += 1
        else:
            yield where, item


def manifest_item(row: dict[str, Any], base: Path) -> Item:
    media = row.get("media")
    if not isinstance(media, str) or not media.strip():
        raise ValueError(f'a row needs "media", a path, got {media!r}')
    if not {"caption", "label", "question"} & set(row):
        raise ValueError('a row needs "caption", "label" or "question" beside "media"')
    label, identity, asked = name_of(row, "label"), name_of(row, "id"), text_of(row, "question")
    answers = answers_of(row.get("answer"))
    if answers and not asked:
        raise ValueError('an "answer" needs a "question"')
    start, end = span_of(row)
    return Item(
        base / media,
        captions=captions_in(row.get("caption", [])),
        questions=(Question(asked, answers, identity),) if asked else (),
        label=label,
        id=identity,
        start=start,
        end=end,
    )


def answers_of(value: Any) -> tuple[tuple[str, float], ...]:
    """(answer, weight) of a text, a list of texts, or of texts with their weights; what is empty or has no weight is
    left out."""
    given = (
        value.items() if isinstance(value, dict) else [(a, 1) for a in (value if isinstance(value, list) else [value])]
    )
    weights: dict[str, float] = {}
    for answer, weight in given:
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight <= MOST
        if not (answer is None or isinstance(answer, str)) or not number:
            raise ValueError(f'"answer" must be a text, a list of texts or {{text: weight}}, got {str(value)[:60]}')
        weights[clean(answer or "")] = weights.get(clean(answer or ""), 0.0) + weight
    return tuple((answer, weight) for answer, weight in weights.items() if answer and weight)


def text_of(row: dict[str, Any], name: str) -> str:
    """A text; "" where there is none."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'"{name}" must be a text, got {str(value)[:60]}')
    return clean(value or "")


def name_of(row: dict[str, Any], name: str) -> str:
    """A name or a whole number, as a text with its accents composed; "" where there is none."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
        raise ValueError(f'"{name}" must be a name or a whole number, got {str(value)[:60]}')
    return unicodedata.normalize("NFC", clean("" if value is None else str(value)))


def span_of(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """(start, end) in seconds, None where not given."""
    for name in ("start", "end"):
        value = row.get(name)
        number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if not number or (value is not None and not 0 <= value <= MOST):
            raise ValueError(f'"{name}" must be seconds from 0, got {str(value)[:60]}')
    start, end = (None if row.get(name) is None else float(row[name]) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise ValueError(f'"end" is {end:g} s, which must be later than "start" ({start or 0:g} s)')
    return start, end


# --- lists and side-cars ---------------------------------------------------------------------------------------------


@reader(distinct=True)
def read_list(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """`PATH LABEL` a line; paths may hold blanks, the label is the last word. A file holds one split."""
    base = base_of(path, root)
    for where, media, label in path_labels(path, notes):
        yield where, Item(base / media, label=unicodedata.normalize("NFC", clean(label)))


@reader(distinct=True)
def read_captions(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """A folder of media with their captions beside them: a/b.jpg and a/b.txt, a caption a line. `root` means nothing.

    Where it holds a folder of the split's name, that one is read.
    """
    base = next((path / name for name in spellings(split) if (path / name).is_dir()), path)
    for media in find_media(base):
        texts = resolve(media.with_suffix(".txt"))
        if texts.is_file():
            yield str(texts), Item(media, captions=tuple(clean(text) for _, text in text_lines(texts)) or ("",))
        else:
            yield f"{media} (no {texts.name} beside it)", Item(media)


# --- class folders ---------------------------------------------------------------------------------------------------


@reader()
def read_folder(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """A folder of class folders, each full of pictures and clips; the folder's name is the class. `root` means nothing.

    Where the folder holds train/, test/ and the like, each with class folders, the split's is read (train/cat/1.jpg).
    """
    base = split_folder(resolve(path), split)
    held = 0
    for folder in subfolders(base):
        media = find_media(folder)
        held += len(media)
        for file in media:
            yield str(file), Item(file, label=unicodedata.normalize("NFC", folder.name))
        if not media:
            notes.drop("class folders without pictures or clips", str(folder), "no pictures or clips are in it")
    for file in base.iterdir():
        if file.is_file() and not file.name.startswith(".") and is_media(file):
            notes.drop("pictures or clips outside of class folders", str(file), "it lies outside of the class folders")
    if not held:
        beside = "".join(f"; it has {count:,} {reason}" for reason, count in notes.dropped.items())
        raise ValueError(f"{base} holds no class folders with pictures or clips (wanted: CLASS/picture.jpg){beside}")


def spellings(split: str) -> tuple[str, ...]:
    """The names that a split may have."""
    return VALIDATION if split in VALIDATION else (split,)


def split_folder(path: Path, split: str) -> Path:
    """Where the class folders of a split are: below `path`, or `path` itself where it is not taken apart."""
    for name in spellings(split):
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
