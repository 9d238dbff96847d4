"""The one function that applies a table, and its way back. Every name of a source ends as used, as left out with a
reason, or as an error."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnivl.model.convert.rows import Row, stacked
from omnivl.model.convert.tables import SOURCES, Source

SHOWN = 4  # names that a message lists


@dataclass
class Translated:
    """A source's tensors under our names, in float32 and as if nothing were shared; what became of its own names."""

    values: dict[str, Tensor] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)  # of the source's table
    used: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # name -> why
    widened: set[str] = field(default_factory=set)  # names of types that became float32


def recognise(names: Iterable[str], where: str) -> Source:
    """The source whose marks stand among the names. Raises ValueError where none does."""
    there = set(names)
    for source in SOURCES:
        if there.issuperset(source.marks) or {without_prefix(name, source) for name in there}.issuperset(source.marks):
            return source
    if any(".lora_" in name.lower() for name in there):
        raise ValueError(f"{where} is a LoRA, which changes a model and is none: merge it into its base model first")
    for source in SOURCES:
        for pattern, why in source.refused.items():
            if any(re.match(pattern, name) for name in there):
                raise ValueError(f"{where} cannot be converted: {why}")
    raise ValueError(
        f"{where} holds no weights that omnivl can convert: {listed(sorted(there))} are not names of "
        "BLIP, ViT, DeiT, DINOv2, TimeSformer or BERT"
    )


def without_prefix(name: str, source: Source) -> str:
    for prefix in source.prefixes:
        name = name.removeprefix(prefix)
    return name


def to_ours(source: Source, weights: Mapping[str, Tensor], where: str) -> Translated:
    """Their tensors as ours. Raises ValueError (one sentence) where names are missing or unknown, or where shapes do
    not go together."""
    theirs = {without_prefix(name, source): value for name, value in weights.items()}
    made = Translated()
    rows: list[Row] = []
    for name, part in source.parts.items():
        found = expanded(part, theirs)
        missing = [name for row in found for name in row.theirs if name not in theirs]
        if missing and any(name in theirs for row in found for name in row.theirs):
            raise ValueError(f"{where} is incomplete: its {name} lacks {listed(missing)}")
        if not missing:
            rows += found
            made.parts.append(name)
    consumed = {name for row in rows for name in row.theirs}
    for name, value in theirs.items():
        if name in consumed:
            made.used.append(name)
            continue
        made.dropped[name] = why_dropped(source, name, where)
        first = source.tied.get(name)
        if first in theirs and not torch.equal(value, theirs[first]):
            raise ValueError(f"{where}: {name} differs from {first}, which is the same tensor in omnivl")
    if unknown := [name for name, why in made.dropped.items() if not why]:
        raise ValueError(f"{where} looks like {source.name}, but {listed(unknown)} are not names of it")
    for row in rows:
        parts = [theirs[name] for name in row.theirs]
        if bad := [name for name, part in zip(row.theirs, parts, strict=True) if not part.is_floating_point()]:
            raise ValueError(f"{where}: {bad[0]} is of the type {theirs[bad[0]].dtype}: give the weights unquantised")
        made.widened |= {str(part.dtype).removeprefix("torch.") for part in parts if part.dtype != torch.float32}
        try:
            made.values[row.ours] = row.how(*(part.reshape(part.shape[row.lead :]).float() for part in parts))
        except RuntimeError:
            shapes = ", ".join(f"{name} {tuple(theirs[name].shape)}" for name in row.theirs)
            raise ValueError(f"{where}: these shapes do not go together: {shapes}") from None
    return made


def to_theirs(source: Source, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors (second names of shared ones included) as the source's: every part of its table that ours hold whole.

    Only for tables that stack, BLIP's: what was folded or cut has no way back.
    """
    theirs: dict[str, Tensor] = {}
    for part in source.parts.values():
        rows = expanded(part, ours, of_ours=True)
        if all(row.ours in ours for row in rows):
            for row in rows:
                assert row.how is stacked, f"{row.ours} has no way back"
                pieces = ours[row.ours].chunk(len(row.theirs)) if len(row.theirs) > 1 else (ours[row.ours],)
                theirs |= {
                    name: piece.reshape((*[1] * row.lead, *piece.shape))
                    for name, piece in zip(row.theirs, pieces, strict=True)
                }
    return theirs | {second: theirs[first] for second, first in source.tied.items() if first in theirs}


def expanded(part: Iterable[Row], names: Collection[str], *, of_ours: bool = False) -> list[Row]:
    """The rows of a part with the block numbers that stand in `names` put in."""
    rows = list(part)
    patterns = {(row.ours if of_ours else row.theirs[0]) for row in rows if "{i}" in row.ours}
    search = [re.compile(re.escape(pattern).replace(r"\{i\}", r"(\d+)") + "$") for pattern in patterns]
    numbers = {int(found[1]) for name in names for one in search if (found := one.match(name))}
    blocks = max(numbers, default=-1) + 1
    made = []
    for row in rows:
        for i in range(max(blocks, 1)) if "{i}" in row.ours else [None]:
            made.append(row._replace(ours=at(row.ours, i), theirs=tuple(at(name, i) for name in row.theirs)))
    return made


def at(name: str, number: int | None) -> str:
    return name if number is None else name.replace("{i}", str(number))


def why_dropped(source: Source, name: str, where: str) -> str:
    """Why a name is left out; "" where the source is not known to have it. Raises ValueError where it forbids all."""
    for pattern, why in source.refused.items():
        if re.match(pattern, name):
            raise ValueError(f"{where} cannot be converted: {why}")
    if name in source.tied:
        return "a second name of another tensor"
    return next((why for pattern, why in source.dropped.items() if re.match(pattern, name)), "")


def listed(names: Collection[str]) -> str:
    """The first few of some names, and how many there are besides."""
    rest = len(names) - SHOWN
    return ", ".join(list(names)[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
