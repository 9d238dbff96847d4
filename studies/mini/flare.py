"""FLARE's figures as short clips: people in five outfits with ten weapons, and creatures, each action in eight ways.

The game keeps a sheet of sprites for each layer and a text that says where each frame of each action lies, seen from
eight directions. People are put together from layers in the order that the game uses; a creature is one layer. Frames
are those of the definition, played once, each as long as the game shows it, on a plain grey ground. Actions that a
figure draws exactly alike (an ant strikes, shoots and casts with the same frames) are told apart by nobody, so only the
first of them is kept. This room knows no split.
"""

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from studies.mini.packages import deb_files

MODS = "usr/share/games/flare/mods/"
LAYER_ORDER = f"{MODS}fantasycore/engine/hero_layers.txt"
GROUND = (128, 128, 128)  # light skeletons and dark goblins are both seen on it
DIRECTIONS = 8
MARGIN = 1.25  # side of the picture over the longer side of what a figure fills
# The game's name of an action -> (label, what the caption says). Left out: what only some creatures have (spawn,
# critical death). Of actions drawn alike the first here is kept.
ACTIONS = {
    "stance": ("standing", "stands"),
    "run": ("running", "runs"),
    "swing": ("striking", "strikes"),
    "cast": ("casting a spell", "casts a spell"),
    "shoot": ("shooting", "shoots"),
    "hit": ("being hit", "is hit"),
    "block": ("blocking", "blocks"),
    "die": ("dying", "dies"),
}
# file of the definition -> (species, noun). Left out: the same drawing in another size (antlion_small, wyvern_adult),
# and what a colour filter makes of another one.
CREATURES = {
    "fantasycore/animations/enemies/antlion.txt": ("ant", "an antlion"),
    "fantasycore/animations/enemies/fire_ant.txt": ("ant", "a fire ant"),
    "fantasycore/animations/enemies/ice_ant.txt": ("ant", "an ice ant"),
    "fantasycore/animations/enemies/goblin.txt": ("goblin", "a goblin"),
    "fantasycore/animations/enemies/goblin_elite.txt": ("goblin", "an elite goblin"),
    "empyrean_campaign/animations/enemies/hobgoblin.txt": ("goblin", "a hobgoblin"),
    "empyrean_campaign/animations/enemies/hobgoblin_archer.txt": ("goblin", "a hobgoblin archer"),
    "fantasycore/animations/enemies/zombie.txt": ("zombie", "a zombie"),
    "empyrean_campaign/animations/enemies/zombie_dark.txt": ("zombie", "a dark zombie"),
    "fantasycore/animations/enemies/skeleton.txt": ("skeleton", "a skeleton"),
    "fantasycore/animations/enemies/skeleton_archer.txt": ("skeleton", "a skeleton archer"),
    "fantasycore/animations/enemies/skeleton_mage.txt": ("skeleton", "a skeleton mage"),
    "fantasycore/animations/enemies/skeleton_weak.txt": ("skeleton", "a weak skeleton"),
    "empyrean_campaign/animations/enemies/skeleton_knight_boss.txt": ("skeleton", "a skeleton knight"),
    "empyrean_campaign/animations/enemies/skeleton_mage_boss.txt": ("skeleton", "a skeleton lord"),
    "fantasycore/animations/enemies/minotaur.txt": ("minotaur", "a minotaur"),
    "fantasycore/animations/enemies/wyvern.txt": ("wyvern", "a wyvern"),
    "fantasycore/animations/enemies/wyvern_air.txt": ("wyvern", "an air wyvern"),
    "fantasycore/animations/enemies/wyvern_fire.txt": ("wyvern", "a fire wyvern"),
    "fantasycore/animations/enemies/wyvern_water.txt": ("wyvern", "a water wyvern"),
}
PEOPLE = {"male": "a man", "female": "a woman"}
HEADS = {"male": "head_short", "female": "head_long"}
AVATAR = "fantasycore/animations/avatar/"
# outfit -> layer -> sheet. Heads stay bare, so that a man and a woman can be told apart.
OUTFITS = {
    "plain clothes": {"feet": "cloth_sandals", "legs": "cloth_pants", "hands": "cloth_gloves", "chest": "cloth_shirt"},
    "leather armour": {
        "feet": "leather_boots",
        "legs": "leather_pants",
        "hands": "leather_gloves",
        "chest": "leather_chest",
    },
    "chain mail": {"feet": "chain_boots", "legs": "chain_greaves", "hands": "chain_gloves", "chest": "chain_cuirass"},
    "plate armour": {
        "feet": "plate_boots",
        "legs": "plate_greaves",
        "hands": "plate_gauntlets",
        "chest": "plate_cuirass",
    },
    "a mage's robe": {"feet": "mage_boots", "legs": "mage_skirt", "hands": "mage_sleeves", "chest": "mage_vest"},
}
WEAPONS = {
    "dagger": "a dagger",
    "shortsword": "a short sword",
    "greatsword": "a great sword",
    "mace": "a mace",
    "battle_axe": "a battle axe",
    "staff": "a staff",
    "wand": "a wand",
    "longbow": "a longbow",
    "shortbow": "a short bow",
    "slingshot": "a slingshot",
}


@dataclass(frozen=True)
class Frame:
    """Where a sprite lies in its sheet, and where its figure stands in it; pixels."""

    x: int
    y: int
    width: int
    height: int
    offset_x: int
    offset_y: int


@dataclass
class Action:
    """One action of one layer."""

    duration: int = 0  # milliseconds of the whole
    num_frames: int = 0
    frames: dict[tuple[int, int], Frame] = field(default_factory=dict)  # (number, direction) -> where


@dataclass
class Layer:
    """A sheet of sprites and what lies where in it."""

    sheet: Image.Image  # RGBA
    actions: dict[str, Action]


@dataclass(frozen=True)
class Figure:
    """Somebody who acts: layers by the name that the drawing order calls them."""

    key: str  # names its files and rows
    species: str
    noun: str
    layers: Mapping[str, Layer]
    weapon: str = ""  # of people


@dataclass(frozen=True)
class Clip:
    """One action of one figure in one direction."""

    figure: Figure
    action: str
    direction: int
    frames: list[Image.Image]  # (size, size) RGB
    durations: list[int]  # milliseconds

    @property
    def caption(self) -> str:
        return f"{self.figure.noun} {ACTIONS[self.action][1]}"

    @property
    def label(self) -> str:
        return ACTIONS[self.action][0]


def parse_animation(text: str) -> tuple[str, dict[str, Action]]:
    """(path of the sheet inside its mod, actions) of a definition: `key=value` lines under `[action]` headings."""
    sheet, actions = "", {}
    action = Action()
    for line in map(str.strip, text.splitlines()):
        key, _, value = line.partition("=")
        if line.startswith("["):
            action = actions[line.strip("[]")] = Action()
        elif key == "image":
            sheet = value
        elif key == "frames":
            action.num_frames = int(value)
        elif key == "duration":
            action.duration = int(value.removesuffix("ms"))
        elif key == "frame":
            number, direction, *where = map(int, value.split(","))
            action.frames[number, direction] = Frame(*where)
    return sheet, actions


def parse_order(text: str) -> dict[int, list[str]]:
    """direction -> names of a person's layers, the farthest first: lines `layer=0,main,feet,...`."""
    rows = [line.partition("=")[2].split(",") for line in text.splitlines() if line.startswith("layer=")]
    return {int(direction): names for direction, *names in rows}


def read_package(archive: Path) -> dict[str, bytes]:
    """The package's definitions and sheets of figures, by path below the mods' folder."""
    folders = ("animations/enemies/", "images/enemies/", "animations/avatar/", "images/avatar/")
    wanted = tuple(f"{MODS}{mod}/{folder}" for mod in ("fantasycore", "empyrean_campaign") for folder in folders)
    files = deb_files(archive, lambda name: name.startswith(wanted) or name == LAYER_ORDER)
    return {name.removeprefix(MODS): content for name, content in files}


def figures(files: Mapping[str, bytes]) -> Iterator[Figure]:
    """Everybody, creatures first."""
    layers: dict[str, Layer] = {}

    def layer(path: str) -> Layer:
        if path not in layers:
            sheet, actions = parse_animation(files[path].decode())
            image = Image.open(io.BytesIO(files[f"{path.partition('/')[0]}/{sheet}"])).convert("RGBA")
            layers[path] = Layer(image, actions)
        return layers[path]

    for path, (species, noun) in CREATURES.items():
        yield Figure(Path(path).stem, species, noun, {"body": layer(path)})
    for sex, (outfit, sheets), (weapon, with_weapon) in itertools.product(PEOPLE, OUTFITS.items(), WEAPONS.items()):
        worn = {name: layer(f"{AVATAR}{sex}/{sheet}.txt") for name, sheet in sheets.items()}
        worn |= {"head": layer(f"{AVATAR}{sex}/{HEADS[sex]}.txt"), "main": layer(f"{AVATAR}{sex}/{weapon}.txt")}
        key = f"{sex}-{sheets['chest'].partition('_')[0]}-{weapon}"
        noun = f"{PEOPLE[sex]} in {outfit} with {with_weapon}"
        yield Figure(key, "person", noun, worn, weapon=with_weapon.removeprefix("a "))


def clips(figure: Figure, order: Mapping[int, list[str]], size: int) -> Iterator[Clip]:
    """Every action that all layers of the figure have, in every direction, each sequence of pictures once."""
    left, top, side = canvas(figure)
    shared = [action for action in ACTIONS if all(action in layer.actions for layer in figure.layers.values())]
    for direction in range(DIRECTIONS):
        seen = set()
        for action in shared:
            body = next(iter(figure.layers.values())).actions[action]
            frames = []
            for number in range(body.num_frames):
                picture = Image.new("RGBA", (side, side), GROUND)
                for name in order[direction] if len(figure.layers) > 1 else figure.layers:
                    if name in figure.layers:
                        paint(picture, figure.layers[name], action, number, direction, left, top)
                frames.append(picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
            sequence = tuple(frame.tobytes() for frame in frames)
            if sequence not in seen:
                seen.add(sequence)
                yield Clip(figure, action, direction, frames, spread(body.duration, body.num_frames))


def paint(picture: Image.Image, layer: Layer, action: str, number: int, direction: int, left: int, top: int) -> None:
    """Lay one sprite on the picture whose corner is (left, top) seen from where the figure stands."""
    frame = layer.actions[action].frames.get((number, direction))
    if frame is None:  # a weapon that a falling body hides
        return
    sprite = layer.sheet.crop((frame.x, frame.y, frame.x + frame.width, frame.y + frame.height))
    whole = Image.new("RGBA", picture.size)  # `paste` cuts at the edges, `alpha_composite` would refuse
    whole.paste(sprite, (-frame.offset_x - left, -frame.offset_y - top))
    picture.alpha_composite(whole)


def canvas(figure: Figure) -> tuple[int, int, int]:
    """(left, top, side) in sprite pixels of the square that is shown, seen from where the figure stands.

    One for all clips of a figure, so that size and place say nothing of the action: the box of all but the outermost
    hundredth of what it ever paints on each side, weapons in layers of their own aside, and a margin. So creatures of
    every size fill the picture alike, and a long weapon may reach over the edge.
    """
    columns, rows = [], []
    for layer in (layer for name, layer in figure.layers.items() if name != "main"):
        alpha = np.asarray(layer.sheet)[:, :, 3]
        drawn = [layer.actions[action] for action in ACTIONS if action in layer.actions]
        for frame in itertools.chain.from_iterable(action.frames.values() for action in drawn):
            painted = alpha[frame.y : frame.y + frame.height, frame.x : frame.x + frame.width].nonzero()
            rows.append(painted[0] - frame.offset_y)
            columns.append(painted[1] - frame.offset_x)
    (left, right), (top, bottom) = (np.quantile(np.concatenate(where), (0.01, 0.99)) for where in (columns, rows))
    side = round(MARGIN * max(right - left, bottom - top))
    return round((left + right - side) / 2), round((top + bottom - side) / 2), side


def spread(duration: int, num_frames: int) -> list[int]:
    """Whole milliseconds of each frame whose sum is the duration: (133, 2) -> [66, 67]."""
    ends = [duration * (number + 1) // num_frames for number in range(num_frames)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]
