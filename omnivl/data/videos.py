"""Videos: frames out of a container, through PyAV, which is FFmpeg.

What a container says of itself (frame count, duration) is not believed: its packets are read
through once without decoding, frames are then decoded up to the last one wanted, and each must carry the timestamp that
was expected; where one does not (damage, missing or jumping timestamps, a bare stream), everything is decoded once to
learn the times and once more to keep the wanted frames. Memory holds the wanted frames and 8 bytes a packet.
How a decoded frame becomes pixels is in `frames`.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import array
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from omnivl.data.clips import Clip, choose, stacked, warn
from omnivl.data.frames import decoder_of, displayed, pixel_shape
from omnivl.data.images import MAX_PIXELS, bad

FFMPEG_NAMES = {  # content -> demuxer: stating it keeps FFmpeg from guessing playlists and text into videos
    "MP4": "mov",
    "HEIC sequence": "mov",
    "Matroska": "matroska",
    "AVI": "avi",
    "FLV": "flv",
    "WMV": "asf",
    "MPEG program stream": "mpeg",
    "MPEG-TS": "mpegts",
    "MPEG video": "mpegvideo",
    "MPEG-4 video": "m4v",
    "Ogg": "ogg",
    "H.264": "h264",
    "HEVC": "hevc",
    "IVF": "ivf",
    "Y4M": "yuv4mpegpipe",
    "MXF": "mxf",
    "RealMedia": "rm",
    "NUT": "nut",
    "DV": "dv",
}
SEEKABLE = {"MP4", "Matroska"}  # containers whose index leads to the keyframe asked for
SILENT = {"Matroska", "WMV"}  # containers that FFmpeg reads on behind damage without telling
SEEK_GAP = 12  # packets: decoding on is cheaper than seeking when a keyframe is nearer than this
JUMP = 10.0  # seconds: in a stream without an index, timestamps that leap further than this were restarted
JUMP_BACK = 1.0  # seconds: the same, backwards, in any stream; less is a frame that comes late
FALLBACK_RATE = Fraction(25)  # frames a second, where a stream states none (bare streams)
BAD_READS = 100  # errors in a row after which the rest of a file is given up
COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def decode_video(
    source: Path | BinaryIO, name: str, content: str, num_frames: int, start: float | None, end: float | None
) -> Clip:
    """Frames of a video container. `source` is a path or an open file, `content` its format (of FFMPEG_NAMES).

    Raises BadSample where there is no video stream, no frame that decodes, or no such span.
    """
    try:
        with Film(source, name, content) as film:
            try:
                found = film.expected(num_frames, start, end)
            except StopIteration:  # fewer frames decode than there are packets
                found = None
            found = found or film.learnt(num_frames, start, end)
            if film.damaged:
                warn(name, f"damaged or missing frames in {film.damaged} places, went on with those that decode")
            return found
    except (av.FFmpegError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "; is the file whole?" if isinstance(error, (av.InvalidDataError, av.EOFError)) else ""
        raise bad(name, f"cannot be read as {content} ({reason}{hint})") from error


@dataclass(frozen=True)
class Stamps:
    """When the frames of a stream are shown, by its packets, in ticks of its time base."""

    shown: np.ndarray  # of all packets whose frames are shown, ascending
    keys: np.ndarray  # of the keyframes, ascending
    last: int  # how long the last frame is shown; 0 where not stated
    reordered: bool  # stored in another order than shown


class Film:
    """The main video stream of an open container."""

    def __init__(self, source: Path | BinaryIO, name: str, content: str):
        self.source, self.name, self.content = source, name, content
        self.jump = math.inf if content in SEEKABLE else JUMP
        self.damaged = 0  # places where something did not decode
        self.index = -1  # of the stream
        self.open()

    def open(self) -> None:
        target: Any = self.source
        if isinstance(target, Path):
            target = f"file:{target.absolute()}"  # a name such as "12:30.mp4" would read as a protocol
        else:
            target.seek(0)
        self.container = av.open(target, format=FFMPEG_NAMES[self.content], metadata_errors="replace")
        try:
            if self.index < 0:
                self.index = self.main_stream()
                if len(self.container.streams.video) > 1:  # reading through it chose the stream
                    return self.reopen()
            self.stream: Any = self.container.streams[self.index]
            self.decoder = decoder_of(self.stream)
        except BaseException:
            self.container.close()
            raise
        self.decoded = self.frames()
        self.shape = pixel_shape(self.stream)
        self.time_base = self.stream.time_base or Fraction(1, 90000)
        self.step = float(1 / (self.stream.average_rate or self.stream.guessed_rate or FALLBACK_RATE))  # seconds

    def reopen(self) -> None:
        self.container.close()
        self.open()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def main_stream(self) -> int:
        """Index of the film among the video streams: no cover, no thumbnails, not a short one beside a long one; the
        default one among those of like size, else the largest."""
        streams: list[Any] = [s for s in self.container.streams.video if not s.disposition & COVERS]
        if not streams:
            cover = ": the picture in it is a cover" if self.container.streams.video else ""
            raise bad(self.name, f"there is no video stream in it{cover}")
        streams = [s for s in streams if s.codec_context is not None and s.width]
        if not streams:
            raise bad(self.name, "there is no decoder for its video")
        if len(streams) > 1:
            counts = Counter(packet.stream_index for packet in self.packets(*streams) if packet.size)
            streams = [s for s in streams if 2 * counts[s.index] >= max(counts.values(), default=0)]
        areas = {s.index: s.width * s.height for s in streams}
        alike = [s for s in streams if 4 * areas[s.index] >= max(areas.values())]
        best = max(alike, key=lambda s: (bool(s.disposition & Disposition.default), areas[s.index], -s.index))
        if areas[best.index] > MAX_PIXELS:
            raise bad(self.name, f"too many pixels a frame: {best.width} x {best.height}")
        return int(best.index)

    def seek(self, key: int) -> None:
        """To the keyframe shown at `key` (ticks)."""
        self.container.seek(key, stream=self.stream)
        if self.decoder is not None:
            self.decoder.flush_buffers()
        self.decoded = self.frames()

    def packets(self, *streams: Any) -> Iterator[Any]:
        """Packets of the film (or of the streams given) in the order stored, going on behind damage; the last, empty
        one flushes the decoder."""
        streams = streams or (self.stream,)
        errors, packets = 0, self.container.demux(*streams)
        while errors < BAD_READS:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                errors, self.damaged = errors + 1, self.damaged + 1
                packets = self.container.demux(*streams)
                continue
            errors = 0
            self.damaged += packet.is_corrupt
            yield packet

    def frames(self) -> Iterator[Any]:
        """Frames from the present place on, in the order shown, leaving out what does not decode."""
        for packet in self.packets():
            try:
                decoded = packet.decode() if self.decoder is None else self.decoder.decode(packet)
            except av.FFmpegError:
                self.damaged += 1
                continue
            for frame in decoded:
                self.damaged += frame.is_corrupt
                yield frame

    def expected(self, num_frames: int, start: float | None, end: float | None) -> Clip | None:
        """Frames chosen by the timestamps of the packets; None where decoding does not bear them out."""
        stamps = self.stamps()
        frame = None if stamps is None else self.first_frame(stamps)
        if stamps is None or frame is None:
            return None
        shown = stamps.shown[np.searchsorted(stamps.shown, frame.pts) :]  # earlier ones cannot be decoded
        if not len(shown) or shown[0] != frame.pts:
            return None
        tick = float(self.time_base)
        times = (shown - shown[0]) * self.time_base.numerator / self.time_base.denominator
        duration = float(times[-1]) + last_shown(stamps.last * tick, times, self.step, stamps.reordered)
        chosen = choose(times, duration, num_frames, start, end, name=self.name, tick=tick)
        kept: dict[int, np.ndarray] = {}
        for index in sorted(set(chosen)):
            key = stamps.keys[max(np.searchsorted(stamps.keys, shown[index], side="right") - 1, 0)]
            ahead = np.searchsorted(shown, key) - np.searchsorted(shown, frame.pts)
            if self.content in SEEKABLE and ahead > SEEK_GAP:
                self.seek(int(key))
                frame = next(self.decoded)
            while frame.pts is not None and frame.pts < shown[index]:
                frame = next(self.decoded)
            if frame.pts != shown[index]:
                return None
            kept[index] = displayed(frame, self.shape)
        if self.content in SILENT:
            self.damaged = self.damaged or holes(times)
        return stacked(kept, chosen, times, duration)

    def stamps(self) -> "Stamps | None":
        """Timestamps of the packets, read without decoding; None where they do not tell when frames are shown."""
        shown, keys, last = array.array("q"), array.array("q"), 0
        newest, delayed, reordered = None, False, False
        for packet in self.packets():
            if packet.size == 0 and packet.pts is None:
                continue
            if packet.pts is None:
                return None
            if newest is not None and abs(packet.pts - newest) * float(self.time_base) > self.jump:
                return None
            if packet.is_keyframe:
                keys.append(packet.pts)
            if packet.is_discard:  # an edit list leaves its frame out
                continue
            if newest is None or packet.pts > newest:
                newest, last = packet.pts, packet.duration or 0
            delayed |= packet.pts != packet.dts
            reordered |= packet.pts < newest
            shown.append(packet.pts)
        if not shown or not keys or self.damaged or (self.content == "AVI" and delayed and not reordered):
            return None  # an AVI stores no times, and so FFmpeg's guesses give themselves away
        return Stamps(np.sort(shown), np.sort(keys), last, reordered)

    def first_frame(self, stamps: "Stamps") -> Any:
        """The first frame that decodes; None where none does or it has no timestamp."""
        if self.content in SEEKABLE:
            self.seek(int(stamps.keys[0]))
            frame = next(self.decoded, None)
            if frame is not None and frame.pts == stamps.shown[0]:
                return frame
        self.reopen()
        frame = next(self.decoded, None)
        return None if frame is None or frame.pts is None else frame

    def learnt(self, num_frames: int, start: float | None, end: float | None) -> Clip:
        """Frames chosen by the times of what really decodes: once through for the times, once more for the frames."""
        self.reopen()
        self.damaged, last, times = 0, 0.0, array.array("d")
        for now, frame in self.timed():
            times.append(now)
            last = (frame.duration or 0) * float(frame.time_base or self.time_base)
        if not times:
            raise bad(self.name, "no frame of its video can be decoded")
        if self.content == "AVI":  # FFmpeg's guesses may be out of order, though the frames are not
            times = array.array("d", sorted(times))
        first, damaged = times[0], self.damaged
        for index, now in enumerate(times):
            times[index] = now - first
        duration = times[-1] + last_shown(last, times, self.step)
        tick = float(self.time_base)
        chosen = choose(times, duration, num_frames, start, end, name=self.name, tick=tick)
        self.reopen()
        kept: dict[int, np.ndarray] = {}
        for index, (_, frame) in enumerate(self.timed()):
            if index in chosen:
                kept[index] = displayed(frame, self.shape)
            if index == chosen[-1]:
                break
        self.damaged = damaged
        return stacked(kept, chosen, times, duration)

    def timed(self) -> Iterator[tuple[float, Any]]:
        """Frames with their seconds on a clock that only goes forward. A missing timestamp follows the one before;
        after a leap the clock goes on where it was; a frame that comes late, behind damage, is left out."""
        now, offset, last = None, 0.0, 0.0
        for frame in self.decoded:
            unit = float(frame.time_base or self.time_base)
            follows = 0.0 if now is None else now + (last or self.step)
            here = follows if frame.pts is None else frame.pts * unit + offset
            if now is not None and self.content != "AVI":
                if here - now > self.jump or now - here > JUMP_BACK:
                    offset, here = offset + follows - here, follows
                elif here < now:
                    continue
                elif here == now:
                    here = follows
            now, last = here, (frame.duration or 0) * unit
            yield here, frame


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
