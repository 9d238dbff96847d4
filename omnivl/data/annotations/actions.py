"""Published sets of clips with class labels, from their own annotation files.

Labels are words, for the prompts. Where each shape was read stands in the table of `formats`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from omnivl.data.annotations.classes import words
from omnivl.data.annotations.items import Item, Notes, Row, reader
from omnivl.data.annotations.tables import (
    base_of,
    csv_rows,
    file_of,
    media_by_id,
    path_labels,
    read_json,
    text_lines,
)
from omnivl.data.files import resolve

FOLDS = (1, 2, 3)
UCF101 = {f"{part}{fold}": f"{part}list{fold:02d}.txt" for fold in FOLDS for part in ("train", "test")}
KINETICS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
SSV2 = {split: f"something-something-v2-{split}.json" for split in ("train", "validation")}
SSV2_LABELS = {
    "train": "train.json",
    "validation": "validation.json",
    "test": "test-answers.csv",
}  # labels/, as it is now


@reader()
def read_ucf101(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """trainlist01.txt: `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1` a line; testlist01.txt: the path alone."""
    find = media_by_id(base_of(path, root), ".avi")
    file = file_of(path, split, UCF101)
    for where, line in text_lines(file):
        name = line if split.startswith("test") else line.rpartition(" ")[0].strip()
        folder, slash, _ = name.partition("/")
        if slash:
            label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)  # ApplyEyeMakeup
            yield where, Item(find(Path(name).stem), label=label, id=name)
        else:
            notes.fault(
                "unreadable rows", where, f"wanted CLASS/CLIP.avi{'' if line == name else ' NUMBER'}, got {line!r}"
            )


@reader()
def read_hmdb51(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """CLASS_test_split1.txt to 3: `CLIP.avi TAG` a line; tag 1 is training, 2 testing, 0 neither. Clips are in CLASS/.
    `path` is the folder of these files."""
    ending, tag = f"_test_split{split[-1]}.txt", "1" if split.startswith("train") else "2"
    files = sorted(resolve(path).glob(f"*{ending}"))
    if not files:
        raise ValueError(f"{path} holds no CLASS{ending}")
    for file in files:
        name = file.name.removesuffix(ending)
        for where, clip, told in path_labels(file, notes):
            if told == tag:
                yield where, Item(base_of(path, root) / name / clip, label=words(name), id=f"{name}/{clip}")


@reader()
def read_kinetics(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Columns label, youtube_id, time_start, time_end, split; a clip is ID_START_END.mp4 with six digits each, cut
    already. A test file without labels holds nothing to read."""
    find = media_by_id(base_of(path, root), ".mp4")
    for where, row in csv_rows(file_of(path, split, KINETICS), notes):
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
        except (ValueError, OverflowError):
            notes.fault("unreadable rows", where, f"times must be seconds, got {row['time_start']}, {row['time_end']}")
            continue
        clip = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        yield where, Item(find(clip), label=row.get("label", "").strip().strip('"'), id=clip)


@reader()
def read_ssv2(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """[{"id", "template": "Putting [something] on [something]", ...}]; the class is the template without brackets. Of
    the test split `ID;class` a line."""
    find = media_by_id(base_of(path, root), ".webm")
    older = path.name in SSV2.values() or (split in SSV2 and resolve(path / SSV2[split]).is_file())
    file = file_of(path, split, SSV2 if older else SSV2_LABELS)
    if split == "test":
        for where, row in csv_rows(file, notes, ("id", "label"), delimiter=";"):
            yield where, Item(find(row["id"]), label=row["label"], id=row["id"])
        return
    for clip in read_json(file):
        label = clip["template"].replace("[", "").replace("]", "")
        yield f"{file}, clip {clip['id']}", Item(find(str(clip["id"])), label=label, id=str(clip["id"]))
