"""Manifests and class folders as people have them: what is read, and the one sentence for what cannot be."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from omnivl.data.annotations import FORMATS, Annotations, Item, Question, read_folder, read_manifest
from tests.helpers import picture

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café ☕"), unicodedata.normalize("NFD", "café ☕")


def manifest(folder: Path, *rows: Any, text: str | None = None) -> Path:
    path = folder / "my.jsonl"
    path.write_text(text if text is not None else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, *rows: Any, split: str = "train", **more: Any) -> Annotations:
    return read_manifest(manifest(folder, *rows, **more), None, split)


def refused(folder: Path, *rows: Any, **more: Any) -> str:
    """The sentence with which a manifest is refused."""
    with pytest.raises(ValueError) as caught:
        read(folder, *rows, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder / "my.jsonl"), "FILE").replace(str(folder), "DIR")


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_caption_is_a_text_or_a_list_and_never_letters(tmp_path: Path) -> None:
    items = read(tmp_path, {"media": "a.jpg", "caption": "one"}, {"media": "b.jpg", "caption": ["two", "three"]}).items
    assert [item.captions for item in items] == [("one",), ("two", "three")]


def test_a_byte_order_mark_crlf_and_blank_lines_are_invisible(tmp_path: Path) -> None:
    text = '{"media": "a.jpg", "caption": "one"}\r\n\r\n   \r\n{"media": "b.jpg", "caption": "two\\u2028too"}\r\n'
    (tmp_path / "my.jsonl").write_bytes(codecs.BOM_UTF8 + text.encode())
    items = read_manifest(tmp_path / "my.jsonl", None, "train").items
    assert [(item.media.name, item.captions) for item in items] == [("a.jpg", ("one",)), ("b.jpg", ("two\u2028too",))]


def test_empty_captions_are_dropped_and_counted_and_null_words_are_text(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan"]
    found = read(
        tmp_path,
        *({"media": f"{i}.jpg", "caption": word} for i, word in enumerate(words)),
        {"media": "x.jpg", "caption": ""},
        {"media": "y.jpg", "caption": None},
        {"media": "z.jpg", "caption": [" ", " real "]},
        {"media": "v.jpg", "caption": []},
        {"media": "w.jpg", "label": ""},
    )
    assert [item.captions for item in found.items] == [*((word,) for word in words), ("real",)]
    assert found.dropped == {"empty captions": 3, "rows that say nothing": 2}


def test_captions_and_a_label_of_one_row_or_of_two_are_both_kept(tmp_path: Path) -> None:
    rows = [
        {"media": "a.jpg", "caption": "x", "label": "cat"},
        {"media": "b.jpg", "label": "dog"},
        {"media": "b.jpg", "caption": "y"},
        {"media": "c.jpg", "label": "dog", "caption": " "},
    ]
    told = [(item.captions, item.label) for item in read(tmp_path, *rows).items]
    assert told == [(("x",), "cat"), (("y",), "dog"), ((), "dog")]


def test_integer_labels_mean_what_they_say_in_numeric_order(tmp_path: Path) -> None:
    found = read(tmp_path, *({"media": f"{i}.jpg", "label": i} for i in (*range(10, -1, -1), 0)))
    assert found.labels == [str(i) for i in range(11)]
    assert {item.media.name: item.label for item in found.items} == {f"{i}.jpg": str(i) for i in range(11)}


def test_labels_of_any_script_have_an_order(tmp_path: Path) -> None:
    labels = ["x²", "²", "٣", "class 10", "class 9", COMPOSED, "-1"]
    found = read(tmp_path, *({"media": f"{i}.jpg", "label": label} for i, label in enumerate(labels)))
    assert sorted(found.labels) == sorted(labels)
    assert found.labels.index("class 9") < found.labels.index("class 10")


def test_half_a_surrogate_pair_does_not_travel_on(tmp_path: Path) -> None:
    (item,) = read(tmp_path, text='{"media": "a.jpg", "caption": "cut \\ud83d", "label": "\\udc00"}\n').items
    assert item.captions == ("cut ?",) and item.label == "?"


# --- items -----------------------------------------------------------------------------------------------------------


def test_rows_of_one_file_are_one_item_and_spans_are_their_own(tmp_path: Path) -> None:
    items = read(
        tmp_path,
        {"media": "a.mp4", "caption": "one"},
        {"media": "./a.mp4", "caption": ["two", "one"]},
        {"media": "a.mp4", "caption": "later", "start": 3, "end": 5.5},
        {"media": "a.mp4", "caption": "early", "end": 3, "start": None},
    ).items
    assert [(item.captions, item.start, item.end) for item in items] == [
        (("one", "two"), None, None),
        (("later",), 3.0, 5.5),
        (("early",), None, 3.0),
    ]
    assert len({item.key for item in items}) == 3 and all("a.mp4" in item.key for item in items)


def test_composed_and_decomposed_names_are_one_item(tmp_path: Path) -> None:
    rows = [{"media": f"{COMPOSED}.jpg", "caption": "one"}, {"media": f"{DECOMPOSED}.jpg", "caption": "two"}]
    (item,) = read(tmp_path, *rows, {"media": f"{COMPOSED}.jpg", "label": DECOMPOSED}).items
    assert item.captions == ("one", "two") and item.label == COMPOSED


def test_ids_name_items_and_several_of_one_file_are_allowed(tmp_path: Path) -> None:
    rows = [
        {"media": "a.jpg", "caption": "x", "id": 7},
        {"media": "a.jpg", "caption": "y", "id": 8},
        {"media": "b.jpg", "caption": "z", "id": None},
        {"media": "c.jpg", "caption": "z", "id": None},
    ]
    assert [item.key for item in read(tmp_path, *rows).items] == ["7", str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]


def test_paths_start_at_the_manifest_or_at_the_root(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"media": "a/b.jpg", "caption": "x"}, {"media": "/data/c.jpg", "caption": "x"})
    for root, base in ((None, tmp_path), (Path("elsewhere"), Path("elsewhere"))):
        assert [item.media for item in read_manifest(path, root, "train").items] == [
            base / "a/b.jpg",
            Path("/data/c.jpg"),
        ]


def test_only_rows_of_the_split_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"media": "a.jpg", "caption": "x", "split": "test"},
        {"media": "b.jpg", "caption": "y"},
        {"media": "c.jpg", "caption": "y", "split": None},
        {"media": "d.jpg", "caption": "y", "split": "train"},
    ]
    assert [item.media.name for item in read(tmp_path, *rows).items] == ["b.jpg", "c.jpg", "d.jpg"]
    for split in ("validation", "val", "valid"):
        held = [{**rows[0], "split": "val"}, {**rows[3], "split": "validation"}, rows[0]]
        assert [item.media.name for item in read(tmp_path, *held, split=split).items] == ["a.jpg", "d.jpg"]
    assert refused(tmp_path, rows[0], rows[0]) == "FILE holds no items of split 'train': 2 of split 'test'"


def test_questions_of_one_file_are_gathered_with_their_weighted_answers(tmp_path: Path) -> None:
    rows = [
        {"media": "a.jpg", "question": "what?", "answer": "this"},
        {"media": "a.jpg", "question": "red?", "answer": {"yes": 3, "no": 1, "maybe": 0}, "id": 7},
        {"media": "a.jpg", "question": "what?", "answer": "this"},
        {"media": "a.jpg", "question": "how many?", "answer": ["2", "3", "2", " "], "caption": "x"},
        {"media": "a.jpg", "question": "what?", "answer": "that", "start": 1},
        {"media": "b.jpg", "question": "why?"},
    ]
    found = read(tmp_path, *rows)
    red = Question("red?", (("yes", 3), ("no", 1)), "7")
    asked = (Question("what?", (("this", 1),)), red, Question("how many?", (("2", 2), ("3", 1))))
    assert found.items == [
        Item(tmp_path / "a.jpg", ("x",), asked, id="7"),
        Item(tmp_path / "a.jpg", questions=(Question("what?", (("that", 1),)),), start=1),
        Item(tmp_path / "b.jpg", questions=(Question("why?"),)),
    ]
    assert found.counts() == (3, 1, 5) and found.dropped == {"repeated rows": 1}


def test_what_is_wrong_is_collected_when_asked_and_all_else_is_read(tmp_path: Path) -> None:
    good = [{"media": f"{i}.jpg", "caption": "x", "id": i, "label": "cat"} for i in range(3)]
    lines = [json.dumps(good[0]), "{broken", "", "[1]", json.dumps(good[1]), json.dumps(good[0]), json.dumps(good[2])]
    lines += ['{"media": "0.jpg", "label": "dog"}', '{"media": "3.jpg", "caption": ["y", ""], "id": 0}']
    path = manifest(tmp_path, text="\n".join(lines))
    found = read_manifest(path, None, "train", on_error="collect")
    assert [item.media.name for item in found.items] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [(p.kind, p.item.removeprefix(f"{path}, ")) for p in found.problems] == [
        ("unreadable rows", "line 2"),
        ("unreadable rows", "line 4"),
        ("repeated rows", "line 6"),
        ("clashing labels", "line 8"),
        ("empty captions", "line 9"),
        ("clashing ids", "line 9"),
    ]
    with pytest.raises(ValueError, match=r"my\.jsonl, line 2: not JSON"):
        read_manifest(path, None, "train")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"media": "a.jpg", "caption": "x"', "line 2: not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "line 2: not JSON: maximum recursion"),
        ('{"media": "a.jpg", "caption": "x", "id": ' + "1" * 5000 + "}", "line 2: not JSON: Exceeds the limit"),
        ('["a.jpg", "x"]', 'line 2: must be a JSON object like {"media": ...}, got ["a.jpg", "x"]'),
        ('{"caption": "x"}', 'line 2: a row needs "media", a path, got None'),
        ('{"media": 3, "caption": "x"}', 'line 2: a row needs "media", a path, got 3'),
        ('{"media": " ", "caption": "x"}', "line 2: a row needs \"media\", a path, got ' '"),
        ('{"media": "a.jpg"}', 'line 2: a row needs "caption", "label" or "question" beside "media"'),
        ('{"media": "a.jpg", "caption": 3}', 'line 2: "caption" must be a text or a list of texts, got 3'),
        ('{"media": "a.jpg", "caption": ["x", 3]}', 'line 2: "caption" must be a text or a list of texts, got'),
        ('{"media": "a.jpg", "caption": {"en": "x"}}', 'line 2: "caption" must be a text or a list of texts, got'),
        ('{"media": "a.jpg", "label": 1.5}', 'line 2: "label" must be a name or a whole number, got 1.5'),
        ('{"media": "a.jpg", "label": true}', 'line 2: "label" must be a name or a whole number, got True'),
        ('{"media": "a.jpg", "caption": "x", "id": [1]}', 'line 2: "id" must be a name or a whole number, got [1]'),
        ('{"media": "a.jpg", "caption": "x", "split": 1}', 'line 2: "split" must be a text, got 1'),
        ('{"media": "a.jpg", "question": 1}', 'line 2: "question" must be a text, got 1'),
        ('{"media": "a.jpg", "caption": "x", "start": -1}', 'line 2: "start" must be seconds from 0, got -1'),
        (
            f'{{"media": "a.jpg", "caption": "x", "start": {"9" * 400}}}',
            f'line 2: "start" must be seconds from 0, got {"9" * 60}',
        ),
        (
            f'{{"media": "a.jpg", "question": "q", "answer": {{"y": {"9" * 400}}}}}',
            'line 2: "answer" must be a text, a list of',
        ),
        ('{"media": "a.jpg", "caption": "x", "start": NaN}', 'line 2: "start" must be seconds from 0, got nan'),
        ('{"media": "a.jpg", "caption": "x", "end": Infinity}', 'line 2: "end" must be seconds from 0, got inf'),
        ('{"media": "a.jpg", "caption": "x", "end": "1:20"}', 'line 2: "end" must be seconds from 0, got 1:20'),
        (
            '{"media": "a.jpg", "caption": "x", "start": 4, "end": 4}',
            'line 2: "end" is 4 s, which must be later than "start" (4 s)',
        ),
        (
            '{"media": "a.jpg", "question": "x", "answer": 3}',
            'line 2: "answer" must be a text, a list of texts or {text',
        ),
        ('{"media": "a.jpg", "question": "x", "answer": {"a": "b"}}', 'line 2: "answer" must be a text, a list of'),
        ('{"media": "a.jpg", "caption": "x", "answer": "y"}', 'line 2: an "answer" needs a "question"'),
        (
            '{"media": "other.jpg", "caption": "x", "id": "7"}',
            "line 2: id '7' was given to 'DIR/first.jpg' before; ids must be unique",
        ),
        ('{"media": "first.jpg", "label": "dog"}', "line 2: 'DIR/first.jpg' has the label 'dog' here and 'cat' before"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, told: str) -> None:
    first = '{"media": "first.jpg", "caption": "x", "id": 7, "label": "cat"}'
    assert refused(tmp_path, text=f"{first}\n{line}\n").startswith(f"FILE, {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has no rows"),
        ("\n \n", "it has no rows"),
        ('{"media": "a.jpg", "caption": ""}\n{"media": "b.jpg", "caption": null}\n', "2 empty captions"),
        (
            '{"media": "a.jpg", "caption": "", "split": "test"}\n{"media": "b.jpg", "label": ""}\n',
            "1 of split 'test'; 1 rows that say nothing",
        ),
    ],
)
def test_a_manifest_of_nothing_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    assert refused(tmp_path, text=text) == f"FILE holds no items of split 'train': {told}"


def test_a_manifest_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: no such file$"):
        read_manifest(tmp_path / "nowhere.jsonl", None, "train")
    with pytest.raises(ValueError, match=r"is a folder, not a manifest; class folders are written folder:"):
        read_manifest(tmp_path, None, "train")
    path = tmp_path / "utf16.jsonl"
    path.write_text('{"media": "a.jpg", "caption": "x"}\n', encoding="utf-16")
    with pytest.raises(ValueError, match=r"utf16\.jsonl is not UTF-8 text: save it as UTF-8$"):
        read_manifest(path, None, "train")
    path.write_text('[\n  {"media": "a.jpg", "caption": "x"}\n]\n')
    with pytest.raises(ValueError, match=r"line 1: not JSON: .* \(a manifest has one object a line\)$"):
        read_manifest(path, None, "train")


# --- class folders ---------------------------------------------------------------------------------------------------


def test_class_folders_in_numeric_order_with_any_case_of_extensions(tmp_path: Path) -> None:
    for label in range(11):
        (tmp_path / str(label) / "deeper").mkdir(parents=True)
        picture(tmp_path / str(label) / ("a.PNG" if label % 2 else "b.Jpeg"))
        picture(tmp_path / str(label) / "deeper" / "c.WebP")
    for name in ("empty", ".hidden", "__MACOSX"):
        (tmp_path / name).mkdir()
    picture(tmp_path / ".hidden" / "a.png")
    picture(tmp_path / "__MACOSX" / "a.png")
    picture(tmp_path / "loose.png")
    (tmp_path / "readme.txt").write_text("not media")
    found = read_folder(tmp_path, None, "train")
    assert found.labels == [str(i) for i in range(11)] and len(found.items) == 22
    assert all(item.label == item.media.relative_to(tmp_path).parts[0] for item in found.items)
    assert found.dropped == {
        "class folders without pictures or clips": 1,
        "pictures or clips outside of class folders": 1,
    }


def test_a_class_folder_s_name_is_composed_and_its_file_found(tmp_path: Path) -> None:
    (tmp_path / DECOMPOSED).mkdir()
    picture(tmp_path / DECOMPOSED / "a.png")
    (item,) = read_folder(tmp_path, None, "train").items
    assert item.label == COMPOSED and item.media.exists()


def test_folders_of_splits_are_gone_into_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    for place in ("sets/train/cat", "sets/val/dog", "vehicles/train", "vehicles/car"):
        (tmp_path / place).mkdir(parents=True)
        picture(tmp_path / place / "a.png")
    sets, vehicles = tmp_path / "sets", tmp_path / "vehicles"
    assert read_folder(sets, None, "train").labels == ["cat"]
    assert read_folder(sets, None, "validation").labels == ["dog"] == read_folder(sets, None, "val").labels
    assert read_folder(vehicles, None, "train").labels == ["car", "train"] == read_folder(vehicles, None, "test").labels
    with pytest.raises(ValueError, match=r"sets has no folder of split 'test'; it has train, val$"):
        read_folder(sets, None, "test")


def test_a_folder_without_classes_is_one_sentence(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "cat").mkdir()
    with pytest.raises(
        ValueError,
        match=r"holds no class folders with pictures or clips \(wanted: CLASS/picture.jpg\); it has 1 class folders "
        r"without pictures or clips; it has 1 pictures or clips outside of class folders$",
    ):
        read_folder(tmp_path, None, "train")
    with pytest.raises(ValueError, match=r"nowhere: no such folder$"):
        read_folder(tmp_path / "nowhere", None, "train")
    with pytest.raises(ValueError, match=r"a\.png is a file, not a folder$"):
        read_folder(tmp_path / "a.png", None, "train")


# --- lists and side-cars ---------------------------------------------------------------------------------------------


def test_a_list_has_blanks_in_paths_and_a_line_without_a_label_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"a/b.jpg 3\r\n\r\n  a  long name.jpg \t10  \r\ncaf\xc3\xa9 x.mp4 cat\r\n")
    items = FORMATS["list"](path, None, "train").items
    assert [(str(item.media.relative_to(tmp_path)), item.label) for item in items] == [
        ("a/b.jpg", "3"),
        ("a  long name.jpg", "10"),
        ("café x.mp4", "cat"),
    ]
    path.write_text("a.jpg 1\n\nb.jpg\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 3: a line needs a path and a label, got 'b\.jpg'$"):
        FORMATS["list"](path, None, "train")


def test_captions_lie_beside_their_media_whatever_their_extension(tmp_path: Path) -> None:
    for name, text in {"a.JPG": "one\n\ntwo\n", "b/café.b.webp": "null", "c.png": " \n", "d.png": None}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name)
        if text is not None:
            (tmp_path / name).with_suffix(".txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    (tmp_path / "lonely.txt").write_text("no media")
    found = FORMATS["captions"](tmp_path, None, "train")
    assert {item.media.name: item.captions for item in found.items} == {
        "a.JPG": ("one", "two"),
        "café.b.webp": ("null",),
    }
    assert found.dropped == {"empty captions": 1, "rows that say nothing": 1}
    (tmp_path / "val").mkdir()
    picture(tmp_path / "val" / "v.png")
    (tmp_path / "val" / "v.txt").write_text("three")
    assert [item.captions for item in FORMATS["captions"](tmp_path, None, "validation").items] == [("three",)]
