"""Questions about the mini benchmark's items, answered by what their packages state of them; no picture is looked at.

Drawings: their group, and the colour that their name begins with. Clips: the action, the kind of figure, the direction
it faces, and the weapon of a person. This room knows no split.
"""

from studies.mini.emoji import Name
from studies.mini.flare import Clip

COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "purple", "red", "white", "yellow")
# by the game's own numbers, as seen on the screen: its maps' north, which is number 3, points up and to the right
FACING = ("left", "up left", "up", "up right", "right", "down right", "down", "down left")


def about_drawing(name: Name) -> list[tuple[str, str]]:
    """(question, answer) pairs."""
    asked = [("what group of things does it belong to?", name.group)]
    colour, _, thing = name.name.partition(" ")
    if thing and colour in COLOURS:
        asked.append(("what colour is it?", colour))
    return asked


def about_clip(clip: Clip) -> list[tuple[str, str]]:
    """(question, answer) pairs."""
    asked = [
        ("what is the figure doing?", clip.label),
        ("what kind of figure is it?", clip.figure.species),
        ("which way does the figure face?", FACING[clip.direction]),
    ]
    if clip.figure.weapon:
        asked.append(("which weapon does the figure have?", clip.figure.weapon))
    return asked
