"""Which runs there are, and with what: the demo's recipe in every one, stages and budgets apart.

Nothing here is tuned. The demo's settings were chosen on the world's validation scenes; a run changes the number of
steps, which stages there are, and in a claim the one thing that the claim is about (`check` holds that). All stages
train on the world's training scenes, and `studies.paradigms.measure` looks at its test scenes alone.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from omnivl.config import ConfigError, RunConfig, StageConfig
from omnivl.presets import RECIPES, changed, images, joint, language
from omnivl.presets.pretraining import videos
from studies.paradigms.cost import clip_cost

DEMO_SHARE = 0.7  # of clip steps in the demo's joint stage


@dataclass(frozen=True)
class Size:
    """How large everything is. A budget of x1 is that of decoupled joint pretraining with these two stages."""

    images: int = 450  # steps: half the demo's
    joint: int = 750
    language: int = 400
    captioning: int = 100  # steps of finetuning
    answering: int = 200
    items: int = 256  # of a gallery
    scenes: int = 60  # whose clips are told apart from their siblings
    clips: int = 240  # told from their reverse
    copied: int = 10_000  # training items of each medium that the pixel neighbour copies from
    batch: dict[str, int] = field(default_factory=dict)  # batch sizes, where they are not the demo's


FULL = Size()
TINY = Size(
    images=2, joint=3, language=3, captioning=2, answering=2, items=16, scenes=2, clips=8, copied=50,
    batch={"batch_size": 8, "video_batch_size": 8},
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of the study for each of its seeds. `start` names the model it begins with (studies.paradigms.make)."""

    name: str
    stages: tuple[StageConfig, ...]
    seeds: tuple[int, ...]
    start: str = "language"
    finetuned: bool = False
    ks: tuple[int, ...] = (16,)  # candidates that are reranked


def budget(size: Size, times: float = 1.0) -> float:
    """Weighted steps of x1, x2, ...: an image step counts 1, a clip step what it costs."""
    return times * (size.images + size.joint * (1 - DEMO_SHARE + DEMO_SHARE * clip_cost()))


def at_equal_compute(size: Size, times: float = 1.0) -> dict[str, tuple[StageConfig, ...]]:
    """The five paradigms at one number of weighted steps; those with an image stage first have the same one."""
    whole, clip = budget(size, times), clip_cost()
    first = round(times * size.images)
    rest = whole - first
    both = 1 - DEMO_SHARE + DEMO_SHARE * clip
    return {
        "decoupled_joint": (images(first), joint(round(rest / both))),
        "image_only": (images(round(whole)),),
        "video_only": (videos(round(whole / clip)),),
        "joint": (joint(round(whole / both)),),
        "image_then_video": (images(first), videos(round(rest / clip))),
    }


def at_equal_exposure(size: Size) -> dict[str, tuple[StageConfig, ...]]:
    """The rivals with the images and clips that decoupled joint pretraining sees at x1, those that they see at all."""
    clips = round(DEMO_SHARE * size.joint)
    pictures = size.images + size.joint - clips
    share = round(clips / (pictures + clips), 2)
    return {
        "image_only": (images(pictures),),
        "video_only": (videos(clips),),
        "joint": (joint(pictures + clips, video_share=share),),
        "image_then_video": (images(pictures), videos(clips)),
    }


# What decoupled joint pretraining at x1 is tried without: stage settings, or the model it begins with.
CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "no_labels": ({"data": {"sources": ("world:",), "weights": ()}}, "language"),
    "infonce": ({"task": {"contrast": "infonce"}}, "language"),
    "random_temporal": ({}, "random_temporal"),
    "tubelet1": ({}, "tubelet1"),
    "no_banks": ({"task": {"bank_size": 0}}, "language"),
    "no_momentum": ({"task": {"momentum": 0.0, "momentum_warmup": False}}, "language"),
}
BUDGETS = (0.25, 0.5, 1, 2)  # of x1, for growth


def grown(name: str, times: float) -> str:
    """The run of a paradigm at so many times its budget."""
    return name if times == 1 else f"{name}_x{times:g}"


def jobs(size: Size = FULL) -> list[Job]:
    """All runs, in the order in which they are made."""
    compute, exposure = at_equal_compute(size), at_equal_exposure(size)
    decoupled = compute["decoupled_joint"]
    found = [
        Job(name, stages, (0, 1, 2), finetuned=True, ks=(16, 128) if name == "decoupled_joint" else (16,))
        for name, stages in compute.items()
    ]
    found += [Job(f"{name}_exposure", stages, (0, 1, 2), finetuned=True) for name, stages in exposure.items()]
    found += [
        Job(f"decoupled_joint_{name}", tuple(changed(stage, **changes) for stage in decoupled), (0, 1), start)
        for name, (changes, start) in CLAIMS.items()
    ]
    for times in BUDGETS:
        if times != 1:
            found += [Job(grown(name, times), stages, (0,)) for name, stages in at_equal_compute(size, times).items()]
    ready = [replace(job, stages=tuple(prepared(stage, size) for stage in job.stages)) for job in found]
    for job in ready:
        check(job)
    return ready


def in_order(listed: list[Job]) -> list[tuple[Job, int]]:
    """Every job with each of its seeds: seed by seed within each of the four parts of the study."""

    def part(job: Job) -> int:
        budgets = (grown("", times) for times in BUDGETS if times != 1)
        ends = ("_exposure", *(f"decoupled_joint_{name}" for name in CLAIMS), *budgets)
        place = next((i for i, end in enumerate(ends, 1) if job.name.endswith(end)), 0)
        return place if place < 2 else 2 if place <= 1 + len(CLAIMS) else place

    pairs = [(job, seed) for job in listed for seed in job.seeds]
    return sorted(pairs, key=lambda pair: (part(pair[0]), pair[1]))


def prepared(stage: StageConfig, size: Size) -> StageConfig:
    """A stage without checkpoints on its way, at least two steps long, with the batches of this size."""
    return changed(stage, data=size.batch, train={"steps": max(2, stage.train.steps), "checkpoint_every": 0})


def warm_up(size: Size) -> StageConfig:
    return prepared(language(size.language), size)


def finetuning(recipe: str, size: Size) -> RunConfig:
    """captioning_mini or answering_mini, shorter."""
    config = RECIPES[recipe]()
    steps = {"captioning_mini": size.captioning, "answering_mini": size.answering}[recipe]
    stage = prepared(changed(config.stages[0], train={"steps": steps}), size)
    return replace(config, stages=(stage,))


def check(job: Job) -> None:
    """Refuse a run that could have looked at what is reported. Raises ConfigError."""
    for stage in job.stages:
        data, train = stage.data, stage.train
        if data.split != "train" or train.validate_every or train.select:
            raise ConfigError(f"{job.name}: stage {stage.name} must train on the training scenes, and choose nothing")
        if not all(source.startswith("world:") for source in data.sources):
            raise ConfigError(f"{job.name}: stage {stage.name} must learn from the world alone")
