"""What the reader hands on becomes rows: batches go through the model, each is on the disk before the next.

A content (a file's bytes) is done when it has been read to its end and none of its parts waits for the model; copies of
it wait for that. The paper (OmniVL, arXiv 2209.07526) says nothing about indexes: all of this is ours.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import numpy as np

from omnivl.inference.forward import BATCH
from omnivl.inference.reader import Content, End, File, Part
from omnivl.inference.store import Writer

TOGETHER = 256  # changes without a vector that wait for one commit
NOT_FINITE = "the model gives no finite vector for it"
LINK = """
INSERT INTO files (path, size, mtime, taken, content)
SELECT ?, ?, ?, coalesce(contents.taken, ?), contents.id FROM contents WHERE hash = ?
ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime = excluded.mtime, taken = excluded.taken,
    content = excluded.content, error = NULL, retry = NULL
"""
REFUSE = """
INSERT INTO files (path, size, mtime, taken, error, retry) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime = excluded.mtime, taken = excluded.taken,
    content = NULL, error = excluded.error, retry = excluded.retry
"""
DONE = """
UPDATE contents SET done = 1, duration = (SELECT max(end) FROM windows WHERE content = id) WHERE hash = ?
"""


class Storing:
    """Takes messages of the reader. `embed`: what is loaded of a batch of parts -> vectors (N, E); `done`: hashes whose
    vectors are all in the index."""

    def __init__(self, writer: Writer, embed: Callable[[list[Any]], np.ndarray], done: Iterable[bytes]) -> None:
        self.writer, self.vectors_of, self.done = writer, embed, set(done)
        self.batches: dict[str, list[Part]] = {medium: [] for medium in BATCH}
        self.waiting: dict[bytes, list[File]] = {}  # copies of what is being read
        self.refused: dict[bytes, End] = {}
        self.later: list[tuple[str, tuple[Any, ...]]] = []
        self.embedded = self.known = 0  # files
        self.failed: list[tuple[bytes, str]] = []  # (path, reason)

    def take(self, message: Part | End) -> None:
        if isinstance(message, Part):
            content = message.content
            content.pending += 1
            self.batches[content.kind].append(message)
            if len(self.batches[content.kind]) == BATCH[content.kind]:
                self.embed(content.kind)
        elif message.error is not None:
            self.refuse(message)
        elif message.content is None:
            self.copy(message.file, message.hash)
        else:
            message.content.ended = True
            self.settle(message.content)
        if len(self.later) >= TOGETHER:
            self.commit()

    def finish(self) -> None:
        for medium in self.batches:
            self.embed(medium)
        self.commit()

    def commit(self) -> None:
        with self.writer.transaction():
            self.apply()

    def apply(self) -> None:
        for statement, values in self.later:
            self.writer.execute(statement, values)
        self.later.clear()

    def embed(self, medium: str) -> None:
        """One batch through the model and onto the disk. Vectors that are not finite are dropped."""
        parts, self.batches[medium] = self.batches[medium], []
        if not parts:
            return
        vectors = self.vectors_of([part.loaded for part in parts])
        finite = np.isfinite(vectors).all(1)
        with self.writer.transaction():
            self.apply()
            row = self.writer.append(vectors[finite])
            for part, fine in zip(parts, finite, strict=True):
                part.content.pending -= 1
                if fine:
                    self.add_row(part, row)
                    row += 1
        for content in {part.content.hash: part.content for part in parts}.values():
            self.settle(content)

    def add_row(self, part: Part, row: int) -> None:
        content = part.content
        if not content.linked:
            values = (content.hash, content.kind, content.facts.taken)
            self.writer.execute("INSERT OR IGNORE INTO contents (hash, kind, taken) VALUES (?, ?, ?)", values)
            self.writer.execute(*link(content.file, content.hash))
            content.linked = True
        self.writer.execute(
            "INSERT INTO windows SELECT id, ?, ?, ?, ? FROM contents WHERE hash = ?",
            (part.number, row, part.start, part.end, content.hash),
        )
        content.stored += 1

    def settle(self, content: Content) -> None:
        """Where all of it has been read and gone through the model, it is done."""
        if not content.ended or content.pending:
            return
        if content.stored == 0:
            self.refuse(End(content.file, content.hash, content, NOT_FINITE))
            return
        self.later += [(DONE, (content.hash,)), link(content.file, content.hash)]
        self.embedded += 1
        self.done.add(content.hash)
        for file in self.waiting.pop(content.hash, []):
            self.copy(file, content.hash)

    def copy(self, file: File, digest: bytes) -> None:
        if digest in self.refused:
            reason = self.refused[digest]
            self.refuse(End(file, digest, None, reason.error, reason.retry))
        elif digest in self.done:
            self.later.append(link(file, digest))
            self.known += 1
        else:
            self.waiting.setdefault(digest, []).append(file)

    def refuse(self, end: End) -> None:
        """The reason stays with the file and its copies; nothing stays of its content."""
        assert end.error is not None
        self.failed.append((end.file.path, end.error))
        file = end.file
        self.later.append((REFUSE, (file.path, file.size, file.mtime, local_date(file), end.error, end.retry)))
        if not end.hash:  # it could not even be hashed
            return
        if end.content is not None:
            kind = end.content.kind
            self.batches[kind] = [part for part in self.batches[kind] if part.content is not end.content]
        self.later.append(("DELETE FROM contents WHERE hash = ?", (end.hash,)))
        self.refused[end.hash] = end
        for copy in self.waiting.pop(end.hash, []):
            self.copy(copy, end.hash)


def link(file: File, digest: bytes) -> tuple[str, tuple[Any, ...]]:
    return LINK, (file.path, file.size, file.mtime, local_date(file), digest)


def local_date(file: File) -> str:
    """When a file was last changed, as a wall clock showed it."""
    return datetime.fromtimestamp(file.mtime // 10**9).isoformat()
