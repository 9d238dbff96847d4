"""The built-in world: one large coloured object on a plain ground, at rest or moving, drawn on the fly; no files.

It stands in for the paper's image-text, image-label, video-text and video-label data *(ours)*, small enough that a tiny
model learns space from pictures and the order of time from clips in minutes.
A scene is a shape, a colour and a ground; a quarter of the scenes is never trained on. Each medium has one canonical
caption, so two items share a caption only where what it says is the same.

All lengths below are pixels of a picture 64 pixels wide; other sizes scale them. Every motion passes through the same
middle pose and is odd about it, and left, up and shrink are right, down and grow played backwards. So the middle frame
tells nothing of the motion, and all frames without their order never tell the direction.
Randomness comes in from outside: the same numbers draw the same pixels. Axes: T frames, H height, W width.
This room knows no model, no tokenizer and no prompt: of a label it knows the class name alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice, product
from typing import TypeVar

import numpy as np

from omnivl.data.shapes import SHAPES, sprite

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 20, 30),
    "orange": (255, 140, 0),
    "yellow": (255, 235, 40),
    "green": (20, 160, 50),
    "cyan": (0, 215, 230),
    "blue": (30, 70, 240),
    "purple": (140, 30, 180),
    "pink": (255, 100, 185),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (8, 8, 8),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "brown": (100, 60, 30),
    "navy": (20, 25, 85),
    "beige": (215, 195, 155),
}
PLACES: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "centre": (0, 0)}
EXTENTS: dict[str, tuple[float, float]] = {"big": (17, 19), "small": (10, 12)}  # radius
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "still", "turn")
ORDER_MOTIONS = ("left", "right", "up", "down")
REVERSE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "grow": "shrink",
    "shrink": "grow",
    "still": "still",
    "turn": "turn",  # either way round: the caption does not say which
}
BACKWARDS = ("left", "up", "shrink")  # drawn as their reverse, played backwards
PHRASES = {
    **{motion: f"moves {motion}" for motion in ORDER_MOTIONS},
    "grow": "grows",
    "shrink": "shrinks",
    "still": "stays still",
    "turn": "turns",
}
SPLITS = ("train", "validation", "test")
HELD_OUT = 48  # scenes of validation, and of test
LENGTHS = {"image": 100_000, "video": 100_000}  # of a nominal epoch: the stream has no end

WIDTH = 64  # the picture that lengths are given for
JITTER = 2.0  # of the middle pose, either way
OFFSET = (13.0, 16.0)  # of a picture's place from the centre
STEP = (8.0, 12.0)  # moved a frame where there are 4
RADIUS = (12.0, 15.0)  # at the middle of a clip
SWELL = 0.42  # share of the radius gained or lost from the middle to an end
TILT = 8.0  # degrees, either way: more of it makes shapes slow to learn
SPIN = (48.0, 60.0)  # degrees turned from the middle to an end
ANGLE_STEP = 6  # degrees: angles are rounded, so that drawn shapes can be kept

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Scene:
    """What all captions name."""

    shape: str
    colour: str
    ground: str


@dataclass(frozen=True)
class WorldItem:
    """A picture or clip with its texts. `label` is the class name: a picture's shape, a clip's motion."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    caption: str
    label: str
    scene: Scene
    motion: str | None  # of clips
    key: str


@dataclass(frozen=True)
class Pose:
    """Where an object is in one frame: centre and radius in pixels of 64, angle in degrees, clockwise."""

    x: float
    y: float
    radius: float
    angle: float


# --- drawing ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def plain(ground: str, size: int) -> np.ndarray:
    return np.full((size, size, 3), GROUNDS[ground], np.uint8)


def draw(scene: Scene, poses: Sequence[Pose], size: int) -> np.ndarray:
    """(T, size, size, 3) uint8: the scene's object in each pose. Centres and radii are rounded to whole pixels."""
    ground = np.array(GROUNDS[scene.ground], np.float32)
    contrast = np.array(COLOURS[scene.colour], np.float32) - ground
    frames = np.empty((len(poses), size, size, 3), np.uint8)
    frames[:] = plain(scene.ground, size)
    scale = size / WIDTH
    for frame, pose in zip(frames, poses, strict=True):
        radius = max(1, round(pose.radius * scale))
        angle = round(pose.angle / ANGLE_STEP) * ANGLE_STEP % 360
        mask = sprite(scene.shape, radius, angle)
        half = len(mask) // 2
        top, left = round(pose.y * scale) - half, round(pose.x * scale) - half
        mask = mask[max(0, -top) : max(0, size - top), max(0, -left) : max(0, size - left)]
        top, left = max(0, top), max(0, left)
        frame[top : top + mask.shape[0], left : left + mask.shape[1]] = ground + mask * contrast + 0.5
    return frames


def middle_pose(rng: np.random.Generator, radius: tuple[float, float]) -> Pose:
    x, y = WIDTH / 2 + rng.uniform(-JITTER, JITTER), WIDTH / 2 + rng.uniform(-JITTER, JITTER)
    return Pose(x, y, rng.uniform(*radius), rng.uniform(-TILT, TILT))


def render_image(scene: Scene, place: str, extent: str, rng: np.random.Generator, size: int = WIDTH) -> np.ndarray:
    """(1, size, size, 3) uint8: the object at a place (PLACES) in a size (EXTENTS); the generator gives the rest."""
    pose, offset = middle_pose(rng, EXTENTS[extent]), rng.uniform(*OFFSET)
    across, down = PLACES[place]
    return draw(scene, [replace(pose, x=pose.x + across * offset, y=pose.y + down * offset)], size)


def poses_of(motion: str, rng: np.random.Generator, num_frames: int) -> list[Pose]:
    """The object's way. What is drawn from `rng` depends neither on the motion nor on the number of frames."""
    if motion in BACKWARDS:
        return poses_of(REVERSE[motion], rng, num_frames)[::-1]
    middle = middle_pose(rng, RADIUS)
    reach = 1.5 * rng.uniform(*STEP)  # from the middle to an end, which are 1.5 of 4 frames' steps apart
    spin = rng.uniform(*SPIN) * (1 if rng.random() < 0.5 else -1)
    times = [(2 * i - (num_frames - 1)) / max(1, num_frames - 1) for i in range(num_frames)]  # -1 to 1; one frame: 0
    at: dict[str, Callable[[float], Pose]] = {
        "right": lambda t: replace(middle, x=middle.x + reach * t),
        "down": lambda t: replace(middle, y=middle.y + reach * t),
        "grow": lambda t: replace(middle, radius=middle.radius * (1 + SWELL * t)),
        "turn": lambda t: replace(middle, angle=middle.angle + spin * t),
        "still": lambda t: middle,
    }
    return [at[motion](t) for t in times]


def render_clip(
    scene: Scene, motion: str, rng: np.random.Generator, num_frames: int = 4, size: int = WIDTH
) -> np.ndarray:
    """(num_frames, size, size, 3) uint8. More frames show the same way in smaller steps; one shows its middle.

    The same generator state gives every motion the same middle pose, and REVERSE[motion] exactly the reversed frames
    (a turn, which may go either way, excepted).
    """
    return draw(scene, poses_of(motion, rng, num_frames), size)


# --- scenes and captions ---------------------------------------------------------------------------------------------


@cache
def scenes(split: str) -> tuple[Scene, ...]:
    """The split's scenes, always in the same order: 288 of train, 48 of validation, 48 of test, none in two."""
    if split not in SPLITS:
        raise ValueError(f"the world has no split {split!r}: choose {', '.join(SPLITS)}")
    held = HELD_OUT // len(SHAPES)  # of each shape
    first, last = {"test": (0, held), "validation": (held, 2 * held), "train": (2 * held, None)}[split]
    found: list[Scene] = []
    for shape in SHAPES:
        of_shape = (Scene(shape, *names) for names in product(COLOURS, GROUNDS))
        # mixed by a hash, which no version of numpy changes
        found += sorted(of_shape, key=lambda scene: digest(scene.shape, scene.colour, scene.ground))[first:last]
    return tuple(found)


def image_caption(scene: Scene, place: str, extent: str) -> str:
    return f"a {extent} {scene.colour} {scene.shape} on a {scene.ground} ground lies {place}"


def clip_caption(scene: Scene, motion: str) -> str:
    return f"a {scene.colour} {scene.shape} on a {scene.ground} ground {PHRASES[motion]}"


def all_captions(split: str = "train") -> list[str]:
    """Every caption of a split's scenes, both media, in an order in which no kind comes first: 18 a scene."""
    found = [image_caption(*words) for words in product(scenes(split), PLACES, EXTENTS)]
    found += [clip_caption(*words) for words in product(scenes(split), MOTIONS)]
    return sorted(found, key=digest)


# --- items -----------------------------------------------------------------------------------------------------------


def image_item(
    scene: Scene, place: str, extent: str, rng: np.random.Generator, key: str, size: int = WIDTH
) -> WorldItem:
    frames = render_image(scene, place, extent, rng, size)
    return WorldItem(frames, image_caption(scene, place, extent), scene.shape, scene, None, key)


def clip_item(
    scene: Scene, motion: str, rng: np.random.Generator, key: str, num_frames: int = 4, size: int = WIDTH
) -> WorldItem:
    frames = render_clip(scene, motion, rng, num_frames, size)
    return WorldItem(frames, clip_caption(scene, motion), motion, scene, motion, key)


def train_item(
    split: str,
    medium: str,
    index: int,
    rng: np.random.Generator,
    *,
    num_frames: int = 4,
    size: int = WIDTH,
    group_size: int = 1,
) -> WorldItem:
    """One item of the endless stream. What a picture shows is drawn from `rng`; a clip's scene and motion follow from
    `index`, and `rng` gives the rest: the clips of a block of `group_size` indices share the scene and differ in motion
    (up to 8 of them). Raises ValueError for another split or medium.
    """
    key = f"world/{split}/{check_medium(medium)}/{index}"
    if medium == "image":
        scene, place, extent = pick(scenes(split), rng), pick(tuple(PLACES), rng), pick(tuple(EXTENTS), rng)
        return image_item(scene, place, extent, rng, key, size)
    block, inside = divmod(index, group_size)
    shared = generator("block", split, block)
    scene, motions = pick(scenes(split), shared), shared.permutation(MOTIONS)
    return clip_item(scene, str(motions[inside % len(MOTIONS)]), rng, key, num_frames, size)


def train_text(split: str, index: int, rng: np.random.Generator) -> str:
    """A caption without its picture or clip: of pictures at even indices, of clips at odd ones."""
    scene = pick(scenes(split), rng)
    if index % 2 == 0:
        return image_caption(scene, pick(tuple(PLACES), rng), pick(tuple(EXTENTS), rng))
    return clip_caption(scene, pick(MOTIONS, rng))


def gallery(
    split: str, medium: str, num_items: int, seed: int, *, num_frames: int = 4, size: int = WIDTH
) -> list[WorldItem]:
    """Evaluation items, the same for the same arguments; a smaller gallery is the start of a larger one.

    Captions are distinct as long as the split has enough: 480 of pictures and 384 of clips in validation and test.
    Larger galleries show the same captions again in other poses. Raises ValueError for another split or medium.
    """
    keys = (f"world/{split}/{check_medium(medium)}/{seed}/{i}" for i in range(num_items))
    if medium == "image":
        pictures = shuffled(tuple(product(scenes(split), PLACES, EXTENTS)), "gallery", split, medium, seed)
        return [
            image_item(*words, generator(key), key, size)
            for words, key in zip(islice(pictures, num_items), keys, strict=True)
        ]
    clips = shuffled(tuple(product(scenes(split), MOTIONS)), "gallery", split, medium, seed)
    return [
        clip_item(*words, generator(key), key, num_frames, size)
        for words, key in zip(islice(clips, num_items), keys, strict=True)
    ]


def siblings(
    split: str, num_scenes: int, seed: int, *, num_frames: int = 4, size: int = WIDTH
) -> list[list[WorldItem]]:
    """`num_scenes` groups of one scene in all 8 motions about one middle pose. Scenes recur, in other poses, when all
    of the split's have been shown."""
    keys = [f"world/{split}/siblings/{seed}/{i}" for i in range(num_scenes)]
    drawn = shuffled(scenes(split), "siblings", split, seed)
    return [
        [clip_item(scene, motion, generator(key), f"{key}/{motion}", num_frames, size) for motion in MOTIONS]
        for scene, key in zip(islice(drawn, num_scenes), keys, strict=True)
    ]


def reverse_pairs(split: str, num_clips: int, seed: int, *, num_frames: int = 4, size: int = WIDTH) -> list[WorldItem]:
    """Clips that move left, right, up and down in turn; `frames[::-1]` of each is a clip of its reverse."""
    keys = [f"world/{split}/reverse/{seed}/{i}" for i in range(num_clips)]
    drawn = shuffled(scenes(split), "reverse", split, seed)
    pairs = ((scene, motion) for scene in drawn for motion in ORDER_MOTIONS)
    return [
        clip_item(*words, generator(key), key, num_frames, size)
        for words, key in zip(islice(pairs, num_clips), keys, strict=True)
    ]


# --- chance ----------------------------------------------------------------------------------------------------------


def digest(*words: object) -> bytes:
    return hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()


def generator(*words: object) -> np.random.Generator:
    """A generator of its own for whatever the words name."""
    return np.random.default_rng(int.from_bytes(digest(*words), "big"))


def pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.integers(len(choices)))]


def shuffled(choices: Sequence[Choice], *words: object) -> Iterator[Choice]:
    """Endlessly: all of them in a random order that the words name, then all again in another one."""
    rng = generator(*words)
    while True:
        yield from (choices[i] for i in rng.permutation(len(choices)))


def check_medium(medium: str) -> str:
    if medium not in LENGTHS:
        raise ValueError(f"the world has no {medium!r}: the medium is image or video")
    return medium
