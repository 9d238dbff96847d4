"""The words that stand around a name: one table of templates that turn a label into a text, and what a caption starts
with.

Label data takes part in the contrastive loss with a prompt filled with the class name (paper, section 3.2, where CLIP's
and ActionCLIP's habit is followed); the templates below are ours. `{}` is the name; an "a" right before it becomes
"an" where the name asks for it. This room knows no labels and no tokenizer.
"""

import numpy as np

# What a caption starts with; its tokens are left out of the loss and stripped from what is generated.
CAPTION_PROMPTS: dict[str, str] = {"image": "a picture of ", "video": "a video of "}

LABEL_PROMPTS: dict[str, tuple[str, ...]] = {
    "image": (
        "a photo of a {}.",
        "a picture of the {}.",
        "an image of a {}.",
        "a drawing of a {}.",
        "a close view of a {}.",
        "a small picture of a {}.",
        "a bright photo of a {}.",
        "a plain photo of a {}.",
        "this is a {}.",
        "there is a {} here.",
        "one can see a {}.",
        "{}",
    ),
    "video": (
        "a video of {}.",
        "a clip of {}.",
        "a short film of {}.",
        "a recording of {}.",
        "footage of {}.",
        "someone is {}.",
        "somebody is seen {}.",
        "this video shows {}.",
        "the action is {}.",
        "what happens here is {}.",
        "watch: {}.",
        "{}",
    ),
}

# Spelled with a vowel but spoken with a consonant, and the other way round.
SPOKEN_CONSONANT = ("eu", "one", "ubi", "uku", "uni", "ura", "use", "usu", "ute", "uti", "uto")
SPOKEN_VOWEL = ("hour", "heir", "honest", "honor", "honour")
UN_WORDS = ("unid", "unim", "unin")  # unidentified, unimportant, uninhabited: "un-", spoken with a vowel


def label_prompts(medium: str) -> tuple[str, ...]:
    """The templates for labels of images or of videos. Raises ValueError for another medium."""
    if medium not in LABEL_PROMPTS:
        raise ValueError(f"there are no label prompts for {medium!r}: the medium is image or video")
    return LABEL_PROMPTS[medium]


def fill(template: str, name: str) -> str:
    """The template with the name in it, underscores read as spaces: ("a photo of a {}.", "ice_cream") -> "... an ice
    cream.".

    Raises ValueError for a template without {}.
    """
    before, place, after = template.partition("{}")
    if not place:
        raise ValueError(f"the template {template!r} has no place for the name: write {{}} where it belongs")
    name = " ".join(name.replace("_", " ").split())
    if before.endswith(" a ") and starts_with_vowel(name):
        before = f"{before[:-1]}n "
    return f"{before}{name}{after}"


def starts_with_vowel(name: str) -> bool:
    """Whether English puts "an" before the name: by its spelling, with the common exceptions."""
    lower = name.lower()
    if lower.startswith(SPOKEN_CONSONANT) and not lower.startswith(UN_WORDS):
        return False
    return lower.startswith(("a", "e", "i", "o", "u", *SPOKEN_VOWEL))


def draw_prompt(name: str, medium: str, rng: np.random.Generator, templates: tuple[str, ...] = ()) -> str:
    """One text for a label, from a template that the generator draws: one of `templates`, or of the table where
    none."""
    templates = templates or label_prompts(medium)
    return fill(templates[int(rng.integers(len(templates)))], name)
