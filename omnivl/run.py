"""Training: the room that turns a run's config into sources, plans, a model, tasks and a trainer, and at the end into
its results and its report. Everything below it is given its parts. What is measured is `omnivl.evaluation`'s.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from omnivl import distributed
from omnivl.checks import MEDIA, check, check_data, check_positions, trained_on, validation
from omnivl.config import ConfigError, DataConfig, RunConfig, StageConfig, to_dict
from omnivl.data.loader import Plan, PlannedBatches, training_loader
from omnivl.data.sample import Batch, Gallery
from omnivl.data.sources import Ask, Source, classes_of, open_source
from omnivl.evaluation import Evaluation, evaluate, open_data
from omnivl.model import OmniVL
from omnivl.model.folder import add_results, load_folder, save_folder
from omnivl.model.hub import local_folder
from omnivl.report import Example, Search, write_report
from omnivl.results import prepare_results, read_rows, stopwatch, write_results
from omnivl.tasks.answering import AnsweringTask
from omnivl.tasks.base import Task
from omnivl.tasks.captioning import CaptioningTask, write_captions
from omnivl.tasks.classification import ClassificationTask
from omnivl.tasks.pretrain import PretrainTask, TextTask
from omnivl.tasks.retrieval import encode
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import RunFolder, SaveModel, checkpoint_steps, copy_to_host, refuse_foreign
from omnivl.train.trainer import Stage, Trainer

log = logging.getLogger(__name__)

VOCABULARY_TEXTS = 200_000  # captions at most that a vocabulary is learnt from


# --- training --------------------------------------------------------------------------------------------------------


def train(config: RunConfig, out: Path, *, device: str = "auto", resume: bool = False) -> Path:
    """Run every stage of a config in the run folder `out`; gives the folder of the trained model.

    Raises ValueError (ConfigError among them) where nothing can be begun, TrainingError or Stopped later on.
    """
    check(config)
    check_data(config)
    with distributed.process_group(device) as place:
        folder = open_on_main(out)
        try:
            checkpoint = begin(config, out, folder, resume)
            run = Run(config, checkpoint, place)
            if folder and not checkpoint:
                folder.write_config(to_dict(replace(config, model=run.model.config)))
            trainer = Trainer(config, run.stage, run.copy, folder, place)
            trainer.train(checkpoint)
        finally:
            if folder:
                folder.close()
    return out / "model"


def open_on_main(out: Path) -> RunFolder | None:
    """The run folder on rank 0, None elsewhere; a folder in use, or of something else, stops every rank."""
    folder: list[RunFolder] = []

    def opening() -> None:
        refuse_foreign(out)
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


class Run:
    """The parts of one run: tokenizer, model, and each stage when its turn comes."""

    def __init__(self, config: RunConfig, checkpoint: Path | None, device: torch.device) -> None:
        self.config, self.device = config, device
        self.opened: dict[DataConfig, list[Source]] = {}
        torch.manual_seed(config.seed)
        if checkpoint:  # as it stands: a stage before may have given it another size than the config's
            self.model, self.tokenizer = load_folder(checkpoint)
        elif config.init:
            self.model, self.tokenizer = load_folder(local_folder(config.init))
            self.resize()
        else:
            self.tokenizer = self.vocabulary()
            text = replace(config.model.text, vocab_size=self.tokenizer.vocab_size)
            self.model = OmniVL(replace(config.model, text=text))
        check_positions(config, self.model.config, self.tokenizer)
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

    def copy(self) -> SaveModel:
        """Copies the model's weights to the host's memory; gives what writes a model folder of the copy."""
        model = copy_to_host(self.model)
        return lambda folder: save_folder(model, self.tokenizer, folder)

    def task(self, config: StageConfig) -> Task:
        model, ids, task, seed = self.model, self.tokenizer, config.task, self.config.seed
        if task.name == "text":
            return TextTask(model, task, seed, mask_id=ids.mask_id, special_ids=tuple(ids.special_ids))
        if task.name == "answering":
            return AnsweringTask(model, task, enc_id=ids.enc_id, dec_id=ids.dec_id)
        if task.name == "captioning":  # the prompts go with the model, which writes by them
            model.config = replace(model.config, image_prompt=task.image_prompt, video_prompt=task.video_prompt)
            return CaptioningTask(model, task, ids)
        if task.name == "classification":
            labels = self.labels(config.data)
            if model.classifier is None or model.extra["labels"] != labels:
                model.add_classifier(labels)
            return ClassificationTask(model, task, seed)
        return PretrainTask(model, task, seed, enc_id=ids.enc_id, dec_id=ids.dec_id, pad_id=ids.pad_id)

    def labels(self, data: DataConfig) -> list[str]:
        """The classes of a stage's sources, each once. Raises ConfigError where there are fewer than two."""
        found = [name for source in self.sources(data) for name in classes_of(source, MEDIA[data.media])]
        labels = list(dict.fromkeys(found))
        if len(labels) < 2:
            raise ConfigError(f"classification needs at least two classes, got {', '.join(labels) or 'none'}")
        return labels

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
        if data.image_size:
            frames = self.model.config.vision.num_frames if data.media == "image" else data.num_frames
            for told in self.model.resize(data.image_size, frames):
                log.info(told)
        plan = Plan(data, seed, names, lengths, groups, accumulate=config.train.accumulate, **ranks)
        ask = Ask.training(data, self.model.config)
        planned = PlannedBatches(sources, ask, self.tokenizer, seed, data.max_text_tokens, data.on_bad_sample)
        torch.manual_seed(seed)  # of the task's own new heads

        def batches(first: int, last: int) -> Iterable[Batch]:
            return training_loader(plan, planned, first, last, data.num_workers, pin_memory=self.device.type == "cuda")

        validate = (lambda: self.validate(config)) if config.train.validate_every else None
        return Stage(config, self.task(config), batches, plan.fingerprint(), validate)

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """The stage's own task on the validation split, by its metrics' names; of several rows of one (media, kinds of
        answers), the first."""
        results, _ = evaluate(self.model, self.tokenizer, validation(stage), seed=self.config.seed)
        return {
            " ".join((result.metric, result.settings.get("direction", ""))).strip(): result.value
            for result in reversed(results)
            if result.value is not None
        }


# --- the end of a run ------------------------------------------------------------------------------------------------


def finish(config: RunConfig, out: Path, device: str = "auto") -> None:
    """Measure a run's model as its config says, write results.json and report.html. Does nothing where it asks for
    nothing; where it names no data and those trained on have none to measure by, says so."""
    wanted, learnt = config.evaluation, config.stages[-1].data
    if not wanted.tasks:
        return
    model, tokenizer = load_folder(out / "model", distributed.resolve_device(device))
    frames, tokens = wanted.num_frames or learnt.num_frames, wanted.max_text_tokens or learnt.max_text_tokens
    wanted = replace(wanted, num_frames=frames, max_text_tokens=tokens)
    if not config.evaluation.data:
        wanted = replace(wanted, data=learnt.sources[0], root=wanted.root or learnt.root)
    prepare_results(out / "results.json")
    with stopwatch() as seconds:
        try:
            if not config.evaluation.data and (told := trained_on(config, wanted)):
                raise ValueError(f"{wanted.data} has no split of its own to measure on, {told} were trained on")
            results, _ = evaluate(model, tokenizer, wanted, seed=config.seed)
        except ValueError as error:
            if config.evaluation.data:
                raise
            log.warning("not measured: %s; `omnivl evaluate %s` measures it on other data", error, out / "model")
            return
    write_results(out / "results.json", results, config=to_dict(config), seed=config.seed, seconds=seconds[0])
    try:
        add_results(out / "model", read_rows(out / "results.json"))
    except ValueError as error:
        log.warning("%s", error)
    examples: list[Example] = []
    searches: list[Search] = []
    evaluation = Evaluation(model, tokenizer, wanted, config.seed)
    source = open_data(wanted, wanted.data, wanted.split, "texts")
    for gallery in evaluation.galleries(source, wanted.split):
        if any(gallery.captions):
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
            Example(gallery.medium, gallery.read(i), gallery.captions[i], text, tuple(texts[j] for j in to_text[i]))
            for i, text in zip(shown[:examples], write_captions(model, tokenizer, few), strict=True)
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
