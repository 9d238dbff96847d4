"""Evaluation: the room that turns an `EvaluationConfig` into sources, galleries and the numbers of every task. Under
several processes each works on its own items, and all of them come to the same numbers.
"""

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omnivl import distributed
from omnivl.config import ConfigError, DataConfig, EvaluationConfig, Reads, read_json, to_dict
from omnivl.data.annotations import FORMATS
from omnivl.data.asked import ANSWERS
from omnivl.data.galleries import Views, file_gallery, world_gallery, world_reverse, world_siblings
from omnivl.data.sample import Gallery
from omnivl.data.sources import Ask, FileSource, Source, WorldSource, open_items, open_source, parted
from omnivl.model import OmniVL
from omnivl.predictions import Prediction, answer_rows, caption_rows, require_ids
from omnivl.tasks.answering import answer_questions, commonest_answers, score_answers
from omnivl.tasks.base import Result
from omnivl.tasks.captioning import require_words, score_captions, write_captions
from omnivl.tasks.classification import evaluate_classes
from omnivl.tasks.probe import evaluate_probe
from omnivl.tasks.retrieval import evaluate_retrieval, evaluate_reverse, evaluate_siblings
from omnivl.tasks.work import Tell, Work, digest
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import write_json

log = logging.getLogger(__name__)

TASKS = ("retrieval", "classify", "probe", "caption", "answer")
TEXT_TOKENS = 40  # of a text at most, where nothing else is said
READS: dict[str, Reads] = {"probe": "labels", "answer": "questions"}  # else captions and labels

NEEDED = {
    "retrieval": "captions",
    "classify": "labels",
    "probe": "labels",
    "caption": "captions (or --predictions, to write what is not scored)",
    "answer": "questions with answers (or --predictions, to write what is not scored)",
}

BOUNDS = {
    "rerank": (0, math.inf),
    "num_items": (1, 100_000),
    "batch_size": (1, math.inf),
    "shots": (0, math.inf),
    "num_answers": (0, math.inf),
    "num_frames": (0, 512),  # 0: the model's
    "max_text_tokens": (0, 100_000),  # 0: TEXT_TOKENS
    "num_beams": (1, 64),
}
MAX_VIEWS = 32

Bad = list[tuple[str, str]]  # (key, reason) of items that could not be read


def check(config: EvaluationConfig) -> None:
    """Refuse what cannot be measured. Raises ConfigError."""
    unknown = sorted(set(config.tasks) - set(TASKS))
    if unknown or not config.tasks:
        raise ConfigError(f"there is no task {', '.join(unknown) or 'given'}: choose {', '.join(TASKS)}")
    for name, (least, most) in BOUNDS.items():
        value = getattr(config, name)
        if not least <= value <= most:
            told = f"{least} or more" if most == math.inf else f"{least} to {most:,}"
            raise ConfigError(f"{name} is {value:,}, wanted {told}")
    clips, crops = config.views
    if not (1 <= clips <= MAX_VIEWS and 1 <= crops <= MAX_VIEWS):
        raise ConfigError(f"views are {clips}x{crops}, wanted clips x crops, each 1 to {MAX_VIEWS}")
    if not 0 <= config.token_memory < math.inf:
        raise ConfigError(f"token_memory is {config.token_memory:g} GiB, wanted 0 or more")
    if config.predictions and len({"caption", "answer"} & set(config.tasks)) != 1:
        raise ConfigError("a file of predictions holds those of one task: caption or answer")


def check_data(config: EvaluationConfig) -> None:
    """Refuse data that are not there, and settings that cannot be measured. Raises ValueError."""
    check(config)
    for reads in by_reads(config):
        open_data(config, config.data, config.split, reads)
    if config.answers:
        read_answers(Path(config.answers))
    if config.train_data and parted(config.train_data)[0] != "world":
        open_items(config.train_data, config.root, "train")


def by_reads(config: EvaluationConfig) -> dict[Reads, list[str]]:
    """The tasks by what they need of an item."""
    found: dict[Reads, list[str]] = {}
    for task in config.tasks:
        found.setdefault(READS.get(task, "texts"), []).append(task)
    return found


def open_data(config: EvaluationConfig, data: str, split: str, reads: Reads) -> Source:
    frames = config.num_frames or DataConfig.num_frames  # of which none is read yet
    return open_source(data, DataConfig(sources=(data,), root=config.root, split=split, num_frames=frames, reads=reads))


def open_work(
    model: OmniVL, tokenizer: Tokenizer, config: EvaluationConfig, seed: int, folder: Path, tell: Tell | None = None
) -> Work:
    """What was done of this evaluation before it was stopped, if it was; to be removed once its results are kept.

    It is known by all that changes a number: the model, its words, the settings and the seed.
    """
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    alike = replace(config, batch_size=1, token_memory=0.0, predictions="")
    settings = (to_dict(alike), seed, version("omnivl"))
    key = digest(weights.hexdigest(), to_dict(model.config), model.extra, tokenizer.vocab, settings)
    return Work(folder, key, tell)


def evaluate(
    model: OmniVL, tokenizer: Tokenizer, config: EvaluationConfig, *, seed: int = 0, work: Work | None = None
) -> tuple[list[Result], Bad]:
    """Measure a model on a data set; gives the results, and (key, reason) of every item that could not be read, which
    all count as wrong. On the world "retrieval" includes siblings and reverse. With `work` it goes on where it was
    stopped.

    Raises ValueError (ConfigError among them) for settings or a data set that cannot be measured.
    """
    check(config)
    model.eval()
    return Evaluation(model, tokenizer, config, seed, work).run()


class Evaluation:
    """One evaluation of one model: its sources opened once, its galleries made when they are needed."""

    def __init__(
        self, model: OmniVL, tokenizer: Tokenizer, config: EvaluationConfig, seed: int, work: Work | None = None
    ) -> None:
        self.model, self.tokenizer, self.config, self.seed = model, tokenizer, config, seed
        self.work = work or Work()
        vision = model.config.vision
        positions = model.config.text.max_positions
        self.max_tokens = config.max_text_tokens or min(TEXT_TOKENS, positions)
        if self.max_tokens > positions:
            raise ConfigError(f"max_text_tokens is {self.max_tokens}, but the model has {positions} positions")
        self.ask = Ask(vision.image_size, config.num_frames or vision.num_frames, model.config.interpolation)
        self.bad: Bad = []
        self.predictions: list[Prediction] = []

    def run(self) -> tuple[list[Result], Bad]:
        config = self.config
        results: list[Result] = []
        for reads, tasks in by_reads(config).items():
            source = open_data(config, config.data, config.split, reads)
            galleries = self.galleries(source, config.split)
            if not galleries:
                raise ValueError(f"{config.data} has no items to evaluate")
            for gallery in galleries:
                for task in tasks:
                    results += self.measure(task, gallery, source)
                self.bad += gallery.bad
            if isinstance(source, WorldSource) and "retrieval" in tasks:
                results += self.motion()
        if config.predictions and distributed.is_main():
            write_json(Path(config.predictions), self.predictions)
        if not results and not config.predictions:
            needed = " or ".join(dict.fromkeys(NEEDED[task] for task in config.tasks))
            raise ValueError(f"{config.data} has nothing to measure {', '.join(config.tasks)} by: it needs {needed}")
        return [replace(result, settings=self.settings(result)) for result in results], sorted(set(self.bad))

    def settings(self, result: Result) -> dict[str, object]:
        frames = {"frames": self.ask.num_frames} if result.settings["medium"] == "video" else {}
        return {**result.settings, **frames, "seed": self.seed}

    # --- what there is to measure on ---

    def galleries(self, source: Source, split: str, views: Views = (1, 1)) -> list[Gallery]:
        """One for each medium that is asked for and there."""
        config, found = self.config, []
        for medium in config.media:
            if isinstance(source, WorldSource):
                found.append(world_gallery(split, medium, config.num_items, self.seed, self.ask, views))
            elif isinstance(source, FileSource) and source.by_medium[medium]:
                found.append(file_gallery(source, split, medium, self.ask, views))
        return found

    # --- the tasks ---

    def measure(self, task: str, gallery: Gallery, source: Source) -> list[Result]:
        """The numbers of one task on one gallery; none where it has nothing to measure them by."""
        config, parts = self.config, (self.model, self.tokenizer)
        size = config.batch_size
        if task == "retrieval" and any(gallery.captions):
            memory, k, most = config.token_memory, config.rerank, self.max_tokens
            found = evaluate_retrieval(
                *parts, gallery, k=k, batch_size=size, max_tokens=most, token_memory=memory, work=self.work
            )
            told = {} if most == TEXT_TOKENS else {"max_text_tokens": most}
            return [replace(result, settings={**result.settings, **told}) for result in found]
        if task == "classify" and any(gallery.labels):
            seen = next(g for g in self.galleries(source, config.split, config.views) if g.medium == gallery.medium)
            found = evaluate_classes(*parts, seen, zero_shot=config.zero_shot, batch_size=size, work=self.work)
            self.bad += seen.bad
            return found
        if task == "caption" and any(gallery.captions):
            return self.caption(gallery)
        if task == "answer" and any(gallery.questions):
            return self.answer(gallery)
        if task == "probe":
            return self.probe(gallery)
        return []

    def motion(self) -> list[Result]:
        """The world's own tests of the order of time."""
        if "video" not in self.config.media:
            return []
        parts, split = (self.model, self.tokenizer), self.config.split
        found = evaluate_siblings(*parts, world_siblings(split, 60, self.seed, self.ask))
        return found + evaluate_reverse(*parts, *world_reverse(split, 240, self.seed, self.ask))

    def caption(self, gallery: Gallery) -> list[Result]:
        config = self.config
        require_words(gallery)
        how: dict[str, Any] = {
            "method": config.method, "num_beams": config.num_beams, "min_length": config.min_length,
            "max_length": config.max_length, "repetition_penalty": config.repetition_penalty,
            **({"top_p": config.top_p} if config.method == "nucleus" else {}),
        }  # fmt: skip
        written = write_captions(
            self.model, self.tokenizer, gallery, batch_size=config.batch_size, seed=self.seed, work=self.work, **how
        )
        self.predictions += caption_rows(gallery, written)
        return score_captions(gallery, written, how)

    def probe(self, test: Gallery) -> list[Result]:
        """Learn on the training split, choose on the validation split where there is one, measure on `test`."""
        config = self.config
        data = config.train_data or config.data

        fold = found[1] if (found := re.fullmatch(r"[a-z]+(\d+)", config.split)) else ""  # test2 goes with train2

        def split(name: str) -> Gallery | None:
            name += fold
            source = open_data(config, data, name, "labels")
            made = [g for g in self.galleries(source, name) if g.medium == test.medium]
            return made[0] if made else None

        train = split("train")
        if train is None or set(train.keys) & set(test.keys):
            raise ValueError(
                f"a probe of {config.data} needs {test.medium} items of a training split that are not those of split "
                f"{config.split!r}: give --train-data FORMAT:FILE"
            )
        try:
            validation = split("validation")
        except ValueError as error:
            log.info(
                "a fifth of the training items chooses the regularisation, as there is no validation split: %s", error
            )
            validation = None
        if validation and set(validation.keys) & {*train.keys, *test.keys}:
            validation = None
        size = config.batch_size
        results = evaluate_probe(
            self.model, train, validation, test, shots=config.shots, seed=self.seed, batch_size=size, work=self.work
        )
        self.bad += train.bad + (validation.bad if validation else [])
        return results

    def answer(self, gallery: Gallery) -> list[Result]:
        config = self.config
        if config.predictions:
            require_ids(config.data, [question for asked in gallery.questions for question in asked])
        settings: dict[str, object] = {"mode": config.mode}
        answers: Sequence[str] = ()
        if config.mode == "rank":
            answers, settings["answer_list"] = self.answers(gallery)
            settings["answers"] = len(answers)
        size = config.batch_size
        answered = answer_questions(
            self.model, self.tokenizer, gallery, answers=answers, batch_size=size, max_tokens=self.max_tokens,
            work=self.work,
        )  # fmt: skip
        self.predictions += answer_rows(answered)
        return score_answers(gallery, answered, settings)

    def answers(self, gallery: Gallery) -> tuple[list[str], str]:
        """The list to rank, and where it is from: "given", "train", or "evaluated" where there is no training split
        apart from what is evaluated. Raises ValueError where it has fewer than two answers."""
        config = self.config
        if config.answers:
            answers, origin = read_answers(Path(config.answers)), "given"
        elif config.data.startswith("world:") and not config.train_data:
            answers, origin = list(ANSWERS), "train"
        else:
            answers, origin = self.listed_answers(gallery)
        if len(answers) < 2:
            raise ValueError(
                f"ranking needs at least two different answers, got {', '.join(answers) or 'none'}: "
                "give --answers FILE, --train-data FORMAT:FILE or --mode generate"
            )
        return answers, origin

    def listed_answers(self, gallery: Gallery) -> tuple[list[str], str]:
        """Those of the training split's annotations, whose media need not be there."""
        data = self.config.train_data or self.config.data
        name, _, path = data.partition(":")
        root = Path(self.config.root).expanduser() if self.config.root else None
        try:
            items = FORMATS[name](Path(path).expanduser(), root, "train").items if name in FORMATS else []
        except ValueError:
            if self.config.train_data:
                raise
            items = []
        own = not items or not {item.key for item in items}.isdisjoint(gallery.keys)
        if own:
            log.warning("%s has no training questions of its own: its own answers are ranked", gallery.name)
        asked = gallery.questions if own else [item.questions for item in items]
        questions = [question for many in asked for question in many]
        return commonest_answers(questions, self.config.num_answers), "evaluated" if own else "train"


def read_answers(path: Path) -> list[str]:
    """A JSON list of answers, or one a line; each once. Raises ConfigError where there is no such file."""
    if path.suffix == ".json":
        listed = read_json(path)
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise ConfigError(f"{path} must hold a JSON list of answers")
    else:
        try:
            listed = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read as a list of answers: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is no list of answers: it is not UTF-8 text") from None
    return list(dict.fromkeys(text.strip() for text in listed if text.strip()))
