"""Who goes into which split of the mini benchmark: emoji by concept and by hand, FLARE figures by species.

Splits of ours, not of the paper. A concept is what is left of a drawing's name without gender, age and skin tone, so
that "man farmer" never stands in training while "woman farmer" is asked about. Pure functions of names; no file is
opened.
"""

import hashlib
import re

# Names whose words do not show that they are one thing in several genders.
SAME_CONCEPT = {
    "prince": "royalty",
    "princess": "royalty",
    "person with crown": "royalty",
    "santa claus": "claus",
    "mrs. claus": "claus",
    "mx claus": "claus",
    "merman": "merperson",
    "mermaid": "merperson",
    "older person": "old",
}
SKIN_TONE = re.compile(r"\b(light|medium-light|medium|medium-dark|dark) skin tone\b")
# "and" joins two of them ("woman and man holding hands"); the mirrored drawing of a person is the same concept too.
PERSON = re.compile(r"\b(man|men|woman|women|person|people|boy|boys|girl|girls|adult|child|and)\b(?:['\u2019]s\b)?")
MIRRORED = re.compile(r"\bfacing right\b")

TRAIN_HANDS = ("google", "twitter", "fluent")
UNSEEN_HAND = "openmoji"
UNSEEN_CONCEPTS, VALIDATION = 0.1, 0.1  # shares of the concepts

SPECIES_SPLIT = {
    "person": "train",
    "ant": "train",
    "goblin": "train",
    "zombie": "validation",
    "skeleton": "test",
    "minotaur": "test",
    "wyvern": "test",
}


def concept_key(name: str) -> str:
    """The concept of a drawing's name: "woman farmer: dark skin tone" -> "farmer"; people of no trade -> "person"."""
    plain = SKIN_TONE.sub(" ", name.lower())
    plain = " ".join(re.sub(r"[:,]", " ", plain).split())
    bare = MIRRORED.sub(" ", PERSON.sub(" ", SAME_CONCEPT.get(plain, plain)))
    return " ".join(bare.split()) or "person"


def concept_split(name: str) -> str:
    """train, validation or unseen_concepts: by the hash of the concept, so it never depends on what else there is."""
    digest = hashlib.blake2b(concept_key(name).encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < UNSEEN_CONCEPTS:
        return "unseen_concepts"
    return "validation" if place < UNSEEN_CONCEPTS + VALIDATION else "train"


def emoji_split(name: str, hand: str) -> str | None:
    """The split of one drawing. The unseen hand draws training concepts only; its others belong nowhere: None."""
    split = concept_split(name)
    if hand != UNSEEN_HAND:
        return split
    return "unseen_hand" if split == "train" else None
