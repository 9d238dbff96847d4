"""Folders to an index: what is new is read and embedded, what is gone is forgotten, and each batch is stored at once.

A file whose path, size and time are known is not opened. A film's windows are stored as they come, so that a killed
run goes on in the middle of it. The paper (OmniVL, arXiv 2209.07526) says nothing about indexes: all of this is ours.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnivl.data.media import BadSample, find_media, resolve
from omnivl.data.remote import is_url, list_media, spelt
from omnivl.inference.bulk import read_bulk
from omnivl.inference.filters import below
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.reader import ALWAYS, End, File, Reader
from omnivl.inference.store import Writer
from omnivl.inference.storing import Storing

EXTRAS = {"heic": "pi_heif", "raw": "rawpy"}  # extra of the package -> the module that it brings
LATEST = 2**63 - 1  # nanoseconds: the year 2262
THREADS = min(4, os.cpu_count() or 1)
Progress = Callable[[int, int, int, int], None]  # files done, of; bytes done, of


@dataclass
class Report:
    """What a run did, in files."""

    found: int = 0
    unchanged: int = 0
    unreadable: int = 0  # could not be read by an earlier run, and have not changed
    embedded: int = 0
    known: int = 0  # copies, moved or touched ones: their bytes were in the index
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)
    kept: list[str] = field(default_factory=list)  # sentences on folders whose files are not forgotten, and why


def update(
    writer: Writer,
    pipeline: Pipeline,
    roots: Sequence[str],
    *,
    prune: bool,
    progress: Progress,
    engine: str | None = None,
) -> Report:
    """Bring the index up to date with the roots; files elsewhere stay as they are. What cannot be read is reported.

    `prune`: forget files too where their folder is gone or empty, as it is when a disk is not mounted.
    `engine`: ray, for workers on other machines (`omnivl.inference.bulk`).
    """
    report = Report()
    with writer.transaction():
        for root in roots:
            writer.execute("INSERT OR IGNORE INTO roots VALUES (?)", (os.fsencode(root),))
    found: dict[bytes, File] = {}
    empty = []
    for root in roots:
        here = files_below(root, writer.folder, report)
        found |= {file.path: file for file in here}
        empty += [] if here else [root]
    report.found = len(found)
    new = changed(writer, list(found.values()))
    bad = {path for (path,) in writer.execute("SELECT path FROM files WHERE error IS NOT NULL")}
    report.unreadable = len(bad & (found.keys() - {file.path for file in new}))
    report.unchanged = len(found) - len(new) - report.unreadable
    known = dict(
        writer.execute(
            "SELECT hash, CASE done WHEN 1 THEN -1 ELSE (SELECT coalesce(max(number) + 1, 0) FROM windows "
            "WHERE content = contents.id) END FROM contents"
        )
    )
    settings = writer.description.settings
    messages = (
        read_bulk(pipeline, settings, known, new)
        if engine == "ray"
        else Reader(pipeline, settings, known, THREADS).read(new)
    )
    embed = np.stack if engine == "ray" else pipeline.embed  # their parts are vectors already
    storing = Storing(writer, embed, (digest for digest, count in known.items() if count < 0))
    total, done, read = sum(file.size for file in new), 0, 0
    progress(0, len(new), 0, total)
    with closing(messages):
        for message in messages:
            storing.take(message)
            if isinstance(message, End):
                done, read = done + 1, read + message.file.size
                progress(done, len(new), read, total)
    storing.finish()
    report.embedded, report.known = storing.embedded, storing.known
    report.failed += [(os.fsdecode(path), reason) for path, reason in storing.failed]
    for root in roots:
        forget(writer, root, set(found), report, keep=root in empty and not prune)
    writer.tidy()
    return report


def roots_of(folders: Sequence[str | Path], known: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The folders and URLs to walk, and those refused with the reason: no folder, and never one of the index's."""
    roots: list[str] = []
    refused: list[tuple[str, str]] = []
    for folder in folders:
        if is_url(str(folder)):
            roots.append(spelt(str(folder)))
            continue
        root = str(resolve(Path(os.path.expanduser(folder)).absolute()))
        if os.path.isdir(root) or root in known:
            roots.append(root)
        else:
            refused.append((root, "is not a folder" if os.path.lexists(root) else "no such folder"))
    return roots, refused


def files_below(root: str, index: Path, report: Report) -> list[File]:
    if is_url(root):
        try:
            return [file_at(*found) for found in list_media(root)]
        except OSError as error:
            report.failed.append((root, f"cannot be listed ({error.strerror or error})"))
            return []
    try:
        paths = find_media(root)
    except BadSample as error:
        report.failed.append((root, str(error).removeprefix(f"{root}: ")))
        return []
    files = []
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:  # a link to nowhere, or removed since
            report.failed.append((str(path), f"cannot be opened ({error.strerror})"))
            continue
        if index.absolute() not in path.parents:
            files.append(file_at(str(path), facts.st_size, facts.st_mtime_ns))
    return files


def file_at(path: str, size: int, mtime: int) -> File:
    """A file whose time (nanoseconds) a database can hold, however wrong its date is."""
    return File(os.fsencode(path), size, min(max(mtime, -LATEST), LATEST))


def changed(writer: Writer, files: Sequence[File]) -> list[File]:
    """Those that are not in the index as they are now, or were refused for a reason that may be gone."""
    here = [extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module)]
    rows = writer.execute(
        "SELECT path, size, mtime, error IS NOT NULL, retry, coalesce(done, 0) "
        "FROM files LEFT JOIN contents ON contents.id = content"
    )
    settled = {
        File(path, size, mtime)
        for path, size, mtime, bad, retry, done in rows
        if done or (bad and not_now(retry, here))
    }
    return [file for file in files if file not in settled]


def not_now(retry: str | None, here: Sequence[str]) -> bool:
    return retry != ALWAYS and retry not in here


def forget(writer: Writer, root: str, found: set[bytes], report: Report, *, keep: bool) -> None:
    """Files below `root` that are gone leave the index, or stay in it where `keep` says so."""
    first, last = below(root)
    rows = writer.execute("SELECT id, path FROM files WHERE path >= ? AND path < ?", (first, last))
    gone = [(number, path) for number, path in rows if path not in found]
    if gone and keep:
        state = "is empty" if os.path.isdir(root) else "is not there"
        report.kept.append(f"{root} {state}: {len(gone)} files below it stay in the index; --prune forgets them")
        return
    gone = [(number, path) for number, path in gone if not hidden_from_us(path)]
    with writer.transaction():
        for number, _ in gone:
            writer.execute("DELETE FROM files WHERE id = ?", (number,))
    report.removed += len(gone)


def hidden_from_us(path: bytes) -> bool:
    """Whether a file was not found because a folder on its way cannot be looked into."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False
