"""Clips as people have them: the frames shown at the centres of equal spans, or one sentence that says why not."""

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omnivl.data.media import BadSample, Clip, kind, read_video
from tests.data.make_media import (
    add_stream,
    animation,
    encode,
    numbered,
    numbers,
    write_sound,
    write_video,
)


def sequential(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """All frames of a file, decoded one after the other as PyAV's own guide does, and their seconds from the first."""
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    first = found[0][0] or 0.0
    return [(time or 0.0) - first for time, _ in found], [frame for _, frame in found]


def agrees(path: Path, num_frames: int, *spans: tuple[float | None, float | None]) -> bool:
    """Whether clips are, bit for bit, the frames shown at the centres of equal spans of a sequential decode."""
    whole = sequential(path)
    return all(same(read_video(path, num_frames, *span), *whole, *span) for span in spans)


def same(clip: Clip, times: list[float], frames: list[np.ndarray], start: float | None, end: float | None) -> bool:
    begin, stop, num_frames = start or 0.0, min(end or clip.duration, clip.duration), len(clip.times)
    centres = [begin + (stop - begin) * (i + 0.5) / num_frames for i in range(num_frames)]
    chosen = [max(j for j, time in enumerate(times) if time <= centre + 1e-3) for centre in centres]
    equal = all(np.array_equal(seen, frames[j]) for seen, j in zip(clip.frames, chosen, strict=True))
    return equal and bool(np.allclose(clip.times, [times[j] for j in chosen], atol=2e-3))


# --- any container, any structure ------------------------------------------------------------------------------------

CONTAINERS = {  # file -> codec
    "h264.mp4": "libx264",
    "hevc.mp4": "libx265",
    "av1.mp4": "libsvtav1",
    "mpeg4.mp4": "mpeg4",
    "png.mov": "png",
    "h264.mkv": "libx264",
    "vp8.webm": "libvpx",
    "vp9.webm": "libvpx-vp9",
    "mpeg4.avi": "mpeg4",
    "mjpeg.avi": "mjpeg",
    "h264.ts": "libx264",
    "mpeg2.ts": "mpeg2video",
    "mpeg2.mpg": "mpeg2video",
    "mpeg2.m2v": "mpeg2video",
    "mpeg2.mxf": "mpeg2video",
    "sorenson.flv": "flv",
    "wmv2.wmv": "wmv2",
    "vp8.ivf": "libvpx",
    "ffv1.nut": "ffv1",
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_frames_are_those_of_a_sequential_decode_in_any_container(name: str, tmp_path: Path) -> None:
    codec = CONTAINERS[name]
    pixels = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
    path = write_video(tmp_path / name, numbered(50), fps=25, codec=codec, pixels=pixels)
    assert agrees(path, 8, (None, None), (0.5, 1.5), (1.9, None))
    clip = read_video(path)
    assert clip.frames.dtype == np.uint8 and clip.duration == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    "options", [{"bf": "4", "g": "250"}, {"bf": "3", "g": "20"}, {"bf": "2", "g": "15", "x264-params": "open-gop=1"}]
)
def test_b_frames_and_long_groups_with_start_and_end(name: str, options: dict[str, str], tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(200), fps=25, options=options)
    assert agrees(path, 6, (None, None), (3.1, 7.2), (7.9, 8.0), (7.97, None), (0.0, 0.02), (7.0, 100.0))


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov", "frag_every_frame+empty_moov"])
def test_fragmented_and_streamable_files_are_read_whole(flags: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(60), fps=25, options={"g": "10"}, container={"movflags": flags})
    assert agrees(path, 5, (None, None), (1, 2))


@pytest.mark.parametrize(("name", "codec"), [("a.h264", "libx264"), ("a.hevc", "libx265"), ("a.m4v", "mpeg4")])
def test_bare_streams_without_times_are_read_at_their_rate(name: str, codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(40), codec=codec, form="m4v" if codec == "mpeg4" else None)
    assert numbers(read_video(path).frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert numbers(read_video(path, 5, 0.5, 1.0).frames) == [5, 6, 7, 8, 9]


def test_an_avi_whose_frames_are_stored_out_of_order_is_read_in_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", numbered(40), options={"bf": "3"})
    assert numbers(read_video(path).frames) == [2, 7, 12, 17, 22, 27, 32, 37]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_the_frames_at_the_centres_of_equal_spans_are_read_from_any_container(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(40), fps=25)
    clip = read_video(path, num_frames=4)
    assert kind(path) == "video" and clip.frames.shape == (4, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert all(abs(got - want) <= 1 for got, want in zip(numbers(clip.frames), (5, 15, 25, 35), strict=True))
    assert list(clip.times) == sorted(clip.times) and clip.duration == pytest.approx(40 / 25, abs=0.1)


# --- spans and counts ------------------------------------------------------------------------------------------------


def test_start_and_end_bound_the_span_and_a_start_past_the_end_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(50), fps=25)  # two seconds
    inside = numbers(read_video(path, num_frames=5, start=1.0, end=1.4).frames)
    assert min(inside) >= 24 and max(inside) <= 36
    with pytest.raises(BadSample, match=r"a\.mp4"):
        read_video(path, start=5.0)


def test_fewer_frames_than_asked_are_repeated_in_order(tmp_path: Path) -> None:
    assert numbers(read_video(write_video(tmp_path / "a.mp4", numbered(3)), 6).frames) == [0, 0, 1, 1, 2, 2]
    assert numbers(read_video(write_video(tmp_path / "b.mp4", numbered(1)), 4).frames) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.webm", "a.mov", "a.h264"])
def test_a_video_of_one_frame_is_a_video(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write_video(tmp_path / name, numbered(1, first=5), codec=codec)
    clip = read_video(path, 4)
    assert kind(path) == "video" and numbers(clip.frames) == [5] * 4
    assert clip.times == (0.0,) * 4 and clip.duration == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animated_picture_is_a_video_with_its_delays(name: str, tmp_path: Path) -> None:
    path = animation(tmp_path / name, numbered(4), [100, 100, 100, 700])
    clip = read_video(
        path, num_frames=5
    )  # spans of 0.2 s, of which the last frame is shown in the last three and a half
    assert kind(path) == "video" and numbers(clip.frames) == [1, 3, 3, 3, 3]
    assert clip.duration == pytest.approx(1.0, abs=0.01)


def test_odd_widths_are_not_skewed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", numbered(8, 50, 70), codec="ffv1")
    frames = read_video(path, 8).frames
    assert frames.shape == (8, 50, 70, 3) and numbers(frames) == list(range(8))


# --- times -----------------------------------------------------------------------------------------------------------


def test_times_of_a_variable_rate_decide_not_frame_numbers(tmp_path: Path) -> None:
    """Ten frames in the first second, then ten at one a second: equal spans of time see the slow ones."""
    stamps = [*range(0, 1000, 100), *range(1000, 11_000, 1000)]
    path = write_video(tmp_path / "a.mkv", numbered(20), stamps=stamps, time_base=Fraction(1, 1000))
    seen = numbers(read_video(path, num_frames=10).frames)
    assert seen[1:] == sorted(seen[1:]) and min(seen[1:]) >= 10


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts"])
def test_a_variable_rate_agrees_with_a_sequential_decode_in_any_container(name: str, tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(0).integers(20, 400, 60)).tolist()
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write_video(tmp_path / name, numbered(60), stamps=stamps, time_base=Fraction(1, 1000), codec=codec)
    assert agrees(path, 9, (None, None), (2.0, 5.0))


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mkv", "a.flv", "a.mpg"])
def test_a_start_time_that_is_not_zero_counts_for_nothing(name: str, tmp_path: Path) -> None:
    codec = {"a.flv": "flv", "a.mpg": "mpeg2video"}.get(name, "libx264")
    path = write_video(tmp_path / name, numbered(60), fps=25, stamps=[i + 9000 for i in range(60)], codec=codec)
    clip = read_video(path, 4, 1.0, 2.0)
    assert agrees(path, 4, (1.0, 2.0)) and clip.duration == pytest.approx(2.4, abs=0.05)
    assert numbers(clip.frames) == [28, 34, 40, 46]


@pytest.mark.parametrize("edits", ["1", "0"])
def test_frames_before_time_zero_are_left_out_by_an_edit_list_alone(edits: str, tmp_path: Path) -> None:
    container = {"avoid_negative_ts": "disabled", "use_editlist": edits}
    stamps = [i - 20 for i in range(60)]
    path = write_video(tmp_path / "a.mp4", numbered(60), fps=25, stamps=stamps, container=container)
    clip = read_video(path, 4)
    assert agrees(path, 4, (None, None)) and clip.times[0] >= 0
    assert numbers(clip.frames) == ([25, 35, 45, 55] if edits == "1" else [7, 22, 37, 52])


def test_missing_timestamps_at_the_start_are_counted_back_and_no_frame_is_lost(tmp_path: Path) -> None:
    """Matroska cannot store times below zero: the first twenty frames come without any."""
    container = {"avoid_negative_ts": "disabled"}
    stamps = [i - 20 for i in range(60)]
    path = write_video(tmp_path / "a.mkv", numbered(60), fps=25, stamps=stamps, container=container)
    with av.open(str(path)) as plain:
        assert [frame.pts for frame in plain.decode(video=0)][:21] == [None] * 20 + [0]
    assert numbers(read_video(path).frames) == [3, 11, 18, 26, 33, 41, 48, 56]


@pytest.mark.parametrize("name", ["a.ts", "a.h264"])
def test_a_first_group_that_cannot_be_decoded_is_left_out(name: str, tmp_path: Path) -> None:
    """As a recording that began midway: the first frames refer to a keyframe that is not there."""
    path = write_video(tmp_path / name, numbered(60), fps=25, options={"g": "20", "bf": "0", "x264-params": "aud=1"})
    with av.open(str(path)) as plain:
        second = [packet.pos or 0 for packet in plain.demux(video=0) if packet.size][3]
    path.write_bytes(path.read_bytes()[second // 188 * 188 if name == "a.ts" else second :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the part that is missing may be told
        clip = read_video(path, 4)
    seen = numbers(clip.frames)
    assert seen == sorted(seen) and min(seen) >= 20 and max(seen) >= 50 and clip.times[0] < 0.4


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.h264"])
def test_two_recordings_one_behind_the_other_are_one_film(name: str, tmp_path: Path) -> None:
    """As `cat` makes them: the times of the second start again."""
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    parts = [write_video(tmp_path / f"{n}{name}", numbered(40, first=n), fps=25, codec=codec) for n in (0, 40)]
    path = tmp_path / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the seam may be told
        clip = read_video(path)
    assert numbers(clip.frames) == [5, 15, 25, 35, 45, 55, 65, 75] and clip.duration == pytest.approx(3.2, abs=0.1)


def test_a_browsers_recording_without_length_or_count_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", numbered(50), codec="libvpx", container={"live": "1"})
    with av.open(str(path)) as plain:
        stream = plain.streams.video[0]
        assert plain.duration is None and stream.duration is None and stream.frames == 0
    clip = read_video(path)
    assert numbers(clip.frames) == [3, 9, 15, 21, 28, 34, 40, 46] and clip.duration == pytest.approx(5.0)


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_refused_and_cover_art_is_no_video(cover: bool, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.m4a", cover=cover)
    with pytest.raises(BadSample, match=r"a\.m4a.*video"):
        read_video(path)


def test_a_video_with_a_cover_and_sound_is_the_video(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        path = write_video(tmp_path / name, numbered(30, first=1), cover=True, sound=True)
        assert numbers(read_video(path).frames) == [2, 6, 10, 14, 17, 21, 25, 29]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("size", [(16, 16), (480, 640)])
def test_a_thumbnail_stored_as_a_first_video_stream_is_not_the_film(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    thumbnail = np.zeros((*size, 3), np.uint8)
    path = write_video(tmp_path / name, numbered(30, first=1), thumbnail=thumbnail)
    assert numbers(read_video(path).frames) == [2, 6, 10, 14, 17, 21, 25, 29]


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_a_data_stream_beside_the_film_is_ignored(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as out:
        data: Any = out.add_data_stream("bin_data")
        stream = add_stream(out, "libx264", "yuv420p", numbered(1)[0], 10)
        for second in range(3):  # as of a camera that writes down where it is
            packet = av.Packet(b"position" * 10)
            packet.stream, packet.time_base = data, Fraction(1, 1000)
            packet.pts = packet.dts = second * 1000
            out.mux(packet)
        encode(out, stream, numbered(30, first=1), None, None, "rgb24")
    with av.open(str(path)) as plain:
        assert len(plain.streams) == 2
    assert numbers(read_video(path).frames) == [2, 6, 10, 14, 17, 21, 25, 29]
