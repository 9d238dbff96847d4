"""evaluate: a model measured on a data set, its numbers printed and merged into a results file."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from omnivl.cli.common import add_device, model_folder, new_command
from omnivl.config import ConfigError, read_json


def add_commands(commands: Any) -> None:
    made = new_command(commands, "evaluate", evaluate, "measure a model on a data set; merge into results.json")
    made.add_argument("model", metavar="MODEL", help="a model folder or hub repository")
    made.add_argument("--task", action="append", required=True, choices=["retrieval", "classify", "caption"])
    made.add_argument("--data", required=True, metavar="FORMAT:FILE", help="world:, manifest:my.jsonl, folder:pets/")
    made.add_argument("--root", default="", help="where relative media paths start")
    made.add_argument("--split", default="test")
    made.add_argument("--k", type=int, default=128, help="candidates that the matching score re-orders (default: 128)")
    made.add_argument("--num-items", type=int, default=256, help="gallery size where items are rendered (default: 256)")
    made.add_argument("--num-frames", type=int, help="frames a clip (default: the model's)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--out",
        metavar="FILE",
        help="results file (default: MODEL/results.json; of a hub repository, results.json here)",
    )
    add_device(made)


def evaluate(options: argparse.Namespace) -> int:
    from omnivl import run
    from omnivl.distributed import resolve_device
    from omnivl.model.folder import add_results, load_folder
    from omnivl.report import print_table
    from omnivl.results import stopwatch, write_results

    if options.k < 0:
        raise ConfigError(f"--k is {options.k}, wanted 0 (no reranking) or more")
    folder = model_folder(options)
    model, tokenizer = load_folder(folder, resolve_device(options.device))
    with stopwatch() as seconds:
        results, bad = run.evaluate(
            model, tokenizer, options.data, tasks=options.task, split=options.split, root=options.root,
            rerank=options.k, num_frames=options.num_frames, num_items=options.num_items, seed=options.seed,
        )  # fmt: skip
    # the cache of the hub is not ours to write in
    out = Path(options.out or (Path(options.model) if Path(options.model).is_dir() else Path()) / "results.json")
    settings = {name: value for name, value in vars(options).items() if name not in ("act", "command")}
    write_results(out, results, config=settings, seed=options.seed, seconds=seconds[0])
    if out.resolve() == (folder / "results.json").resolve():
        add_results(folder, read_json(out)["results"])
    print_table([dataclasses.asdict(result) for result in results])
    for _, reason in bad:
        print(f"omnivl: not read: {reason}", file=sys.stderr)
    return 1 if bad else 0
