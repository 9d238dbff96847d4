"""Videos: when the frames of a container are shown, and those that are chosen.

What a container says of itself (frame count, duration) is not believed: its packets are read through once without
decoding, frames are then decoded up to the last one wanted, and each must carry the timestamp that was expected; where
one does not (damage, missing or jumping timestamps, a bare stream), everything is decoded once to learn the times and
once more to keep the wanted frames. Memory holds the wanted frames and 8 bytes a packet.
How packets and frames are read is in `containers`, how a decoded frame becomes pixels in `frames`.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import array
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from omnivl.data.clips import Clip, stacked, wanted, warn
from omnivl.data.containers import Film
from omnivl.data.frames import displayed
from omnivl.data.images import bad
from omnivl.data.sampling import Choice, Timeline

SEEKABLE = {"MP4", "Matroska"}  # containers whose index leads to the keyframe asked for
SILENT = {"Matroska", "WMV"}  # containers that FFmpeg reads on behind damage without telling
SEEK_GAP = 12  # packets: decoding on is cheaper than seeking when a keyframe is nearer than this
JUMP = 10.0  # seconds: in a stream without an index, timestamps that leap further than this were restarted
JUMP_BACK = 1.0  # seconds: the same, backwards, in any stream; less is a frame that comes late


def decode_video(source: Path | BinaryIO, name: str, content: str, choices: Sequence[Choice]) -> list[Clip]:
    """The clips chosen from a video container. `source` is a path or an open file, `content` its format (of
    FFMPEG_NAMES).

    Raises BadSample where there is no video stream, no frame that decodes, or no such span.
    """
    try:
        with Film(source, name, content) as film:
            try:
                clips = expected(film, choices)
            except StopIteration:  # fewer frames decode than there are packets
                clips = None
            clips = clips or learnt(film, choices)
            if film.damaged:
                warn(name, f"damaged or missing frames in {film.damaged} places, went on with those that decode")
            return clips
    except (av.FFmpegError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "; is the file whole?" if isinstance(error, (av.InvalidDataError, av.EOFError)) else ""
        raise bad(name, f"cannot be read as {content} ({reason}{hint})") from error


# --- times as the packets tell them ----------------------------------------------------------------------------------


def expected(film: Film, choices: Sequence[Choice]) -> list[Clip] | None:
    """Frames chosen by the timestamps of the packets; None where decoding does not bear them out."""
    stamps = read_stamps(film)
    frame = None if stamps is None else first_frame(film, stamps)
    if stamps is None or frame is None:
        return None
    shown = stamps.shown[np.searchsorted(stamps.shown, frame.pts) :]  # earlier ones cannot be decoded
    if not len(shown) or shown[0] != frame.pts:
        return None
    tick = float(film.time_base)
    times = (shown - shown[0]) * film.time_base.numerator / film.time_base.denominator
    duration = float(times[-1]) + last_shown(stamps.last * tick, times, film.step, stamps.reordered)
    timeline = Timeline(film.name, times, duration, tick)
    chosen = [choose(timeline) for choose in choices]
    kept: dict[int, np.ndarray] = {}
    for index in wanted(chosen):
        key = stamps.keys[max(np.searchsorted(stamps.keys, shown[index], side="right") - 1, 0)]
        ahead = np.searchsorted(shown, key) - np.searchsorted(shown, frame.pts)
        if film.content in SEEKABLE and ahead > SEEK_GAP:
            film.seek(int(key))
            frame = next(film.decoded)
        while frame.pts is not None and frame.pts < shown[index]:
            frame = next(film.decoded)
        if frame.pts != shown[index]:
            return None
        kept[index] = displayed(frame, film.shape)
    if film.content in SILENT:
        film.damaged = film.damaged or holes(times)
    film.damaged += cut_short(film, int(shown[0]) * tick + duration)
    return stacked(kept, chosen, timeline)


@dataclass(frozen=True)
class Stamps:
    """When the frames of a stream are shown, by its packets, in ticks of its time base."""

    shown: np.ndarray  # of all packets whose frames are shown, ascending
    keys: np.ndarray  # of the keyframes, ascending
    last: int  # how long the last frame is shown; 0 where not stated
    reordered: bool  # stored in another order than shown


def read_stamps(film: Film) -> Stamps | None:
    """Timestamps of the packets, read without decoding; None where they do not tell when frames are shown."""
    shown, keys, last = array.array("q"), array.array("q"), 0
    newest, decoded, delayed, reordered = None, None, False, False
    furthest = leap(film) / film.time_base  # in ticks
    for packet in film.packets():  # a long film has very many: each of their properties is asked for once
        pts, dts = packet.pts, packet.dts
        if pts is None:
            if packet.size == 0:
                continue
            return None
        if newest is not None and abs(pts - newest) > furthest:
            return None
        if decoded is not None and dts is not None and dts < decoded:  # times were restarted
            return None
        decoded = dts
        if packet.is_keyframe:
            keys.append(pts)
        if packet.is_discard:  # an edit list leaves its frame out
            continue
        if newest is None or pts > newest:
            newest, last = pts, packet.duration or 0
        delayed |= pts != dts
        reordered |= pts < newest
        shown.append(pts)
    if not shown or not keys or film.damaged or (film.content == "AVI" and delayed and not reordered):
        return None  # an AVI stores no times, and so FFmpeg's guesses give themselves away
    return Stamps(np.sort(shown), np.sort(keys), last, reordered)


def first_frame(film: Film, stamps: Stamps) -> Any:
    """The first frame that decodes; None where none does or it has no timestamp."""
    if film.content in SEEKABLE:
        film.seek(int(stamps.keys[0]))
        frame = next(film.decoded, None)
        if frame is not None and frame.pts == stamps.shown[0]:
            return frame
    film.reopen()
    frame = next(film.decoded, None)
    return None if frame is None or frame.pts is None else frame


# --- times as decoding tells them ------------------------------------------------------------------------------------


def learnt(film: Film, choices: Sequence[Choice]) -> list[Clip]:
    """Frames chosen by the times of what really decodes: once through for the times, once more for the frames."""
    film.reopen()
    film.damaged, last, times = 0, 0.0, array.array("d")
    for now, frame in timed(film):
        times.append(now)
        last = (frame.duration or 0) * float(frame.time_base or film.time_base)
    if not times:
        raise bad(film.name, "no frame of its video can be decoded")
    if film.content == "AVI":  # FFmpeg's guesses may be out of order, though the frames are not
        times = array.array("d", sorted(times))
    first, damaged = times[0], film.damaged
    for index, now in enumerate(times):
        times[index] = now - first
    duration = times[-1] + last_shown(last, times, film.step)
    timeline = Timeline(film.name, times, duration, float(film.time_base))
    chosen = [choose(timeline) for choose in choices]
    film.reopen()
    kept: dict[int, np.ndarray] = {}
    indices = wanted(chosen)
    for index, (_, frame) in enumerate(timed(film)):
        if index in indices:
            kept[index] = displayed(frame, film.shape)
        if index == indices[-1]:
            break
    film.damaged = damaged + cut_short(film, first + duration)
    return stacked(kept, chosen, timeline)


def timed(film: Film) -> Iterator[tuple[float, Any]]:
    """Frames with their seconds on a clock that only goes forward. A missing timestamp follows the one before; after
    a leap, or where the first ones are missing, the clock goes on where it was; a frame that comes late, behind
    damage, is left out."""
    now, offset, last, stamped = None, 0.0, 0.0, False
    for frame in film.decoded:
        unit = float(frame.time_base or film.time_base)
        follows = 0.0 if now is None else now + (last or film.step)
        here = follows if frame.pts is None else frame.pts * unit + offset
        if now is not None and film.content != "AVI":
            if here - now > leap(film) or now - here > JUMP_BACK or not (stamped or frame.pts is None):
                offset, here = offset + follows - here, follows
            elif here < now:
                continue
            elif here == now:
                here = follows
        now, last, stamped = here, (frame.duration or 0) * unit, stamped or frame.pts is not None
        yield here, frame


# --- what can be said of times ---------------------------------------------------------------------------------------


def leap(film: Film) -> float:
    """Seconds that timestamps may go on at once, beyond which they were restarted."""
    return math.inf if film.content in SEEKABLE else JUMP


def last_shown(stated: float, times: Sequence[float] | np.ndarray, step: float, reordered: bool = False) -> float:
    """How long the last frame is shown, in seconds: as stated, else like the frames before it. Where frames are stored
    in another order than they are shown, what is stated counts the stored order, and no more than the last gap is
    believed."""
    gaps = np.diff(times[-9:])
    if stated > 0:
        return min(stated, float(gaps[-1])) if reordered and len(gaps) else stated
    return float(np.median(gaps)) if len(gaps) else step


def holes(times: np.ndarray) -> int:
    """How many times frames are missing from an otherwise steady stream."""
    gaps = np.diff(times)
    if len(gaps) < 8:
        return 0
    usual = np.median(gaps)
    steady = np.abs(gaps - usual) <= 0.1 * usual
    return int((gaps > 2.5 * usual).sum()) if steady.mean() >= 0.9 else 0


def cut_short(film: Film, end: float) -> bool:
    """Whether the film ends well before the container says it does."""
    return film.stated_end() > 1.05 * end + 0.25
