"""Whatever checkpoints are wrapped in reads the same; what is no checkpoint is refused in one sentence, and leaves
nothing behind. Names after P are those of the public reports in which the trouble was seen."""

import argparse
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import omnivl
from omnivl.cli import main
from omnivl.model import load_model, save_weights
from omnivl.model.convert import convert
from omnivl.tokenizer import Tokenizer
from tests import foreign
from tests.foreign import blip, own_names, save, vit, write_words
from tests.helpers import mini_folder, moving_gif, picture


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP matcher of Hugging Face, with its vocabulary."""
    return save(blip("ImageTextRetrieval"), tmp_path_factory.mktemp("source") / "hf")


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(vit("ViT"), tmp_path_factory.mktemp("vit") / "hf", vocabulary=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(vit("Bert", 24), tmp_path_factory.mktemp("bert") / "hf")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def layout(source: Path, folder: Path) -> Path:
    """The same folder with an empty place for its weights."""
    write_words(folder)
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


def same_as(source: Path, changed: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "whole")
    convert(changed, tmp_path / "changed")
    for name, value in weights(tmp_path / "whole").items():
        if not name.startswith(("generation.head", "generation.question", "temperature")):  # new, and drawn
            assert torch.equal(weights(tmp_path / "changed")[name], value), name


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrapping", "container"),
    [("module.", ""), ("_orig_mod.", "model"), ("model.", "state_dict"), ("module._orig_mod.model.", "model_state")],
)
def test_p80_wrappings_are_seen_through(tmp_path: Path, source: Path, wrapping: str, container: str) -> None:
    state: Any = {wrapping + name: value for name, value in weights(source).items()}
    folder = layout(source, tmp_path / "wrapped")
    torch.save({container: state, "epoch": 1} if container else state, folder / "pytorch_model.bin")
    same_as(source, folder, tmp_path)


def test_compiled_parts_and_old_spellings_of_norms(tmp_path: Path, source: Path) -> None:
    def old(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return name.replace("text_encoder.encoder", "text_encoder._orig_mod.encoder")

    folder = layout(source, tmp_path / "old")
    save_file({old(name): value for name, value in weights(source).items()}, folder / "model.safetensors")
    same_as(source, folder, tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy"])
def test_shards_and_pickles(tmp_path: Path, source: Path, kind: str) -> None:
    folder = layout(source, tmp_path / "sharded")
    names = sorted(weights(source))
    if kind == "legacy":
        torch.save(weights(source), folder / "x.pth", _use_new_zipfile_serialization=False)
    else:
        stem = "model" if kind == "safetensors" else "pytorch_model"
        table = {name: f"{stem}-0000{1 + i % 2}-of-00002.{kind}" for i, name in enumerate(names)}
        for shard in set(table.values()):
            part = {name: weights(source)[name] for name in names if table[name] == shard}
            save_file(part, folder / shard) if kind == "safetensors" else torch.save(part, folder / shard)
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    same_as(source, folder, tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_p85_half_precision_becomes_float32_and_back(tmp_path: Path, source: Path, kind: torch.dtype) -> None:
    folder = layout(source, tmp_path / "half")
    halves = {name: value.to(kind) for name, value in weights(source).items()}
    save_file(halves, folder / "model.safetensors")
    report = convert(folder, tmp_path / "out")
    assert any("widened to float32" in note for note in report.notes)
    model = load_model(tmp_path / "out")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.visual.norm.weight.to(kind), halves["vision_model.post_layernorm.weight"])
    save_weights(model.to(kind), tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.visual.norm.weight.dtype == torch.float32
    assert torch.equal(again.visual.norm.weight.to(kind), halves["vision_model.post_layernorm.weight"])


def test_a_folder_of_ours_is_a_source_too(tmp_path: Path, text: Path) -> None:
    ours = mini_folder(tmp_path / "ours")
    convert(ours, tmp_path / "copy", num_frames=8)
    model = load_model(tmp_path / "copy")
    assert model.config.vision.num_frames == 8
    assert torch.equal(model.visual.cls, load_model(ours).visual.cls)
    convert(None, tmp_path / "mixed", vision=ours, text=text)
    mixed = load_model(tmp_path / "mixed")
    assert torch.equal(mixed.visual.cls, model.visual.cls) and mixed.config.text.width == 24


# --- other sizes, other widths ---------------------------------------------------------------------------------------


def test_p81_other_pictures_and_frames_resize_the_tables_with_a_notice(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), str(tmp_path / "out"), "--image-size", "48", "--num-frames", "4"]) == 0
    assert "positions resized from 32 to 48 pixels" in capsys.readouterr().out
    theirs = blip("ImageTextRetrieval")
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        tokens = load_model(tmp_path / "out").encode_visual(pixels[:, None]).tokens
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=0)


def test_a_grid_that_is_no_square_becomes_one(tmp_path: Path, text: Path) -> None:
    folder = save(vit("ViT", image_size=[16, 32]), tmp_path / "wide")
    report = convert(None, tmp_path / "out", vision=folder, text=text)
    assert any("2 x 4 patches resized to 4 x 4" in note for note in report.notes)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    with pytest.raises(ValueError, match="8 patch positions, which are no square"):
        convert(None, tmp_path / "again", vision=folder, text=text)


def test_widths_that_do_not_fit_get_new_projections_and_say_so(tmp_path: Path, source: Path) -> None:
    """A visual encoder of another width than the decoders read: queries stay, keys and values start new."""
    report = convert(None, tmp_path / "out", vision=save(vit("ViT", 40), tmp_path / "wide"), text=source)
    model = load_model(tmp_path / "out")
    assert model.config.vision.width == 40 and model.config.text.width == 24 and model.config.embed_dim == 12
    assert any("read the width 32, the visual encoder gives 40" in note for note in report.notes)
    assert "alignment.blocks.0.cross.key_value.weight" in report.new
    assert "alignment.blocks.0.cross.query.weight" in report.loaded
    convert(None, tmp_path / "fits", vision=save(vit("ViT", 32), tmp_path / "same"), text=source)
    kept = weights(tmp_path / "fits")["alignment.blocks.0.cross.key_value.weight"]
    cross = "text_encoder.encoder.layer.0.crossattention.self"
    assert torch.equal(kept, torch.cat([weights(source)[f"{cross}.{name}.weight"] for name in ("key", "value")]))


def test_what_is_new_or_derived_is_said_and_kept_in_the_card(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for told in ("source: ", "used: ", "derived: ", "newly initialised: ", "note: ", "silent until videos are learnt"):
        assert told in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert "newly initialised: " in card and card.startswith("---\nlibrary_name: omnivl\n")
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "BLIP, Hugging Face" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


def test_converted_models_describe_a_picture_and_a_clip_and_answer_about_them(tmp_path: Path) -> None:
    media = [picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")]
    state, _, _ = foreign.pretraining()
    torch.save({"model": state}, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "out", vocab=write_words(tmp_path))
    model = omnivl.load(tmp_path / "out", device="cpu")
    assert len(model.caption(media, max_length=6)) == 2
    assert all(0 <= match.score <= 1 for match in model.match(media, "a red circle"))
    convert(foreign.save(foreign.blip("QuestionAnswering"), tmp_path / "vqa"), tmp_path / "answering")
    choices = ["red", "blue", "a circle"]
    answered = omnivl.load(tmp_path / "answering", device="cpu").answer(media, "what is it?", choices=choices)
    assert [answer.text in choices for answer in answered] == [True, True]


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_the_vocabulary_comes_with_the_source_or_by_name(tmp_path: Path, source: Path) -> None:
    bare = layout(source, tmp_path / "bare")
    save_file(weights(source), bare / "model.safetensors")
    words = bare / "vocab.txt"
    moved = words.rename(tmp_path / "words.txt")
    with pytest.raises(ValueError, match=r"carries no vocabulary: .*--vocab google-bert/bert-base-uncased"):
        convert(bare, tmp_path / "out")
    convert(bare, tmp_path / "out", vocab=moved)
    tokenizer = Tokenizer.from_folder(tmp_path / "out")
    assert (tokenizer.dec_id, tokenizer.enc_id) == (foreign.ROWS - 2, foreign.ROWS - 1)
    moved.write_text("\n".join(foreign.WORDS[:-1]))
    with pytest.raises(ValueError, match=f"has {foreign.ROWS - 1} tokens .* embedding {foreign.ROWS} rows"):
        convert(bare, tmp_path / "other", vocab=moved)
    moved.write_text("\n".join([*foreign.WORDS, "[ENC]", "[DEC]"]))
    with pytest.raises(ValueError, match=r"last two tokens are \[DEC\] and \[ENC\]"):
        convert(bare, tmp_path / "other", vocab=moved)


def test_berts_own_vocabulary_gives_blips_two_ids(tmp_path: Path) -> None:
    """BertTokenizer of 30,522 words, then add_special_tokens [DEC] and [ENC], as BLIP's init_tokenizer does."""
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, *(f"w{i}" for i in range(30522 - len(words)))]))
    tokenizer = Tokenizer.from_vocab(tmp_path / "vocab.txt")
    assert (tokenizer.dec_id, tokenizer.enc_id, tokenizer.vocab_size) == (30522, 30523, 30524)


# --- what is refused -------------------------------------------------------------------------------------------------


class Foreign:
    """Whose unpickling would run code."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['FOREIGN_MARK']}",)


def bad_file(kind: str, folder: Path, source: Path) -> Path:
    """A file or folder that is not a whole checkpoint."""
    state, file = weights(source), folder / "model.pth"
    layout(source, folder)
    if kind == "cut safetensors":
        file = folder / "model.safetensors"
        file.write_bytes((source / "model.safetensors").read_bytes()[:5000])
    elif kind == "cut pickle":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:50000])
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("letter.txt", "hello")
    elif kind == "text":
        file.write_text("I am no checkpoint")
    elif kind == "empty":
        file.touch()
    elif kind == "code":
        torch.save({"model": state, "args": Foreign()}, file)
    elif kind == "plain pickle":
        file.write_bytes(pickle.dumps({"model": Foreign()}))
    elif kind == "namespace":
        torch.save({"model": state, "args": argparse.Namespace(lr=1)}, file)
    elif kind == "optimiser":
        layer = torch.nn.Linear(2, 2)
        torch.save(torch.optim.AdamW(layer.parameters()).state_dict(), file)
    elif kind == "lora":
        save_file({"base_model.model.q.lora_A.weight": torch.zeros(2, 2)}, file := folder / "adapter_model.safetensors")
    elif kind == "another":
        torch.save({"conv1.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(2, 2)}, file)
    elif kind == "missing":
        torch.save({n: v for n, v in state.items() if "layer.1.output" not in n}, file)
    elif kind == "unknown":
        torch.save({**state, "text_encoder.extra.weight": torch.zeros(2)}, file)
    elif kind == "shape":
        torch.save({**state, "text_proj.weight": torch.zeros(12, 25)}, file)
    elif kind == "whole numbers":
        torch.save({n: (v * 9).to(torch.int8) for n, v in state.items()}, file)
    elif kind == "registers":
        return save(vit("Dinov2WithRegisters"), folder / "reg")
    elif kind == "nothing":
        return folder
    elif kind == "roberta":
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "albef"}')
        return folder
    elif kind.startswith("index"):
        file = folder / "model.safetensors.index.json"
        file.write_text({"index list": "[1]", "index number": '{"weight_map": {"a": 5, "b": "c"}}'}[kind])
    elif kind == "pairs":
        torch.save({**own_names(state), "cls_head.0.weight": torch.zeros(2)}, file)
    return file


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("cut safetensors", "damaged or not finished"),
        ("cut pickle", "damaged or unfinished"),
        ("zip", "a zip of something else"),
        ("text", "is not a checkpoint"),
        ("empty", "is empty"),
        ("code", "the class posix.system"),
        ("plain pickle", "the class posix.system"),
        ("namespace", "the class argparse.Namespace"),
        ("optimiser", "the state of an optimiser"),
        ("lora", "is a LoRA"),
        ("another", "no weights that omnivl can convert"),
        ("missing", "is incomplete: its text encoder lacks text_encoder.encoder.layer.1.output"),
        ("unknown", "text_encoder.extra.weight are not names of it"),
        ("shape", "text_projection.weight (12, 25) for (12, 24)"),
        ("whole numbers", "give the weights unquantised"),
        ("registers", "register tokens"),
        ("nothing", "holds no weights"),
        ("roberta", "its config.json says albef"),
        ("pairs", "for pairs of pictures"),
        ("index list", "lists no shards"),
        ("index number", "lists no shards"),
    ],
)
def test_p82_p83_p84_what_is_no_whole_checkpoint_is_refused_in_one_sentence(
    tmp_path: Path,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    told: str,
) -> None:
    monkeypatch.setenv("FOREIGN_MARK", str(tmp_path / "code-was-run"))
    file = bad_file(kind, tmp_path / "bad", source)
    capsys.readouterr()
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("omnivl: ") and err.count("\n") == 1 and told in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad"]  # nothing written, nothing run


def test_what_does_not_go_together_is_refused(
    tmp_path: Path, source: Path, vision: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save(blip("ImageTextRetrieval"), tmp_path / "other")
    state = weights(other)
    for name in ("vision_proj", "text_proj"):
        state |= {f"{name}.{kind}": state[f"{name}.{kind}"][:10].clone() for kind in ("weight", "bias")}
    save_file(state, other / "model.safetensors")
    out = str(tmp_path / "out")
    capsys.readouterr()
    for words, told in (
        (["--vision", str(text), "--text", str(text), out], "was given as --vision, but holds text weights alone"),
        (["--vision", str(vision), "--text", str(vision), out], "was given as --text, but holds a visual encoder"),
        (["--vision", str(source), "--text", str(other), out], "different dimensions ({10, 12})"),
        ([str(vision), out], "holds a visual encoder alone: give it as --vision"),
        ([str(text), out], "holds a text encoder alone: give it as --text"),
        ([str(tmp_path / "nowhere.pth"), out], "no such file or folder"),
        ([str(source)], "name the folder to write"),
        ([str(source), out, "--image-size", "30"], "must be a multiple of the patch size"),
        ([str(source), out, "--image-size", "0"], "must be a multiple of the patch size"),
        ([str(source), out, "--num-frames", "0"], "a clip must have 1 frame or more"),
        ([str(source), str(text)], "is there already"),
        ([str(source), f"{source}/config.json/sub"], "is no folder that may be written in"),
        ([str(source), "."], "is no name of a folder to write"),
        (["", out], "a model without a name was asked for"),
        (["not/a-model", out], "nor is it in the cache of the hub"),
    ):
        assert main(["convert", *words]) == 2
        printed, err = capsys.readouterr()
        assert printed == "" and err.count("\n") == 1 and told in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("config.json", {"vision_config": None, "pretrained_cfg": None}, ""),
        ("config.json", {"image_size": ["a", 2]}, ""),
        (
            "preprocessor_config.json",
            {"image_mean": [0.5], "image_std": [0.5]},
            "has the pixel mean [0.5], wanted three",
        ),
        ("preprocessor_config.json", {"image_mean": "abc", "image_std": [1, 1, 1]}, "has the pixel mean 'abc', wanted"),
        (
            "preprocessor_config.json",
            {"image_mean": [0, 0, 0], "image_std": [0.0, 0, 0]},
            "has the pixel deviation [0.0, 0, 0], wanted three numbers above 0",
        ),
    ],
)
def test_settings_beside_it_that_are_none_are_passed_over_or_refused(
    tmp_path: Path,
    vision: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: dict[str, Any],
    told: str,
) -> None:
    folder = Path(shutil.copytree(vision, tmp_path / "vision"))
    before = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**before, **value}))
    capsys.readouterr()
    assert main(["convert", "--vision", str(folder), "--text", str(text), str(tmp_path / "out")]) == (2 if told else 0)
    err = capsys.readouterr().err
    assert told in err and (not told or err.count("\n") == 1)
