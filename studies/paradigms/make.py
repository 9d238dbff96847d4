"""One run of the study: the start, pretraining, measuring, finetuning, measuring again, and its results file.

A results file that is there is never made again; without it everything of the run is made anew, the start of its seed
excepted, which all runs of a seed share.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnivl.config import MODELS, RunConfig, read_json, to_dict
from omnivl.model import OmniVL
from omnivl.model.folder import load_folder, save_folder, write_text
from omnivl.model.layers import SelfAttention
from omnivl.results import machine
from omnivl.run import train
from studies.paradigms.cost import clip_cost
from studies.paradigms.floor import FLOOR, measure_floor
from studies.paradigms.measure import Row, finetuned_answers, finetuned_captions, measure
from studies.paradigms.plan import Job, Size, finetuning, warm_up

Count = Counter[str]


class Bench:
    """Where runs are made and their results kept, how large they are, and the commit of the code that makes them."""

    def __init__(self, runs: Path, results: Path, size: Size, commit: str | None) -> None:
        self.runs, self.results, self.size, self.commit = runs, results, size, commit

    def is_done(self, name: str) -> bool:
        """Whether a results file is there. Raises ValueError where it is of another size than this study."""
        file = self.results / f"{name}.json"
        if not file.exists():
            return False
        if read_json(file)["size"] != asdict(self.size):
            raise ValueError(f"{file} is of a study of another size: give this one its own --results")
        return True

    # --- one run ---

    def make(self, job: Job, seed: int) -> Path:
        """Train and measure; gives the results file."""
        start = self.start(job.start, seed)
        config = RunConfig(recipe=job.name, seed=seed, model=MODELS["tiny"], init=str(start), stages=job.stages)
        folder = self.fresh(f"{job.name}_seed{seed}")
        cpu: dict[str, float] = {}
        with clocked(cpu, "pretraining"):
            model_folder = train(config, folder, device="cpu")
        steps, seen = count(config, folder)
        with clocked(cpu, "measuring"):
            model, tokenizer = load_folder(model_folder)
            save_folder(completed(model, steps), tokenizer, model_folder)  # for finetuning too
            found = measure(model, tokenizer, self.size, job.ks, still=not steps["image"])
        if job.finetuned:
            for recipe, score in (("captioning_mini", finetuned_captions), ("answering_mini", finetuned_answers)):
                last = replace(finetuning(recipe, self.size), seed=seed, init=str(model_folder))
                with clocked(cpu, recipe):
                    tuned = train(last, folder / recipe, device="cpu")
                with clocked(cpu, "measuring"):
                    found += score(*load_folder(tuned), self.size)
                shutil.rmtree(folder / recipe)
        shutil.rmtree(folder / "checkpoints")
        return self.write(config, cpu, (steps, seen), found, job.start)

    def make_floor(self) -> Path:
        """What the pixels' nearest neighbour gives, which has no seed."""
        cpu: dict[str, float] = {}
        with clocked(cpu, "measuring"):
            found = measure_floor(self.size)
        return self.keep(FLOOR, {"name": FLOOR, "cpu_seconds": rounded(cpu), "results": found})

    def write(
        self, config: RunConfig, cpu: dict[str, float], counted: tuple[Count, Count], found: list[Row], start: str
    ) -> Path:
        steps, seen = counted
        told = {
            "name": config.recipe,
            "seed": config.seed,
            "start": start,
            "cpu_seconds": rounded(cpu),
            "steps": dict(steps),
            "weighted_steps": round(steps["image"] + clip_cost() * steps["video"], 1),
            "seen": dict(seen),  # samples
            "config": to_dict(replace(config, init="")),
            "results": found,
        }
        return self.keep(f"{config.recipe}_seed{config.seed}", told)

    def keep(self, name: str, told: dict[str, Any]) -> Path:
        """Write a results file."""
        here = {
            "command": "make -C studies/paradigms",
            "commit": self.commit,
            "machine": f"{machine()}, {torch.get_num_threads()} thread",
            "size": asdict(self.size),
        }
        file = self.results / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, compact(here | told))
        return file

    def fresh(self, name: str) -> Path:
        """A folder under this name with nothing in it: what an unfinished run left there goes."""
        folder = self.runs / name
        if folder.exists():
            shutil.rmtree(folder)
        return folder

    # --- what runs begin with ---

    def start(self, kind: str, seed: int) -> Path:
        """The model folder that a run begins with: the language warm-up of its seed, or one derived from it."""
        language = self.runs / f"language_seed{seed}" / "model"
        if not language.exists():
            self.learn_language(seed)
        if kind == "language":
            return language
        folder = self.fresh(f"{kind}_seed{seed}")
        model, tokenizer = load_folder(language)
        torch.manual_seed(seed)
        save_folder(STARTS[kind](model), tokenizer, folder)
        return folder

    def learn_language(self, seed: int) -> None:
        config = RunConfig(recipe="language", seed=seed, model=MODELS["tiny"], stages=(warm_up(self.size),))
        folder, cpu = self.fresh(f"language_seed{seed}"), dict[str, float]()
        with clocked(cpu, "pretraining"):
            train(config, folder, device="cpu")
        shutil.rmtree(folder / "checkpoints")
        self.write(config, cpu, count(config, folder), [], "nothing")


@torch.no_grad()
def completed(model: OmniVL, steps: Count) -> OmniVL:
    """A model that has seen one medium alone takes the other's patches from it: without clips each frame is a picture
    to it, and without pictures the 3-D kernel is summed over its depth, which for a clip that stands still is the
    same."""
    if not steps["video"]:
        model.visual.start_video_from_image()
    if not steps["image"]:
        patches = model.visual.patches
        assert patches.image.bias is not None and patches.video.bias is not None
        patches.image.weight.copy_(patches.video.weight.sum(2))
        patches.image.bias.copy_(patches.video.bias)
    return model


@torch.no_grad()
def random_temporal(model: OmniVL) -> OmniVL:
    """All that only clips use at random, instead of derived from the image weights when clips first come."""
    vision = model.config.vision
    for block in model.visual.blocks:
        block.temporal.load_state_dict(SelfAttention(vision.width, vision.heads).state_dict())
        block.temporal_norm.load_state_dict(nn.LayerNorm(vision.width, eps=vision.layer_norm_eps).state_dict())
    kernel = model.visual.patches.video
    nn.init.normal_(kernel.weight, std=0.02)
    assert kernel.bias is not None
    nn.init.zeros_(kernel.bias)
    nn.init.normal_(model.visual.time_position, std=0.02)
    return model


def tubelet1(model: OmniVL) -> OmniVL:
    """The same weights, with patches of clips one frame deep, which a stage with clips derives from the image
    weights."""
    config = replace(model.config, vision=replace(model.config.vision, tubelet_size=1))
    other = OmniVL(config)
    state = {name: value for name, value in model.state_dict().items() if name not in DEPTH}
    missing, unexpected = other.load_state_dict(state, strict=False)  # without what has another shape here
    assert set(missing) == set(DEPTH) and not unexpected
    return other


DEPTH = ("visual.patches.video.weight", "visual.time_position")  # whose shapes the tubelet's depth decides
STARTS = {"random_temporal": random_temporal, "tubelet1": tubelet1}


# --- small things ----------------------------------------------------------------------------------------------------


@contextmanager
def clocked(cpu: dict[str, float], part: str) -> Iterator[None]:
    """Adds the CPU seconds of the block, which no other process changes the way it changes the wall's."""
    begun = time.process_time()
    yield
    cpu[part] = cpu.get(part, 0.0) + time.process_time() - begun


def rounded(cpu: dict[str, float]) -> dict[str, float]:
    return {part: round(seconds, 1) for part, seconds in cpu.items()}


def count(config: RunConfig, folder: Path) -> tuple[Count, Count]:
    """Steps of each medium as they were taken, and the samples that they showed."""
    data = {stage.name: stage.data for stage in config.stages}
    steps, seen = Count(), Count()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        own, medium = data[row["stage"]], row["medium"]
        steps[medium] += 1
        seen[medium] += (own.video_batch_size if medium == "video" else 0) or own.batch_size
    return steps, seen


def compact(told: dict[str, Any]) -> str:
    """JSON with a line for each entry, and for each row of the results."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in told.items() if name != "results"]
    rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in told["results"])
    lines.append(f'"results": [\n{rows}\n  ]' if rows else '"results": []')
    return "{\n" + ",\n".join(f"  {line}" for line in lines) + "\n}\n"
