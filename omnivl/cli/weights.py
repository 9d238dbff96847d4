"""convert, info, doctor: weights of others as a model folder, what a model holds and needs, what this machine has."""

import argparse
import json
import os
from typing import Any

from omnivl.cli.common import model_folder, new_command
from omnivl.config import ConfigError, to_dict


def add_commands(commands: Any) -> None:
    made = new_command(
        commands, "convert", convert, "make a model folder of BLIP's weights, or of a visual and a text encoder"
    )
    made.usage = (
        "omnivl convert SOURCE OUT [--vocab FILE_OR_HUB_ID]\n"
        "       omnivl convert OUT --vision SOURCE --text SOURCE [--vocab FILE_OR_HUB_ID]"
    )
    made.add_argument("source", metavar="SOURCE", help="a file, a folder, or a hub repository: BLIP or omnivl")
    made.add_argument("out", metavar="OUT", nargs="?", help="the model folder to write")
    made.add_argument("--vision", metavar="SOURCE", help="the visual encoder: ViT, DeiT, DINOv2, TimeSformer, BLIP")
    made.add_argument("--text", metavar="SOURCE", help="the text side: BERT, MiniLM, BLIP")
    made.add_argument("--vocab", metavar="FILE_OR_HUB_ID", help="vocab.txt or tokenizer.json (default: the source's)")
    made.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the source's)")
    made.add_argument("--num-frames", type=int, metavar="N", help="frames a clip (default: the source's, else 8)")

    made = new_command(commands, "info", info, "parameters of a model by part, where they come from, memory it needs")
    made.add_argument("model", metavar="MODEL", nargs="?", help="a model folder or hub repository")

    new_command(commands, "doctor", doctor, "what this machine has: versions, devices, extras")


def convert(options: argparse.Namespace) -> int:
    from omnivl.model.convert import convert

    source, out = options.source, options.out
    if options.vision or options.text:
        if out is not None:
            raise ConfigError("with --vision and --text name one folder, the one to write")
        source, out = None, options.source
    if out is None:
        raise ConfigError("name the folder to write: omnivl convert SOURCE OUT")
    report = convert(
        source,
        out,
        vision=options.vision,
        text=options.text,
        vocab=options.vocab,
        image_size=options.image_size,
        num_frames=options.num_frames,
    )
    print(report)
    print(f"model: {out}")
    return 0


def info(options: argparse.Namespace) -> int:
    from omnivl.model.folder import load_folder

    model, _ = load_folder(model_folder(options))
    for name, part in model.named_children():
        print(f"{name:24} {sum(p.numel() for p in part.parameters()):>14,}")
    total = sum(p.numel() for p in model.parameters())
    print(f"{'all, shared ones once':24} {total:>14,}")
    print("\nwhere the weights come from")
    for line in model.extra.get("origin", ["trained from nothing, or before omnivl kept this"]):
        print(f"  {line}")
    # training keeps a momentum copy of both encoders and their projections
    parts = (model.visual, model.text, model.visual_projection, model.text_projection)
    copied = sum(p.numel() for part in parts for p in part.parameters())
    print("\nmemory for the weights (activations, which grow with the batch, come on top)")
    print(f"  {'inference, float32':34} {size(4 * total)}")
    print(f"  {'inference, bfloat16':34} {size(2 * total)}")
    print(f"  {'pretraining (gradients, AdamW, copy)':34} {size(4 * (4 * total + copied))}")
    print(f"\nconfig: {json.dumps(to_dict(model.config))}")
    return 0


def size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def doctor(options: argparse.Namespace) -> int:
    import platform
    from importlib import metadata

    import torch

    print(f"omnivl {metadata.version('omnivl')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"processor: {os.cpu_count()} cores, {torch.get_num_threads()} threads in use")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        print(f"memory: {size(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))}")
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        print(f"cuda:{number}: {card.name}, {size(card.total_memory)}")
    if torch.backends.mps.is_available():
        print("mps: available")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        print("no GPU that torch can use: everything runs on the processor")
    print("\npackages")
    for name, extra in required(metadata.requires("omnivl") or []):
        if not extra:
            print(f"  {name:28} {installed(name) or 'MISSING'}")
    print("\nextras")
    missing: dict[str, list[str]] = {}
    for name, extra in required(metadata.requires("omnivl") or []):
        if extra and extra != "all" and name != "omnivl":
            missing.setdefault(extra, []).extend([] if installed(name) else [name])
    for extra, names in missing.items():
        told = f"lacks {', '.join(names)}: pip install 'omnivl[{extra}]'" if names else "installed"
        print(f"  {extra:28} {told}")
    from huggingface_hub import constants

    offline = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online"
    print(f"\nhub: {offline}, cache {constants.HF_HUB_CACHE}")
    print(f"model: {os.environ.get('OMNIVL_MODEL', 'OMNIVL_MODEL is not set')}")
    return 0


def required(lines: list[str]) -> list[tuple[str, str]]:
    """The package and the extra ("" for none) of each requirement in a package's metadata."""
    found = []
    for line in lines:
        requirement, _, condition = line.partition(";")
        name = requirement.split("[")[0].split(">")[0].split("=")[0].strip()
        extra = condition.partition("extra ==")[2].strip().strip("'\"")
        found.append((name, extra))
    return found


def installed(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
