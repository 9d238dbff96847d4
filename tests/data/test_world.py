"""The rendered world keeps its promises: captions say what is drawn, and only the order of frames tells direction."""

import hashlib
import time
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from omnivl.data import world
from omnivl.data.shapes import SHAPES, sprite
from omnivl.data.world import COLOURS, EXTENTS, GROUNDS, MOTIONS, ORDER_MOTIONS, PLACES, REVERSE, SPLITS, Scene


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_scene(seed: int) -> Scene:
    shapes, colours, grounds = list(SHAPES), list(COLOURS), list(GROUNDS)
    return Scene(shapes[seed % 8], colours[seed // 8 % 8], grounds[seed % 6])


def objects(frames: np.ndarray, scene: Scene) -> np.ndarray:
    """(T, H, W) bool: nearer to the object's colour than to the ground's."""
    values = frames.astype(int)
    far = [np.abs(values - np.array(rgb)).sum(-1) for rgb in (COLOURS[scene.colour], GROUNDS[scene.ground])]
    return far[0] < far[1]


def centre(mask: np.ndarray) -> np.ndarray:
    """(x, y) of a mask's middle, from the picture's middle."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) - (len(mask) - 1) / 2


# --- scenes and words ------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_complete_and_of_the_stated_sizes() -> None:
    everything = [scene for split in SPLITS for scene in world.scenes(split)]
    assert Counter(everything) == Counter(Scene(*names) for names in product(SHAPES, COLOURS, GROUNDS))
    assert [len(world.scenes(split)) for split in SPLITS] == [288, 48, 48]


@pytest.mark.parametrize("split", SPLITS)
def test_every_shape_colour_and_ground_is_in_every_split_and_shapes_equally_often(split: str) -> None:
    scenes = world.scenes(split)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert Counter(scene.shape for scene in scenes) == dict.fromkeys(SHAPES, len(scenes) // 8)


def test_the_held_out_scenes_never_change() -> None:
    names = " ".join(
        f"{s.shape}-{s.colour}-{s.ground}" for split in ("validation", "test") for s in world.scenes(split)
    )
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "51c36cbc9505f3d8"


def test_no_word_names_two_things_and_colours_are_far_apart() -> None:
    names = [*SHAPES, *COLOURS, *GROUNDS, *EXTENTS, "centre", *MOTIONS]
    assert len(set(names)) == len(names) and all(name.isalpha() for name in names)
    for one, other in combinations((COLOURS | GROUNDS).values(), 2):
        assert np.abs(np.subtract(one, other)).max() >= 60, (one, other)
    for colour, ground in product(COLOURS.values(), GROUNDS.values()):
        assert np.abs(np.subtract(colour, ground)).max() >= 85, (colour, ground)


def test_captions_are_unique_and_say_everything() -> None:
    captions = [caption for split in SPLITS for caption in world.all_captions(split)]
    assert len(set(captions)) == len(captions) == 384 * (len(PLACES) * len(EXTENTS) + len(MOTIONS))
    scene = Scene("star", "red", "grey")
    assert world.image_caption(scene, "left", "big") == "a big red star on a grey ground lies left"
    phrases = [world.clip_caption(scene, motion).removeprefix("a red star on a grey ground ") for motion in MOTIONS]
    moves = [f"moves {motion}" for motion in ORDER_MOTIONS]
    assert phrases == [*moves, "grows", "shrinks", "stays still", "turns"]


def test_captions_for_language_alone_are_of_both_media_and_of_training_scenes() -> None:
    known = set(world.all_captions("train"))
    drawn = [world.train_text("train", index, rng(index)) for index in range(2000)]
    assert set(drawn) <= known
    assert {"lies" in text for text in drawn[::2]} == {True} and {"lies" in text for text in drawn[1::2]} == {False}
    assert {word for text in drawn for word in text.split()} == {word for text in known for word in text.split()}
    assert not known & {*world.all_captions("validation"), *world.all_captions("test")}


# --- what is drawn is what is said -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_show_their_place_and_size(shape: str) -> None:
    for seed, place in product(range(12), PLACES):
        scene = Scene(shape, list(COLOURS)[seed % 8], list(GROUNDS)[seed % 6])
        masks = {
            extent: objects(world.render_image(scene, place, extent, rng(seed)), scene)[0]
            for extent in ("big", "small")
        }
        assert masks["big"].sum() > 1.5 * masks["small"].sum()
        across, down = PLACES[place]
        for mask in masks.values():
            x, y = centre(mask)
            assert [x < -6, x > 6] == [across < 0, across > 0]
            assert [y < -6, y > 6] == [down < 0, down > 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_clips_show_their_motion(shape: str) -> None:
    for seed in range(12):
        scene = Scene(shape, list(COLOURS)[seed % 8], list(GROUNDS)[seed % 6])
        clips = {motion: world.render_clip(scene, motion, rng(seed)) for motion in MOTIONS}
        masks = {motion: objects(clip, scene) for motion, clip in clips.items()}
        for motion in ORDER_MOTIONS:
            step = centre(masks[motion][2]) - centre(masks[motion][1])  # the middle two are never cut by an edge
            along = np.array(PLACES[motion])
            assert 7 <= step @ along <= 13 and abs(step @ along[::-1]) < 1, (motion, step)
        areas = masks["grow"].sum((1, 2))
        assert (np.diff(areas) > 0).all() and areas[-1] > 3 * areas[0]
        assert (np.diff(masks["shrink"].sum((1, 2))) < 0).all()
        assert (clips["still"] == clips["still"][:1]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_turning_is_seen_between_any_two_neighbouring_frames(shape: str) -> None:
    for seed in range(30):
        scene = Scene(shape, "red", "white")
        masks = objects(world.render_clip(scene, "turn", rng(seed)), scene)
        area = masks.sum((1, 2))
        changed = (masks[1:] != masks[:-1]).sum((1, 2))
        assert (changed > 0.08 * area[0]).all(), changed / area[0]
        assert np.ptp(area) < 0.08 * area[0]  # nothing but the angle changes
        assert max(np.abs(centre(mask) - centre(masks[0])).max() for mask in masks) < 2


@pytest.mark.parametrize("size", [64, 40])
def test_the_object_stays_in_view(size: int) -> None:
    for seed in range(64):
        scene = some_scene(seed)
        whole = objects(world.render_clip(scene, "still", rng(seed), 1, size), scene).sum()
        for motion in ORDER_MOTIONS:
            seen = objects(world.render_clip(scene, motion, rng(seed), 4, size), scene).sum((1, 2))
            assert (seen > 0.8 * whole).all(), (scene, motion, seen / whole)
        swollen = objects(world.render_clip(scene, "grow", rng(seed), 4, size), scene)
        assert not (swollen[:, [0, -1]].any() or swollen[:, :, [0, -1]].any())
        for extent in EXTENTS:
            whole = objects(world.render_image(scene, "centre", extent, rng(seed), size), scene).sum()
            for place in PLACES:
                seen = objects(world.render_image(scene, place, extent, rng(seed), size), scene).sum()
                assert seen > 0.75 * whole, (scene, place, seen / whole)


def test_shapes_are_told_apart_by_their_outlines_whatever_the_tilt() -> None:
    def mask(shape: str, tilt: int) -> np.ndarray:
        return sprite(shape, 18, tilt)[..., 0] > 0.5

    for one, other in combinations(SHAPES, 2):
        for tilt in (-6, 0, 6):
            a, b = mask(one, 0), mask(other, tilt)
            assert (a & b).sum() / (a | b).sum() < 0.9, (one, other)


# --- only order tells direction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 8])
def test_a_clip_played_backwards_is_exactly_the_reverse_motion(num_frames: int) -> None:
    for seed in range(20):
        scene = some_scene(seed)
        for motion in set(MOTIONS) - {"turn"}:
            clip = world.render_clip(scene, motion, rng(seed), num_frames)
            reverse = world.render_clip(scene, REVERSE[motion], rng(seed), num_frames)
            assert clip.shape == (num_frames, 64, 64, 3)
            assert np.array_equal(clip[::-1], reverse), (scene, motion)


def test_the_middle_frame_is_the_same_whatever_the_motion() -> None:
    for seed in range(20):
        scene = some_scene(seed)
        middles = [world.render_clip(scene, motion, rng(seed), num_frames=1) for motion in MOTIONS]
        middles += [world.render_clip(scene, motion, rng(seed), num_frames=5)[2:3] for motion in MOTIONS]
        assert all(np.array_equal(middle, middles[0]) for middle in middles)


def test_turns_go_either_way_equally_often() -> None:
    def spin(seed: int) -> float:
        return np.diff([pose.angle for pose in world.poses_of("turn", rng(seed), 4)])[0]

    ways = [spin(seed) > 0 for seed in range(400)]
    assert 150 < sum(ways) < 250


@pytest.mark.parametrize(("motion", "reverse"), [("left", "right"), ("up", "down"), ("grow", "shrink")])
def test_single_frames_do_not_tell_a_motion_from_its_reverse(motion: str, reverse: str) -> None:
    """Of other clips with other numbers: mean frames agree, and a linear readout of one frame is at chance. With the
    order of two frames given, the same readout is right, so the check would see a leak."""
    scene = Scene("square", "red", "white")

    def clips(kind: str, first: int) -> np.ndarray:
        drawn = [world.render_clip(scene, kind, rng(seed), size=16)[..., 1] for seed in range(first, first + 400)]
        return np.stack(drawn).reshape(400, 4, -1) / 255  # (clips, T, pixels)

    one, other = clips(motion, 0), clips(reverse, 400)
    drift = np.abs(one.mean((0, 1)) - other.mean((0, 1))).max()
    assert drift < 0.05 < 0.3 < np.abs(one[:, 0].mean(0) - other[:, 0].mean(0)).max()

    def accuracy(a: np.ndarray, b: np.ndarray) -> float:
        features = np.concatenate([a, b])
        target = np.repeat([-1.0, 1.0], len(a))
        train = np.arange(len(features)) % 2 == 0
        weights = np.linalg.solve(
            features[train].T @ features[train] + np.eye(features.shape[1]), features[train].T @ target[train]
        )
        return float((np.sign(features[~train] @ weights) == target[~train]).mean())

    which = rng(0).integers(4, size=400)
    every = np.arange(400)
    assert 0.4 < accuracy(one[every, which], other[every, which]) < 0.6
    assert accuracy(one[:, 3] - one[:, 0], other[:, 3] - other[:, 0]) > 0.95


# --- items -----------------------------------------------------------------------------------------------------------


def test_the_same_numbers_draw_the_same_pixels_and_others_do_not() -> None:
    for medium in ("image", "video"):
        started = time.perf_counter()
        first, again = (
            [world.train_item("train", medium, i, rng(i), num_frames=4, size=64) for i in range(300)] for _ in range(2)
        )
        print(f"{medium}: {600 / (time.perf_counter() - started):.0f} items a second")
        assert all(
            np.array_equal(a.frames, b.frames) and a.caption == b.caption for a, b in zip(first, again, strict=True)
        )
        assert len({item.frames.tobytes() for item in first}) > 290
        assert {item.scene for item in first} <= set(world.scenes("train"))
        assert len({item.scene for item in first}) > 150


def test_drawn_frames_are_the_callers_own() -> None:
    frames = world.render_image(some_scene(0), "left", "big", rng(0))
    frames[:] = 77  # must not reach what the room keeps for later drawings
    assert not np.array_equal(world.render_image(some_scene(0), "left", "big", rng(0)), frames)
    assert frames.dtype == np.uint8 and frames.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_clips_of_a_block_share_the_scene_and_differ_in_motion(group_size: int) -> None:
    items = [world.train_item("train", "video", i, rng(i), size=32, group_size=group_size) for i in range(160)]
    blocks = [items[i : i + group_size] for i in range(0, 160, group_size)]
    assert all(len({item.scene for item in block}) == 1 for block in blocks)
    assert all(len({item.motion for item in block}) == group_size for block in blocks)
    assert len({block[0].scene for block in blocks}) > len(blocks) // 2
    assert {item.motion for item in items} == set(MOTIONS)
    assert {block[0].motion for block in blocks} >= set(ORDER_MOTIONS)


@pytest.mark.parametrize(("medium", "distinct"), [("image", 480), ("video", 384)])
def test_a_gallery_has_distinct_captions_while_there_are_any_and_grows_at_its_end(medium: str, distinct: int) -> None:
    large = world.gallery("test", medium, distinct + 10, 3, size=16)
    assert len({item.caption for item in large[:distinct]}) == distinct
    assert len(large) == len({item.key for item in large}) == distinct + 10
    assert {item.scene for item in large} == set(world.scenes("test"))
    small = world.gallery("test", medium, 20, 3, size=16)
    assert all(np.array_equal(a.frames, b.frames) and a.key == b.key for a, b in zip(small, large[:20], strict=True))
    other = world.gallery("test", medium, 20, 4, size=16)
    assert [item.caption for item in small] != [item.caption for item in other]
    names = {item.label for item in large}
    assert names == (set(SHAPES) if medium == "image" else set(MOTIONS))
    assert all(item.label == (item.scene.shape if medium == "image" else item.motion) for item in large)


def test_a_video_gallery_of_256_holds_clips_of_the_same_scene() -> None:
    items = world.gallery("test", "video", 256, 0, size=16)
    assert min(Counter(item.scene for item in items).values()) >= 2


def test_siblings_are_one_scene_in_every_motion_about_one_pose() -> None:
    groups = world.siblings("validation", 60, 0, num_frames=3, size=32)
    assert len(groups) == 60 and len({group[0].scene for group in groups}) == 48
    for group in groups:
        assert tuple(item.motion for item in group) == MOTIONS
        assert {item.scene for item in group} == {group[0].scene}
        assert all(np.array_equal(item.frames[1], group[0].frames[1]) for item in group)
    first = {group[0].scene: group[0].frames for group in groups[:48]}
    assert not any(np.array_equal(first[group[0].scene], group[0].frames) for group in groups[48:])


def test_reverse_pairs_are_balanced_moves() -> None:
    items = world.reverse_pairs("test", 240, 0)
    assert Counter(item.motion for item in items) == dict.fromkeys(ORDER_MOTIONS, 60)
    assert {item.scene for item in items} == set(world.scenes("test"))
    assert len({item.caption for item in items[:192]}) == 192  # then scenes recur, in other poses
    drawn = {item.caption: item.frames for item in items[:192]}
    assert sum(np.array_equal(drawn[item.caption], item.frames) for item in items[192:]) <= 1


def test_an_unknown_split_or_medium_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="no split 'val': choose train, validation, test"):
        world.gallery("val", "image", 1, 0)
    with pytest.raises(ValueError, match="no 'sound': the medium is image or video"):
        world.train_item("train", "sound", 0, rng(0))
