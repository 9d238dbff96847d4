"""What headers say, read back from files that other programs' writers made."""

from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omnivl.data.facts import Facts, read_facts
from omnivl.data.media import BadSample
from tests.data.make_media import animation, numbered, write_video


def photo(path: Path, **tags: str) -> Path:
    exif = Image.Exif()
    if "changed" in tags:
        exif[0x0132] = tags["changed"]
    if "taken" in tags:
        exif.get_ifd(0x8769)[0x9003] = tags["taken"]
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    return path


def test_a_picture_tells_its_pixels_and_when_it_was_taken(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", taken="2023:08:09 10:11:12", changed="2024:01:01 00:00:00")
    assert read_facts(path) == Facts(1200, None, "2023-08-09T10:11:12")
    assert read_facts(photo(tmp_path / "b.jpg", changed="2024:01:01 00:00:00")).taken == "2024-01-01T00:00:00"
    for silly in ("0000:00:00 00:00:00", "yesterday", "2023:13:45 10:11:12", "1904:01:01 00:00:00"):
        assert read_facts(photo(tmp_path / "c.jpg", taken=silly)).taken is None
    assert read_facts(path.read_bytes()) == read_facts(path)


def test_a_video_tells_its_length_and_date_in_local_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(30))
    facts = read_facts(path)
    assert facts.pixels == 64 * 48 and facts.duration == pytest.approx(3.0, abs=0.2) and facts.taken is None
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as out:
        out.metadata["creation_time"] = "2024-05-01T12:00:00Z"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    local = datetime.fromisoformat("2024-05-01T12:00:00Z").astimezone().replace(tzinfo=None).isoformat()
    assert read_facts(tmp_path / "b.mp4").taken == local


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_a_moving_picture_lasts_as_long_as_its_delays(name: str, tmp_path: Path) -> None:
    assert read_facts(animation(tmp_path / name, numbered(10), [300] * 10)).duration == pytest.approx(3)
    Image.new("RGB", (40, 30)).save(tmp_path / name)
    assert read_facts(tmp_path / name).duration is None


def test_a_video_that_states_no_length_is_as_long_as_its_packets_say(tmp_path: Path) -> None:
    live = write_video(tmp_path / "a.webm", numbered(50), codec="libvpx", container={"live": "1"})
    bare = write_video(tmp_path / "a.h264", numbered(50), fps=25)
    assert read_facts(live).duration == pytest.approx(5, abs=0.2)
    assert read_facts(bare).duration == pytest.approx(2, abs=0.1)


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(BadSample, match=r"a\.jpg"):
        read_facts(tmp_path / "a.jpg")
    with pytest.raises(BadSample):
        read_facts(np.zeros(10, np.uint8).tobytes())
