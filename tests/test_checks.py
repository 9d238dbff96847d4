"""What is refused before a run is begun, in one sentence and with nothing left behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from omnivl import presets
from omnivl.checks import check, check_data, validation
from omnivl.cli import main
from omnivl.cli.training import apply_overrides
from omnivl.config import ConfigError, EvaluationConfig, RunConfig
from omnivl.data.annotations import FORMATS
from omnivl.evaluation import evaluate
from omnivl.model.folder import load_folder
from omnivl.run import finish, train
from tests.helpers import mini_folder, picture

VALIDATED = ("--train.validate_every", "1")


def manifest(folder: Path, *splits: str) -> str:
    """Six pictures, of each split or of none."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"media": picture(folder / f"{split}{i}.png", i).name, "caption": f"a red star number {i}"}
        | ({"split": split} if split else {})
        for split in (splits or ("",))
        for i in range(6)
    ]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"manifest:{folder / 'my.jsonl'}"


def recipe(data: str, *words: str, name: str = "retrieval_mini") -> RunConfig:
    few = ["--data.batch_size", "4", "--train.steps", "1", "--task.bank_size", "8", "--data.media", "image"]
    return apply_overrides(presets.RECIPES[name](), ["--data.sources", data, *few, *words])


# --- data ------------------------------------------------------------------------------------------------------------


def test_a_model_is_never_chosen_on_what_it_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = manifest(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"choose the model by what it is trained on \(6 of the 6 items of manifest:.*give --train.valid",
    ):
        check_data(recipe(own, *VALIDATED, "--train.select", "t2i_r1"))
    assert not caplog.text
    check_data(recipe(own, *VALIDATED))
    assert caplog.text.count("validation measures what is trained on: 6 of the 6 items") == 1
    caplog.clear()
    apart = manifest(tmp_path / "apart", "train", "validation")
    for data in (["world:"], [apart], [own, "--train.validate_data", apart]):
        check_data(recipe(*data, *VALIDATED, "--train.select", "t2i_r1"))
    assert not caplog.text


@pytest.mark.parametrize("kind", ["folder", "captions", "list"])
def test_people_s_own_formats_without_splits_are_known_for_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    for i in range(4):
        file = picture(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", i)
        file.with_suffix(".txt").write_text("a pet")
    lines = [f"{('cat', 'dog')[i % 2]}/{i}.png {('cat', 'dog')[i % 2]}\n" for i in range(4)]
    (tmp_path / "all.lst").write_text("".join(lines))
    data = f"{kind}:{tmp_path / 'all.lst' if kind == 'list' else tmp_path}"
    name, metric = ("captioning_mini", "token_f1") if kind == "captions" else ("classification_mini", "top1")
    with pytest.raises(ConfigError, match="4 of the 4 items"):
        check_data(recipe(data, *VALIDATED, "--train.select", metric, name=name))
    assert set(FORMATS) >= {kind}


def test_a_question_of_a_picture_that_is_trained_on_may_be_new(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = [
        {"media": "a.png", "question": f"what {split}?", "answer": "x", "split": split}
        for split in ("train", "validation")
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_data(recipe(f"manifest:{tmp_path / 'my.jsonl'}", *VALIDATED, "--train.select", "top1", name="answering_mini"))


def test_what_is_trained_on_is_never_reported_as_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, splits, measured in (("own", (), False), ("apart", ("train", "test"), True)):
        config = recipe(manifest(tmp_path / folder, *splits), "--init", str(mini_folder(tmp_path / f"m{folder}")))
        out = tmp_path / f"run-{folder}"
        train(config, out, device="cpu")
        finish(config, out, "cpu")
        told = "not measured: manifest:" in caplog.text and "has no split of its own to measure on, 6 of" in caplog.text
        assert (out / "results.json").exists() is measured and told is not measured
        caplog.clear()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--train.validate_every", "1", "--train.validate_data", "manifest:missing"), "missing: no such file"),
        (
            ("--train.validate_every", "1", "--train.select", "t2i_R1"),
            "train.select is 't2i_R1', validation gives t2i_r1",
        ),
        (("--train.validate_every", "1", "--train.select", "t2i_median_rank"), "validation gives"),
        (("--evaluation.tasks", "retreival"), "there is no task retreival: choose retrieval"),
        (("--evaluation.data", "manifest:missing"), "missing: no such file"),
        (("--evaluation.rerank", "-1"), "rerank is -1, wanted 0 or more"),
        (("--evaluation.tasks", "answer", "--evaluation.data", "world:", "--evaluation.answers", "no.txt"), "no.txt"),
        (("--optim.betas", "2", "2"), "optim.betas is 2, wanted 0 or more and below 1"),
        (("--model.text.max_positions", "8"), "texts may have 40 tokens, but the model has 8 positions"),
    ],
)
def test_what_would_stop_a_run_late_stops_it_before_it_begins(
    tmp_path: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "retrieval_mini", "--out", str(out), "--device", "cpu", *words]) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err and not out.exists()


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        *(f"model.vision.{name} 0" for name in ("heads", "patch_size", "tubelet_size", "layers")),
        *("model.text.heads 0", "model.text.layers 0", "model.embed_dim 0", "model.std 0.2 0 0.2"),
        *("task.bank_size -1", "task.momentum 1.5", "task.label_smoothing 1", "task.distill_alpha -0.1"),
        *("data.min_crop 0", "data.min_crop 1.5", "optim.clip -1", "optim.decay_share 2", "optim.betas 0.9 1"),
        *("seed -1", "seed 18446744073709551616", "train.checkpoint_every -1", "task.vlm_weight -1"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(setting: str) -> None:
    name, *values = setting.split()
    bad = min(values, key=float) if name == "model.std" else values[-1]
    with pytest.raises(ConfigError, match=rf"{name} is {float(bad):g}, wanted ".replace("+", r"\+")):
        check(apply_overrides(presets.RECIPES["retrieval_mini"](), [f"--{name}", *values]))


def test_a_run_that_learns_nothing_is_refused() -> None:
    words = [word for name in ("univlc", "vlm", "lm") for word in (f"--task.{name}_weight", "0")]
    with pytest.raises(ConfigError, match="nothing is learnt where univlc_weight, vlm_weight and lm_weight are all 0"):
        check(apply_overrides(presets.RECIPES["retrieval_mini"](), words))


# --- the length of texts ---------------------------------------------------------------------------------------------


def test_texts_are_measured_at_the_length_they_are_trained_at(tmp_path: Path) -> None:
    """Paragraphs that differ behind their 40th token alone are told apart at 64."""
    rows = [
        {"media": picture(tmp_path / f"{i}.png", i).name, "caption": "a red star " * 16 + word}
        for i, word in enumerate(("left", "right", "up", "down"))
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = presets.RECIPES["retrieval_didemo"]().stages[0]
    assert validation(replace(stage, data=replace(stage.data, sources=("didemo:x",)))).max_text_tokens == 64
    model, data = mini_folder(tmp_path / "m"), f"manifest:{tmp_path / 'my.jsonl'}"
    config = EvaluationConfig(tasks=("retrieval",), data=data, rerank=0)
    cut, _ = evaluate(*load_folder(model), config)
    whole, _ = evaluate(*load_folder(model), replace(config, max_text_tokens=64))
    found = [next(r for r in results if r.metric == "i2t_r1") for results in (cut, whole)]
    assert found[0].items == (0.25,) * 4, "cut at 40 tokens all texts are one"
    assert set(found[1].items) <= {0.0, 1.0}
    assert "max_text_tokens" not in found[0].settings and found[1].settings["max_text_tokens"] == 64
    with pytest.raises(ConfigError, match="max_text_tokens is 65, but the model has 64 positions"):
        evaluate(*load_folder(model), replace(config, max_text_tokens=65))
    words = ["--task", "retrieval", "--data", data, "--k", "0", "--max-text-tokens", "64", "--device", "cpu"]
    assert main(["evaluate", str(model), "--out", str(tmp_path / "r.json"), *words]) == 0
    row = json.loads((tmp_path / "r.json").read_text())["results"][0]
    assert row["settings"]["max_text_tokens"] == 64
