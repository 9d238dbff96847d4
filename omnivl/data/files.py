"""Files: finding media in folders, opening them, and telling what they are by their content, never by their extension.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room decodes nothing.
"""

import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from omnivl.data.clips import warn
from omnivl.data.images import bad
from omnivl.data.sample import BadSample
from omnivl.data.tar import Member

Source = str | os.PathLike[str] | bytes | BinaryIO | Member  # a path, the bytes of a file, an open file, one in a tar

IMAGE_EXTENSIONS = frozenset(
    f".{name}"
    for names in (
        ("avif", "avifs", "apng", "bmp", "dds", "dib", "gif", "heic", "heics", "heif", "heifs", "hif", "ico", "j2k"),
        ("jfif", "jp2", "jpe", "jpeg", "jpg", "jpx", "mpo", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "psd", "qoi"),
        ("tif", "tiff", "webp"),
    )
    for name in names
)
VIDEO_EXTENSIONS = frozenset(
    f".{name}"
    for names in (
        ("264", "265", "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "flv", "h264", "h265", "hevc", "ivf", "m1v"),
        ("m2t", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "nut", "ogm", "ogv", "qt"),
        ("rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m"),
    )
    for name in names
)
OTHER_EXTENSIONS = frozenset(  # not worth opening when a folder is searched
    f".{name}"
    for names in (
        ("aac", "bin", "c", "cfg", "cls", "cpp", "css", "csv", "doc", "docx", "flac", "gz", "h", "htm", "html", "ini"),
        ("ipynb", "js", "json", "jsonl", "log", "m4a", "md", "mp3", "npy", "npz", "opus", "parquet", "pdf"),
        ("pt", "pth", "py", "safetensors", "sh", "srt", "svg", "tar", "toml", "tsv", "txt", "vtt", "wav", "xml"),
        ("yaml", "yml", "zip"),
    )
    for name in names
)
LEFT_OUT = frozenset(("node_modules", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"))
HEAD = 4096  # bytes that tell what a file is

MAGIC: tuple[tuple[int, bytes, str, str], ...] = (  # offset, bytes, medium, content
    (0, b"\xff\xd8\xff", "image", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "image", "PNG"),
    (0, b"GIF87a", "image", "GIF"),
    (0, b"GIF89a", "image", "GIF"),
    (8, b"WEBP", "image", "WebP"),
    (0, b"II*\0", "image", "TIFF"),
    (0, b"MM\0*", "image", "TIFF"),
    (0, b"II+\0", "image", "TIFF"),
    (0, b"MM\0+", "image", "TIFF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "image", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "image", "JPEG 2000"),
    (0, b"8BPS", "image", "PSD"),
    (0, b"qoif", "image", "QOI"),
    (0, b"DDS ", "image", "DDS"),
    (0, b"\0\0\1\0", "image", "ICO"),
    (0, b"\0\0\0\x0cJXL ", "other", "JPEG XL"),
    (0, b"\xff\x0a", "other", "JPEG XL"),
    (0, b"\x1aE\xdf\xa3", "video", "Matroska"),
    (8, b"AVI ", "video", "AVI"),
    (8, b"AVIX", "video", "AVI"),
    (8, b"WAVE", "sound", "WAV"),
    (0, b"FLV\x01", "video", "FLV"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "WMV"),
    (0, b"\0\0\1\xba", "video", "MPEG program stream"),
    (0, b"\0\0\1\xb3", "video", "MPEG video"),
    (0, b"\0\0\1\xb0", "video", "MPEG-4 video"),
    (0, b"OggS", "video", "Ogg"),
    (0, b"DKIF", "video", "IVF"),
    (0, b"YUV4MPEG2 ", "video", "Y4M"),
    (0, b"\x06\x0e\x2b\x34", "video", "MXF"),
    (0, b".RMF", "video", "RealMedia"),
    (0, b"nut/multimedia container", "video", "NUT"),
    (0, b"\x1f\x07\0", "video", "DV"),
    (0, b"ID3", "sound", "MP3"),
    (0, b"fLaC", "sound", "FLAC"),
    (0, b"%PDF", "other", "PDF"),
    (0, b"PK\x03\x04", "other", "ZIP archive"),
    (0, b"version https://git-lfs", "other", "Git LFS pointer (its file was not fetched)"),
)
BRANDS = {  # of the "ftyp" box; any other is a video
    **dict.fromkeys((b"avif", b"avis"), ("image", "AVIF")),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1"), ("image", "HEIC")),
    **dict.fromkeys((b"hevc", b"hevx", b"msf1"), ("video", "HEIC sequence")),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A "), ("sound", "M4A")),
    b"crx ": ("other", "CR3, a camera's raw file"),
}
MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")


# --- what a file is --------------------------------------------------------------------------------------------------


def recognised(file: BinaryIO, name: str) -> tuple[str, str]:
    """("image" or "video", content) of an open file, which is left at its start. Raises BadSample for anything else."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    medium, content = sniff(head)
    if medium in ("image", "video"):
        return medium, content
    if medium == "sound":
        raise bad(name, f"there is no video stream in it, only sound ({content})")
    raise bad(name, f"is neither a picture nor a video that can be read ({content})")


def sniff(head: bytes) -> tuple[str, str]:
    """(medium, content) by the first bytes: medium is image, video, sound or other."""
    if not head:
        return "other", "it is empty, 0 bytes"
    for offset, magic, medium, content in MAGIC:
        if head.startswith(magic, offset) and (offset == 0 or head.startswith(b"RIFF")):
            if content == "ICO" and head.startswith(b"\0\0\1", 4):
                return "video", "MPEG-4 video"
            if content == "Ogg" and not re.search(rb"theora|\x01video|BBCD|\x4fVP80", head[:512]):
                return "sound", "Ogg"
            return medium, content
    if head[4:8] in MOV_BOXES:
        return brand(head)
    if re.match(rb"P[1-6f]\s+[\d#]", head):
        return "image", "PPM"
    if head.startswith(b"BM") and head[14:18] in [n.to_bytes(4, "little") for n in (12, 40, 52, 56, 64, 108, 124)]:
        return "image", "BMP"
    if re.match(rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", head):
        return "image", "PCX"
    if unit := re.match(rb"\x00?\x00\x00\x01(..)", head, re.S):
        first, second = unit[1]
        if first in (0x40, 0x42, 0x44, 0x46) and second == 1:
            return "video", "HEVC"
        if first & 0x9F in (1, 5, 6, 7, 8, 9):
            return "video", "H.264"
    if re.search(rb"(?s)\A.{0,1024}?(?=G.{187}G.{187}G|G.{191}G.{191}G|G.{203}G.{203}G)", head):
        return "video", "MPEG-TS"
    if re.match(rb"\xff[\xe2-\xef\xf1-\xfb\xf9]", head):
        return "sound", "MP3 or AAC"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "other", "it is a web page"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "other", "SVG, which holds no pixels"
    if is_text(head):
        return "other", "it is text"
    return "other", f"it starts with {head[:8].hex(' ')}"


def brand(head: bytes) -> tuple[str, str]:
    """What a file of MP4 boxes is, by its brands: the major one, or for a generic picture the compatible ones."""
    if head[4:8] != b"ftyp":
        return "video", "MP4"
    major, others = head[8:12], head[16 : int.from_bytes(head[:4], "big")]
    if major in (b"mif1", b"msf1") and b"avi" in others:
        return "image", "AVIF"
    return BRANDS.get(major, ("video", "MP4"))


def is_text(head: bytes) -> bool:
    return b"\0" not in head and not re.search(rb"[\x01-\x08\x0e-\x1a]", head) and decodes(head)


def decodes(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8") if len(head) == HEAD else head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == HEAD and error.start > HEAD - 8  # the head may end within a letter
    return True


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, str, Path | None]]:
    """An open, seekable file, the name for messages, and the path where there is one. Pipes and folders are refused,
    since reading them would hang or fail without a reason."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), "the given bytes", None
        return
    if isinstance(source, Member):
        source = source.open()
    if not isinstance(source, (str, os.PathLike)):
        seekable = source if source.seekable() else io.BytesIO(source.read())
        yield seekable, str(getattr(source, "name", "the given file")), None
        return
    name, path = os.fspath(source), resolve(source)
    try:
        mode = path.stat().st_mode
        file = path.open("rb") if stat.S_ISREG(mode) else None
    except FileNotFoundError as error:
        raise bad(name, "no such file") from error
    except (OSError, ValueError) as error:
        raise bad(name, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if file is None:
        raise bad(name, "is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file")
    with file:
        try:
            yield file, name, path
        except OSError as error:  # of the disk: what a decoder says is no such error any more
            raise bad(name, f"cannot be read ({error.strerror or error})") from error


# --- finding files ---------------------------------------------------------------------------------------------------


def resolve(path: str | os.PathLike[str]) -> Path:
    """The file or folder that is meant, also where its name is spelt with the other Unicode normalisation (accents
    composed or decomposed). Where there is none, the path as given."""
    wanted = Path(path)
    try:
        for form in (None, "NFC", "NFD"):
            spelt = wanted if form is None else Path(unicodedata.normalize(form, str(wanted)))
            if os.path.lexists(spelt):
                return spelt
        found = Path(wanted.anchor)
        for part in wanted.parts[1 if wanted.anchor else 0 :]:  # some parts may be composed and others not
            if not os.path.lexists(found / part):
                same = unicodedata.normalize("NFC", part)
                if same.isascii():
                    return wanted
                part = next((n for n in os.listdir(found) if unicodedata.normalize("NFC", n) == same), part)
            found /= part
        return found if os.path.lexists(found) else wanted
    except (OSError, ValueError):  # no folder of that name; a name too long, or with a zero byte
        return wanted


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key in which "frame2" comes before "frame10"."""
    pieces = re.split(r"([0-9]+)", unicodedata.normalize("NFC", str(path)).casefold())
    return [(0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in pieces if p], str(path)


def find_media(folder: str | os.PathLike[str]) -> list[Path]:
    """Every picture and video below `folder`, in natural order. Known extensions (any case) count as they are, so that
    damaged files are reported when they are read; files without a known one, and `.ts`, by content. Hidden files and
    folders are left out; folders that cannot be searched too, with a warning. Raises BadSample where `folder` is
    none."""
    root = resolve(folder)
    if not os.path.isdir(root):
        raise bad(os.fspath(folder), "is not a folder" if os.path.lexists(root) else "no such folder")

    def unread(error: OSError) -> None:
        if Path(error.filename) == root:
            raise bad(os.fspath(folder), f"cannot be searched ({error.strerror})") from error
        warn(error.filename, f"cannot be searched ({error.strerror}), left out")

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for at, folders, files in os.walk(root, followlinks=True, onerror=unread):
        place = os.stat(at)
        if (place.st_dev, place.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".") and name not in LEFT_OUT]
        found += [Path(at, name) for name in files if not name.startswith(".") and is_media(Path(at, name))]
    return sorted(found, key=lambda path: natural(path.relative_to(root)))


def is_media(path: Path) -> bool:
    """Whether a file found in a folder is to be listed."""
    extension = path.suffix.lower()
    if extension in OTHER_EXTENSIONS:
        return False
    if extension in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS and extension != ".ts":
        return True
    try:
        with opened(path) as (file, _, _):
            head = file.read(HEAD)
    except BadSample:
        return False
    return not is_text(head) if extension == ".ts" else sniff(head)[0] in ("image", "video")  # .ts: TypeScript, too
