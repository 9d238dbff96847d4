"""Files: what they are by content, whatever their names, shapes and folders."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnivl.data.facts import read_facts
from omnivl.data.media import BadSample, find_media, kind, read_image, read_video, resolve
from omnivl.data.transforms import prepare
from tests.data.make_media import UPRIGHT, corners, quarters, saved


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (3, 2)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_thin_pictures_are_read_and_prepared(size: tuple[int, int], mode: str) -> None:
    image = read_image(saved(Image.new(mode, size, "white"), "PNG"))
    assert image.size == size and image.mode == "RGB"
    assert prepare(np.asarray(image)[None], 32).shape == (1, 32, 32, 3)


def test_the_content_decides_never_the_extension(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(saved(Image.fromarray(quarters()), "PNG"))
    (tmp_path / "b").write_bytes(saved(Image.fromarray(quarters()), "WEBP", lossless=True))
    for name in ("a.mp4", "b"):
        assert kind(tmp_path / name) == "image"
        assert corners(np.asarray(read_image(tmp_path / name))) == UPRIGHT[1]
    with (tmp_path / "b").open("rb") as file:
        assert corners(np.asarray(read_image(file))) == UPRIGHT[1]


def test_both_spellings_of_a_name_mean_the_same_file(tmp_path: Path) -> None:
    names = ["café ñandú.jpg", "für/ÅÅ.jpg", "日本語 ガ.jpg", "🐈\u200d⬛ cat.jpg", "two  spaces .jpg"]
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        for name in names:
            path = tmp_path / form / unicodedata.normalize(form, name)  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(saved(Image.fromarray(quarters()), "JPEG", quality=95))
            asked = tmp_path / form / unicodedata.normalize(other, name)  # type: ignore[arg-type]
            assert resolve(asked) == path and corners(np.asarray(read_image(asked))) == UPRIGHT[1]
            assert path in find_media(tmp_path)
    mixed = tmp_path / "NFD" / "fu\u0308r" / unicodedata.normalize("NFC", "ÅÅ.jpg")
    assert read_image(mixed).size == (64, 48)
    assert resolve(tmp_path / "none é.jpg") == tmp_path / "none é.jpg"


def test_a_file_that_the_disk_does_not_give_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/proc/self/mem")  # a regular file whose first bytes cannot be read
    for read in (kind, read_image, read_video, read_facts):
        with pytest.raises(BadSample, match=rf"^{tmp_path}/a\.png: cannot be read \(Input/output error\)$"):
            read(tmp_path / "a.png")


def test_folders_are_searched_whatever_the_case_in_natural_order(tmp_path: Path) -> None:
    picture = saved(Image.new("RGB", (4, 4)), "PNG")
    wanted = ["1.JPG", "2.jpeg", "10.Png", "a/b/3.webp", "a/clip.MP4", "broken.jpg", "clip.ts", "IMG.HEIC", "noname"]
    left_out = [".hidden.jpg", ".git/x.png", "node_modules/x.png", "@eaDir/x.jpg", "notes.txt", "code.ts", "data.csv"]
    for name in wanted + left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "code.ts").write_text("export const a = 1;")
    (tmp_path / "odd").write_text("neither")
    (tmp_path / "broken.jpg").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_media(tmp_path)]
    assert sorted(found) == sorted(wanted)
    assert [name for name in found if name[0].isdigit()] == ["1.JPG", "2.jpeg", "10.Png"]
    with pytest.raises(BadSample, match="not a folder"):
        find_media(tmp_path / "1.JPG")
