"""What is trained and measured on each of the two benches: the built-in world and the mini benchmark.

A measure is one evaluation of one model, written to a results file of its own. Clips are looked at with four frames,
and once more with the middle one alone: what a model scores then, it has not learnt from motion.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from omnivl.config import DataConfig, EvaluationConfig, Reads
from omnivl.data.galleries import file_gallery, world_gallery
from omnivl.data.sample import Gallery
from omnivl.data.sources import Ask, FileSource, open_source
from studies.mini.recipes import DATA
from studies.tasks.floors import Known, learn

BASE = "base"  # the pretrained model, as it is
FRAMES = 4
RERANK = 16
SHOTS = 100  # training items a class of the mini benchmark's probes: all of them take long to fit
SIZE = 64  # pixels that floors are shrunk from
HERE = Path(__file__).parent.relative_to(Path(__file__).parents[2])


@dataclass(frozen=True)
class Measure:
    """`told` is what a row's dataset and question are called instead of the manifest's path."""

    name: str
    model: str  # BASE, or the finetuned one's
    wanted: EvaluationConfig
    dataset: str = "world"
    told: dict[str, str] = field(default_factory=dict)

    def one_frame(self) -> "Measure":
        return replace(self, name=f"{self.name}-one-frame", wanted=replace(self.wanted, num_frames=1, media=("video",)))


@dataclass(frozen=True)
class Bench:
    """One bench. `tiny` shows that everything runs: few items, a few steps."""

    split: str
    out: Path  # of the bench's own files
    tiny: bool = False

    name: ClassVar[str]
    base_words: ClassVar[tuple[str, ...]]  # the command that makes a base, without --out and --seed
    fixed: ClassVar[bool]  # the same items for all seeds: one base and one set of floors serve them
    recipes: ClassVar[dict[str, str]]  # what is finetuned

    def measures(self) -> list[Measure]:
        raise NotImplementedError

    def folder(self, seed: int) -> Path:
        return self.out / f"seed{seed}"

    def measured(self, seed: int, name: str) -> Path:
        """The results file of one measure."""
        return self.folder(seed) / f"measured-{self.split}" / f"{name}.json"

    def floors_file(self, seed: int) -> Path:
        return (self.out if self.fixed else self.folder(seed)) / f"measured-{self.split}" / "floors.json"

    def floors(self, seed: int) -> Iterator[tuple[str, dict[str, str], Known, Gallery, tuple[str, ...], int]]:
        """(dataset, told, training items, gallery, tasks, frames) of every floor."""
        raise NotImplementedError


def with_one_frame(measures: list[Measure]) -> list[Measure]:
    """Each, and where it looks at clips once more with their middle frame."""
    alone = [one.one_frame() for one in measures if "video" in one.wanted.media and one.wanted.mode == "rank"]
    return measures + alone


class World(Bench):
    """Test scenes are never trained on, so no training caption is ever exactly right."""

    name = "world"
    base_words = ("demo",)
    fixed = False
    recipes: ClassVar[dict[str, str]] = {
        task: f"{task}_mini" for task in ("retrieval", "classification", "captioning", "answering")
    }

    def measures(self) -> list[Measure]:
        plain = EvaluationConfig(
            data="world:", split=self.split, num_frames=FRAMES, rerank=RERANK, num_items=16 if self.tiny else 256
        )
        probe = replace(plain, tasks=("probe",), num_items=64 if self.tiny else 512)
        written = replace(plain, tasks=("answer",), mode="generate")
        return with_one_frame(
            [
                Measure("zero-shot", BASE, replace(plain, tasks=("retrieval", "classify", "caption"))),
                Measure("probe", BASE, probe),
                Measure("retrieval", "retrieval", replace(plain, tasks=("retrieval",))),
                Measure("classification", "classification", replace(plain, tasks=("classify",))),
                Measure("captioning", "captioning", replace(plain, tasks=("caption",))),
                Measure("answering", "answering", replace(plain, tasks=("answer",))),
                Measure("answering-written", "answering", written),
            ]
        )

    def floors(self, seed: int) -> Iterator[tuple[str, dict[str, str], Known, Gallery, tuple[str, ...], int]]:
        parts, size, items = (1, 20, 16) if self.tiny else (4, 2500, 256)
        for medium, frames in (("image", 1), ("video", 1), ("video", FRAMES)):
            ask = Ask(SIZE, frames, "bicubic")
            train = (world_gallery("train", medium, size, 1000 * (seed + 1) + part, ask) for part in range(parts))
            gallery = world_gallery(self.split, medium, items, seed, ask)
            yield "world", {}, learn(train), gallery, ("retrieval", "classify", "caption", "answer"), frames


class Mini(Bench):
    """Unseen hand, unseen concepts, unseen species. One base serves all seeds, as it takes long to make."""

    name = "mini"
    base_words = ("train", "studies/mini/recipes.py:pretrain")
    fixed = True
    recipes: ClassVar[dict[str, str]] = {
        task: f"{HERE / 'recipes.py'}:{task}" for task in ("retrieval", "classification", "captioning", "answering")
    }

    def manifests(self) -> tuple[str, ...]:
        if self.split == "validation":
            return ("emoji_validation", "flare_validation")
        return ("emoji_unseen_hand", "emoji_unseen_concepts", "flare_test")

    def measures(self) -> list[Measure]:
        found = []
        for name in self.manifests():
            kind = name.partition("_")[0]
            plain = EvaluationConfig(
                data=f"manifest:{self.cut(name)}", root=DATA, split=self.split, num_frames=FRAMES, rerank=RERANK,
                media=("image",) if kind == "emoji" else ("video",),
                train_data=f"manifest:{self.cut(f'{kind}_train')}",
            )  # fmt: skip
            single = replace(plain, data=f"manifest:{self.single(name)}")
            dataset = f"mini/{name}"
            found += [
                Measure(f"{name}-zero-shot", BASE, replace(plain, tasks=("classify", "caption")), dataset),
                Measure(f"{name}-zero-shot-retrieval", BASE, replace(single, tasks=("retrieval",)), dataset),
                Measure(
                    f"{name}-probe", BASE, replace(plain, tasks=("probe",), shots=2 if self.tiny else SHOTS), dataset
                ),
                Measure(f"{name}-retrieval", "retrieval", replace(single, tasks=("retrieval",)), dataset),
                Measure(f"{name}-classification", "classification", replace(plain, tasks=("classify",)), dataset),
                Measure(f"{name}-captioning", "captioning", replace(plain, tasks=("caption",)), dataset),
            ]
            for number, (question, path) in enumerate(self.asked(name).items()):
                asked = replace(plain, tasks=("answer",), data=f"manifest:{path}")
                told = {"answer_type": question.removesuffix("?")}
                found.append(Measure(f"{name}-answering-{number}", "answering", asked, dataset, told))
        return with_one_frame(found)

    def floors(self, seed: int) -> Iterator[tuple[str, dict[str, str], Known, Gallery, tuple[str, ...], int]]:
        for kind in ("emoji", "flare"):
            for frames in (1,) if kind == "emoji" else (1, FRAMES):
                known = learn([self.gallery(self.cut(f"{kind}_train"), frames)])
                for name in self.manifests():
                    if name.startswith(kind):
                        dataset = f"mini/{name}"
                        yield dataset, {}, known, self.gallery(self.cut(name), frames), ("classify", "caption"), frames
                        yield dataset, {}, known, self.gallery(self.single(name), frames), ("retrieval",), frames
                        for question, path in self.asked(name).items():
                            told = {"answer_type": question.removesuffix("?")}
                            yield dataset, told, known, self.gallery(path, frames, "questions"), ("answer",), frames

    def gallery(self, path: Path, frames: int, reads: Reads = "texts") -> Gallery:
        data = f"manifest:{path}"
        source = open_source(data, DataConfig(sources=(data,), root=DATA, num_frames=frames, reads=reads))
        assert isinstance(source, FileSource)
        medium = "video" if source.by_medium["video"] else "image"
        return file_gallery(source, self.split, medium, Ask(SIZE, frames, "bicubic"))

    # --- manifests cut from the benchmark's ---

    def rows(self, name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (Path(DATA) / f"{name}.jsonl").read_text().splitlines()]

    def write(self, name: str, rows: list[dict[str, str]]) -> Path:
        path = self.out / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path

    def cut(self, name: str) -> Path:
        """The benchmark's own manifest; a few of its items where all is tiny."""
        if not self.tiny:
            return Path(DATA) / f"{name}.jsonl"
        rows = self.rows(name)
        media = list(dict.fromkeys(row["media"] for row in rows))
        kept = set(media[:: max(1, len(media) // 40)])
        return self.write(name, [row for row in rows if row["media"] in kept])

    def single(self, name: str) -> Path:
        """One item of each caption: the first hand, the first direction. Else one text has several right answers."""
        first: dict[str, dict[str, str]] = {}
        for row in map(json.loads, self.cut(name).read_text().splitlines()):
            if "caption" in row:
                first.setdefault(row["caption"], row)
        return self.write(f"{name}-single", list(first.values()))

    def asked(self, name: str) -> dict[str, Path]:
        """A manifest for each question that has an answer which training knows: a skeleton is none of its kinds."""
        train = {
            (row["question"], row["answer"])
            for row in self.rows(f"{name.partition('_')[0]}_train")
            if "question" in row
        }
        rows = [row for row in map(json.loads, self.cut(name).read_text().splitlines()) if "question" in row]
        known = dict.fromkeys(row["question"] for row in rows if (row["question"], row["answer"]) in train)
        return {
            question: self.write(f"{name}-question-{number}", [row for row in rows if row["question"] == question])
            for number, question in enumerate(known)
        }


BENCHES: dict[str, type[Bench]] = {"world": World, "mini": Mini}
