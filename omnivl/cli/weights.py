"""info: what a model folder holds, part by part."""

import argparse
import json
from pathlib import Path
from typing import Any

from omnivl.cli.common import model_name, new_command
from omnivl.config import to_dict


def add_commands(commands: Any) -> None:
    made = new_command(commands, "info", info, "parameters of a model by part")
    made.add_argument("model", metavar="MODEL", nargs="?")


def info(options: argparse.Namespace) -> int:
    from omnivl.model.folder import load_folder

    model, _ = load_folder(Path(model_name(options)))
    for name, part in model.named_children():
        print(f"{name:24} {sum(p.numel() for p in part.parameters()):>14,}")
    print(f"{'all, shared ones once':24} {sum(p.numel() for p in model.parameters()):>14,}")
    print(json.dumps(to_dict(model.config)))
    return 0
