"""Pretraining on the mini benchmark: the tiny model from nothing, language first, then drawings, then drawings and
clips.

    omnivl train studies/mini/recipes.py:pretrain --out runs/pretrain_mini

The manifests are looked for in `runs/mini-data`, or where OMNIVL_MINI says.
"""

import os

from omnivl.config import MODELS, RunConfig
from omnivl.presets import changed, images, joint, language

DATA = os.environ.get("OMNIVL_MINI", "runs/mini-data")
DRAWINGS = (f"manifest:{DATA}/emoji_train.jsonl", f"manifest:{DATA}/emoji_train_labels.jsonl")
CLIPS = (f"manifest:{DATA}/flare_train.jsonl", f"manifest:{DATA}/flare_train_labels.jsonl")
AUGMENTED = {"min_crop": 0.5, "flip": True, "augment_ops": 2}


def pretrain() -> RunConfig:
    """All four kinds of data: captions and labels of drawings, captions and labels of action clips."""
    words = changed(language(1000), data={"sources": (DRAWINGS[0], CLIPS[0]), "weights": (1.0, 1.0)})
    drawings = changed(images(2000), data={"sources": DRAWINGS, "weights": (0.9, 0.1), **AUGMENTED})
    both = changed(
        joint(1500, video_share=0.5),
        data={"sources": DRAWINGS + CLIPS, "weights": (0.9, 0.1, 0.9, 0.1), "group_size": 1, **AUGMENTED},
    )
    slow = {"text_lr_factor": 0.1}  # names of emoji are more than a warm-up teaches
    stages = (words, changed(drawings, optim=slow), changed(both, optim=slow))
    return RunConfig(recipe="pretrain_mini", model=MODELS["tiny"], stages=stages)
