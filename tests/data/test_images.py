"""Pictures: every kind of file gives the colours and the way up that a viewer shows, or one line that names it."""

import base64
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from omnivl.data.media import BadSample, kind, read_image
from tests.data.make_media import UPRIGHT, animation, corners, gif, png, quarters, saved, tiff, write_video

WHITE = (255, 255, 255)


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(data)
    assert image.mode == "RGB"
    return tuple(np.asarray(image)[y, x].tolist())


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


# --- the way up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(saved(Image.fromarray(quarters(48, 64)), form, exif=exif, quality=95))
    assert image.size == ((64, 48) if orientation < 5 else (48, 64))
    assert corners(np.asarray(image)) == UPRIGHT[orientation]


def test_transparency_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(quarters(48, 64)).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 24))  # the red quarter
    assert corners(np.asarray(read_image(saved(picture, "PNG", exif=exif)))) == ["blue", "white", "white", "green"]


def test_a_broken_exif_never_loses_the_picture() -> None:
    data = saved(Image.fromarray(quarters()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert corners(np.asarray(read_image(data))) == UPRIGHT[1]


HEIC = base64.b64decode(  # `quarters(32, 48)`, turned a quarter to the right by its container and its EXIF
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAAB7AABAAAAAAAAAD0AAgAAAAACKQABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29s"
    "cm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAA"
    "AwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAGltZGF0AAAAOSgBrwtg+tKB"
    "v+QzdPIIB8SbmRZ++S4P//SKFQA+KyEXWWZCcpeS7sNBHAzLOMX3B2dQXL2m5uPy8AAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAA"
    "AA=="
)


@pytest.mark.parametrize(("turns", "orientation"), [(0, 1), (1, 8), (2, 3), (3, 6)])
def test_a_phones_heic_is_turned_once_as_its_container_says(turns: int, orientation: int) -> None:
    at = HEIC.index(b"irot") + 4  # quarter turns to the left
    image = read_image(HEIC[:at] + bytes([turns]) + HEIC[at + 1 :])
    assert image.size == ((48, 32) if turns % 2 == 0 else (32, 48)) and kind(HEIC) == "image"
    assert corners(np.asarray(image)) == UPRIGHT[orientation]
    with pytest.raises(BadSample, match="HEIC"):
        read_image(HEIC[:-120])


# --- transparency and depth ------------------------------------------------------------------------------------------

SEEN = (9, 8, 7)
TWO_PIXELS = {  # the left one is SEEN, the right one hides another colour behind full transparency
    "RGBA": png(2, 1, 8, 6, bytes([*SEEN, 255, 1, 2, 3, 0])),
    "RGBA, 16 bits": png(2, 1, 16, 6, words(9 * 257, 8 * 257, 7 * 257, 65535, 0, 0, 0, 0)),
    "RGB with a clear colour": png(2, 1, 8, 2, bytes([*SEEN, 1, 2, 3]), tRNS=words(1, 2, 3)),
    "RGB with a clear colour, 16 bits": png(
        2, 1, 16, 2, words(9 * 257, 8 * 257, 7 * 257, 1 * 257, 2 * 257, 3 * 257), tRNS=words(257, 2 * 257, 3 * 257)
    ),
    "palette": png(2, 1, 8, 3, bytes([0, 1]), PLTE=bytes([*SEEN, 1, 2, 3]), tRNS=bytes([255, 0])),
    "palette, 1 bit": png(2, 1, 1, 3, bytes([0b01000000]), PLTE=bytes([*SEEN, 1, 2, 3]), tRNS=bytes([255, 0])),
    "palette, 4 bits": png(2, 1, 4, 3, bytes([0x01]), PLTE=bytes([*SEEN, 1, 2, 3]), tRNS=bytes([255, 0])),
    "TIFF RGBA": tiff(8, 2, bytes([*SEEN, 255, 1, 2, 3, 0]), samples=4, extra=2),
    "TIFF RGBA, premultiplied": tiff(8, 2, bytes([*SEEN, 255, 0, 0, 0, 0]), samples=4, extra=1),
    "GIF": gif((2, 1), [((0, 0), (2, 1), bytes([0, 1]))], bytes([*SEEN, 1, 2, 3]), clear=1),
}
TWO_GREYS = {  # the same, the left one 85
    "grey + alpha": png(2, 1, 8, 4, bytes([85, 255, 0, 0])),
    "grey + alpha, 16 bits": png(2, 1, 16, 4, words(85 * 257, 65535, 0, 0)),
    "grey with a clear level": png(2, 1, 8, 0, bytes([85, 0]), tRNS=words(0)),
    "grey with a clear level, 2 bits": png(2, 1, 2, 0, bytes([0b01100000]), tRNS=words(2)),
    "grey with a clear level, 4 bits": png(2, 1, 4, 0, bytes([0x57]), tRNS=words(7)),
    "grey with a clear level, 16 bits": png(2, 1, 16, 0, words(85 * 257, 85 * 257 + 1), tRNS=words(85 * 257 + 1)),
    "TIFF grey + alpha": tiff(8, 1, bytes([85, 255, 0, 0]), samples=2, extra=2),
}


@pytest.mark.parametrize("name", TWO_PIXELS)
def test_transparency_of_every_kind_is_white_and_hides_its_colour(name: str) -> None:
    assert (pixel(TWO_PIXELS[name]), pixel(TWO_PIXELS[name], 1)) == (SEEN, WHITE)


@pytest.mark.parametrize("name", TWO_GREYS)
def test_grey_transparency_is_white_too(name: str) -> None:
    assert (pixel(TWO_GREYS[name]), pixel(TWO_GREYS[name], 1)) == ((85, 85, 85), WHITE)


def test_one_bit_with_a_clear_level() -> None:
    data = png(2, 1, 1, 0, bytes([0b01000000]), tRNS=words(1))
    assert (pixel(data), pixel(data, 1)) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("form", ["WEBP", "ICO", "TIFF", "AVIF", "JPEG2000", "QOI"])
def test_alpha_of_every_container_is_laid_on_white(form: str) -> None:
    picture = Image.new("RGBA", (16, 16), (200, 30, 40, 255))
    picture.paste((0, 0, 0, 0), (8, 0, 16, 16))
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "AVIF" else {}
    data = saved(picture, form, **options)
    assert np.abs(np.subtract(pixel(data, 2, 8), (200, 30, 40))).max() <= 2
    assert pixel(data, 14, 8) == WHITE


def test_half_transparency_is_half_white() -> None:
    assert pixel(png(1, 1, 8, 6, bytes([0, 0, 0, 128]))) == (127, 127, 127)


MID_GREY = {
    "PNG 16": png(1, 1, 16, 0, words(32768)),
    "TIFF 16": tiff(16, 1, struct.pack("<H", 32768), width=1),
    "TIFF 16, big endian": tiff(16, 1, struct.pack(">H", 32768), width=1, order=">"),
    "TIFF 16, white is zero": tiff(16, 0, struct.pack("<H", 32767), width=1),
    "TIFF 16, signed": tiff(16, 1, struct.pack("<h", 16384), width=1, sample_format=2),
    "TIFF 12": tiff(12, 1, bytes([0x80, 0x00, 0x00])),
    "TIFF 32": tiff(32, 1, struct.pack("<I", 2**31), width=1),
    "TIFF 32, signed": tiff(32, 1, struct.pack("<i", 2**30), width=1, sample_format=2),
    "TIFF float": tiff(32, 1, struct.pack("<f", 0.5), width=1, sample_format=3),
    "TIFF RGB 16": tiff(16, 2, struct.pack("<3H", 32768, 32768, 32768), width=1, samples=3),
    "PGM 16": b"P5 1 1 65535\n" + words(32768),
    "PGM 10": b"P5 1 1 1023\n" + words(512),
    "PFM": b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5),
    "JPEG 2000, 16": saved(Image.fromarray(np.full((8, 8), 32768, np.uint16)), "JPEG2000"),
}


@pytest.mark.parametrize("name", MID_GREY)
def test_every_depth_is_scaled_not_clipped(name: str) -> None:
    assert pixel(MID_GREY[name]) == (128, 128, 128)


def test_the_ends_of_every_depth_stay_black_and_white() -> None:
    for depth, rows in ((1, b"\x40"), (2, b"\x30"), (4, b"\x0f"), (8, b"\x00\xff"), (16, words(0, 65535))):
        data = png(2, 1, depth, 0, rows)
        assert (pixel(data), pixel(data, 1)) == ((0, 0, 0), WHITE), depth
    assert pixel(saved(Image.new("1", (9, 9), 1), "TIFF", compression="group4")) == WHITE
    assert pixel(png(2, 1, 16, 0, words(200, 100))) == (1, 1, 1), "a dark picture of 16 bits stays dark"


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "GIF", "JPEG", "JPEG2000", "BMP", "AVIF", "PPM", "ICO"])
def test_a_ramp_is_a_ramp_in_every_mode_that_a_format_can_store(form: str) -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)[None].repeat(8, 0)
    grey = Image.fromarray(ramp)
    stored = [grey.convert(mode) for mode in ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")]
    if form in ("PNG", "TIFF", "JPEG2000", "PPM"):
        stored.append(Image.fromarray(ramp.astype(np.uint16) * 257))
    if form in ("TIFF", "PPM"):
        stored += [Image.fromarray(ramp.astype(np.int32) * 257), Image.fromarray(ramp.astype(np.float32) / 255)]
    read = 0
    for image in stored:
        try:
            data = saved(image, form, **({"quality": 100} if form in ("JPEG", "WEBP", "AVIF") else {}))
        except (OSError, ValueError):
            continue  # a mode that the format does not know
        seen = np.asarray(read_image(data)).astype(int)
        assert np.abs(seen - ramp[..., None]).max() <= 6, image.mode
        read += 1
    assert read >= 3
    try:
        checks = saved(Image.fromarray(ramp > 127), form)
    except OSError:
        return
    assert np.abs(np.asarray(read_image(checks)).astype(int)[..., 0] - 255 * (ramp > 127)).max() <= 12


# --- colour ----------------------------------------------------------------------------------------------------------

INKS = {"red": ((0, 225, 225, 35), (220, 26, 26)), "paper": ((0, 0, 0, 0), WHITE), "black": ((0, 0, 0, 255), (0, 0, 0))}


def adobe_marker(data: bytes) -> tuple[int, int]:
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


@pytest.mark.parametrize("name", INKS)
def test_four_component_jpegs_have_their_true_colours(name: str) -> None:
    ink, colour = INKS[name]
    adobe = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)  # inverted, and says so
    inverted = saved(ImageChops.invert(Image.new("CMYK", (16, 16), ink)), "JPEG", quality=100)
    start, end = adobe_marker(inverted)
    plain = inverted[:start] + inverted[end:]  # neither inverted nor marked
    y, cb, cr = Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))  # type: ignore[misc]
    stored = (255 - y, 255 - cb, 255 - cr, ink[3])  # Pillow inverts what it writes
    ycck = bytearray(saved(Image.new("CMYK", (16, 16), stored), "JPEG", quality=100))
    ycck[adobe_marker(bytes(ycck))[1] - 1] = 2  # the transform: the first three are luma and chroma
    for data in (adobe, plain, bytes(ycck)):
        assert np.abs(np.subtract(pixel(data, 8, 8), colour)).max() <= 2


def swapped_profile() -> bytes:
    """A colour profile whose red is sRGB's green and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = [
        bytes(profile[at : at + 12]) for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    ]
    at = {entry[:4]: struct.unpack(">II", entry[4:]) for entry in entries}
    (red, size), (green, _) = at[b"rXYZ"], at[b"gXYZ"]
    one, other = profile[red : red + size], profile[green : green + size]
    profile[red : red + size], profile[green : green + size] = other, one
    return bytes(profile)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_converted_and_a_bad_one_ignored(form: str) -> None:
    picture = Image.new("RGB", (16, 16), (220, 30, 40))
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, colour in ((swapped_profile(), (30, 220, 40)), (b"junk" * 50, (220, 30, 40)), (same, (220, 30, 40))):
        data = saved(picture, form, icc_profile=profile, quality=100)
        assert np.abs(np.subtract(pixel(data, 8, 8), colour)).max() <= 2


def test_a_profile_of_another_kind_of_colour_is_ignored_and_transparency_survives_one() -> None:
    assert pixel(saved(Image.new("L", (4, 4), 77), "PNG", icc_profile=swapped_profile())) == (77, 77, 77)
    picture = Image.new("RGBA", (2, 1), (220, 30, 40, 255))
    picture.putpixel((1, 0), (1, 2, 3, 0))
    data = saved(picture, "PNG", icc_profile=swapped_profile())
    assert (pixel(data), pixel(data, 1)) == ((30, 220, 40), WHITE)


# --- animated pictures and several pictures in one -------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "avif"])
def test_of_an_animation_the_first_frame_is_the_picture(extension: str, tmp_path: Path) -> None:
    frames = np.stack([quarters(), np.zeros((48, 64, 3), np.uint8), quarters()[:, ::-1]])
    image = read_image(animation(tmp_path / f"a.{extension}", frames, [100, 100, 100]))
    assert image.size == (64, 48) and image.mode == "RGB" and corners(np.asarray(image)) == UPRIGHT[1]


def test_the_still_of_an_apng_that_is_no_part_of_it_is_not_the_picture(tmp_path: Path) -> None:
    frames = np.stack([np.zeros((48, 64, 3), np.uint8), quarters(), quarters()[::-1]])
    path = animation(tmp_path / "a.png", frames, [100, 100, 100], default_image=True)
    assert corners(np.asarray(read_image(path))) == UPRIGHT[1]


def test_what_the_first_frame_of_a_gif_leaves_open_is_white() -> None:
    red, green = bytes([255, 0, 0]), bytes([0, 255, 0])
    patches = [((2, 2), (4, 4), bytes(16), red), ((0, 0), (8, 8), bytes(64), green)]
    assert (pixel(gif((8, 8), patches, bytes(6)), 3, 3), pixel(gif((8, 8), patches, bytes(6)), 0, 0)) == (
        (255, 0, 0),
        WHITE,
    )
    assert read_image(gif((8, 8), patches, bytes(6))).size == (8, 8)


def test_a_phone_picture_with_a_second_frame_and_a_tiff_of_pages_are_still_pictures() -> None:
    for form in ("MPO", "TIFF"):  # new images for each: saving as MPO leaves settings behind that TIFF stumbles over
        one, other = Image.fromarray(quarters()), Image.new("RGB", (64, 48))
        more = {"quality": 95} if form == "MPO" else {}
        data = saved(one, form, save_all=True, append_images=[other], **more)
        assert kind(data) == "image" and corners(np.asarray(read_image(data))) == UPRIGHT[1]


# --- files that cannot be read ---------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(BadSample) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "BMP", "GIF", "PPM", "QOI"])
def test_a_picture_that_lacks_its_end_is_refused(form: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), form)
    for share in (0.05, 0.5, 0.95):
        path = tmp_path / f"cut{share}"
        path.write_bytes(data[: int(len(data) * share)])
        refused(path)


@pytest.mark.parametrize("lost", [1, 2, 10, 200])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_its_last_bytes_is_never_half_a_picture(lost: int, progressive: bool, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    path = tmp_path / "cut.jpg"
    path.write_bytes(saved(Image.fromarray(noise), "JPEG", progressive=progressive)[:-lost])
    refused(path)


def test_what_is_no_picture_says_what_it_is(tmp_path: Path) -> None:
    for content, told in (
        (b"", "empty"),
        (b"hello, this is text", "text"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
        (bytes(range(64)), "starts with"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
    ):
        path = tmp_path / "x.jpg"
        path.write_bytes(content)
        assert told in refused(path)


def test_heic_without_a_decoder_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert kind(path) == "image"
    assert "HEIC" in refused(path) and 'pip install "omnivl[heic]"' in refused(path)


def test_missing_files_folders_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")
    assert "folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular" in refused(tmp_path / "pipe.jpg")
    (tmp_path / "two\nlines.jpg").write_bytes(b"")
    with pytest.raises(BadSample, match=r"two\\nlines\.jpg") as caught:
        read_image(tmp_path / "two\nlines.jpg")
    assert "\n" not in str(caught.value)


def test_a_video_is_no_picture(tmp_path: Path) -> None:
    assert "is a video" in refused(write_video(tmp_path / "x.jpg", [quarters()], form="mp4"))


def claiming(width: int, height: int) -> bytes:
    """A PNG that says it has this size."""
    data = bytearray(png(1, 1, 8, 0, b"\0"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    jpeg = bytearray(saved(Image.new("RGB", (64, 64)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    bombs = [claiming(60000, 60000), claiming(13378, 13378), bytes(jpeg), gif((65000, 65000), [], b"\0" * 6)]
    bombs += [b"P6 60000 60000 255\n", gif((9, 9), [((0, 0), (65000, 65000), b"\0")], b"\0" * 6)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, bomb in enumerate(bombs):
        path = tmp_path / f"{number}.png"
        path.write_bytes(bomb)
        assert "too many pixels" in refused(path) or "GIF" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; decoded they fill gigabytes


def test_a_large_profile_or_note_never_loses_the_picture_and_a_bomb_is_refused() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = bytes(range(4))

    def picture(size: int) -> list[bytes]:
        packed = zlib.compress(b"{}" * (size // 2))
        return [
            png(2, 2, 8, 0, grey, iCCP=b"a\0\0" + zlib.compress(srgb + bytes(size))),
            png(2, 2, 8, 0, grey, zTXt=b"workflow\0\0" + packed),
            png(2, 2, 8, 0, grey, iTXt=b"workflow\0\1\0\0\0" + packed),
        ]

    for data in picture(1_500_000):
        assert np.asarray(read_image(data))[..., 0].tobytes() == grey
    for data in picture(100_000_000):
        with pytest.raises(BadSample, match="damaged PNG"):
            read_image(data)
