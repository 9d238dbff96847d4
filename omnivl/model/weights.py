"""A network's weights and config as the two files of a model folder: `model.safetensors`, with one name a storage, and
`config.json`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omnivl.config import FORMAT_VERSION, ConfigError, ModelConfig, from_dict, read_json, to_dict
from omnivl.model.omnivl import OmniVL


def shared_names(config: ModelConfig) -> dict[str, str]:
    """Alias -> owner of every state-dict name that is a second name for another's storage."""
    if config.sharing == "none":
        return {}
    norm, dense = ("weight", "bias"), lambda *names: [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    embeddings = ["word.weight", "position.weight", "token_type.weight", *(f"norm.{kind}" for kind in norm)]
    attention = dense("attention.qkv", "attention.out", "attention_norm")
    cross = dense("cross.query", "cross.key_value", "cross.out", "cross_norm")
    mlp = dense("mlp.fc1", "mlp.fc2", "mlp_norm")
    shared = {
        f"{part}.embeddings.{name}": f"text.embeddings.{name}"
        for part in ("alignment", "generation")
        for name in embeddings
    }
    for i in range(config.text.layers):
        shared |= {f"alignment.blocks.{i}.{name}": f"text.blocks.{i}.{name}" for name in attention + mlp}
        shared |= {f"generation.blocks.{i}.{name}": f"text.blocks.{i}.{name}" for name in mlp}
        shared |= {f"generation.blocks.{i}.{name}": f"alignment.blocks.{i}.{name}" for name in cross}
    return shared


def save_weights(model: OmniVL, folder: Path | str) -> None:
    """Write `model.safetensors` (one name a storage) and `config.json` into `folder`, each under a temporary name
    first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aliases = shared_names(model.config)
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if name not in aliases
    }
    settings = {"format_version": FORMAT_VERSION, "model": to_dict(model.config), **model.extra}
    part = folder / f".model.safetensors.{os.getpid()}"
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, folder / "model.safetensors")
    part = folder / f".config.json.{os.getpid()}"
    part.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, folder / "config.json")


class Undrawn(TorchFunctionMode):
    """Weights stay as the memory was. (Made on the meta device instead, they load torch's compiler, for seconds.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
        return kwargs["tensor"] if drawn else func(*args, **(kwargs or {}))


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> OmniVL:
    """The model in a folder, in float32 whatever precision it was saved in, in evaluation mode.

    Raises:
        FileNotFoundError, ConfigError: there is no such folder or file; config.json is not one that this version reads.
        ValueError: model.safetensors is damaged, or its names or shapes are not those of the model (all are listed).
    """
    folder = Path(folder)
    file = folder / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no model.safetensors")
    settings = read_json(folder / "config.json")
    config, extra = read_settings(settings, folder / "config.json")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or not finished ({error}): copy or download it again") from None
    with Undrawn():  # nothing is drawn only to be overwritten
        model = OmniVL(config)
        if "labels" in extra:
            model.add_classifier(extra["labels"])
    model.extra = extra
    load_weights(model, weights, str(file))
    return model.to(device).eval()


def read_settings(settings: Any, where: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model config and all other keys of a model folder's config.json. Raises ConfigError."""
    if not isinstance(settings, Mapping) or "model" not in settings:
        raise ConfigError(f'{where} is not the config of an omnivl model: it has no "model"')
    version = settings.get("format_version")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{where} has format version {version!r}, wanted {FORMAT_VERSION}: use a version of omnivl that reads it"
        )
    extra = {key: value for key, value in settings.items() if key not in ("format_version", "model")}
    for name in ("labels", "origin"):
        value = extra.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f'{where} has {value!r} as "{name}", wanted a list of texts')
    config = from_dict(ModelConfig, settings["model"], where="model")
    for part in ("vision", "text"):
        for name, size in dataclasses.asdict(getattr(config, part)).items():
            if isinstance(size, int) and size < 1:
                raise ConfigError(f"{where}: model.{part}.{name} is {size}, wanted 1 or more")
    if config.embed_dim < 1 or not min(config.std) > 0:
        raise ConfigError(
            f"{where}: model.embed_dim is {config.embed_dim}, model.std {config.std}: all must be above 0"
        )
    return config, extra


def load_weights(model: OmniVL, weights: Mapping[str, Tensor], where: str) -> None:
    """Give `model` exactly the tensors `weights` (one name a storage), as float32. Raises ValueError listing all
    misfits."""
    aliases = shared_names(model.config)
    wanted = {name: value for name, value in model.state_dict().items() if name not in aliases}
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": shapes,
    }
    told = [f"{len(names)} {what} ({', '.join(names)})" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"the weights in {where} are not those of this model: {'; '.join(told)}")
    state = {name: weights[name].float() for name in wanted}
    model.load_state_dict(state | {alias: state[owner] for alias, owner in aliases.items()}, assign=True)
