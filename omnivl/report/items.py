"""Test items on the page: pictures and clips beside their captions, what is written of them, and what they find."""

import base64
import difflib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from omnivl.metrics import words
from omnivl.report.tables import NOUNS

SHOWN = 128  # pixels of the longer side on the page
GOOD = '<span class="good" role="img" aria-label="right">✓</span>'
BAD = '<span class="bad" role="img" aria-label="wrong">✗</span>'


@dataclass(frozen=True)
class Example:
    """One picture or clip, what was written of it, and the texts that it finds."""

    medium: str  # image | video
    frames: np.ndarray  # (T, H, W, 3) uint8
    truths: tuple[str, ...]  # its captions
    written: str  # the caption the model wrote
    found: tuple[str, ...]  # the texts of the gallery it retrieves, best first


@dataclass(frozen=True)
class Search:
    """One text query and what it finds, best first."""

    medium: str
    query: str
    frames: tuple[np.ndarray, ...]  # each (T, H, W, 3) uint8
    right: tuple[bool, ...]


def example_card(item: Example) -> str:
    found = "".join(f'<li dir="auto">{verdict(text, item.truths)} {escape(text)}</li>' for text in item.found)
    return f"""<div class="card example">{picture(item.frames, f"{item.medium}: {item.truths[0]}")}
<dl><dt>caption</dt><dd dir="auto">{"<br>".join(map(escape, item.truths))}</dd><dt>written</dt><dd dir="auto">
{verdict(item.written, item.truths)} {marked(item.written, item.truths)}</dd>
<dt>found</dt><dd><ol>{found}</ol></dd></dl></div>"""


def search_card(asked: Search) -> str:
    items = "".join(
        f"<li>{picture(frames, f'{asked.medium} number {rank}')}{GOOD if right else BAD}</li>"
        for rank, (frames, right) in enumerate(zip(asked.frames, asked.right, strict=True), 1)
    )
    place = f"number {asked.right.index(True) + 1}" if True in asked.right else "not among these"
    return f"""<div class="card search"><div><div dir="auto">{escape(asked.query)}</div><div class="soft small">
{NOUNS.get(asked.medium, "")}; its own is {place}</div></div><ol>{items}</ol></div>"""


def verdict(said: str, truths: Sequence[str]) -> str:
    """Right where the words are those of a caption, case, accents and punctuation aside, as results are counted."""
    return GOOD if any(said == truth or (words(said) and words(said) == words(truth)) for truth in truths) else BAD


def marked(written: str, truths: Sequence[str]) -> str:
    """The written caption as HTML, with words that differ from the nearest true one marked and missing ones named."""
    truth = max(truths, key=lambda own: difflib.SequenceMatcher(None, words(own), words(written)).ratio())
    before, after = ([" ".join(words(word)) or word for word in text.split()] for text in (truth, written))
    made = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        said = escape(" ".join(written.split()[c:d]) or f"(missing: {' '.join(truth.split()[a:b])})")
        made.append(said if tag == "equal" else f"<mark>{said}</mark>")
    return " ".join(made)


def picture(frames: np.ndarray, alt: str) -> str:
    """Frames (T, H, W, 3) as an img, still or moving; a square sheet of all frames for who wants no motion."""
    side = math.ceil(math.sqrt(len(frames)))
    padded = [*frames, *[np.zeros_like(frames[0])] * (side * side - len(frames))]
    sheet = np.vstack([np.hstack(padded[i : i + side]) for i in range(0, len(frames), side)])
    still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{webp([sheet])}">' if side > 1 else ""
    pixels = ' class="pixels"' if max(frames.shape[1:3]) <= SHOWN // 2 else ""
    return f'<picture>{still}<img{pixels} src="{webp(list(frames))}" alt="{escape(alt)}"></picture>'


def webp(frames: Sequence[np.ndarray]) -> str:
    """A data URI: small frames as they are, larger ones shrunk to what the page shows, at high quality."""
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    for image in images:
        image.thumbnail((SHOWN, SHOWN))
    spans = [max(100, 1400 // len(images))] * (len(images) - 1) + [900]  # milliseconds
    small = max(images[0].size) <= SHOWN // 2
    file = io.BytesIO()
    images[0].save(file, "WEBP", save_all=True, append_images=images[1:], duration=spans, lossless=small, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
