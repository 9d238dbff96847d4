"""embed, caption, classify, ask, match: a model on somebody's pictures and clips."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omnivl.cli.common import add_device, add_precision, as_json, model_name, new_command, one_line, plain_warnings
from omnivl.config import ConfigError


def add_commands(commands: Any) -> None:
    for name, act, text in (
        ("embed", embed, "vectors of pictures and clips"),
        ("caption", caption, "describe pictures and clips"),
        ("classify", classify, "which of some classes pictures and clips show"),
        ("ask", ask, "answer a question about a picture or clip"),
        ("match", match, "the probability that a text describes a picture or clip"),
    ):
        made = new_command(commands, name, act, text)
        said = {"match": "text", "ask": "question"}.get(name)
        made.add_argument(
            "media", metavar="MEDIA", nargs=1 if said else "+", help="a picture, a clip, a folder or a URL of them"
        )
        if said:
            made.add_argument(said)
        if name == "ask":
            made.add_argument("--choices", metavar="A,B,C", help="answers to choose from (default: free text)")
        if name == "classify":
            made.add_argument("--labels", metavar="A,B,C", help="the classes (default: those of a finetuned model)")
            made.add_argument("--zero-shot", action="store_true", help="by prompts, although there is a classifier")
        made.add_argument("--at", metavar="START-END", help="look at this part of a video, such as 1:20-1:40")
        made.add_argument("--model", help="a model folder or hub repository (default: OMNIVL_MODEL)")
        made.add_argument("--json", action="store_true", help="JSON; one line an input where there are several")
        made.add_argument("--out", metavar="FILE", help="a file or URL for JSON lines, written whole or not at all")
        add_device(made)
        add_precision(made)


def expand(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are; a folder, here or at a URL, as all media in it."""
    from omnivl.data.files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
    from omnivl.data.media import find_media
    from omnivl.data.remote import is_url, list_media

    for path in paths:
        if not path:
            raise ConfigError("the name of a picture or clip is empty")
        if is_url(path) and Path(path).suffix.lower() not in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
            yield from (url for url, _, _ in list_media(path))
        elif Path(path).is_dir():
            yield from (str(found) for found in find_media(path))
        else:
            yield path


def read_one(pipeline: Any, path: str, start: float | None, end: float | None) -> Any:
    """What a file or URL shows. Raises BadSample, which names it."""
    from omnivl.data.images import bad
    from omnivl.data.media import BadSample
    from omnivl.data.remote import is_url, on_disk

    if not is_url(path):
        return pipeline.read(path, start, end)
    try:
        with on_disk(path) as local:
            return pipeline.read(local, start, end)
    except BadSample as error:
        raise bad(path, str(error).partition(": ")[2]) from error
    except OSError as error:
        raise bad(path, f"cannot be opened ({error.strerror or error})") from error


def each_media(
    options: argparse.Namespace,
    act: Callable[[Any, list[Any]], list[dict[str, Any]]],
    line: Callable[[dict[str, Any]], str],
) -> int:
    """Read every input, act on those that can be read in batches, print in order or write; 1 where any failed."""
    from omnivl.data.remote import is_url, written
    from omnivl.inference.pipeline import load
    from omnivl.results import prepare_file

    plain_warnings()
    span = (None, None) if options.at is None else part_of(options.at)
    paths = list(expand(options.media))
    if not paths:
        raise ConfigError(f"{', '.join(options.media)}: no pictures or clips in there")
    if options.out and not is_url(options.out):
        prepare_file(Path(options.out))
    failed = False
    with written(options.out) if options.out else nullcontext(sys.stdout) as out:
        pipeline = load(model_name(options), device=options.device, precision=options.precision)
        for empty in (name for name in options.media if Path(name).is_dir() and not any(expand([name]))):
            failed = True
            print(f"omnivl: {empty}: no pictures or clips in there", file=sys.stderr)
        lines = options.out or (options.json and (len(paths) > 1 or Path(options.media[0]).is_dir()))
        for row in rows_of(pipeline, paths, span, act):
            if options.json or options.out:
                print(as_json(row, None if lines else 2), file=out)
            elif "error" not in row:
                print(line(row) if len(paths) == 1 else f"{one_line(row['media'])}\t{line(row)}")
            if "error" in row:
                failed = True
                print(f"omnivl: {row['error']}", file=sys.stderr)
    return 1 if failed else 0


def rows_of(
    pipeline: Any,
    paths: Sequence[str],
    span: tuple[float | None, float | None],
    act: Callable[[Any, list[Any]], list[dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """What there is to say of each input, in order; where it cannot be read, why."""
    from omnivl.data.media import BadSample

    for first in range(0, len(paths), 32):
        loaded: list[Any] = []
        rows: list[dict[str, Any]] = []
        for path in paths[first : first + 32]:
            try:
                loaded.append(read_one(pipeline, path, *span))
                rows.append({"media": path})
            except BadSample as error:
                rows.append({"media": path, "error": str(error)})
        answers = iter(act(pipeline, loaded) if loaded else [])
        for row in rows:
            if "error" not in row:
                row |= {key: value for key, value in next(answers).items() if value is not None}
            yield row


def part_of(words: str) -> tuple[float, float]:
    """The seconds of "1:20-1:40" or "80-99.5". Raises ConfigError."""
    time = r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)"
    found = re.fullmatch(f"{time}-{time}", words.strip())
    numbers = [float(number or 0) for number in found.groups()] if found else [0.0] * 6
    start, end = (3600 * h + 60 * m + s for h, m, s in (numbers[:3], numbers[3:]))
    if not start < end:
        raise ConfigError(
            f"--at is {words!r}, wanted a part of a video from one time to a later one, such as 1:20-1:40"
        )
    return start, end


def embed(options: argparse.Namespace) -> int:
    def act(pipeline: Any, loaded: list[Any]) -> list[dict[str, Any]]:
        vectors = pipeline.embed(loaded)
        return [
            {"kind": i.medium, "embedding": [round(float(x), 6) for x in v], "times": i.times}
            for i, v in zip(loaded, vectors, strict=True)
        ]

    return each_media(options, act, lambda row: " ".join(f"{x:.6f}" for x in row["embedding"]))


def caption(options: argparse.Namespace) -> int:
    def act(pipeline: Any, loaded: list[Any]) -> list[dict[str, Any]]:
        return [
            {"text": c.text, "score": c.score, "kind": "logprob", "times": c.times} for c in pipeline.caption(loaded)
        ]

    return each_media(options, act, lambda row: row["text"])


def match(options: argparse.Namespace) -> int:
    def act(pipeline: Any, loaded: list[Any]) -> list[dict[str, Any]]:
        found = pipeline.match(loaded, options.text)
        return [{"text": options.text, "score": m.score, "kind": "match", "times": m.times} for m in found]

    if not options.text.strip():
        raise ConfigError("the text to match is empty")
    return each_media(options, act, lambda row: f"{row['score']:.4f}")


def classify(options: argparse.Namespace) -> int:
    labels = split_list(options.labels)

    def act(pipeline: Any, loaded: list[Any]) -> list[dict[str, Any]]:
        found = pipeline.classify(loaded, labels, zero_shot=options.zero_shot)
        return [
            {
                "labels": [{"label": label.text, "score": label.score} for label in own],
                "kind": "probability",
                "times": item.times,
            }
            for item, own in zip(loaded, found, strict=True)
        ]

    def line(row: dict[str, Any]) -> str:
        return ", ".join(f"{label['label']} {label['score']:.4f}" for label in row["labels"][:5])

    return each_media(options, act, line)


def ask(options: argparse.Namespace) -> int:
    choices, told = split_list(options.choices), False

    def act(pipeline: Any, loaded: list[Any]) -> list[dict[str, Any]]:
        nonlocal told
        answers = pipeline.answer(loaded, options.question, choices)
        if (
            not told and not {"answers", "origin"} & pipeline.model.extra.keys()
        ):  # of others' weights too little is known
            print(f"omnivl: nothing in {pipeline.name} says that it has learnt to answer questions", file=sys.stderr)
        told = True
        return [
            {
                "question": options.question,
                "text": answer.text,
                "score": answer.score,
                "alternatives": [{"text": other.text, "score": other.score} for other in answer.alternatives],
                "kind": "probability",
                "times": answer.times,
            }
            for answer in answers
        ]

    if not options.question.strip():
        raise ConfigError("the question is empty")
    return each_media(options, act, lambda row: row["text"])


def split_list(words: str | None) -> list[str] | None:
    """A,B,C as a list; None where nothing was given."""
    return None if words is None else [word.strip() for word in words.split(",") if word.strip()]
