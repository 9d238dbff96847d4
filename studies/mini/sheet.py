"""A contact sheet of the mini benchmark, to be looked at: the same concepts by each hand, and FLARE figures in action.

    python studies/mini/sheet.py [DATA] [--out sheet.png] [--seed 0]

Reads what build.py wrote under DATA (runs/mini-data unless given) and writes one PNG: some concepts by every hand that
drew them, then a clip of every creature and of some people, all their frames side by side.
"""

import argparse
import collections
import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageSequence

COLUMNS, NUM_CONCEPTS, NUM_PEOPLE = 16, 30, 12
TEXT_HEIGHT = 12  # pixels


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a manifest that are an item each. Raises FileNotFoundError where there is none."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if "caption" in row]


def emoji_strips(data: Path, rng: random.Random) -> list[tuple[str, list[Image.Image]]]:
    """(text, pictures) of some concepts: the drawings of one caption by all hands, from every split."""
    by_caption: dict[str, list[str]] = collections.defaultdict(list)
    for split in ("train", "unseen_hand", "validation", "unseen_concepts"):
        for row in read_rows(data / f"emoji_{split}.jsonl"):
            by_caption[row["caption"]].append(row["media"])
    chosen = rng.sample(sorted(by_caption), NUM_CONCEPTS)
    return [(caption, [Image.open(data / media) for media in by_caption[caption]]) for caption in chosen]


def flare_strips(data: Path, rng: random.Random) -> list[tuple[str, list[Image.Image]]]:
    """(text, frames) of some clips of every split."""
    strips = []
    for split in ("train", "validation", "test"):
        rows = read_rows(data / f"flare_{split}.jsonl")
        by_figure: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
        for row in rows:
            by_figure[row["id"].partition("/")[0]].append(row)
        people = sorted(figure for figure in by_figure if "-" in figure)  # male-leather-longbow
        creatures = [figure for figure in by_figure if figure not in people]
        for figure in creatures + rng.sample(people, min(len(people), NUM_PEOPLE)):
            row = rng.choice(by_figure[figure])
            clip = Image.open(data / row["media"])
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(clip)]
            strips.append((f"{split}: {row['caption']} ({row['label']})", frames))
    return strips


def draw(strips: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Strips from left to right, a new line where the next does not fit, its text above each."""
    side = strips[0][1][0].width
    places, column, line = [], 0, 0
    for text, pictures in strips:
        width = max(len(pictures), -(-6 * len(text) // side))  # a letter is about 6 pixels wide
        if column and column + width > COLUMNS:
            column, line = 0, line + 1
        places.append((column, line))
        column += width
    sheet = Image.new("RGB", (COLUMNS * side, (line + 1) * (side + TEXT_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for (text, pictures), (column, line) in zip(strips, places, strict=True):
        top = line * (side + TEXT_HEIGHT)
        pen.text((column * side + 2, top), text, fill="black")
        for place, picture in enumerate(pictures, column):
            sheet.paste(picture, (place * side, top + TEXT_HEIGHT))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description="A contact sheet of the mini benchmark.")
    parser.add_argument("data", nargs="?", type=Path, default=Path("runs/mini-data"), help="what build.py wrote")
    parser.add_argument("--out", type=Path, help="PNG to write (DATA/sheet.png)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    try:
        strips = emoji_strips(options.data, rng) + flare_strips(options.data, rng)
    except FileNotFoundError as error:
        print(f"sheet.py: {error.filename} is not there: run studies/mini/build.py first", file=sys.stderr)
        return 2
    out = options.out or options.data / "sheet.png"
    draw(strips).save(out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
