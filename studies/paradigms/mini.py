"""The five paradigms again, from real encoders, on the mini benchmark's drawings and clips.

    python -m studies.paradigms.mini ENCODERS FEATURES DATA        # makes what is missing, then the page
    python -m studies.paradigms.mini ENCODERS FEATURES DATA --cost # once, before all: what a clip pass costs

ENCODERS, FEATURES and DATA are what studies/encoders/sources.py, features.py and studies/mini/build.py wrote (see
studies/encoders/README.md). The upper part of both encoders learns from kept tokens, with the settings of the recipe
there but for the numbers of steps and of warm-up steps, which were set by the time there was; nothing is chosen on what
is measured. Then the decoders of the runs at equal compute have the same short finetuning (`mini_decoders.py`).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omnivl.results
from omnivl.config import OptimConfig, read_json
from omnivl.model import OmniVL
from omnivl.model.folder import write_text
from omnivl.results import machine
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import write_json
from studies.encoders.features import start, training_items
from studies.encoders.fit import Corpus, fit
from studies.encoders.language import phrases, with_mean_block
from studies.encoders.train import DRAWN, LEARNT, PHRASES, TEMPERATURE, drawn_items, read_corpora
from studies.paradigms.cost import RESULTS
from studies.paradigms.make import clocked, compact, rounded
from studies.paradigms.measure import WHOLE
from studies.paradigms.mini_decoders import SOME, Lessons, Pairs, some, taught, tried
from studies.paradigms.mini_measure import Asked, LowerTexts, Shown, measure, read_shown
from studies.paradigms.mini_page import EXPOSURE, FOLDER, SEEDS
from studies.paradigms.page import write_page
from studies.paradigms.plan import FULL
from studies.paradigms.words import OURS

COST = "cost.json"
commit = cache(omnivl.results.commit)  # as it was when the command began
OPTIM = OptimConfig(lr=1e-3, warmup_steps=5, betas=(0.9, 0.98))  # 15 there, most of a stage of 20 steps


@dataclass(frozen=True)
class MiniSize:
    """How large everything is. x1 is the budget of decoupled joint pretraining with these two stages."""

    drawings: int = 100  # steps
    both: int = 20
    batch: int = 512  # rows of drawings a step
    clips: int = 128
    phrases: int = PHRASES
    lessons: Lessons = field(default_factory=Lessons)  # of the decoders


SIZE = MiniSize()


@dataclass(frozen=True)
class Stage:
    """Steps on drawings, on clips, or on both: `batch` and `clips` are rows a step, 0 for none."""

    steps: int
    batch: int
    clips: int

    def passes(self, size: MiniSize) -> tuple[float, float]:
        """Over batches of drawings and of clips of the usual size."""
        return self.steps * self.batch / size.batch, self.steps * self.clips / size.clips


def runs(size: MiniSize, clip: float) -> dict[str, tuple[Stage, ...]]:
    """The paradigms at equal compute and, with `_exposure`, the rivals with the drawings and clips that decoupled joint
    pretraining sees, those that they see at all. `clip` is what a clip pass costs in drawing passes."""

    def drawings(steps: float) -> Stage:
        return Stage(round(steps), size.batch, 0)

    def clips(steps: float) -> Stage:
        return Stage(round(steps), 0, size.clips)

    def both(steps: float, clips: int = size.clips) -> Stage:
        return Stage(round(steps), size.batch, clips)

    rest = size.both * (1 + clip)
    whole, seen = size.drawings + rest, size.drawings + size.both
    return {
        OURS: (drawings(size.drawings), both(size.both)),
        "image_only": (drawings(whole),),
        "video_only": (clips(whole / clip),),
        "joint": (both(whole / (1 + clip)),),
        "image_then_video": (drawings(size.drawings), clips(rest / clip)),
        f"image_only{EXPOSURE}": (drawings(seen),),
        f"video_only{EXPOSURE}": (clips(size.both),),
        f"joint{EXPOSURE}": (both(seen, round(size.clips * size.both / seen)),),
        f"image_then_video{EXPOSURE}": (drawings(seen), clips(size.both)),
    }


@dataclass(frozen=True)
class Material:
    """What all runs share: what is learnt from and asked, as tokens."""

    corpora: list[Corpus]  # drawings, clips
    pairs: list[Pairs]  # the same, as the decoders are taught them
    shown: list[Shown]
    training_texts: LowerTexts
    asked_texts: LowerTexts

    @classmethod
    def read(cls, encoders: Path, features: Path, data: Path, kept: Path) -> "Material":
        corpora, _ = read_corpora(data, features)
        if len(corpora) != 2:
            raise ValueError(f"{features} has no tokens of clips: run studies/encoders/features.py first")
        items = drawn_items(data, features), training_items(data, "flare_train")
        pairs = [Pairs(corpus.medium, own, corpus.tokens[:, 0]) for corpus, own in zip(corpora, items, strict=True)]
        model, tokenizer = start(encoders)
        shown = read_shown(model, data, kept, LEARNT.visual)
        training = LowerTexts(model, tokenizer, [t for corpus in corpora for t in corpus.texts()], LEARNT.text)
        asked = LowerTexts(model, tokenizer, [text for each in shown for text in each.texts()], LEARNT.text)
        return cls(corpora, pairs, shown, training, asked)

    def answers(self) -> list[str]:
        """All that are given to questions about what is learnt from."""
        return sorted({q.answers[0][0] for each in self.pairs for item in each.items for q in item.questions})


def begun(encoders: Path, size: MiniSize, seed: int) -> tuple[OmniVL, Tokenizer]:
    """The model that the runs of a seed begin with."""
    model, tokenizer = start(encoders)
    model = with_mean_block(model, tokenizer, phrases(tokenizer, size.phrases, np.random.default_rng(seed)))
    with torch.no_grad():
        model.temperature.fill_(TEMPERATURE)
    return model, tokenizer


def pretrain(model: OmniVL, tokenizer: Tokenizer, stages: Sequence[Stage], material: Material, seed: int) -> list[Any]:
    """Train in place, stage by stage; gives the mean loss of the first and of the last five steps of each."""
    told = []
    for number, stage in enumerate(stages):
        model.start_video_from_image()  # from the image weights as they are now; every run has clips once at most
        chosen = [corpus for corpus, rows in zip(material.corpora, (stage.batch, stage.clips), strict=True) if rows]
        steps = replace(DRAWN, steps=stage.steps, optim=OPTIM, batch=stage.batch, clips=stage.clips)
        losses = fit(
            model, tokenizer, LEARNT, steps, chosen, seed=seed + 1000 * number, lower_texts=material.training_texts
        )
        told.append([round(sum(part) / len(part), 3) for part in (losses[:5], losses[-5:])])
    if not any(stage.clips for stage in stages):
        model.start_video_from_image()  # each frame is a picture to it
    return told


def is_done(results: Path, name: str, size: MiniSize) -> bool:
    """Raises ValueError where a results file is of another size."""
    file = results / f"{name}.json"
    if file.exists() and read_json(file)["size"] != asdict(size):
        raise ValueError(f"{file} is of a study of another size: give this one its own --results")
    return file.exists()


def keep(results: Path, name: str, size: MiniSize, told: dict[str, Any]) -> None:
    here = {
        "command": "python -m studies.paradigms.mini ENCODERS FEATURES DATA",
        "commit": commit(),
        "machine": f"{machine()}, {torch.get_num_threads()} thread",
        "size": asdict(size),
    }
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / f"{name}.json", compact(here | told))


def make(
    name: str, stages: Sequence[Stage], seed: int, material: Material, encoders: Path, results: Path, size: MiniSize
) -> None:
    """One run, and its results file."""
    cpu: dict[str, float] = {}
    with clocked(cpu, "pretraining"):
        model, tokenizer = begun(encoders, size, seed)
        losses = pretrain(model, tokenizer, stages, material, seed)
    passes = np.sum([stage.passes(size) for stage in stages], axis=0)
    still = not any(stage.batch for stage in stages)
    with clocked(cpu, "measuring"):
        found = measure(model, tokenizer, LEARNT, material.shown, material.asked_texts, still=still)
    lessons = []
    if not name.endswith(EXPOSURE):
        with clocked(cpu, "finetuning"):
            finetuned = taught(model, tokenizer, material.pairs, size.lessons, LEARNT.visual, seed, still=still)
        lessons = finetuned.losses
        with clocked(cpu, "measuring"):
            for each in material.shown:
                if each.name in SOME:
                    asked = Asked.of(model, tokenizer, LEARNT, material.asked_texts, some(each), WHOLE, still=still)
                    found += tried(finetuned, asked, still=still).rows(material.answers())
    told = {
        "name": name,
        "seed": seed,
        "cpu_seconds": rounded(cpu),
        "stages": [asdict(stage) for stage in stages],
        "weighted_steps": round(float(passes[0] + clip_cost(results) * passes[1]), 1),
        "seen": {"image": sum(s.steps * s.batch for s in stages), "video": sum(s.steps * s.clips for s in stages)},
        "losses": losses,  # mean of the first and of the last five steps of each stage
        "lessons": lessons,  # of the first and of the last ten steps, of the writer and of the answerer
        "results": found,
    }
    keep(results, f"{name}_seed{seed}", size, told)


# --- what a clip pass costs ---


def clip_cost(results: Path) -> float:
    """A pass over a batch of clips, in passes over one of drawings. Raises ValueError where it was not measured."""
    file = results / COST
    if not file.exists():
        raise ValueError(f"{file} is missing: run this command with --cost first")
    return float(read_json(file)["clip_pass"])


def measure_cost(encoders: Path, material: Material, results: Path, size: MiniSize, pairs: int = 4) -> None:
    """The median of ratios of CPU seconds of a step on clips and on drawings, measured after each other: six steps less
    two, so that what is done once a stage does not count."""
    model, tokenizer = begun(encoders, size, 0)
    found = []
    for pair in range(pairs + 1):
        step = {}
        for kind, batch, clips in (("drawings", size.batch, 0), ("clips", 0, size.clips)):
            cpu: dict[str, float] = {}
            for steps in (2, 6):
                with clocked(cpu, str(steps)):
                    pretrain(model, tokenizer, [Stage(steps, batch, clips)], material, pair)
            step[kind] = (cpu["6"] - cpu["2"]) / 4
        found.append((step["drawings"], step["clips"]))
    seconds = np.array(found[1:])
    told = {
        "command": "python -m studies.paradigms.mini ENCODERS FEATURES DATA --cost",
        "what": f"CPU seconds of one thread for a step on {size.batch} drawings and on {size.clips} clips of 4 frames, "
        f"24 of 64 patches each; the ratio is the median of {pairs} pairs",
        "commit": commit(),
        "machine": f"{machine()}, 1 thread",
        "clip_pass": round(float(np.median(seconds[:, 1] / seconds[:, 0])), 3),
        "drawing_step_seconds": round(float(np.median(seconds[:, 0])), 4),
        "clip_step_seconds": round(float(np.median(seconds[:, 1])), 4),
    }
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / COST, told)


# --- the command ---


def options_of(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.paradigms.mini", description=(__doc__ or "").split(".")[0])
    parser.add_argument("encoders", type=Path, help="what studies/encoders/sources.py wrote")
    parser.add_argument("features", type=Path, help="what studies/encoders/features.py wrote")
    parser.add_argument("data", type=Path, help="what studies/mini/build.py --size 112 wrote")
    parser.add_argument("--names", nargs="+", help="make these runs alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="make these seeds alone")
    parser.add_argument("--runs", type=Path, help="folder for tokens (default: runs/paradigms_mini)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study's results files")
    parser.add_argument("--cost", action="store_true", help="measure what a clip pass costs, and nothing else")
    options = parser.parse_args(words)
    options.runs = options.runs or RESULTS.parents[2] / "runs" / "paradigms_mini"
    return options


def main(words: list[str] | None = None, size: MiniSize = SIZE) -> int:
    options = options_of(words)
    torch.set_num_threads(1)
    try:
        act(options, size)
    except (ValueError, FileNotFoundError) as error:
        print(f"paradigms: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def act(options: argparse.Namespace, size: MiniSize) -> None:
    commit()
    results = options.results / FOLDER
    sources = options.encoders, options.features, options.data
    if options.cost:
        if (results / COST).exists():
            raise ValueError(f"{results / COST} is there, and budgets follow from it: delete it first")
        measure_cost(options.encoders, Material.read(*sources, options.runs / "tokens"), results, size)
        return
    planned = runs(size, clip_cost(results))
    if unknown := sorted(set(options.names or ()) - set(planned)):
        raise ValueError(f"there is no run {unknown[0]!r}: choose {', '.join(planned)}")
    wanted = [(name, seed) for seed in options.seeds for name in planned if name in (options.names or planned)]
    wanted.sort(key=lambda run: run[0].endswith(EXPOSURE))
    missing = [run for run in wanted if not is_done(results, "{}_seed{}".format(*run), size)]
    material = Material.read(*sources, options.runs / "tokens") if missing else None
    for name, seed in missing:
        assert material is not None
        clock = time.process_time()
        make(name, planned[name], seed, material, options.encoders, results, size)
        print(f"{name} seed {seed}: {time.process_time() - clock:.0f} CPU seconds", file=sys.stderr, flush=True)
    print(write_page(options.results, FULL))


if __name__ == "__main__":
    sys.exit(main())
