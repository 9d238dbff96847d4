"""Finetuning as whole runs, small: each task trains, is measured on its own, and leaves a model that knows it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import omnivl
from omnivl import presets
from omnivl.checks import check
from omnivl.cli.training import apply_overrides, fit_to_init
from omnivl.config import ConfigError, DataConfig, RunConfig, TaskConfig
from omnivl.data import shapes, world
from omnivl.data.asked import ANSWERS, QUESTIONS, questions_about
from omnivl.data.sample import Sample, collate, label_key
from omnivl.data.sources import Ask, FileSource, open_source
from omnivl.model import load_model
from omnivl.run import finish, train
from omnivl.tasks.pretrain import PretrainTask
from tests.helpers import MINI, mini_folder, mini_model, picture

SHORT = ["--train.steps", "3", "--data.batch_size", "8", "--data.video_batch_size", "8", "--optim.warmup_steps", "0"]
SHORT += ["--task.bank_size", "16", "--evaluation.num_items", "8"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_folder(tmp_path_factory.mktemp("start") / "m")


def short(recipe: str, start: Path, *words: str) -> RunConfig:
    config = apply_overrides(presets.RECIPES[recipe](), [*SHORT, "--init", str(start), *words])
    return fit_to_init(config, None, [])


@pytest.mark.parametrize(
    ("recipe", "loss", "metrics"),
    [
        ("retrieval_mini", "vlm", {"t2i_r1", "v2t_r10", "sibling_t2v"}),
        ("captioning_mini", "lm", {"exact", "token_f1", "motion_word", "cider"}),
        ("answering_mini", "lm", {"top1"}),
        ("classification_mini", "class", {"top1", "top5", "mean_per_class"}),
    ],
)
def test_every_mini_recipe_trains_and_is_measured_on_its_own_task(
    recipe: str, loss: str, metrics: set[str], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnivl.metrics.captions.missing", lambda: "it needs Java")
    config = short(recipe, start, "--train.validate_every", "3")
    train(config, tmp_path, device="cpu")
    finish(config, tmp_path, "cpu")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line[loss] > 0 for line in lines)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert metrics <= {row["metric"] for row in results}
    assert (tmp_path / "report.html").exists()
    model = omnivl.load(tmp_path / "model", device="cpu")
    names = set(dict(model.model.named_parameters()))
    assert not any("momentum" in name or "bank" in name for name in names), "the saved model holds no copies"
    if recipe == "captioning_mini":
        assert model.config.image_prompt == "a picture of " and model.config.video_prompt == "a video of "
    if recipe == "classification_mini":
        assert all(row["settings"]["zero_shot"] is False for row in results)
        labels = [label.text for label in model.classify(np.zeros((32, 32, 3), np.uint8))]
        assert sorted(labels) == sorted([*shapes.SHAPES, *world.MOTIONS])


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_a_run_on_data_of_ones_own_is_measured_on_their_test_split(
    splits: tuple[str, ...], start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"media": picture(tmp_path / f"{split}{i}.png", i).name, "caption": f"a number {i}", "split": split}
        for split in splits
        for i in range(8)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    words = ("--data.sources", f"manifest:{tmp_path / 'my.jsonl'}", "--data.media", "image")
    config = short("retrieval_mini", start, *words)
    train(config, tmp_path / "run", device="cpu")
    finish(config, tmp_path / "run", "cpu")
    if "test" in splits:
        results = json.loads((tmp_path / "run/results.json").read_text())["results"]
        assert {(row["split"], row["n"]) for row in results} == {("test", 8)} and "my.jsonl" in results[0]["dataset"]
    else:
        assert "not measured: " in caplog.text and not (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize("mixup", ["0", "0.8"])
def test_a_classifier_resumed_equals_the_uninterrupted_run(start: Path, tmp_path: Path, mixup: str) -> None:
    words = ("--train.checkpoint_every", "1", "--train.keep_checkpoints", "9", "--task.mixup", mixup)
    config = short("classification_mini", start, *words)
    train(config, tmp_path / "whole", device="cpu")
    train(apply_overrides(config, ["--train.steps", "3"]), tmp_path / "again", device="cpu")
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"again/checkpoints/step-{step}")
    train(config, tmp_path / "again", device="cpu", resume=True)
    ends = [(tmp_path / run / "checkpoints/step-3/model.safetensors").read_bytes() for run in ("whole", "again")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--train.validate_every", "1", "--train.validate_split", "test"), "never chosen on a test split"),
        (("--train.validate_every", "1", "--train.validate_split", "1k-A-Test"), "never chosen on a test split"),
        (("--train.select", "top1"), "measured where train.validate_every is set"),
        (("--data.reads", "texts"), "task.name 'answering' needs data.reads 'questions'"),
        (("--task.mixup", "-1"), "task.mixup is -1, wanted 0 or more"),
        (("--task.mixup", "0.8"), r"wanted 0 .off. unless task.name is 'classification'"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(words: tuple[str, ...], told: str, start: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        check(short("answering_mini", start, *words))


def test_the_paper_scale_recipes_choose_on_validation_alone() -> None:
    for name, recipe in presets.FINETUNING.items():
        (stage,) = recipe().stages
        assert "test" not in stage.train.validate_split and bool(stage.train.select) == bool(stage.train.validate_every)
        assert stage.data.flip is (name != "classification_ssv2" and not name.endswith("_mini"))


def test_another_picture_size_resizes_the_positions_and_stays_with_the_model(start: Path, tmp_path: Path) -> None:
    config = short("retrieval_mini", start, "--data.image_size", "64", "--train.steps", "1", "--optim.lr", "0")
    train(config, tmp_path, device="cpu")
    before, after = load_model(start), load_model(tmp_path / "model")
    assert after.config.vision.image_size == 64 and after.visual.position.shape[0] == 1 + 16
    pixels = torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():  # the larger picture is seen as the model would have resized its table for it
        torch.testing.assert_close(after.encode_visual(pixels).embed, before.encode_visual(pixels).embed)


# --- what a sample is made of ----------------------------------------------------------------------------------------


def file_source(tmp_path: Path, reads: str) -> FileSource:
    rows = [
        {"media": picture(tmp_path / "a.png", 1).name, "caption": ["one", "two"], "label": "x"},
        {"media": picture(tmp_path / "b.png", 2).name, "caption": "three"},
        {"media": picture(tmp_path / "c.png", 3).name, "label": "y"},
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(sources=(spec := f"manifest:{tmp_path / 'my.jsonl'}",), reads=reads)  # type: ignore[arg-type]
    source = open_source(spec, data)
    assert isinstance(source, FileSource)
    return source


def test_what_is_read_of_an_item_is_what_was_asked_for(tmp_path: Path) -> None:
    ask, rng = Ask(32, 4, "bicubic"), np.random.default_rng(0)
    assert file_source(tmp_path, "texts").length("image") == 3
    captions = file_source(tmp_path, "captions")
    assert captions.length("image") == 2
    drawn = [captions.read("image", 0, rng, ask) for _ in range(8)]
    assert {sample.text for sample in drawn} == {"one", "two"}
    keys = {label_key(sample.text, sample.label, sample.group) for sample in drawn}
    assert len(keys) == 1 and keys != {label_key("one")}, "all captions of an item are positives of each other"
    labels = file_source(tmp_path, "labels")
    assert [labels.read("image", i, rng, ask).label for i in range(labels.length("image"))] == ["x", "y"]
    with pytest.raises(ValueError, match='has no questions: its rows need "question"'):
        file_source(tmp_path, "questions")


def test_ids_of_two_sources_never_make_positives_of_their_items(tmp_path: Path) -> None:
    ask, rng = Ask(32, 4, "bicubic"), np.random.default_rng(0)
    keys = set()
    for name in ("one", "other"):
        picture(tmp_path / f"{name}.png")
        row = {"media": f"{name}.png", "caption": ["a star", "a ring"], "id": "42"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
        spec = f"manifest:{tmp_path / name}.jsonl"
        sample = open_source(spec, DataConfig(sources=(spec,), reads="captions")).read("image", 0, rng, ask)
        keys.add(label_key(sample.text, sample.label, sample.group))
    assert len(keys) == 2


def test_the_worlds_questions_are_answered_by_what_is_drawn() -> None:
    source = open_source("world:questions", DataConfig(sources=("world:questions",)))
    rng, ask = np.random.default_rng(0), Ask(32, 4, "bicubic")
    seen = {(s := source.read(medium, i, rng, ask)).text for medium in ("image", "video") for i in range(60)}
    assert seen == set(QUESTIONS) and s.answers and s.answers[0][0] in ANSWERS
    (item,) = world.gallery("test", "image", 1, 0)
    answers = {question.text: question.answers[0][0] for question in questions_about(item)}
    said = (
        f"a {answers['how big is it?']} {answers['what colour is it?']} {answers['what shape is it?']} on a "
        f"{answers['what colour is the ground?']} ground lies {answers['where does it lie?']}"
    )
    assert said == item.caption and set(ANSWERS) >= set(answers.values())
    (clip,) = world.gallery("test", "video", 1, 0)
    assert clip.caption.endswith(next(q.answers[0][0] for q in questions_about(clip) if "move" in q.text))


def test_retrieval_with_several_captions_never_takes_an_items_own_as_negatives() -> None:
    """Two samples of one item in a batch, with different captions: each is the other's positive."""
    model, tokenizer = mini_model(config=replace(MINI, text=replace(MINI.text, dropout=0.0)))
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    samples = [Sample(frames, "a red star", group="item"), Sample(frames, "a star lies left", group="item")]
    batch = collate(samples, "image", tokenizer, 40)
    task = PretrainTask(
        model, TaskConfig(lm_weight=0.0, bank_size=4), 0,
        enc_id=tokenizer.enc_id, dec_id=tokenizer.dec_id, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    losses = task(batch, 0, 0)
    assert batch.pixels is not None
    assert losses.sums["match_accuracy"][1] == 0, "no pair of the two is a negative"
    with torch.no_grad():
        seen, read = task.momentum(batch.pixels, batch.ids, batch.mask)
        scores = model.encode_visual(batch.pixels).embed @ read.T / model.temperature
        back = model.encode_text(batch.ids, batch.mask).embed @ seen.T / model.temperature
    expected = -(scores.log_softmax(1).mean() + back.log_softmax(1).mean()) / 2
    assert losses.parts["univlc"].item() == pytest.approx(expected.item(), rel=1e-4)
