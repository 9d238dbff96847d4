"""Writing shards: items and their media, as they are, into webdataset tars of a limited size.

A tar appears whole or not at all, and its bytes follow from the items alone, so that a second run goes on after the
last whole one and ends with the same files. `shards.json` beside them says how far it is. Item n becomes the sample
{n:09d}: its media's bytes, KEY.txt (the first caption), KEY.json (everything) and KEY.cls (the number of its label).
Media that cannot be read are left out. The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is
ours.
"""

import fcntl
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from omnivl.data.annotations.items import Item
from omnivl.data.files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, natural, resolve
from omnivl.data.reading import frames_of, medium_of
from omnivl.data.sample import BadSample
from omnivl.data.shard_index import write_whole
from omnivl.data.tar import BLOCK, Member

STATE = "shards.json"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass
class Shard:
    """One whole tar, and what was left out while it was written."""

    name: str
    end: int  # number of the first item behind it
    samples: int
    bytes: int
    left_out: list[tuple[int, str]] = field(default_factory=list)  # item, and one line: its media and the reason


@dataclass(frozen=True)
class Ready:
    """An item that can be written: member names and their content; or `bad`, why it cannot."""

    number: int
    texts: dict[str, bytes] = field(default_factory=dict)
    name: str = ""  # of the media member
    source: Path | bytes | Member = b""
    size: int = 0  # bytes of the media
    bad: str = ""

    @property
    def blocks(self) -> int:
        """Bytes it takes in a tar."""
        return sum(BLOCK - (-size // BLOCK) * BLOCK for size in (self.size, *map(len, self.texts.values())))


def parse_size(text: str) -> int:
    """ "500MB", "2 GiB", "1000" as bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not found or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError(f"a size is written as 500MB or 2GB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


def write_shards(
    items: Sequence[Item], out: Path, size: int, tell: Callable[[Shard], None] = lambda shard: None
) -> list[Shard]:
    """Write every item that can be read into tars of at most `size` bytes in `out`, going on where an earlier run
    ended; a larger sample has a tar of its own. `tell` is called with each whole one, those of earlier runs too.

    Gives the shards; where no item can be read, a single one without samples or file. Raises ValueError where `out`
    holds other shards or is being written to; OSError where it cannot be written.
    """
    names = sorted({item.label for item in items} - {""}, key=lambda name: natural(Path(name)))
    labels, identity = {name: number for number, name in enumerate(names)}, fingerprint(items, size)
    with alone(out):

        def still_bad(shard: Shard) -> bool:
            return all(prepared(number, items[number], labels).bad for number, _ in shard.left_out)

        done = list(takewhile(still_bad, begun(out, identity)))  # from where media were mended all is written anew
        save(out, identity, done)
        for path in out.glob("*.tar"):  # renamed, but not noted any more
            if re.fullmatch(r"\d{5,}\.tar", path.name) and path.name not in {shard.name for shard in done}:
                path.unlink()
        for shard in done:
            tell(shard)
        first = done[-1].end if done else 0
        waiting = Ahead(prepared(number, items[number], labels) for number in range(first, len(items)))
        while waiting.next is not None:
            shard = write_one(out, f"{len(done):05d}.tar", waiting, size)
            done.append(shard)
            if shard.samples:
                save(out, identity, done)
            tell(shard)
    return done


class Ahead:
    """Prepared items, of which the next can be looked at before it is taken; None behind the last."""

    def __init__(self, items: Iterator[Ready]) -> None:
        self.items = items
        self.next = next(items, None)

    def go_on(self) -> None:
        self.next = next(self.items, None)


def write_one(out: Path, name: str, waiting: Ahead, size: int) -> Shard:
    """Write items until the next one does not fit. Without a single good one there is no file."""
    shard, partial = Shard(name, 0, 0, 0), out / f"{name}.part"
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                while (ahead := waiting.next) and (ahead.bad or not shard.samples or fits(shard.bytes, ahead, size)):
                    if ahead.bad:
                        shard.left_out.append((ahead.number, ahead.bad))
                    else:
                        add(tar, ahead)
                        shard.samples, shard.bytes = shard.samples + 1, shard.bytes + ahead.blocks
                    shard.end = ahead.number + 1
                    waiting.go_on()
            shard.bytes = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if shard.samples:
            os.replace(partial, out / name)
    finally:
        partial.unlink(missing_ok=True)
    return shard


def fits(used: int, ready: Ready, size: int) -> bool:
    """Whether a tar stays within `size` with this sample and the end mark, filled up as tarfile does."""
    total = used + ready.blocks + 2 * BLOCK
    return -(-total // tarfile.RECORDSIZE) * tarfile.RECORDSIZE <= size


def add(tar: tarfile.TarFile, ready: Ready) -> None:
    with opened(ready.source) as file:
        put(tar, ready.name, ready.size, file)
    for name, content in ready.texts.items():
        put(tar, name, len(content), io.BytesIO(content))


def put(tar: tarfile.TarFile, name: str, size: int, file: BinaryIO) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the bytes follow from the content alone
    info.size = size
    tar.addfile(info, file)


def opened(source: Path | bytes | Member) -> BinaryIO:
    if isinstance(source, Member):
        return source.open()
    return io.BytesIO(source) if isinstance(source, bytes) else resolve(source).open("rb")


def size_of(source: Path | bytes | Member) -> int:
    if isinstance(source, Member):
        return source.size
    return len(source) if isinstance(source, bytes) else resolve(source).stat().st_size


# --- one sample ------------------------------------------------------------------------------------------------------


def prepared(number: int, item: Item, labels: Mapping[str, int]) -> Ready:
    """An item as a sample. Its media are decoded once, so that what a shard holds can be read."""
    try:
        if os.path.isdir(resolve(item.media)):
            raise BadSample(f"{item.media}: is a folder of pictures; a shard holds files")
        medium = medium_of(item)
        frames_of(item, medium, 1)
        size = size_of(item.source)
    except BadSample as error:
        return Ready(number, bad=str(error))
    ending = item.media.suffix.lower()
    key, known = f"{number:09d}", ending in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    texts = {f"{key}.txt": item.captions[0]} if item.captions else {}
    texts[f"{key}.json"] = json.dumps(row_of(item), ensure_ascii=False)
    if item.label:
        texts[f"{key}.cls"] = str(labels[item.label])
    content = {name: text.encode() for name, text in texts.items()}
    return Ready(number, content, f"{key}{ending if known else f'.{medium}'}", item.source, size)


def row_of(item: Item) -> dict[str, Any]:
    """What is said of an item, but for its media, as JSON values."""
    row: dict[str, Any] = {"id": item.id, "captions": list(item.captions), "label": item.label}
    row |= {"caption": item.captions[0]} if item.captions else {}
    row["questions"] = [
        {"question": asked.text, "answer": dict(asked.answers), "id": asked.id, "kind": asked.kind}
        for asked in item.questions
    ]
    spans = {name: value for name, value in (("start", item.start), ("end", item.end)) if value is not None}
    return {name: value for name, value in row.items() if value} | spans


# --- how far it is ---------------------------------------------------------------------------------------------------


def fingerprint(items: Sequence[Item], size: int) -> str:
    """Names what the shards are made of."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    for item in items:
        digest.update(json.dumps([item.media.name, row_of(item)]).encode())
    return digest.hexdigest()


def begun(out: Path, identity: str) -> list[Shard]:
    """The whole shards that an earlier run left in `out`. Raises ValueError where they are of something else."""
    if not list(out.glob("*.tar")):
        return []
    try:
        told = json.loads((out / STATE).read_text(encoding="utf-8"))
        same, shards = told["fingerprint"] == identity, [Shard(**each) for each in told["shards"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        same, shards = False, []
    if not same:
        raise ValueError(f"{out} holds shards of other items, or of another --size: choose another --out, or empty it")
    for shard in shards:
        shard.left_out = [(number, reason) for number, reason in shard.left_out]
    whole = [(out / shard.name).is_file() and (out / shard.name).stat().st_size == shard.bytes for shard in shards]
    return shards[: [*whole, False].index(False)]


def save(out: Path, identity: str, done: Sequence[Shard]) -> None:
    told = {"fingerprint": identity, "shards": [asdict(shard) for shard in done]}
    write_whole(
        out / STATE, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """The folder `out`, made, and locked against other writers as long as this process lives. Raises ValueError."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"{out} is being written by another process") from None
    finally:
        os.close(folder)
