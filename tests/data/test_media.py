"""The door through which media come in: folders of frames, animations, bytes and open files; what is no media."""

import io
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnivl.data.media import BadSample, find_media, kind, read_image, read_video
from tests.data.make_media import animation, gif, mp4_boxes, numbered, numbers, quarters, write_sound, write_video


def write_frames(folder: Path, count: int, name: str = "img_{}.png", first: int = 0) -> Path:
    folder.mkdir()
    for index, frame in enumerate(numbered(count, first=first)):
        Image.fromarray(frame).save(folder / name.format(index))
    return folder


def refused(source: str | Path) -> str:
    """The one line with which each of the three ways in refuses a source."""
    lines = set()
    reads: tuple[Callable[[str | Path], object], ...] = (read_image, read_video, kind)
    for read in reads:
        with pytest.raises(BadSample) as caught:
            read(source)
        lines.add(str(caught.value))
    assert len(lines) == 1 and "\n" not in next(iter(lines))
    return lines.pop()


# --- frame folders ---------------------------------------------------------------------------------------------------


def test_a_folder_of_numbered_pictures_is_a_video_of_25_a_second_in_natural_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a", 12)
    clip = read_video(folder, 4)
    assert numbers(clip.frames) == [1, 4, 7, 10] and clip.duration == pytest.approx(12 / 25)
    assert clip.times == pytest.approx((0.04, 0.16, 0.28, 0.4))
    assert numbers(read_video(folder, 2, 0.2, 0.4).frames) == [6, 8]
    assert numbers(read_video(folder, 24).frames) == [n for n in range(12) for _ in range(2)]
    with pytest.raises(BadSample, match="start is 1 s, past the end of the video"):
        read_video(folder, start=1)


def test_what_else_lies_in_a_folder_of_frames_is_no_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a", 6, "{}.PNG")
    (folder / "notes.txt").write_text("taken by hand")
    (folder / "._3.PNG").write_bytes(b"\0\5\x16\7 as one system leaves beside every file")
    (folder / "Thumbs.db").write_bytes(b"x")
    assert numbers(read_video(folder, 6).frames) == [0, 1, 2, 3, 4, 5]


def test_a_frame_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a", 8)
    for lost in (0, 4, 5):
        (folder / f"img_{lost}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.warns(UserWarning, match=r"left out 3 pictures that cannot be read \(.*img_0\.png"):
        clip = read_video(folder, 7)
    assert numbers(clip.frames) == [1, 2, 3, 3, 3, 6, 7]
    assert clip.times == pytest.approx((0, 0.04, 0.08, 0.08, 0.08, 0.2, 0.24))
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadSample, match=r"img_0\.png.*empty"):
        read_video(folder)


def test_a_folder_without_pictures_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("a")
    with pytest.raises(BadSample, match="a folder without pictures is not a video"):
        read_video(tmp_path / "a")
    with pytest.raises(BadSample, match="is a folder, not a file"):
        read_image(tmp_path / "a")


# --- animations and stills -------------------------------------------------------------------------------------------


def test_frames_of_a_gif_that_paint_a_part_are_completed_from_the_one_before(tmp_path: Path) -> None:
    """A red canvas, then a green and a blue patch on it; each disposal as browsers do it."""
    colours = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    patches = [((0, 0), (4, 1), bytes(4)), ((1, 0), (1, 1), b"\1"), ((3, 0), (1, 1), b"\2")]
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    shown = {
        1: [[red] * 4, [red, green, red, red], [red, green, red, blue]],  # left in place
        2: [[red] * 4, [white, green, white, white], [white, white, white, blue]],  # cleared
        3: [[red] * 4, [white, green, white, white], [white, white, white, blue]],  # put back as it was: nothing
    }
    for disposal, rows in shown.items():
        data = gif((4, 1), patches, colours, disposal=disposal, delay=20)
        clip = read_video(data, 3)
        assert clip.frames[:, 0].tolist() == [[list(c) for c in row] for row in rows], disposal
        assert clip.times == pytest.approx((0, 0.2, 0.4)) and clip.duration == pytest.approx(0.6)


def test_a_few_bytes_are_not_made_into_minutes_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large canvas and many small patches: what nobody looks at is never laid out, and there is an end to it."""
    dot = ((0, 0), (1, 1), b"\1")
    with pytest.raises(
        BadSample, match=r"^the given bytes: more than 87 frames of this size: a moving picture may have"
    ):
        read_video(gif((7000, 7000), [dot] * 100, bytes(12)), 2)
    made: list[tuple[int, int]] = []
    new = Image.new

    def noting(mode: str, size: tuple[int, int], *rest: Any) -> Image.Image:
        made.append(size)
        return new(mode, size, *rest)

    monkeypatch.setattr(Image, "new", noting)
    assert read_video(gif((40, 30), [dot] * 50, bytes(12)), 1).times == pytest.approx((2.5,))
    assert made.count((40, 30)) == 2, "the canvas, and the one frame on white"
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="cut short or damaged behind 1 frames"):
        assert kind(data := gif((2, 2), [dot, ((0, 0), (90, 90), bytes(8100)), dot], bytes(12))) == "image"
        assert read_video(data, 2).duration == 0


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_animations_have_spans_too_and_delays_that_mean_nothing_are_100_ms(name: str, tmp_path: Path) -> None:
    path = animation(tmp_path / name, numbered(10), [200] * 10)
    clip = read_video(path, 3, 0.6, 1.2)
    assert numbers(clip.frames) == [3, 4, 5] and clip.duration == pytest.approx(2, abs=0.01)
    hurried = animation(tmp_path / f"hurried_{name}", numbered(4), [10] * 4)
    assert read_video(hurried, 4).duration == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_an_animation_that_is_cut_short_is_told_and_read_to_there(name: str, tmp_path: Path) -> None:
    path = animation(tmp_path / name, numbered(10), [100] * 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.warns(UserWarning, match=rf"{name}: cut short"):
        clip = read_video(path, 5)
    assert numbers(clip.frames) == [0, 1, 3, 4, 5] and clip.duration == pytest.approx(0.6)
    assert kind(path) == "video"


@pytest.mark.parametrize("name", ["a.webp", "a.avif"])
def test_an_animation_whose_decoder_wants_it_whole_is_refused(name: str, tmp_path: Path) -> None:
    path = animation(tmp_path / name, numbered(10), [100] * 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(BadSample, match=name):
        read_video(path)


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(quarters()).save(path)
    clip = read_video(path, 3)
    assert clip.frames.shape == (3, 48, 64, 3) and (clip.frames == quarters()).all()
    assert (clip.times, clip.duration) == ((0.0, 0.0, 0.0), 0.0)
    with pytest.raises(BadSample, match="past the end"):
        read_video(path, start=1)


# --- ways in ---------------------------------------------------------------------------------------------------------


def test_paths_bytes_and_open_files_give_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(20))
    expected = read_video(path).frames
    assert np.array_equal(read_video(str(path)).frames, expected)
    assert np.array_equal(read_video(path.read_bytes()).frames, expected)
    with path.open("rb") as file:
        assert np.array_equal(read_video(file).frames, expected)
        assert np.array_equal(read_video(file).frames, expected), "wherever the file was left"


@pytest.mark.parametrize(
    "name",
    ["12:30.mp4", "a b  c.mp4", "100%d.mp4", "日本語.mp4", "cafe\u0301 🐈.mp4", "-a.mp4", "a'\"$&.mp4", "no_extension"],
)
def test_names_that_look_like_something_else_are_names(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "plain.mp4", numbered(8)).rename(tmp_path / name)
    assert numbers(read_video(path, 8).frames) == list(range(8)) and kind(path) == "video"


def test_a_video_is_known_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.txt", "a.avi", "a"):
        path = write_video(tmp_path / name, numbered(8), form="mp4")
        assert kind(path) == "video" and numbers(read_video(path, 8).frames) == list(range(8))


# --- what is no media ------------------------------------------------------------------------------------------------

NO_MEDIA = {
    "empty.mp4": (b"", "it is empty, 0 bytes"),
    "text.mp4": (b"hello, this is no film", "it is text"),
    "page.mp4": (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
    "list.mp4": (b"#EXTM3U\n#EXT-X-VERSION:3\n/etc/hostname\n", "it is text"),
    "concat.mp4": (b"ffconcat version 1.0\nfile /etc/hostname\n", "it is text"),
    "pointer.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
    "zeros.mp4": (bytes(5000), "starts with 00 00"),
    "noise.mp4": (b"\xf0" + np.random.default_rng(0).bytes(5000), "starts with f0"),
}


@pytest.mark.parametrize("name", NO_MEDIA)
def test_what_is_no_media_says_what_it_is(name: str, tmp_path: Path) -> None:
    content, told = NO_MEDIA[name]
    path = tmp_path / name
    path.write_bytes(content)
    line = refused(path)
    assert line.startswith(str(path)) and told in line


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.ts", "a.mpg", "a.flv", "a.wmv", "a.h264"])
def test_the_first_bytes_alone_of_a_video_are_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    codec = {".webm": "libvpx", ".mpg": "mpeg2video", ".flv": "flv", ".wmv": "wmv2"}.get(Path(name).suffix, "libx264")
    path = write_video(tmp_path / name, numbered(9), fps=25, codec=codec)
    whole = path.read_bytes()
    for length in (1, 4, 12, 40):
        path.write_bytes(whole[:length])
        with pytest.raises(BadSample, match=name):
            read_video(path)


def test_an_mp4_whose_index_never_came_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "download.mp4", numbered(20))
    whole = path.read_bytes()
    index = next(start for box, start, _ in mp4_boxes(whole) if box == b"moov")  # behind the frames
    for length in (index, index + 100, (index + len(whole)) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(BadSample, match=r"download\.mp4: ") as caught:
            read_video(path)
        assert length > index or "is the file whole?" in str(caught.value)


def test_a_video_of_too_many_pixels_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 C420jpeg\nFRAME\n" + bytes(1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadSample, match=r"bomb\.y4m: "):
        read_video(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; a frame fills gigabytes


def test_sound_is_told_from_a_video(tmp_path: Path) -> None:
    for name in ("a.m4a", "a.mp3.m4a"):
        assert "only sound" in refused(write_sound(tmp_path / name))
    with pytest.raises(BadSample, match=r"a\.mp4: there is no video stream in it"):
        read_video(write_sound(tmp_path / "a.mp4"))


def test_pipes_devices_and_things_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path / "link.mp4", "/dev/zero", "/dev/null"):
        assert refused(path) == f"{path}: is not a regular file"
    (tmp_path / "round.mp4").symlink_to(tmp_path / "round.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "gone.mp4")
    for path, told in (
        (tmp_path / "none.mp4", "no such file"),
        (tmp_path / "dead.mp4", "no such file"),
        (tmp_path / "round.mp4", "cannot be opened"),
        (tmp_path / ("x" * 300 + ".mp4"), "cannot be opened"),
        ("http://127.0.0.1:9/a.mp4", "no such file"),
        ("file:a.mp4", "no such file"),
        ("a\0b.mp4", "cannot be opened"),
    ):
        assert told in refused(path)


def test_files_and_folders_without_permission_are_named() -> None:
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        top.chmod(0o755)
        closed = write_frames(top / "closed", 3)
        animation(top / "open.png", numbered(1), [1])
        (top / "file.mp4").write_bytes(b"x")
        for path in (top / "file.mp4", closed):
            path.chmod(0)
        if os.getuid() == 0:
            os.seteuid(65534)  # to root permissions mean nothing
        try:
            for path in (top / "file.mp4", closed / "img_0.png"):
                assert refused(path) == f"{path}: cannot be opened (Permission denied)"
            with pytest.raises(BadSample, match=r"closed: cannot be opened \(Permission denied\)"):
                read_video(closed)
            with pytest.raises(BadSample, match=r"closed: cannot be searched \(Permission denied\)"):
                find_media(closed)
            with pytest.warns(UserWarning, match=r"closed: cannot be searched \(Permission denied\), left out"):
                found = find_media(top)
            assert sorted(path.name for path in found) == ["file.mp4", "open.png"]
        finally:
            os.seteuid(os.getuid())
            closed.chmod(0o700)


def test_a_stream_that_cannot_be_sought_is_read_into_memory() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    picture = io.BytesIO()
    Image.fromarray(quarters()).save(picture, "PNG")
    assert (np.asarray(read_image(Pipe(picture.getvalue()))) == quarters()).all()
