"""Whole runs, small: the demo's road from nothing to a report, the paradigms, and the examples."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import omnivl
from omnivl import presets
from omnivl.checks import check
from omnivl.cli import main
from omnivl.cli.training import apply_overrides
from omnivl.config import ConfigError, RunConfig
from omnivl.run import finish, train
from omnivl.train.checkpoint import checkpoint_steps
from tests.helpers import mini_folder, moving_gif, picture

ROOT = Path(__file__).parent.parent
SHORT = [
    "--train.steps",
    "3",
    "--data.batch_size",
    "8",
    "--task.bank_size",
    "16",
    "--optim.warmup_steps",
    "0",
    "--model.vision.image_size",
    "32",
    "--model.vision.width",
    "32",
    "--model.vision.layers",
    "1",
    "--model.vision.heads",
    "2",
    "--model.vision.mlp_width",
    "64",
    "--model.text.width",
    "32",
    "--model.text.layers",
    "1",
    "--model.text.heads",
    "2",
    "--model.text.mlp_width",
    "64",
    "--evaluation.num_items",
    "12",
]


def short(recipe: str, *words: str) -> RunConfig:
    config = apply_overrides(presets.RECIPES[recipe](), [*SHORT, *words])
    videos = [
        replace(s, data=replace(s.data, video_batch_size=8 * (s.data.video_batch_size > 0))) for s in config.stages
    ]
    return replace(config, stages=tuple(videos))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_leaves_a_model_results_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "omnivl.metrics.captions.missing", lambda: "it needs Java"
    )  # which would take its time to start
    config = short("demo")
    out = tmp_path / "run"
    train(config, out, device="cpu")
    finish(config, out, "cpu")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["stage"] for line in lines] == ["language"] * 3 + ["images"] * 3 + ["joint"] * 3
    assert checkpoint_steps(out)[-1] == 9
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"omnivl", "commit", "config", "seed", "machine", "seconds", "results"}
    metrics = {(row["settings"]["medium"], row["metric"]) for row in results["results"]}
    for wanted in (
        *(("image", name) for name in ("t2i_r1", "i2t_r10", "top1", "exact", "token_f1")),
        *(("video", name) for name in ("t2v_r1", "median_rank", "sibling_t2v", "sibling_v2t", "reverse")),
        *(("video", name) for name in ("match_reverse", "match_sibling_t2v", "motion_word", "mean_per_class")),
    ):
        assert wanted in metrics
    assert all(row["split"] == "test" for row in results["results"])
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    model = omnivl.load(out / "model", device="cpu")
    assert model.embed(picture(tmp_path / "a.png")).shape == (64,)


@pytest.mark.parametrize("name", sorted(set(presets.RECIPES)))
def test_every_recipe_is_whole_and_passes_its_own_check_once_it_has_data(name: str) -> None:
    config = presets.RECIPES[name]()
    if any(not stage.data.sources for stage in config.stages):
        config = apply_overrides(config, ["--data.sources", "world:"])
    check(config)
    assert config.recipe == name


@pytest.mark.parametrize("name", ["video_only", "image_then_video"])
def test_paradigms_without_images_or_with_videos_alone_run(name: str, tmp_path: Path) -> None:
    train(short(name, "--train.steps", "1"), tmp_path / "run", device="cpu")
    media = [json.loads(line)["medium"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert media == {"video_only": ["text", "video"], "image_then_video": ["text", "image", "video"]}[name]


def test_validation_chooses_the_best_step_for_the_model_folder(tmp_path: Path) -> None:
    words = ["--train.steps", "4", "--train.validate_every", "1", "--train.select", "t2i_r1", "--optim.lr", "0.01"]
    config = short("image_only", *words)
    config = replace(config, stages=config.stages[1:])
    train(config, tmp_path / "run", device="cpu")
    run = tmp_path / "run"
    published = (run / "model" / "model.safetensors").read_bytes()
    same = [
        s for s in checkpoint_steps(run) if (run / f"checkpoints/step-{s}/model.safetensors").read_bytes() == published
    ]
    assert len(same) == 1, "model/ is one of the kept checkpoints"


def test_the_demo_refuses_a_folder_of_another_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "demo", "seed": 5}))
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "another run" in capsys.readouterr().err


def test_the_examples_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for example in (ROOT / "examples").glob("*.py"):
        assert len(example.read_text().splitlines()) <= 60
    image, clip = picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")
    load(ROOT / "examples" / "describe.py").main(str(mini_folder(tmp_path / "model")), str(image), str(clip))
    assert len(capsys.readouterr().out.splitlines()) == 4
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        picture(pictures / f"{i}.png", i)
        (pictures / f"{i}.txt").write_text(f"picture number {i}")
    load(ROOT / "examples" / "pretrain_from_folder.py").main(str(pictures), str(tmp_path / "out"), "1")
    assert (tmp_path / "out" / "images" / "model" / "model.safetensors").exists()


def test_a_joint_stage_resumed_before_its_first_clip_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    """The temporal part is derived from image weights once, when the stage begins; a resumed stage must not do it again
    from weights that have moved on."""
    words = ["--seed", "4", "--train.steps", "5", "--train.checkpoint_every", "1", "--train.keep_checkpoints", "99"]
    config = short("decoupled_joint", *words)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config, whole, device="cpu")
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["medium"] for line in lines[10:12]] == ["image", "image"] and "video" in {
        x["medium"] for x in lines[12:]
    }
    shutil.copytree(whole, resumed)
    for step in range(12, 16):
        shutil.rmtree(resumed / f"checkpoints/step-{step}")
    train(config, resumed, device="cpu", resume=True)
    for step in range(12, 16):
        file = f"checkpoints/step-{step}/model.safetensors"
        assert (resumed / file).read_bytes() == (whole / file).read_bytes(), step


def test_a_stage_that_enlarges_the_pictures_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """The table of positions is resized once, when the stage begins, and never on the way."""
    words = ["--data.image_size", "96", "--train.steps", "4", "--data.batch_size", "4"]
    words += ["--train.checkpoint_every", "2", "--evaluation.tasks"]
    config = short("retrieval_mini", *words, "--data.media", "image", "--train.keep_checkpoints", "9")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config, whole, device="cpu")
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints/step-4")
    shutil.rmtree(resumed / "model")
    assert main(["train", "--resume", str(resumed), "--device", "cpu"]) == 0
    for name in ("checkpoints/step-4", "model"):
        one, other = ((run / name / "model.safetensors").read_bytes() for run in (whole, resumed))
        assert one == other


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".tmp-backup").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"mine": 1}\n')
    assert main(["train", "retrieval_mini", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "holds files that are not of a run" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-backup", "metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"mine": 1}\n'


@pytest.mark.parametrize("setting", ["data.num_frames 0", "data.num_workers -1", "optim.lr -1"])
def test_numbers_that_cannot_be_are_refused_by_their_name(setting: str) -> None:
    name, value = setting.split()
    with pytest.raises(ConfigError, match=f"{name} is {value}, wanted"):
        check(short("demo", f"--{name}", value))


def test_a_metric_to_select_by_that_is_never_measured_is_refused() -> None:
    config = short("demo", "--train.select", "t2i_r1")
    with pytest.raises(ConfigError, match=r"train\.select 't2i_r1' is measured where train\.validate_every is set"):
        check(config)
