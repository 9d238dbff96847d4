"""The whole model: what is shared, what learns at the text rate, the model folder (method, invariants 3 and 14)."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnivl.config import MODELS, ConfigError, ModelConfig, TextConfig, VisionConfig
from omnivl.model import OmniVL, load_model, save_weights, shared_names

Sharing = Literal["blip", "none"]
SHARINGS: tuple[Sharing, ...] = ("blip", "none")
SMALL = ModelConfig(
    vision=VisionConfig(image_size=8, patch_size=4, width=12, layers=2, heads=2, mlp_width=16, num_frames=4),
    text=TextConfig(vocab_size=20, width=8, layers=2, heads=2, mlp_width=12, max_positions=10),
    embed_dim=6,
)


def model(config: ModelConfig = SMALL) -> OmniVL:
    torch.manual_seed(0)
    return OmniVL(config).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    ids = torch.randint(1, 20, (2, 5), generator=generator)
    return pixels, ids, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def outputs(m: OmniVL) -> list[Tensor]:
    pixels, ids, mask = inputs()
    with torch.no_grad():
        visual, text = m.encode_visual(pixels), m.encode_text(ids, mask)
        return [*visual, *text, m.match(ids, mask, visual.tokens), m.decode(ids, mask, visual.tokens)]


# --- sharing ---


@pytest.mark.parametrize("sharing", SHARINGS)
def test_exactly_the_listed_names_share_storage(sharing: Sharing) -> None:
    config = replace(SMALL, sharing=sharing)
    owners: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, value in model(config).state_dict().items():
        owner = owners.setdefault(value.data_ptr(), name)
        if owner != name:
            found[name] = owner
    assert found == shared_names(config)
    assert bool(found) == (sharing == "blip")


def test_blip_sharing_leaves_the_generation_decoder_its_self_attention_and_head() -> None:
    names = [name for name in model().state_dict() if name not in shared_names(SMALL)]
    own = {".".join(name.split(".")[1:]) for name in names if name.startswith("generation.")}
    attention = {f"blocks.{i}.attention{part}" for i in range(2) for part in (".qkv", ".out", "_norm")}
    question = {f"question_key_value.{i}" for i in range(2)}
    assert {name.rpartition(".")[0] for name in own - {"head.bias"}} == attention | question | {
        "head.dense",
        "head.norm",
    }
    cross = {
        f"alignment.blocks.{i}.cross{part}" for i in range(2) for part in (".query", ".key_value", ".out", "_norm")
    }
    assert {name.rpartition(".")[0] for name in names if name.startswith("alignment.")} == cross | {"alignment.head"}


def parameters_by_hand(config: ModelConfig) -> int:
    """The number of distinct parameters, from the description."""
    v, t = config.vision, config.text

    def dense(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    def attention(width: int) -> int:
        return 4 * dense(width, width) + 2 * width  # with its norm

    def mlp(width: int, hidden: int) -> int:
        return dense(width, hidden) + dense(hidden, width) + 2 * width

    patch = 3 * v.patch_size**2
    visual = dense(patch, v.width) + dense(patch * v.tubelet_size, v.width)
    visual += v.width * (1 + 1 + (v.image_size // v.patch_size) ** 2 + v.num_frames // v.tubelet_size)
    visual += v.layers * (2 * attention(v.width) + mlp(v.width, v.mlp_width)) + 2 * v.width
    embeddings = t.width * (t.vocab_size + t.max_positions + 1) + 2 * t.width
    cross = 2 * dense(t.width, t.width) + 2 * dense(v.width, t.width) + 2 * t.width
    question = 2 * dense(t.width, t.width) if t.width != v.width else 0
    heads = dense(t.width, 2) + dense(t.width, t.width) + 2 * t.width + t.vocab_size
    stacks = embeddings + t.layers * (2 * attention(t.width) + cross + mlp(t.width, t.mlp_width))
    if config.sharing == "none":
        stacks += 2 * embeddings + t.layers * (attention(t.width) + cross + 2 * mlp(t.width, t.mlp_width))
    return (
        visual
        + stacks
        + t.layers * question
        + heads
        + dense(v.width, config.embed_dim)
        + dense(t.width, config.embed_dim)
        + 1
    )


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("text_width", [8, 12])
def test_the_number_of_distinct_parameters(sharing: Sharing, text_width: int) -> None:
    config = replace(SMALL, sharing=sharing, text=replace(SMALL.text, width=text_width))
    assert sum(value.numel() for value in model(config).parameters()) == parameters_by_hand(config)


def test_the_base_model_has_282_million_parameters() -> None:
    with torch.device("meta"):
        base = OmniVL(MODELS["base"])
    assert sum(value.numel() for value in base.parameters()) == parameters_by_hand(MODELS["base"]) == 281_993_023


def test_an_optimiser_step_keeps_what_is_shared_equal() -> None:
    m = model().train()
    pixels, ids, mask = inputs()
    optimiser = torch.optim.AdamW(m.parameters(), lr=0.1)
    visual = m.encode_visual(pixels)
    (m.match(ids, mask, visual.tokens).square().sum() + m.decode(ids, mask, visual.tokens).square().sum()).backward()
    before = m.text.blocks[0].mlp.fc1.weight.clone()
    optimiser.step()
    state = m.state_dict()
    assert not torch.equal(before, m.text.blocks[0].mlp.fc1.weight)
    for alias, owner in shared_names(SMALL).items():
        assert torch.equal(state[alias], state[owner])


def test_without_decoders_leaves_the_two_encoders_as_they_were() -> None:
    whole = model()
    half = copy.deepcopy(whole).without_decoders()
    prefixes = ("visual.", "text.", "visual_projection.", "text_projection.", "temperature")
    expected = [name for name, _ in whole.named_parameters() if name.startswith(prefixes)]
    assert [name for name, _ in half.named_parameters()] == expected
    pixels, ids, mask = inputs()
    assert torch.equal(half.encode_visual(pixels).embed, whole.encode_visual(pixels).embed)
    assert torch.equal(half.encode_text(ids, mask).embed, whole.encode_text(ids, mask).embed)


def test_a_copy_shares_within_itself_and_not_with_the_original() -> None:
    whole = model()
    twin = copy.deepcopy(whole)
    assert twin.generation.blocks[1].mlp.fc1.weight is twin.text.blocks[1].mlp.fc1.weight
    assert twin.text.blocks[1].mlp.fc1.weight is not whole.text.blocks[1].mlp.fc1.weight


def test_the_text_rate_covers_the_text_encoder_and_its_projection_alone() -> None:
    m = model()
    dense = ["attention.qkv", "attention.out", "attention_norm", "mlp.fc1", "mlp.fc2", "mlp_norm"]
    owned = [f"blocks.{i}.{name}" for i in range(2) for name in dense] + ["embeddings.norm"]
    expected = {f"text.{name}.{kind}" for name in owned for kind in ("weight", "bias")}
    expected |= {f"text.embeddings.{name}.weight" for name in ("word", "position", "token_type")}
    assert set(m.text_encoder_parameters()) == expected | {"text_projection.weight", "text_projection.bias"}
    assert set(m.text_encoder_parameters()) <= {name for name, _ in m.named_parameters()}


# --- encoding ---


def test_results_are_tokens_cls_and_unit_vectors() -> None:
    m = model()
    pixels, ids, mask = inputs()
    visual, text = m.encode_visual(pixels), m.encode_text(ids, mask)
    assert visual.tokens.shape == (2, 1 + 2 * 4, 12) and text.tokens.shape == (2, 5, 8)
    for result in (visual, text):
        assert torch.equal(result.pooled, result.tokens[:, 0])
        assert result.embed.shape == (2, 6) and result.embed.dtype == torch.float32
        torch.testing.assert_close(result.embed.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(F.normalize(text.pooled_projection, dim=1), text.embed)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("frames", [1, 3, 4])
def test_vectors_and_matching_without_the_tokens_that_nobody_reads_are_the_same(sharing: Sharing, frames: int) -> None:
    """And so are their gradients; that of a token which was not seen to is nought."""
    m = model(replace(SMALL, sharing=sharing))
    pixels, ids, mask = inputs()
    m.start_video_from_image()
    for block in m.visual.blocks:  # heard
        torch.nn.init.normal_(block.temporal.out.weight)

    def gradients(vectors: Tensor) -> dict[str, Tensor | None]:
        m.zero_grad()
        (vectors * torch.arange(vectors.shape[1])).sum().backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in m.named_parameters()}

    for whole, spared in (
        (m.encode_visual(pixels[:, :frames]).embed, m.embed_visual(pixels[:, :frames])),
        (m.encode_text(ids, mask).embed, m.embed_text(ids, mask)),
        (m.encode_text(ids, None).embed, m.embed_text(ids, None)),
        (
            m.alignment.head(m.match_states(ids, mask, m.encode_visual(pixels[:, :frames]).tokens)[:, 0]),
            m.match(ids, mask, m.encode_visual(pixels[:, :frames]).tokens),
        ),
    ):
        torch.testing.assert_close(spared, whole)
        wanted, found = gradients(whole), gradients(spared)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_bytes_are_normalised_inside_and_floats_taken_as_they_are() -> None:
    m = model()
    pixels, _, _ = inputs()
    mean, std = torch.tensor(SMALL.mean).view(3, 1, 1), torch.tensor(SMALL.std).view(3, 1, 1)
    normalised = (pixels.float() / 255 - mean) / std
    torch.testing.assert_close(m.encode_visual(pixels).tokens, m.encode_visual(normalised).tokens)
    assert not [name for name in m.state_dict() if "pixel" in name]


def test_a_static_clip_equals_its_image_from_bytes_on() -> None:
    m = model()
    image = inputs()[0][:, :1]
    torch.testing.assert_close(m.encode_visual(image.expand(-1, 4, -1, -1, -1)).embed, m.encode_visual(image).embed)


def test_pixels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(clips, frames, 3, height, width\), got \(2, 3, 8, 8\)"):
        model().encode_visual(torch.zeros(2, 3, 8, 8))


def test_half_precision_gives_nearly_the_same_vectors() -> None:
    m = model()
    expected = outputs(m)
    for dtype in (torch.bfloat16, torch.float16):
        for ours, full in zip(outputs(copy.deepcopy(m).to(dtype)), expected, strict=True):
            torch.testing.assert_close(ours.float(), full, atol=0.05, rtol=0.05)


# --- the model folder ---


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_saved_model_loads_equal_and_shares_again(tmp_path: Path, sharing: Sharing) -> None:
    m = model(replace(SMALL, sharing=sharing))
    save_weights(m, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_model(tmp_path)
    assert loaded.config == m.config and not loaded.training
    for ours, theirs in zip(outputs(loaded), outputs(m), strict=True):
        assert torch.equal(ours, theirs)
    assert sum(value.numel() for value in loaded.parameters()) == sum(value.numel() for value in m.parameters())
    assert all(value.requires_grad for value in loaded.parameters())


def test_the_weights_file_has_one_name_a_storage(tmp_path: Path) -> None:
    m = model()
    save_weights(m, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {name for name, _ in m.named_parameters()}


def test_saving_over_a_model_that_is_in_use_leaves_it_whole(tmp_path: Path) -> None:
    save_weights(model(), tmp_path)
    loaded = load_model(tmp_path)
    expected = outputs(loaded)
    torch.manual_seed(5)
    save_weights(OmniVL(SMALL), tmp_path)
    for ours, theirs in zip(outputs(loaded), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_classifier_and_other_keys_travel_with_the_model(tmp_path: Path) -> None:
    m = model()
    m.add_classifier(["cat", "dog", "fox"])
    m.extra["metric"] = {"top1": 0.5}
    save_weights(m, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.extra == {"labels": ["cat", "dog", "fox"], "metric": {"top1": 0.5}}
    assert loaded.classifier is not None and m.classifier is not None
    pooled = torch.randn(2, 12)
    assert torch.equal(loaded.classifier(pooled), m.classifier(pooled))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_load_into_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    m = model()
    save_weights(copy.deepcopy(m).to(dtype), tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    loaded = load_model(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(outputs(loaded), outputs(m), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_weights_that_do_not_fit_are_all_listed(tmp_path: Path) -> None:
    save_weights(model(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual.cls"], weights["temperature"]
    weights["stray"] = torch.zeros(1)
    weights["text_projection.bias"] = torch.zeros(7)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path)
    told = str(caught.value)
    assert "\n" not in told
    assert "2 missing (temperature, visual.cls)" in told
    assert "1 unexpected (stray)" in told
    assert "1 of another shape (text_projection.bias (7,) for (6,))" in told


def test_a_cut_file_is_one_clear_sentence(tmp_path: Path) -> None:
    save_weights(model(), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or not finished") as caught:
            load_model(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_folder_without_weights_or_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: it has no model\.safetensors"):
        load_model(tmp_path / "nowhere")
    save_weights(model(), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        load_model(tmp_path)


def test_a_config_of_another_format_or_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    save_weights(model(), tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    for change, told in (
        ({"format_version": 99}, "has format version 99, wanted 1"),
        ({"model": {**settings["model"], "embed_dims": 6}}, r"model\.embed_dims.*did you mean 'model\.embed_dim'"),
        ({"model": {**settings["model"], "embed_dim": "6"}}, r"model\.embed_dim must be a whole number"),
        ({"model": 3}, "must be a table of settings"),
    ):
        file.write_text(json.dumps({**settings, **change}))
        with pytest.raises(ConfigError, match=told):
            load_model(tmp_path)
    file.write_text("[]")
    with pytest.raises(ConfigError, match="is not the config of an omnivl model"):
        load_model(tmp_path)
