"""The contract between a task and the trainer: a task turns a `Batch` into losses, and keeps what belongs to learning
(momentum copies, banks, auxiliary heads) that the saved model must not hold. The trainer knows nothing else of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from omnivl.config import OptimConfig
from omnivl.data.sample import Batch, Gallery
from omnivl.model import OmniVL


@dataclass
class Losses:
    """`total` is what is differentiated: this rank's share, so that the average over ranks is the global mean.

    `parts` holds each loss unweighted, a share like `total`; `sums` holds counts to be added over ranks, as
    (sum, count), such as matching accuracy. Both are detached, and every rank has the same names in the same order.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)


class Task(nn.Module):
    """A module whose forward is the loss. Its state dict without `model.` is saved for resuming."""

    model: OmniVL

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        """Losses of micro-batch number `micro` of step `step`, both counted from 0. Ranks run it side by side, so each
        must call the same collectives, and reach the same parameters, whatever its rows are."""
        raise NotImplementedError

    def begin_stage(self) -> None:
        """Called once before the first step of a stage, never where a stage is resumed."""

    def begin_step(self) -> None:
        """Called before the forward passes of a step, and again where the step is done again."""

    def after_step(self, step: int) -> None:
        """Called once after each optimiser step."""

    def lr_factors(self, optim: OptimConfig) -> dict[str, float]:
        """What multiplies the learning rate of parameters, by name; 1 for all others."""
        visual = self.model.visual.distances()
        factors = {f"model.visual.{name}": optim.layer_decay**distance for name, distance in visual.items()}
        return factors | {f"model.{name}": optim.text_lr_factor for name in self.model.text_encoder_parameters()}

    def compiled_parts(self) -> list[nn.Module]:
        """Modules that TrainConfig.compile compiles: those that see few different shapes."""
        return list(self.model.visual.blocks)

    def recomputed_parts(self) -> list[nn.Module]:
        """Modules that TrainConfig.checkpoint_activations is about: the blocks of all stacks."""
        model = self.model
        return [*model.visual.blocks, *model.text.blocks, *model.alignment.blocks, *model.generation.blocks]

    def sharded_parts(self) -> list[nn.Module]:
        """Modules that FSDP gathers one by one, inner ones first; all else is gathered for the whole step. The text
        stacks are: their sub-layers are shared, and run up to four times a step."""
        return sub_layers(self.model)


def sub_layers(model: OmniVL) -> list[nn.Module]:
    """The attentions and feed-forwards of the visual blocks. An image step leaves the temporal ones where they are."""
    return [part for block in model.visual.blocks for part in (block.temporal, block.spatial, block.mlp)]


@dataclass(frozen=True)
class Result:
    """One measured number, as it stands in results.json: a fraction, beside what guessing gives."""

    task: str
    dataset: str
    split: str
    metric: str
    value: float | None  # None: not run, and settings["not_run"] says why
    n: int
    chance: float | None
    settings: dict[str, Any]
    items: tuple[float, ...] = ()  # what each item scored, whose mean is the value; studies pair them, no file of ours


def gallery_result(
    gallery: Gallery,
    task: str,
    metric: str,
    value: float | None,
    n: int,
    chance: float | None,
    settings: Mapping[str, Any],
    items: Iterable[float] = (),
) -> Result:
    told = {"medium": gallery.medium, **settings}
    return Result(task, gallery.name, gallery.split, metric, value, n, chance, told, tuple(items))
