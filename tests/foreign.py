"""Models of Hugging Face on random weights, saved as their owners publish them, and the names of BLIP's own files.

The names here are written down a second time, from BLIP's `models/*.py` and from timm's, and not read from our tables.
"""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from omnivl.data import world
from omnivl.tokenizer import Tokenizer

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4}
PIXELS = {"image_size": 32, "patch_size": 8}
TOKENIZER = Tokenizer.train(world.all_captions(), vocab_size=200)
ROWS = TOKENIZER.vocab_size
WORDS = TOKENIZER.vocab[: ROWS - 2]  # without [DEC] and [ENC], as a BERT vocabulary is


def randomised(model: Any, noise: float = 0.1) -> Any:
    """Weights large enough that every path counts, norms and biases included; wide models want less noise."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    return model.eval()


def blip(kind: str, vision: int = 32, text: int = 24, *, heads: int = 4, noise: float = 0.1, **more: Any) -> Any:
    """BlipFor`kind`; `more` goes into both of its configs."""
    vision_config = transformers.BlipVisionConfig(
        **{**SIZES, **PIXELS, "num_attention_heads": heads, **more},
        hidden_size=vision,
        intermediate_size=3 * vision,
        initializer_range=0.02,
    )
    text_config = transformers.BlipTextConfig(
        **{**SIZES, "num_attention_heads": heads, "vocab_size": ROWS, "max_position_embeddings": 16, **more},
        hidden_size=text,
        encoder_hidden_size=vision,
        intermediate_size=2 * text,
        bos_token_id=TOKENIZER.dec_id,
        sep_token_id=TOKENIZER.sep_id,
    )
    config = transformers.BlipConfig(
        text_config=text_config.to_dict(), vision_config=vision_config.to_dict(), image_text_hidden_size=12
    )
    torch.manual_seed(0)
    return randomised(getattr(transformers, f"BlipFor{kind}")(config), noise)


def as_blip_has_it(model: Any) -> Any:
    """What a checkpoint of BLIP's own does not tell: 64 a head, and LayerNorm eps 1e-6 in its ViT."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm) and module.eps == 1e-5:
            module.eps = 1e-6
        if type(module).__name__ == "BlipTextSelfAttention":
            module.num_attention_heads, module.attention_head_size = module.query.out_features // 64, 64
    return model


def vit(name: str = "ViT", width: int = 32, **more: Any) -> Any:
    """`name`Model of Hugging Face: ViT, DeiT, Dinov2, Timesformer or Bert."""
    settings: dict[str, Any] = {"hidden_size": width, **SIZES}
    if name == "Bert":
        settings |= {"vocab_size": len(WORDS), "max_position_embeddings": 16, "intermediate_size": 2 * width}
    else:
        settings |= PIXELS | ({"mlp_ratio": 2} if name.startswith("Dinov2") else {"intermediate_size": 2 * width})
    settings |= more
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    return randomised(getattr(transformers, f"{name}Model")(config))


def save(model: Any, folder: Path, *, vocabulary: bool = True, **more: Any) -> Path:
    """A folder as on the hub, with a BERT vocabulary."""
    model.save_pretrained(folder, **more)
    return write_words(folder) if vocabulary else folder


def write_words(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return folder


BLIP_VISION = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.post_layernorm", "visual_encoder.norm"),
    ("vision_model.encoder.layers.", "visual_encoder.blocks."),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
    ("layer_norm", "norm"),
)


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's BLIP names as BLIP's own; its text names are the same."""
    made = {}
    for name, value in state.items():
        for theirs, own in BLIP_VISION:
            name = name.replace(theirs, own) if "vision_model" in name or "visual_encoder" in name else name
        made[name] = value.clone()
    for stack in ("text_encoder.", "text_decoder.bert."):
        if f"{stack}embeddings.word_embeddings.weight" in made:
            length = len(made[f"{stack}embeddings.position_embeddings.weight"])
            made[f"{stack}embeddings.position_ids"] = torch.arange(length)[None]
    return made


def pretraining() -> tuple[dict[str, Tensor], Any, Any]:
    """A checkpoint of BLIP's pretraining, with the Hugging Face matcher and captioner of the same weights."""
    matcher, captioner = (blip(k, 64, 128, heads=1) for k in ("ImageTextRetrieval", "ConditionalGeneration"))
    encoder, decoder = matcher.state_dict(), captioner.state_dict()
    for name, value in decoder.items():  # tied but for the self-attention; one visual encoder
        other = name.replace("text_decoder.bert.", "text_encoder.")
        if other in encoder and ".attention." not in name:
            value.copy_(encoder[other])
    decoder["text_decoder.cls.predictions.decoder.weight"].copy_(
        encoder["text_encoder.embeddings.word_embeddings.weight"]
    )
    state = own_names({**decoder, **encoder})
    momentum = {
        re.sub(r"^(\w+)", r"\1_m", name): value
        for name, value in state.items()
        if re.match(r"visual_encoder|text_encoder|vision_proj|text_proj", name)
    }
    queues = {"image_queue": torch.randn(12, 8), "text_queue": torch.randn(12, 8), "queue_ptr": torch.zeros(1).long()}
    return {**state, **momentum, **queues, "temp": torch.tensor(0.05)}, matcher, captioner


def timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names of ViT, DINOv2 and TimeSformer (as saved to disk) as those of timm, DINOv2 and TimeSformer,
    each q, k, v as one."""
    pairs = (
        (r"^embeddings\.cls_token", "cls_token"),
        (r"^embeddings\.mask_token", "mask_token"),
        (r"^embeddings\.position_embeddings", "pos_embed"),
        (r"^embeddings\.time_embeddings", "time_embed"),
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"temporal_attention\.attention\.qkv", "temporal_attn.qkv"),
        (r"temporal_attention\.output\.dense", "temporal_attn.proj"),
        (r"temporal_layernorm", "temporal_norm1"),
        (r"temporal_dense", "temporal_fc"),
        (r"attention\.attention\.(qkv|query|key|value)", r"attn.\1"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    )
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, plain in pairs:
            name = re.sub(pattern, plain, name)
        made[name] = value
    for name in [name for name in made if ".attn.query." in name]:
        parts = [made.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        made[name.replace("query", "qkv")] = torch.cat(parts)
    return {name: value for name, value in made.items() if not name.startswith("pooler")}
