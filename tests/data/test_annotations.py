"""Manifests and class folders as people have them: what is read, and the one sentence for what cannot be."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnivl.config import DataConfig
from omnivl.data.annotations import Annotations, read_folder, read_manifest
from omnivl.data.media import BadSample
from omnivl.data.sources import Ask, FileSource, open_source
from tests.helpers import moving_gif, picture

ASK = Ask(32, 4, "bicubic")
RNG = np.random.default_rng(0)


def manifest(folder: Path, *rows: Any, text: str | None = None) -> Path:
    path = folder / "my.jsonl"
    path.write_text(text if text is not None else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, *rows: Any, **more: Any) -> Annotations:
    return read_manifest(manifest(folder, *rows, **more), None, "train")


def test_a_caption_is_a_text_or_a_list_and_never_letters(tmp_path: Path) -> None:
    items = read(tmp_path, {"media": "a.jpg", "caption": "one"}, {"media": "b.jpg", "caption": ["two", "three"]}).items
    assert [item.captions for item in items] == [("one",), ("two", "three")]


def test_a_byte_order_mark_crlf_and_blank_lines_are_invisible(tmp_path: Path) -> None:
    text = '\ufeff{"media": "a.jpg", "caption": "one"}\r\n\r\n   \r\n{"media": "b.jpg", "caption": "two"}\r\n'
    (tmp_path / "my.jsonl").write_bytes(text.encode())
    items = read_manifest(tmp_path / "my.jsonl", None, "train").items
    assert [(item.media.name, item.captions) for item in items] == [("a.jpg", ("one",)), ("b.jpg", ("two",))]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"media": "a.jpg", "caption": "x"', "line 2 is not JSON"),
        ('["a.jpg", "x"]', "line 2 must be a JSON object"),
        ('{"caption": "x"}', 'line 2: a row needs "media"'),
        ('{"media": 3, "caption": "x"}', 'line 2: a row needs "media"'),
        ('{"media": "a.jpg"}', "line 2: a row needs"),
        ('{"media": "a.jpg", "caption": 3}', "line 2: .caption. must be"),
        ('{"media": "a.jpg", "caption": ["x", 3]}', "line 2: .caption. must be"),
        ('{"media": "a.jpg", "label": 1.5}', "line 2: .label. must be"),
        ('{"media": "a.jpg", "caption": "x", "start": -1}', "line 2: .start. must be"),
        ('{"media": "a.jpg", "caption": "x", "end": "1:20"}', "line 2: .end. must be"),
        ('{"media": "other.jpg", "caption": "x", "id": 7}', "line 2: id '7' was given to 'first.jpg'"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(tmp_path, text=f'{{"media": "first.jpg", "caption": "x", "id": 7}}\n{line}\n')


def test_rows_of_one_file_are_one_item_and_spans_are_their_own(tmp_path: Path) -> None:
    items = read(
        tmp_path,
        {"media": "a.mp4", "caption": "one"},
        {"media": "a.mp4", "caption": ["two", "one"]},
        {"media": "a.mp4", "caption": "later", "start": 3, "end": 5.5},
    ).items
    assert [(item.captions, item.start, item.end) for item in items] == [
        (("one", "two"), None, None),
        (("later",), 3.0, 5.5),
    ]


def test_empty_captions_are_dropped_and_counted_and_null_words_are_text(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan"]
    rows = [{"media": f"{i}.jpg", "caption": word} for i, word in enumerate(words)]
    empty = [
        {"media": "x.jpg", "caption": ""},
        {"media": "y.jpg", "caption": None},
        {"media": "z.jpg", "caption": [" ", "real"]},
    ]
    found = read(tmp_path, *rows, *empty)
    assert [item.captions for item in found.items] == [*((word,) for word in words), ("real",)]
    assert found.dropped == {"empty caption": 3}


def test_integer_labels_mean_what_they_say_in_numeric_order(tmp_path: Path) -> None:
    found = read(tmp_path, *({"media": f"{i}.jpg", "label": i} for i in range(11)))
    assert found.labels == [str(i) for i in range(11)]


def test_only_rows_of_the_split_are_read(tmp_path: Path) -> None:
    rows = [{"media": "a.jpg", "caption": "x", "split": "test"}, {"media": "b.jpg", "caption": "y"}]
    assert [item.media.name for item in read(tmp_path, *rows).items] == ["b.jpg"]


def test_class_folders_in_numeric_order_with_any_case_of_extensions(tmp_path: Path) -> None:
    for label in range(11):
        (tmp_path / str(label)).mkdir()
        picture(tmp_path / str(label) / ("a.PNG" if label % 2 else "b.Jpeg"))
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    found = read_folder(tmp_path, None, "train")
    assert found.labels == [str(i) for i in range(11)] and len(found.items) == 11
    with pytest.raises(ValueError, match="no class folders"):
        read_folder(tmp_path / "empty", None, "train")
    with pytest.raises(ValueError, match="no such folder"):
        read_folder(tmp_path / "nowhere", None, "train")


def source(folder: Path, *rows: Any, **changes: Any) -> FileSource:
    path = manifest(folder, *rows)
    opened = open_source(f"manifest:{path}", DataConfig(sources=(f"manifest:{path}",), **changes))
    assert isinstance(opened, FileSource)
    return opened


def test_content_decides_between_image_and_video_and_spans_are_video(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").rename(tmp_path / "a.mp4")
    moving_gif(tmp_path / "b.gif").rename(tmp_path / "b.jpg")
    made = source(tmp_path, {"media": "a.mp4", "caption": "x"}, {"media": "b.jpg", "caption": "y"})
    assert (made.length("image"), made.length("video"), made.length("text")) == (1, 1, 2)
    image, clip = (made.read(medium, 0, RNG, ASK) for medium in ("image", "video"))
    assert image.pixels is not None and image.pixels.shape == (1, 32, 32, 3) and image.text == "x"
    assert clip.pixels is not None and clip.pixels.shape == (4, 32, 32, 3) and clip.text == "y"


def test_all_missing_files_are_counted_up_front_and_the_first_named(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    rows = [{"media": f"{i}.png", "caption": "x"} for i in range(6)]
    with pytest.raises(
        ValueError, match=r"5 of 6 media files are missing .*1\.png.*2\.png.*3\.png, \.\.\.\); .*data\.root"
    ):
        source(tmp_path, *rows)
    other = tmp_path / "elsewhere"
    other.mkdir()
    for i in range(6):
        picture(other / f"{i}.png")
    assert source(tmp_path, *rows, root=str(other)).length("image") == 6


def test_composed_and_decomposed_names_are_one_file(tmp_path: Path) -> None:
    picture(tmp_path / unicodedata.normalize("NFD", "café ☕.png"))
    assert source(tmp_path, {"media": unicodedata.normalize("NFC", "café ☕.png"), "caption": "x"}).length("image") == 1


def test_a_label_alone_becomes_a_prompt_and_its_own_class(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    made = source(tmp_path, {"media": "a.png", "label": "red_panda"}, prompts=("look, a {}!",))
    sample = made.read("image", 0, RNG, ASK)
    assert (sample.text, sample.label) == ("look, a red panda!", "red_panda")


def test_a_file_that_is_no_media_is_a_bad_sample_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not a picture")
    (tmp_path / "b.jpg").touch()
    made = source(tmp_path, {"media": "a.jpg", "caption": "x"}, {"media": "b.jpg", "caption": "y"})
    assert made.length("image") == 2
    for index, name in enumerate("ab"):
        with pytest.raises(BadSample, match=f"{name}.jpg"):
            made.read("image", index, RNG, ASK)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no items"),
        ('{"media": "a.jpg", "caption": ""}\n', "holds no items"),
        ('{"media": "a.jpg", "question": "x"}\n', "holds no items"),
    ],
)
def test_a_manifest_of_nothing_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    path = manifest(tmp_path, text=text)
    with pytest.raises(ValueError, match=told):
        open_source(f"manifest:{path}", DataConfig(sources=(f"manifest:{path}",)))


@pytest.mark.parametrize("spec", ["my.jsonl", "nothing:my.jsonl", "world:nothing"])
def test_an_unknown_format_is_one_sentence(spec: str) -> None:
    with pytest.raises(ValueError, match=r"is not a data source|does not exist"):
        open_source(spec, DataConfig(sources=(spec,)))
