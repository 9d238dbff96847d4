"""Emoji drawings in four hands: pictures laid on white, with their Unicode names as captions and groups as labels.

Names and groups come from one package, drawings from four, joined by code points (each spells them in its own way).
Three further hands stand in icon sets, joined by name; they draw fewer things, and two of them long ago.
Skin tones are left out altogether. A hand that gives two names one and the same picture keeps the oldest name, since
the others could not be told. This room knows pictures and names; splits come from `splits`.
"""

import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from studies.mini.packages import PackageError, npm_files

NAMES = "unicode-emoji-json"
# hand -> (package, folder of the drawings in it, their extension)
HANDS = {
    "google": ("emoji-datasource-google", "img/google/64/", ".png"),
    "twitter": ("emoji-datasource-twitter", "img/twitter/64/", ".png"),
    "fluent": ("@lobehub/fluent-emoji-3d", "assets/", ".webp"),
    "openmoji": ("openmoji", "color/svg/", ".svg"),
}
MORE_HANDS = {
    "noto-v1": "@iconify-json/noto-v1",
    "emojione": "@iconify-json/emojione",
    "emojione-v1": "@iconify-json/emojione-v1",
}
WORDS = "emojibase-data"
# Unicode's nine groups as words that read well in "a drawing of a {}".
GROUPS = {
    "Smileys & Emotion": "smiley",
    "People & Body": "person or body part",
    "Animals & Nature": "animal or plant",
    "Food & Drink": "food or drink",
    "Travel & Places": "place or vehicle",
    "Activities": "activity",
    "Objects": "object",
    "Symbols": "symbol",
    "Flags": "flag",
}


@dataclass(frozen=True)
class Name:
    """What Unicode says of one emoji."""

    code: str  # code points in hexadecimal, joined by "-", without the variation selector
    name: str
    group: str
    age: float  # version of Unicode's emoji list it came with


@dataclass(frozen=True)
class Drawing:
    """One emoji by one hand."""

    hand: str
    name: Name
    image: Image.Image  # (size, size) RGB on white


def code_of(spelling: str) -> str:
    """One spelling of code points: no zero padding, no variation selector: "0023-FE0F-20e3", "23_20E3" -> "23-20e3"."""
    points = (point.lstrip("0") for point in re.split("[-_]", spelling.lower()))
    return "-".join(point for point in points if point != "fe0f")


def read_names(archive: Path) -> dict[str, Name]:
    """Code -> what is said of it, in Unicode's order. The list has no skin tones."""
    [(_, content)] = npm_files(archive, lambda name: name == "data-by-emoji.json")
    names = {}
    for emoji, row in json.loads(content).items():
        code = code_of("-".join(f"{ord(char):x}" for char in emoji))
        names[code] = Name(code, row["name"], GROUPS[row["group"]], float(row["emoji_version"]))
    return names


def read_words(archive: Path) -> dict[str, list[str]]:
    """Code -> words that people look for an emoji by, its name not among them."""
    [(_, content)] = npm_files(archive, lambda name: name == "en/data.json")
    return {code_of(row["hexcode"]): row.get("tags", []) for row in json.loads(content)}


def drawings(hand: str, archive: Path, names: dict[str, Name], size: int) -> Iterator[Drawing]:
    """All that a hand drew of these names, in Unicode's order, identical pictures once (see `distinct`)."""
    if hand in MORE_HANDS:
        yield from icons(hand, archive, names, size)
        return
    _, folder, extension = HANDS[hand]
    opened = opener(extension, size)
    found: dict[str, Drawing] = {}
    for path, content in npm_files(archive, lambda name: name.startswith(folder) and name.endswith(extension)):
        code = code_of(path.removeprefix(folder).removesuffix(extension))
        if code in names and code not in found:  # some are there with and without the variation selector
            found[code] = Drawing(hand, names[code], on_white(opened(content), size))
    yield from distinct([found[code] for code in names if code in found])


def icons(hand: str, archive: Path, names: dict[str, Name], size: int) -> Iterator[Drawing]:
    """The same of a hand whose package is one icon set: bodies of SVG by name, and older names for some of them."""
    [(_, content)] = npm_files(archive, lambda name: name == "icons.json")
    held = json.loads(content)
    bodies = {name: icon["body"] for name, icon in held["icons"].items()}
    bodies |= {name: bodies[alias["parent"]] for name, alias in held["aliases"].items() if alias["parent"] in bodies}
    render, width, height = opener(".svg", size), held["width"], held["height"]
    found = {}
    for code, name in names.items():
        if body := next((bodies[spelled] for spelled in icon_names(name.name) if spelled in bodies), None):
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
            found[code] = Drawing(hand, name, on_white(render(svg.encode()), size))
    yield from distinct(list(found.values()))


def icon_names(name: str) -> tuple[str, ...]:
    """How icon sets spell a name: "woman's hat" -> "womans-hat", "flag Chad" -> "flag-for-chad" too."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode().replace("'", "")
    spelled = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    country = spelled.removeprefix("flag-")
    return (spelled, f"flag-for-{country}", f"flag-for-flag-{country}") if name.startswith("flag ") else (spelled,)


def distinct(found: list[Drawing]) -> list[Drawing]:
    """The drawings without those that look, to the last pixel, like one of an older (then shorter) name."""
    kept: dict[bytes, Drawing] = {}
    for drawing in sorted(found, key=lambda drawing: (drawing.name.age, len(drawing.name.name))):
        kept.setdefault(drawing.image.tobytes(), drawing)
    chosen = {id(drawing) for drawing in kept.values()}
    return [drawing for drawing in found if id(drawing) in chosen]


def opener(extension: str, size: int) -> Callable[[bytes], Image.Image]:
    """What turns the content of such a file into a picture. Raises PackageError where SVG cannot be rendered."""
    if extension != ".svg":
        return lambda content: Image.open(io.BytesIO(content))
    try:
        import resvg_py
    except ImportError:
        raise PackageError("some hands draw in SVG, which needs resvg-py: pip install resvg-py==0.5.0") from None

    def render(content: bytes) -> Image.Image:
        png = resvg_py.svg_to_bytes(svg_string=content.decode(), width=size, height=size, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png)))

    return render


def on_white(image: Image.Image, size: int) -> Image.Image:
    """The picture as (size, size) RGB; what is transparent shows white."""
    drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
