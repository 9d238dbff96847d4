"""The five paradigms again, from real encoders, on the mini benchmark's drawings and clips.

    python -m studies.paradigms.mini ENCODERS FEATURES DATA        # makes what is missing, then the page
    python -m studies.paradigms.mini ENCODERS FEATURES DATA --cost # once, before all: what a clip pass costs

ENCODERS, FEATURES and DATA are what studies/encoders/sources.py, features.py and studies/mini/build.py wrote (see
studies/encoders/README.md). All runs of a seed begin with the text encoder taught alone; then the upper part of both
encoders learns from kept tokens, with the settings of the recipe with six hands of studies/encoders/ (commit 574ff0f)
but for the numbers of steps and of warm-up steps. Those were set by the time there was; nothing is chosen on what is
measured.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import omnivl.results
from omnivl.config import OptimConfig, read_json
from omnivl.model import OmniVL
from omnivl.model.folder import load_folder, save_folder, write_text
from omnivl.results import machine
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import write_json
from studies.encoders.features import start
from studies.encoders.fit import Corpus, Steps, fit
from studies.encoders.language import learn_meaning, phrases
from studies.encoders.train import TEMPERATURE, UPPER, read_corpora
from studies.paradigms.cost import RESULTS
from studies.paradigms.make import clocked, compact, rounded
from studies.paradigms.mini_measure import LowerTexts, Shown, measure, read_shown
from studies.paradigms.mini_page import FOLDER
from studies.paradigms.page import write_page
from studies.paradigms.plan import FULL
from studies.paradigms.words import OURS

COST = "cost.json"
commit = cache(omnivl.results.commit)  # as it was when the command began
OPTIM = OptimConfig(lr=1e-3, warmup_steps=5, betas=(0.9, 0.98))  # 15 there, which is most of 20 steps


@dataclass(frozen=True)
class MiniSize:
    """How large everything is. x1 is the budget of decoupled joint pretraining with these two stages."""

    drawings: int = 50  # steps
    both: int = 20
    batch: int = 512  # rows of drawings a step
    clips: int = 128
    meaning: int = 100  # steps of the text encoder alone
    phrases: int = 2000


SIZE, SEEDS = MiniSize(), (0, 1)


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
        "image_only_exposure": (drawings(seen),),
        "video_only_exposure": (clips(size.both),),
        "joint_exposure": (both(seen, round(size.clips * size.both / seen)),),
        "image_then_video_exposure": (drawings(seen), clips(size.both)),
    }


@dataclass(frozen=True)
class Material:
    """What all runs share: what is learnt from and asked, as tokens."""

    corpora: list[Corpus]  # drawings, clips
    shown: list[Shown]
    training_texts: LowerTexts
    asked_texts: LowerTexts

    @classmethod
    def read(cls, encoders: Path, features: Path, data: Path, kept: Path) -> "Material":
        corpora, _ = read_corpora(data, features)
        if len(corpora) != 2:
            raise ValueError(f"{features} has no tokens of clips: run studies/encoders/features.py first")
        model, tokenizer = start(encoders, random=False)
        shown = read_shown(model, data, kept, UPPER.visual)
        training = LowerTexts(model, tokenizer, [t for corpus in corpora for t in corpus.texts()], UPPER.text)
        asked = LowerTexts(model, tokenizer, [text for each in shown for text in each.texts()], UPPER.text)
        return cls(corpora, shown, training, asked)


def pretrain(model: OmniVL, tokenizer: Tokenizer, stages: Sequence[Stage], material: Material, seed: int) -> list[Any]:
    """Train in place, stage by stage; gives the mean loss of the first and of the last five steps of each."""
    told = []
    for number, stage in enumerate(stages):
        model.start_video_from_image()  # from the image weights as they are now; every run has clips once at most
        chosen = [corpus for corpus, rows in zip(material.corpora, (stage.batch, stage.clips), strict=True) if rows]
        steps = Steps(steps=stage.steps, optim=OPTIM, batch=stage.batch, clips=stage.clips)
        losses = fit(
            model, tokenizer, UPPER, steps, chosen, seed=seed + 1000 * number, lower_texts=material.training_texts
        )
        told.append([round(sum(part) / len(part), 3) for part in (losses[:5], losses[-5:])])
    if not any(stage.clips for stage in stages):
        model.start_video_from_image()  # each frame is a picture to it
    return told


def text_start(encoders: Path, folder: Path, drawings: Corpus, size: MiniSize, seed: int) -> float:
    """Write the model whose text encoder was taught alone; gives its CPU seconds."""
    cpu: dict[str, float] = {}
    with clocked(cpu, "text"):
        model, tokenizer = start(encoders, random=False)
        said = phrases(tokenizer, size.phrases, np.random.default_rng(seed))
        texts = sorted({*said, *drawings.captions})
        batch = min(256, len(texts))
        learn_meaning(model, tokenizer, texts, UPPER.text, steps=size.meaning, batch=batch, seed=seed)
        with torch.no_grad():
            model.temperature.fill_(TEMPERATURE)
    save_folder(model, tokenizer, folder)
    return cpu["text"]


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
    name: str, stages: Sequence[Stage], seed: int, material: Material, begun: Path, results: Path, size: MiniSize
) -> None:
    """One run, and its results file."""
    model, tokenizer = load_folder(begun)
    cpu: dict[str, float] = {}
    with clocked(cpu, "pretraining"):
        losses = pretrain(model, tokenizer, stages, material, seed)
    passes = np.sum([stage.passes(size) for stage in stages], axis=0)
    with clocked(cpu, "measuring"):
        still = not any(stage.batch for stage in stages)
        found = measure(model, tokenizer, UPPER, material.shown, material.asked_texts, still=still)
    told = {
        "name": name,
        "seed": seed,
        "cpu_seconds": rounded(cpu),
        "stages": [asdict(stage) for stage in stages],
        "weighted_steps": round(float(passes[0] + clip_cost(results) * passes[1]), 1),
        "seen": {"image": sum(s.steps * s.batch for s in stages), "video": sum(s.steps * s.clips for s in stages)},
        "losses": losses,  # mean of the first and of the last five steps of each stage
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


def measure_cost(encoders: Path, material: Material, results: Path, size: MiniSize, pairs: int = 8) -> None:
    """The median of ratios of CPU seconds of two steps on clips and on drawings that follow each other."""
    model, tokenizer = start(encoders, random=False)
    found = []
    for pair in range(pairs + 1):
        cpu: dict[str, float] = {}
        for kind, stage in (("drawings", Stage(2, size.batch, 0)), ("clips", Stage(2, 0, size.clips))):
            with clocked(cpu, kind):
                pretrain(model, tokenizer, [stage], material, pair)
        found.append((cpu["drawings"] / 2, cpu["clips"] / 2))
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
    parser.add_argument("--runs", type=Path, help="folder for starts and tokens (default: runs/paradigms_mini)")
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
    wanted.sort(key=lambda run: run[0].endswith("_exposure"))
    missing = [run for run in wanted if not is_done(results, "{}_seed{}".format(*run), size)]
    material = Material.read(*sources, options.runs / "tokens") if missing else None
    for name, seed in missing:
        assert material is not None
        begun = options.runs / f"text_seed{seed}"
        if not begun.exists() or not is_done(results, f"text_seed{seed}", size):
            seconds = text_start(options.encoders, begun, material.corpora[0], size, seed)
            told = {"name": "text", "seed": seed, "cpu_seconds": {"pretraining": round(seconds, 1)}, "results": []}
            keep(results, f"text_seed{seed}", size, told)
        clock = time.process_time()
        make(name, planned[name], seed, material, begun, results, size)
        print(f"{name} seed {seed}: {time.process_time() - clock:.0f} CPU seconds", file=sys.stderr, flush=True)
    print(write_page(options.results, FULL))


if __name__ == "__main__":
    sys.exit(main())
