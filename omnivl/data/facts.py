"""What the headers of a file say of it, without decoding it: how many pixels, how long, when it was taken.

Dates are local wall-clock time without a zone, "2024-05-01T13:30:00", as cameras write them and people remember them.
The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import av
from PIL import Image

from omnivl.data.animations import ANIMATED, lengths
from omnivl.data.containers import Film
from omnivl.data.files import Source, opened, recognised
from omnivl.data.images import opened as opened_image

EXIF_FOLDER, TAKEN, DIGITISED, CHANGED = 0x8769, 0x9003, 0x9004, 0x0132  # tags of EXIF
EPOCHS = 1971  # a year before it is a clock that was never set


@dataclass(frozen=True)
class Facts:
    """`pixels` of a picture or frame; `duration` in seconds, as the container states it, else as its packets do or the
    delays of a moving picture (None: a still); `taken`, None where nothing tells."""

    pixels: int
    duration: float | None
    taken: str | None


def read_facts(source: Source) -> Facts:
    """Raises BadSample where the file is neither a picture nor a video, or its headers cannot be read."""
    with opened(source) as (file, name, path):
        medium, content = recognised(file, name)
        if medium == "image":
            duration = moving_seconds(file, name, content) if content in ANIMATED else None
            file.seek(0)
            with opened_image(file, name, content) as image:
                return Facts(image.width * image.height, duration, picture_date(image))
        try:
            with Film(path or file, name, content) as film:
                stream, container = film.stream, film.container
                duration = container.duration / av.time_base if container.duration else packet_seconds(film)
                return Facts(stream.width * stream.height, duration, video_date(dict(container.metadata)))
        except av.FFmpegError:
            return Facts(0, None, None)  # whoever decodes it says what is wrong


def moving_seconds(file: BinaryIO, name: str, content: str) -> float | None:
    shown, _ = lengths(file, name, content)
    return sum(shown) if len(shown) > 1 else None


def packet_seconds(film: Film) -> float:
    """From the first to the end of the last packet by their timestamps; where they have none, by their number."""
    ticks = [(packet.pts, packet.pts + (packet.duration or 0)) for packet in film.packets() if packet.pts is not None]
    if ticks:
        return float((max(end for _, end in ticks) - min(start for start, _ in ticks)) * film.time_base)
    film.reopen()
    return film.step * sum(packet.size > 0 for packet in film.packets())


def picture_date(image: Image.Image) -> str | None:
    try:
        tags: Any = image.getexif()
        inner: Any = tags.get_ifd(EXIF_FOLDER)
        found = [inner.get(TAKEN), inner.get(DIGITISED), tags.get(CHANGED)]
    except Exception:  # a broken tag never loses the picture
        return None
    return next((date for date in map(exif_date, found) if date), None)


def exif_date(value: object) -> str | None:
    parts = re.fullmatch(r"(\d{4})[:\-](\d\d)[:\-](\d\d)[ T](\d\d):(\d\d):(\d\d).*", str(value).strip("\0 "), re.S)
    return valid("{}-{}-{}T{}:{}:{}".format(*parts.groups())) if parts else None


def video_date(tags: dict[str, str]) -> str | None:
    """A phone writes its wall clock with the zone; the container's own date is UTC."""
    for key in ("com.apple.quicktime.creationdate", "creation_time", "date"):
        try:
            date = datetime.fromisoformat(tags.get(key, ""))
        except ValueError:
            continue
        local = date.astimezone() if key == "creation_time" and date.tzinfo else date
        found = valid(local.replace(tzinfo=None, microsecond=0).isoformat())
        if found:
            return found
    return None


def valid(text: str) -> str | None:
    try:
        return text if datetime.fromisoformat(text).year >= EPOCHS else None
    except ValueError:
        return None
