"""Pretraining: the demo, the five paradigms of the paper, and its two stages at the paper's scale.

The world's recipes follow what was found to learn at small scale *(ours)*: first a language from captions alone, then
images, then images and clips together, with the text encoder held to a fiftieth of the rate after its warm-up. Settings
were chosen on the world's validation scenes.
"""

from collections.abc import Callable

from omnivl.config import (
    MODELS,
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    RunConfig,
    StageConfig,
    TaskConfig,
    TrainConfig,
)
from omnivl.presets.changes import changed

# --- stages on the built-in world ------------------------------------------------------------------------------------

WORLD_OPTIM = OptimConfig(lr=1e-3, betas=(0.9, 0.98), schedule="hold", warmup_steps=20)


def language(steps: int = 400) -> StageConfig:
    """A language from captions alone, of images and of clips."""
    return StageConfig(
        name="language",
        data=DataConfig(sources=("world:", "world:labels"), weights=(0.9, 0.1), media="text", batch_size=96),
        task=TaskConfig(name="text", bank_size=0),
        optim=changed(WORLD_OPTIM, lr=2e-3, warmup_steps=50, schedule="cosine"),
        train=TrainConfig(steps=steps, checkpoint_every=0),
    )


def images(steps: int) -> StageConfig:
    """Image-text and image-label data."""
    return StageConfig(
        name="images",
        data=DataConfig(
            sources=("world:", "world:labels"),
            weights=(0.9, 0.1),
            media="image",
            batch_size=48,
            num_frames=4,
            min_crop=1.0,
            flip=False,
        ),
        task=TaskConfig(
            bank_size=512, momentum=0.98, momentum_warmup=True, match_share=0.25, lm_share=0.25, video_lm_share=1.0
        ),
        optim=changed(WORLD_OPTIM, text_lr_factor=0.02),
        train=TrainConfig(steps=steps, checkpoint_every=200),
    )


def joint(steps: int, *, video_share: float = 0.7) -> StageConfig:
    """All four kinds of data: image steps and video steps alternate; clips of one scene stand together in a batch."""
    return changed(
        images(steps),
        name="joint",
        data={"media": "both", "video_batch_size": 32, "video_share": video_share, "group_size": 4},
    )


def videos(steps: int) -> StageConfig:
    """Video-text and video-label data alone."""
    return changed(joint(steps), name="videos", data={"media": "video", "batch_size": 32})


def world(recipe: str, *stages: StageConfig) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        model=MODELS["tiny"],
        stages=stages,
        evaluation=EvaluationConfig(tasks=("retrieval", "classify", "caption"), data="world:", split="test", rerank=16),
    )


def demo() -> RunConfig:
    """The main job: language, images, then images and clips, on the built-in world."""
    return world("demo", language(), images(900), joint(1500))


# The five paradigms that the paper compares, at an equal number of steps.


def image_only() -> RunConfig:
    """Language, then images alone."""
    return world("image_only", language(), images(2800))


def video_only() -> RunConfig:
    """Language, then clips alone."""
    return world("video_only", language(), videos(2800))


def joint_from_scratch() -> RunConfig:
    """Language, then images and clips together from the start."""
    return world("joint", language(), joint(2800))


def image_then_video() -> RunConfig:
    """Language, then images, then clips alone."""
    return world("image_then_video", language(), images(1400), videos(1400))


def decoupled_joint() -> RunConfig:
    """Language, then images, then images and clips together: the paper's own."""
    return world("decoupled_joint", language(), images(1400), joint(1400))


# --- pretraining on one's own data, at the paper's scale -------------------------------------------------------------


def pretrain_stage1() -> RunConfig:
    """Image-text and image-label data alone (the paper's first stage). Give --data.sources."""
    return RunConfig(
        recipe="pretrain_stage1",
        model=MODELS["base"],
        stages=(
            StageConfig(
                name="images",
                data=DataConfig(media="image", batch_size=64, num_workers=2, augment_ops=2),
                optim=OptimConfig(warmup_steps=3000),
                train=TrainConfig(steps=100_000, checkpoint_every=1000),
            ),
        ),
    )


def pretrain_stage2() -> RunConfig:
    """Images and videos jointly, from the first stage's model. Give --init and --data.sources."""
    return changed(pretrain_stage1(), recipe="pretrain_stage2", stages=(second_stage(),))


def second_stage() -> StageConfig:
    return changed(pretrain_stage1().stages[0], name="joint", data={"media": "both", "video_batch_size": 16})


def pretrain_language() -> RunConfig:
    """A language from captions alone, for a model that starts from nothing. Give --data.sources."""
    stage = changed(
        language(20_000), data={"sources": (), "weights": (), "num_workers": 2}, train={"checkpoint_every": 1000}
    )
    return RunConfig(recipe="pretrain_language", model=MODELS["base"], stages=(stage,))


PRETRAINING: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "pretrain_language": pretrain_language,
    "pretrain_stage1": pretrain_stage1,
    "pretrain_stage2": pretrain_stage2,
    "image_only": image_only,
    "video_only": video_only,
    "joint": joint_from_scratch,
    "image_then_video": image_then_video,
    "decoupled_joint": decoupled_joint,
}
