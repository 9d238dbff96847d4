"""One drawing as another hand might have drawn it: outlined, flattened, in other colours, moved. Random numbers come
from the generator given, and from nothing else."""

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

WHITE = (255, 255, 255)
EDGE = 40  # grey levels between the darkest and the brightest neighbour


def redraw(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An RGB picture on white -> another of the same size."""
    if rng.random() < 0.3:
        image = image.quantize(int(rng.integers(4, 13))).convert("RGB")
    if rng.random() < 0.5:
        image = recolour(image, rng)
    if rng.random() < 0.5:
        image = outline(image, int(rng.choice([3, 5])))
    if rng.random() < 0.8:
        image = move(image, rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if rng.random() < 0.15:
        image = ImageOps.grayscale(image).convert("RGB")
    return image


def recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Other saturation, brightness and contrast, on white that stays; the hue hardly turns, for names tell colours."""
    ground = ImageOps.grayscale(image).point(lambda level: 255 if level == 255 else 0)
    hue, saturation, value = image.convert("HSV").split()
    turned = int(rng.integers(-10, 11))
    image = Image.merge("HSV", (hue.point(lambda level: (level + turned) % 256), saturation, value)).convert("RGB")
    for kind, low, high in (
        (ImageEnhance.Color, 0.3, 1.8),
        (ImageEnhance.Brightness, 0.7, 1.3),
        (ImageEnhance.Contrast, 0.6, 1.4),
    ):
        image = kind(image).enhance(float(rng.uniform(low, high)))
    image.paste(WHITE, mask=ground)
    return image


def outline(image: Image.Image, thickness: int) -> Image.Image:
    """Black lines where the brightness changes within `thickness` pixels (odd)."""
    grey = ImageOps.grayscale(image)
    change = ImageChops.subtract(
        grey.filter(ImageFilter.MaxFilter(thickness)), grey.filter(ImageFilter.MinFilter(thickness))
    )
    lines = change.point(lambda level: 255 if level > EDGE else 0).filter(ImageFilter.SMOOTH)
    return Image.composite(Image.new("RGB", image.size), image, lines)


def move(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scaled, stretched, turned and shifted a little, on white."""
    width, height = image.size
    angle, scale, stretch = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.65, 1.1), rng.uniform(0.85, 1.18)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    a, b, d, e = cos * stretch, sin * stretch, -sin / stretch, cos / stretch  # from the new picture to the old
    shift_x, shift_y = rng.uniform(-0.12, 0.12, 2) * (width, height)
    x, y = width / 2, height / 2
    c, f = x - a * (x + shift_x) - b * (y + shift_y), y - d * (x + shift_x) - e * (y + shift_y)
    return image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC, fillcolor=WHITE
    )
