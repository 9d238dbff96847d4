"""Media by URL (s3://, gs://, https://, file://, ...): listed through fsspec, and brought to this disk to be read; and
files that are written to one.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room decodes nothing.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from omnivl.data.files import IMAGE_EXTENSIONS, LEFT_OUT, VIDEO_EXTENSIONS
from omnivl.data.tar import filesystem, is_url

__all__ = ["is_url", "list_media", "on_disk", "spelt", "written"]

TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")  # what file systems call it


def spelt(url: str) -> str:
    """A URL as its file system spells it, without a slash at the end. Raises ValueError where it cannot be read."""
    system, path = filesystem(url)
    return str(system.unstrip_protocol(path)).rstrip("/")


def list_media(url: str) -> list[tuple[str, int, int]]:
    """(URL, bytes, time of the last change in nanoseconds) of every picture and video below a URL, by their extensions,
    in order. Raises OSError where it cannot be listed; ValueError where packages for it are missing."""
    system, root = filesystem(url)
    try:
        below = system.find(root, detail=True)
    except OSError:
        raise
    except Exception as error:  # a file system's own kinds of errors
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", url) from error
    found = []
    for path, facts in below.items():
        parts = PurePosixPath(path[len(root) :]).parts
        if PurePosixPath(path).suffix.lower() not in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
            continue
        if not any(part.startswith(".") or part in LEFT_OUT for part in parts):
            found.append((str(system.unstrip_protocol(path)), int(facts.get("size") or 0), changed(facts)))
    return sorted(found)


def changed(facts: dict[str, Any]) -> int:
    """When a file was changed last, in nanoseconds; 0 where its file system does not say."""
    value = next((facts[name] for name in TIMES if facts.get(name)), 0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = value.timestamp()
    return int(value * 1e9)


@contextmanager
def on_disk(path: str) -> Iterator[str]:
    """A file's place on this disk: its own path, or for a URL that of a copy, which is gone afterwards. Raises OSError
    where it cannot be fetched."""
    if not is_url(path):
        yield path
        return
    system, name = filesystem(path)
    with tempfile.TemporaryDirectory(prefix="omnivl-") as folder:
        local = os.path.join(folder, f"media{Path(name).suffix}")
        try:
            system.get_file(name, local)
        except OSError:
            raise
        except Exception as error:  # a file system's own kinds of errors; all may be over a moment later
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", path) from error
        yield local


@contextmanager
def written(target: str) -> Iterator[TextIO]:
    """A text file that stands at a path or URL, whole, once this is left without an error, and else not at all.

    Raises FileNotFoundError where a path's folder is not there; ValueError where packages for a URL are missing;
    OSError where it cannot be written.
    """
    if not is_url(target):
        part = Path(target).with_name(f".{Path(target).name}.{os.getpid()}")
        try:
            with open(part, "w", encoding="utf-8") as file:
                yield file
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return
    system, name = filesystem(target)
    with tempfile.TemporaryDirectory(prefix="omnivl-") as folder:
        local = os.path.join(folder, "part")
        with open(local, "w", encoding="utf-8") as file:
            yield file
        part_name = f"{name}.{os.getpid()}.part"
        try:
            system.put_file(local, part_name)
            system.mv(part_name, name)
        except OSError:
            raise
        except Exception as error:  # a file system's own kinds of errors
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", target) from error
