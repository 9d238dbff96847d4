"""Words to calls: the one program `omnivl`. Heavy rooms are imported where they are used, so that --help answers at
once.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 one or more inputs failed,
or training could not go on; 2 nothing was begun; 130 Ctrl-C and 143 SIGTERM, state saved where there is state.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omnivl.config import (
    MODELS,
    ConfigError,
    RunConfig,
    StageConfig,
    fields_of,
    from_dict,
    override,
    parse,
    read_json,
    to_dict,
    unknown_key,
)

NO_MODEL = (
    "no model was given: name a folder with --model (or OMNIVL_MODEL); `omnivl demo` trains one in minutes, "
    "`omnivl train pretrain_stage1 --data.sources manifest:my.jsonl` one on your own pictures"
)


# threads that wait for work should soon sleep: by default they spin, and starve each other when others use the machine
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    options, rest = parser.parse_known_args(words)
    try:
        if rest and options.command != "train":
            raise ConfigError(f"{options.command} has no option {rest[0]!r}; see omnivl {options.command} --help")
        return options.act(options, rest) if options.command == "train" else options.act(options)
    except KeyboardInterrupt:
        print("omnivl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"omnivl: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnivl", description="One foundation model for images, videos and text.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, act: Callable[..., int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(act=act)
        return made

    def device(made: argparse.ArgumentParser) -> None:
        made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")

    made = command("demo", demo, "pretrain the tiny model on the built-in world, evaluate it, write a report")
    made.add_argument("--out", default="runs/demo", help="run folder (default: runs/demo)")
    made.add_argument("--seed", type=int, default=0)
    device(made)

    made = command("train", train, "train a recipe: a name, file.py:function, or the config.json of an earlier run")
    made.usage = (
        "omnivl train RECIPE [--section.field VALUE ...] [--init MODEL] [--out DIR]\n       omnivl train --resume DIR"
    )
    made.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="see `omnivl recipes`; `omnivl show RECIPE` lists its settings"
    )
    made.add_argument("--resume", metavar="DIR", help="go on with the run in DIR exactly where it stopped")
    made.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE)")
    made.add_argument("--size", choices=list(MODELS), help="the model's size, instead of the recipe's")
    device(made)

    command("recipes", recipes, "list the recipes")

    made = command("show", show, "print a recipe's whole config as JSON")
    made.add_argument("recipe", metavar="RECIPE")

    made = command("evaluate", evaluate, "measure a model on a data set; merge into results.json")
    made.add_argument("model", metavar="MODEL", help="a model folder")
    made.add_argument("--task", action="append", required=True, choices=["retrieval", "classify", "caption"])
    made.add_argument("--data", required=True, metavar="FORMAT:FILE", help="world:, manifest:my.jsonl, folder:pets/")
    made.add_argument("--root", default="", help="where relative media paths start")
    made.add_argument("--split", default="test")
    made.add_argument("--k", type=int, default=128, help="candidates that the matching score re-orders (default: 128)")
    made.add_argument("--num-items", type=int, default=256, help="gallery size where items are rendered (default: 256)")
    made.add_argument("--num-frames", type=int, help="frames a clip (default: the model's)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", metavar="FILE", help="results file (default: MODEL/results.json)")
    device(made)

    made = command("info", info, "parameters of a model by part")
    made.add_argument("model", metavar="MODEL", nargs="?")

    for name, act, text in (
        ("embed", embed, "vectors of pictures and clips"),
        ("caption", caption, "describe pictures and clips"),
        ("match", match, "the probability that a text describes a picture or clip"),
    ):
        made = command(name, act, text)
        made.add_argument(
            "media", metavar="MEDIA", nargs=1 if name == "match" else "+", help="a picture, a clip, or a folder of them"
        )
        if name == "match":
            made.add_argument("text")
        made.add_argument("--model", help="a model folder (default: OMNIVL_MODEL)")
        made.add_argument("--json", action="store_true", help="JSON; one line an input where there are several")
        device(made)
    return parser


# --- training --------------------------------------------------------------------------------------------------------


def find_recipe(name: str) -> RunConfig:
    """A recipe by name, by file.py:function, or as the config.json of an earlier run. Raises ConfigError."""
    from omnivl.presets import RECIPES

    if name in RECIPES:
        return RECIPES[name]()
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        if not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = getattr(module, function, None)
        if not callable(made):
            raise ConfigError(f"{file} has no function {function!r}")
        config = made()
        if not isinstance(config, RunConfig):
            raise ConfigError(f"{name} must return a RunConfig, got {type(config).__name__}")
        return config
    if name.endswith(".json"):
        return from_dict(RunConfig, read_json(name))
    error = unknown_key(name, list(RECIPES))
    raise ConfigError(str(error).replace("setting", "recipe") + "; `omnivl recipes` lists them")


def apply_overrides(config: RunConfig, words: list[str]) -> RunConfig:
    """`--section.field VALUE ...`: a stage's field goes to every stage, `--stages.1.section.field` to one."""
    stage_fields = fields_of(StageConfig)
    fields = {**stage_fields, **fields_of(RunConfig)}
    for number in range(len(config.stages)):
        fields |= {f"stages.{number}.{name}": kind for name, kind in stage_fields.items()}
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for name in fields:
        parser.add_argument(f"--{name}", dest=name, nargs="*", metavar="VALUE")
    given, unknown = parser.parse_known_args(words)
    if unknown:
        if unknown[0].startswith("--"):
            raise ConfigError(str(unknown_key(unknown[0].removeprefix("--").partition("=")[0], list(fields))))
        raise ConfigError(f"{unknown[0]!r} was not expected; settings are written --section.field VALUE")
    for name, values in vars(given).items():
        value = parse(fields[name], values, f"--{name}")
        if name in stage_fields and name not in fields_of(RunConfig):
            for number in range(len(config.stages)):
                config = override(config, f"stages.{number}.{name}", value)
        else:
            config = override(config, name, value)
    return config


def train(options: argparse.Namespace, rest: list[str]) -> int:
    if options.resume:
        if options.recipe or rest or options.out or options.size:
            raise ConfigError("--resume goes on with a run as it was; give it no recipe and no other settings")
        out = Path(options.resume)
        if not (out / "config.json").is_file():
            raise ConfigError(f"{out} holds no run: it has no config.json")
        config = from_dict(RunConfig, read_json(out / "config.json"))
        return run_training(config, out, options.device, resume=True)
    if not options.recipe:
        raise ConfigError("name a recipe (`omnivl recipes` lists them), or --resume DIR")
    config = find_recipe(options.recipe)
    if options.size:
        config = dataclasses.replace(config, model=MODELS[options.size])
    config = apply_overrides(config, rest)
    if config.init:
        config = fit_to_init(config, options.size, rest)
    return run_training(config, Path(options.out or f"runs/{config.recipe or 'run'}"), options.device)


def fit_to_init(config: RunConfig, size: str | None, words: list[str]) -> RunConfig:
    """The config with the shape of the model it starts from. Raises ConfigError where another one was asked for."""
    from omnivl.model.folder import read_config

    own = read_config(Path(config.init))
    if size:
        own_sizes = dataclasses.replace(
            own, text=dataclasses.replace(own.text, vocab_size=MODELS[size].text.vocab_size)
        )
        if own_sizes != MODELS[size]:
            raise ConfigError(f"--size {size} is not the shape of {config.init}; leave it out, or start without --init")
    for name in (word[2:].partition("=")[0] for word in words if word.startswith("--model.")):
        asked, has = (functools.reduce(getattr, name.split(".")[1:], model) for model in (config.model, own))
        if asked != has:
            raise ConfigError(
                f"--{name} {asked} does not fit {config.init}, whose model has {has}; "
                "leave it out, or start without --init"
            )
    return dataclasses.replace(config, model=own)


def run_training(config: RunConfig, out: Path, device: str, *, resume: bool = False) -> int:
    import logging

    from omnivl import run
    from omnivl.train.stopping import Stopped, TrainingError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run.train(config, out, device=device, resume=resume)
    except Stopped as error:
        print(f"omnivl: {error}; go on with: omnivl train --resume {out}", file=sys.stderr)
        return 128 + error.signum
    except TrainingError as error:
        print(f"omnivl: {error}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", "0")) == 0:
        run.finish(config, out, device)
        print(f"model: {out / 'model'}")
    return 0


def demo(options: argparse.Namespace) -> int:
    """A demo that is done is shown again; one that was stopped goes on."""
    from omnivl.presets import RECIPES
    from omnivl.report import print_table

    out = Path(options.out)
    config = dataclasses.replace(RECIPES["demo"](), seed=options.seed)
    if (out / "config.json").exists():
        earlier = from_dict(RunConfig, read_json(out / "config.json"))
        if dataclasses.replace(earlier, model=config.model) != config:
            raise ConfigError(f"{out} holds another run (another seed or recipe); remove it or choose another --out")
    if not (out / "results.json").exists():
        code = run_training(config, out, options.device, resume=(out / "checkpoints").exists())
        if code:
            return code
    else:
        print(f"{out} is done already; remove it to run the demo again", file=sys.stderr)
    print_table(read_json(out / "results.json")["results"])
    print(f"report: {out / 'report.html'}")
    print(f"model:  {out / 'model'}   try: omnivl caption PICTURE_OR_CLIP --model {out / 'model'}")
    return 0


def recipes(options: argparse.Namespace) -> int:
    from omnivl.presets import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name:20} {(recipe.__doc__ or '').splitlines()[0]}")
    return 0


def show(options: argparse.Namespace) -> int:
    print(json.dumps(to_dict(find_recipe(options.recipe)), indent=2))
    return 0


# --- measuring -------------------------------------------------------------------------------------------------------


def evaluate(options: argparse.Namespace) -> int:
    from omnivl import run
    from omnivl.distributed import resolve_device
    from omnivl.model.folder import load_folder
    from omnivl.report import print_table
    from omnivl.results import stopwatch, write_results

    if options.k < 0:
        raise ConfigError(f"--k is {options.k}, wanted 0 (no reranking) or more")
    model, tokenizer = load_folder(Path(options.model), resolve_device(options.device))
    with stopwatch() as seconds:
        results, bad = run.evaluate(
            model, tokenizer, options.data, tasks=options.task, split=options.split, root=options.root,
            rerank=options.k, num_frames=options.num_frames, num_items=options.num_items, seed=options.seed,
        )  # fmt: skip
    out = Path(options.out or Path(options.model) / "results.json")
    settings = {name: value for name, value in vars(options).items() if name not in ("act", "command")}
    write_results(out, results, config=settings, seed=options.seed, seconds=seconds[0])
    print_table([dataclasses.asdict(result) for result in results])
    for _, reason in bad:
        print(f"omnivl: not read: {reason}", file=sys.stderr)
    return 1 if bad else 0


def info(options: argparse.Namespace) -> int:
    from omnivl.model.folder import load_folder

    model, _ = load_folder(Path(model_name(options)))
    for name, part in model.named_children():
        print(f"{name:24} {sum(p.numel() for p in part.parameters()):>14,}")
    print(f"{'all, shared ones once':24} {sum(p.numel() for p in model.parameters()):>14,}")
    print(json.dumps(to_dict(model.config)))
    return 0


# --- using -----------------------------------------------------------------------------------------------------------


def model_name(options: argparse.Namespace) -> str:
    name = options.model or os.environ.get("OMNIVL_MODEL")
    if not name:
        raise ConfigError(NO_MODEL)
    return name


def expand(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are; a folder as all media in it."""
    from omnivl.data.media import find_media

    for path in paths:
        if Path(path).is_dir():
            yield from (str(found) for found in find_media(path))
        else:
            yield path


def each_media(
    options: argparse.Namespace,
    act: Callable[[Any, list[Any]], list[dict[str, Any]]],
    line: Callable[[dict[str, Any]], str],
) -> int:
    """Read every input, act on those that can be read in batches, print in order; 1 where any failed."""
    from omnivl.data.media import BadSample
    from omnivl.inference.pipeline import load

    pipeline = load(model_name(options), device=options.device)
    paths = list(expand(options.media))
    if not paths:
        raise ConfigError(f"{', '.join(options.media)}: no pictures or clips in there")
    lines = options.json and (len(paths) > 1 or Path(options.media[0]).is_dir())
    failed = False
    for first in range(0, len(paths), 32):
        part = paths[first : first + 32]
        loaded: list[Any] = []
        rows: list[dict[str, Any]] = []
        for path in part:
            try:
                loaded.append(pipeline.read(path))
                rows.append({"media": path})
            except BadSample as error:
                failed = True
                rows.append({"media": path, "error": str(error)})
        answers = iter(act(pipeline, loaded) if loaded else [])
        for row in rows:
            if "error" not in row:
                row |= {key: value for key, value in next(answers).items() if value is not None}
            if options.json:
                print(json.dumps(row, ensure_ascii=False, indent=None if lines else 2))
            elif "error" not in row:
                print(line(row) if len(paths) == 1 else f"{row['media']}\t{line(row)}")
            if "error" in row:
                print(f"omnivl: {row['error']}", file=sys.stderr)
    return 1 if failed else 0


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
