"""Sources: which files become samples, what is said of bad ones and when, and what stands in a sample."""

import errno
import logging
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnivl.config import DataConfig
from omnivl.data import world
from omnivl.data.galleries import file_gallery, world_gallery, world_reverse
from omnivl.data.media import read_image
from omnivl.data.reading import WAITS
from omnivl.data.sample import BadSample, Sample
from omnivl.data.sources import Ask, FileSource, WorldSource, open_source
from omnivl.prompts import fill, label_prompts
from tests.data.test_annotations import manifest
from tests.helpers import moving_gif, picture

ASK = Ask(32, 4, "bicubic")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def source(folder: Path, *rows: Any, **changes: Any) -> FileSource:
    path = manifest(folder, *rows)
    opened = open_source(f"manifest:{path}", DataConfig(**changes))
    assert isinstance(opened, FileSource)
    return opened


def captioned(*names: str) -> list[dict[str, str]]:
    return [{"media": name, "caption": f"this is {name}"} for name in names]


def pixels(sample: Sample) -> np.ndarray:
    assert sample.pixels is not None
    return sample.pixels


# --- what a file is --------------------------------------------------------------------------------------------------


def test_content_decides_between_image_and_video(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").rename(tmp_path / "a.mp4")
    moving_gif(tmp_path / "b.gif").rename(tmp_path / "b.jpg")
    made = source(tmp_path, *captioned("a.mp4", "b.jpg"))
    assert (made.length("image"), made.length("video"), made.length("text")) == (1, 1, 2)
    image, clip = (made.read(medium, 0, rng(), ASK) for medium in ("image", "video"))
    assert pixels(image).shape == (1, 32, 32, 3) and (image.text, image.times) == ("this is a.mp4", ())
    assert pixels(clip).shape == (4, 32, 32, 3) and clip.text == "this is b.jpg" and len(clip.times) == 4


def test_a_span_is_its_own_clip_and_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    moving_gif(tmp_path / "a.gif")  # 6 frames, 10 a second
    (tmp_path / "frames").mkdir()
    for i in range(3):
        picture(tmp_path / "frames" / f"{i}.png", seed=i)
    spans = [{"media": "a.gif", "caption": f"from {start}", "start": start, "end": start + 0.1} for start in (0.0, 0.3)]
    made = source(tmp_path, *spans, {"media": "frames", "caption": "three"})
    assert (made.length("image"), made.length("video")) == (0, 3)
    first, second, frames = (made.read("video", i, rng(), ASK) for i in range(3))
    assert first.times == (0.0,) * 4 and second.times == pytest.approx((0.3,) * 4)
    assert not np.array_equal(pixels(first), pixels(second)) and first.key != second.key
    assert len(set(frames.times)) == 3


def test_composed_and_decomposed_names_are_one_file(tmp_path: Path) -> None:
    name = "café ☕ déjà.png"
    picture(tmp_path / unicodedata.normalize("NFD", name))
    made = source(tmp_path, *captioned(unicodedata.normalize("NFC", name)))
    assert pixels(made.read("image", 0, rng(), ASK)).shape == (1, 32, 32, 3)


# --- files that cannot be read ---------------------------------------------------------------------------------------


def spoiled(folder: Path, *names: str) -> None:
    """Files of every bad kind, by their names: missing-*, empty-*, text-*, cut-*."""
    for name in names:
        path = folder / name
        if name.startswith("empty"):
            path.touch()
        elif name.startswith("text"):
            path.write_text("not a picture")
        elif name.startswith("cut"):
            Image.fromarray(rng().integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
            path.write_bytes(path.read_bytes()[:-900])


BAD = ("missing.jpg", "empty.jpg", "text.jpg", "missing.mp4", "empty.mp4")


def test_a_few_bad_files_are_named_at_the_start_and_stay_in_their_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [picture(tmp_path / f"{i}.png").name for i in range(6)] + [moving_gif(tmp_path / "a.gif").name]
    spoiled(tmp_path, *BAD)
    with caplog.at_level(logging.WARNING):
        made = source(tmp_path, *captioned(*good, *BAD))
    (told,) = (record.getMessage() for record in caplog.records)
    assert "5 of 12 media files are missing or cannot be read" in told
    assert "missing.jpg: no such file" in told and "empty.jpg: " in told and "text.jpg: " in told and "; ..." in told
    assert (made.length("image"), made.length("video")) == (6 + 3, 1 + 2), "sorted by what their names say"
    for medium, indices in (("image", (6, 7, 8)), ("video", (1, 2))):
        for index in indices:
            with pytest.raises(BadSample, match=r"(missing|empty|text)\.(jpg|mp4): "):
                made.read(medium, index, rng(), ASK)


def test_a_bad_file_never_makes_a_medium_of_its_own(tmp_path: Path) -> None:
    spoiled(tmp_path, "empty.mp4", "text")
    pictures = [picture(tmp_path / f"{i}.png").name for i in range(4)]
    made = source(tmp_path, *captioned(*pictures, "empty.mp4", "text"))
    assert (made.length("image"), made.length("video")) == (6, 0)
    clips = [moving_gif(tmp_path / f"{i}.gif").name for i in range(3)]
    made = source(tmp_path, *captioned(*clips, "missing.jpg"))
    assert (made.length("image"), made.length("video")) == (0, 4)


def test_a_damaged_picture_is_bad_when_its_turn_comes_and_named(tmp_path: Path) -> None:
    spoiled(tmp_path, "cut.jpg")
    made = source(tmp_path, *captioned("cut.jpg"))
    with pytest.raises(BadSample, match=r"cut\.jpg: damaged JPEG"):
        made.read("image", 0, rng(), ASK)


@pytest.mark.parametrize(
    ("good", "missing", "changes", "allowed"),
    [
        (0, 1, {}, False),
        (1, 1, {}, True),
        (1, 2, {}, False),
        (9, 9, {}, True),
        (10, 10, {}, False),
        (90, 9, {}, True),
        (90, 10, {}, False),
        (90, 10, {"max_bad_share": 0.1}, True),
        (90, 11, {"max_bad_share": 0.1}, False),
        (9, 1, {"on_bad_sample": "raise"}, False),
        (0, 3, {"max_bad_share": 1.0}, False),
    ],
)
def test_too_many_missing_files_are_counted_up_front_and_the_first_named(
    tmp_path: Path, good: int, missing: int, changes: dict[str, Any], allowed: bool
) -> None:
    names = [f"gone{i}.png" for i in range(missing)] + [f"{i}.png" for i in range(good)]
    if good:
        picture(tmp_path / "0.png")
    for i in range(1, good):
        os.link(tmp_path / "0.png", tmp_path / f"{i}.png")
    if allowed:
        assert source(tmp_path, *captioned(*names), **changes).length("image") == good + missing
        return
    with pytest.raises(ValueError) as caught:
        source(tmp_path, *captioned(*names), **changes)
    told = str(caught.value)
    assert f"{missing} of {good + missing} media files are missing or cannot be read" in told and "--root" in told
    assert all(f"{tmp_path / name}: no such file" in told for name in names[: min(missing, 3)]) and "\n" not in told


def test_relative_paths_start_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    picture(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: no such file"):
        source(tmp_path, *captioned("a.png"))
    assert source(tmp_path, *captioned("a.png"), root=str(tmp_path / "elsewhere")).length("image") == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_reading_is_tried_again_where_a_disk_failed_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    picture(tmp_path / "a.png")
    made = source(tmp_path, *captioned("a.png"))
    wanted = pixels(made.read("image", 0, rng(), ASK))
    failures, waits = iter((errno.EIO, errno.ESTALE)), list[float]()

    def failing(path: Path) -> Any:
        for number in failures:
            error = OSError(number, os.strerror(number), str(path))
            if wrapped:
                raise BadSample(f"{path}: cannot be opened") from error
            raise error
        return read_image(path)

    monkeypatch.setattr("omnivl.data.reading.read_image", failing)
    monkeypatch.setattr("time.sleep", waits.append)
    assert np.array_equal(pixels(made.read("image", 0, rng(), ASK)), wanted) and waits == list(WAITS[:2])


@pytest.mark.parametrize(("number", "tries"), [(errno.EIO, 4), (errno.EACCES, 1)])
def test_a_disk_that_keeps_failing_makes_a_bad_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, tries: int
) -> None:
    picture(tmp_path / "a.png")
    made = source(tmp_path, *captioned("a.png"))
    tried: list[Path] = []

    def failing(path: Path) -> Any:
        tried.append(path)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("omnivl.data.reading.read_image", failing)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(BadSample, match=rf"a\.png: cannot be read \({os.strerror(number)}\)$"):
        made.read("image", 0, rng(), ASK)
    assert len(tried) == tries


# --- what is said of a sample ----------------------------------------------------------------------------------------


def test_each_caption_of_an_item_is_drawn_and_beats_the_label(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    made = source(tmp_path, {"media": "a.png", "caption": ["one", "two", "three"], "label": "cat"})
    drawn = [made.read("image", 0, rng(seed), ASK) for seed in range(30)]
    assert {sample.text for sample in drawn} == {"one", "two", "three"} and {sample.label for sample in drawn} == {""}


def test_a_label_alone_becomes_a_prompt_and_its_own_class(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    moving_gif(tmp_path / "b.gif")
    rows = [{"media": "a.png", "label": "red_panda"}, {"media": "b.gif", "label": "running"}]
    prompts = ("look, a {}!", "{}, they say")
    own, table = source(tmp_path, *rows, prompts=prompts), source(tmp_path, *rows)
    for medium, label in (("image", "red_panda"), ("video", "running")):
        for made, templates in ((own, prompts), (table, label_prompts(medium))):
            drawn = [made.read(medium, 0, rng(seed), ASK) for seed in range(200)]
            assert {sample.text for sample in drawn} == {fill(template, label) for template in templates}
            assert {sample.label for sample in drawn} == {label}


def test_texts_are_what_training_may_show(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    both = [{"media": "a.png", "caption": ["one", "two"]}, {"media": "b.png", "label": "cat"}]
    prompts = ("a {} here", "{}")
    mixed, named = source(tmp_path, *both, prompts=prompts), source(tmp_path, both[1], prompts=prompts)
    assert sorted(mixed.texts(10)) == ["a cat here", "cat", "one", "two"] and len(mixed.texts(3)) == 3
    assert [mixed.read("text", i, rng(), ASK).text for i in range(mixed.length("text"))] == ["one", "two"]
    assert [named.read("text", i, rng(), ASK).text for i in range(named.length("text"))] == ["a cat here", "cat"]


def test_items_of_which_nothing_is_said_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "a.png")
    questions = [{"media": f"{i}.png", "question": "what?", "answer": "this"} for i in range(3)]
    with caplog.at_level(logging.WARNING):
        made = source(tmp_path, *captioned("a.png"), *questions, {"media": "a.png", "caption": ""})
    assert made.length("image") == 1
    told = sorted(record.getMessage().partition(": left out: ")[2] for record in caplog.records)
    assert told == ["1 empty captions", "3 items without caption or label"]
    with pytest.raises(ValueError, match=r'has no captions and no labels: its rows need "caption" or "label"$'):
        source(tmp_path, *questions)


def test_class_folders_are_a_source(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        picture(tmp_path / label / "a.PNG")
    made = open_source(f"folder:{tmp_path}", DataConfig(prompts=("{}",)))
    assert isinstance(made, FileSource) and made.labels == ["cat", "dog"]
    assert [made.read("image", i, rng(), ASK).text for i in range(2)] == ["cat", "dog"]


# --- the world -------------------------------------------------------------------------------------------------------


def test_the_world_s_labels_use_the_prompts_of_the_setting() -> None:
    made = open_source("world:labels", DataConfig(prompts=("see: {}",)))
    for medium, names in (("image", {"circle", "star"}), ("video", set(world.MOTIONS))):
        drawn = [made.read(medium, i, rng(i), ASK) for i in range(60)]
        assert all(sample.text == f"see: {sample.label}" for sample in drawn)
        assert names <= {sample.label for sample in drawn}
    assert made.read("text", 0, rng(), ASK).text.startswith("see: ") and set(made.texts(99)) >= {"see: grow"}


def test_the_same_numbers_draw_the_same_sample_of_the_world() -> None:
    made = WorldSource("", "train", 1)
    one, same, other = (made.read("image", 5, rng(seed), ASK) for seed in (1, 1, 2))
    assert np.array_equal(pixels(one), pixels(same)) and one.text == same.text
    assert not np.array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize(
    ("spec", "changes", "told"),
    [
        ("my.jsonl", {}, "'my.jsonl' is not a data source: write FORMAT:FILE, FORMAT one of world, manifest, folder"),
        ("nothing:my.jsonl", {}, "is not a data source"),
        ("manifest:", {}, "'manifest:' names no file: write manifest:FILE"),
        ("manifest:nowhere.jsonl", {}, "nowhere.jsonl: no such file"),
        ("world:nothing", {}, "world:nothing does not exist: write world:, world:labels or world:questions"),
        ("world:", {"split": "val"}, "the world has no split 'val': choose train, validation, test"),
        ("world:", {"group_size": 9}, "data.group_size is 9, but the world has 8 motions of a scene: choose 1 to 8"),
        ("world:", {"group_size": 0}, "data.group_size is 0"),
    ],
)
def test_a_source_that_is_none_is_one_sentence(spec: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_source(spec, DataConfig(**changes))
    assert told in str(caught.value) and "\n" not in str(caught.value)


# --- galleries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_a_gallery_gives_every_item_once_in_order_and_counts_bad_ones_once(tmp_path: Path, size: int) -> None:
    names = [picture(tmp_path / f"{i}.png", seed=i).name for i in range(6)]
    spoiled(tmp_path, "empty.jpg", "cut.jpg")
    names = [*names[:2], "empty.jpg", *names[2:], "missing.png", "cut.jpg"]
    made = source(tmp_path, *captioned(*names))
    gallery = file_gallery(made, "test", "image", ASK)
    assert len(gallery) == 9 and gallery.captions == [(f"this is {name}",) for name in names]
    for _ in range(2):
        batches = list(gallery.batches(size))
        assert [index for indices, _ in batches for index in indices] == [0, 1, 3, 4, 5, 6]
        seen = np.concatenate([batch.numpy() for _, batch in batches])
        assert seen.shape == (6, 1, 3, 32, 32)
        alone = [pixels(made.read("image", index, rng(), ASK)) for index in (0, 1, 3, 4, 5, 6)]
        assert np.array_equal(seen, np.stack(alone).transpose(0, 1, 4, 2, 3)), "the same pixels as unaugmented training"
    assert [Path(key).name for key, _ in gallery.bad] == ["empty.jpg", "missing.png", "cut.jpg"]


def test_galleries_of_the_world_are_played_forward_and_backward() -> None:
    forward, backward = world_reverse("test", 4, 0, ASK)
    ((indices, there),) = forward.batches(4)
    ((_, back),) = backward.batches(4)
    assert indices == [0, 1, 2, 3] and np.array_equal(there.numpy(), back.numpy()[:, ::-1])
    gallery = world_gallery("test", "video", 5, 0, ASK)
    assert len(gallery) == len(gallery.motions) == 5 and not world_gallery("test", "image", 5, 0, ASK).motions
