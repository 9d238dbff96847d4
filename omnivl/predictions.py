"""Predictions as benchmarks want them, written and read: a JSON list of {"image_id", "caption"} (captions of COCO)
or of {"question_id", "answer"} (VQA). A file of them is scored against annotations alone: no model, no media.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from omnivl.config import ConfigError, EvaluationConfig, read_json
from omnivl.data.annotations import Item
from omnivl.data.reading import likely_medium
from omnivl.data.sample import Gallery, Question
from omnivl.data.sources import open_items
from omnivl.tasks.answering import score_answers
from omnivl.tasks.base import Result
from omnivl.tasks.captioning import score_captions

Prediction = dict[str, str | int]

FIELDS = {"caption": ("image_id", "caption"), "answer": ("question_id", "answer")}


def caption_rows(gallery: Gallery, written: Sequence[str]) -> list[Prediction]:
    return [{"image_id": number_or_name(key), "caption": text} for key, text in zip(gallery.keys, written, strict=True)]


def answer_rows(answered: Sequence[tuple[Question, str]]) -> list[Prediction]:
    return [{"question_id": number_or_name(question.id), "answer": text} for question, text in answered]


def number_or_name(identity: str) -> int | str:
    """An id as the benchmarks write it: a number where it is one."""
    return int(identity) if identity.isdecimal() and str(int(identity)) == identity else identity


def require_ids(name: str, questions: Sequence[Question]) -> None:
    """Raises ValueError where a file of predictions could not tell the questions apart."""
    counts = Counter(question.id for question in questions)
    twice = [identity for identity, count in counts.items() if identity and count > 1]
    if counts[""] or twice:
        told = (
            f"{counts['']} questions without an id" if counts[""] else f"{len(twice)} ids twice (first: {twice[0]!r})"
        )
        raise ValueError(f"{name} has {told}: a file of predictions names each question by an id of its own")


# --- a file that is there already ------------------------------------------------------------------------------------


def score_file(config: EvaluationConfig, path: Path) -> list[Result]:
    """The numbers of a file of captions or answers, by the annotations of `config.data`.

    Raises ValueError (one sentence) for a file of another form; for ids that are unknown, missing or there twice; and
    for annotations that have nothing to score by.
    """
    if len(config.tasks) != 1 or config.tasks[0] not in FIELDS:
        raise ConfigError("a file of predictions is scored for one task: --task caption or --task answer")
    task = config.tasks[0]
    predicted = read_predictions(path, *FIELDS[task])
    galleries = annotated(config, task)
    wanted = [name for gallery in galleries for name in names(gallery, task)]
    if not wanted:
        raise ValueError(f"{config.data} has no {task}s of split {config.split!r} to score by")
    if task == "answer":
        require_ids(config.data, [question for g in galleries for asked in g.questions for question in asked])
    check_ids(path, predicted, wanted, f"split {config.split!r} of {config.data}")
    settings = {"predictions": path.name}
    results: list[Result] = []
    for gallery in galleries:
        if task == "caption":
            results += score_captions(gallery, [predicted[key] for key in gallery.keys], settings)
        else:
            asked = [(question, predicted[question.id]) for own in gallery.questions for question in own]
            results += score_answers(gallery, asked, settings)
    if not results:
        raise ValueError(f"{config.data} has no answers of split {config.split!r}: they are not published")
    return results


def read_predictions(path: Path, identity: str, text: str) -> dict[str, str]:
    """The texts by their ids. Raises ValueError."""
    listed = read_json(path)
    if not isinstance(listed, list):
        raise ValueError(f'{path} must hold a JSON list of {{"{identity}": ..., "{text}": ...}}')
    found: dict[str, str] = {}
    for number, row in enumerate(listed):
        known = isinstance(row, dict) and type(row.get(identity)) in (int, str) and isinstance(row.get(text), str)
        if not known:
            told = f'"{identity}", a number or a name, and "{text}", a text'
            raise ValueError(f"{path}, entry {number}: wanted {told}, got {str(row)[:60]}")
        name = str(row[identity])
        if name in found:
            raise ValueError(f"{path} has two predictions for {identity} {name}: keep one")
        found[name] = row[text]
    return found


def check_ids(path: Path, predicted: Collection[str], wanted: Sequence[str], where: str) -> None:
    known = set(wanted)
    strangers = [name for name in predicted if name not in known]
    if strangers:
        raise ValueError(
            f"{path} has {len(strangers)} of {len(predicted)} predictions for ids that {where} does not have "
            f"(first: {strangers[0]!r}): score it by the split that it was made for"
        )
    absent = [name for name in wanted if name not in predicted]
    if absent:
        raise ValueError(
            f"{path} has no prediction for {len(absent)} of the {len(wanted)} ids of {where} (first: {absent[0]!r}): "
            "every one counts, so give an empty text where there is none"
        )


def annotated(config: EvaluationConfig, task: str) -> list[Gallery]:
    """The items that have captions or questions, one gallery for each medium; their media are never opened."""
    listed, _ = open_items(config.data, config.root, config.split)
    by_medium: dict[str, list[Item]] = {medium: [] for medium in config.media}
    for item in listed:
        medium = likely_medium(item, Counter({"image": 1, "video": 1}))
        if medium in by_medium and (item.captions if task == "caption" else item.questions):
            by_medium[medium].append(item)
    return [gallery_of(config, medium, items) for medium, items in by_medium.items() if items]


def gallery_of(config: EvaluationConfig, medium: str, items: Sequence[Item]) -> Gallery:
    def read(_: int) -> np.ndarray:
        raise AssertionError("predictions are scored without media")

    return Gallery(
        config.data,
        config.split,
        medium,
        keys=[item.key for item in items],
        captions=[item.captions for item in items],
        labels=["" for _ in items],
        read=read,
        questions=[item.questions for item in items],
    )


def names(gallery: Gallery, task: str) -> list[str]:
    """The ids that a file of predictions has to hold."""
    return gallery.keys if task == "caption" else [question.id for own in gallery.questions for question in own]
