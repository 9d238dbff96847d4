"""The table of formats: for each the reader, what it is given, what the field expects, and where its shape was read.

A new format is a reader (one generator of rows) and a line here. Counts are those the field reports; a set that has
others is still read, and one warning says so. Terms are a pointer to what the publishers say, no advice.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omnivl.data.annotations import actions, cifar, classes, own, pictures, videos
from omnivl.data.annotations.items import Annotations, OnError, Problem, Reader

log = logging.getLogger(__name__)

TORCHVISION, MMACTION, CLIP4CLIP = (
    "torchvision.datasets",
    "MMAction2 tools/data/parse_file_list.py",
    "CLIP4Clip's loader",
)


@dataclass(frozen=True)
class Count:
    """How many items, captions and questions a split has; None where the field names no number."""

    items: int | None = None
    captions: int | None = None
    questions: int | None = None


@dataclass(frozen=True)
class Format:
    reader: Reader
    title: str
    files: str  # what is written after the colon, and what must lie beside it
    media: str  # how the media lie below the root
    splits: Mapping[str, Count] = field(default_factory=dict)  # none: any split
    terms: str = ""
    obtainable: str = ""
    verified: str = ""  # what its shape was read in; "" where neither documentation nor a peer's loader could be

    def __call__(self, path: Path, root: Path | None, split: str, on_error: OnError = "raise") -> Annotations:
        """The items of a split. Other counts than the field's are a warning, or with "collect" one of the problems.

        Raises ValueError (one sentence) for a split or file that is not there or a row that is wrong.
        """
        name = self.own_split(split)
        annotations = self.reader(path, root, name, on_error)
        told = self.differs(annotations, name)
        if told and on_error == "collect":
            annotations.problems.append(Problem("other counts", str(path), told))
        elif told:
            log.warning("%s: %s", path, told)
        return annotations

    def own_split(self, split: str) -> str:
        """The format's name of a split: "val" is "validation", and of several folds the first is meant.

        Raises ValueError where it has none such.
        """
        if not self.splits or split in self.splits:
            return split
        plain = "validation" if split in own.VALIDATION else split
        for name in (plain, f"{plain}1"):
            if name in self.splits:
                return name
        raise ValueError(f"{self.title} has no split {split!r}: choose {', '.join(self.splits)}")

    def differs(self, annotations: Annotations, split: str) -> str:
        """A sentence on counts that are not the field's; "" where all are."""
        expected = self.splits.get(split, Count())
        wanted = (expected.items, expected.captions, expected.questions)
        told = [
            f"{has:,} {what} where the field has {number:,}"
            for what, number, has in zip(("items", "captions", "questions"), wanted, annotations.counts(), strict=True)
            if number is not None and number != has
        ]
        return f"split {split} has {' and '.join(told)}" if told else ""


def folds(count: int, **splits: int) -> dict[str, Count]:
    """Official folds of one size, each a split with a name of its own: train1, test1, train2, ..."""
    return {f"{split}{fold}": Count(size) for fold in range(1, count + 1) for split, size in splits.items()}


FORMATS: dict[str, Format] = {
    # people's own
    "manifest": Format(
        own.read_manifest,
        "a manifest",
        'my.jsonl: {"media": "a/b.jpg", "caption": "..."} a line',
        "paths relative to the manifest",
        verified="docs: ours",
    ),
    "folder": Format(own.read_folder, "class folders", "pets/", "pets/CLASS/picture.jpg", verified="docs: ours"),
    "captions": Format(
        own.read_captions,
        "captions beside their media",
        "folder/, as img2dataset's output_format=files writes it",
        "folder/a/b.jpg and folder/a/b.txt, a caption a line",
        verified="docs: ours",
    ),
    "list": Format(
        own.read_list, "a list", "train.txt: PATH LABEL a line", "paths relative to the list", verified="docs: ours"
    ),
    # pictures with texts
    "coco": Format(
        pictures.read_karpathy,
        "COCO captions, Karpathy's splits",
        "dataset_coco.json",
        "train2014/COCO_train2014_....jpg, val2014/...",
        {"train": Count(113_287, 566_747), "validation": Count(5_000, 25_010), "test": Count(5_000, 25_010)},
        "annotations CC BY 4.0; pictures Flickr's terms",
        "yes",
        "BEiT-3 (microsoft/unilm beit3/datasets.py)",
    ),
    "flickr30k": Format(
        pictures.read_karpathy,
        "Flickr30K, Karpathy's splits",
        "dataset_flickr30k.json",
        "flickr30k-images/....jpg",
        {"train": Count(29_000, 145_000), "validation": Count(1_014, 5_070), "test": Count(1_000, 5_000)},
        "research and education; pictures Flickr's terms",
        "pictures by request",
        "VSE++ (fartashf/vsepp data.py) and OpenFlamingo's evaluation",
    ),
    "visual_genome": Format(
        pictures.read_visual_genome,
        "Visual Genome region descriptions",
        "region_descriptions.json",
        "VG_100K/1.jpg, VG_100K_2/...",
        {"train": Count(108_077)},
        "CC BY 4.0",
        "yes",
        "the set's Python driver (ranjaykrishna/visual_genome_python_driver local.py, utils.py)",
    ),
    "sbu": Format(
        pictures.read_sbu,
        "SBU captioned photos",
        "dataset/ with SBU_captioned_photo_dataset_urls.txt and ..._captions.txt",
        "the last part of each address",
        {"train": Count(None, 1_000_000)},
        "pictures Flickr's terms",
        "annotations yes; many pictures are gone",
        f"{TORCHVISION}.sbu",
    ),
    "cc3m": Format(
        pictures.read_cc3m,
        "Conceptual Captions",
        "Train_GCC-training.tsv or Validation_GCC-1.1.0-Validation.tsv: caption TAB address",
        "NUMBER_CRC32 or CRC32 of the address, any extension or none",
        {"train": Count(None, 3_318_333), "validation": Count(None, 15_840)},
        "annotations free for any purpose; pictures their owners'",
        "annotations yes; many pictures are gone",
        "igorbrigadir/DownloadConceptualCaptions",
    ),
    "cc12m": Format(
        pictures.read_cc12m,
        "Conceptual 12M",
        "cc12m.tsv: address TAB caption",
        "as cc3m",
        {"train": Count(None, 12_423_374)},
        "annotations free for any purpose; pictures their owners'",
        "annotations yes; many pictures are gone",
        "its README (google-research-datasets/conceptual-12m) and LAVIS's download script",
    ),
    "nocaps": Format(
        pictures.read_nocaps,
        "nocaps",
        "nocaps_val_4500_captions.json",
        "OPEN_IMAGES_ID.jpg",
        {"validation": Count(4_500, 45_000)},
        "CC BY 2.0",
        "yes; test captions are not published",
        "updown-baseline (nocaps-org) and BEiT-3",
    ),
    "vqav2": Format(
        pictures.read_vqav2,
        "VQA v2",
        "folder of v2_OpenEnded_mscoco_train2014_questions.json and v2_mscoco_train2014_annotations.json",
        "train2014/COCO_train2014_....jpg, val2014/..., test2015/...",
        {
            "train": Count(82_783, None, 443_757),
            "validation": Count(40_504, None, 214_354),
            "test": Count(81_434, None, 447_793),
            "test-dev": Count(None, None, 107_394),
        },
        "CC BY 4.0; pictures Flickr's terms",
        "yes; test answers are not published",
        "its README (GT-Vision-Lab/VQA) and BEiT-3",
    ),
    # pictures with labels
    "imagenet": Format(
        classes.read_imagenet,
        "ImageNet-1K",
        "folder of train/, val/ and LOC_synset_mapping.txt",
        "train/n01440764/....JPEG, val/n01440764/....JPEG",
        {"train": Count(1_281_167), "validation": Count(50_000)},
        "research and education, by registration",
        "by registration",
        "BEiT-3 (folders), peers' readers of LOC_synset_mapping.txt",
    ),
    "cifar10": Format(
        cifar.read_cifar10,
        "CIFAR-10",
        "cifar-10-batches-bin/ or cifar-10-batches-py/ (never unpickled)",
        "within the files",
        {"train": Count(50_000), "test": Count(10_000)},
        "none stated",
        "yes",
        f"its page, as copied by several, and {TORCHVISION}.cifar",
    ),
    "cifar100": Format(
        cifar.read_cifar100,
        "CIFAR-100",
        "cifar-100-binary/ or cifar-100-python/ (never unpickled)",
        "within the files",
        {"train": Count(50_000), "test": Count(10_000)},
        "none stated",
        "yes",
        f"{TORCHVISION}.cifar (Python version); the binary version is UNVERIFIED",
    ),
    "food101": Format(
        classes.read_food101,
        "Food-101",
        "food-101/ with meta/train.json and test.json",
        "images/CLASS/....jpg",
        {"train": Count(75_750), "test": Count(25_250)},
        "pictures Foodspotting's, research",
        "yes",
        f"{TORCHVISION}.food101",
    ),
    "pets": Format(
        classes.read_pets,
        "Oxford-IIIT Pet",
        "annotations/ with trainval.txt (train) and test.txt",
        "images/Abyssinian_100.jpg beside it",
        {"train": Count(3_680), "test": Count(3_669)},
        "CC BY-SA 4.0",
        "yes",
        f"{TORCHVISION}.oxford_iiit_pet",
    ),
    "dtd": Format(
        classes.read_dtd,
        "Describable Textures",
        "dtd/ with labels/train1.txt, val1.txt, test1.txt to 10",
        "images/CLASS/....jpg",
        folds(10, train=1_880, validation=1_880, test=1_880),
        "research",
        "yes",
        f"{TORCHVISION}.dtd",
    ),
    "flowers102": Format(
        classes.read_flowers102,
        "Oxford Flowers 102",
        "folder of imagelabels.mat and setid.mat; class names from cat_to_name.json beside, where there is one",
        "jpg/image_00001.jpg",
        {"train": Count(1_020), "validation": Count(1_020), "test": Count(6_149)},
        "none stated",
        "yes",
        f"{TORCHVISION}.flowers102",
    ),
    # clips with labels
    "ucf101": Format(
        actions.read_ucf101,
        "UCF101",
        "ucfTrainTestlist/ with trainlist01.txt, testlist01.txt to 03",
        "CLASS/v_....avi",
        {
            "train1": Count(9_537),
            "test1": Count(3_783),
            "train2": Count(9_586),
            "test2": Count(3_734),
            "train3": Count(9_624),
            "test3": Count(3_696),
        },
        "none stated",
        "yes",
        f"{TORCHVISION}.ucf101 and {MMACTION}",
    ),
    "hmdb51": Format(
        actions.read_hmdb51,
        "HMDB51",
        "testTrainMulti_7030_splits/ with CLASS_test_split1.txt to 3",
        "CLASS/....avi",
        folds(3, train=3_570, test=1_530),
        "CC BY 4.0",
        "yes",
        f"{TORCHVISION}.hmdb51 and {MMACTION}",
    ),
    "kinetics400": Format(
        actions.read_kinetics,
        "Kinetics-400",
        "folder of train.csv and val.csv, or one of them",
        "ID_000010_000020.mp4",
        {"train": Count(246_534), "validation": Count(19_906), "test": Count(39_805)},
        "annotations CC BY 4.0; clips their owners'",
        "yes, a copy at CVDF (train 240,258, val 19,881, test 38,685 clips)",
        f"{MMACTION} and cvdfoundation/kinetics-dataset",
    ),
    "ssv2": Format(
        actions.read_ssv2,
        "Something-Something V2",
        "something-something-v2-train.json, ...-validation.json",
        "ID.webm",
        {"train": Count(168_913), "validation": Count(24_777)},
        "research, by registration",
        "by registration",
        MMACTION,
    ),
    # clips with texts
    "webvid": Format(
        videos.read_webvid,
        "WebVid",
        "results_2M_train.csv, results_2M_val.csv",
        "videos/PAGE_DIR/VIDEOID.mp4",
        {"train": Count(), "validation": Count()},
        "clips Shutterstock's",
        "no: withdrawn in February 2024",
        "Frozen in Time (m-bain/frozen-in-time WebVid_dataset.py)",
    ),
    "msrvtt": Format(
        videos.read_msrvtt,
        "MSR-VTT",
        "MSRVTT_data.json; for train7k and train9k MSRVTT_train.7k.csv or 9k beside, for test1k (1k-A) "
        "MSRVTT_JSFUSION_test.csv",
        "video7010.mp4",
        {
            "train": Count(6_513, 130_260),
            "validation": Count(497, 9_940),
            "test": Count(2_990, 59_800),
            "train7k": Count(7_010, 140_200),
            "train9k": Count(9_000, 180_000),
            "test1k": Count(1_000, 1_000),
        },
        "research",
        "no longer at its own page; copies of retrieval papers",
        CLIP4CLIP,
    ),
    "msrvtt_qa": Format(
        videos.read_msrvtt_qa,
        "MSRVTT-QA",
        "folder of train_qa.json, val_qa.json, test_qa.json",
        "video7010.mp4",
        {
            "train": Count(None, None, 158_581),
            "validation": Count(None, None, 12_278),
            "test": Count(None, None, 72_821),
        },
        "research",
        "questions yes; clips as msrvtt",
        "its code (xudejing/video-question-answering) and Just Ask's",
    ),
    "msvd": Format(
        videos.read_msvd,
        "MSVD",
        "AllVideoDescriptions.txt with train_list.txt, val_list.txt, test_list.txt",
        "-4wsuPCjDBc_5_15.avi",
        {"train": Count(1_200), "validation": Count(100), "test": Count(670)},
        "research",
        "yes",
        "several readers of AllVideoDescriptions.txt; lists by collaborative-experts",
    ),
    "msvd_qa": Format(
        videos.read_msvd_qa,
        "MSVD-QA",
        "folder of train_qa.json, val_qa.json, test_qa.json; youtube_mapping.txt where clips have their own names",
        "vid1.avi, or -4wsuPCjDBc_5_15.avi",
        {
            "train": Count(None, None, 30_933),
            "validation": Count(None, None, 6_415),
            "test": Count(None, None, 13_157),
        },
        "research",
        "yes",
        "its code (xudejing/video-question-answering) and Just Ask's (preproc_msvdqa.py)",
    ),
    "didemo": Format(
        videos.read_didemo,
        "DiDeMo, a paragraph a video",
        "train_data.json, val_data.json, test_data.json; the field's train_list.txt, ... beside",
        "VIDEO, any extension",
        {"train": Count(8_395, 8_395), "validation": Count(1_065, 1_065), "test": Count(1_004, 1_004)},
        "annotations BSD 2-Clause; clips Creative Commons, each its own",
        "yes",
        f"its README and files (LisaAnne/LocalizingMoments) and {CLIP4CLIP}",
    ),
    "activitynet": Format(
        videos.read_activitynet,
        "ActivityNet Captions, a paragraph a video",
        "train.json, val_1.json (validation), val_2.json (validation2)",
        "v_....mp4",
        {"train": Count(10_009, 10_009), "validation": Count(4_917, 4_917), "validation2": Count(4_885, 4_885)},
        "clips YouTube's",
        "clips by request",
        CLIP4CLIP,
    ),
    "lsmdc": Format(
        videos.read_lsmdc,
        "LSMDC 2016",
        "LSMDC16_annos_training.csv, LSMDC16_annos_val.csv, LSMDC16_challenge_1000_publictect.csv (test)",
        "MOVIE/CLIP.avi",
        {"train": Count(), "validation": Count(), "test": Count(1_000, 1_000)},
        "by permission of its publishers",
        "by permission",
        CLIP4CLIP,
    ),
    "youcook2": Format(
        videos.read_youcook2,
        "YouCook2, an item a segment",
        "youcookii_annotations_trainval.json",
        "training/RECIPE/ID.mp4, validation/...",
        {"train": Count(10_337, 10_337), "validation": Count(3_492, 3_492)},
        "clips YouTube's",
        "annotations yes; many clips are gone",
        "HowToCaption's loader",
    ),
}
