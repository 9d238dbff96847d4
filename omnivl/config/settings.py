"""Every setting: one frozen dataclass for each part of a run, and the table of model sizes."""

from dataclasses import dataclass, field
from typing import Any, Literal

from omnivl.config.strict import FORMAT_VERSION

# --- the model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The visual encoder: a ViT with divided space-time blocks (paper, section 3.1; TimeSformer)."""

    image_size: int = 224  # pixels, of the position table; other sizes interpolate it
    patch_size: int = 16  # pixels
    tubelet_size: int = 2  # frames that one video patch spans
    num_frames: int = 8  # frames of the temporal position table (num_frames / tubelet_size entries)
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    layer_norm_eps: float = 1e-6
    drop_path: float = 0.0  # of the last block; grows linearly from 0 at the first


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text stack: BERT's shape, used as text encoder, alignment decoder and generation decoder."""

    vocab_size: int = 30524
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network. `sharing` "blip": text encoder and alignment decoder are one stack, the generation decoder
    shares everything with it but its self-attention; "none": three stacks."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 256
    temperature: float = 0.07  # at the start; learnt, clamped to [0.001, 0.5]
    sharing: Literal["blip", "none"] = "blip"
    image_prompt: str = ""  # what a caption starts with, stripped from the answer ("a picture of " after finetuning)
    video_prompt: str = ""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]: CLIP's
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


# --- a stage of a run ------------------------------------------------------------------------------------------------


# What is read of an item: its captions, else a prompt with its label; captions alone, all of them positives of each
# other; its label alone; or its questions with their answers.
Reads = Literal["texts", "captions", "labels", "questions"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a stage reads: sources as FORMAT:ANNOTATIONS, how they are mixed, and how a batch is made."""

    sources: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()  # one a source, any positive numbers; none: by size
    mixing_temperature: float = 1.0  # with no weights: weight = size ** (1 / temperature)
    root: str = ""  # where relative media paths start; none: the annotation file's folder
    split: str = "train"
    reads: Reads = "texts"
    media: Literal["image", "video", "both", "text"] = "both"  # text: captions alone, no media is read
    batch_size: int = 64  # samples a step over all ranks; images
    video_batch_size: int = 0  # the same for video steps; 0: batch_size
    video_share: float = 0.5  # of the steps, where media is "both"
    group_size: int = 1  # neighbours of a source that keep together in a batch, such as clips of one scene
    image_size: int = 0  # pixels; 0: the model's; else the model takes this one, and num_frames, and is so from then on
    num_frames: int = 8
    max_text_tokens: int = 40  # special tokens included
    prompts: tuple[str, ...] = ()  # templates with {} that make a text of a class name; none: omnivl.prompts
    min_crop: float = 0.2  # smallest area of the random resized crop; 1: no crop
    flip: bool = True  # never where a text says left or right
    augment_ops: int = 0  # RandAugment operations a sample, without colour shifts
    augment_magnitude: int = 5  # of 10
    num_workers: int = 0
    on_bad_sample: Literal["replace", "raise"] = "replace"
    max_bad_share: float = 0.01  # over this, and at least 10, a run stops


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a stage optimises. "pretrain": UniVLC + VLM + LM (paper, section 3.2), without LM also what retrieval is
    finetuned with; "text": a language warm-up; and the finetuning of the other downstream tasks."""

    name: Literal["pretrain", "text", "answering", "captioning", "classification"] = "pretrain"
    univlc_weight: float = 1.0
    vlm_weight: float = 1.0
    lm_weight: float = 1.0
    contrast: Literal["univlc", "infonce"] = "univlc"  # infonce: a sample has no positive but itself
    bank_size: int = 57600  # vectors in each memory bank; 0: none
    momentum: float = 0.995
    momentum_warmup: bool = False  # min(momentum, 1 - 1 / (step + 2)): short runs want it
    distill_alpha: float = 0.0  # weight of momentum soft targets, ramped up over the first distill_steps
    distill_steps: int = 0
    match_share: float = 1.0  # of a batch's pairs that the matching loss sees
    lm_share: float = 1.0  # of a batch's images that the language-modelling loss sees
    video_lm_share: float = 1.0
    label_smoothing: float = 0.1  # of language modelling and of classification in training
    mixup: float = 0.0  # of classification: the alpha of the Beta that two neighbours' shares are drawn from; 0: off
    image_prompt: str = "a picture of "  # what captions start with, out of the loss; "captioning" only
    video_prompt: str = "a video of "
    negatives: Literal["global", "rank"] = "global"  # where matching negatives come from
    mask_share: float = 0.15  # of words, "text" only
    words_weight: float = 1.0  # of the bag-of-words loss on the projected [CLS], "text" only


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = 3e-4
    min_lr: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["cosine", "hold"] = "cosine"  # hold: constant, then linear to min_lr over the last decay_share
    decay_share: float = 0.3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05  # not on biases, norms, embeddings of position and [CLS], temperature
    clip: float = 1.0  # largest norm of the gradient; 0: none
    text_lr_factor: float = 1.0  # of the text encoder (its embeddings, self-attention, feed-forward, projection)
    layer_decay: float = 1.0  # of the visual encoder: the rate of a block is this times the next one's


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long a stage runs, and what it writes."""

    steps: int = 1000
    accumulate: int = 1  # micro-batches a step
    checkpoint_every: int = 1000  # steps; 0: at the end of the stage alone
    keep_checkpoints: int = 2  # the latest ones; the best is kept besides
    validate_every: int = 0  # steps; 0: never
    validate_data: str = ""  # FORMAT:ANNOTATIONS; none: the stage's first source
    validate_split: str = "validation"
    select: str = ""  # metric of the validation split whose best step (of the last stage) is model/; none: the last
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"  # of several processes; auto: fsdp where ddp may not fit
    checkpoint_activations: bool = False  # compute them again in the backward pass: less memory, a third more work
    compile: bool = False  # the visual blocks


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: a task on some data for some steps. Weights go on from the stage before."""

    name: str = "stage"
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured of a model, and how."""

    tasks: tuple[str, ...] = ()  # retrieval, classify, probe, caption, answer
    data: str = ""  # FORMAT:ANNOTATIONS; none, after training: the last stage's first source
    root: str = ""  # where relative media paths start; none: the annotation file's folder
    split: str = "test"
    media: tuple[Literal["image", "video"], ...] = ("image", "video")
    num_frames: int = 0  # of a clip; 0: the model's, after training the last stage's
    max_text_tokens: int = 0  # special tokens included; 0: 40, after training the last stage's
    num_items: int = 256  # of the gallery, for sources that render as many as asked
    batch_size: int = 64  # items encoded at a time
    rerank: int = 128  # candidates that the matching score re-orders
    token_memory: float = 1.0  # GiB a process that visual tokens may take until reranking; the rest is encoded again
    views: tuple[int, int] = (1, 1)  # clips and crops of an item that a classifier averages
    zero_shot: bool = False  # classify by prompts although the model has a classifier
    shots: int = 0  # training items a class that a probe sees; 0: all
    train_data: str = ""  # FORMAT:ANNOTATIONS of what a probe learns from and answers are listed from; none: data
    mode: Literal["rank", "generate"] = "rank"  # how questions are answered
    answers: str = ""  # the list to rank: a JSON list, or a file with one answer a line; none: the training split's
    num_answers: int = 0  # of the training split's, the commonest; 0: all
    method: Literal["greedy", "beam", "nucleus"] = "beam"  # of writing captions
    num_beams: int = 3
    min_length: int = 5  # tokens of a caption, its end included
    max_length: int = 20
    top_p: float = 0.9  # of nucleus
    repetition_penalty: float = 1.0
    predictions: str = ""  # a file that captions or answers are written to, as the benchmarks want them


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run. `init` is a model folder or hub id to start from: then `model` is read from there, and only where
    nothing but `image_size` or `num_frames` differs are its position tables resized to this one's."""

    recipe: str = ""
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    init: str = ""
    vocab: str = ""  # a vocab.txt; none: the init model's, else one is learnt from the sources' texts
    stages: tuple[StageConfig, ...] = ()
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    format_version: int = FORMAT_VERSION


# --- sizes -----------------------------------------------------------------------------------------------------------


def sized(width: int, layers: int, heads: int, text_width: int | None = None, **more: Any) -> ModelConfig:
    """A model of one width, with BERT-base's text stack of `text_width` where that differs."""
    text = TextConfig() if text_width else TextConfig(width=width, layers=layers, heads=heads, mlp_width=4 * width)
    return ModelConfig(
        vision=VisionConfig(width=width, layers=layers, heads=heads, mlp_width=4 * width), text=text, **more
    )


MODELS: dict[str, ModelConfig] = {
    # the demo's: learns the built-in world in minutes on two cores
    "tiny": ModelConfig(
        vision=VisionConfig(image_size=64, num_frames=4, width=128, layers=3, heads=4, mlp_width=512),
        text=TextConfig(width=128, layers=2, heads=4, mlp_width=512, max_positions=64),
        embed_dim=64,
    ),
    "small": sized(384, 12, 6),  # the shape of ViT-S and MiniLM
    "base": ModelConfig(),  # the paper's
    "large": sized(1024, 24, 16, text_width=768),
}
