"""Build the mini benchmark: fetch pinned packages, write pictures and clips, the manifests that split them, and shards.

    python studies/mini/build.py [OUT] [--size 64] [--parts emoji more flare stamps]

Everything goes under OUT (runs/mini-data unless given), nothing of it into the repository. An interrupted build goes
on: archives, media and shards that are there are kept. Shards are read back whole, and must equal the manifests. Exit 2
with one sentence where a package cannot be had, or OUT holds shards of an older build.
"""

import argparse
import collections
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.data.annotations import Item, read_manifest
from omnivl.data.shard_writer import write_shards
from omnivl.data.shards import open_shards
from omnivl.data.tar import Member
from studies.mini import emoji, flare, stamps
from studies.mini.packages import PACKAGES, PackageError, fetch
from studies.mini.questions import about_clip, about_drawing
from studies.mini.splits import SPECIES_SPLIT, concept_split, emoji_split

Row = dict[str, str]
Manifests = dict[str, list[Row]]  # of each item one row with all its texts, and then one for each question

SHARD_SIZE = 20_000_000  # bytes


def emoji_part(archives: dict[str, Path], out: Path, size: int) -> tuple[Manifests, dict[str, Any]]:
    """Write the drawings; return the rows of each manifest and what was left out."""
    names = emoji.read_names(archives[emoji.NAMES])
    hands = {hand: archives[package] for hand, (package, _, _) in emoji.HANDS.items()}
    return drawings_part(hands, names, out, size)


def more_part(archives: dict[str, Path], out: Path, size: int) -> tuple[Manifests, dict[str, Any]]:
    """The same of the further hands, what they drew of training concepts alone: emoji_more_train. Beside it
    emoji_words.json, for each name of a training concept the words that people look for it by."""
    names = emoji.read_names(archives[emoji.NAMES])
    told = emoji.read_words(archives[emoji.WORDS])
    known = {code: name for code, name in names.items() if concept_split(name.name) == "train"}
    words = {name.name: told[code] for code, name in known.items() if told.get(code)}
    (out / "emoji_words.json").write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    hands = {hand: archives[package] for hand, package in emoji.MORE_HANDS.items()}
    rows, counts = drawings_part(hands, known, out, size)
    return {"emoji_more_train": rows["emoji_train"]}, counts


def drawings_part(
    hands: dict[str, Path], names: dict[str, emoji.Name], out: Path, size: int
) -> tuple[Manifests, dict[str, Any]]:
    manifests: Manifests = collections.defaultdict(list)
    counts: dict[str, Any] = {}
    for hand, archive in hands.items():
        drawn = 0
        for drawing in emoji.drawings(hand, archive, names, size):
            drawn += 1
            split = emoji_split(drawing.name.name, hand)
            if split is None:
                continue
            media = f"emoji-{size}/{hand}/{drawing.name.code}.png"
            write(out / media, functools.partial(drawing.image.save, format="PNG"))
            manifests[f"emoji_{split}"].append(
                {
                    "media": media,
                    "caption": drawing.name.name,
                    "label": drawing.name.group,
                    "id": f"{hand}/{drawing.name.code}",
                }
            )
            manifests[f"emoji_{split}"] += question_rows(media, about_drawing(drawing.name))
        counts[hand] = {"names": len(names), "distinct_drawings": drawn}
        say(f"emoji: {drawn} drawings of {hand}")
    return manifests, counts


def flare_part(archive: Path, out: Path, size: int) -> tuple[Manifests, dict[str, Any]]:
    """Write the clips; return the rows of each manifest and the number of clips of each species."""
    manifests: Manifests = collections.defaultdict(list)
    species: collections.Counter[str] = collections.Counter()
    files = flare.read_package(archive)
    order = flare.parse_order(files[flare.LAYER_ORDER.removeprefix(flare.MODS)].decode())
    for number, figure in enumerate(flare.figures(files), 1):
        for clip in flare.clips(figure, order, size):
            media = f"flare-{size}/{figure.key}/{clip.action}-{clip.direction}.webp"
            write(out / media, functools.partial(save_clip, clip))
            species[figure.species] += 1
            manifests[f"flare_{SPECIES_SPLIT[figure.species]}"].append(
                {
                    "media": media,
                    "caption": clip.caption,
                    "label": clip.label,
                    "id": f"{figure.key}/{clip.action}-{clip.direction}",
                }
            )
            manifests[f"flare_{SPECIES_SPLIT[figure.species]}"] += question_rows(media, about_clip(clip))
        if number % 20 == 0:
            say(f"flare: {species.total()} clips of {number} figures")
    return manifests, dict(species)


def stamps_part(archive: Path, out: Path, size: int) -> tuple[Manifests, int]:
    """Write Tux Paint's stamps; return the rows of their one manifest, a test, and how many there are."""
    rows = []
    for stamp in stamps.stamps(archive, size):
        media = f"stamps-{size}/{stamp.key}.png"
        write(out / media, functools.partial(stamp.image.save, format="PNG"))
        rows.append({"media": media, "caption": stamp.caption, "label": stamp.group, "id": stamp.key})
    say(f"stamps: {len(rows)} pictures")
    return {"stamps_transfer": rows}, len(rows)


def question_rows(media: str, asked: Iterable[tuple[str, str]]) -> list[Row]:
    return [{"media": media, "question": question, "answer": answer} for question, answer in asked]


def save_clip(clip: flare.Clip, file: io.BytesIO) -> None:
    """An animated lossless WebP that keeps the durations and plays for ever."""
    first, *rest = clip.frames
    animation = {"save_all": True, "append_images": rest, "duration": clip.durations, "loop": 0}
    first.save(file, "WEBP", lossless=True, method=0, **animation)


def write(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Write a media file unless it is there; it appears whole or not at all."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    save(content)
    partial = path.with_suffix(".part")
    partial.write_bytes(content.getvalue())
    os.replace(partial, path)


def write_manifests(manifests: Manifests, out: Path) -> dict[str, dict[str, Any]]:
    """NAME.jsonl, and NAME_labels.jsonl with the same media as label data alone. Returns what each holds."""
    held = {}
    for name, rows in sorted(manifests.items()):
        items = [row for row in rows if "caption" in row]
        write_lines(out / f"{name}.jsonl", rows)
        write_lines(out / f"{name}_labels.jsonl", ({k: v for k, v in row.items() if k != "caption"} for row in items))
        held[name] = {
            "items": len(items),
            "captions": len({row["caption"] for row in items}),
            "questions": len(rows) - len(items),
            "labels": dict(sorted(collections.Counter(row["label"] for row in items).items())),
        }
    return held


def shards_part(names: Iterable[str], out: Path) -> dict[str, dict[str, int]]:
    """shards/NAME/ of each manifest, read back whole. Raises ValueError where they are not what the manifests say."""
    counts = {}
    for name in names:
        items, folder = read_manifest(out / f"{name}.jsonl", None, "").items, out / "shards" / name
        shards = write_shards(items, folder, SHARD_SIZE)
        read_back(items, folder)
        counts[name] = {"shards": len(shards), "samples": len(items), "bytes": sum(shard.bytes for shard in shards)}
        say(f"shards: {len(items)} samples of {name}")
    return counts


def read_back(items: Sequence[Item], folder: Path) -> None:
    """Raises ValueError where shards do not hold these items, in order, with the bytes of their media."""
    shards = open_shards(str(folder))
    if len(shards) != len(items):
        raise ValueError(f"{folder} holds {len(shards)} samples, wanted {len(items)}")
    for item, found in zip(items, shards, strict=True):
        same = replace(found, media=item.media, content=b"") == item
        if not same or not isinstance(found.content, Member) or found.content.read() != item.media.read_bytes():
            raise ValueError(f"{found.media} is not {item.media} with its texts")


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cache_folder(out: Path) -> Path:
    """Where archives are kept: the user's cache where there is one, else beside what is built."""
    shared = os.environ.get("XDG_CACHE_HOME")
    return Path(shared) / "omnivl" / "mini" if shared else out / "cache"


def build(out: Path, size: int, parts: list[str]) -> dict[str, Any]:
    """Everything; returns what counts.json says. Raises PackageError before anything is written."""
    begun = time.perf_counter()
    archives = {
        package.name: fetch(package, cache_folder(out))
        for package in PACKAGES.values()
        if package.part in parts or (package.name == emoji.NAMES and "more" in parts)
    }
    fetched = time.perf_counter()
    manifests: Manifests = {}
    counts: dict[str, Any] = {"size": size}
    out.mkdir(parents=True, exist_ok=True)
    if "emoji" in parts:
        rows, counts["emoji"] = emoji_part(archives, out, size)
        manifests |= rows
    if "more" in parts:
        rows, counts["more"] = more_part(archives, out, size)
        manifests |= rows
    if "flare" in parts:
        rows, counts["flare"] = flare_part(archives["flare-game"], out, size)
        manifests |= rows
    if "stamps" in parts:
        rows, counts["stamps"] = stamps_part(archives["tuxpaint-stamps-default"], out, size)
        manifests |= rows
    counts["manifests"] = write_manifests(manifests, out)
    written = time.perf_counter()
    counts["shards"] = shards_part(counts["manifests"], out)
    spent = {"fetch": fetched - begun, "write": written - fetched, "shards": time.perf_counter() - written}
    counts["seconds"] = {name: round(seconds, 1) for name, seconds in spent.items()}
    (out / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build the mini benchmark: fetch packages, write media, manifests and shards."
    )
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/mini-data"), help="folder to build in")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (64)")
    parser.add_argument("--parts", nargs="+", choices=("emoji", "more", "flare", "stamps"), default=["emoji", "flare"])
    options = parser.parse_args()
    if options.size < 1:
        parser.error(f"--size is pixels, at least 1, got {options.size}")
    try:
        counts = build(options.out, options.size, options.parts)
    except (PackageError, ValueError) as error:
        say(f"build.py: {error}")
        return 2
    for name, held in counts["manifests"].items():
        told = f"{held['items']} items, {held['captions']} captions, {held['questions']} questions"
        print(f"{options.out / name}.jsonl: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
