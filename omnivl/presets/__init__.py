"""Recipes: one function a run, each returning a whole `RunConfig`, written as a difference from another."""

from collections.abc import Callable

from omnivl.config import RunConfig
from omnivl.presets.changes import changed
from omnivl.presets.finetuning import FINETUNING
from omnivl.presets.pretraining import (
    PRETRAINING,
    decoupled_joint,
    demo,
    image_only,
    image_then_video,
    images,
    joint,
    joint_from_scratch,
    language,
    pretrain_language,
    pretrain_stage1,
    pretrain_stage2,
    video_only,
)

RECIPES: dict[str, Callable[[], RunConfig]] = PRETRAINING | FINETUNING

__all__ = [
    "FINETUNING",
    "PRETRAINING",
    "RECIPES",
    "changed",
    "decoupled_joint",
    "demo",
    "image_only",
    "image_then_video",
    "images",
    "joint",
    "joint_from_scratch",
    "language",
    "pretrain_language",
    "pretrain_stage1",
    "pretrain_stage2",
    "video_only",
]
