"""The only room that turns a config into objects: `train(config)` and `evaluate(...)`.

Everything below it is given its parts; here a config becomes sources, plans, a model, tasks and a trainer.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from omnivl import distributed
from omnivl.config import ConfigError, DataConfig, RunConfig, StageConfig, read_json, to_dict
from omnivl.data.galleries import file_gallery, world_gallery, world_reverse, world_siblings
from omnivl.data.loader import Plan, PlannedBatches, training_loader
from omnivl.data.sample import Batch, Gallery
from omnivl.data.sources import Ask, FileSource, Source, WorldSource, open_source
from omnivl.model import OmniVL
from omnivl.model.folder import add_results, load_folder, save_folder
from omnivl.model.hub import local_folder
from omnivl.report import Example, Search, write_report
from omnivl.results import stopwatch, write_results
from omnivl.tasks.base import Result, Task
from omnivl.tasks.captioning import evaluate_captions, write_captions
from omnivl.tasks.classification import evaluate_zero_shot
from omnivl.tasks.pretrain import PretrainTask, TextTask
from omnivl.tasks.retrieval import encode, evaluate_retrieval, evaluate_reverse, evaluate_siblings
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import RunFolder, checkpoint_steps
from omnivl.train.trainer import Stage, Trainer

log = logging.getLogger(__name__)

TASKS = ("retrieval", "classify", "caption")
VOCABULARY_TEXTS = 200_000  # captions at most that a vocabulary is learnt from


# --- training --------------------------------------------------------------------------------------------------------


def train(config: RunConfig, out: Path, *, device: str = "auto", resume: bool = False) -> Path:
    """Run every stage of a config in the run folder `out`; gives the folder of the trained model.

    Raises ValueError (ConfigError among them) where nothing can be begun, TrainingError or Stopped later on.
    """
    check(config)
    with distributed.process_group(device) as place:
        folder = open_on_main(out)
        try:
            checkpoint = begin(config, out, folder, resume)
            run = Run(config, checkpoint, place)
            if folder and not checkpoint:
                folder.write_config(to_dict(replace(config, model=run.model.config)))
            trainer = Trainer(config, run.stage, run.save, folder, place)
            trainer.train(checkpoint)
        finally:
            if folder:
                folder.close()
    return out / "model"


def open_on_main(out: Path) -> RunFolder | None:
    """The run folder on rank 0, None elsewhere; a folder in use stops every rank."""
    folder: list[RunFolder] = []

    def opening() -> None:
        folder.append(RunFolder(out))

    distributed.main_first(opening)
    return folder[0] if folder else None


def begin(config: RunConfig, out: Path, folder: RunFolder | None, resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a new run. Refuses to write over an earlier one."""

    def look() -> str:
        steps = checkpoint_steps(out)
        if resume:
            return str(out / "checkpoints" / f"step-{steps[-1]}") if steps else ""
        if steps or (out / "model").exists():
            raise ValueError(
                f"{out} already holds a run: go on with `omnivl train --resume {out}`, or choose another --out"
            )
        return ""

    found = distributed.main_first(look)
    if folder and not found:
        folder.cut(0)
    return Path(found) if found else None


def check(config: RunConfig) -> None:
    """Refuse what cannot work before anything is begun. Raises ConfigError."""
    if not config.stages:
        raise ConfigError("this run has no stages")
    for number, stage in enumerate(config.stages):
        where = f"stage {number} ({stage.name})"
        data, task, steps = stage.data, stage.task, stage.train
        if not data.sources:
            raise ConfigError(
                f"{where} has no data: give --data.sources FORMAT:FILE, such as manifest:my.jsonl or world:"
            )
        if steps.steps < 1 or steps.accumulate < 1:
            raise ConfigError(f"{where}: train.steps and train.accumulate must be at least 1")
        if steps.select and not steps.validate_every:
            raise ConfigError(
                f"{where}: train.select {steps.select!r} is measured where train.validate_every is set: give it steps"
            )
        for prompt in data.prompts:
            if "{}" not in prompt:
                raise ConfigError(f"{where}: the prompt {prompt!r} has no {{}} for the class name")
        sizes = {"image": data.batch_size, "video": data.video_batch_size or data.batch_size}
        if data.media in sizes:
            sizes = {data.media: sizes[data.media]}
        for medium, size in sizes.items():
            if size < 1 or size % steps.accumulate:
                raise ConfigError(f"{where}: a batch of {size} does not split in train.accumulate {steps.accumulate}")
            if task.name == "pretrain" and task.vlm_weight and size // steps.accumulate < 2:
                raise ConfigError(
                    f"{where}: a batch of one {medium} has no negatives for the matching loss; "
                    "raise data.batch_size or set --task.vlm_weight 0"
                )
        for name, part in (
            ("match_share", task.match_share),
            ("lm_share", task.lm_share),
            ("video_lm_share", task.video_lm_share),
        ):
            if not 0 < part <= 1:
                raise ConfigError(
                    f"{where}: task.{name} is {part:g}, wanted above 0 and at most 1; "
                    "to leave a loss out set its weight to 0"
                )
        if (data.media == "text") != (task.name == "text"):
            raise ConfigError(f'{where}: task.name "text" and data.media "text" go together')


class Run:
    """The parts of one run: tokenizer, model, and each stage when its turn comes."""

    def __init__(self, config: RunConfig, checkpoint: Path | None, device: torch.device) -> None:
        self.config, self.device = config, device
        self.opened: dict[DataConfig, list[Source]] = {}
        torch.manual_seed(config.seed)
        source = checkpoint or (local_folder(config.init) if config.init else None)
        if source:
            self.model, self.tokenizer = load_folder(source)
            self.resize()
        else:
            self.tokenizer = self.vocabulary()
            text = replace(config.model.text, vocab_size=self.tokenizer.vocab_size)
            self.model = OmniVL(replace(config.model, text=text))
        self.model.to(device)

    def resize(self) -> None:
        """Fit the position tables to a config that asks for other pictures or clips than the loaded model, and for
        nothing else."""
        own, wanted = self.model.config, self.config.model
        sizes = {"image_size": wanted.vision.image_size, "num_frames": wanted.vision.num_frames}
        if wanted == replace(own, vision=replace(own.vision, **sizes)):
            for told in self.model.resize(**sizes):
                log.info(told)

    def vocabulary(self) -> Tokenizer:
        if self.config.vocab:
            return Tokenizer.from_vocab(self.config.vocab)
        texts = [
            text
            for stage in self.config.stages
            for source in self.sources(stage.data)
            for text in source.texts(VOCABULARY_TEXTS)
        ]
        if not texts:
            raise ConfigError(
                "a vocabulary cannot be learnt, as no source has texts: give --vocab FILE or --init MODEL"
            )
        return Tokenizer.train(dict.fromkeys(texts), vocab_size=self.config.model.text.vocab_size)

    def sources(self, data: DataConfig) -> list[Source]:
        if data not in self.opened:
            self.opened[data] = [open_source(spec, data) for spec in data.sources]
        return self.opened[data]

    def save(self, folder: Path) -> None:
        save_folder(self.model, self.tokenizer, folder)

    def task(self, config: StageConfig) -> Task:
        ids = self.tokenizer
        if config.task.name == "text":
            return TextTask(
                self.model, config.task, self.config.seed, mask_id=ids.mask_id, special_ids=tuple(ids.special_ids)
            )
        return PretrainTask(
            self.model, config.task, self.config.seed, enc_id=ids.enc_id, dec_id=ids.dec_id, pad_id=ids.pad_id
        )

    def stage(self, number: int) -> Stage:
        """Build stage `number` around the model as it stands now."""
        config = self.config.stages[number]
        data = config.data
        sources = self.sources(data)
        media = {"both": ("image", "video"), "text": ("text",)}.get(data.media, (data.media,))
        lengths = [{medium: source.length(medium) for medium in media} for source in sources]
        names = [source.name for source in sources]
        groups = [source.group_size for source in sources]
        seed = self.config.seed + 1000 * number
        ranks = {"rank": distributed.rank(), "world": distributed.world_size()}
        plan = Plan(data, seed, names, lengths, groups, accumulate=config.train.accumulate, **ranks)
        ask = Ask.training(data, self.model.config)
        planned = PlannedBatches(sources, ask, self.tokenizer, seed, data.max_text_tokens, data.on_bad_sample)
        torch.manual_seed(seed)  # of the task's own new heads

        def batches(first: int, last: int) -> Iterable[Batch]:
            return training_loader(plan, planned, first, last, data.num_workers, pin_memory=self.device.type == "cuda")

        validate = (lambda: self.validate(config)) if config.train.validate_every else None
        return Stage(config, self.task(config), batches, plan.fingerprint(), validate)

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """Retrieval on the validation split of the stage's first source."""
        data = replace(stage.data, split="validation")
        media = ("image", "video") if data.media == "both" else (data.media,)
        results = evaluate(
            self.model, self.tokenizer, data.sources[0], tasks=("retrieval",), split="validation", root=data.root,
            media=media, num_frames=data.num_frames, rerank=0, seed=self.config.seed, num_items=256,
        )[0]  # fmt: skip
        return {result.metric: result.value for result in results}


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(
    model: OmniVL,
    tokenizer: Tokenizer,
    data: str,
    *,
    tasks: Sequence[str] = TASKS,
    split: str = "test",
    root: str = "",
    media: Sequence[str] = ("image", "video"),
    num_frames: int | None = None,
    rerank: int = 128,
    num_items: int = 256,
    seed: int = 0,
) -> tuple[list[Result], list[tuple[str, str]]]:
    """Measure a model on FORMAT:ANNOTATIONS; gives the results, and (key, reason) of every item that could not be read.

    On the world "retrieval" includes siblings and reverse. Raises ValueError for a task or a data set that is not
    there.
    """
    unknown = set(tasks) - set(TASKS)
    if unknown:
        raise ValueError(f"there is no task {', '.join(sorted(unknown))}: choose {', '.join(TASKS)}")
    model.eval()
    config = model.config
    ask = Ask(config.vision.image_size, num_frames or config.vision.num_frames, config.interpolation)
    source = open_source(data, DataConfig(sources=(data,), root=root, split=split, num_frames=ask.num_frames))
    results: list[Result] = []
    galleries = [gallery for medium in media if (gallery := make_gallery(source, split, medium, num_items, seed, ask))]
    if not galleries:
        raise ValueError(f"{data} has no items to evaluate")
    for gallery in galleries:
        if "retrieval" in tasks and any(gallery.captions):
            results += evaluate_retrieval(model, tokenizer, gallery, k=rerank)
        if "classify" in tasks and any(gallery.labels):
            results += evaluate_zero_shot(model, tokenizer, gallery)
        if "caption" in tasks and any(gallery.captions):
            results += evaluate_captions(model, tokenizer, gallery)
    if isinstance(source, WorldSource) and "retrieval" in tasks and "video" in media:
        results += evaluate_siblings(model, tokenizer, world_siblings(split, 60, seed, ask))
        results += evaluate_reverse(model, tokenizer, *world_reverse(split, 240, seed, ask))
    if not results:
        raise ValueError(f"{data} has nothing to measure {', '.join(tasks)} by: it needs captions or labels")
    frames = {"frames": ask.num_frames, "seed": seed}
    return [
        replace(r, settings={**r.settings, **(frames if r.settings["medium"] == "video" else {"seed": seed})})
        for r in results
    ], sorted({item for gallery in galleries for item in gallery.bad})


def make_gallery(source: Source, split: str, medium: str, num_items: int, seed: int, ask: Ask) -> Gallery | None:
    if isinstance(source, WorldSource):
        return world_gallery(split, medium, num_items, seed, ask)
    assert isinstance(source, FileSource)
    return file_gallery(source, split, medium, ask) if source.length(medium) else None


def finish(config: RunConfig, out: Path, device: str = "auto") -> None:
    """Measure a run's model as its config says, write results.json and report.html. Does nothing where it asks for
    nothing."""
    wanted = config.evaluation
    if not wanted.tasks:
        return
    model, tokenizer = load_folder(out / "model", distributed.resolve_device(device))
    frames = config.stages[-1].data.num_frames
    with stopwatch() as seconds:
        results, _ = evaluate(
            model, tokenizer, wanted.data, tasks=wanted.tasks, split=wanted.split, rerank=wanted.rerank,
            num_items=wanted.num_items, num_frames=frames, seed=config.seed,
        )  # fmt: skip
    write_results(out / "results.json", results, config=to_dict(config), seed=config.seed, seconds=seconds[0])
    add_results(out / "model", read_json(out / "results.json")["results"])
    ask = Ask(model.config.vision.image_size, frames, model.config.interpolation)
    source = open_source(wanted.data, DataConfig(sources=(wanted.data,), split=wanted.split))
    examples: list[Example] = []
    searches: list[Search] = []
    for medium in ("image", "video"):
        gallery = make_gallery(source, wanted.split, medium, wanted.num_items, config.seed, ask)
        if gallery and any(gallery.captions):
            found = show(model, tokenizer, gallery)
            examples, searches = examples + found[0], searches + found[1]
    write_report(out, examples, searches)


def show(
    model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, examples: int = 12, searches: int = 6
) -> tuple[list[Example], list[Search]]:
    """The first items of a gallery, with what is written of them and the three texts they find; and the last texts,
    with the five items they find."""
    encoded = encode(model, tokenizer, gallery)
    similarity = encoded.visual @ encoded.text.T
    similarity[~encoded.read] = -2.0  # shown nowhere
    texts = [caption for own in gallery.captions for caption in own]
    owner = encoded.owner.tolist()
    shown = [i for i in range(len(gallery)) if encoded.read[i] and gallery.captions[i]]
    few = replace(
        gallery, keys=[gallery.keys[i] for i in shown[:examples]], read=lambda number: gallery.read(shown[number])
    )
    to_text = similarity.topk(min(3, len(texts)), dim=1).indices.tolist()
    to_visual = similarity.topk(min(5, len(shown)), dim=0).indices.T.tolist()
    return (
        [
            Example(gallery.medium, gallery.read(i), gallery.captions[i][0], text, tuple(texts[j] for j in to_text[i]))
            for i, text in zip(shown, write_captions(model, tokenizer, few), strict=False)
        ],
        [
            Search(
                gallery.medium,
                texts[i],
                tuple(gallery.read(j) for j in to_visual[i]),
                tuple(texts[i] in gallery.captions[j] or j == owner[i] for j in to_visual[i]),
            )
            for i in range(len(texts))[-searches:]
        ],
    )
