"""One table for each source of weights: what tells it from the others, its rows, what of it is left out and why, and
what shapes do not tell. Names were read in the code of BLIP (`models/vit.py`, `med.py`, `blip_*.py`) and of Hugging
Face.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from omnivl.model.convert.rows import (
    HF,
    HF_BLIP,
    HF_DINO,
    HF_IN_MEMORY,
    TIMM,
    Row,
    both,
    lm_head,
    temporal,
    text,
    tied_words,
    vision,
)


@dataclass(frozen=True)
class Source:
    """A kind of checkpoint. `parts` is a list of tables of which each is there as a whole or not at all."""

    name: str
    marks: tuple[str, ...]  # names that together tell this source from all after it in SOURCES
    parts: Mapping[str, tuple[Row, ...]]
    model_types: tuple[str, ...]  # what config.json beside the file may call itself
    dropped: Mapping[str, str] = field(default_factory=dict)  # pattern of a name -> why it is left out
    tied: Mapping[str, str] = field(default_factory=dict)  # second name -> first name of one tensor
    refused: Mapping[str, str] = field(default_factory=dict)  # pattern of a name -> why none of this can be converted
    prefixes: tuple[str, ...] = ()  # taken off where a name has one
    # what shapes do not tell, where no config.json beside the file tells it
    head_width: int = 64
    vision_eps: float = 1e-6
    text_eps: float = 1e-12
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"


# --- the sources ---

BLIP_TEXT = {
    "text encoder": text("text", "text_encoder.", cross="alignment"),
    "decoder": (
        *text("generation", "text_decoder.bert.", cross="generation"),
        *lm_head("text_decoder.cls.predictions."),
    ),
    "visual projection": both("visual_projection", "vision_proj"),
    "text projection": both("text_projection", "text_proj"),
    "matching head": both("alignment.head", "itm_head"),
}
COUNTER = "counts positions: nothing learnt"
CLASSIFIER = "the classifier of the task it was trained on"
POOLER = "a pooler: omnivl takes [CLS] as it is"
MASK = "the mask token of its pretraining"
DISTILLATION = "the distillation token, with its position and head"
HALF = (0.5, 0.5, 0.5)

BLIP = Source(
    name="BLIP, the names of its own checkpoints",
    marks=("visual_encoder.patch_embed.proj.weight",),
    parts={
        "visual encoder": vision(TIMM, "visual_encoder."),
        **BLIP_TEXT,
        "temperature": (Row("temperature", ("temp",)),),
    },
    model_types=(),
    dropped={
        r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\.": "a momentum copy: training starts a new one",
        r"((image|text|idx)_queue|queue_ptr|ptr_queue)$": "the queue of its training",
        r".*position_ids$": COUNTER,
    },
    tied=tied_words("text_decoder.cls.predictions.", "text_decoder.bert."),
    refused={r"cls_head\.": "this is BLIP for pairs of pictures (NLVR), whose text encoder reads two at once"},
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
BLIP_HF = replace(
    BLIP,
    name="BLIP, Hugging Face",
    marks=("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0.self_attn.qkv.weight"),
    parts={"visual encoder": vision(HF_BLIP, "vision_model."), **BLIP_TEXT},
    model_types=("blip",),
    dropped={r".*position_ids$": COUNTER, r"text_encoder\.pooler\.": POOLER},
    refused={r"(text_model|logit_scale)\b": "this is BlipModel, which has neither decoder nor matching head"},
    vision_eps=1e-5,
)

TIMESFORMER = Source(
    name="TimeSformer, its own names",
    marks=("blocks.0.temporal_fc.weight",),
    parts={
        "visual encoder": vision(TIMM)
        + temporal(
            "time_embed", "blocks.{i}.", "temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj", "temporal_fc"
        )
    },
    model_types=("timesformer",),
    dropped={r"head\.": CLASSIFIER},
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    interpolation="bilinear",
)
TIMESFORMER_HF = replace(
    TIMESFORMER,
    name="TimeSformer, Hugging Face",
    marks=("encoder.layer.0.temporal_dense.weight",),
    parts={
        "visual encoder": vision(HF._replace(qkv=("attention.attention.qkv",)))
        + temporal(
            "embeddings.time_embeddings",
            "encoder.layer.{i}.",
            "temporal_layernorm",
            "temporal_attention.attention.qkv",
            "temporal_attention.output.dense",
            "temporal_dense",
        )
    },
    dropped={r"classifier\.": CLASSIFIER},
    prefixes=("timesformer.",),
)

REGISTERS = {r".*(register_tokens|reg_token|storage_tokens)$": "it has register tokens, which omnivl's encoder has not"}
DINO = Source(
    name="DINOv2, its own names",
    marks=("blocks.0.ls1.gamma", "patch_embed.proj.weight"),
    parts={"visual encoder": vision(TIMM._replace(scales=("ls1.gamma", "ls2.gamma")))},
    model_types=(),
    dropped={r"mask_token$": MASK, r"head\.": CLASSIFIER},
    refused=REGISTERS,
)
DINO_HF = replace(
    DINO,
    name="DINOv2, Hugging Face",
    marks=("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.attention.attention.query.weight"),
    parts={"visual encoder": vision(HF_DINO)},
    model_types=("dinov2", "dinov2_with_registers"),
    dropped={r"embeddings\.mask_token$": MASK, r"classifier\.": CLASSIFIER},
    prefixes=("dinov2.", "dinov2_with_registers."),
)
DINO_HF_IN_MEMORY = replace(
    DINO_HF,
    marks=("encoder.layer.0.layer_scale1.lambda1",),
    parts={"visual encoder": vision(HF_DINO._replace(qkv=HF_IN_MEMORY.qkv, out=HF_IN_MEMORY.out))},
)

VIT = Source(
    name="ViT, timm's names",
    marks=("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    parts={"visual encoder": vision(TIMM)},
    model_types=(),
    dropped={r"(head|head_drop|pre_logits)\.": CLASSIFIER},
    refused=REGISTERS,
)
DEIT = replace(
    VIT,
    name="distilled DeiT, its own names",
    marks=("dist_token", "blocks.0.attn.qkv.weight"),
    parts={"visual encoder": vision(TIMM, distilled=True)},
    dropped={r"(dist_token$|head_dist\.)": DISTILLATION, r"head\.": CLASSIFIER},
)
VIT_HF = replace(
    VIT,
    name="ViT, Hugging Face",
    marks=("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"),
    parts={"visual encoder": vision(HF)},
    model_types=("vit", "deit"),
    dropped={r"pooler\.": POOLER, r"classifier\.": CLASSIFIER, r"embeddings\.mask_token$": MASK, r"decoder\.": MASK},
    prefixes=("vit.", "deit."),
    vision_eps=1e-12,
    mean=HALF,
    std=HALF,
    interpolation="bilinear",
)
DEIT_HF = replace(
    VIT_HF,
    name="distilled DeiT, Hugging Face",
    marks=("embeddings.distillation_token", "encoder.layer.0.layernorm_before.weight"),
    parts={"visual encoder": vision(HF, distilled=True)},
    dropped={
        r"(embeddings\.distillation_token$|distillation_classifier\.)": DISTILLATION,
        r"cls_classifier\.": CLASSIFIER,
        **VIT_HF.dropped,
    },
    mean=VIT.mean,
    std=VIT.std,
    interpolation="bicubic",
)
IN_MEMORY = ("layers.0.attention.q_proj.weight", "layers.0.layernorm_before.weight")
VIT_HF_IN_MEMORY = replace(VIT_HF, marks=IN_MEMORY, parts={"visual encoder": vision(HF_IN_MEMORY)})
DEIT_HF_IN_MEMORY = replace(
    DEIT_HF,
    marks=("embeddings.distillation_token", *IN_MEMORY),
    parts={"visual encoder": vision(HF_IN_MEMORY, distilled=True)},
)

BERT = Source(
    name="BERT, Hugging Face",
    marks=("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"),
    parts={"text encoder": text("text", "", types=True), "language-model head": lm_head("cls.predictions.")},
    model_types=("bert",),
    dropped={
        r"pooler\.": POOLER,
        r"cls\.seq_relationship\.": "the next-sentence head of its pretraining",
        r"embeddings\.position_ids$": COUNTER,
        r"(classifier|qa_outputs)\.": CLASSIFIER,
    },
    tied=tied_words("cls.predictions.", ""),
    refused={r".*crossattention\.": "this BERT is a decoder with cross-attentions, which only BLIP's are read for"},
    prefixes=("bert.",),
)

# In the order in which they are tried.
SOURCES = (
    BLIP, BLIP_HF, TIMESFORMER, TIMESFORMER_HF, DINO, DINO_HF, DINO_HF_IN_MEMORY,
    DEIT, VIT, DEIT_HF, VIT_HF, DEIT_HF_IN_MEMORY, VIT_HF_IN_MEMORY, BERT,
)  # fmt: skip
