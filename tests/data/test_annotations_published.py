"""Published sets: each reader on a few lines of ours in the shape of the official files, and the field's counts."""

import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from omnivl.config import DataConfig
from omnivl.data.annotations import FORMATS, Annotations, Count, Question
from omnivl.data.annotations.cifar import plain_pickle
from omnivl.data.annotations.classes import read_mat
from omnivl.data.sources import Ask, FileSource, open_source


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Texts as they are, bytes too, anything else as JSON; a folder for None."""
    for name, held in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(held, bytes):
            path.write_bytes(held)
        else:
            path.write_text(held if isinstance(held, str) else json.dumps(held), encoding="utf-8")
    return folder


def read(name: str, path: Path, split: str = "train", root: Path | None = None) -> Annotations:
    return FORMATS[name](path, root, split)


def told(found: Annotations, base: Path) -> list[tuple[str, Any]]:
    """(medium relative to base, captions or label) of each item."""
    return [(item.media.relative_to(base).as_posix(), item.captions or item.label) for item in found.items]


KARPATHY = {
    "images": [
        {"filepath": "train2014", "filename": "COCO_train2014_01.jpg", "split": "train", "cocoid": 1, "imgid": 0},
        {"filepath": "val2014", "filename": "COCO_val2014_02.jpg", "split": "restval", "cocoid": 2, "imgid": 1},
        {"filepath": "val2014", "filename": "COCO_val2014_03.jpg", "split": "val", "cocoid": 3, "imgid": 2},
        {"filepath": "val2014", "filename": "COCO_val2014_04.jpg", "split": "test", "cocoid": 4, "imgid": 3},
    ]
}
for image in KARPATHY["images"]:
    image["sentences"] = [{"raw": f"first {image['imgid']}"}, {"raw": "A dog, a cat. "}, {"raw": "A dog, a cat."}]

MSRVTT = {
    "videos": [
        {"video_id": f"video{i}", "split": split} for i, split in enumerate(("train", "validate", "test", "test"))
    ],
    "sentences": [{"video_id": f"video{i}", "caption": f"{i} {j}"} for j in range(2) for i in range(4)],
}
QA = [
    {"id": 3, "video_id": 7, "question": "who?", "answer": "man", "category_id": 1},
    {"id": 4, "video_id": 7, "question": "what?", "answer": "cat", "category_id": 1},
]

CAPTIONED: dict[str, tuple[dict[str, Any], str, str, list[tuple[str, Any]]]] = {
    # format: files, what is named, split, what is read
    "coco": (
        {"dataset_coco.json": KARPATHY, "val2014/COCO_val2014_02.jpg": ""},
        "dataset_coco.json",
        "train",
        [
            ("COCO_train2014_01.jpg", ("first 0", "A dog, a cat.", "A dog, a cat.")),
            ("val2014/COCO_val2014_02.jpg", ("first 1", "A dog, a cat.", "A dog, a cat.")),
        ],
    ),
    "flickr30k": (
        {
            "f.json": {
                "images": [{"filename": "10.jpg", "split": "val", "imgid": 0, "sentences": [{"raw": "two dogs"}]}]
            },
            "flickr30k-images/10.jpg": "",
        },
        "f.json",
        "val",
        [("flickr30k-images/10.jpg", ("two dogs",))],
    ),
    "visual_genome": (
        {
            "region_descriptions.json": [
                {"id": 1, "regions": [{"phrase": "the clock"}, {"phrase": "a green tree"}]},
                {"id": 2, "regions": []},
                {"id": 3, "regions": [{"phrase": "a wall"}]},
            ],
            "VG_100K_2/3.jpg": "",
        },
        "region_descriptions.json",
        "train",
        [("1.jpg", ("the clock", "a green tree")), ("VG_100K_2/3.jpg", ("a wall",))],
    ),
    "sbu": (
        {
            "SBU_captioned_photo_dataset_urls.txt": "http://x/1/4385_b6.jpg\nhttp://x/2/23_a.jpg\nhttp://x/2/7.jpg\n",
            "SBU_captioned_photo_dataset_captions.txt": "A man, a plan .\n\nA car\n",
        },
        ".",
        "train",
        [("4385_b6.jpg", ("A man, a plan .",)), ("7.jpg", ("A car",))],
    ),
    "cc3m": (
        {
            "Train_GCC-training.tsv": 'a "quoted, word\thttp://x/a.jpg\nb\thttp://x/b.jpg\nc\thttp://x/c.jpg\n',
            f"training/1_{zlib.crc32(b'http://x/b.jpg')}": "",
            f"training/{zlib.crc32(b'http://x/c.jpg')}.JPG": "",
        },
        ".",
        "train",
        [
            (f"0_{zlib.crc32(b'http://x/a.jpg')}", ('a "quoted, word',)),
            (f"training/1_{zlib.crc32(b'http://x/b.jpg')}", ("b",)),
            (f"training/{zlib.crc32(b'http://x/c.jpg')}.JPG", ("c",)),
        ],
    ),
    "cc12m": (
        {"cc12m.tsv": "http://x/a.jpg\ta cat\n"},
        "cc12m.tsv",
        "train",
        [(f"0_{zlib.crc32(b'http://x/a.jpg')}", ("a cat",))],
    ),
    "nocaps": (
        {
            "nocaps_val_4500_captions.json": {
                "images": [
                    {"id": 0, "file_name": "0013.jpg", "domain": "in-domain"},
                    {"id": 1, "file_name": "0015.jpg"},
                ],
                "annotations": [
                    {"image_id": i, "id": 2 * i + j, "caption": f"{i} {j}"} for j in (0, 1) for i in (1, 0)
                ],
            }
        },
        "nocaps_val_4500_captions.json",
        "validation",
        [("0013.jpg", ("0 0", "0 1")), ("0015.jpg", ("1 0", "1 1"))],
    ),
    "webvid": (
        {
            "results_2M_train.csv": "videoid,contentUrl,duration,page_dir,name\n"
            '21,http://x,PT00H00M09S,006001_006050,"Cat, sits"\n22,http://x,PT00H00M09S,006001_006050,""\n',
            "videos/006001_006050/21.mp4": "",
        },
        "results_2M_train.csv",
        "train",
        [("videos/006001_006050/21.mp4", ("Cat, sits",))],
    ),
    "msvd": (
        {
            "AllVideoDescriptions.txt": "# comment\n\n-4ws_5_15 a bird, singing\n-4ws_5_15 a bird\nother_1_2 a car\n",
            "test_list.txt": "-4ws_5_15\n",
            "YouTubeClips/-4ws_5_15.avi": "",
        },
        "AllVideoDescriptions.txt",
        "test",
        [("YouTubeClips/-4ws_5_15.avi", ("a bird, singing", "a bird"))],
    ),
    "didemo": (
        {
            "test_data.json": [
                {"video": "1@N01_5.mov", "description": "a man", "times": [[1, 1]], "annotation_id": 2},
                {"video": "2@N02_6.m4v", "description": "left out", "times": [[0, 1]], "annotation_id": 4},
                {"video": "1@N01_5.mov", "description": "a hat", "times": [[0, 0]], "annotation_id": 3},
            ],
            "test_list.txt": "1@N01_5.mov\n",
            "v/1@N01_5.mp4": "",
        },
        "test_data.json",
        "test",
        [("v/1@N01_5.mp4", ("a man a hat",))],
    ),
    "activitynet": (
        {
            "val_1.json": {
                "v_Qx": {
                    "duration": 82.7,
                    "timestamps": [[0.8, 19.9], [17, 60]],
                    "sentences": ["A girl. ", " She runs."],
                }
            },
            "Qx.mkv": "",
        },
        ".",
        "val",
        [("Qx.mkv", ("A girl. She runs.",))],
    ),
    "lsmdc": (
        {
            "LSMDC16_annos_val.csv": "".join(
                f"0001_A_00.00.51.926-00.00.54.129\t0\t1\t0\t1\t{text}\n" for text in ('SOMEONE, "odd', "He sits.")
            ),
            "0001_A/0001_A_00.00.51.926-00.00.54.129.avi": "",
        },
        "LSMDC16_annos_val.csv",
        "validation",
        [("0001_A/0001_A_00.00.51.926-00.00.54.129.avi", ('SOMEONE, "odd', "He sits."))],
    ),
    "food101": (
        {"meta/test.json": {"apple_pie": ["apple_pie/1005649"], "baby_back_ribs": ["baby_back_ribs/7"]}},
        ".",
        "test",
        [("images/apple_pie/1005649.jpg", "apple pie"), ("images/baby_back_ribs/7.jpg", "baby back ribs")],
    ),
    "pets": (
        {"annotations/trainval.txt": "#a comment\nAbyssinian_100 1 1 1\namerican_bulldog_12 2 2 1\n"},
        "annotations",
        "train",
        [("images/Abyssinian_100.jpg", "Abyssinian"), ("images/american_bulldog_12.jpg", "american bulldog")],
    ),
    "dtd": (
        {"labels/val2.txt": "banded/banded_0002.jpg\n"},
        ".",
        "validation2",
        [("images/banded/banded_0002.jpg", "banded")],
    ),
    "ucf101": (
        {
            "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
            "YoYo/v_YoYo_g25_c05.avi 101\r\n",
            "ucfTrainTestlist/YoYo/v_YoYo_g25_c05.avi": "",
        },
        "ucfTrainTestlist",
        "train",
        [
            ("ucfTrainTestlist/v_ApplyEyeMakeup_g08_c01.avi", "Apply Eye Makeup"),
            ("ucfTrainTestlist/YoYo/v_YoYo_g25_c05.avi", "Yo Yo"),
        ],
    ),
    "hmdb51": (
        {
            "brush_hair_test_split2.txt": "a b_brush_hair_0.avi 1 \nc_1.avi 2 \nd_2.avi 0 \n",
            "wave_test_split2.txt": "e_wave.avi 2 \n",
            "wave_test_split1.txt": "e_wave.avi 1 \n",
        },
        ".",
        "test2",
        [("brush_hair/c_1.avi", "brush hair"), ("wave/e_wave.avi", "wave")],
    ),
    "kinetics400": (
        {
            "train.csv": "label,youtube_id,time_start,time_end,split\nriding a bike,-3B32lodo2M,59,69,train\n"
            '"a, b",x,0,10,train\n',
            "train/-3B32lodo2M_000059_000069.MP4": "",
        },
        "train.csv",
        "train",
        [("train/-3B32lodo2M_000059_000069.MP4", "riding a bike"), ("x_000000_000010.mp4", "a, b")],
    ),
    "ssv2": (
        {
            "something-something-v2-validation.json": [
                {
                    "id": "78687",
                    "label": "holding potato next to bottle",
                    "template": "Holding [something] next to [something]",
                    "placeholders": ["potato", "bottle"],
                }
            ]
        },
        "something-something-v2-validation.json",
        "validation",
        [("78687.webm", "Holding something next to something")],
    ),
}


@pytest.mark.parametrize("name", CAPTIONED)
def test_the_official_files_are_read(tmp_path: Path, name: str) -> None:
    files, named, split, expected = CAPTIONED[name]
    write(tmp_path, files)
    assert told(read(name, tmp_path / named, split), tmp_path) == expected


@pytest.mark.parametrize("name", sorted(CAPTIONED.keys() - {"sbu", "food101"}))  # which take any text, any names
def test_another_file_than_the_official_one_is_one_sentence(tmp_path: Path, name: str) -> None:
    files, named, split, _ = CAPTIONED[name]
    write(tmp_path, {file: {"other": ["x"]} if file.endswith(".json") else "other" for file in files})
    with pytest.raises(ValueError) as caught:
        read(name, tmp_path / named, split)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(ValueError, match=r"no such file|holds no|no such folder"):
        read(name, tmp_path / "nowhere", split)


def test_the_root_is_where_media_are(tmp_path: Path) -> None:
    write(tmp_path, {"notes/dataset_coco.json": KARPATHY, "disk/images/COCO_val2014_04.png": ""})
    (item,) = read("coco", tmp_path / "notes/dataset_coco.json", "test", tmp_path / "disk").items
    assert (item.media, item.id) == (tmp_path / "disk/images/COCO_val2014_04.png", "4")


def test_a_caption_is_a_text_or_a_list_in_published_files_too(tmp_path: Path) -> None:
    image = {"filename": "1.jpg", "split": "test", "imgid": 0}
    for raw, read_as in (("one, two", ("one, two",)), (["one", "two"], ("one", "two"))):
        write(tmp_path, {"f.json": {"images": [{**image, "sentences": [{"raw": raw}]}]}})
        (item,) = read("flickr30k", tmp_path / "f.json", "test").items
        assert item.captions == read_as
    write(tmp_path, {"f.json": {"images": [{**image, "sentences": [{"raw": 3}]}]}})
    with pytest.raises(ValueError, match=r'f\.json is not what this format reads: "caption" must be a text or a list'):
        read("flickr30k", tmp_path / "f.json", "test")


# --- splits that are not each other ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "names", "captions"),
    [
        ("train", ["video0"], ("0 0", "0 1")),
        ("validation", ["video1"], ("1 0", "1 1")),
        ("test", ["video2", "video3"], ("2 0", "2 1")),
        ("train7k", ["video0", "video1"], ("0 0", "0 1")),
        ("train9k", ["video0", "video1", "video2"], ("0 0", "0 1")),
        ("test1k", ["video3"], ("3, of 1k-A",)),
    ],
)
def test_the_splits_of_msrvtt_have_names_of_their_own(
    tmp_path: Path, split: str, names: list[str], captions: tuple[str, ...]
) -> None:
    files = {
        "MSRVTT_data.json": MSRVTT,
        "MSRVTT_train.7k.csv": "video_id\nvideo0\nvideo1\n",
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo1\nvideo2\n",
        "MSRVTT_JSFUSION_test.csv": 'key,vid_key,video_id,sentence\nret0,msr3,video3,"3, of 1k-A"\n',
    }
    items = read("msrvtt", write(tmp_path, files) / "MSRVTT_data.json", split).items
    assert [item.id for item in items] == names and items[0].captions == captions


def test_a_file_of_another_split_is_never_read_as_this_one(tmp_path: Path) -> None:
    write(tmp_path, {"train_qa.json": QA, "test_qa.json": QA, "results_2M_val.csv": "videoid\n"})
    with pytest.raises(ValueError, match=r"train_qa\.json is the file of split 'train', not 'test': name its folder"):
        read("msrvtt_qa", tmp_path / "train_qa.json", "test")
    with pytest.raises(ValueError, match=r"results_2M_val\.csv is the file of split 'validation', not 'train'"):
        read("webvid", tmp_path / "results_2M_val.csv", "train")


def test_a_split_that_a_set_does_not_have_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^MSR-VTT has no split 'test1ka': choose train, validation, .*, test1k$"):
        read("msrvtt", tmp_path, "test1ka")
    assert [FORMATS["coco"].own_split(split) for split in ("val", "valid", "train")] == ["validation"] * 2 + ["train"]
    assert [FORMATS["dtd"].own_split(split) for split in ("val", "test", "test7")] == ["validation1", "test1", "test7"]


def test_other_counts_than_the_field_s_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, {"dataset_coco.json": KARPATHY}) / "dataset_coco.json"
    with caplog.at_level(logging.WARNING):
        read("coco", path)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: split train has 2 items where the field has 113,287 and 6 captions where the field has 566,747"
    )
    caplog.clear()
    replace(FORMATS["coco"], splits={"train": Count(2, 6)})(path, None, "train")
    assert not caplog.records


# --- questions -------------------------------------------------------------------------------------------------------


def test_questions_of_one_clip_are_one_item(tmp_path: Path) -> None:
    write(tmp_path, {"test_qa.json": QA, "youtube_mapping.txt": "-4ws_5_15 vid7\n", "clips/-4ws_5_15.avi": ""})
    asked = (Question("who?", (("man", 1),), "3"), Question("what?", (("cat", 1),), "4"))
    for name, medium in (("msrvtt_qa", "video7.mp4"), ("msvd_qa", "clips/-4ws_5_15.avi")):
        (item,) = read(name, tmp_path, "test").items
        assert (item.media, item.questions, item.captions) == (tmp_path / medium, asked, ())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": 5}, '"answer" must be a text, got 5'),
        ({"answer": None}, '"answer" must be a text, got None'),
        ({"question": None}, "\"question\" must be a text, got 'None'"),
        ({"question": " "}, "\"question\" must be a text, got ' '"),
    ],
)
def test_a_question_or_answer_that_is_no_text_is_a_fault_of_its_row(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    row = {"question": "who?", "answer": "man", "id": 3, "video_id": 7}
    write(tmp_path, {"test_qa.json": [row, {**row, "id": 4, **change}]})
    with pytest.raises(ValueError, match=rf"test_qa\.json, question 4: {complaint}$"):
        read("msrvtt_qa", tmp_path, "test")
    found = FORMATS["msrvtt_qa"](tmp_path, None, "test", "collect")
    assert [problem.kind for problem in found.problems] == ["unreadable rows", "other counts"]
    assert len(found.items[0].questions) == 1


def test_vqa_answers_are_weighted_by_their_annotators(tmp_path: Path) -> None:
    questions = {
        "questions": [{"image_id": 9, "question_id": 9000 + i, "question": f"q{i}?"} for i in range(2)]
        + [{"image_id": 10, "question_id": 10000, "question": "q?"}]
    }
    answers = [
        {
            "question_id": asked["question_id"],
            "image_id": asked["image_id"],
            "answer_type": "yes/no",
            "answers": [{"answer": said, "answer_id": i} for i, said in enumerate(("yes", "no", "yes"))],
        }
        for asked in questions["questions"]
    ]
    files = {
        "v2_OpenEnded_mscoco_train2014_questions.json": questions,
        "v2_mscoco_train2014_annotations.json": {"annotations": answers},
        "v2_OpenEnded_mscoco_test-dev2015_questions.json": questions,
        "train2014/COCO_train2014_000000000009.jpg": "",
    }
    write(tmp_path, files)
    first, second = read("vqav2", tmp_path).items
    assert first.media == tmp_path / "train2014/COCO_train2014_000000000009.jpg"
    assert first.questions[1] == Question("q1?", (("yes", 2), ("no", 1)), "9001", "yes/no")
    assert second.media.name == "COCO_train2014_000000000010.jpg" and len(first.questions) == 2
    write(tmp_path, {"v2_mscoco_train2014_annotations.json": {"annotations": answers[:1]}})
    with pytest.raises(ValueError, match=r"has no answers of question 9001 of v2_Open.*: are both of one split\?"):
        read("vqav2", tmp_path)
    texts = {"questions": [{**asked, "image_id": str(asked["image_id"])} for asked in questions["questions"]]}
    write(tmp_path, {"v2_OpenEnded_mscoco_test2015_questions.json": texts})
    assert read("vqav2", tmp_path, "test").items[1].media.name == "COCO_test2015_000000000010.jpg"
    twice = {"questions": [{"image_id": n, "question_id": 1, "question": "q?"} for n in (9, 10)]}
    write(tmp_path, {"v2_OpenEnded_mscoco_test2015_questions.json": twice})
    with pytest.raises(ValueError, match=r"question 1: question id '1' was asked of '.*000009.jpg' before"):
        read("vqav2", tmp_path, "test")
    unanswered = read("vqav2", tmp_path, "test-dev").items
    assert unanswered[1].questions == (Question("q?", (), "10000", ""),)
    assert unanswered[1].media.name == "COCO_test2015_000000000010.jpg"


def test_segments_of_a_video_are_items(tmp_path: Path) -> None:
    steps = [{"id": i, "segment": [10 * i, 10 * i + 5], "sentence": f"step {i}"} for i in range(2)]
    video = {"subset": "validation", "recipe_type": "113", "annotations": steps, "duration": 241.6}
    database = {"database": {"GLd3": video, "train": {**video, "subset": "training"}}}
    write(tmp_path, {"y.json": database, "validation/113/GLd3/GLd3.mkv": ""})
    items = read("youcook2", tmp_path / "y.json", "val").items
    assert [(item.media.name, item.start, item.end, item.captions, item.id) for item in items] == [
        ("GLd3.mkv", 0.0, 5.0, ("step 0",), "GLd3_0"),
        ("GLd3.mkv", 10.0, 15.0, ("step 1",), "GLd3_1"),
    ]
    steps[1]["segment"] = ["a", 2]
    write(tmp_path, {"y.json": database})
    with pytest.raises(ValueError, match=r'y\.json, segment GLd3_1: "start" must be seconds from 0, got a$'):
        read("youcook2", tmp_path / "y.json", "val")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_csv_has_a_byte_order_mark_crlf_and_quotes_and_a_wrong_row_is_named(tmp_path: Path) -> None:
    rows = ["videoid,page_dir,name", '1,a,"one, ""two"",\r\nthree"', "", "2,a,null"]
    path = tmp_path / "my.csv"
    path.write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    assert [item.captions for item in read("webvid", path).items] == [('one, "two",\r\nthree',), ("null",)]
    for row, complaint in (
        ("3,a,cut, here", "4 fields, wanted 3"),
        ('3,a,"x"y', "not CSV"),
        ("3,a", "2 fields, wanted 3"),
    ):
        path.write_text("\n".join([*rows[:1], "1,a,x", row, "4,a,y"]))
        with pytest.raises(ValueError, match=rf"my\.csv, line 3: {complaint}"):
            read("webvid", path)
        found = FORMATS["webvid"](path, None, "train", on_error="collect")
        assert [item.id for item in found.items] == ["1", "4"]
        assert [problem.item for problem in found.problems] == [f"{path}, line 3"]


def test_sbu_is_read_from_its_newer_file_too(tmp_path: Path) -> None:
    urls = ["http://x/1/4385_b6.jpg", "http://x/2/23_a.jpg"]
    whole = {"image_urls": urls, "user_ids": ["1", "2"], "captions": ["A man, a plan .", "A car"]}
    write(tmp_path, {"sbu-captions-all.json": whole})
    for named in (tmp_path, tmp_path / "sbu-captions-all.json"):
        items = read("sbu", named).items
        assert [(item.media.name, item.captions) for item in items] == [
            ("4385_b6.jpg", ("A man, a plan .",)), ("23_a.jpg", ("A car",)),
        ]  # fmt: skip
    write(tmp_path, {"sbu-captions-all.json": whole | {"captions": ["one"]}})
    with pytest.raises(ValueError, match="2 addresses stand beside 1 captions"):
        read("sbu", tmp_path)
    for wrong in ({"image_urls": "ab", "captions": "cd"}, {"image_urls": {"a": 1}, "captions": {"b": 1}}):
        write(tmp_path, {"sbu-captions-all.json": whole | wrong})
        with pytest.raises(ValueError, match='not what this format reads: "image_urls" and "captions" must be lists'):
            read("sbu", tmp_path)
    write(tmp_path, {"sbu-captions-all.json": whole | {"image_urls": [urls[0], "http://x/"]}})
    with pytest.raises(ValueError, match="picture 2: wanted the address of a picture, got 'http://x/'"):
        read("sbu", tmp_path)


def test_pictures_of_a_class_are_a_list(tmp_path: Path) -> None:
    write(tmp_path, {"meta/train.json": {"apple_pie": "ab"}})
    with pytest.raises(ValueError, match="not what this format reads: the pictures of 'apple_pie' must be a list"):
        read("food101", tmp_path)


def test_a_time_beyond_all_numbers_is_a_fault_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nrunning,abc,1e999,10,train\n")
    with pytest.raises(ValueError, match="line 2: times must be seconds, got 1e999, 10"):
        read("kinetics400", tmp_path)


def test_something_something_is_read_from_the_folder_it_comes_in_now(tmp_path: Path) -> None:
    row = {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]}
    write(
        tmp_path,
        {
            "labels/train.json": [row],
            "labels/validation.json": [row | {"id": "7"}],
            "labels/test.json": [{"id": "1420"}, {"id": "9"}],
            "labels/test-answers.csv": "1420;Twisting something\n9;Holding something, somewhere\n",
            "20bn-something-something-v2/1420.webm": "",
        },
    )
    clips = tmp_path / "20bn-something-something-v2"
    for split, expected in (
        ("train", [("78687", "Holding something")]),
        ("validation", [("7", "Holding something")]),
        ("test", [("1420", "Twisting something"), ("9", "Holding something, somewhere")]),
    ):
        items = read("ssv2", tmp_path / "labels", split, clips).items
        assert [(item.media.stem, item.label) for item in items] == expected
    assert items[0].media == clips / "1420.webm"
    for given, split in (("train.json", "test"), ("test-answers.csv", "train")):
        with pytest.raises(ValueError, match="is the file of split"):
            read("ssv2", tmp_path / "labels" / given, split, clips)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_imagenet_classes_have_names_that_no_other_has(tmp_path: Path) -> None:
    mapping = {
        "n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane",
        "n03710637": "maillot", "n03710721": "maillot, tank suit", "n09": "not mapped",
    }  # fmt: skip
    lines = "".join(f"{identity} {names}\n" for identity, names in mapping.items() if identity != "n09")
    write(tmp_path, {f"{part}/{name}/{name}_1.JPEG": "" for name in mapping for part in ("train", "val")})
    assert set(read("imagenet", tmp_path).labels) == set(mapping)
    write(tmp_path, {"LOC_synset_mapping.txt": lines})
    items = read("imagenet", tmp_path, "validation").items
    assert {item.media.parent.name: item.label for item in items} == {
        "n01440764": "tench", "n02012849": "crane (n02012849)", "n03126707": "crane (n03126707)",
        "n03710637": "maillot", "n03710721": "maillot, tank suit", "n09": "n09",
    }  # fmt: skip
    assert all(item.media.parent.parent.name == "val" for item in items)


def test_imagenet_as_its_archive_has_it(tmp_path: Path) -> None:
    media = "ILSVRC/Data/CLS-LOC"
    write(
        tmp_path,
        {
            f"{media}/train/n01440764/n01440764_1.JPEG": "",
            f"{media}/val/ILSVRC2012_val_00000001.JPEG": "",
            f"{media}/val/ILSVRC2012_val_00000002.JPEG": "",
            "LOC_synset_mapping.txt": "n01440764 tench, Tinca tinca\nn03995372 power drill\n",
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            "ILSVRC2012_val_00000002,n01440764 85 1 499 272 n01440764 1 2 3 4 \n"
            "ILSVRC2012_val_00000001,n03995372 85 1 499 272 \n",
        },
    )
    assert [item.label for item in read("imagenet", tmp_path).items] == ["tench"]
    items = read("imagenet", tmp_path, "validation").items
    assert [(item.media, item.label) for item in items] == [
        (tmp_path / media / "val/ILSVRC2012_val_00000002.JPEG", "tench"),
        (tmp_path / media / "val/ILSVRC2012_val_00000001.JPEG", "power drill"),
    ]
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(ValueError, match=r"LOC_val_solution\.csv.*no such file"):
        read("imagenet", tmp_path, "validation")


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_arrays_are_what_scipy_wrote(tmp_path: Path, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "labels": rng.integers(1, 103, (1, 500)).astype(np.uint8),
        "trnid": rng.integers(1, 8189, (1, 7)).astype(np.uint16),
        "valid": rng.integers(1, 9, (1, 3)).astype(float),
        "one": np.array([[4]], np.int32),
        "wide": np.array([[2**40]]),
    }
    savemat(tmp_path / "x.mat", arrays, do_compression=compressed)
    assert read_mat(tmp_path / "x.mat") == {name: array.ravel().tolist() for name, array in arrays.items()}
    whole = (tmp_path / "x.mat").read_bytes()
    for broken in (b"", whole[:100], whole[: len(whole) // 2], b"MATLAB 7.3" + bytes(200)):
        (tmp_path / "y.mat").write_bytes(broken)
        with pytest.raises(ValueError, match=r"y\.mat is not a MATLAB 5 file of plain arrays"):
            read_mat(tmp_path / "y.mat")


def test_flowers_are_labelled_by_number_or_by_the_names_beside(tmp_path: Path) -> None:
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[77, 3, 21]], np.uint8)}, do_compression=True)
    savemat(tmp_path / "setid.mat", {"trnid": [[1]], "valid": [[2, 3]], "tstid": [[1]]}, do_compression=True)
    expected = [("jpg/image_00002.jpg", "3"), ("jpg/image_00003.jpg", "21")]
    assert told(read("flowers102", tmp_path, "val"), tmp_path) == expected
    write(tmp_path, {"cat_to_name.json": {"21": "fire lily"}})
    assert told(read("flowers102", tmp_path, "val"), tmp_path) == [expected[0], ("jpg/image_00003.jpg", "fire lily")]


# --- CIFAR -----------------------------------------------------------------------------------------------------------

NAMES = ["cat", "aquarium_fish", "dog"]
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
LABELS = [2, 0, 1]


def planes(pictures: np.ndarray) -> bytes:
    return pictures.transpose(0, 3, 1, 2).tobytes()


def old_pickle(values: dict[str, Any]) -> bytes:
    """A dict as Python 2 pickled it at protocol 2: byte strings, and arrays by numpy's own functions."""

    def put(value: Any) -> bytes:
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode("latin-1")
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little", signed=True)
        if isinstance(value, list):
            return b"](" + b"".join(map(put, value)) + b"e"
        none = b"J" + (-1).to_bytes(4, "little", signed=True)
        dtype = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87q\x06Rq\x07(K\x03U\x01|NNN" + none + none + b"K\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01b\x87q\x04R"
        shape = b"".join(put(size) for size in value.shape) + b"\x86"
        held = b"T" + value.nbytes.to_bytes(4, "little") + value.tobytes()
        return made + b"(K\x01" + shape + dtype + b"\x89" + held + b"tb"

    return b"\x80\x02}q\x00(" + b"".join(put(each) for pair in values.items() for each in pair) + b"u."


def old_batch(pictures: np.ndarray, labels: list[int], labelled: str = "labels") -> bytes:
    data = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    names = [f"{i}.png" for i in range(len(labels))]
    return old_pickle({"batch_label": "one of 5", labelled: labels, "data": data, "filenames": names})


def binary_batch(*columns: list[int]) -> bytes:
    return b"".join(bytes(labels) + planes(picture[None]) for *labels, picture in zip(*columns, PICTURES, strict=True))


CIFAR: dict[str, Callable[[], dict[str, bytes | str]]] = {
    "cifar10 binary": lambda: {
        **{f"data_batch_{i}.bin": binary_batch(LABELS) for i in range(1, 6)},
        "test_batch.bin": binary_batch(LABELS),
        "batches.meta.txt": "".join(f"{name}\n" for name in NAMES) + "\n",
    },
    "cifar10 python": lambda: {
        **{f"data_batch_{i}": old_batch(PICTURES, LABELS) for i in range(1, 6)},
        "test_batch": old_batch(PICTURES, LABELS),
        "batches.meta": old_pickle({"num_cases_per_batch": 10000, "label_names": NAMES}),
    },
    "cifar100 binary": lambda: {
        "train.bin": binary_batch([9, 9, 9], LABELS),
        "test.bin": binary_batch([9, 9, 9], LABELS),
        "fine_label_names.txt": "".join(f"{name}\n" for name in NAMES),
    },
    "cifar100 python": lambda: {
        "train": old_batch(PICTURES, LABELS, "fine_labels"),
        "test": old_batch(PICTURES, LABELS, "fine_labels"),
        "meta": old_pickle({"fine_label_names": NAMES}),
    },
}


@pytest.mark.parametrize("version", CIFAR)
def test_cifar_pictures_are_those_of_the_file(tmp_path: Path, version: str) -> None:
    write(tmp_path, CIFAR[version]())
    spec = f"{version.split()[0]}:{tmp_path}"
    source = open_source(spec, DataConfig(split="test"))
    assert isinstance(source, FileSource) and source.length("image") == 3
    assert source.labels == ["aquarium fish", "cat", "dog"]
    for index in range(3):
        frames, _ = source.frames("image", index, Ask(32, 1, "bicubic"))
        assert np.array_equal(frames[0], PICTURES[index])
        assert source.by_medium["image"][index].label == NAMES[LABELS[index]].replace("_", " ")
    training = read(version.split()[0], tmp_path).items
    assert len(training) == len({item.key for item in training}) == (15 if "cifar10 " in version else 3)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "the instruction GLOBAL os system is not read"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "the instruction SHORT_BINUNICODE os is not read"),
        (b"cnumpy\nload\n.", "the instruction GLOBAL numpy load is not read"),
        (b"\x80\x02}U\x04dataI1\nR.", "the instruction"),
        (b"\x80\x02K\x01.", "no attribute 'items'"),
        (b"\x80\x02]}.", ""),
        (b"\x80\x02}q\x00(U\x04da", ""),
        (b"", ""),
        (b"not a pickle", ""),
    ],
)
def test_a_pickle_of_anything_else_is_refused_in_one_sentence(tmp_path: Path, data: bytes, complaint: str) -> None:
    write(tmp_path, {"train": data, "meta": old_pickle({"fine_label_names": NAMES})})
    with pytest.raises(ValueError) as caught:
        read("cifar100", tmp_path)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_cifar_file_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, {**CIFAR["cifar100 binary"](), "train.bin": binary_batch([9, 9, 9], LABELS)[:-1]})
    with pytest.raises(ValueError, match=r"train\.bin is cut short: .* are not whole records of 3,074$"):
        read("cifar100", tmp_path)


def test_plain_values_are_read_as_python_reads_them() -> None:
    import pickle

    value = {"a": [1, 300, 70_000, -5, None, True], "b": (), "c": (1,), "d": (1, 2), "e": ((1, 2, 3, 4), {"f": b"x"})}
    assert plain_pickle(pickle.dumps({"x": "é", 1: value["a"], 2: value["d"]}, protocol=2)) == {
        "x": "é", 1: value["a"], 2: (1, 2)
    }  # fmt: skip
    assert plain_pickle(pickle.dumps(value, protocol=3)) == value


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_format_is_described_and_has_a_test() -> None:
    for name, row in FORMATS.items():
        assert row.title and row.files and row.media, name
        assert not row.splits or (row.terms and row.obtainable), name
    named = {version.split()[0] for version in CIFAR} | CAPTIONED.keys()
    named |= {"manifest", "folder", "captions", "list", "imagenet", "flowers102", "youcook2"}
    assert named | {"msrvtt", "msrvtt_qa", "msvd_qa", "vqav2"} == FORMATS.keys()
