"""data: what data sets can be read (formats), and what is wrong with one (check); shard is in `sharding`."""

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivl.cli import sharding
from omnivl.cli.common import new_command

if TYPE_CHECKING:
    from omnivl.data.annotations import Format
    from omnivl.data.check import Look


def add_commands(commands: Any) -> None:
    text = "what data sets can be read; what is wrong with one; write one as shards"
    made = commands.add_parser("data", help=text, description=text, allow_abbrev=False)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")

    listed = new_command(verbs, "formats", formats, "every format that is read: files, media, counts, terms")
    listed.add_argument("--json", action="store_true", help="the whole table as JSON")

    checked = new_command(verbs, "check", check, "read a data set and decode all its media; every bad item is named")
    checked.add_argument(
        "data", metavar="FORMAT:FILE", help="manifest:my.jsonl, folder:pets/, coco:dataset_coco.json, shards:cc3m/"
    )
    checked.add_argument("--root", help="where media paths start (default: the file's folder)")
    checked.add_argument("--split", default="train", help="(default: train)")
    checked.add_argument("--workers", type=int, metavar="N", help="processes that decode (default: one a core)")
    checked.add_argument("--json", action="store_true", help="the whole report as JSON")

    sharding.add_shard(verbs)


def formats(options: argparse.Namespace) -> int:
    from omnivl.data.annotations import FORMATS

    if options.json:
        print(json.dumps([described(name, row) for name, row in FORMATS.items()], indent=2))
        return 0
    for name, row in FORMATS.items():
        print(f"{name}: {row.title}")
        for title, text in (
            ("files", row.files),
            ("media", row.media),
            ("splits", ", ".join(f"{split}{numbers(row, split)}" for split in row.splits) or "any"),
            ("terms", row.terms),
            ("obtainable", row.obtainable),
            ("verified", row.verified or "UNVERIFIED: neither its documentation nor a peer's loader could be read"),
        ):
            if text:
                print(f"  {title:11} {text}")
    print("shards: webdataset's tars, as img2dataset and video2dataset write them (omnivl data shard writes them too)")
    print("  files       cc3m/{00000..00331}.tar, a folder of tars, or their URLs")
    print("  media       KEY.jpg, .png, .webp, .mp4, ... beside KEY.txt, KEY.json or KEY.cls in each tar")
    return 0


def numbers(row: "Format", split: str) -> str:
    """The counts of a split, as the field has them: " (5,000 items, 25,010 captions)"; "" where it names none."""
    told = [f"{n:,} {what}" for what, n in dataclasses.asdict(row.splits[split]).items() if n is not None]
    return f" ({', '.join(told)})" if told else ""


def described(name: str, row: "Format") -> dict[str, Any]:
    texts = {key: getattr(row, key) for key in ("title", "files", "media", "terms", "obtainable", "verified")}
    splits = {split: dataclasses.asdict(count) for split, count in row.splits.items()}
    return {"name": name, **texts, "splits": splits}


def check(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from omnivl.data.check import check as check_data
    from omnivl.data.images import bad

    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers is {options.workers}, wanted 0 or more")

    def progress(looks: "Iterable[Look]", total: int) -> "Iterable[Look]":
        return track(looks, "decoding", total=total, console=Console(stderr=True))

    root = Path(options.root).expanduser() if options.root else None
    report = check_data(options.data, root, options.split, progress, num_workers=options.workers)
    if options.json:
        document = {**dataclasses.asdict(report), "counts": report.counts}
        print(json.dumps(document, indent=2))
    else:
        for problem in report.problems:
            print(f"{problem.kind}: {bad(problem.item, problem.reason)}")  # on one line, whatever the names
        held = ", ".join(f"{count:,} {medium}s" for medium, count in report.media.items())
        print(
            f"{report.data}, split {report.split}: {report.items:,} items ({held or 'none of them decodes'}), "
            f"{report.captions:,} captions, {report.questions:,} questions, {report.labels:,} labels"
        )
        told = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
        print(f"{len(report.problems):,} problems: {told}" if told else "nothing is wrong with it")
    return 1 if report.problems else 0
