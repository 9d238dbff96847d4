"""Converted models give what Hugging Face's modules give: BLIP in its four kinds and two spellings, and encoders alone.

Each source is saved as its owners publish it, converted from disk, and compared on random inputs.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omnivl.model import OmniVL, load_model
from omnivl.model.convert import Report, convert
from omnivl.model.convert.apply import to_theirs
from omnivl.model.convert.tables import BLIP
from omnivl.tokenizer import Tokenizer
from tests import foreign
from tests.foreign import (
    ROWS,
    TOKENIZER,
    as_blip_has_it,
    blip,
    own_names,
    pretraining,
    save,
    timm_names,
    vit,
    write_words,
)


def inputs(size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, and texts padded to the right."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, size, size, generator=draw)
    ids = torch.randint(5, ROWS - 2, (3, 7), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, 2:] = 0
    return pixels, ids * mask, mask


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def converted(source: Path, out: Path, **options: Any) -> tuple[OmniVL, Report]:
    report = convert(source, out, **options)
    model = load_model(out)
    assert Tokenizer.from_folder(out).vocab_size == model.config.text.vocab_size
    return model, report


# --- BLIP ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def same_matching(ours: OmniVL, theirs: Any, size: int = 32) -> None:
    pixels, ids, mask = inputs(size)
    visual, text = ours.encode_visual(pixels[:, None]), ours.encode_text(ids, mask)
    close(visual.tokens, theirs.vision_model(pixel_values=pixels).last_hidden_state)
    cosine = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=False)
    close(text.tokens[mask.bool()], cosine.question_embeds[mask.bool()])
    close(visual.embed @ text.embed.T, cosine.itm_score)
    close(ours.visual_projection(visual.pooled), theirs.vision_proj(cosine.last_hidden_state[:, 0]))
    close(text.pooled_projection, theirs.text_proj(cosine.question_embeds[:, 0]))
    ids[:, 0] = TOKENIZER.enc_id
    expected = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=True)
    close(ours.match(ids, mask, visual.tokens), expected.itm_score)


@torch.no_grad()
def same_captions(ours: OmniVL, theirs: Any, size: int = 32) -> None:
    pixels, ids, mask = inputs(size)
    ids[:, 0] = TOKENIZER.dec_id
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
    close(ours.decode(ids, mask, ours.encode_visual(pixels[:, None]).tokens)[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def same_answers(ours: OmniVL, theirs: Any, size: int = 32) -> None:
    """The question is read with the picture, the answer with the states of the question."""
    pixels, ids, mask = inputs(size)
    ids[:, 0] = TOKENIZER.enc_id
    answer, answer_mask = ids.flip(0), mask.flip(0)
    answer[:, 0] = TOKENIZER.dec_id
    states = ours.match_states(ids, mask, ours.encode_visual(pixels[:, None]).tokens)
    image = theirs.vision_model(pixel_values=pixels).last_hidden_state
    read = theirs.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=image).last_hidden_state
    close(states[mask.bool()], read[mask.bool()])
    logits = ours.decode(answer, answer_mask, states, context_mask=mask)
    for i, (question, said) in enumerate(zip(mask.sum(1).tolist(), answer_mask.sum(1).tolist(), strict=True)):
        # text by text, as transformers 5.23 forgets the mask of a cross-attention
        expected = theirs.text_decoder(
            input_ids=answer[i : i + 1, :said], encoder_hidden_states=read[i : i + 1, :question]
        ).logits
        close(logits[i : i + 1, :said], expected)


KINDS = {
    "ImageTextRetrieval": same_matching,
    "ConditionalGeneration": same_captions,
    "QuestionAnswering": same_answers,
}


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_faces_blip(tmp_path: Path, kind: str) -> None:
    theirs = blip(kind, 32, 32 if kind == "QuestionAnswering" else 24)
    ours, report = converted(save(theirs, tmp_path / "hf"), tmp_path / "out")
    KINDS[kind](ours, theirs)
    assert ours.config.vision.heads == ours.config.text.heads == 4 and ours.config.vision.layer_norm_eps == 1e-5
    assert ours.config.sharing == ("none" if kind == "QuestionAnswering" else "blip")
    assert ours.config.image_prompt == ("a picture of " if kind == "ConditionalGeneration" else "")
    assert len(report.used) == len(load_file(tmp_path / "hf" / "model.safetensors"))
    named = {*report.loaded, *report.derived, *report.new}
    assert named == set(load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_blips_own_names(tmp_path: Path, kind: str) -> None:
    """No config beside them: 64 a head, and LayerNorm eps 1e-6 where Hugging Face has 1e-5."""
    theirs = blip(kind, 64, 64 if kind == "QuestionAnswering" else 128, heads=1)
    state = own_names(theirs.state_dict())
    torch.save({"model": state, "epoch": 3, "config": {"vit": "base"}}, tmp_path / "model.pth")
    ours, report = converted(tmp_path / "model.pth", tmp_path / "out", vocab=write_words(tmp_path))
    KINDS[kind](ours, as_blip_has_it(theirs))
    assert any("64 a head" in note for note in report.notes)


def test_blips_pretraining_shares_its_stacks_and_comes_back_to_its_own_names(tmp_path: Path) -> None:
    state, matcher, captioner = pretraining()
    torch.save({"model": state}, tmp_path / "model.pth")
    ours, report = converted(tmp_path / "model.pth", tmp_path / "out", vocab=write_words(tmp_path))
    assert ours.config.sharing == "blip" and ours.temperature.item() == pytest.approx(0.05)
    assert {name.split(".")[1] for name in report.new} == {"question_key_value"}  # the widths differ
    for theirs, same in ((matcher, same_matching), (captioner, same_captions)):
        same(ours, as_blip_has_it(theirs))
    learnt = {
        name: value for name, value in state.items() if "_m." not in name and "queue" not in name and "_ids" not in name
    }
    back = to_theirs(BLIP, ours.state_dict())
    assert set(back) == set(learnt)
    for name, value in learnt.items():
        assert torch.equal(back[name], value), name
    assert {"the queue of its training", "a second name of another tensor"} < set(report.dropped.values())


def test_an_answer_decoder_of_another_width_gets_keys_and_values_of_its_own(tmp_path: Path) -> None:
    """BLIP's large ViT: the encoder reads 64 channels, the answer decoder the text's 128."""
    theirs = blip("QuestionAnswering", 64, 128, heads=1)
    wide = blip("QuestionAnswering", 128, 128, heads=1)
    state = {**theirs.state_dict(), **{n: v for n, v in wide.state_dict().items() if n.startswith("text_decoder")}}
    torch.save(own_names(state), tmp_path / "model.pth")
    ours, report = converted(tmp_path / "model.pth", tmp_path / "out", vocab=write_words(tmp_path))
    theirs.text_decoder = wide.text_decoder
    same_answers(ours, as_blip_has_it(theirs))
    assert "generation.question_key_value.0.weight" in report.loaded


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_blip_at_its_real_size(tmp_path: Path, kind: str) -> None:
    theirs = blip(
        kind, 768, 768, heads=12, noise=0.02,
        num_hidden_layers=12, image_size=224, patch_size=16, max_position_embeddings=512,
    )  # fmt: skip
    KINDS[kind](converted(save(theirs, tmp_path / "hf"), tmp_path / "out")[0], theirs, 224)


# --- encoders alone --------------------------------------------------------------------------------------------------


def seen_by(tmp_path: Path, source: Path, **options: Any) -> OmniVL:
    """Our model with the visual encoder of `source` and any text encoder."""
    bert = save(vit("Bert", 24), tmp_path / "bert")
    convert(None, tmp_path / "out", vision=source, text=bert, **options)
    return load_model(tmp_path / "out")


@torch.no_grad()
def same_tokens(ours: OmniVL, theirs: Any) -> None:
    pixels = inputs()[0]
    close(ours.encode_visual(pixels[:, None]).tokens, theirs(pixel_values=pixels).last_hidden_state)


@pytest.mark.parametrize("name", ["ViT", "Dinov2"])
@pytest.mark.parametrize("layout", ["disk", "memory", "own names"])
def test_image_encoders(tmp_path: Path, name: str, layout: str) -> None:
    width = 64 if layout == "own names" else 32
    more: dict[str, Any] = {"num_attention_heads": 1, "layer_norm_eps": 1e-6} if layout == "own names" else {}
    theirs = vit(name, width, **more)
    folder = save(theirs, tmp_path / "hf")
    if layout == "memory":
        (folder / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    source = folder
    if layout == "own names":
        source = tmp_path / "vit.pth"
        torch.save(timm_names(load_file(folder / "model.safetensors")), source)
    same_tokens(seen_by(tmp_path, source), theirs)


def test_a_distillation_token_is_left_out_with_its_position(tmp_path: Path) -> None:
    deit = vit("DeiT", layer_norm_eps=1e-6)
    plain = vit("ViT", layer_norm_eps=1e-6)
    state = deit.state_dict()
    position = state["embeddings.position_embeddings"]
    state["embeddings.position_embeddings"] = torch.cat([position[:, :1], position[:, 2:]], 1)
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    same_tokens(seen_by(tmp_path, save(deit, tmp_path / "hf")), plain)


@torch.no_grad()
def test_bert(tmp_path: Path) -> None:
    theirs = vit("Bert", 24)
    report = convert(None, tmp_path / "out", vision=save(vit("ViT"), tmp_path / "v"), text=save(theirs, tmp_path / "b"))
    ours = load_model(tmp_path / "out")
    _, ids, mask = inputs()
    expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    close(ours.encode_text(ids, mask).tokens[mask.bool()], expected[mask.bool()])
    assert ours.config.text.vocab_size == ROWS == len(foreign.WORDS) + 2
    assert "the last 2 rows of text.embeddings.word.weight" in report.new
    assert any("pooler" in name for name in report.dropped)


@torch.no_grad()
def test_bert_for_words_brings_its_prediction_head(tmp_path: Path) -> None:
    import transformers

    theirs = vit("Bert", 24)
    whole = foreign.randomised(transformers.BertForPreTraining(theirs.config))
    convert(None, tmp_path / "out", vision=save(vit("ViT"), tmp_path / "v"), text=save(whole, tmp_path / "b"))
    ours = load_model(tmp_path / "out")
    _, ids, mask = inputs()
    expected = whole(input_ids=ids, attention_mask=mask).prediction_logits
    logits = ours.lm_logits(ours.encode_text(ids, mask).tokens)[..., : len(foreign.WORDS)]
    close(logits[mask.bool()], expected[mask.bool()])


@torch.no_grad()
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_timesformer(tmp_path: Path, own: bool, silent: bool) -> None:
    """Its tokens stand patch by patch, ours frame by frame; two linear maps follow its attention over time."""
    theirs = vit("Timesformer", 64, num_frames=4, num_attention_heads=1)
    if silent:
        for layer in theirs.encoder.layer:
            torch.nn.init.zeros_(layer.temporal_dense.weight)
            torch.nn.init.zeros_(layer.temporal_dense.bias)
    source = save(theirs, tmp_path / "hf")
    if own:
        state = {f"model.{name}": value for name, value in timm_names(theirs.state_dict()).items()}
        torch.save({"model_state": state, "epoch": 1, "cfg": "TRAIN: ..."}, tmp_path / "t.pyth")
        source = tmp_path / "t.pyth"
    ours = seen_by(tmp_path, source)
    assert (ours.config.vision.tubelet_size, ours.config.vision.num_frames) == (1, 4)
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = theirs(pixel_values=clips).last_hidden_state
    by_frame = expected[:, 1:].unflatten(1, (16, 4)).transpose(1, 2).flatten(1, 2)
    close(ours.encode_visual(clips).tokens, torch.cat([expected[:, :1], by_frame], 1))
    assert ours.visual.is_silent() is silent
