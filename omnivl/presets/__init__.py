"""Recipes: one function a run, each returning a whole `RunConfig`, written as a difference from another."""

from collections.abc import Callable

from omnivl.config import RunConfig
from omnivl.presets.changes import changed
from omnivl.presets.finetuning import FINETUNING
from omnivl.presets.pretraining import PRETRAINING, images, joint, language

RECIPES: dict[str, Callable[[], RunConfig]] = PRETRAINING | FINETUNING

__all__ = ["FINETUNING", "PRETRAINING", "RECIPES", "changed", "images", "joint", "language"]
