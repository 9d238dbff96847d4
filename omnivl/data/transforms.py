"""Pictures and clips to the square a model looks at: plain functions on frames, (T, H, W, 3) uint8 numpy.

One crop, one flip and one set of operations for all frames of a clip, so that motion stays motion. Augmentation follows
BLIP's recipe: random resized crop, flip, RandAugment without colour shifts; evaluation and inference resize to a
square, or average over `spatial_crops`. Resizing is Pillow's, antialiased. Random numbers come from the generator
given, and from nothing else.
Axes: T frames, H height, W width. This room knows no model, no tokenizer and no file.
"""

import math
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CROP_TRIES = 10
CROP_RATIO = (3 / 4, 4 / 3)  # width over height of a random crop
GREY = (128, 128, 128)  # what shears, shifts and turns leave empty
MAX_MAGNITUDE = 10
# words that a mirrored picture would make false
SIDES = re.compile(
    r"\b(left|right)(s|wards?|most|hand(ed)?|y)?\b|\b((anti|counter)[- ]?)?clockwise\b|\bmirror(ed)?\b", re.IGNORECASE
)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Frames = np.ndarray | Image.Image  # a picture may come as Pillow's own, which spares two copies of its full size


def resize(frames: Frames, size: int, interpolation: str = "bicubic") -> np.ndarray:
    """(T, H, W, 3) to (T, size, size, 3), antialiased; unchanged where it fits."""
    if size < 1:
        raise ValueError(f"the size of a picture must be 1 or more, got {size}")
    if isinstance(frames, Image.Image):
        fits = frames.size == (size, size)
        return np.asarray(frames if fits else frames.resize((size, size), INTERPOLATIONS[interpolation]))[None]
    if frames.shape[1:3] == (size, size):
        return frames
    how = INTERPOLATIONS[interpolation]
    return each(frames, lambda image: image.resize((size, size), how))


def prepare(frames: np.ndarray, size: int, interpolation: str = "bicubic") -> np.ndarray:
    """What evaluation and inference look at: the whole picture as a square of `size`."""
    return resize(frames, size, interpolation)


def spatial_crops(
    frames: np.ndarray, size: int, num_crops: int = 3, interpolation: str = "bicubic"
) -> list[np.ndarray]:
    """Square views of a clip for evaluation, each (T, size, size, 3): as wide as the shorter side, evenly spread along
    the longer one from edge to edge (left, centre, right; SlowFast, arXiv 1812.03982); one: the centre."""
    if num_crops < 1:
        raise ValueError(f"num_crops must be 1 or more, got {num_crops}")
    height, width = frames.shape[1:3]
    side = min(height, width)
    views = []
    for place in np.linspace(0, 1, num_crops) if num_crops > 1 else (0.5,):
        left, top = round((width - side) * place), round((height - side) * place)
        views.append(resize(frames[:, top : top + side, left : left + side], size, interpolation))
    return views


def random_resized_crop(
    frames: Frames, size: int, rng: np.random.Generator, min_scale: float, interpolation: str = "bicubic"
) -> np.ndarray:
    """One random box of `min_scale` to all of the area, 3:4 to 4:3, cut from every frame and resized to a square."""
    if isinstance(frames, Image.Image):
        return resize(frames.crop(crop_box(frames.height, frames.width, rng, min_scale)), size, interpolation)
    left, top, right, bottom = crop_box(frames.shape[1], frames.shape[2], rng, min_scale)
    return resize(frames[:, top:bottom, left:right], size, interpolation)


def crop_box(height: int, width: int, rng: np.random.Generator, min_scale: float) -> Box:
    """A box drawn evenly in area and in the logarithm of its shape; the largest allowed one at the centre where ten
    draws do not fit."""
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = max(round(math.sqrt(area * ratio)), 1), max(round(math.sqrt(area / ratio)), 1)
        if w <= width and h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(round(height * CROP_RATIO[1]), 1))
    h = min(height, max(round(width / CROP_RATIO[0]), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def flip(frames: np.ndarray) -> np.ndarray:
    """Mirrored left to right."""
    return np.ascontiguousarray(frames[:, :, ::-1])


def mentions_sides(text: str) -> bool:
    """Whether a mirrored picture would make the text false: left, right, clockwise and their kin, as words."""
    return SIDES.search(text) is not None


def augment(
    frames: Frames,
    size: int,
    rng: np.random.Generator,
    *,
    min_crop: float = 0.2,
    flip: bool = True,
    ops: int = 0,
    magnitude: int = 5,
    interpolation: str = "bicubic",
    text: str = "",
) -> np.ndarray:
    """Frames as training sees them: (T, size, size, 3). `min_crop` 1: no crop; the flip (one in two) is left out where
    `text` mentions a side. With nothing to do the frames come back unchanged."""
    if min_crop < 1:
        frames = random_resized_crop(frames, size, rng, min_crop, interpolation)
    else:
        frames = resize(frames, size, interpolation)
    if flip and rng.random() < 0.5 and not mentions_sides(text):
        frames = mirror(frames)
    return rand_augment(frames, rng, ops, magnitude) if ops else frames


mirror = flip  # `augment` has an argument of that name


# --- RandAugment -----------------------------------------------------------------------------------------------------


def rand_augment(frames: np.ndarray, rng: np.random.Generator, ops: int, magnitude: int) -> np.ndarray:
    """`ops` operations drawn from OPERATIONS, of strength `magnitude` (0 to 10) and random sign; alike on all."""
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(f"the magnitude of an augmentation is 0 to {MAX_MAGNITUDE}, got {magnitude}")
    names = list(OPERATIONS)
    for _ in range(ops):
        name = names[int(rng.integers(len(names)))]
        strength = (1 if rng.random() < 0.5 else -1) * magnitude / MAX_MAGNITUDE
        frames = OPERATIONS[name](frames, strength)
    return frames


def identity(frames: np.ndarray, strength: float) -> np.ndarray:
    return frames


def autocontrast(frames: np.ndarray, strength: float) -> np.ndarray:
    """Stretch the clip's brightness to the full range; one table for all frames and colours, so that no hue shifts."""
    low, high = int(frames.min()), int(frames.max())
    if low == high:
        return frames
    return np.clip(np.rint((np.arange(256) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)[frames]


def equalize(frames: np.ndarray, strength: float) -> np.ndarray:
    """Spread the clip's brightness evenly; one table for all frames and colours."""
    counts = np.bincount(frames.reshape(-1), minlength=256)
    below = np.cumsum(counts) - counts
    span = below[np.nonzero(counts)[0][-1]]
    if span == 0:
        return frames
    return np.clip(np.rint(below * (255 / span)), 0, 255).astype(np.uint8)[frames]


def brightness(frames: np.ndarray, strength: float) -> np.ndarray:
    return np.clip(np.rint(np.arange(256) * (1 + 0.8 * strength)), 0, 255).astype(np.uint8)[frames]


def sharpness(frames: np.ndarray, strength: float) -> np.ndarray:
    return each(frames, lambda image: ImageEnhance.Sharpness(image).enhance(1 + 0.8 * strength))


def shear_x(frames: np.ndarray, strength: float) -> np.ndarray:
    return warp(frames, (1, 0.3 * strength, 0, 1))


def shear_y(frames: np.ndarray, strength: float) -> np.ndarray:
    return warp(frames, (1, 0, 0.3 * strength, 1))


def translate_x(frames: np.ndarray, strength: float) -> np.ndarray:
    return warp(frames, (1, 0, 0, 1), shift=(0.1 * strength, 0))


def translate_y(frames: np.ndarray, strength: float) -> np.ndarray:
    return warp(frames, (1, 0, 0, 1), shift=(0, 0.1 * strength))


def rotate(frames: np.ndarray, strength: float) -> np.ndarray:
    angle = math.radians(30 * strength)
    return warp(frames, (math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)))


OPERATIONS = {
    function.__name__: function
    for function in (
        identity,
        autocontrast,
        equalize,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        rotate,
    )
}


def warp(
    frames: np.ndarray, matrix: tuple[float, float, float, float], shift: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """Each frame under a linear map about its centre and a shift in parts of its sides; what is left empty is grey."""
    height, width = frames.shape[1:3]
    a, b, c, d = matrix
    x, y = width / 2, height / 2
    affine = (a, b, x - a * x - b * y + shift[0] * width, c, d, y - c * x - d * y + shift[1] * height)
    how = Image.Transform.AFFINE
    return each(frames, lambda im: im.transform(im.size, how, affine, Image.Resampling.BILINEAR, fillcolor=GREY))


def each(frames: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`change`, a function of one PIL image, on every frame."""
    return np.stack([np.asarray(change(Image.fromarray(np.ascontiguousarray(frame)))) for frame in frames])
