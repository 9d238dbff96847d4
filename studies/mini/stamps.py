"""Tux Paint's stamps: photographs and drawings of many hands, each with a sentence that a person wrote. They are never
trained on: what a model learnt from emoji is tried on them.

The sentence is the first line of the `.txt` beside the picture; of several pictures with one sentence the first by path
is taken, so that every picture has one right sentence of all. Vector drawings are left out. This room knows no split.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from studies.mini.emoji import on_white
from studies.mini.packages import deb_files

FOLDER = "usr/share/tuxpaint/stamps/"


@dataclass(frozen=True)
class Stamp:
    """One picture with its sentence."""

    key: str  # its path in the package, without the ending
    caption: str
    image: Image.Image

    @property
    def group(self) -> str:
        """The folder that it stands in, as a word."""
        folder = self.key.partition("/")[0]
        return "natural forces" if folder == "naturalforces" else folder


def stamps(archive: Path, size: int) -> Iterator[Stamp]:
    """All that have a sentence of their own, by path, as (size, size) pictures on white."""
    files = dict(deb_files(archive, lambda name: name.startswith(FOLDER) and name.endswith((".png", ".txt"))))
    taken = set()
    for name in sorted(name for name in files if name.endswith(".png")):
        lines = files.get(str(PurePosixPath(name).with_suffix(".txt")), b"").decode("utf-8", "replace").splitlines()
        caption = lines[0].strip() if lines else ""
        if caption and caption not in taken:
            taken.add(caption)
            key = name.removeprefix(FOLDER).removesuffix(".png")
            yield Stamp(key, caption, on_white(squared(Image.open(io.BytesIO(files[name]))), size))


def squared(image: Image.Image) -> Image.Image:
    """The picture in the middle of a transparent square."""
    drawn, side = image.convert("RGBA"), max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square
