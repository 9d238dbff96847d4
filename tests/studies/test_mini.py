"""The mini benchmark's rules on tiny packages made here: who goes where, what manifests say, how fetching fails."""

import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from omnivl.data.annotations import read_manifest
from studies.mini import build, emoji, flare, packages, questions, splits
from studies.mini.sheet import read_rows

# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("farmer", "man farmer", "woman farmer", "woman farmer: medium-dark skin tone", "farmer: light skin tone"),
        ("family", "family man, woman, girl, boy", "family adult, child", "family: man, man, boy"),
        ("kiss", "kiss woman, man", "kiss: man, man"),
        ("woman and man holding hands", "men holding hands", "people holding hands"),
        ("men’s room", "women's room"),
        ("prince", "princess", "person with crown"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("person running", "woman running facing right"),
        ("man", "woman", "boy", "girl", "child", "person", "man: dark skin tone"),
        ("old man", "old woman", "older person"),
        ("merman", "mermaid", "merperson"),
    ],
)
def test_gender_age_and_skin_tone_do_not_make_another_concept(names: tuple[str, ...]) -> None:
    assert len({splits.concept_key(name) for name in names}) == 1
    assert len({splits.concept_split(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("farmer", "cook"),
        ("red heart", "green heart"),
        ("mango", "go"),
        ("woman’s hat", "man’s shoe"),
        ("crown", "prince"),
    ],
)
def test_other_things_are_other_concepts(one: str, other: str) -> None:
    assert splits.concept_key(one) != splits.concept_key(other)


def test_concept_splits_have_about_their_shares_and_the_unseen_hand_draws_training_concepts_alone() -> None:
    names = [f"thing {number}" for number in range(2000)]
    found = [splits.concept_split(name) for name in names]
    assert set(found) == {"train", "validation", "unseen_concepts"}
    assert found.count("validation") / 2000 == pytest.approx(splits.VALIDATION, abs=0.03)
    assert found.count("unseen_concepts") / 2000 == pytest.approx(splits.UNSEEN_CONCEPTS, abs=0.03)
    for name, split in zip(names, found, strict=True):
        assert {splits.emoji_split(name, hand) for hand in splits.TRAIN_HANDS} == {split}
        assert splits.emoji_split(name, splits.UNSEEN_HAND) == ("unseen_hand" if split == "train" else None)


def test_every_hand_and_every_species_has_one_place() -> None:
    assert set(emoji.HANDS) == {*splits.TRAIN_HANDS, splits.UNSEEN_HAND}
    assert {species for species, _ in flare.CREATURES.values()} | {"person"} == set(splits.SPECIES_SPLIT)
    nouns = [noun for _, noun in flare.CREATURES.values()]
    assert len(set(nouns)) == len(nouns)
    assert set(splits.SPECIES_SPLIT.values()) == {"train", "validation", "test"}


# --- a tiny emoji package tree ---------------------------------------------------------------------------------------

NAMES = {
    "😀": "grinning face",
    "👩‍🌾": "woman farmer",
    "👨‍🌾": "man farmer",
    "❤️": "red heart",
    "🍋": "lemon",
    "🏁": "flag X",
    "🏴": "flag Y",
}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """An npm archive."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture(colour: tuple[int, ...], form: str, size: int = 20) -> bytes:
    """A square of this colour in the middle of nothing."""
    image = Image.new("RGBA", (size, size))
    image.paste(colour, (5, 5, size - 5, size - 5))
    file = io.BytesIO()
    image.save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


@pytest.fixture
def emoji_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """All five packages; OpenMoji's drawings as PNG, since rendering SVG needs a package that tests do without."""
    monkeypatch.setitem(emoji.HANDS, "openmoji", ("openmoji", "color/svg/", ".png"))
    listed = {
        char: {"name": name, "group": "Flags" if "flag" in name else "Objects", "emoji_version": str(2.0 + number)}
        for number, (char, name) in enumerate(NAMES.items())
    }
    made = {emoji.NAMES: archive(tmp_path / "names.tgz", {"data-by-emoji.json": json.dumps(listed).encode()})}
    for hand, (package, folder, extension) in emoji.HANDS.items():
        files = {"sheet.png": b"not read", f"{folder}1f44d-1f3ff{extension}": b"a skin tone, not read"}
        for number, char in enumerate(NAMES):
            shade = 5 if NAMES[char].startswith("flag") else number  # two flags drawn alike
            code = "-".join(f"{ord(point):04x}" for point in char)
            spelled = code.upper() if hand == "openmoji" else code
            content = picture((40 * shade, 100, 0, 255), "WEBP" if extension == ".webp" else "PNG")
            files[f"{folder}{spelled}{extension}"] = content
        made[package] = archive(tmp_path / f"{hand}.tgz", files)
    return made


def test_emoji_manifests_hold_every_distinct_drawing_once_in_its_split(
    emoji_archives: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifests, counts = build.emoji_part(emoji_archives, out, 16)
    held = build.write_manifests(manifests, out)
    concepts: dict[str, set[str]] = {}
    found = set()
    for name in held:
        for item in read_manifest(out / f"{name}.jsonl", None, "").items:
            [caption] = item.captions
            hand = item.id.partition("/")[0]
            assert name == f"emoji_{splits.emoji_split(caption, hand)}"
            assert item.label == ("flag" if "flag" in caption else "object")
            with Image.open(item.media) as image:
                assert (image.size, image.mode) == ((16, 16), "RGB")
                assert image.getpixel((0, 0)) == (255, 255, 255)
            found.add((hand, caption))
            if hand != splits.UNSEEN_HAND:
                concepts.setdefault(splits.concept_key(caption), set()).add(name)
    assert all(len(names) == 1 for names in concepts.values())
    distinct = set(NAMES.values()) - {"flag Y"}  # looks like the older "flag X"
    wanted = {(hand, name) for hand in emoji.HANDS for name in distinct if splits.emoji_split(name, hand)}
    assert found == wanted
    assert counts["google"] == {"names": len(NAMES), "distinct_drawings": len(distinct)}


def test_further_hands_draw_training_concepts_from_icon_sets(
    emoji_archives: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opener(_: str, size: int) -> Callable[[bytes], Image.Image]:
        return lambda svg: Image.new("RGB", (size, size), re.findall(rb">(\w+)</svg>", svg)[0].decode())

    monkeypatch.setattr(emoji, "opener", opener)
    monkeypatch.setattr(build, "concept_split", lambda name: "test" if name == "lemon" else "train")
    bodies = {"red-heart": "red", "lemon": "yellow", "farmer-woman": "green", "flag-for-x": "blue", "unknown": "pink"}
    icons = {
        "icons": {name: {"body": body} for name, body in bodies.items()},
        "aliases": {"woman-farmer": {"parent": "farmer-woman"}, "tone": {"parent": "woman-farmer-dark"}},
        "width": 64, "height": 64,
    }  # fmt: skip
    for hand, package in emoji.MORE_HANDS.items():
        emoji_archives[package] = archive(tmp_path / f"{hand}.tgz", {"icons.json": json.dumps(icons).encode()})
    told = [{"hexcode": "1F34B", "tags": ["sour"]}, {"hexcode": "2764", "tags": ["love", "red"]}, {"hexcode": "1F600"}]
    emoji_archives[emoji.WORDS] = archive(tmp_path / "words.tgz", {"en/data.json": json.dumps(told).encode()})
    out = tmp_path / "out"
    out.mkdir()
    manifests, counts = build.more_part(emoji_archives, out, 16)
    found = {(row["id"].partition("/")[0], row["caption"]): row for row in manifests["emoji_more_train"] if "id" in row}
    assert set(manifests) == {"emoji_more_train"}
    assert set(found) == {(h, c) for h in emoji.MORE_HANDS for c in ("red heart", "woman farmer", "flag X")}
    with Image.open(out / found["emojione", "woman farmer"]["media"]) as image:
        assert (image.size, image.getpixel((3, 3))) == ((16, 16), (0, 128, 0))
    assert json.loads((out / "emoji_words.json").read_text(encoding="utf-8")) == {"red heart": ["love", "red"]}
    assert counts["noto-v1"]["distinct_drawings"] == 3
    assert emoji.icon_names("woman\u2019s hat") == emoji.icon_names("woman's hat") == ("womans-hat",)
    assert "flag-for-sao-tome-principe" in emoji.icon_names("flag São Tomé & Príncipe")


def test_label_manifests_have_the_same_media_without_captions(emoji_archives: dict[str, Path], tmp_path: Path) -> None:
    manifests, _ = build.emoji_part(emoji_archives, tmp_path, 16)
    for name in build.write_manifests(manifests, tmp_path):
        told = read_manifest(tmp_path / f"{name}.jsonl", None, "").items
        labelled = read_manifest(tmp_path / f"{name}_labels.jsonl", None, "").items
        assert all(item.captions for item in told)
        assert [dataclasses.replace(item, captions=(), questions=()) for item in told] == labelled


def test_a_second_build_keeps_the_media_that_are_there(emoji_archives: dict[str, Path], tmp_path: Path) -> None:
    first, _ = build.emoji_part(emoji_archives, tmp_path, 16)
    kept, *others = sorted((tmp_path / "emoji-16").rglob("*.png"))
    kept.write_bytes(b"mine")
    others[0].unlink()
    second, _ = build.emoji_part(emoji_archives, tmp_path, 16)
    assert kept.read_bytes() == b"mine"
    assert others[0].exists()
    assert first == second
    assert not list(tmp_path.rglob("*.part"))


# --- a tiny FLARE ----------------------------------------------------------------------------------------------------

# action -> (frames, milliseconds, first column of the sheet): "swing" and "cast" are the same pictures
DRAWN = {"stance": (4, 533, 0), "run": (8, 800, 1), "swing": (2, 133, 3), "cast": (2, 133, 3), "spawn": (2, 100, 5)}
CELL = 12


def definition(sheet: str, actions: dict[str, tuple[int, int, int]]) -> bytes:
    lines = [f"image={sheet}"]
    for action, (frames, duration, column) in actions.items():
        lines += ["", f"[{action}]", f"frames={frames}", f"duration={duration}ms", "type=play_once"]
        for number in range(frames):
            for direction in range(flare.DIRECTIONS):
                x, y = CELL * (column + number), CELL * direction
                lines.append(f"frame={number},{direction},{x},{y},{CELL},{CELL},{CELL // 2},{CELL}")
    return "\n".join(lines).encode()


def sheet(red: int) -> bytes:
    """Cells of different colours; red is the layer's own."""
    image = Image.new("RGBA", (CELL * 12, CELL * flare.DIRECTIONS))
    for column in range(12):
        for row in range(flare.DIRECTIONS):
            corner = (CELL * column, CELL * row)
            image.paste((red, 20 * column, 30 * row, 255), (*corner, corner[0] + CELL, corner[1] + CELL))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two creatures, and a man in plain clothes with a dagger, in place of the package."""
    goblin, skeleton = (f"fantasycore/animations/enemies/{name}.txt" for name in ("goblin", "skeleton"))
    monkeypatch.setattr(flare, "CREATURES", {path: flare.CREATURES[path] for path in (goblin, skeleton)})
    monkeypatch.setattr(flare, "PEOPLE", {"male": "a man"})
    monkeypatch.setattr(flare, "OUTFITS", {"plain clothes": {"chest": "cloth_shirt"}})
    monkeypatch.setattr(flare, "WEAPONS", {"dagger": "a dagger"})
    files = {
        flare.LAYER_ORDER: b"# farthest first\nlayer=0,main,chest,head\n"
        + b"".join(b"layer=%d,chest,head,main\n" % d for d in range(1, 8))
    }
    for path, red in ((goblin, 10), (skeleton, 20)):
        files[flare.MODS + path] = definition(f"images/enemies/{Path(path).stem}.png", DRAWN)
        files[f"{flare.MODS}fantasycore/images/enemies/{Path(path).stem}.png"] = sheet(red)
    for name, red, actions in (
        ("cloth_shirt", 30, DRAWN),
        ("head_short", 40, DRAWN),
        ("dagger", 200, {action: drawn for action, drawn in DRAWN.items() if action != "run"}),
    ):
        files[f"{flare.MODS}{flare.AVATAR}male/{name}.txt"] = definition(f"images/avatar/male/{name}.png", actions)
        files[f"{flare.MODS}fantasycore/images/avatar/male/{name}.png"] = sheet(red)

    def deb_files(_: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        yield from ((name, content) for name, content in files.items() if wanted(name))

    monkeypatch.setattr(flare, "deb_files", deb_files)


@pytest.mark.usefixtures("game")
def test_flare_manifests_hold_each_clip_once_in_its_species_split(tmp_path: Path) -> None:
    manifests, counts = build.flare_part(tmp_path / "none.deb", tmp_path, 16)
    build.write_manifests(manifests, tmp_path)
    told = {split: read_manifest(tmp_path / f"flare_{split}.jsonl", None, "").items for split in ("train", "test")}
    captions = {split: {item.captions[0]: item.label for item in items} for split, items in told.items()}
    # "cast" is drawn like "swing" and the dagger has no "run": neither is there
    assert captions["train"] == {
        "a goblin stands": "standing",
        "a goblin runs": "running",
        "a goblin strikes": "striking",
        "a man in plain clothes with a dagger stands": "standing",
        "a man in plain clothes with a dagger strikes": "striking",
    }
    assert captions["test"] == {
        "a skeleton stands": "standing",
        "a skeleton runs": "running",
        "a skeleton strikes": "striking",
    }
    assert counts == {"goblin": 24, "person": 16, "skeleton": 24}
    assert len(told["train"]) == 40
    assert not (tmp_path / "flare_validation.jsonl").exists()


@pytest.mark.usefixtures("game")
def test_clips_keep_their_frames_and_their_duration(tmp_path: Path) -> None:
    build.flare_part(tmp_path / "none.deb", tmp_path, 16)
    clips = sorted((tmp_path / "flare-16" / "goblin").glob("*.webp"))
    assert len(clips) == 24
    for path in clips:
        frames, duration, _ = DRAWN[path.stem.partition("-")[0]]
        with Image.open(path) as clip:
            times = [frame.copy().info["duration"] for frame in ImageSequence.Iterator(clip)]  # known once decoded
        assert (len(times), sum(times)) == (frames, duration)
        assert max(times) - min(times) <= 1


@pytest.mark.usefixtures("game")
def test_layers_lie_over_each_other_in_the_order_of_the_direction(tmp_path: Path) -> None:
    files = flare.read_package(tmp_path / "none.deb")
    order = flare.parse_order(files[flare.LAYER_ORDER.removeprefix(flare.MODS)].decode())
    [person] = [figure for figure in flare.figures(files) if figure.species == "person"]
    for clip in flare.clips(person, order, 16):
        red = clip.frames[0].getpixel((8, 8))
        assert isinstance(red, tuple)
        assert red[0] == (40 if clip.direction == 0 else 200)  # the head over the dagger, else the dagger over all
        corner = clip.frames[0].getpixel((0, 0))
        assert corner == flare.GROUND


# --- questions and shards --------------------------------------------------------------------------------------------


def asked(path: Path) -> dict[str, dict[str, str]]:
    """media -> question -> answer of a manifest, each question once."""
    found: dict[str, dict[str, str]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        if "question" in row:
            assert set(row) == {"media", "question", "answer"}
            own = found.setdefault(row["media"], {})
            assert own.setdefault(row["question"], row["answer"]) == row["answer"]
    return found


def test_questions_of_drawings_are_answered_by_their_names_and_groups(
    emoji_archives: dict[str, Path], tmp_path: Path
) -> None:
    manifests, _ = build.emoji_part(emoji_archives, tmp_path, 16)
    held = build.write_manifests(manifests, tmp_path)
    colours = 0
    for name in held:
        told = asked(tmp_path / f"{name}.jsonl")
        assert sum(map(len, told.values())) == held[name]["questions"]
        rows = read_rows(tmp_path / f"{name}.jsonl")
        assert len(rows) == held[name]["items"] == len(told)
        for row in rows:
            answers = told[row["media"]]
            assert answers.pop("what group of things does it belong to?") == row["label"]
            wanted = {"what colour is it?": "red"} if row["caption"] == "red heart" else {}
            assert answers == wanted
            colours += len(answers)
    assert colours


def name(text: str) -> emoji.Name:
    return emoji.Name("1", text, "object", 1.0)


@pytest.mark.parametrize(
    ("text", "colour"),
    [("green apple", "green"), ("orange", None), ("woman: red hair", None), ("white large square", "white")],
)
def test_a_colour_is_asked_for_where_the_name_begins_with_it(text: str, colour: str | None) -> None:
    assert dict(questions.about_drawing(name(text))).get("what colour is it?") == colour


@pytest.mark.usefixtures("game")
def test_questions_of_clips_are_answered_by_the_game(tmp_path: Path) -> None:
    manifests, _ = build.flare_part(tmp_path / "none.deb", tmp_path, 16)
    build.write_manifests(manifests, tmp_path)
    told = asked(tmp_path / "flare_train.jsonl")
    assert told["flare-16/goblin/run-4.webp"] == {
        "what is the figure doing?": "running",
        "what kind of figure is it?": "goblin",
        "which way does the figure face?": "right",
    }
    assert told["flare-16/male-cloth-dagger/stance-2.webp"] == {
        "what is the figure doing?": "standing",
        "what kind of figure is it?": "person",
        "which way does the figure face?": "up",
        "which weapon does the figure have?": "dagger",
    }
    facing = {answers["which way does the figure face?"] for answers in told.values()}
    assert facing == set(questions.FACING) and len(questions.FACING) == flare.DIRECTIONS


def test_shards_hold_every_item_of_the_manifests_and_say_so_where_they_do_not(
    emoji_archives: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SHARD_SIZE", 11_000)
    manifests, _ = build.emoji_part(emoji_archives, tmp_path, 16)
    held = build.write_manifests(manifests, tmp_path)
    counts = build.shards_part(held, tmp_path)
    assert {name: count["samples"] for name, count in counts.items()} == {n: h["items"] for n, h in held.items()}
    assert max(count["shards"] for count in counts.values()) > 1
    assert build.shards_part(held, tmp_path) == counts
    split = max(held, key=lambda each: int(held[each]["items"]))
    items = read_manifest(tmp_path / f"{split}.jsonl", None, "").items
    build.read_back(items, tmp_path / "shards" / split)
    with pytest.raises(ValueError, match=r"holds .* samples, wanted"):
        build.read_back(items[:-1], tmp_path / "shards" / split)
    with pytest.raises(ValueError, match=r"is not .* with its texts"):
        build.read_back([*items[:-1], dataclasses.replace(items[-1], captions=("other",))], tmp_path / "shards" / split)
    items[0].media.write_bytes(b"changed since")
    with pytest.raises(ValueError, match=r"is not .* with its texts"):
        build.read_back(items, tmp_path / "shards" / split)


# --- fetching --------------------------------------------------------------------------------------------------------

CONTENT = b"an archive"
GOOD = packages.Package("some-thing", "1.0.0", "npm", hashlib.sha256(CONTENT).hexdigest(), "emoji")


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The only npm of this test: a shell script."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_package_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path / "bin", monkeypatch, f'echo "$@" >> {tmp_path}/calls; printf "{CONTENT.decode()}" > x.tgz')
    path = packages.fetch(GOOD, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert packages.fetch(GOOD, tmp_path / "cache") == path
    assert (tmp_path / "calls").read_text() == "pack --loglevel error some-thing@1.0.0\n"
    path.write_bytes(b"cut")  # a damaged archive is fetched again
    assert packages.fetch(GOOD, tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo npm error network is away >&2; echo npm error a log is there >&2; exit 1", "network is away"),
        ("echo what >&2; echo no space left >&2; exit 1", "no space left"),
        ("printf other > x.tgz", "SHA-256"),
        ("exit 0", "it said nothing"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_and_leaves_nothing(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(packages.PackageError, match=said) as error:
        packages.fetch(GOOD, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert "some-thing@1.0.0" in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_without_the_client_the_command_ends_with_2_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.argv", ["build.py", str(tmp_path / "out")])
    assert build.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "npm is not on this machine" in printed.err
    assert not (tmp_path / "out").exists()


def test_archives_are_kept_in_the_users_cache_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert build.cache_folder(tmp_path) == tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert build.cache_folder(tmp_path) == Path("/c/omnivl/mini")
