"""Words to calls: the one program `omnivl`. Each file beside this one holds some of its commands and adds them to the
parser; heavy rooms are imported where they are used, so that --help answers at once.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 one or more inputs failed,
or training could not go on; 2 nothing was begun; 130 Ctrl-C and 143 SIGTERM, state saved where there is state.
"""

import argparse
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
    for room in (training, evaluating, data, weights, using, searching, serving):
        room.add_commands(commands)
    return parser
