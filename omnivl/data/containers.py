"""Containers: the film in a file, its packets and its frames, through PyAV, which is FFmpeg.

Nothing is decoded ahead, and damage is counted, never fatal while something still decodes. What a container says of
itself (how many frames, how long) is used for a warning alone. When frames are shown is the business of `videos`.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no model.
"""

import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.stream import Disposition

from omnivl.data.frames import decoder_of, pixel_shape
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
STATE_LENGTH = {"Matroska", "AVI", "WMV", "FLV"}  # containers cut short without an error, which say how long they were
FALLBACK_RATE = Fraction(25)  # frames a second, where a stream states none (bare streams)
BAD_READS = 100  # errors in a row after which the rest of a file is given up
COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class Film:
    """The main video stream of an open container."""

    def __init__(self, source: Path | BinaryIO, name: str, content: str):
        self.source, self.name, self.content = source, name, content
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

    def stated_end(self) -> float:
        """Seconds at which the film ends by what its container says; 0 where it says nothing to rely on."""
        if self.content not in STATE_LENGTH:
            return 0.0
        if tag := re.match(r"(\d+):(\d+):(\d+[.]?\d*)", self.stream.metadata.get("DURATION", "")):
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        alone = len(self.container.streams) == 1  # else it may be the sound that lasts so long
        return (self.container.duration or 0) / 1e6 if alone else 0.0
