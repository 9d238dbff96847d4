"""Tar files read at any place: where each member lies, by the headers alone, and the bytes of one.

Headers of all kinds that archivers write are understood (ustar, GNU and PAX names, sizes past 8 GB); what is not a
plain file is left out. A tar is a path, or a URL that fsspec can open, of which only the ranges asked for are fetched.
Bytes come by positioned reads, so a descriptor that a forked worker inherits is safe; a spawned one opens its own. The
paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no sample.
"""

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

BLOCK = 512
CHUNK = 1 << 20  # bytes of a member fetched at once
OPEN_TARS = 64  # descriptors that a process keeps
NO_DATA = b"123456"  # types of headers that nothing follows: links, devices, folders
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a tar, and where its bytes lie."""

    tar: str  # path or URL
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def open(self) -> BinaryIO:
        """An open file of this member alone, named as above; it holds CHUNK bytes at most."""
        if self.size <= CHUNK:
            return Content(self.read(), str(self))
        return window(lambda start, size: read_at(self.tar, start, size), str(self), self.offset, self.size)

    def read(self) -> bytes:
        return read_at(self.tar, self.offset, self.size)


class CutShort(ValueError):
    """A tar ends before its end mark, or what should be a header is none. `member` was begun and is not whole."""

    def __init__(self, reason: str, member: str = "") -> None:
        super().__init__(reason)
        self.member = member


# --- headers ---------------------------------------------------------------------------------------------------------


def members(file: BinaryIO, size: int, tar: str) -> Iterator[Member]:
    """The whole members of an open tar of `size` bytes, in order. Raises CutShort behind the last whole one where the
    end mark does not follow."""
    place, long_name = 0, ""
    own: dict[str, str] = {}  # PAX: of the next member
    shared: dict[str, str] = {}  # of all that follow
    while True:
        file.seek(place)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise CutShort(f"cut short at byte {size:,}" if size else "empty, 0 bytes")
        if not any(header):
            return
        if header[:2] == b"\x1f\x8b" and place == 0:
            raise CutShort("compressed (gzip), so that members cannot be read one by one: unpack it to .tar")
        length = number(header[124:136]) if sound(header) else None
        if length is None:
            raise CutShort(f"damaged at byte {place:,}" if place else "no tar file")
        kind, start = header[156:157], place + BLOCK
        extra = {**shared, **own}
        if kind not in b"LKxg":
            stated = extra.get("size") or str(length)
            if not re.fullmatch(r"[0-9]{1,20}", stated):
                raise CutShort(f"damaged at byte {place:,}: a member of {stated[:20]!r} bytes")
            length = 0 if kind in NO_DATA else int(stated)
        name = extra.get("path") or long_name or stated_name(header)
        if start + length > size:
            raise CutShort(f"cut short at byte {size:,}", name)
        place = start + -(-length // BLOCK) * BLOCK
        if kind in b"LKxg":
            content = file.read(length)
            if kind == b"L":
                long_name = text(content)
            elif kind == b"x":
                own = pax(content)
            elif kind == b"g":
                shared.update(pax(content))
            continue
        if kind in b"0\x007" and not name.endswith("/"):
            yield Member(tar, name, start, length)
        long_name, own = "", {}


def sound(header: bytes) -> bool:
    """Whether a header's checksum is right."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return number(header[148:156]) == total


def number(field: bytes) -> int | None:
    """Octal digits, or in base 256 where the first bit says so; None where it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def stated_name(header: bytes) -> str:
    name, prefix = text(header[:100]), text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def pax(content: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n"."""
    found, place = {}, 0
    while digits := re.match(rb"(\d+) ", content[place : place + 20]):
        record = content[place + digits.end() : place + int(digits[1])]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        found[text(key)] = text(value)
        place += max(int(digits[1]), digits.end())
    return found


# --- bytes -----------------------------------------------------------------------------------------------------------


class Content(io.BytesIO):
    """Bytes as a file with a name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class Window(io.RawIOBase):
    """Bytes [offset, offset + size) as a file. `read_at`: (offset, size) -> exactly those bytes."""

    def __init__(self, read_at: Callable[[int, int], bytes], name: str, offset: int, size: int) -> None:
        self.read_at, self.name, self.offset, self.size, self.place = read_at, name, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence], 0)
        return self.place

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self.size - self.place), 0)
        buffer[:wanted] = self.read_at(self.offset + self.place, wanted) if wanted else b""
        self.place += wanted
        return wanted


def window(read_at: Callable[[int, int], bytes], name: str, offset: int, size: int) -> BinaryIO:
    raw = Window(read_at, name, offset, size)
    return cast(BinaryIO, io.BufferedReader(raw, max(min(size, CHUNK), 1)))


class Descriptor:
    """An open file, closed with its last user."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the program's end `os` is gone first
        if hasattr(self, "number"):
            close(self.number)


descriptor = lru_cache(maxsize=OPEN_TARS)(Descriptor)


def read_at(tar: str, offset: int, size: int) -> bytes:
    """`size` bytes of a tar from `offset` on. Raises OSError where there are fewer."""
    if is_url(tar):
        found = fetched(tar, offset, size)
    else:
        opened = descriptor(tar)
        found = os.pread(opened.number, size, offset)
        while 0 < len(found) < size and (more := os.pread(opened.number, size - len(found), offset + len(found))):
            found += more
    if len(found) != size:
        raise OSError(
            errno.EINVAL, f"it has no {size} bytes at {offset}; it was changed or is not served in ranges", tar
        )
    return found


# --- URLs ------------------------------------------------------------------------------------------------------------


def is_url(tar: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", tar) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, of this process, and the path in it. Raises ValueError naming the package that is
    missing."""
    scheme = url.partition(":")[0].lower()
    try:
        from fsspec.core import url_to_fs

        return cast(tuple[Any, str], url_to_fs(url))
    except ImportError:
        package = PACKAGES.get(scheme, f"the one for {scheme}")
        raise ValueError(
            f"{url}: reading {scheme}:// needs packages that are not here: pip install fsspec {package}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{url} cannot be read: {error}") from None


def fetched(url: str, offset: int, size: int) -> bytes:
    system, path = filesystem(url)
    try:
        return bytes(system.cat_file(path, start=offset, end=offset + size))
    except OSError:
        raise
    except Exception as error:  # a file system's own kinds of errors; all may be over a moment later
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", url) from error
