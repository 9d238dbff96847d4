"""From translated tensors to a whole model: what is shared, what is derived from what, what starts new."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from omnivl.config import ModelConfig
from omnivl.model.convert.apply import Translated, listed
from omnivl.model.layers import linear
from omnivl.model.omnivl import OmniVL
from omnivl.model.weights import shared_names

VIDEO = re.compile(r"visual\.(blocks\.\d+\.temporal|time_position|patches\.video\.)")
SILENT = "from the image weights, silent until videos are learnt"
SELF_ATTENTION = re.compile(r"(text|generation)(\.blocks\.\d+\.attention(?:\.|_norm\.).+)")


@dataclass
class Report:
    """What became of every name: of the sources' and of ours. The printed form names blocks together."""

    sources: list[str] = field(default_factory=list)  # one line each
    notes: list[str] = field(default_factory=list)  # what was assumed, resized or widened
    used: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # of the sources' -> why
    loaded: list[str] = field(default_factory=list)
    derived: dict[str, str] = field(default_factory=dict)  # of ours -> from what
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"source: {line.removeprefix('source: ')}" for line in self.sources]
        lines += [f"used: {len(self.used)} tensors of the source, for {len(self.loaded)} of omnivl"]
        reasons = Counter(self.dropped.values())
        for why, count in reasons.items():
            names = [name for name in self.dropped if self.dropped[name] == why]
            lines.append(f"left out: {count} ({', '.join(grouped(names))}): {why}")
        ways = Counter(self.derived.values())
        for how, count in ways.items():
            names = [name for name in self.derived if self.derived[name] == how]
            lines.append(f"derived: {count} ({', '.join(grouped(names))}): {how}")
        if self.new:
            lines.append(f"newly initialised: {len(self.new)} ({', '.join(grouped(self.new))}): train them before use")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def grouped(names: Iterable[str]) -> list[str]:
    """Names with the numbers of blocks and the last word left out, each once."""
    return list(dict.fromkeys(re.sub(r"\.(weight|bias)$", "", re.sub(r"\.\d+(?=\.|$)", ".*", name)) for name in names))


def fit_widths(values: dict[str, Tensor], config: ModelConfig, notes: list[str]) -> None:
    """Take out the keys and values of cross-attentions that read another width than the visual encoder's; what read
    the text's own width (a decoder of question states) becomes `question_key_value`. Changes `values`."""
    vision, text = config.vision.width, config.text.width
    for name in [name for name in values if name.endswith(".cross.key_value.weight")]:
        reads = values[name].shape[1]
        if reads == vision:
            continue
        part, _, number = name.split(".")[:3]
        weight, bias = values.pop(name), values.pop(name.removesuffix("weight") + "bias")
        if part == "generation" and reads == text:
            values |= {f"{part}.question_key_value.{number}.{k}": v for k, v in (("weight", weight), ("bias", bias))}
        elif number == "0":
            notes.append(f"the cross-attentions of {part} read the width {reads}, the visual encoder gives {vision}")


def share(values: dict[str, Tensor], config: ModelConfig, derived: dict[str, str]) -> ModelConfig:
    """Decide from the values whether the stacks can share storage as BLIP's pretraining does, and bring `values` to the
    names of that choice."""
    aliases = shared_names(replace(config, sharing="blip"))
    pairs = [(alias, owner) for alias, owner in aliases.items() if alias in values and owner in values]
    if all(torch.equal(values[alias], values[owner]) for alias, owner in pairs):
        for alias, owner in aliases.items():
            value = values.pop(alias, None)
            if value is not None:
                values.setdefault(owner, value)
        return replace(config, sharing="blip")
    for alias, owner in aliases.items():
        if alias not in values and owner in values:
            values[alias] = values[owner]
            derived[alias] = f"a copy of {owner.split('.')[0]}, for stacks that share nothing"
    return replace(config, sharing="none")


def derive_text(values: dict[str, Tensor], config: ModelConfig, derived: dict[str, str]) -> None:
    """What follows from what is there: no token types, and the self-attention of the encoder for the decoder or the
    other way round, as BLIP itself starts. Changes `values`."""
    for name in [name for name in values if name.endswith(".embeddings.word.weight")]:
        types = name.replace("word", "token_type")
        if types not in values:
            values[types] = torch.zeros(1, config.text.width)
            derived[types] = "zero: the source has no token types"
    for name in list(values):
        found = SELF_ATTENTION.fullmatch(name)
        if found:
            other = ("generation" if found[1] == "text" else "text") + found[2]
            if other not in values:
                values[other] = values[name]
                derived[other] = f"a copy of {found[1]}'s self-attention"


def grow_vocabulary(values: dict[str, Tensor], size: int, new: list[str]) -> None:
    """Rows for tokens that the tokenizer adds to the source's: small random words, zero biases. Changes `values`."""
    for name in [name for name in values if name.endswith(".embeddings.word.weight") or name == "generation.head.bias"]:
        missing = size - len(values[name])
        if missing > 0:
            rows = values[name].new_zeros(missing, *values[name].shape[1:])
            if rows.dim() == 2:
                nn.init.normal_(rows, std=0.02)
            new.append(f"the last {missing} rows of {name}")
            values[name] = torch.cat([values[name], rows])


def fill(values: dict[str, Tensor], config: ModelConfig, report: Report, where: str) -> OmniVL:
    """A model of `config` on these tensors, which are taken as they are and not copied; everything else is derived or
    new. Raises ValueError listing the shapes that do not fit."""
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        model = OmniVL(config)
    model.register_pixel_scale()
    aliases = shared_names(config)
    shapes = {name: value.shape for name, value in model.state_dict().items() if name not in aliases}
    misfits = [
        f"{name} {tuple(v.shape)} for {tuple(shapes[name])}" for name, v in values.items() if shapes[name] != v.shape
    ]
    if misfits:
        raise ValueError(f"{where}: these shapes do not fit: {listed(misfits)}")
    timed = "visual.time_position" in values
    state: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, shape in shapes.items():
        if name in values:
            value = values[name]
            state[name] = value.clone() if value.data_ptr() in taken else value  # copies are parameters of their own
            taken.add(value.data_ptr())
            if name not in report.derived:
                report.loaded.append(name)
        elif VIDEO.match(name):
            state[name] = torch.empty(shape)
            image = name.startswith("visual.patches.video.")
            report.derived[name] = "the 2-D kernel spread over the frames of a tubelet" if image else SILENT
        else:
            state[name] = fresh(name, shape, config)
            report.new.append(name)
    model.load_state_dict(state | {alias: state[owner] for alias, owner in aliases.items()}, assign=True)
    if timed:
        model.visual.patches.start_video_from_image()
    else:
        model.visual.start_video_from_image()
    return model.eval()


def fresh(name: str, shape: torch.Size, config: ModelConfig) -> Tensor:
    """A parameter of a head or a projection as the model's constructors start it."""
    if name == "temperature":
        return torch.tensor(config.temperature)
    if len(shape) == 2:
        return linear(shape[1], shape[0]).weight.detach()
    return torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)


def tell(report: Report, made: Translated) -> None:
    """Add what became of a source's names to a report."""
    report.used += made.used
    report.dropped |= made.dropped
    if made.widened:
        report.notes.append(f"{', '.join(sorted(made.widened))} widened to float32")
