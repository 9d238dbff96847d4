"""Files to what the model looks at, ahead of it in threads: pictures, and films window by window.

A file is hashed first: where its bytes are known or being read (moved, or a copy) nothing is decoded. What arrives is
in order within a file, never between files. The paper (OmniVL, arXiv 2209.07526) says nothing about indexes: all of
this is ours. This room stores nothing.
"""

import hashlib
import os
import queue
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from omnivl.data.facts import Facts, read_facts
from omnivl.data.media import BadSample, kind
from omnivl.data.remote import on_disk
from omnivl.data.windows import read_windows
from omnivl.inference.forward import BATCH
from omnivl.inference.inputs import Loaded
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.store import Settings

ALWAYS = "always"  # files.retry: it could not even be opened, so try again each time
READ = 1 << 20  # bytes


@dataclass(frozen=True)
class File:
    """A file that was found."""

    path: bytes
    size: int
    mtime: int  # nanoseconds


@dataclass(frozen=True)
class Part:
    """One vector to be: a picture or a window; or the vector (E,), where it was made elsewhere."""

    content: "Content"
    number: int
    loaded: Loaded | np.ndarray
    start: float | None
    end: float | None


@dataclass
class Content:
    """Bytes that are being read, of `file`; copies of it wait for them."""

    hash: bytes
    kind: str
    facts: Facts
    file: File
    pending: int = 0  # parts that wait for the model
    stored: int = 0  # parts that have a row, of earlier runs too
    ended: bool = False
    linked: bool = False  # to its file, in the index


@dataclass(frozen=True)
class End:
    """A file has been read to its end, or could not be (`error`); no content and no error: its bytes are known, or are
    being read as another file. `retry`: when to try again though it has not changed: ALWAYS, or once an
    extra is there."""

    file: File
    hash: bytes
    content: Content | None = None
    error: str | None = None
    retry: str | None = None


Message = Part | End


class Reader:
    """Reads files in threads and hands their parts on through a short queue."""

    def __init__(self, pipeline: Pipeline, settings: Settings, known: dict[bytes, int], threads: int) -> None:
        """`known`: hash -> windows stored so far, -1 where all are."""
        self.pipeline, self.settings, self.known, self.count = pipeline, settings, known, threads
        self.taken: set[bytes] = set()
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.messages: queue.Queue[Message | BaseException | None] = queue.Queue(2 * BATCH["image"])

    def read(self, files: Sequence[File]) -> Generator[Message, None, None]:
        """Close it to end the threads."""
        waiting = iter(files)
        threads = [
            threading.Thread(target=self.work, args=(waiting,), daemon=True, name=f"decode-{i}")
            for i in range(self.count)
        ]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                message = self.messages.get()
                if message is None:
                    running -= 1
                elif isinstance(message, BaseException):
                    raise message
                else:
                    yield message
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def put(self, message: Message | BaseException | None) -> None:
        while not self.stop.is_set():
            try:
                return self.messages.put(message, timeout=0.1)
            except queue.Full:
                continue

    def work(self, waiting: Iterator[File]) -> None:
        try:
            while not self.stop.is_set():
                with self.lock:
                    file = next(waiting, None)
                if file is None:
                    break
                for message in self.parts(file):
                    self.put(message)
                    if self.stop.is_set():
                        break
            self.put(None)
        except BaseException as error:  # ours, not the file's: the run ends with it
            self.put(error)

    def parts(self, file: File) -> Iterator[Message]:
        try:
            with on_disk(os.fsdecode(file.path)) as path:
                yield from self.parts_of(file, path)
        except OSError as error:  # a URL that could not be fetched
            yield End(file, b"", error=f"cannot be opened ({error.strerror or error})", retry=ALWAYS)

    def parts_of(self, file: File, path: str) -> Iterator[Message]:
        try:
            digest = content_hash(path)
        except OSError as error:
            yield End(file, b"", error=f"cannot be opened ({error.strerror})", retry=ALWAYS)
            return
        with self.lock:
            first = self.known.get(digest, 0)
            same = first < 0 or digest in self.taken
            self.taken.add(digest)
        if same:
            yield End(file, digest)
            return
        content = None
        try:
            medium = kind(path)
            content = Content(digest, medium, read_facts(path), file, stored=first)
            yield from self.read_one(path, content, first)
            yield End(file, digest, content)
        except BadSample as error:
            reason = str(error).removeprefix(f"{path}: ")
            extra = re.search(r"omnivl\[(\w+)\]", reason)
            yield End(file, digest, content, reason, extra[1] if extra else None)
        except Exception as error:  # whatever a decoder has not foreseen is that file's, and never ends the run
            yield End(file, digest, content, f"cannot be read ({type(error).__name__}: {error})", ALWAYS)

    def read_one(self, path: str, content: Content, first: int) -> Iterator[Part]:
        if content.kind == "image":
            if first == 0:
                yield Part(content, 0, self.pipeline.read(path), None, None)
            return
        vision, cut = self.pipeline.config.vision, self.settings
        for window in read_windows(
            path,
            cut.num_frames,
            seconds=cut.seconds,
            stride=cut.stride,
            scenes=cut.scenes,
            size=vision.image_size,
            interpolation=self.pipeline.config.interpolation,
            first=first,
        ):
            yield Part(content, window.number, Loaded(window.frames, window.times), window.start, window.end)


def content_hash(path: str) -> bytes:
    """Of a file's bytes. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(READ):
            digest.update(block)
    return digest.digest()
