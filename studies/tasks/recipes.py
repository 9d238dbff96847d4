"""Finetuning on the mini benchmark, drawings and clips in turn: what the TASK_mini presets are to the built-in world.

    omnivl train studies/tasks/recipes.py:answering --init runs/pretrain_mini/model

The manifests are looked for in `runs/mini-data`, or where OMNIVL_MINI says. Rates and steps were chosen on the
validation manifests.
"""

from typing import Any

from omnivl.config import RunConfig
from omnivl.presets import RECIPES, changed
from studies.mini.recipes import AUGMENTED, CLIPS, DRAWINGS


def finetuned(like: str, steps: int, **changes: Any) -> RunConfig:
    """The world's recipe of that name on the mini benchmark's training manifests, and nothing measured at its end."""
    config = RECIPES[like]()
    data = {"sources": (DRAWINGS[0], CLIPS[0]), **AUGMENTED, **changes.pop("data", {})}
    stage = changed(config.stages[0], data=data, train={"steps": steps}, **changes)
    return changed(config, recipe=f"{like}_benchmark", stages=(stage,), evaluation={"tasks": (), "data": ""})


def retrieval() -> RunConfig:
    """Names of drawings and descriptions of clips."""
    return finetuned("retrieval_mini", 400)


def classification() -> RunConfig:
    """Groups of drawings and actions of clips, by one classifier."""
    return finetuned("classification_mini", 400)


def captioning() -> RunConfig:
    """Names and descriptions, written after a prompt."""
    return finetuned("captioning_mini", 400)


def answering() -> RunConfig:
    """What is asked of drawings and clips; never mirrored, as it is asked which way a figure faces."""
    return finetuned("answering_mini", 500, data={"flip": False})
