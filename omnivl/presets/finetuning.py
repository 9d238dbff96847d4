"""Finetuning: TASK_DATASET for each row of the downstream tables, and TASK_mini on the built-in world.

Rates, batches and epochs are those of the peers (BLIP for pictures, UMT for clips) as starting points, turned into
steps by the sizes of the data sets' training splits. All start from a pretrained model (--init) and want their data
(--data.sources FORMAT:FILE --data.root FOLDER): docs/protocols.md has the whole commands. Retrieval is pretraining's
task without language modelling, where all captions of an item are positives of each other.
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


def finetuning(recipe: str, stage: StageConfig) -> RunConfig:
    return RunConfig(recipe=recipe, model=MODELS["base"], stages=(stage,))


# --- pictures --------------------------------------------------------------------------------------------------------

PICTURES = StageConfig(
    name="finetune",
    data=DataConfig(
        media="image", image_size=384, batch_size=256, min_crop=0.5, augment_ops=2, num_workers=4, reads="captions"
    ),
    optim=OptimConfig(lr=1e-5),
    train=TrainConfig(checkpoint_every=1000),
)
WITHOUT_LM = TaskConfig(lm_weight=0.0)


def retrieval_coco() -> RunConfig:
    """Image-text retrieval on COCO: UniVLC and matching, 6 epochs, the best step by the validation split."""
    train = {"steps": 13_300, "validate_every": 2_200, "select": "t2i_r1"}
    return finetuning("retrieval_coco", changed(PICTURES, task=WITHOUT_LM, train=train))


def retrieval_flickr30k() -> RunConfig:
    """Image-text retrieval on Flickr30K: as on COCO."""
    train = {"steps": 3_400, "validate_every": 560}
    return changed(
        retrieval_coco(), recipe="retrieval_flickr30k", stages=(changed(retrieval_coco().stages[0], train=train),)
    )


def captioning_coco() -> RunConfig:
    """Captions of COCO, after "a picture of ": 5 epochs. Also what NoCaps is evaluated with."""
    train = {"steps": 11_000, "validate_every": 2_200, "select": "token_f1"}
    return finetuning("captioning_coco", changed(PICTURES, task=TaskConfig(name="captioning"), train=train))


def answering_vqav2() -> RunConfig:
    """Answers to VQAv2, weighted by their annotators: 10 epochs at 480 pixels."""
    data = {"image_size": 480, "reads": "questions"}
    stage = changed(PICTURES, data=data, task=TaskConfig(name="answering"), optim={"lr": 2e-5}, train={"steps": 25_700})
    return finetuning("answering_vqav2", stage)


# --- clips -----------------------------------------------------------------------------------------------------------

CLIPS = changed(
    PICTURES,
    data={"media": "video", "image_size": 224, "batch_size": 32, "num_frames": 12},
    optim={"lr": 2e-5},
)


def retrieval_msrvtt() -> RunConfig:
    """Text-to-video retrieval on MSRVTT (1k-A, trained on its 9k): 10 epochs, 12 frames. It has no validation split."""
    stage = changed(CLIPS, data={"split": "train9k"}, task=WITHOUT_LM, train={"steps": 56_000})
    return finetuning("retrieval_msrvtt", stage)


def retrieval_didemo() -> RunConfig:
    """Paragraph-to-video retrieval on DiDeMo: 10 epochs, 12 frames, 64 tokens, the best validated step."""
    train = {"steps": 2_600, "validate_every": 260, "select": "t2v_r1"}
    stage = changed(CLIPS, data={"max_text_tokens": 64}, task=WITHOUT_LM, train=train)
    return finetuning("retrieval_didemo", stage)


def answering_msrvtt() -> RunConfig:
    """Answers to MSRVTT-QA: 8 epochs, the best step by the validation split."""
    data = {"batch_size": 64, "reads": "questions"}
    train = {"steps": 19_800, "validate_every": 2_400, "select": "top1"}
    return finetuning("answering_msrvtt", changed(CLIPS, data=data, task=TaskConfig(name="answering"), train=train))


def answering_msvd() -> RunConfig:
    """Answers to MSVD-QA: 15 epochs, the best step by the validation split."""
    train = {"steps": 7_200, "validate_every": 480}
    return changed(
        answering_msrvtt(), recipe="answering_msvd", stages=(changed(answering_msrvtt().stages[0], train=train),)
    )


def classification_kinetics400() -> RunConfig:
    """Actions of Kinetics-400: 5 epochs, 8 frames, rates that fall with the depth. Test with --views 4x3."""
    stage = changed(
        CLIPS,
        data={"batch_size": 256, "num_frames": 8, "reads": "labels"},
        task=TaskConfig(name="classification"),
        optim={"layer_decay": 0.75},
        train={"steps": 4_700},
    )
    return finetuning("classification_kinetics400", stage)


def classification_ssv2() -> RunConfig:
    """Actions of Something-Something V2: 30 epochs, never mirrored. Test with --views 2x3."""
    stage = changed(
        classification_kinetics400().stages[0], data={"flip": False}, optim={"lr": 2e-4}, train={"steps": 19_800}
    )
    return finetuning("classification_ssv2", stage)


# --- the built-in world ----------------------------------------------------------------------------------------------


def mini(recipe: str, reads: str, task: TaskConfig, *tasks: str) -> RunConfig:
    """A few minutes on two cores: pictures and clips in turn."""
    stage = StageConfig(
        name="finetune",
        data=DataConfig(
            sources=("world:",), batch_size=48, video_batch_size=32, num_frames=4, min_crop=1.0, flip=False
        ),
        task=task,
        optim=OptimConfig(lr=3e-4, betas=(0.9, 0.98), warmup_steps=20, text_lr_factor=0.1),
        train=TrainConfig(steps=400, checkpoint_every=0),
    )
    return RunConfig(
        recipe=recipe,
        model=MODELS["tiny"],
        stages=(changed(stage, data={"reads": reads}),),
        evaluation=EvaluationConfig(tasks=tasks, rerank=16),
    )


def retrieval_mini() -> RunConfig:
    """Retrieval on the built-in world."""
    task = TaskConfig(lm_weight=0.0, bank_size=512, momentum=0.98, momentum_warmup=True)
    return mini("retrieval_mini", "captions", task, "retrieval")


def captioning_mini() -> RunConfig:
    """Captions of the built-in world, after a prompt."""
    return mini("captioning_mini", "captions", TaskConfig(name="captioning"), "caption")


def answering_mini() -> RunConfig:
    """Questions about the built-in world: shapes, colours, places, sizes and motions."""
    config = mini("answering_mini", "questions", TaskConfig(name="answering", label_smoothing=0.0), "answer")
    return changed(config, stages=(changed(config.stages[0], optim={"text_lr_factor": 1.0}, train={"steps": 800}),))


def classification_mini() -> RunConfig:
    """Shapes of the built-in world's pictures and motions of its clips, by a classifier."""
    return mini("classification_mini", "labels", TaskConfig(name="classification"), "classify")


FINETUNING: dict[str, Callable[[], RunConfig]] = {
    function.__name__: function
    for function in (
        retrieval_coco,
        retrieval_flickr30k,
        retrieval_msrvtt,
        retrieval_didemo,
        captioning_coco,
        answering_vqav2,
        answering_msrvtt,
        answering_msvd,
        classification_kinetics400,
        classification_ssv2,
        retrieval_mini,
        captioning_mini,
        answering_mini,
        classification_mini,
    )
}
