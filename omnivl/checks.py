"""What is refused before a run is begun: settings that cannot work, data that are not there, and a model chosen by what
it is trained on. Each message is one sentence that names the setting.
"""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

from omnivl import evaluation
from omnivl.config import ConfigError, DataConfig, EvaluationConfig, ModelConfig, RunConfig, StageConfig
from omnivl.data.annotations import Item
from omnivl.data.sources import open_items, parted
from omnivl.tokenizer import Tokenizer

log = logging.getLogger(__name__)

READS = {"answering": "questions", "captioning": "captions", "classification": "labels"}  # what a task must be given
MEDIA: dict[str, tuple[Literal["image", "video"], ...]] = {"image": ("image",), "video": ("video",)}
MEDIA |= {"both": ("image", "video"), "text": ("image", "video")}
VALIDATES = {"answering": "answer", "captioning": "caption", "classification": "classify"}  # else retrieval

MODEL_BOUNDS = {
    **{f"vision.{name}": "[1,inf)" for name in ("image_size", "patch_size", "tubelet_size", "num_frames")},
    **{
        f"{part}.{name}": "[1,inf)" for part in ("vision", "text") for name in ("width", "layers", "heads", "mlp_width")
    },
    **{f"{part}.layer_norm_eps": "(0,inf)" for part in ("vision", "text")},
    "vision.drop_path": "[0,1)",
    "text.vocab_size": "[1,inf)",
    "text.max_positions": "[1,inf)",
    "text.dropout": "[0,1)",
    "embed_dim": "[1,inf)",
    "temperature": "(0,inf)",
    "std": "(0,inf)",
}
BOUNDS = {
    "data.mixing_temperature": "(0,inf)",
    "data.batch_size": "[1,inf)",
    "data.video_batch_size": "[0,inf)",
    "data.video_share": "[0,1]",
    "data.group_size": "[1,inf)",
    "data.image_size": "[0,inf)",
    "data.num_frames": "[1,inf)",
    "data.max_text_tokens": "[2,inf)",
    "data.min_crop": "(0,1]",
    "data.augment_ops": "[0,inf)",
    "data.augment_magnitude": "[0,10]",
    "data.num_workers": "[0,inf)",
    "data.max_bad_share": "[0,1]",
    **{f"task.{name}_weight": "[0,inf)" for name in ("univlc", "vlm", "lm")},
    "task.bank_size": "[0,inf)",
    "task.momentum": "[0,1]",
    "task.distill_alpha": "[0,1]",
    "task.distill_steps": "[0,inf)",
    **{f"task.{name}_share": "(0,1]" for name in ("match", "lm", "video_lm")},
    "task.label_smoothing": "[0,1)",
    "task.mixup": "[0,inf)",
    "task.mask_share": "(0,1]",
    "task.words_weight": "[0,inf)",
    "optim.lr": "[0,inf)",
    "optim.min_lr": "[0,inf)",
    "optim.warmup_steps": "[0,inf)",
    "optim.decay_share": "[0,1]",
    "optim.betas": "[0,1)",
    "optim.eps": "[0,inf)",
    "optim.weight_decay": "[0,inf)",
    "optim.clip": "[0,inf)",
    "optim.text_lr_factor": "[0,inf)",
    "optim.layer_decay": "(0,1]",
    "train.steps": "[1,inf)",
    "train.accumulate": "[1,inf)",
    "train.checkpoint_every": "[0,inf)",
    "train.keep_checkpoints": "[0,inf)",
    "train.validate_every": "[0,inf)",
}
SEEDS = "[0,9223372036854775807]"  # what NumPy and torch take


# --- settings --------------------------------------------------------------------------------------------------------


def check(config: RunConfig) -> None:
    """Refuse settings that cannot work. Opens no file. Raises ConfigError."""
    if not config.stages:
        raise ConfigError("this run has no stages")
    within(config, {"seed": SEEDS})
    within(config.model, MODEL_BOUNDS, "model.")
    for number, stage in enumerate(config.stages):
        check_stage(stage, f"stage {number} ({stage.name}): ")


def check_stage(stage: StageConfig, where: str) -> None:
    data, task, steps = stage.data, stage.task, stage.train
    if not data.sources:
        raise ConfigError(f"{where}no data: give --data.sources FORMAT:FILE, such as manifest:my.jsonl or world:")
    within(stage, BOUNDS, where)
    if steps.select and not steps.validate_every:
        raise ConfigError(
            f"{where}train.select {steps.select!r} is measured where train.validate_every is set: give it steps"
        )
    for prompt in data.prompts:
        if "{}" not in prompt:
            raise ConfigError(f"{where}the prompt {prompt!r} has no {{}} for the class name")
    sizes = {"image": data.batch_size, "video": data.video_batch_size or data.batch_size}
    if data.media in sizes:
        sizes = {data.media: sizes[data.media]}
    for medium, size in sizes.items():
        if size % steps.accumulate:
            raise ConfigError(f"{where}a batch of {size} does not split in train.accumulate {steps.accumulate}")
        if task.name == "pretrain" and task.vlm_weight and size // steps.accumulate < 2:
            raise ConfigError(
                f"{where}a batch of one {medium} has no negatives for the matching loss; "
                "raise data.batch_size or set --task.vlm_weight 0"
            )
    if task.name == "pretrain" and not (task.univlc_weight or task.vlm_weight or task.lm_weight):
        raise ConfigError(f"{where}nothing is learnt where univlc_weight, vlm_weight and lm_weight are all 0")
    if task.mixup and task.name != "classification":
        raise ConfigError(f"{where}task.mixup is {task.mixup:g}; wanted 0 (off) unless task.name is 'classification'")
    wanted = READS.get(task.name, data.reads)
    if data.reads != wanted:
        raise ConfigError(f"{where}task.name {task.name!r} needs data.reads {wanted!r}, got {data.reads!r}")
    if steps.validate_every and "test" in steps.validate_split.lower():
        raise ConfigError(
            f"{where}train.validate_split is {steps.validate_split!r}: a model is never chosen on a test split; "
            "give a validation split"
        )
    if (data.media == "text") != (task.name == "text"):
        raise ConfigError(f'{where}task.name "text" and data.media "text" go together')


def within(config: Any, bounds: Mapping[str, str], where: str = "") -> None:
    """Hold settings, by their dotted names, to intervals such as "[0,1)"; of several values each. Raises ConfigError
    with `where` before the name."""
    for name, interval in bounds.items():
        value = reduce(getattr, name.split("."), config)
        low, high = map(float, interval[1:-1].split(","))
        for each in value if isinstance(value, tuple) else (value,):
            above = each > low or (interval[0] == "[" and each == low)
            below = each < high or (interval[-1] == "]" and each == high)
            if not (above and below):
                least = f"{low:g} or more" if interval[0] == "[" else f"above {low:g}"
                most = "" if high == math.inf else f" and {'at most' if interval[-1] == ']' else 'below'} {high:g}"
                raise ConfigError(f"{where}{name} is {each:g}, wanted {least}{most}")


def check_positions(config: RunConfig, model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse texts that the model has too few positions for. Raises ConfigError."""
    for number, stage in enumerate(config.stages):
        needed = stage.data.max_text_tokens
        if stage.task.name == "captioning":  # the prompt goes before, without its [CLS] and [SEP]
            prompts = [stage.task.image_prompt, stage.task.video_prompt]
            needed += tokenizer(prompts)[0].shape[1] - 2
        if needed > model.text.max_positions:
            raise ConfigError(
                f"stage {number} ({stage.name}): texts may have {needed} tokens, but the model has "
                f"{model.text.max_positions} positions: lower data.max_text_tokens or raise model.text.max_positions"
            )


# --- data ------------------------------------------------------------------------------------------------------------


def validation(stage: StageConfig) -> EvaluationConfig:
    """The stage's own task on its validation split."""
    data, steps = stage.data, stage.train
    return EvaluationConfig(
        tasks=(VALIDATES.get(stage.task.name, "retrieval"),), data=steps.validate_data or data.sources[0],
        root=data.root, split=steps.validate_split, media=MEDIA[data.media], num_frames=data.num_frames, rerank=0,
        max_text_tokens=data.max_text_tokens,
    )  # fmt: skip


def check_data(config: RunConfig) -> None:
    """Refuse a validation or an evaluation whose data are not there, a metric that is not measured, and a model that
    would be chosen by what it is trained on. Raises ValueError."""
    if config.evaluation.tasks:
        evaluation.check(config.evaluation)
        if config.evaluation.data:
            evaluation.check_data(config.evaluation)
    for number, stage in enumerate(config.stages):
        if not stage.train.validate_every:
            continue
        where, select, wanted = f"stage {number} ({stage.name}): ", stage.train.select, validation(stage)
        evaluation.check_data(wanted)
        known = metrics_of(wanted.tasks[0], wanted.data, wanted.media)
        if select and select not in known:
            raise ConfigError(f"{where}train.select is {select!r}, validation gives {', '.join(known)}")
        if told := trained_on(config, wanted):
            if select:
                raise ConfigError(
                    f"{where}train.select would choose the model by what it is trained on ({told}): give "
                    '--train.validate_data FORMAT:FILE, or --train.select "" --train.validate_every 0'
                )
            log.warning("%svalidation measures what is trained on: %s", where, told)


def metrics_of(task: str, data: str, media: Sequence[str]) -> list[str]:
    """Names of what a task measures of these media, as far as more of it is better."""
    world = parted(data)[0] == "world"
    if task == "retrieval":
        ways = [way for medium in media for way in (f"t2{medium[0]}", f"{medium[0]}2t")]
        motion = [f"{by}{name}" for by in ("", "match_") for name in ("sibling_t2v", "sibling_v2t", "reverse")]
        return [f"{way}_r{k}" for way in ways for k in (1, 5, 10)] + (motion if world and "video" in media else [])
    if task == "caption":
        field = [*(f"bleu{n}" for n in (1, 2, 3, 4)), "meteor", "rouge_l", "cider"]
        return ["exact", "token_f1", *(["motion_word"] if world else []), *field]
    return ["top1", "vqa_accuracy"] if task == "answer" else ["top1", "top5", "mean_per_class"]


def trained_on(config: RunConfig, wanted: EvaluationConfig) -> str:
    """What of the data of an evaluation a run is trained on, in words; "" where nothing is."""
    found = (items_trained_on(wanted.data, wanted.root, wanted.split, stage.data) for stage in config.stages)
    return next(filter(None, found), "")


def items_trained_on(spec: str, root: str, split: str, data: DataConfig) -> str:
    """What of a split of FORMAT:ANNOTATIONS stands in a stage's data too, in words; "" where nothing does. An item is a
    span of a file, of questions one of its questions. Raises ValueError as `open_source` does."""
    name, _ = parted(spec)
    alike = [each for each in data.sources if parted(each)[0] == name]
    if name == "world":
        return f"split {split!r} of the world" if alike and split == data.split else ""
    if name == "shards":
        return f"all of {spec}, which has no splits" if spec in alike else ""
    held = parts_of(open_items(spec, root, split)[0], data.reads)
    shared: set[Part] = set()
    for each in data.sources:
        if parted(each)[0] not in ("world", "shards"):
            shared |= held & parts_of(open_items(each, data.root, data.split)[0], data.reads)
    what = "questions" if data.reads == "questions" else "items"
    return f"{len(shared):,} of the {len(held):,} {what} of {spec} in split {split!r}" if shared else ""


Part = tuple[str, float | None, float | None, str]  # media, start, end, and a question where these are read


def parts_of(items: Iterable[Item], reads: str) -> set[Part]:
    asked = reads == "questions"
    return {
        (os.path.abspath(item.media), item.start, item.end, text)
        for item in items
        for text in ([question.text for question in item.questions] if asked else [""])
    }
