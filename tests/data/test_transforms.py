"""Crops, flips and RandAugment: one draw for all frames of a clip, against Pillow's own and loops by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from omnivl.data.transforms import (
    CROP_RATIO,
    GREY,
    OPERATIONS,
    augment,
    crop_box,
    flip,
    mentions_sides,
    prepare,
    rand_augment,
    random_resized_crop,
    resize,
    spatial_crops,
)

SIZES = [(48, 64), (64, 48), (33, 47), (1, 1), (1, 1000), (1000, 1), (2, 3), (240, 17)]


def noise(count: int = 1, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def smooth(height: int = 96, width: int = 128) -> np.ndarray:
    """(1, H, W, 3): a grey picture with every level from 20 to 220, and more dark ones than bright."""
    y, x = np.mgrid[0:height, 0:width]
    levels = 20 + 200 * ((x / (width - 1) + y / (height - 1)) / 2) ** 2
    return np.rint(levels).astype(np.uint8)[None, :, :, None].repeat(3, 3)


def pil(frames: np.ndarray) -> Image.Image:
    return Image.fromarray(frames[0])


def off_by(frames: np.ndarray, image: Image.Image) -> int:
    return int(np.abs(frames[0].astype(int) - np.asarray(image).astype(int)).max())


def test_a_picture_of_pillow_s_is_treated_like_its_array() -> None:
    for seed, (height, width) in enumerate(SIZES * 3):
        frames = noise(1, height, width, seed)
        for changes in ({"min_crop": 0.2, "ops": 2}, {"min_crop": 1.0}):
            one, other = (augment(x, 24, np.random.default_rng(seed), **changes) for x in (pil(frames), frames))  # type: ignore[arg-type]
            assert np.array_equal(one, other)
    assert np.array_equal(resize(pil(frames), frames.shape[1]), resize(frames, frames.shape[1]))


# --- one draw for all frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_crop_flip_and_operations_are_one_for_all_frames_of_a_clip(seed: int) -> None:
    still = noise().repeat(5, 0)
    seen = augment(still, 32, np.random.default_rng(seed), ops=3, magnitude=7)
    assert seen.shape == (5, 32, 32, 3) and seen.dtype == np.uint8
    assert (seen == seen[:1]).all()
    moving = noise(5)
    seen = random_resized_crop(moving, 32, np.random.default_rng(seed), 0.2)
    box = crop_box(48, 64, np.random.default_rng(seed), 0.2)
    for frame, shown in zip(moving, seen, strict=True):
        expected = Image.fromarray(frame).crop(box).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(shown, np.asarray(expected))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_treats_frames_of_a_clip_alike(name: str) -> None:
    """The first frames of a clip come out the same whether others follow or not, but for tables made of all frames."""
    clip = np.concatenate([noise(2), noise(2)])
    whole, half = OPERATIONS[name](clip, 0.6), OPERATIONS[name](clip[:2], 0.6)
    assert whole.shape == clip.shape and whole.dtype == np.uint8
    assert np.array_equal(whole[:2], half) and np.array_equal(whole[2:], half)


def test_tables_are_made_of_the_whole_clip_so_that_brightness_does_not_flicker() -> None:
    clip = np.concatenate([np.full((1, 8, 8, 3), 50, np.uint8), np.full((1, 8, 8, 3), 100, np.uint8)])
    stretched = OPERATIONS["autocontrast"](clip, 1)
    assert (stretched[0] == 0).all() and (stretched[1] == 255).all()


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    frames = noise(3)
    one, same, other = (augment(frames, 32, np.random.default_rng(s), ops=2, magnitude=5) for s in (7, 7, 8))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


# --- flips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a red star moves left",
        "The RIGHT one",
        "turn it clockwise",
        "counter-clockwise",
        "anticlockwise",
        "leftmost cup",
        "a left-handed man",
        "walking rightwards",
        "pushing something from left to right",
        "a mirrored word",
    ],
)
def test_a_text_that_names_a_side_is_never_flipped(text: str) -> None:
    frames = noise(2, 32, 32)
    assert mentions_sides(text)
    for seed in range(20):
        assert np.array_equal(augment(frames, 32, np.random.default_rng(seed), min_crop=1, text=text), frames)


def test_other_texts_are_flipped_half_of_the_time() -> None:
    frames = noise(2, 32, 32)
    for text in ("a bright copyright notice", "uplifting", "clocks", ""):
        assert not mentions_sides(text)
        seen = [augment(frames, 32, np.random.default_rng(seed), min_crop=1, text=text) for seed in range(200)]
        flipped = [np.array_equal(one, frames[:, :, ::-1]) for one in seen]
        assert 70 <= sum(flipped) <= 130
        assert all(mirrored or np.array_equal(one, frames) for one, mirrored in zip(seen, flipped, strict=True))
    assert not any(
        np.array_equal(augment(frames, 32, np.random.default_rng(seed), min_crop=1, flip=False), frames[:, :, ::-1])
        for seed in range(20)
    )


def test_a_flip_is_pillows_mirror() -> None:
    frames = noise(1, 7, 5)
    assert off_by(flip(frames), ImageOps.mirror(pil(frames))) == 0


# --- crops and sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("min_scale", [0.2, 0.5, 0.9])
def test_crop_boxes_lie_within_the_frame_and_have_the_area_and_shape_they_should(
    height: int, width: int, min_scale: float
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = crop_box(height, width, rng, min_scale)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        if min(height, width) >= 33 and max(height, width) / min(height, width) <= 4 / 3:
            assert (w + 1) * (h + 1) >= min_scale * height * width  # sides are rounded to whole pixels
            assert CROP_RATIO[0] * (h - 1) <= w + 1 and w - 1 <= CROP_RATIO[1] * (h + 1)


def test_crop_boxes_are_spread_over_area_shape_and_place() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(300, 300, rng, 0.2) for _ in range(3000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, shape = w * h / 300**2, np.log(w / h)
    assert area.min() < 0.22 and area.max() > 0.95 and abs(shape.mean()) < 0.02
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() - 300) < 6 and abs((boxes[:, 1] + boxes[:, 3]).mean() - 300) < 6
    narrow = shape[area < 0.5]  # where every shape fits: even in the logarithm
    assert abs(np.mean(narrow < 0) - 0.5) < 0.05 and narrow.min() < math.log(0.78) and narrow.max() > math.log(1.28)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_size_is_prepared_cropped_and_augmented(height: int, width: int) -> None:
    frames = noise(2, height, width)
    assert prepare(frames, 16).shape == (2, 16, 16, 3)
    assert [view.shape for view in spatial_crops(frames, 16)] == [(2, 16, 16, 3)] * 3
    for seed in range(5):
        seen = augment(frames, 16, np.random.default_rng(seed), ops=2, magnitude=10)
        assert seen.shape == (2, 16, 16, 3) and seen.dtype == np.uint8


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (1, 1000), (200, 37)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_is_pillows_and_antialiased(height: int, width: int, interpolation: str) -> None:
    frames = noise(1, height, width)
    how = Image.Resampling[interpolation.upper()]
    assert off_by(prepare(frames, 24, interpolation), pil(frames).resize((24, 24), how)) == 0
    stripes = np.zeros((1, 240, 240, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(prepare(stripes, 24, interpolation).astype(int) - 128).max() <= 8


def test_what_fits_is_left_as_it_is_and_a_size_of_zero_is_refused() -> None:
    frames = noise(2, 16, 16)
    assert resize(frames, 16) is frames
    with pytest.raises(ValueError, match="size of a picture must be 1 or more, got 0"):
        resize(frames, 0)
    with pytest.raises(ValueError, match="num_crops must be 1 or more, got 0"):
        spatial_crops(frames, 16, 0)
    with pytest.raises(ValueError, match="magnitude of an augmentation is 0 to 10, got 11"):
        rand_augment(frames, np.random.default_rng(0), 1, 11)


def test_spatial_crops_are_squares_along_the_longer_side() -> None:
    wide = noise(2, 20, 50)
    left, centre, right = spatial_crops(wide, 20)
    assert np.array_equal(left, wide[:, :, :20]) and np.array_equal(right, wide[:, :, 30:])
    assert np.array_equal(centre, wide[:, :, 15:35])
    top, middle, bottom = spatial_crops(wide.transpose(0, 2, 1, 3), 20)
    assert np.array_equal(top, wide.transpose(0, 2, 1, 3)[:, :20])
    assert np.array_equal(middle, centre.transpose(0, 2, 1, 3))
    assert np.array_equal(bottom, right.transpose(0, 2, 1, 3))
    assert np.array_equal(spatial_crops(wide, 20, 1)[0], centre)
    smaller = spatial_crops(wide, 8)[2]  # cut, then scaled
    assert off_by(smaller, pil(wide[:, :, 30:]).resize((8, 8), Image.Resampling.BICUBIC)) == 0


# --- RandAugment -----------------------------------------------------------------------------------------------------


def test_nothing_to_do_leaves_frames_as_they_are() -> None:
    frames = noise(2, 32, 32)
    assert augment(frames, 32, np.random.default_rng(0), min_crop=1, flip=False) is frames
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "sharpness", "identity"):
        assert np.array_equal(OPERATIONS[name](frames, 0.0), frames), name
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    for name in ("autocontrast", "equalize"):
        assert np.array_equal(OPERATIONS[name](flat, 1.0), flat), name


def test_autocontrast_and_equalize_are_pillows_on_grey() -> None:
    frames = smooth()
    assert off_by(OPERATIONS["autocontrast"](frames, 1), ImageOps.autocontrast(pil(frames))) <= 1
    assert off_by(OPERATIONS["equalize"](frames, 1), ImageOps.equalize(pil(frames))) <= 3  # whose step is rounded down


def test_autocontrast_and_equalize_keep_grey_grey_and_hues() -> None:
    """One table for the three colours: an order of them stays an order."""
    frames = noise(1) // 2 + np.array([90, 40, 0], np.uint8)
    for name in ("autocontrast", "equalize"):
        seen = OPERATIONS[name](frames, 1).astype(int)
        before = np.sign(np.diff(frames.astype(int), axis=-1))
        assert (np.sign(np.diff(seen, axis=-1)) * before >= 0).all()


@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.3, 1.0])
def test_brightness_and_sharpness_are_pillows(strength: float) -> None:
    frames = noise()
    factor = 1 + 0.8 * strength
    assert off_by(OPERATIONS["brightness"](frames, strength), ImageEnhance.Brightness(pil(frames)).enhance(factor)) <= 1
    assert off_by(OPERATIONS["sharpness"](frames, strength), ImageEnhance.Sharpness(pil(frames)).enhance(factor)) == 0


@pytest.mark.parametrize("strength", [-1.0, 0.5, 1.0])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 20)])
def test_a_turn_is_pillows_about_the_centre(strength: float, height: int, width: int) -> None:
    frames = noise(1, height, width)
    turned = pil(frames).rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY)
    assert np.mean(OPERATIONS["rotate"](frames, strength)[0] == np.asarray(turned)) > 0.999


def bilinear(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """The colour at a point (pixel centres at halves), its edge pixels going on to the border of the frame."""
    height, width = frame.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        return np.array(GREY, float)
    x, y = x - 0.5, y - 0.5
    left, top = math.floor(x), math.floor(y)
    rows, columns = np.clip([top, top + 1], 0, height - 1), np.clip([left, left + 1], 0, width - 1)
    corner = frame[rows][:, columns].astype(float)
    across = corner[:, 0] * (1 - (x - left)) + corner[:, 1] * (x - left)
    result: np.ndarray = across[0] * (1 - (y - top)) + across[1] * (y - top)
    return result


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
@pytest.mark.parametrize("strength", [-0.7, 1.0])
def test_shears_and_shifts_equal_a_loop_by_hand(name: str, strength: float) -> None:
    frames = noise(1, 14, 22)
    height, width = 14, 22
    expected = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            if name == "shear_x":
                x += 0.3 * strength * (y - height / 2)
            elif name == "shear_y":
                y += 0.3 * strength * (x - width / 2)
            elif name == "translate_x":
                x += 0.1 * strength * width
            else:
                y += 0.1 * strength * height
            expected[row, column] = bilinear(frames[0], x, y)
    assert np.abs(OPERATIONS[name](frames, strength)[0] - expected).max() <= 1.001  # Pillow rounds down


def test_operations_strength_and_sign_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []

    def recorded(name: str) -> Callable[[np.ndarray, float], np.ndarray]:
        def change(frames: np.ndarray, strength: float) -> np.ndarray:
            seen.append((name, strength))
            return frames

        return change

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, recorded(name))
    rng = np.random.default_rng(0)
    for _ in range(1000):
        rand_augment(noise(1, 2, 2), rng, 2, 5)
    counts = [sum(name == n for n, _ in seen) for name in OPERATIONS]
    assert len(seen) == 2000 and {abs(strength) for _, strength in seen} == {0.5}
    assert min(counts) > 150 and max(counts) < 250
    assert 900 < sum(strength > 0 for _, strength in seen) < 1100
