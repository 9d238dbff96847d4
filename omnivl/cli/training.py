"""demo, train, recipes, show: a recipe with its overrides becomes a run."""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import sys
import typing
from pathlib import Path
from typing import Any

from omnivl.cli.common import add_device, new_command
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


def add_commands(commands: Any) -> None:
    made = new_command(
        commands, "demo", demo, "pretrain the tiny model on the built-in world, evaluate it, write a report"
    )
    made.add_argument("--out", default="runs/demo", help="run folder (default: runs/demo)")
    made.add_argument("--seed", type=int, default=0)
    add_device(made)

    made = new_command(
        commands, "train", train, "train a recipe: a name, file.py:function, or the config.json of an earlier run"
    )
    made.usage = (
        "omnivl train RECIPE [--section.field VALUE ...] [--init MODEL] [--out DIR]\n       omnivl train --resume DIR"
    )
    made.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="see `omnivl recipes`; `omnivl show RECIPE` lists its settings"
    )
    made.add_argument("--resume", metavar="DIR", help="go on with the run in DIR exactly where it stopped")
    made.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE)")
    made.add_argument("--size", choices=list(MODELS), help="the model's size, instead of the recipe's")
    add_device(made)

    new_command(commands, "recipes", recipes, "list the recipes")

    made = new_command(commands, "show", show, "print a recipe's whole config as JSON")
    made.add_argument("recipe", metavar="RECIPE")


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
        try:
            spec.loader.exec_module(module)
            made = getattr(module, function, None)
            if not callable(made):
                raise ConfigError(f"{file} has no function {function!r}")
            config = made()
        except ConfigError:
            raise
        except Exception as raised:  # whatever somebody's recipe does
            raise ConfigError(f"{name} does not run: {type(raised).__name__}: {raised}") from raised
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
    """The config with the shape of the model it starts from, whose position tables alone may be given another size.
    Raises ConfigError where another shape was asked for."""
    from omnivl.model.folder import read_config
    from omnivl.model.hub import local_folder

    own = read_config(local_folder(config.init))
    resized: dict[str, int] = {}
    if size:
        own_sizes = dataclasses.replace(
            own, text=dataclasses.replace(own.text, vocab_size=MODELS[size].text.vocab_size)
        )
        if own_sizes != MODELS[size]:
            raise ConfigError(f"--size {size} is not the shape of {config.init}; leave it out, or start without --init")
    for name in (word[2:].partition("=")[0] for word in words if word.startswith("--model.")):
        asked, has = (
            functools.reduce(getattr, name.split(".")[1:], typing.cast(Any, model)) for model in (config.model, own)
        )
        if name in ("model.vision.image_size", "model.vision.num_frames"):
            resized[name.rpartition(".")[2]] = asked
        elif asked != has:
            raise ConfigError(
                f"--{name} {asked} does not fit {config.init}, whose model has {has}; "
                "leave it out, or start without --init"
            )
    vision = dataclasses.replace(own.vision, **resized)
    return dataclasses.replace(config, model=dataclasses.replace(own, vision=vision))


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
        print(f"{name:27} {(recipe.__doc__ or '').splitlines()[0]}")
    return 0


def show(options: argparse.Namespace) -> int:
    print(json.dumps(to_dict(find_recipe(options.recipe)), indent=2))
    return 0
