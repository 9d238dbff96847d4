"""The index of a shard: which members of a tar are one sample, what they are, and where they lie.

A sample is KEY.jpg (or any other picture or video), KEY.txt, KEY.json and KEY.cls; one of the last three is enough
beside the media. The key ends at the first dot of the file's name; its folder belongs to it. Where that would put two
samples into one (x.1.jpg and x.2.jpg), it ends at the last dot. Extensions may be in upper case, and where one is not
known the content decides. The index of a tar is built once and kept beside it, or in $XDG_CACHE_HOME/omnivl where that
cannot be; it holds places and no text. The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is
ours. This room decodes no media.
"""

import hashlib
import io
import json
import logging
import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from omnivl.data.annotations.items import Item, Question
from omnivl.data.annotations.own import answers_of
from omnivl.data.annotations.tables import clean
from omnivl.data.files import IMAGE_EXTENSIONS, OTHER_EXTENSIONS, VIDEO_EXTENSIONS
from omnivl.data.media import kind
from omnivl.data.sample import BadSample
from omnivl.data.tar import CutShort, Member, filesystem, is_url, members, window

log = logging.getLogger(__name__)

VERSION = 1  # of the index; raised when the same tar would be read otherwise
TEXTS = (".txt", ".text", ".caption")
IMAGE, VIDEO, UNREADABLE = 0, 1, 2
MEDIA = ("image", "video", "")
SEEN = 5  # endings of members that are told where nothing can be used

NO_MEDIA = "samples without media"
NO_TEXT = "samples without caption, label or question"
NO_JSON = "samples whose .json is not JSON, and without other text"

PLACE = [("offset", "<i8"), ("size", "<i8")]  # size 0: there is none
SAMPLE = np.dtype(
    [
        *(("tar", "<i4"), ("medium", "i1"), ("captions", "<i4"), ("label", "<i4")),  # label: number, -1 where none
        *(("media", PLACE), ("text", PLACE), ("meta", PLACE), ("name", PLACE)),  # name: in the index's own
    ]
)


# --- a sample --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One member: what it is to its sample, and what its content says."""

    member: Member
    role: str  # media, text, meta, label; cut: begun, and not whole
    content: bytes = b""  # of texts
    medium: int = UNREADABLE

    @property
    def key(self) -> str:
        folder, slash, name = self.member.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    @property
    def stem(self) -> str:
        folder, slash, name = self.member.name.rpartition("/")
        return folder + slash + name.rpartition(".")[0]


def samples(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """The parts of each sample, in the order of their first ones. A name that comes again begins another sample."""
    found: dict[tuple[str, int], list[Part]] = {}
    times: Counter[str] = Counter()
    for part in parts:
        found.setdefault((part.key, times[part.member.name]), []).append(part)
        times[part.member.name] += 1
    for own in found.values():
        if is_one(own):
            yield own
        else:
            by_stem: dict[str, list[Part]] = {}
            for part in own:
                by_stem.setdefault(part.stem, []).append(part)
            yield from by_stem.values()


def is_one(parts: list[Part]) -> bool:
    """Whether parts with one key are one sample: they have at most one longer name, and no role twice."""
    longer = {part.stem for part in parts} - {parts[0].key}
    stems = Counter(role for role, _ in {(part.role, part.stem) for part in parts})
    return len(longer) <= 1 and max(stems.values()) == 1


def item_of(media: Member, text: bytes, meta: bytes, label: str) -> Item:
    """What the texts of a sample say. KEY.json may hold `caption`, `captions`, `label`, `id`, `start`, `end` as a
    manifest does, and `questions`; what has another type there is somebody else's and is left."""
    row = json_of(meta) or {}
    captions = [caption for caption in listed(row.get("captions")) if caption]
    for caption in (*listed(row.get("caption")), clean(text.decode("utf-8-sig", "replace"))):
        if caption and caption not in captions:  # the same text stands in several places
            captions.append(caption)
    start, end = seconds(row.get("start")), seconds(row.get("end"))
    if end is not None and end <= (start or 0):
        start = end = None
    return Item(
        Path(str(media)),
        content=media,
        captions=tuple(captions),
        questions=tuple(questions_of(row)),
        label=name_of(row.get("label")) or label,
        id=name_of(row.get("id")),
        start=start,
        end=end,
    )


def json_of(meta: bytes) -> dict[str, Any] | None:
    """The object in KEY.json; None where it is none."""
    try:
        row = json.loads(meta.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def listed(value: Any) -> list[str]:
    return [clean(text) for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def name_of(value: Any) -> str:
    known = isinstance(value, (str, int)) and not isinstance(value, bool)
    return unicodedata.normalize("NFC", clean(str(value))) if known else ""


def seconds(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < float("inf") else None


def questions_of(row: dict[str, Any]) -> Iterator[Question]:
    """Those of `questions`, a list; or the one of `question` and `answer`, as a manifest has it."""
    given = row.get("questions")
    for asked in given if isinstance(given, list) else [row]:
        if isinstance(asked, dict) and isinstance(asked.get("question"), str):
            try:
                answers = answers_of(asked.get("answer"))
            except ValueError:
                continue
            kind = "" if asked is row else name_of(asked.get("kind"))
            yield Question(clean(asked["question"]), answers, name_of(asked.get("id")), kind)


# --- the index of one tar --------------------------------------------------------------------------------------------


@dataclass
class Index:
    """Where the samples of one tar lie."""

    samples: np.ndarray  # (N,) SAMPLE; `tar` is 0
    names: bytes  # of their media members, one after the other
    labels: list[str]
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> samples
    seen: list[str] = field(default_factory=list)  # member names, one of each ending
    cut: str = ""  # why it ends too early

    def save(self, path: Path, state: str) -> None:
        """Write it whole or not at all. `state` is what the tar looked like. Raises OSError."""
        told = {"version": VERSION, "state": state, "labels": self.labels, "dropped": self.dropped}
        told |= {"seen": self.seen, "cut": self.cut}
        content = io.BytesIO()
        names, told_bytes = (np.frombuffer(part, np.uint8) for part in (self.names, json.dumps(told).encode()))
        np.savez(content, samples=self.samples, names=names, told=told_bytes)
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, state: str) -> "Index | None":
        """The index in a file; None where there is none, or it is of another state of the tar."""
        try:
            with np.load(path) as file:
                told = json.loads(file["told"].tobytes())
                if (told.pop("version"), told.pop("state")) != (VERSION, state):
                    return None
                return cls(file["samples"], file["names"].tobytes(), **told)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None


def index_of(tar: str) -> Index:
    """The index of a tar, built where it is not kept. Raises OSError where the tar is not there or cannot be read."""
    if is_url(tar):
        system, path = filesystem(tar)
        size = int(system.info(path)["size"] or 0)
        state, places = f"{size} {system.ukey(path)}", [cached_index(tar)]
    else:
        stat = os.stat(tar)
        size, state = stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}"
        places = [Path(f"{tar}.omnivl-index"), cached_index(os.path.abspath(tar))]
    for place in places:
        if (kept := Index.load(place, state)) is not None:
            return kept
    log.info("%s: building its index, once", tar)
    with system.open(path, "rb") if is_url(tar) else Path(tar).open("rb", 0) as file:
        index = scan(file, size, tar)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            index.save(place, state)
            break
        except OSError:
            continue
    return index


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cached_index(name: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "omnivl" / "shards" / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.index"


def scan(file: BinaryIO, size: int, tar: str) -> Index:
    """The index of an open tar, which is read once from its start to its end, media but for what tells their kind."""

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    parts: list[Part] = []
    seen: dict[str, str] = {}
    cut = ""
    try:
        for member in members(file, size, tar):
            seen.setdefault(member.suffix.lower(), member.name)
            if part := part_of(member, read):
                parts.append(part)
    except CutShort as error:
        cut = str(error)
        if error.member:
            parts.append(Part(Member(tar, error.member, 0, 0), "cut"))
    rows: list[tuple[Any, ...]] = []
    names, labels, dropped = bytearray(), dict[str, int](), Counter[str]()
    for own in samples(parts):
        if any(part.role == "cut" for part in own):
            continue
        media, text, meta, label = (first(own, role) for role in ("media", "text", "meta", "label"))
        item = item_of(media.member, text.content, meta.content, name_of(label.content.decode("utf-8", "replace")))
        missing = lacks(media, item, meta)
        if missing:
            dropped[missing] += not (cut and own[-1] is parts[-1])  # the rest of the last one was cut off
            continue
        name = media.member.name.encode("utf-8", "surrogateescape")
        rows.append(
            (
                *(0, media.medium if item.start is item.end is None else VIDEO, len(item.captions)),
                labels.setdefault(item.label, len(labels)) if item.label else -1,
                *((part.member.offset, part.member.size) for part in (media, text, meta)),
                (len(names), len(name)),
            )
        )
        names += name
    return Index(np.array(rows, SAMPLE), bytes(names), list(labels), +dropped, list(seen.values())[:SEEN], cut)


def part_of(member: Member, read: Callable[[int, int], bytes]) -> Part | None:
    """What a member is; None where it belongs to no sample."""
    ending = member.suffix.lower()
    if PurePosixPath(member.name).name.startswith("."):
        return None
    role = {**dict.fromkeys(TEXTS, "text"), ".json": "meta", ".cls": "label"}.get(ending)
    if role:
        return Part(member, role, read(member.offset, member.size))
    if ending in OTHER_EXTENSIONS:
        return None
    try:
        medium = kind(window(read, str(member), member.offset, member.size))
        return Part(member, "media", medium=MEDIA.index(medium))
    except BadSample:  # what is wrong with it is told when it is looked at by itself
        return Part(member, "media") if ending in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS else None


def first(parts: list[Part], role: str) -> Part:
    """The part of a role, of several media a video; an empty one where there is none."""
    own = [part for part in parts if part.role == role]
    videos = [part for part in own if part.medium == VIDEO]
    return [*videos, *own, Part(Member("", "", 0, 0), role)][0]


def lacks(media: Part, item: Item, meta: Part) -> str:
    """Why a sample cannot be used; "" where it can."""
    if not media.member.name:
        return NO_MEDIA
    if item.captions or item.label or item.questions:
        return ""
    return NO_JSON if meta.content.strip() and json_of(meta.content) is None else NO_TEXT
