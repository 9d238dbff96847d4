"""What the commands share: how one is added to the parser, and which model is meant."""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnivl.config import ConfigError

NO_MODEL = (
    "no model was given: name a folder or a hub repository (MODEL or --model, as --help says, or OMNIVL_MODEL); "
    "`omnivl demo` trains one in minutes, `omnivl convert SOURCE OUT` makes one of public weights"
)


def new_command(commands: Any, name: str, act: Callable[..., int], text: str) -> argparse.ArgumentParser:
    """A subparser whose options `act` is called with; `text` is its line in the list and its description."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.set_defaults(act=act, parser=made)
    return made


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON as text, or in ASCII where a file's name is not text."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if text.isascii() or is_text(text) else json.dumps(value, indent=indent)


def is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def one_line(name: str) -> str:
    """A file's name without what would end its line or lead a terminal astray: a line feed as \\n, and so on."""
    return "".join(repr(c)[1:-1] if c < " " or c == "\x7f" else c for c in name)


def add_device(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def add_precision(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="what matrices are multiplied in; bf16 is for CPUs that have instructions for it (default: fp16 on CUDA, "
        "else fp32)",
    )


def plain_warnings() -> None:
    """A line a warning, without the place in our source."""
    warnings.formatwarning = lambda message, *rest: f"omnivl: {message}\n"


def model_name(options: argparse.Namespace) -> str:
    name = options.model or os.environ.get("OMNIVL_MODEL")
    if not name:
        raise ConfigError(NO_MODEL)
    return name


def model_folder(options: argparse.Namespace) -> Path:
    """The folder of the model that is meant; of a hub repository, its snapshot in the cache. Raises ValueError."""
    from omnivl.model.hub import local_folder

    return local_folder(model_name(options))
