"""Published sets of pictures with class labels, from their own annotation files.

Labels are words, for the prompts: the names of the files with blanks for underscores. Where each shape was read stands
in the table of `formats`.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omnivl.data.annotations.items import Item, Notes, Row, reader
from omnivl.data.annotations.own import split_folder, subfolders
from omnivl.data.annotations.tables import base_of, beside, csv_rows, read_json, text_lines
from omnivl.data.files import find_media, resolve

MAT_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
MAT_MATRIX, MAT_COMPRESSED = 14, 15
MAT_LIMIT = 2**24  # bytes of one array: labels and splits have a few thousand numbers


def words(name: str) -> str:
    return name.replace("_", " ")


@reader()
def read_imagenet(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """train/ and val/ with a folder a class (n01440764), and LOC_synset_mapping.txt with their names; without it the
    folder's name is the label. The 50,000 of validation may lie in val/ itself: LOC_val_solution.csv then tells their
    classes. Where the archive's own tree is left as it is, both are in ILSVRC/Data/CLS-LOC/. `root` means nothing."""
    mapping = path / "LOC_synset_mapping.txt"
    names = class_names(mapping) if resolve(mapping).is_file() else {}
    archive = resolve(path) / "ILSVRC" / "Data" / "CLS-LOC"
    media = archive if archive.is_dir() else resolve(path)
    solution = path / "LOC_val_solution.csv"
    if split == "validation" and (media / "val").is_dir() and not subfolders(media / "val"):
        for where, row in csv_rows(solution, notes):
            identity = row["PredictionString"].partition(" ")[0]  # then a box, and more of the same class
            file = media / "val" / f"{row['ImageId']}.JPEG"
            yield where, Item(file, label=names.get(identity, identity), id=row["ImageId"])
        return
    for folder in subfolders(split_folder(media, split)):
        for file in find_media(folder):
            yield str(file), Item(file, label=names.get(folder.name, folder.name))


def class_names(mapping: Path) -> dict[str, str]:
    """{"n01440764": "tench"}: the first synonym, where others share it all of them, where those do too with the id."""
    lines = (line.partition(" ") for _, line in text_lines(mapping))
    synonyms = {identity: names.strip() for identity, _, names in lines}
    firsts = Counter(names.partition(",")[0] for names in synonyms.values())
    wholes = Counter(synonyms.values())
    return {
        identity: first if firsts[first] == 1 else names if wholes[names] == 1 else f"{names} ({identity})"
        for identity, names in synonyms.items()
        for first in (names.partition(",")[0],)
    }


@reader()
def read_food101(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """meta/train.json and test.json: {"apple_pie": ["apple_pie/1005649", ...]}, below images/. `path` is the folder of
    both, or meta/."""
    base = path if (path / "meta").is_dir() else resolve(path).parent
    for name, pictures in read_json(base / "meta" / f"{split}.json").items():
        if not isinstance(pictures, list):
            raise TypeError(f"the pictures of {name!r} must be a list")
        for picture in pictures:
            yield picture, Item((root or base) / "images" / f"{picture}.jpg", label=words(name), id=picture)


@reader()
def read_pets(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """annotations/trainval.txt and test.txt: `Abyssinian_100 CLASS SPECIES BREED`; comments start with #. `path` is the
    folder annotations/; pictures are in images/ beside it."""
    base = root or resolve(path).parent
    for where, line in text_lines(path / {"train": "trainval.txt"}.get(split, f"{split}.txt")):
        if not line.startswith("#"):
            name = line.split()[0]
            yield where, Item(base / "images" / f"{name}.jpg", label=words(name.rpartition("_")[0]), id=name)


@reader()
def read_dtd(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """labels/train1.txt to test10.txt: `banded/banded_0002.jpg`, below images/. `path` is the folder of both."""
    part = split.replace("validation", "val")
    for where, line in text_lines(path / "labels" / f"{part}.txt"):
        name, slash, _ = line.partition("/")
        if slash:
            yield where, Item((root or path) / "images" / line, label=words(name), id=line)
        else:
            notes.fault("unreadable rows", where, f"wanted CLASS/PICTURE.jpg, got {line[:60]!r}")


@reader()
def read_flowers102(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """imagelabels.mat ("labels", of picture 1, 2, ...) and setid.mat ("trnid", "valid", "tstid"), pictures in jpg/. The
    set publishes no class names: they are taken from cat_to_name.json ({"21": "fire lily"}) where that lies beside."""
    labels = read_mat(beside(path, "imagelabels.mat"))["labels"]
    numbers = read_mat(beside(path, "setid.mat"))[{"train": "trnid", "validation": "valid", "test": "tstid"}[split]]
    listed = beside(path, "cat_to_name.json")
    names = read_json(listed) if resolve(listed).is_file() else {}
    for number in numbers:
        label = str(labels[number - 1])
        name = f"image_{number:05d}"
        yield name, Item(base_of(path, root) / "jpg" / f"{name}.jpg", label=names.get(label, label), id=name)


def read_mat(path: Path) -> dict[str, list[int]]:
    """The arrays of whole numbers in a MATLAB 5 file, by name, each as a flat list.

    The file is a header of 128 bytes and elements (type, size, data); an array is an element of elements: flags,
    dimensions, name, values ("MAT-File Format", The MathWorks, chapter 1). Raises ValueError for anything else.
    """
    try:
        data = resolve(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    arrays = {}
    try:
        if data[126:128] != b"IM":
            raise ValueError("no little-endian MATLAB 5 header")
        for kind, element in mat_elements(data[128:]):
            if kind == MAT_COMPRESSED:
                kind, element = next(mat_elements(zlib.decompressobj().decompress(element, MAT_LIMIT)))
            if kind == MAT_MATRIX:
                _, _, (_, name), (number, values), *_ = mat_elements(element)
                numbers = np.frombuffer(values, MAT_NUMBERS[number])
                arrays[name.decode("ascii")] = [int(value) for value in numbers]
    except (ValueError, KeyError, StopIteration, zlib.error) as error:
        raise ValueError(f"{path} is not a MATLAB 5 file of plain arrays ({error})") from None
    return arrays


def mat_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the elements in a row; up to 4 bytes of data may sit in the header itself."""
    at = 0
    while at + 8 <= len(data):
        kind, size = np.frombuffer(data[at : at + 8], "<u4").tolist()
        if kind >> 16:
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            if at + 8 + size > len(data):
                raise ValueError("it is cut short")
            yield kind, data[at + 8 : at + 8 + size]
            at += 8 + size + (0 if kind == MAT_COMPRESSED else -size % 8)
