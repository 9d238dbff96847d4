"""The image and text side equals Hugging Face's BLIP on random weights copied over, padding included.

The copying stands here in full, so that the test also says which of their weights is which of ours.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
)

from omnivl.config import ModelConfig, TextConfig, VisionConfig
from omnivl.model import OmniVL

VISION_WIDTH, TEXT_WIDTH, LAYERS, HEADS, VOCABULARY = 32, 24, 2, 4, 50
CONFIG = ModelConfig(
    vision=VisionConfig(
        image_size=32, patch_size=8, width=VISION_WIDTH, layers=LAYERS, heads=HEADS, mlp_width=48, layer_norm_eps=1e-5
    ),
    text=TextConfig(
        vocab_size=VOCABULARY, width=TEXT_WIDTH, layers=LAYERS, heads=HEADS, mlp_width=40, max_positions=16, dropout=0.0
    ),
    embed_dim=12,
)


def blip_config() -> BlipConfig:
    vision = BlipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=32,
        patch_size=8,
        initializer_range=0.02,
        layer_norm_eps=1e-5,
    )
    text = BlipTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        encoder_hidden_size=VISION_WIDTH,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=16,
        bos_token_id=48,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=12)


def randomised(model: Any) -> Any:
    """Weights large enough that every path counts, norms and biases included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def both(theirs: str, ours: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


def vision_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = both("embeddings.patch_embedding", "patches.image") | both("post_layernorm", "norm")
    for i in range(LAYERS):
        layer, block = f"encoder.layers.{i}", f"blocks.{i}"
        names |= both(f"{layer}.layer_norm1", f"{block}.spatial_norm") | both(
            f"{layer}.layer_norm2", f"{block}.mlp_norm"
        )
        names |= both(f"{layer}.self_attn.qkv", f"{block}.spatial.qkv")
        names |= both(f"{layer}.self_attn.projection", f"{block}.spatial.out")
        names |= both(f"{layer}.mlp.fc1", f"{block}.mlp.fc1") | both(f"{layer}.mlp.fc2", f"{block}.mlp.fc2")
    weights = {ours: theirs[f"vision_model.{name}"] for ours, name in names.items()}
    weights["cls"] = theirs["vision_model.embeddings.class_embedding"].flatten()
    weights["position"] = theirs["vision_model.embeddings.position_embedding"][0]
    return {f"visual.{name}": value for name, value in weights.items()}


def text_weights(theirs: dict[str, Tensor], prefix: str, part: str) -> dict[str, Tensor]:
    """Of one stack: `part` is alignment (whose shared half is the text encoder) or generation."""
    names = {"embeddings.word.weight": "embeddings.word_embeddings.weight"}
    names |= {"embeddings.position.weight": "embeddings.position_embeddings.weight"}
    names |= both("embeddings.LayerNorm", "embeddings.norm")
    weights: dict[str, Tensor] = {}
    for i in range(LAYERS):
        layer, block = f"encoder.layer.{i}", f"blocks.{i}"
        for their, our in (("attention", "attention"), ("crossattention", "cross")):
            names |= both(f"{layer}.{their}.output.dense", f"{block}.{our}.out")
            names |= both(f"{layer}.{their}.output.LayerNorm", f"{block}.{our}_norm")
        names |= both(f"{layer}.crossattention.self.query", f"{block}.cross.query")
        names |= both(f"{layer}.intermediate.dense", f"{block}.mlp.fc1")
        names |= both(f"{layer}.output.dense", f"{block}.mlp.fc2") | both(
            f"{layer}.output.LayerNorm", f"{block}.mlp_norm"
        )
        for kind in ("weight", "bias"):
            attention = f"{prefix}.{layer}.attention.self"
            stack = [theirs[f"{attention}.{name}.{kind}"] for name in ("query", "key", "value")]
            weights[f"{block}.attention.qkv.{kind}"] = torch.cat(stack)
            cross = f"{prefix}.{layer}.crossattention.self"
            weights[f"{block}.cross.key_value.{kind}"] = torch.cat(
                [theirs[f"{cross}.{n}.{kind}"] for n in ("key", "value")]
            )
    weights |= {ours: theirs[f"{prefix}.{name}"] for ours, name in names.items()}
    weights["embeddings.token_type.weight"] = torch.zeros(1, TEXT_WIDTH)  # BLIP has none
    return {f"{part}.{name}": value for name, value in weights.items()}


def copied(weights: dict[str, Tensor]) -> OmniVL:
    """Our model with these weights, every one of which must be a name that it has."""
    model = OmniVL(CONFIG)
    state = model.state_dict()
    assert not [name for name in weights if name not in state]
    with torch.no_grad():
        for name, value in weights.items():
            assert state[name].shape == value.shape, name
            state[name].copy_(value)
    return model.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    ids = torch.randint(3, 40, (3, 7), generator=generator)
    ids[:, 0] = 48
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, 2:] = 0
    return pixels, ids * mask, mask


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def retrieval() -> tuple[Any, OmniVL]:
    torch.manual_seed(0)
    theirs = randomised(BlipForImageTextRetrieval(blip_config()))
    state = theirs.state_dict()
    weights = vision_weights(state) | text_weights(state, "text_encoder", "alignment")
    for name, their in both("vision_proj", "visual_projection").items() | both("text_proj", "text_projection").items():
        weights[name] = state[their]
    weights |= {name: state[their] for name, their in both("itm_head", "alignment.head").items()}
    return theirs, copied(weights)


@torch.no_grad()
def test_visual_tokens_equal_blips(retrieval: tuple[Any, OmniVL]) -> None:
    theirs, ours = retrieval
    pixels, _, _ = inputs()
    expected = theirs.vision_model(pixel_values=pixels).last_hidden_state
    assert expected.std() > 0.1
    close(ours.encode_visual(pixels[:, None]).tokens, expected)


@torch.no_grad()
def test_visual_tokens_at_another_resolution_equal_blips(retrieval: tuple[Any, OmniVL]) -> None:
    theirs, ours = retrieval
    pixels = torch.randn(2, 3, 48, 24, generator=torch.Generator().manual_seed(2))
    expected = theirs.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    close(ours.encode_visual(pixels[:, None]).tokens, expected)


@torch.no_grad()
def test_text_vectors_and_similarity_equal_blips(retrieval: tuple[Any, OmniVL]) -> None:
    theirs, ours = retrieval
    pixels, ids, mask = inputs()
    expected = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=False)
    text = ours.encode_text(ids, mask)
    close(text.tokens[mask.bool()], expected.question_embeds[mask.bool()])
    close(ours.encode_visual(pixels[:, None]).embed @ text.embed.T, expected.itm_score)


@torch.no_grad()
def test_matching_logits_equal_blips(retrieval: tuple[Any, OmniVL]) -> None:
    theirs, ours = retrieval
    pixels, ids, mask = inputs()
    expected = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=True)
    tokens = ours.encode_visual(pixels[:, None]).tokens
    assert expected.itm_score.std() > 0.05
    close(ours.match_states(ids, mask, tokens)[mask.bool()], expected.question_embeds[mask.bool()])
    close(ours.match(ids, mask, ours.cross_keys_values(tokens)), expected.itm_score)


@torch.no_grad()
def test_caption_logits_equal_blips() -> None:
    torch.manual_seed(0)
    theirs = randomised(BlipForConditionalGeneration(blip_config()))
    state = theirs.state_dict()
    weights = vision_weights(state) | text_weights(state, "text_decoder.bert", "generation")
    head = "text_decoder.cls.predictions"
    weights |= {name: state[their] for name, their in both(f"{head}.transform.dense", "generation.head.dense").items()}
    weights |= {
        name: state[their] for name, their in both(f"{head}.transform.LayerNorm", "generation.head.norm").items()
    }
    weights["generation.head.bias"] = state[f"{head}.bias"]
    ours = copied(weights)
    pixels, ids, mask = inputs()
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
    assert expected.std() > 0.5
    logits = ours.decode(ids, mask, ours.encode_visual(pixels[:, None]).tokens)
    close(logits[mask.bool()], expected[mask.bool()])
