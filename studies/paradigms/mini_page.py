"""The page's section on the mini benchmark, from the results files in the folder `mini` and two files of floors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivl.config import read_json
from studies.paradigms.cells import cell, gap, listed, number, table, verdicts
from studies.paradigms.measure import ONE, SHUFFLED
from studies.paradigms.mini_decoders import PART, K
from studies.paradigms.numbers import Key, Measure, Study, difference, of_run
from studies.paradigms.words import OURS, RIVALS, TITLES

SEEDS = (0, 1)
EXPOSURE = "_exposure"  # what the names of runs at equal exposure end with; their decoders are not taught
FOLDER = "mini"  # of results files, under those of the study
HAND, CONCEPTS, STAMPS, ZOMBIES, SPECIES = (
    "emoji_unseen_hand", "emoji_unseen_concepts", "stamps_transfer", "flare_validation", "flare_test",
)  # fmt: skip
DIRECTIONS = 8  # in which each figure does each action


def ranks(task: str, medium: str, title: str, *ways: tuple[str, str]) -> list[Measure]:
    """R@1, 5 and 10; a clip's eight directions are drawn together."""
    return [
        Measure(f"{title}, {told}, R@{k}", (Key(task, f"{way}_r{k}", medium),), DIRECTIONS if way == "v2t" else 1)
        for way, told in ways
        for k in (1, 5, 10)
    ]


DRAWINGS = Measure(
    "drawings in the unseen hand, R@1, both ways", (Key(HAND, "t2i_r1", "image"), Key(HAND, "i2t_r1", "image"))
)
ACTIONS = Measure("action of unseen species", (Key(SPECIES, "top1", "video"),), DIRECTIONS)
BOTH_WAYS, BOTH_WAYS_OF_CLIPS = (
    (("t2i", "by text"), ("i2t", "by picture")),
    (("t2v", "by text"), ("v2t", "by clip")),
)


def finetuned(task: str, medium: str, title: str, *ways: tuple[str, str]) -> list[Measure]:
    """Of some items: R@1 as it is and reranked, captions, answers."""
    task = f"{PART}{task}"
    found = [
        Measure(f"some {title}, {told}, R@1{', reranked' * (k > 0)}", (Key(task, f"{way}_r1", medium, k),))
        for way, told in ways
        for k in (0, K)
    ]
    written = {"caption_exact": "whole caption right", "caption_f1": "words of the caption, F1"}
    if medium == "video":
        written = {"caption_action": "caption says the action"} | written
    found += [Measure(f"{told}, {title}", (Key(task, metric, medium),)) for metric, told in written.items()]
    return [*found, Measure(f"answers about {title}", (Key(task, "answer", medium),))]


MEASURES = (
    *ranks(HAND, "image", "unseen hand", *BOTH_WAYS),
    Measure("group, unseen hand", (Key(HAND, "top1", "image"),)),
    Measure("group of an unseen concept", (Key(CONCEPTS, "top1", "image"),)),
    Measure("name of an unseen concept", (Key(CONCEPTS, "name_top1", "image"),)),
    Measure("name of an unseen concept, top 5", (Key(CONCEPTS, "name_top5", "image"),)),
    *ranks(STAMPS, "image", "Tux Paint", *BOTH_WAYS),
    Measure("action of zombies", (Key(ZOMBIES, "top1", "video"),), DIRECTIONS),
    ACTIONS,
    *ranks(SPECIES, "video", "clips of unseen species", *BOTH_WAYS_OF_CLIPS),
    Measure("text to clip among its siblings", (Key(SPECIES, "sibling_t2v", "video"),), DIRECTIONS),
    Measure("clip to text among its siblings", (Key(SPECIES, "sibling_v2t", "video"),), DIRECTIONS),
)
FINETUNED = (
    *finetuned(HAND, "image", "drawings in the unseen hand", *BOTH_WAYS),
    *finetuned(SPECIES, "video", "clips of unseen species", *BOTH_WAYS_OF_CLIPS),
)
BY_PICTURE = MEASURES[3]  # the side of DRAWINGS that can be copied
MEDIA = {"drawings": DRAWINGS, "actions": ACTIONS}

INTRODUCTION = """## The same from real encoders, on drawings and clips

**Claim.** Decoupled joint pretraining is ahead of its rivals, also from pretrained encoders and on other data than the
built-in world.

**What was done.** A DINOv2 ViT-S/14 and MiniLM-L6 (`studies/encoders/`); the last of ten visual blocks, the text
block that is added to six, the final norm and the projections learn from the kept tokens of what lies below, on the
mini benchmark's drawings of six hands and its clips (`studies/mini/`). Settings are those of the recipe of
`studies/encoders/`, where they were chosen on validation concepts and nothing on clips; but runs have a seventh of
its steps, as the time allowed, and 5 steps of warm-up a its steps, as the time allowed, and 5 steps of warm-up a
stage instead of 15. Nothing here was chosen on what is measured; but the same runs by an earlier recipe and with half
of the steps, which this replaces, had been measured and seen (commits 6fb540c and 9fd5e44). on what is measured. A
step goes over {batch} drawings, over {clips} clips of 4 frames, or over both. A pass over drawings counts 1, one over
clips {cost:.3f}, as measured once ([cost.json](paradigms/mini/cost.json)); x1 is {drawings} steps on drawings and
{both} on both. In `joint_exposure` a step has fewer clips, so that as many are seen in as many steps. A run that saw
no clips takes each frame as a picture; one that saw no drawings takes a picture as a clip that stands still.

Pretraining from kept tokens is contrastive alone. Then, in a copy, the decoders of every run at equal compute have
the same short finetuning, in which the visual encoder stays as it was: {decoding} steps of matching and captions,
drawings and clips by turns, and {answering} more of answers. They are tried on some items: every fifth drawing of the
unseen hand and two of the eight directions of each clip of unseen species. Reranked are the best {k}, by log
p(matched) + similarity / temperature. Answers are one of all that training has; only what they can say is asked (an
unseen species has no name there).

Retrieval is among 1,479 drawings, 674 pictures of Tux Paint (of which nothing is learnt) and 632 clips under 79
texts: eight clips are of one text, and are drawn together in intervals. Siblings of a clip are the same figure's
other actions. Zombies are the benchmark's validation clips. The name of an unseen concept is one of 174; what several
hands draw counts once. *Pixels* and *frozen tokens* copy name, group or action of the nearest training drawing or
clip (of three hands for the groups, of eight frames for clips); for actions the second copies by how many of eight
frames differ (`docs/results/mini_floors.json`, `encoders.json`). One frame, the third of four, and shuffled frames
are decoupled joint pretraining, looking at its clips so; no time positions are learnt here, so the order of frames
cannot tell it anything, and no clip can be told from its reverse.
"""


class Floors:
    """Copying from the nearest training item, as two other studies measured it: by pixels, and by something else."""

    def __init__(self, folder: Path) -> None:
        self.found: dict[tuple[str, str], dict[str, float]] = {}
        for name in ("mini_floors", "encoders"):
            path = folder / f"{name}.json"
            for row in read_json(path)["results"] if path.exists() else []:
                self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        settings = row["settings"]
        name, split, frames = row["dataset"], row["split"], settings.get("frames")
        features = settings.get("features", settings.get("model", ""))
        if name.startswith("mini/") and features.startswith("copied name"):
            task = name.removeprefix("mini/")
        elif name == "mini_emoji_groups":
            task = f"emoji_{split}"
        elif name == "mini_flare_actions" and frames == 8:
            task = f"flare_{split}"
        else:
            return
        kind = "pixels" if "pixels" in features else "other"
        self.found.setdefault((task, row["metric"]), {})[kind] = row["value"]

    def of(self, measure: Measure) -> dict[str, float]:
        """By kind; where a measure has two sides there is none for both."""
        part, *others = measure.parts
        return {} if others else self.found.get((part.task, part.metric), {})

    def cells(self, measure: Measure) -> list[str]:
        return [number(self.of(measure).get(kind)) for kind in ("pixels", "other")]


def mini_section(folder: Path) -> list[str]:
    """The parts of the section, from the study's folder of results; one line where nothing was run."""
    study = Study(folder / FOLDER)
    if not study.seeds(OURS):
        return ["## The same from real encoders, on drawings and clips\n\nNot run yet."]
    file = next(told for told in study.files.values() if told["name"] == OURS)
    cost = read_json(folder / FOLDER / "cost.json")["clip_pass"]
    size = file["size"]
    parts = [INTRODUCTION.format(cost=cost, k=K, **size, **size["lessons"]), *missing(study)]
    floors = Floors(folder.parent)
    for title, end in (("At equal compute", ""), ("At equal numbers of drawings and clips", EXPOSURE)):
        runs = {TITLES[name]: f"{name}{end}" for name in RIVALS if study.seeds(f"{name}{end}", OURS)}
        parts.append(f"### From real encoders: {title[0].lower()}{title[1:]}")
        parts += [f"![{title}: drawings and actions](paradigms/mini.svg)"] if runs and not end else []
        measures = MEASURES if end else (*MEASURES, *FINETUNED)
        parts += compared(study, runs, floors, measures) if runs else ["Not run yet."]
    return [*parts, costs(study)]


def missing(study: Study) -> list[str]:
    """The line that names what was not run, if there is such."""
    planned = [OURS, *RIVALS, *(f"{name}{EXPOSURE}" for name in RIVALS)]
    absent = [f"{name} (seed {seed})" for name in planned for seed in SEEDS if (name, seed) not in study.files]
    return [f"**Not run yet**: {'; '.join(absent)}."] if absent else []


def compared(study: Study, rivals: Mapping[str, str], floors: Floors, measures: Sequence[Measure]) -> list[str]:
    """Verdict, means and differences."""
    seeds = study.seeds(OURS)
    rows, gaps = [], []
    for measure in (DRAWINGS, *measures):
        ways = [of_run(study, OURS, measure.seen(view), seeds) for view in (ONE, SHUFFLED)]
        runs = [of_run(study, run, measure, study.seeds(run)) for run in (OURS, *rivals.values())]
        controls = [number(study.chance(measure)), *floors.cells(measure), *(number(w and w.mean) for w in ways)]
        rows.append([measure.title, *map(cell, runs), *controls])
        gaps.append([measure.title, *(gap(difference(study, OURS, run, measure)) for run in rivals.values())])
    head = ["", TITLES[OURS], *rivals, "chance", "pixels", "frozen tokens", "one frame", "shuffled frames"]
    return [
        verdicts(study, rivals, MEDIA),
        ahead_of_copying(study, {TITLES[OURS]: OURS, **rivals}, floors),
        table(head, rows),
        "Paired differences:",
        table(["decoupled joint minus", *rivals], gaps),
    ]


def ahead_of_copying(study: Study, runs: Mapping[str, str], floors: Floors) -> str:
    """Which runs are, where something can be copied."""
    said = []
    for measure in (BY_PICTURE, ACTIONS):
        told = {title: of_run(study, run, measure, study.seeds(run)) for title, run in runs.items()}
        if there := floors.of(measure):
            floor = max(there.values())
            ahead = [title for title, found in told.items() if found and found.mean > floor]
            said.append(f"{measure.title} ({floor:.3f} by copying): {listed(ahead)}")
    return f"Ahead of copying: {'; '.join(said)}." if said else ""


def costs(study: Study) -> str:
    """Each run's share."""
    rows = []
    for (name, seed), file in study.files.items():
        cpu, seen = file["cpu_seconds"], file.get("seen", {})
        rows.append(
            [
                f"[{name}](paradigms/{FOLDER}/{name}_seed{seed}.json)",
                str(seed),
                f"{file['weighted_steps']:,.1f}" if "weighted_steps" in file else "",
                f"{cpu['pretraining']:,.1f}",
                f"{cpu.get('measuring', 0):,.1f}",
                *(f"{seen.get(medium, 0):,}" for medium in ("image", "video")),
            ]
        )
    head = ["run", "seed", "weighted steps", "CPU s, pretraining", "CPU s, measuring", "drawings", "clips"]
    commits = ", ".join(sorted({str(file["commit"])[:7] for file in study.files.values()}))
    told = (
        f"In all {study.cpu_seconds():,.0f} CPU seconds, the tokens of the lower part not counted. Commits: {commits}."
    )
    return f"### From real encoders: what each run took\n\n{told}\n\n" + table(head, rows)
