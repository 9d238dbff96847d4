"""data shard: a data set written as webdataset tars, bad media named and left out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivl.cli.common import new_command
from omnivl.config import ConfigError

if TYPE_CHECKING:
    from omnivl.data.shard_writer import Shard


def add_shard(subcommands: Any) -> None:
    made = new_command(subcommands, "shard", shard, "write a data set as webdataset tars; an ended run goes on")
    made.add_argument("data", metavar="FORMAT:FILE", help="manifest:my.jsonl, folder:pets/, ...")
    made.add_argument("--out", required=True, metavar="DIR", help="folder of the tars")
    made.add_argument("--root", default="", help="where relative media paths start")
    made.add_argument("--split", default="train")
    made.add_argument("--size", default="500MB", help="largest size of a tar (default: 500MB)")


def shard(options: argparse.Namespace) -> int:
    from omnivl.data.shard_writer import parse_size, write_shards
    from omnivl.data.sources import open_items

    size, out = parse_size(options.size), Path(options.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, wanted a folder")
    items, dropped = open_items(options.data, options.root, options.split)
    for reason, count in dropped.items():
        print(f"omnivl: left out: {count:,} {reason}", file=sys.stderr)

    def tell(shard: "Shard") -> None:
        for _, reason in shard.left_out:
            print(f"omnivl: left out: {reason}", file=sys.stderr)
        if shard.samples:
            print(f"{out / shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes", flush=True)

    try:
        done = write_shards(items, out, size, tell)
    except OSError as error:
        told = f"{out} cannot be written ({error.strerror or error}); the same command goes on after the last whole tar"
        print(f"omnivl: {told}", file=sys.stderr)
        return 1
    written, left_out = sum(shard.samples for shard in done), sum(len(shard.left_out) for shard in done)
    print(f"{written:,} samples written, {left_out:,} left out" + (f"; read them with shards:{out}" if written else ""))
    return 1 if left_out else 0
