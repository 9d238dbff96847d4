"""evaluate: a model measured on a data set, its numbers printed and merged into a results file."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivl.cli.common import add_device, model_folder, model_name, new_command
from omnivl.cli.progress import ItemProgress
from omnivl.config import ConfigError, EvaluationConfig

DEFAULTS = EvaluationConfig()


def add_commands(commands: Any) -> None:
    made = new_command(
        commands, "evaluate", evaluate, "measure a model on a data set, in fractions of 1; merge into results.json"
    )
    made.add_argument("model", metavar="MODEL", nargs="?", default="", help="a model folder or hub repository")
    tasks = ["retrieval", "classify", "probe", "caption", "answer"]
    made.add_argument("--task", action="append", required=True, choices=tasks, help="may be given several times")
    made.add_argument("--data", required=True, metavar="FORMAT:FILE", help="world:, manifest:my.jsonl, folder:pets/")
    made.add_argument("--root", default="", help="where relative media paths start")
    made.add_argument("--split", default=DEFAULTS.split)
    made.add_argument("--medium", choices=["image", "video"], help="pictures or clips alone (default: both)")
    made.add_argument("--num-frames", type=int, default=0, help="frames a clip (default: the model's)")
    made.add_argument(
        "--max-text-tokens",
        type=int,
        default=0,
        metavar="N",
        help="of a text or question, the rest is cut (default: 40)",
    )
    made.add_argument("--batch-size", type=int, default=DEFAULTS.batch_size, help="items at a time; changes no number")
    number(made, "--num-items", DEFAULTS.num_items, "gallery size where items are rendered")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--out",
        metavar="FILE",
        help="results file (default: MODEL/results.json; of a hub repository, results.json here)",
    )
    add_device(made)

    part = made.add_argument_group("retrieval")
    number(part, "--k", DEFAULTS.rerank, "candidates that the matching score re-orders; 0: no reranking")
    part.add_argument(
        "--token-memory", type=float, default=DEFAULTS.token_memory, metavar="GIB",
        help=f"host memory for visual tokens; those past it are encoded again (default: {DEFAULTS.token_memory:g})",
    )  # fmt: skip
    part = made.add_argument_group("classify and probe")
    part.add_argument("--views", default="1x1", metavar="CxK", help="clips x crops of an item, averaged (default: 1x1)")
    part.add_argument("--zero-shot", action="store_true", help="by prompts, although the model has a classifier")
    number(part, "--shots", DEFAULTS.shots, "training items a class of a probe; 0: all")
    part = made.add_argument_group("caption")
    part.add_argument("--method", choices=["greedy", "beam", "nucleus"], default=DEFAULTS.method)
    number(part, "--num-beams", DEFAULTS.num_beams, "beginnings that beam search keeps")
    number(part, "--min-length", DEFAULTS.min_length, "tokens at least")
    number(part, "--max-length", DEFAULTS.max_length, "tokens at most")
    part.add_argument("--top-p", type=float, default=DEFAULTS.top_p, help="of nucleus (default: 0.9)")
    part.add_argument("--repetition-penalty", type=float, default=DEFAULTS.repetition_penalty)
    part = made.add_argument_group("answer")
    part.add_argument(
        "--mode", choices=["rank", "generate"], default=DEFAULTS.mode, help="rank a list, or write freely"
    )
    part.add_argument(
        "--answers", default="", metavar="FILE", help="the list: JSON, or one a line (default: training's)"
    )
    number(part, "--num-answers", DEFAULTS.num_answers, "the commonest of the training answers; 0: all")
    part = made.add_argument_group("files")
    part.add_argument("--train-data", default="", metavar="FORMAT:FILE", help="training items of probe and answers")
    part.add_argument("--predictions", default="", metavar="FILE", help="write captions or answers, as benchmarks want")
    part.add_argument(
        "--score", default="", metavar="FILE", help="without a MODEL: score a file of captions or answers that is there"
    )


def number(part: Any, name: str, default: int, text: str) -> None:
    part.add_argument(name, type=int, default=default, metavar="N", help=f"{text} (default: {default})")


def wanted(options: argparse.Namespace) -> EvaluationConfig:
    """The options as a config. Raises ConfigError."""
    views = re.fullmatch(r"(\d+)x(\d+)", options.views)
    if not views:
        raise ConfigError(f"--views is {options.views!r}, wanted clips x crops such as 4x3")
    if options.k < 0:
        raise ConfigError(f"--k is {options.k}, wanted 0 (no reranking) or more")
    told = vars(options)
    same = {field.name: told[field.name] for field in dataclasses.fields(EvaluationConfig) if field.name in told}
    return EvaluationConfig(
        **{
            **same,
            "tasks": tuple(dict.fromkeys(options.task)),
            "media": (options.medium,) if options.medium else DEFAULTS.media,
            "views": (int(views[1]), int(views[2])),
            "rerank": options.k,
        }
    )


def evaluate(options: argparse.Namespace) -> int:
    import logging

    if options.score:
        return score(options)
    from omnivl import distributed, evaluation
    from omnivl.model.folder import add_results, load_folder
    from omnivl.report import print_table
    from omnivl.results import alone_in, prepare_file, prepare_results, read_rows, stopwatch, write_results

    config = wanted(options)
    evaluation.check(config)
    folder = model_folder(options)
    # the cache of the hub is not ours to write in
    named = Path(model_name(options))
    out = Path(options.out or (named if named.is_dir() else Path()) / "results.json")
    prepare_results(out)
    if config.predictions:
        prepare_file(Path(config.predictions))
    with distributed.process_group(options.device) as device:
        level = logging.INFO if distributed.is_main() else logging.ERROR  # one process tells for all
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        model, tokenizer = load_folder(folder, device)
        tell = ItemProgress() if distributed.is_main() else None
        kept = out.with_name(out.name + ".work")
        work = evaluation.open_work(model, tokenizer, config, options.seed, kept, tell)
        try:
            with stopwatch() as seconds:
                results, bad = evaluation.evaluate(model, tokenizer, config, seed=options.seed, work=work)
        except KeyboardInterrupt:
            if distributed.is_main() and kept.exists():
                print(f"omnivl: {kept} keeps what is done: the same command goes on from there", file=sys.stderr)
            raise
        if distributed.is_main():
            write_results(out, results, config=given(options), seed=options.seed, seconds=seconds[0])
        work.remove()
        if not distributed.is_main():
            return 1 if bad else 0
        faults = [f"not read: {reason}" for _, reason in bad]
        if out.resolve() == (folder / "results.json").resolve():
            try:
                with alone_in(folder):
                    add_results(folder, read_rows(out))
            except ValueError as error:  # the numbers stand all the same
                faults.append(str(error))
    print_table([dataclasses.asdict(result) for result in results if result.value is not None])
    tell_not_run(results)
    for fault in faults:
        print(f"omnivl: {fault}", file=sys.stderr)
    return 1 if faults else 0


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The options as a results file tells them."""
    return {name: value for name, value in vars(options).items() if name not in ("act", "command", "parser")}


def tell_not_run(results: Sequence[Any]) -> None:
    """A line for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for result in results:
        if result.value is None:
            reasons.setdefault(result.settings["not_run"], {})[result.metric] = None
    for reason, metrics in reasons.items():
        print(f"omnivl: not run: {', '.join(metrics)}: {reason}", file=sys.stderr)


def score(options: argparse.Namespace) -> int:
    """A file of predictions against annotations."""
    from omnivl.predictions import score_file
    from omnivl.report import print_table
    from omnivl.results import prepare_results, stopwatch, write_results

    if options.model or options.predictions:
        other = "a model" if options.model else "--predictions"
        raise ConfigError(f"--score reads predictions that are there: leave {other} out")
    out = Path(options.out or "results.json")
    prepare_results(out)
    with stopwatch() as seconds:
        results = score_file(wanted(options), Path(options.score))
    write_results(out, results, config=given(options), seed=options.seed, seconds=seconds[0])
    print_table([dataclasses.asdict(result) for result in results if result.value is not None])
    tell_not_run(results)
    return 0
