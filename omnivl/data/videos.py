"""Videos: which frames are looked at, and how they come out of a container (PyAV, which is FFmpeg).

The frame shown at the centre of each of `num_frames` equal spans of [start, end] is taken, by timestamps, never by
count and average rate. What a container says of itself (frame count, duration) is not believed: its packets are read
through once without decoding, frames are then decoded up to the last one wanted, and each must carry the timestamp that
was expected; where one does not (damage, missing or jumping timestamps, a bare stream), everything is decoded once to
learn the times and once more to keep the wanted frames. Memory holds the wanted frames and 8 bytes a packet.

Frames come out as a player shows them: display matrix (turns and flips) and pixel shape applied, transparency on white,
8-bit RGB by the stream's own matrix and range (FFmpeg's default, BT.601, where it states none). High dynamic range is
not tone mapped: PQ and HLG look flat. Interlaced frames stay woven.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import array
import bisect
import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from PIL import Image

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
FALLBACK_RATE = Fraction(25)  # frames a second, where a stream states none (bare streams, folders of frames)
BAD_READS = 100  # errors in a row after which the rest of a file is given up
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the transparency


@dataclass(frozen=True)
class Clip:
    """Frames chosen from a video: (T, H, W, 3) uint8; when each is first shown, and how long the video is, in seconds
    from the first shown frame."""

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float


def warn(name: str, text: str) -> None:
    warnings.warn(str(bad(name, text)), stacklevel=2)


def choose(
    times: Sequence[float] | np.ndarray,
    duration: float,
    num_frames: int,
    start: float | None,
    end: float | None,
    *,
    name: str,
    tick: float = 0.0,
) -> list[int]:
    """Which frame is shown at the centre of each of `num_frames` equal spans of [start, end].

    `times` are ascending seconds, the first 0; `end` past the duration means the duration. `tick` is the precision of
    the times. Raises BadSample, naming `name`, where the span is empty or lies outside.
    """
    begin, stop = start or 0.0, duration if end is None else end
    if not begin >= 0:
        raise bad(name, f"start is {begin:g} s, which must be 0 or more")
    if end is not None and not end > begin:
        raise bad(name, f"end is {end:g} s, which must be later than start ({begin:g} s)")
    if begin > 0 and begin >= duration:
        raise bad(name, f"start is {begin:g} s, past the end of the video ({duration:.3f} s)")
    stop = min(stop, duration)
    centres = [begin + (stop - begin) * (i + 0.5) / num_frames for i in range(num_frames)]
    slack = min(tick, 0.001) + 1e-6  # a frame that begins at a centre, but for rounding, is the one shown
    return [max(bisect.bisect_right(times, centre + slack) - 1, 0) for centre in centres]


def clip(
    frames: dict[int, np.ndarray], chosen: list[int], times: Sequence[float] | np.ndarray, duration: float
) -> Clip:
    """The chosen frames in order, as one array; frames of another size (it may change midway) take the first one's."""
    height, width = frames[chosen[0]].shape[:2]
    same = {
        index: frame if frame.shape[:2] == (height, width) else scaled(frame, width, height)
        for index, frame in frames.items()
    }
    return Clip(np.stack([same[i] for i in chosen]), tuple(float(times[i]) for i in chosen), float(duration))


def scaled(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


# --- containers ------------------------------------------------------------------------------------------------------


def decode_video(
    source: Path | BinaryIO, name: str, content: str, num_frames: int, start: float | None, end: float | None
) -> Clip:
    """Frames of a video container. `source` is a path or an open file, `content` its format (of FFMPEG_NAMES).

    Raises BadSample where there is no video stream, no frame that decodes, or no such span.
    """
    try:
        with Film(source, name, content) as film:
            found = film.expected(num_frames, start, end) or film.learnt(num_frames, start, end)
            if film.damaged:
                warn(name, f"damaged or missing frames in {film.damaged} places, went on with those that decode")
            return found
    except (av.FFmpegError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "; is the file whole?" if isinstance(error, (av.InvalidDataError, av.EOFError)) else ""
        raise bad(name, f"cannot be read as {content} ({reason}{hint})") from error


class Film:
    """The main video stream of an open container."""

    def __init__(self, source: Path | BinaryIO, name: str, content: str):
        self.source, self.name, self.content = source, name, content
        self.damaged = 0
        self.jump = math.inf if content in SEEKABLE else JUMP
        self.open()

    def open(self) -> None:
        target: Any = self.source
        if isinstance(target, Path):
            target = f"file:{target.absolute()}"  # a name such as "12:30.mp4" would read as a protocol
        else:
            target.seek(0)
        self.container = av.open(target, format=FFMPEG_NAMES[self.content], metadata_errors="replace")
        try:
            self.stream = main_stream(self.container, self.name)
            self.decoder = decoder_of(self.stream)
        except BaseException:
            self.container.close()
            raise
        self.sar = pixel_shape(self.stream)
        self.time_base = self.stream.time_base or Fraction(1, 90000)
        rate = self.stream.average_rate or self.stream.guessed_rate or FALLBACK_RATE
        self.step = float(1 / rate)  # seconds

    def reopen(self) -> None:
        self.container.close()
        self.open()

    def seek(self, key: int) -> None:
        """To the keyframe shown at `key` (ticks)."""
        self.container.seek(key, stream=self.stream)
        if self.decoder is not None:
            self.decoder.flush_buffers()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """Packets in the order stored, going on behind damage; the last, empty one flushes the decoder."""
        errors, packets = 0, self.container.demux(self.stream)
        while errors < BAD_READS:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                errors, self.damaged = errors + 1, self.damaged + 1
                packets = self.container.demux(self.stream)
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
        stamps, keys, last = array.array("q"), array.array("q"), 0  # in ticks of time_base
        seconds = float(self.time_base)
        newest, delayed, reordered = None, False, False
        for packet in self.packets():
            if packet.size == 0 and packet.pts is None:
                continue
            if packet.pts is None or (newest is not None and abs(packet.pts - newest) * seconds > self.jump):
                return None
            if packet.is_discard:
                continue
            if newest is None or packet.pts > newest:
                newest, last = packet.pts, packet.duration or 0
            delayed |= packet.pts != packet.dts
            reordered |= packet.pts < newest
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        stamps, keys = array.array("q", sorted(stamps)), array.array("q", sorted(keys))
        if not stamps or not keys or self.damaged or (self.content == "AVI" and delayed and not reordered):
            return None  # FFmpeg guesses the times of an AVI, and these are wrong
        if self.content in SEEKABLE:
            self.seek(keys[0])
        else:
            self.reopen()
        frames = self.frames()
        frame = next(frames, None)
        if frame is None or frame.pts is None:
            return None
        first = bisect.bisect_left(stamps, frame.pts)  # earlier ones are not decodable, or not shown
        stamps = stamps[first:]
        if not stamps or stamps[0] != frame.pts:
            return None
        times = np.array(stamps, np.float64)
        times = (times - times[0]) * seconds
        duration = float(times[-1]) + last_shown(last * seconds, times, self.step)
        if self.content in SILENT:
            self.damaged += holes(times)
        chosen = choose(times, duration, num_frames, start, end, name=self.name, tick=seconds)
        kept: dict[int, np.ndarray] = {}
        for index in sorted(set(chosen)):
            target = stamps[index]
            key = bisect.bisect_right(keys, target) - 1
            ahead = bisect.bisect_left(stamps, keys[key]) - bisect.bisect_left(stamps, frame.pts)
            if self.content in SEEKABLE and key >= 0 and ahead > SEEK_GAP:
                self.seek(keys[key])
                frames = self.frames()
                frame = next(frames, None)
            while frame is not None and frame.pts is not None and frame.pts < target:
                frame = next(frames, None)
            if frame is None or frame.pts != target:
                return None
            kept[index] = self.picture(frame)
        return clip(kept, chosen, times, duration)

    def learnt(self, num_frames: int, start: float | None, end: float | None) -> Clip:
        """Frames chosen by the times of what really decodes: once through for the times, once more for the frames."""
        self.reopen()
        self.damaged, last, times = 0, 0.0, array.array("d")
        for now, frame in self.timed():
            times.append(now)
            last = (frame.duration or 0) * float(frame.time_base or self.time_base)
        if not times:
            raise bad(self.name, "no frame of its video can be decoded")
        if (
            self.content == "AVI"
        ):  # it stores no times, and FFmpeg's guesses may be out of order though the frames are not
            times = array.array("d", sorted(times))
        first = times[0]
        for index, now in enumerate(times):
            times[index] = now - first
        duration = times[-1] + last_shown(last, np.asarray(times), self.step)
        tick = float(self.time_base)
        chosen = choose(times, duration, num_frames, start, end, name=self.name, tick=tick)
        damaged, kept = self.damaged, {}
        self.reopen()
        for index, (_, frame) in enumerate(self.timed()):
            if index in chosen:
                kept[index] = self.picture(frame)
            if index == chosen[-1]:
                break
        self.damaged = damaged
        return clip(kept, chosen, times, duration)

    def timed(self) -> Iterator[tuple[float, Any]]:
        """Frames with their seconds on a clock that only goes forward. A missing timestamp follows the one before;
        after a leap the clock goes on where it was; a frame that comes late, behind damage, is left out."""
        now, offset, last = None, 0.0, 0.0
        for frame in self.frames():
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

    def picture(self, frame: Any) -> np.ndarray:
        """A decoded frame as displayed: (H, W, 3) uint8."""
        alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
        pixels = frame.reformat(format="rgba" if alpha else "rgb24", threads=1).to_ndarray()
        if alpha:
            cover = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
        height, width = pixels.shape[:2]
        if self.sar > 1:
            pixels = scaled(pixels, round(width * self.sar), height)
        elif self.sar < 1:
            pixels = scaled(pixels, width, round(height / self.sar))
        return turned(pixels, frame)


def last_shown(stated: float, times: np.ndarray, step: float) -> float:
    """How long the last frame is shown, in seconds: as stated, else like the frames before it."""
    if stated > 0:
        return stated
    return float(statistics.median(np.diff(times[-9:]))) if len(times) > 1 else step


def holes(times: np.ndarray) -> int:
    """How many times frames are missing from an otherwise steady stream."""
    gaps = np.diff(times)
    if len(gaps) < 8:
        return 0
    usual = np.median(gaps)
    steady = np.abs(gaps - usual) <= 0.1 * usual
    return int((gaps > 2.5 * usual).sum()) if steady.mean() >= 0.9 else 0


def main_stream(container: Any, name: str) -> Any:
    """The film among the video streams: no cover, thumbnail or still; the default one among those of like size, else
    the largest."""
    covers = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        cover = " (the picture in it is a cover)" if container.streams.video else ""
        raise bad(name, f"there is no video stream in it{cover}")
    streams = [s for s in streams if s.codec_context is not None and s.width and s.height]
    if not streams:
        raise bad(name, "there is no decoder for its video")
    moving = [s for s in streams if s.frames != 1] or streams
    largest = max(s.width * s.height for s in moving)
    alike = [s for s in moving if 4 * s.width * s.height >= largest]
    best = max(alike, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))
    if best.width * best.height > MAX_PIXELS:
        raise bad(name, f"too many pixels a frame: {best.width} x {best.height}")
    return best


def decoder_of(stream: Any) -> Any:
    """A decoder that keeps the transparency where the stream's own would drop it; None: the stream's own."""
    wanted = ALPHA_DECODERS.get(stream.codec_context.name, "") if stream.metadata.get("alpha_mode") == "1" else ""
    if wanted not in av.codecs_available:
        return None
    decoder: Any = av.CodecContext.create(wanted, "r")
    decoder.extradata = stream.codec_context.extradata
    return decoder


def pixel_shape(stream: Any) -> Fraction:
    """Width of a pixel over its height; an absurd or missing one is 1."""
    sar = stream.sample_aspect_ratio
    return sar if sar and Fraction(1, 8) <= sar <= 8 else Fraction(1)


def turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """(H, W, 3) as the display matrix of the frame shows it: quarter turns and mirrors, the nearest of the eight."""
    side = frame.side_data.get(SideData.DISPLAYMATRIX)
    if side is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(side)[:20], np.int32).tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)  # x and y change places; then x' follows c, y' follows b
        a, d = c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
