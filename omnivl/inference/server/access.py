"""Which files a client may have: those inside the indexed folders, and nothing that a name or a link leads to outside.

A path is followed to where it really is before it is compared. This room reads no file.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from omnivl.inference.server.guard import Refusal

GONE = "there is no such file in the indexed folders"


class Roots:
    """`folders` may be links themselves."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = [Path(folder) for folder in folders]

    def allowed(self, path: str | Path) -> Path:
        """Where a file really is. Raises Refusal (404) where that is outside, or it is none."""
        try:
            real = Path(os.path.realpath(path, strict=True))
            inside = any(real.is_relative_to(os.path.realpath(folder)) for folder in self.folders)
            if inside and real.is_file():
                return real
        except (OSError, ValueError):  # nothing there; a zero byte in the name
            pass
        raise Refusal(404, GONE)

    def named(self, given: str) -> Path:
        """The file that a client names: absolute, or relative to one of the folders; none that is hidden or beside
        `..`. Raises Refusal (404)."""
        parts = Path(given).parts
        if ".." in parts or not given:
            raise Refusal(404, GONE)
        for folder in self.folders:
            path = folder / given
            if path.is_relative_to(folder) and not any(p.startswith(".") for p in path.relative_to(folder).parts):
                try:
                    return self.allowed(path)
                except Refusal:
                    continue
        raise Refusal(404, GONE)
