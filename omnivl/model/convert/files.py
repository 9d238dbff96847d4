"""Reading what others save: one file or a folder, safetensors (whole or sharded) or a pickle of tensors, whatever it
is wrapped in, with the settings beside it. Nothing is unpickled but by `torch.load(weights_only=True)`; tensors stay in
the file until they are used. The room knows no table."""

import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omnivl.config import read_json

# How a folder names its weights, in the order of choice.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ENDINGS = (".safetensors", ".pth", ".bin", ".pt", ".pyth", ".ckpt")
# What a checkpoint keeps its weights under, beside an optimiser or an epoch.
CONTAINERS = ("model", "state_dict", "model_state", "model_state_dict", "module")
# Spellings of a name that mean nothing: compiled modules, and norms as they were called long ago.
SPELLINGS = (
    (r"(^|(?<=\.))_orig_mod\.", ""),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)
WRAPPERS = ("module.", "model.")


@dataclass
class Opened:
    """The tensors of a source under its names, and the JSON beside them."""

    where: str  # as messages name it
    weights: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)  # config.json
    preprocessor: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json


def open_weights(path: Path, where: str = "") -> Opened:
    """Read a file or a folder. Raises ValueError or FileNotFoundError (one sentence) for what is not a checkpoint."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    file = path if path.is_file() else weights_file(path)
    where = where or str(path)
    weights = read_shards(file) if file.name.endswith(".index.json") else read_file(file)
    beside = {name: file.parent / name for name in ("config.json", "preprocessor_config.json")}
    tables = [read_json(one) if one.is_file() else {} for one in beside.values()]
    settings, preprocessor = (table if isinstance(table, dict) else {} for table in tables)
    return Opened(where, plain_names(weights, where), settings, preprocessor)


def weights_file(folder: Path) -> Path:
    """The file of a folder that holds its weights. Raises ValueError where there is none, or no telling which."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} is a LoRA, which changes a model and is none: merge it into its base model first")
    found = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder} holds {len(found)} checkpoints ({', '.join(f.name for f in found)}): name one")
    raise ValueError(f"{folder} holds no weights: wanted {', '.join(WEIGHTS)} or one file of {', '.join(ENDINGS)}")


def read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors that an index lists, each from its own shard. Raises ValueError where a shard or a tensor is not
    there."""
    found = read_json(index)
    table = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise ValueError(f'{index} lists no shards: it has no "weight_map"')
    weights: dict[str, Tensor] = {}
    for name in sorted(set(table.values())):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise ValueError(f"{index} names the shard {name}, which is not beside it: the checkpoint is incomplete")
        weights |= read_file(shard)
    if missing := set(table) - set(weights):
        raise ValueError(f"{index} lists {len(missing)} tensors that its shards lack, such as {min(missing)}")
    return weights


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, the content deciding what it is. Raises ValueError."""
    with open(file, "rb") as stream:
        head = stream.read(9)
    if not head:
        raise ValueError(f"{file} is empty")
    if head[8:9] == b"{":  # eight bytes of length, then JSON
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged or not finished ({error}): copy or download it again") from None
    zipped = head[:2] == b"PK"
    try:
        with warnings.catch_warnings():  # torch muses on pickles that it then refuses
            warnings.simplefilter("ignore")
            # only zips can be left in the file until they are used
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damage may show as anything
        raise ValueError(unreadable(file, zipped, str(error))) from None
    return state_dict(loaded, file)


def unreadable(file: Path, zipped: bool, message: str) -> str:
    """The sentence for a file that torch would not read."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    foreign = found[1] if found else "" if zipped else first_class(file)
    if foreign:
        return (
            f"{file} holds an object of the class {foreign} beside tensors, and omnivl runs no code out of a file: "
            "save the model's state_dict alone"
        )
    if "TorchScript" in message:
        return f"{file} is a TorchScript program, not weights: give a checkpoint"
    if zipped:
        return f"{file} is a checkpoint that is damaged or unfinished, or a zip of something else: copy it again"
    return f"{file} is not a checkpoint: give a .safetensors file, or a state_dict that torch.save wrote"


def first_class(file: Path) -> str:
    """The first class or function that a plain pickle names, found without running it; "" where it is none."""
    words: list[str] = []
    try:
        with open(file, "rb") as stream:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL" and len(words) > 1:
                    return ".".join(words[-2:])
                if isinstance(argument, str):
                    words.append(argument)
    except (ValueError, IndexError, KeyError):
        pass
    return ""


def state_dict(loaded: Any, file: Path) -> dict[str, Tensor]:
    """The name-to-tensor table within what was saved. Raises ValueError where there is none."""
    while isinstance(loaded, Mapping):
        if {"param_groups", "state"} <= set(loaded):
            raise ValueError(f"{file} is the state of an optimiser, not of a model")
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return {str(name): value for name, value in loaded.items()}
        inner = next((loaded[name] for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            kinds = ", ".join(map(str, list(loaded)[:4])) or "nothing"
            raise ValueError(f"{file} holds no table of tensors: it has {kinds}, wanted a state_dict")
        loaded = inner
    raise ValueError(f"{file} holds a {type(loaded).__name__}, wanted a state_dict")


def plain_names(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Names without what wraps them: `module.` and `model.` where all have it, `_orig_mod.` anywhere. Raises ValueError
    where two names become one."""
    names = {name: name for name in weights}
    for pattern, plain in SPELLINGS:
        names = {name: re.sub(pattern, plain, now) for name, now in names.items()}
    while wrapper := next((w for w in WRAPPERS if all(now.startswith(w) for now in names.values())), ""):
        names = {name: now.removeprefix(wrapper) for name, now in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{where} holds tensors whose names differ only in how they are wrapped")
    return {now: weights[name] for name, now in names.items()}
