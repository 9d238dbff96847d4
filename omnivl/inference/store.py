"""The folder of an index: what is written stays whole however a process ends, and readers need not ask.

INDEX/index.json        the model's name and fingerprint, the settings, and which database is the one in use
INDEX/media-KEY.db      SQLite: roots, files, contents (a file's bytes, once however often they lie around), windows
INDEX/vectors-KEY-N.f16 float16 rows (E,), memory-mapped; row numbers stand in the database
INDEX/.lock             one writer (`flock`, which goes with its process)

Rows are written and synced first, then the transaction that speaks of them is committed; rows past what the database
knows are cut off by the next writer. A row is never used twice: readers of an older state stay right. KEY is of the
model and the settings, so an index for another model grows beside the old one, and index.json is replaced when it is
whole. Paths are bytes, as the system has them. The paper (OmniVL, arXiv 2209.07526) says nothing about this.
"""

import fcntl
import hashlib
import json
import os
import shlex
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from omnivl.config import ConfigError, from_dict, read_json
from omnivl.inference.owned import KEYED, check_free, removal

LOOKS = 100  # at a file of vectors that a writer may just have replaced

FORMAT = 1
SPARE = 4096  # rows that no file needs any more are given back once there are this many, and more than are needed
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE roots (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, taken TEXT, duration REAL,
    done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE windows (
    content INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE, number INTEGER NOT NULL, row INTEGER NOT NULL,
    start REAL, end REAL, PRIMARY KEY (content, number)) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    taken TEXT NOT NULL, content INTEGER REFERENCES contents ON DELETE SET NULL,
    error TEXT, retry TEXT);
CREATE INDEX files_content ON files (content);
CREATE INDEX windows_row ON windows (row);
"""


@dataclass(frozen=True)
class Settings:
    """How videos are cut into windows, and what is searched with."""

    num_frames: int  # a window
    seconds: float = 4.0  # a window's length
    stride: float = 2.0  # seconds between the starts of windows
    backend: str = "exact"  # exact or faiss
    scenes: bool = False  # windows begin anew where the film is cut


@dataclass(frozen=True)
class Description:
    """index.json: what all vectors of an index have in common."""

    model: str  # its folder or hub id
    fingerprint: str
    embed_dim: int
    settings: Settings

    @property
    def key(self) -> str:
        cut: tuple[Any, ...] = (self.settings.num_frames, self.settings.seconds, self.settings.stride)
        cut += ("scenes",) if self.settings.scenes else ()
        return hashlib.blake2b(repr((self.fingerprint, cut)).encode(), digest_size=6).hexdigest()


def read_description(folder: Path) -> Description | None:
    """None where there is no index yet. Raises ValueError where it is damaged or of another version."""
    path = folder / "index.json"
    if folder.is_file():
        raise ValueError(f"{folder} is a file: an index is a folder")
    if not path.exists():
        return None
    found = read_json(path)
    try:
        version = found["format_version"]
        if version == FORMAT:
            return from_dict(Description, {field.name: found[field.name] for field in fields(Description)})
        told = f"has format version {version!r}, wanted {FORMAT}"
    except (KeyError, TypeError, ConfigError):
        told = "is damaged"
    if not any(KEYED.fullmatch(beside.name) for beside in folder.iterdir()):
        raise ValueError(f"{path} is not the description of an index: choose another folder as --index")
    raise ValueError(f"{path} {told}: index again after `{removal(folder)}`")


class Store:
    """An index open for reading, while a writer may be at work. Safe between threads."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder, self.description = folder, description
        self.path = folder / f"media-{description.key}.db"
        self.lock = threading.RLock()
        self.mapped: tuple[str, np.ndarray] = ("", np.zeros((0, description.embed_dim), np.float16))
        self.open()

    def open(self) -> None:
        if not self.path.exists():
            raise ValueError(
                f"{self.folder} is not whole, {self.path.name} is missing: index again after `{removal(self.folder)}`"
            )
        self.connection = sqlite3.connect(self.path, check_same_thread=False, timeout=30, isolation_level=None)
        self.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one statement. Raises ValueError where the database is damaged."""
        try:
            with self.lock:
                return self.connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
                raise ValueError(f"{self.path}: {error}") from error
            raise ValueError(f"{self.path} is damaged ({error}): index again after `{removal(self.folder)}`") from error

    def meta(self, name: str) -> Any:
        return self.execute("SELECT value FROM meta WHERE name = ?", (name,))[0][0]

    def vectors(self) -> np.ndarray:
        """(rows, E) float16, mapped. Rows that the database knows when asked; more may be there later."""
        with self.lock:
            name, count = self.meta("vectors"), self.meta("rows")
            if self.mapped[0] != name or len(self.mapped[1]) < count:
                shape = (count, self.description.embed_dim)
                self.check_size(name, count)
                # copy on write: torch wants arrays it could write to; nothing is written
                found = np.memmap(self.folder / name, np.float16, "c", shape=shape) if count else np.zeros(shape, "f2")
                self.mapped = name, found
            return self.mapped[1][:count]

    def check_size(self, name: str, count: int) -> None:
        """Raises ValueError where a file holds fewer than `count` rows."""
        path, wanted = self.folder / name, count * self.row_bytes
        size = path.stat().st_size if count else 0
        if size < wanted:
            raise ValueError(f"{path} is cut short ({size} bytes of {wanted}): {self.remedy()}")

    def remedy(self) -> str:
        made = shlex.join(["--index", str(self.folder), "--model", self.description.model, *self.roots()])
        return f"make the index anew with `{removal(self.folder)} && omnivl index {made}`"

    @property
    def row_bytes(self) -> int:
        return 2 * self.description.embed_dim

    def snapshot(self, statement: str, values: Sequence[Any] = ()) -> tuple[np.ndarray, list[Any]]:
        """(vectors, all rows of a statement), both of one moment."""
        for _ in range(LOOKS):
            with self.lock:
                self.execute("BEGIN")
                try:
                    return self.vectors(), self.execute(statement, values)
                except FileNotFoundError:  # written anew and removed since: look again
                    if not (self.folder / "index.json").exists():
                        raise
                finally:
                    self.execute("COMMIT")
        raise self.gone()

    def gone(self) -> ValueError:
        return ValueError(f"{self.folder / self.meta('vectors')} is gone: {self.remedy()}")

    def changes(self) -> int:
        """A number that is another one when another process has written."""
        return self.execute("PRAGMA data_version")[0][0]

    def roots(self) -> list[str]:
        return [os.fsdecode(path) for (path,) in self.execute("SELECT path FROM roots ORDER BY path")]

    def count(self) -> int:
        """Files that can be found."""
        return self.execute("SELECT count(*) FROM files WHERE content IS NOT NULL")[0][0]

    def path_of(self, file: int) -> str | None:
        """None where there is no such file."""
        found = self.execute("SELECT path FROM files WHERE id = ? AND content IS NOT NULL", (file,))
        return os.fsdecode(found[0][0]) if found else None

    def errors(self) -> list[tuple[str, str]]:
        """(path, reason) of the files that could not be read."""
        rows = self.execute("SELECT path, error FROM files WHERE error IS NOT NULL ORDER BY path")
        return [(os.fsdecode(path), error) for path, error in rows]


class Writer(Store):
    """An index open for writing: made where there is none, refused where another process writes to it."""

    def __init__(self, folder: Path, description: Description) -> None:
        if read_description(folder) is None:
            check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock_file = open(folder / ".lock", "w")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to ({error.strerror}): choose another --index") from error
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock_file.close()
            raise ValueError(
                f"{folder} is being written to by another `omnivl index`: wait for it, or choose another --index"
            ) from None
        try:
            super().__init__(folder, description)
        except BaseException:
            self.lock_file.close()
            raise

    def open(self) -> None:
        self.connection = sqlite3.connect(self.path, check_same_thread=False, timeout=30, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self.execute(f"PRAGMA {pragma}")
        with self.transaction():
            if not self.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
                for statement in SCHEMA.split(";"):
                    self.execute(statement)
                self.execute("INSERT INTO meta VALUES ('rows', 0), ('vectors', ?)", (self.vectors_name(1),))
        known = read_description(self.folder)
        if known is None or (known.key == self.description.key and known != self.description):
            self.publish()
        try:
            self.check_size(self.meta("vectors"), self.meta("rows"))  # else it would grow by zeros
        except FileNotFoundError:
            raise self.gone() from None
        self.file = open(self.folder / self.meta("vectors"), "ab", buffering=0)  # noqa: SIM115
        self.file.truncate(self.meta("rows") * self.row_bytes)

    def close(self) -> None:
        self.file.close()
        super().close()
        self.lock_file.close()

    def vectors_name(self, number: int) -> str:
        return f"vectors-{self.description.key}-{number}.f16"

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def append(self, vectors: np.ndarray) -> int:
        """Write rows (n, E) and wait until they are on the disk; gives the number of the first. Within a
        transaction, which makes them count."""
        first = self.meta("rows")
        self.file.truncate(first * self.row_bytes)  # what an earlier try left on a full disk
        left = memoryview(np.ascontiguousarray(vectors, np.float16).tobytes())
        while left:
            left = left[self.file.write(left) :]
        os.fsync(self.file.fileno())
        self.execute("UPDATE meta SET value = ? WHERE name = 'rows'", (first + len(vectors),))
        return first

    def tidy(self) -> None:
        """Forget contents that no file has any more; where most rows are such, write the others anew."""
        with self.transaction():
            self.execute("DELETE FROM contents WHERE id NOT IN (SELECT content FROM files WHERE content NOT NULL)")
        rows = [row for (row,) in self.execute("SELECT row FROM windows ORDER BY row")]
        spare = self.meta("rows") - len(rows)
        if spare >= SPARE and spare > len(rows):
            self.compact(np.array(rows, np.int64))

    def compact(self, rows: np.ndarray) -> None:
        old = self.meta("vectors")
        name = self.vectors_name(int(Path(old).stem.rsplit("-", 1)[1]) + 1)
        everything = self.vectors()
        with open(self.folder / name, "wb") as file:
            for first in range(0, len(rows), SPARE):
                file.write(everything[rows[first : first + SPARE]].tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.transaction():
            for number, row in enumerate(rows.tolist()):  # ascending, so a number is never taken twice
                self.execute("UPDATE windows SET row = ? WHERE row = ?", (number, row))
            self.execute("UPDATE meta SET value = ? WHERE name = 'rows'", (len(rows),))
            self.execute("UPDATE meta SET value = ? WHERE name = 'vectors'", (name,))
        self.file.close()
        self.file = open(self.folder / name, "ab", buffering=0)  # noqa: SIM115
        self.remove(lambda path: Path(path).stem == Path(old).stem)

    def publish(self) -> None:
        """Make this the index that readers open, and remove one of another model or other settings."""
        rows = {"format_version": FORMAT, **asdict(self.description)}
        temporary = self.folder / ".index.json.tmp"
        temporary.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / "index.json")
        key = self.description.key
        self.remove(lambda name: key not in name)

    def remove(self, chosen: Callable[[str], bool]) -> None:
        """Of the files that are named by a key, those that are chosen."""
        for path in self.folder.iterdir():
            if KEYED.fullmatch(path.name) and chosen(path.name):
                path.unlink()
