"""Shards: webdataset tars, as img2dataset and video2dataset write them, as one list of items.

What a sample is, and how it is found, stands in `shard_index`. Memory is some 90 bytes a sample and no text: an item is
read when it is asked for. The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room
decodes no media.
"""

import glob
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import overload

import numpy as np

from omnivl.data.annotations.items import Item
from omnivl.data.files import natural
from omnivl.data.shard_index import SAMPLE, Index, index_of, item_of
from omnivl.data.tar import Member, descriptor, filesystem, is_url, read_at

log = logging.getLogger(__name__)

NAMED = 5  # things listed in a message
AT_ONCE = 8  # shards whose indexes are read or built side by side


class Shards(Sequence[Item]):
    """The samples of many tars, each read when it is asked for. Indexing raises OSError where a tar is gone since."""

    def __init__(self, tars: Sequence[str], indexes: Sequence[Index]) -> None:
        self.tars = list(tars)
        self.labels = sorted({name for index in indexes for name in index.labels}, key=lambda name: natural(Path(name)))
        numbers = {label: number for number, label in enumerate(self.labels)}
        self.names = b"".join(index.names for index in indexes)
        self.samples = np.concatenate([np.empty(0, SAMPLE), *(index.samples for index in indexes)])
        first, start = 0, 0
        for tar, index in enumerate(indexes):
            own = self.samples[first : first + len(index.samples)]
            own["tar"] = tar
            own["name"]["offset"] += start
            own["label"] = np.array([*(numbers[label] for label in index.labels), -1])[own["label"]]
            first, start = first + len(own), start + len(index.names)
        self.dropped = dict(sum((Counter(index.dropped) for index in indexes), Counter()))
        self.told: list[str] = []  # shards that are missing or cut short

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Chosen": ...
    def __getitem__(self, place: int | slice) -> "Item | Chosen":
        if isinstance(place, slice):
            return Chosen(self, np.arange(len(self))[place])
        tar, _, _, label, media, text, meta, (start, length) = self.samples[place].item()
        path = self.tars[tar]
        name = self.names[start : start + length].decode("utf-8", "surrogateescape")
        said, row = (read_at(path, *where) if where[1] else b"" for where in (text, meta))
        return item_of(Member(path, name, *media), said, row, self.labels[label] if label >= 0 else "")


class Chosen(Sequence[Item]):
    """Some samples of a set, by their places."""

    def __init__(self, shards: Shards, places: np.ndarray) -> None:
        self.shards, self.places = shards, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Chosen": ...
    def __getitem__(self, place: int | slice) -> "Item | Chosen":
        if isinstance(place, slice):
            return Chosen(self.shards, self.places[place])
        return self.shards[int(self.places[place])]


class Captions(Sequence[str]):
    """Every caption of some samples."""

    def __init__(self, items: Chosen) -> None:
        self.items = items
        self.ends = np.cumsum(items.shards.samples["captions"][items.places], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        place = range(len(self))[place]
        owner = int(np.searchsorted(self.ends, place, side="right"))
        return self.items[owner].captions[place - int(self.ends[owner])]  # counted from the last: negative


def open_shards(pattern: str, *, strict: bool = False) -> Shards:
    """The shards that a pattern names: a tar, a folder of tars, braces ({00000..00331}, {a,b}), stars; or URLs.

    Missing ones and those that are cut short are named in a warning, and the rest is used; with `strict` they are an
    error. Raises ValueError where nothing is left, telling the names of members that were seen.
    """
    tars, indexes = [], []
    missing: list[str] = []
    descriptor.cache_clear()  # a tar may have been replaced since it was last read
    with ThreadPoolExecutor(AT_ONCE) as pool:  # which wait for disks and hosts rather than for each other
        pending = [(tar, pool.submit(index_of, tar)) for tar in matches(pattern)]
        try:
            for tar, made in pending:
                try:
                    indexes.append(made.result())
                    tars.append(tar)
                except FileNotFoundError:
                    missing.append(tar)
                except OSError as error:
                    raise ValueError(f"{tar} cannot be read: {error.strerror or error}") from None
        finally:
            pool.shutdown(cancel_futures=True)
    if not tars:
        raise ValueError(f"no shard is there: {some(missing)}")
    told = [f"{len(missing)} of {len(missing) + len(tars)} shards are missing: {some(missing)}"] if missing else []
    for tar, index in zip(tars, indexes, strict=True):
        if index.cut:
            told.append(f"{tar} is {index.cut}; the whole samples before that are used: {len(index.samples):,}")
    shards = Shards(tars, indexes)
    if not len(shards):
        left_out = "; ".join([f"{count:,} {reason}" for reason, count in shards.dropped.items()] + told)
        seen = some(list(dict.fromkeys(name for index in indexes for name in index.seen)))
        raise ValueError(f"{pattern} holds no sample with media and text: {left_out or 'empty'}; members seen: {seen}")
    if strict and told:
        raise ValueError("; ".join(told))
    for line in told:
        log.warning("shards: %s", line)
    shards.told = told
    return shards


def some(names: Sequence[str]) -> str:
    return (", ".join(names[:NAMED]) or "none") + (", ..." if len(names) > NAMED else "")


# --- which tars ------------------------------------------------------------------------------------------------------


def matches(pattern: str) -> list[str]:
    """Paths or URLs of a pattern, in order; those without stars may not exist. Raises ValueError where stars match
    nothing, or a folder has no tars."""
    if is_url(pattern):
        return [tar for one in expanded(pattern) for tar in globbed_url(one)]
    whole = os.path.expanduser(pattern)
    if os.path.isdir(whole):
        found = [str(path) for path in Path(whole).iterdir() if path.suffix.lower() == ".tar"]
        if not found:
            raise ValueError(f"{pattern} is a folder without .tar files")
        return sorted(found, key=lambda path: natural(Path(path)))
    if os.path.exists(whole):
        return [whole]
    return [tar for one in expanded(whole) for tar in globbed(one)]


def globbed(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern), key=lambda path: natural(Path(path)))
    if not found:
        raise ValueError(f"no file matches {pattern}")
    return found


def globbed_url(url: str) -> list[str]:
    if "*" not in url:
        return [url]
    system, path = filesystem(url)
    found = sorted((str(system.unstrip_protocol(one)) for one in system.glob(path)), key=lambda one: natural(Path(one)))
    if not found:
        raise ValueError(f"nothing matches {url}")
    return found


def expanded(pattern: str) -> list[str]:
    """{00000..00331} and {a,b} written out, the leftmost slowest: "{0..1}{a,b}" -> 0a, 0b, 1a, 1b."""
    inner = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", pattern)
    if not inner:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inner[1])
    if numbers:
        low, high = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(low, high + 1)]
        if not choices:
            raise ValueError(f"{pattern}: {{{inner[1]}}} goes backwards")
    else:
        choices = inner[1].split(",")
    before, after = pattern[: inner.start()], pattern[inner.end() :]
    return list(itertools.chain.from_iterable(expanded(before + choice + after) for choice in choices))
