"""Published sets of clips with texts and questions, from their own annotation files.

Where each shape was read stands in the table of `formats`. `path` is the annotation file, or the folder of several.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivl.data.annotations.items import Item, Notes, Question, Row, reader
from omnivl.data.annotations.own import span_of
from omnivl.data.annotations.tables import (
    base_of,
    beside,
    captions_in,
    csv_rows,
    file_of,
    media_by_id,
    path_labels,
    read_json,
    text_lines,
)
from omnivl.data.files import resolve

# the splits of MSR-VTT that retrieval papers made; 1k-A has one sentence of each clip
MSRVTT_TEST1K = "MSRVTT_JSFUSION_test.csv"
MSRVTT_TRAINING = {"train7k": "MSRVTT_train.7k.csv", "train9k": "MSRVTT_train.9k.csv"}
LISTS = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}
QUESTIONS = {"train": "train_qa.json", "validation": "val_qa.json", "test": "test_qa.json"}
DIDEMO = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}
ACTIVITYNET = {"train": "train.json", "validation": "val_1.json", "validation2": "val_2.json"}
LSMDC = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
LSMDC_COLUMNS = ("clip_id", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
YOUCOOK2 = {"train": "training", "validation": "validation"}
WEBVID = {
    f"results_{size}_{part}.csv": split
    for size in ("2M", "10M")
    for part, split in (("train", "train"), ("val", "validation"))
}


@reader()
def read_webvid(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Columns videoid, page_dir, name (the text); a clip is videos/PAGE_DIR/VIDEOID.mp4, with or without videos/."""
    if WEBVID.get(path.name, split) != split:
        raise ValueError(f"{path} is the file of split {WEBVID[path.name]!r}, not {split!r}")
    base = base_of(path, root)
    base = base / "videos" if (base / "videos").is_dir() else base
    for where, row in csv_rows(path, notes):
        name = row["videoid"]
        yield where, Item(base / row["page_dir"] / f"{name}.mp4", captions_in(row["name"]), id=name)


@reader()
def read_msrvtt(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """{"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}, and for the splits of retrieval a
    CSV file beside it: MSRVTT_train.7k.csv and 9k (column video_id), MSRVTT_JSFUSION_test.csv (and sentence)."""
    find = media_by_id(base_of(path, root), ".mp4")
    if split == "test1k":
        for where, row in csv_rows(beside(path, MSRVTT_TEST1K), notes):
            yield where, Item(find(row["video_id"]), captions_in(row["sentence"]), id=row["video_id"])
        return
    data = read_json(path)
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for said in data["sentences"]:
        captions[said["video_id"]] += captions_in(said["caption"])
    if split in MSRVTT_TRAINING:
        names = [row["video_id"] for _, row in csv_rows(beside(path, MSRVTT_TRAINING[split]), notes)]
    else:
        own = "validate" if split == "validation" else split
        names = [video["video_id"] for video in data["videos"] if video["split"] == own]
    for name in names:
        yield f"{path}, video {name}", Item(find(name), captions[name], id=name)


@reader()
def read_msrvtt_qa(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """[{"question", "answer", "id", "video_id": 6513}], of the clips video6513.mp4."""
    find = media_by_id(base_of(path, root), ".mp4")
    file = file_of(path, split, QUESTIONS)
    for row in read_json(file):
        yield f"{file}, question {row['id']}", questioned(find(f"video{row['video_id']}"), row)


@reader()
def read_msvd_qa(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """The same, of the clips vid1.avi, or as youtube_mapping.txt beside it says (`NAME vid1` a line)."""
    find = media_by_id(base_of(path, root), ".avi")
    mapping = beside(path, "youtube_mapping.txt")
    lines = path_labels(mapping, notes) if resolve(mapping).is_file() else ()
    names = {clip: name for _, name, clip in lines}
    file = file_of(path, split, QUESTIONS)
    for row in read_json(file):
        clip = f"vid{row['video_id']}"
        yield f"{file}, question {row['id']}", questioned(find(names.get(clip, clip), clip), row)


def questioned(media: Path, row: dict[str, Any]) -> Item:
    return Item(media, questions=(Question(row["question"], ((row["answer"], 1.0),), str(row["id"])),))


@reader()
def read_msvd(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """AllVideoDescriptions.txt: `CLIP a sentence` a line, comments start with #; the field's splits are lists of clips
    beside it (train_list.txt, val_list.txt, test_list.txt)."""
    find = media_by_id(base_of(path, root), ".avi")
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for _, line in text_lines(path):
        name, _, said = line.partition(" ")
        if not name.startswith("#"):
            captions[name] += captions_in(said)
    for where, name in text_lines(beside(path, LISTS[split])):
        yield where, Item(find(name), captions[name], id=name)


@reader()
def read_didemo(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """[{"video", "description", ...}]: all sentences of a video joined are its text, in the order of the file. Where
    test_list.txt and the like lie beside, only their videos, as the field reports them."""
    find = media_by_id(base_of(path, root), ".mp4")
    file = file_of(path, split, DIDEMO)
    listed = beside(path, LISTS[split])
    kept = {line for _, line in text_lines(listed)} if resolve(listed).is_file() else None
    said: dict[str, list[str]] = defaultdict(list)
    for row in read_json(file):
        said[row["video"]] += captions_in(row["description"])
    for video, sentences in said.items():
        if kept is None or video in kept:
            yield f"{file}, video {video}", Item(find(Path(video).stem), (" ".join(filter(None, sentences)),), id=video)


@reader()
def read_activitynet(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """{"v_QOlSCBRmfWY": {"sentences": [...], ...}}: all sentences of a video joined are its text."""
    find = media_by_id(base_of(path, root), ".mp4")
    file = file_of(path, split, ACTIVITYNET)
    for name, video in read_json(file).items():
        paragraph = " ".join(filter(None, captions_in(video["sentences"])))
        yield f"{file}, video {name}", Item(find(name, name.removeprefix("v_")), (paragraph,), id=name)


@reader()
def read_lsmdc(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Six columns with tabs between, of which the first is the clip and the last its sentence. The test split is the
    challenge's of 1,000 clips."""
    find = media_by_id(base_of(path, root), ".avi")
    for where, row in csv_rows(file_of(path, split, LSMDC), notes, LSMDC_COLUMNS, tabs=True):
        yield where, Item(find(row["clip_id"]), captions_in(row["sentence"]), id=row["clip_id"])


@reader()
def read_youcook2(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """{"database": {ID: {"subset", "annotations": [{"segment": [start, end], "id", "sentence"}]}}}: an item is a
    segment."""
    find = media_by_id(base_of(path, root), ".mp4")
    for name, video in read_json(path)["database"].items():
        for step in video["annotations"] if video["subset"] == YOUCOOK2[split] else ():
            identity = f"{name}_{step['id']}"
            where = f"{path}, segment {identity}"
            try:
                start, end = span_of({"start": step["segment"][0], "end": step["segment"][1]})
            except ValueError as error:
                notes.fault("unreadable rows", where, str(error))
                continue
            yield where, Item(find(name), captions_in(step["sentence"]), id=identity, start=start, end=end)
