"""Published sets of pictures with texts and questions, from their own annotation files.

Where each shape was read stands in the table of `formats`. `path` is the annotation file, or the folder of several.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivl.data.annotations.items import Item, Notes, Question, Row, reader
from omnivl.data.annotations.tables import (
    base_of,
    beside,
    captions_in,
    csv_rows,
    file_of,
    media_by_id,
    read_json,
    text_lines,
)
from omnivl.data.files import resolve

SBU = "sbu-captions-all.json"
CC3M = {"train": "Train_GCC-training.tsv", "validation": "Validation_GCC-1.1.0-Validation.tsv"}
VQA = "v2_OpenEnded_mscoco_{}_questions.json"
VQA_IMAGES = {"train": "train2014", "validation": "val2014", "test": "test2015", "test-dev": "test2015"}
VQA_FILES = {split: VQA.format(images) for split, images in VQA_IMAGES.items()} | {
    "test-dev": VQA.format("test-dev2015")
}


@reader()
def read_karpathy(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Karpathy's splits: {"images": [{"filepath", "filename", "split", "sentences": [{"raw"}], "imgid", "cocoid"}]}.

    Split "restval" belongs to train, as everybody trains on it.
    """
    own = {"train": ("train", "restval"), "validation": ("val",)}.get(split, (split,))
    find = media_by_id(base_of(path, root), ".jpg")
    for number, image in enumerate(read_json(path)["images"]):
        if image["split"] in own:
            captions = tuple(caption for said in image["sentences"] for caption in captions_in(said["raw"]))
            media = find(Path(image["filename"]).stem)
            yield f"{path}, image {number}", Item(media, captions, id=str(image.get("cocoid", image["imgid"])))
        else:
            notes.elsewhere[image["split"]] += 1


@reader()
def read_visual_genome(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """[{"id", "regions": [{"phrase", ...}]}]; the phrases of all regions are the picture's texts."""
    find = media_by_id(base_of(path, root), ".jpg")
    for image in read_json(path):
        phrases = tuple(phrase for region in image["regions"] for phrase in captions_in(region["phrase"]))
        identity = str(image["id"])
        yield f"{path}, image {identity}", Item(find(identity), phrases, id=identity)


@reader()
def read_sbu(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Addresses and captions in two files, line by line, or in sbu-captions-all.json: {"image_urls": [..], "captions":
    [..]}; a picture keeps the last part of its address."""
    base = base_of(path, root)
    file = beside(path, SBU) if resolve(path).is_dir() else path
    if file.suffix == ".json" and resolve(file).is_file():
        whole = read_json(file)
        urls, captions = whole["image_urls"], whole["captions"]
        if not isinstance(urls, list) or not isinstance(captions, list):
            raise TypeError('"image_urls" and "captions" must be lists')
        places = [f"{file}, picture {number}" for number in range(1, len(urls) + 1)]
    else:
        told, said = (
            list(text_lines(beside(path, f"SBU_captioned_photo_dataset_{name}.txt"), blank=True))
            for name in ("urls", "captions")
        )
        places, urls, captions = [where for where, _ in told], [url for _, url in told], [text for _, text in said]
    if len(urls) != len(captions):
        raise ValueError(f"{path}: {len(urls):,} addresses stand beside {len(captions):,} captions; they must match")
    for where, url, caption in zip(places, urls, captions, strict=True):
        if name := url.rpartition("/")[2]:
            yield where, Item(base / name, captions_in(caption))
        else:
            notes.fault("unreadable rows", where, f"wanted the address of a picture, got {url!r}")


@reader()
def read_cc3m(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Conceptual Captions: `caption TAB address` a line."""
    file = file_of(path, split, CC3M)
    yield from by_address(file, base_of(path, root), notes, ("caption", "url"))


@reader()
def read_cc12m(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Conceptual 12M: `address TAB caption` a line."""
    yield from by_address(file_of(path, split, {"train": "cc12m.tsv"}), base_of(path, root), notes, ("url", "caption"))


def by_address(file: Path, base: Path, notes: Notes, columns: tuple[str, str]) -> Iterator[Row]:
    """Pictures as the usual downloaders name them: NUMBER_CRC32 of the address, or CRC32 alone."""
    find = media_by_id(base, "")
    for number, (where, row) in enumerate(csv_rows(file, notes, columns, tabs=True)):
        crc = zlib.crc32(row["url"].encode())
        yield where, Item(find(f"{number}_{crc}", str(crc)), captions_in(row["caption"]))


@reader()
def read_nocaps(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """{"images": [{"id", "file_name", ...}], "annotations": [{"image_id", "caption"}]}, the form of COCO's captions."""
    data = read_json(file_of(path, split, {"validation": "nocaps_val_4500_captions.json"}))
    find = media_by_id(base_of(path, root), ".jpg")
    captions: dict[Any, tuple[str, ...]] = defaultdict(tuple)
    for said in data["annotations"]:
        captions[said["image_id"]] += captions_in(said["caption"])
    for image in data["images"]:
        media, identity = find(Path(image["file_name"]).stem), image["id"]
        yield f"{path}, image {identity}", Item(media, captions[identity], id=str(identity))


@reader()
def read_vqav2(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """Questions: {"questions": [{"image_id", "question", "question_id"}]}; their answers in the file beside, of the
    same splits but the test ones: {"annotations": [{"question_id", "answer_type", "answers": [{"answer"}]}]}."""
    file = file_of(path, split, VQA_FILES)
    images = VQA_IMAGES[split]
    find = media_by_id(base_of(path, root), ".jpg")
    told: dict[Any, Any] = {}
    if not split.startswith("test"):
        answers = beside(file, f"v2_mscoco_{images}_annotations.json")
        told = {given["question_id"]: given for given in read_json(answers)["annotations"]}
    for asked in read_json(file)["questions"]:
        identity = asked["question_id"]
        if told and identity not in told:
            raise ValueError(f"{answers} has no answers of question {identity} of {file.name}: are both of one split?")
        given = told.get(identity, {})
        weights: dict[str, float] = defaultdict(float)
        for answer in given.get("answers", ()):
            weights[answer["answer"]] += 1
        question = Question(asked["question"], tuple(weights.items()), str(identity), given.get("answer_type", ""))
        media = find(f"COCO_{images}_{str(asked['image_id']).zfill(12)}")
        yield f"{file}, question {identity}", Item(media, questions=(question,), id=str(asked["image_id"]))
