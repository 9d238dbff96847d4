"""Words to calls: the one program `omnivl`. Each file beside this one holds some of its commands and adds them to the
parser; heavy rooms are imported where they are used, so that --help answers at once.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 one or more inputs failed,
or training could not go on; 2 nothing was begun; 130 Ctrl-C and 143 SIGTERM, state saved where there is state.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from omnivl.cli import data, evaluating, searching, serving, training, using, weights
from omnivl.config import ConfigError

# threads that wait for work should soon sleep: by default they spin, and starve each other when others use the machine
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    options, rest = parser.parse_known_args(words)
    # names of files need not be text: they are written as they came
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        if rest and options.command != "train":
            options = mixed(options, words, rest)
        return options.act(options, rest) if options.command == "train" else options.act(options)
    except KeyboardInterrupt:
        print("omnivl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ModuleNotFoundError) as error:
        print(f"omnivl: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that may not be written
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"omnivl: {told}", file=sys.stderr)
        return 2 if isinstance(error, FileNotFoundError) else 1


def mixed(options: argparse.Namespace, words: list[str], rest: list[str]) -> argparse.Namespace:
    """The options where words stand behind options, as in `embed a.png --json b.png`. Raises ConfigError for a word
    that belongs nowhere."""
    own: argparse.ArgumentParser = options.parser
    try:
        found, rest = own.parse_known_intermixed_args(words[words.index(options.command) + 1 :])
    except TypeError:  # commands that have commands of their own do not mix
        found = options
    if rest:
        known = "option" if rest[0].startswith("-") else "place for"
        raise ConfigError(f"{options.command} has no {known} {rest[0]!r}; see omnivl {options.command} --help")
    found.command = options.command
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnivl", description="One foundation model for images, videos and text.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (training, evaluating, data, weights, using, searching, serving):
        room.add_commands(commands)
    return parser
