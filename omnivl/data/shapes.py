"""The shapes of the built-in world, and their anti-aliased masks.

A shape is a function of coordinates: is a point inside? x to the right, y down, the object about as large as the
unit circle. Round ones have a mark, or turning could not be seen. This room knows no scene, colour or motion.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

REACH = 1.25  # farthest point of a shape, in radii
SUBPIXELS = 4  # a side: of the anti-aliasing


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    hole = np.hypot(x + 0.5, y) < 0.28  # without it turning could not be seen
    return (np.hypot(x, y) < 0.95) & ~hole


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < 0.8


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y < 0.6) & (np.abs(x) * np.sqrt(3) - y < 1.2)


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    side = np.pi / 5
    around = np.abs((np.arctan2(x, -y) + side) % (2 * side) - side)  # angle from the nearest point of the star
    away = np.hypot(x, y)
    inner = 0.4  # radius of the corners between the points
    # the straight edge from a point (0, 1) to the corner at `side`
    across, along = away * np.sin(around), away * np.cos(around)
    return along < 1 - across * (1 - inner * np.cos(side)) / (inner * np.sin(side))


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.maximum(np.abs(x), np.abs(y)) < 0.95) & (np.minimum(np.abs(x), np.abs(y)) < 0.2)


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    away = np.hypot(x, y)
    gap = (np.abs(x) < 0.22) & (y < 0)  # as the circle's hole
    return (away > 0.6) & (away < 1) & ~gap


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = 1.25 * x, 0.2 - 1.2 * y
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) < 1) & (np.abs(y) < 0.3)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    shape.__name__: shape for shape in (circle, square, triangle, star, cross, ring, heart, bar)
}


@lru_cache(maxsize=8192)
def sprite(shape: str, radius: int, angle: int) -> np.ndarray:
    """Coverage (S, S, 1) float32 in [0, 1], S odd, of a shape turned clockwise; radius in real pixels."""
    half = int(REACH * radius) + 2
    side = 2 * half + 1
    line = ((np.arange(side * SUBPIXELS) + 0.5) / SUBPIXELS - side / 2) / radius
    x, y = line[None, :], line[:, None]
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    inside = SHAPES[shape](x * cos + y * sin, y * cos - x * sin)
    return inside.reshape(side, SUBPIXELS, side, SUBPIXELS).mean((1, 3), dtype=np.float32)[..., None]
