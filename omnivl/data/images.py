"""Pictures as Pillow decodes them: upright, 8-bit RGB, on white.

Rules, the same for training, evaluation, embedding and serving:
- turned by the orientation the container states; transparency of any kind is laid on white;
- every bit depth is scaled to 8 bits, never clipped; a four-component JPEG is read as inverted ink only where Adobe's
  marker says so;
- a colour profile is converted to sRGB (perceptual intent); a profile that cannot be used is ignored;
- of an animated picture the first frame as shown, on the full canvas; of several pages or previews, the first.

The paper (OmniVL, arXiv 2209.07526) says nothing about files: all of this is ours. This room knows no path (it takes an
open file and the name to use in messages), no video container, no model.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageFile, PngImagePlugin, UnidentifiedImageError

from omnivl.data import gif
from omnivl.data.sample import BadSample

try:
    import pi_heif

    pi_heif.register_heif_opener()
except ImportError:
    pass

PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20  # bytes, unpacked: printers' profiles and editors' notes pass Pillow's 1 MiB
Image.init()  # else Image.OPEN lists no format in a fresh process
MAX_PIXELS = 178_956_970  # a picture above this is refused before decoding: as RGB it would fill half a gigabyte
FORMATS = (  # no EPS, which runs programs, and nothing without a sure signature
    *("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000"),
    *("MPO", "PCX", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP"),
)
WHITE = (255, 255, 255)
ORIENTATION = 0x0112
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def bad(name: str, reason: object) -> BadSample:
    """The error for the file `name`: one printable line, whatever the name or a library's message holds."""
    line = f"{UNPRINTABLE.sub(lambda c: ascii(c[0])[1:-1], name)}: {' '.join(str(reason).split())}"
    return BadSample(line.encode("utf-8", "backslashreplace").decode())


def decode_image(file: BinaryIO, name: str, content: str) -> Image.Image:
    """The picture in `file` as RGB, upright. `content` is the format found in its first bytes.

    Raises BadSample where it cannot be decoded whole, or has more than MAX_PIXELS.
    """
    with opened(file, name, content) as image:
        return next(gif.frames(file, [0]))[1] if content == "GIF" else shown(image)


@contextmanager
def opened(file: BinaryIO, name: str, content: str) -> Iterator[ImageFile.ImageFile]:
    """`file` as a Pillow image at its first shown frame; whatever a decoder raises inside becomes BadSample."""
    if content == "HEIC" and "HEIF" not in Image.OPEN:
        raise bad(name, 'HEIC needs a decoder: pip install "omnivl[heic]"')
    try:
        with Image.open(
            with_alpha(file) if content == "WebP" else file, formats=[known for known in FORMATS if known in Image.OPEN]
        ) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if min(image.size) < 1:
                raise bad(name, "the picture has no pixels")
            if content == "TIFF" and is_raw(image):
                raise bad(name, "a camera's raw file, which is not read: export it as JPEG or PNG")
            if getattr(image, "default_image", False):
                image.seek(1)  # an APNG's still for programs that cannot animate is not part of the animation
            yield image
    except BadSample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise bad(name, f"too many pixels: a picture may have {MAX_PIXELS // 10**6} million") from None
    except UnidentifiedImageError:
        raise bad(name, f"{content} that is damaged, cut short or of a kind that cannot be read") from None
    except Exception as error:  # a decoder's complaint about a damaged file can be of any type
        raise bad(name, f"damaged {content} ({error or type(error).__name__})") from error


def with_alpha(file: BinaryIO) -> BinaryIO:
    """An animated WebP as one that says its canvas may be transparent: where it does not, and yet clears what it has
    painted, Pillow would show black."""
    head = file.read(21)
    file.seek(0)
    if len(head) < 21 or head[12:16] != b"VP8X" or head[20] & 0x12 != 0x02:  # flags: 0x02 animated, 0x10 alpha
        return file
    data = bytearray(file.read())
    data[20] |= 0x10
    return io.BytesIO(data)


def is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw file: its first page is a thumbnail and the picture sits in a sub-page."""
    tags: Any = getattr(image, "tag_v2", {})
    return 50706 in tags or (tags.get(254) == 1 and 330 in tags)  # DNGVersion; NewSubfileType with SubIFDs


# --- pixels ----------------------------------------------------------------------------------------------------------


def shown(image: Image.Image) -> Image.Image:
    """A PIL image (of an opened file: its current frame) as a viewer shows it: RGB, on white, upright."""
    depth = stored_bits(image)
    image.load()
    colours, alpha = split(image, depth)
    colours = to_srgb(colours, image.info.get("icc_profile"))
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", image.size, WHITE), alpha)
    turn = TURNS.get(orientation(image))
    return colours if turn is None else colours.transpose(turn)


def orientation(image: Image.Image) -> Any:
    """The orientation tag, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken tag never loses the picture
        return 1


def stored_bits(image: Image.Image) -> int:
    """Bits a sample as stored, which Pillow's mode does not tell; 0 where unknown. Must be asked before loading."""
    if image.format == "PNG":
        tiles = getattr(image, "tile", [])
        rawmode = str(tiles[0].args if tiles else "")
        return next((bits for bits in (16, 1, 2, 4) if f";{bits}" in rawmode), 1 if image.mode == "1" else 8)
    tags: Any = getattr(image, "tag_v2", {})
    return int(max(tags.get(258, (0,)))) if image.format == "TIFF" else 0


def split(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """A loaded image as (L, RGB, CMYK or LAB, 8 bits) and its alpha (L), or None where it is opaque."""
    mode, clear = image.mode, image.info.get("transparency")
    if mode[0] in "IF":
        return grey(image, depth), None if clear is None else opaque_where(np.asarray(image) != clear)
    if mode == "1":
        image = image.convert("L")
    if mode in ("1", "L") and isinstance(clear, int):
        level = clear * 255 // (2**depth - 1) if depth in (1, 2, 4) else clear  # the tag counts in stored levels
        return image, opaque_where(np.asarray(image) != level)
    if mode == "RGB" and isinstance(clear, tuple):
        key = [value >> 8 if depth == 16 else value for value in clear]  # Pillow keeps the high byte of 16 bits
        return image, opaque_where((np.asarray(image) != key).any(-1))
    if mode == "CMYK":
        # Adobe's programs store ink inverted and say so; Pillow always assumes them
        plain = image.format in ("JPEG", "MPO") and "adobe" not in image.info
        return ImageChops.invert(image) if plain else image, None
    if mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBa") or (mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        return image.convert("RGB"), image.getchannel("A")
    return image if image.mode in ("L", "RGB", "LAB") else image.convert("RGB"), None


def opaque_where(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def grey(image: Image.Image, depth: int) -> Image.Image:
    """A grey image of more than 8 bits as L.

    Integers of 16 bits (or 9 to 15 in a TIFF) have that full scale. Those of 32 bits and floats state none: it is the
    smallest of 1 (floats), 255, 65535, 2^31 - 1 and 2^32 - 1 that holds every value, and with negative values the
    picture's own range is stretched. Not-a-number is black.
    """
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    unsigned, inverted = tags.get(339, (1,))[0] == 1, tags.get(262) == 0  # SampleFormat; white is zero
    if image.mode.startswith("I;16"):
        full = 2**depth - 1 if 8 < depth < 16 and tags else 65535
        levels = np.minimum((np.arange(65536, dtype=np.int64) * 255 + full // 2) // full, 255).astype(np.uint8)
        return Image.fromarray((255 - levels if inverted else levels)[values])
    if tags and image.mode == "I" and depth == 32 and unsigned:
        values = values.view(np.uint32)  # Pillow has no such mode
    values = np.nan_to_num(values.astype(np.float32 if image.mode == "F" else np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        values, top = values - low, high - low
    elif image.mode == "I" and (image.format == "PPM" or (tags and depth == 16)):
        top = 65535.0 if unsigned else 32767.0
    else:
        steps = [1.0] * (image.mode == "F") + [255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1]
        top = next((step for step in steps if high <= step), high)
    levels = np.rint(values * (255 / top)).astype(np.uint8)
    return Image.fromarray(255 - levels if inverted else levels)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, CMYK or LAB as sRGB, by its colour profile where that can be used."""
    transform = srgb_transform(profile or b"", image.mode) if profile or image.mode == "LAB" else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a colour profile to sRGB; None where there is none (a bad profile never loses the picture) or where
    it would change nothing that can be seen, as for the many pictures that say they are sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        flags = ImageCms.Flags.NOCACHE  # which makes it safe between threads
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        levels = np.arange(0, 256, 51, dtype=np.uint8)
        probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
        if np.abs(np.asarray(transform.apply(probe), int) - np.asarray(probe, int)).max() <= 2:
            return None
    return transform
