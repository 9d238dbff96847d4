"""What users type: output, exit codes, and one sentence for what cannot be done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from omnivl.cli import main
from omnivl.cli.using import part_of
from tests.helpers import mini_folder, moving_gif, picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mini_folder(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(autouse=True)
def no_model_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNIVL_MODEL", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Exit 2, nothing on standard output, one line of error."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("omnivl: ") and err.count("\n") == 1
    return err


TINY = [
    "--size",
    "tiny",
    "--data.batch_size",
    "4",
    "--data.num_workers",
    "0",
    "--train.steps",
    "2",
    "--optim.warmup_steps",
    "0",
    "--task.bank_size",
    "8",
    "--device",
    "cpu",
    "--model.vision.image_size",
    "32",
    "--model.vision.width",
    "32",
    "--model.vision.heads",
    "2",
    "--model.text.width",
    "32",
    "--model.text.heads",
    "2",
]


def manifest(folder: Path, rows: int = 4) -> str:
    lines = [
        json.dumps({"media": picture(folder / f"{i}.png", i).name, "caption": f"a red circle number {i}"})
        for i in range(rows)
    ]
    (folder / "my.jsonl").write_text("\n".join(lines) + "\n")
    return f"manifest:{folder / 'my.jsonl'}"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from omnivl.cli import build_parser; build_parser().format_help(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_recipes_and_show_speak_json_that_can_be_trained_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {
        "demo",
        "pretrain_stage1",
        "pretrain_stage2",
        "image_only",
        "video_only",
        "joint",
        "image_then_video",
        "decoupled_joint",
    } <= set(names)
    for name in names:
        assert main(["show", name]) == 0
        config = json.loads(capsys.readouterr().out)
        assert config["stages"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert main(["show", str(tmp_path / "config.json")]) == 0
        assert json.loads(capsys.readouterr().out) == config


def test_a_recipe_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from omnivl.presets import demo, changed\ndef short():\n    return changed(demo(), recipe='short')\n"
    )
    assert main(["show", f"{tmp_path / 'mine.py'}:short"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "short"
    assert "no function 'long'" in refused(capsys, "show", f"{tmp_path / 'mine.py'}:long")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "demmo"], "did you mean 'demo'"),
        (["train", "demo", "--optim.lrr", "1"], "did you mean 'optim.lr'"),
        (["train", "demo", "--stages.7.optim.lr", "1"], "stages.7.optim.lr"),
        (["train", "demo", "--optim.lr", "fast"], "--optim.lr must be a number, got 'fast'"),
        (["train", "demo", "--train.steps", "1.5"], "must be a whole number"),
        (["train", "demo", "--task.negatives", "some"], "one of global, rank"),
        (["train", "demo", "--train.steps", "0"], "train.steps is 0, wanted 1 or more"),
        (["train", "demo", "--stages.1.data.batch_size", "1"], "no negatives for the matching loss"),
        (["train", "demo", "--device", "cuda:99"], "cuda:99"),
        (["train", "demo", "--device", "abacus"], "is not a device"),
        (["train", "pretrain_stage1"], "no data"),
        (["train", "pretrain_stage1", "--data.sources", "coco.json"], "is not a data source"),
        (["train", "pretrain_stage1", "--data.sources", "manifest:nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["train", "pretrain_stage1", "--init", "nowhere"], "there is no such folder"),
        (["train", "pretrain_stage1", "--data.sources", "world:labels", "--data.prompts", "a photo"], "has no {}"),
        (["train", "--resume", "nowhere"], "holds no run"),
        (["train"], "name a recipe"),
        (["caption", "a.jpg"], "omnivl demo"),
        (
            ["evaluate", "", "--task", "caption", "--data", "world:", "--score", "."],
            ". is a folder, wanted a JSON file",
        ),
        (["evaluate", "nowhere", "--task", "retrieval", "--data", "world:"], "no such folder"),
    ],
)
def test_what_cannot_begin_is_one_sentence_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, *words)
    assert not list(tmp_path.glob("runs/*")), "something was written"


def test_train_writes_a_run_folder_and_refuses_to_write_over_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["train", "pretrain_stage1", "--data.sources", manifest(tmp_path), "--out", str(out), *TINY]
    assert main(words) == 0
    assert (out / "model" / "model.safetensors").exists() and (out / "checkpoints" / "step-2" / "training.pt").exists()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {
        "loss",
        "univlc",
        "vlm",
        "lm",
        "match_accuracy",
        "lr",
        "samples_per_second",
        "bad_samples",
        "seconds",
        "stage",
    } <= set(lines[0])
    capsys.readouterr()
    assert "already holds a run" in refused(capsys, *words)
    assert main(["train", "--resume", str(out)]) == 0  # finished already: nothing to do


def test_init_takes_the_models_shape_and_refuses_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    words = [
        "train",
        "pretrain_stage1",
        "--init",
        model,
        "--data.sources",
        manifest(tmp_path),
        "--out",
        str(tmp_path / "run"),
    ]
    other = [*words, "--model.vision.width", "64"]
    assert "whose model has 32" in refused(capsys, *other)
    assert "--size base is not the shape" in refused(capsys, *words, "--size", "base")
    assert (
        main(
            [
                *words,
                *[
                    "--data.batch_size",
                    "4",
                    "--data.num_workers",
                    "0",
                    "--train.steps",
                    "1",
                    "--task.bank_size",
                    "8",
                    "--device",
                    "cpu",
                ],
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["vision"]["width"] == 32


def test_caption_embed_match_on_one_input_and_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    image, clip = str(picture(tmp_path / "a.png")), str(moving_gif(tmp_path / "b.gif"))
    assert main(["caption", image, "--model", model]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["caption", clip, "--model", model, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) == {"media", "text", "score", "kind", "times"} and row["kind"] == "logprob"
    assert main(["embed", image, clip, "--model", model, "--json", "--precision", "bf16"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["image", "video"]
    assert "times" not in rows[0] and len(rows[1]["times"]) == 4 and len(rows[0]["embedding"]) == 16
    assert main(["match", image, "a red circle", "--model", model, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) == {"media", "text", "score", "kind"} and row["kind"] == "match" and 0 <= row["score"] <= 1


def test_media_come_from_urls_and_what_is_said_of_them_goes_to_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    bucket = fsspec.filesystem("memory")
    picture(tmp_path / "a.png"), moving_gif(tmp_path / "b.gif")
    for name in ("a.png", "b.gif"):
        bucket.put_file(str(tmp_path / name), f"/shop/in/{name}")
    assert main(["embed", str(tmp_path / "a.png"), str(tmp_path / "b.gif"), "--model", model, "--json"]) == 0
    here = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["embed", "memory://shop/in", "--model", model, "--out", "memory://shop/out.jsonl"]) == 0
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in bucket.cat_file("/shop/out.jsonl").decode().splitlines()]
    assert [row.pop("media") for row in rows] == ["memory:///shop/in/a.png", "memory:///shop/in/b.gif"]
    for row, expected in zip(rows, here, strict=True):
        assert row.pop("embedding") == pytest.approx(expected.pop("embedding"), abs=1e-5)
        assert row == {key: value for key, value in expected.items() if key != "media"}
    bucket.pipe_file("/shop/in/c.png", b"no picture")
    out = tmp_path / "made" / "out.jsonl"
    inputs = [f"memory://shop/in/{name}" for name in ("a.png", "c.png", "gone.png")]
    assert main(["caption", *inputs, "--model", model, "--out", str(out)]) == 1
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(row) - {"media"} for row in said] == [{"text", "score", "kind"}, {"error"}, {"error"}]
    told = capsys.readouterr().err
    assert "memory://shop/in/c.png: " in told and "memory://shop/in/gone.png: cannot be opened" in told
    assert "omnivl-" not in told, "no name of a copy"
    assert os.listdir(out.parent) == ["out.jsonl"]
    assert bucket.ls("/shop", detail=False) == ["/shop/in", "/shop/out.jsonl"]
    assert "is a folder" in refused(capsys, "embed", inputs[0], "--model", model, "--out", str(tmp_path))


def test_a_part_of_a_video_is_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str) -> None:
    image, clip = str(picture(tmp_path / "a.png")), str(moving_gif(tmp_path / "b.gif"))
    assert main(["ask", clip, "what?", "--at", "0:00.2-0:00.4", "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["times"] == [0.2, 0.2, 0.3, 0.3]
    assert main(["ask", image, "what?", "--at", "0-1", "--model", model]) == 1
    assert "a.png: is a picture" in capsys.readouterr().err
    for part in ("1:20", "5-5", "9-1", "a-b"):
        assert "such as 1:20-1:40" in refused(capsys, "ask", clip, "what?", "--at", part, "--model", model)
    assert [part_of(part) for part in ("1:20-1:40", "80-99.5", "1:00:00-1:00:01")] == [
        (80, 100),
        (80, 99.5),
        (3600, 3601),
    ]


def test_ask_and_classify_on_one_input_and_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    image, clip = str(picture(tmp_path / "a.png")), str(moving_gif(tmp_path / "b.gif"))
    assert main(["ask", image, "what is it?", "--model", model, "--choices", "a star, a ring"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() in ("a star", "a ring") and "has learnt to answer" in err
    assert main(["ask", clip, "how does it move?", "--model", model, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) == {"media", "question", "text", "score", "alternatives", "kind", "times"}
    assert row["kind"] == "probability" and set(row["alternatives"][0]) == {"text", "score"}
    assert main(["classify", image, clip, "--model", model, "--labels", "star,ring", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert set(rows[0]) == {"media", "labels", "kind"} and set(rows[1]) == {"media", "labels", "kind", "times"}
    assert {label["label"] for label in rows[0]["labels"]} == {"star", "ring"}
    assert main(["classify", str(tmp_path / "gone.png"), image, "--model", model, "--labels", "a,b"]) == 1
    assert "gone.png" in capsys.readouterr().err
    assert "the question is empty" in refused(capsys, "ask", image, " ", "--model", model)
    assert "no classifier of its own" in refused(capsys, "classify", image, "--model", model)
    assert "at least two labels" in refused(capsys, "classify", image, "--model", model, "--labels", "cat")
    assert "at least two different answers" in refused(capsys, "ask", image, "?", "--model", model, "--choices", "a")


def test_a_folder_means_all_media_in_it_and_bad_ones_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    picture(tmp_path / "b.PNG")
    moving_gif(tmp_path / "c.gif")
    (tmp_path / "a.jpg").write_text("not a picture")
    (tmp_path / "notes.txt").write_text("not media")
    assert main(["caption", str(tmp_path), "--model", model, "--json"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["media"]).name for row in rows] == ["a.jpg", "b.PNG", "c.gif"]
    assert set(rows[0]) == {"media", "error"} and "a.jpg" in err
    assert main(["caption", str(tmp_path / "missing.jpg"), str(tmp_path / "b.PNG"), "--model", model]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(str(tmp_path / "b.PNG")) and "missing.jpg" in err and "Traceback" not in err


def test_what_the_disk_does_not_give_and_what_is_damaged_is_told_in_a_line_each(tmp_path: Path, model: str) -> None:
    (tmp_path / "a.png").symlink_to("/proc/self/mem")
    cut = moving_gif(tmp_path / "cut.gif")
    cut.write_bytes(cut.read_bytes()[:-60])
    picture(tmp_path / "fine.png")
    words = [sys.executable, "-m", "omnivl", "caption", str(tmp_path), "--model", model]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 1 and [line.split("\t")[0] for line in ran.stdout.splitlines()] == [
        str(cut),
        str(tmp_path / "fine.png"),
    ]
    assert ran.stderr.splitlines() == [
        f"omnivl: {cut}: cut short or damaged behind 5 frames",
        f"omnivl: {tmp_path}/a.png: cannot be read (Input/output error)",
    ]


def test_the_model_may_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIVL_MODEL", model)
    assert main(["caption", str(picture(tmp_path / "a.png"))]) == 0
    assert main(["info"]) == 0
    assert "all, shared ones once" in capsys.readouterr().out


def test_evaluate_writes_and_merges_results(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.json"
    data = manifest(tmp_path)
    (tmp_path / "my.jsonl").open("a").write(json.dumps({"media": "bad.jpg", "caption": "a broken one"}) + "\n")
    (tmp_path / "bad.jpg").write_text("no picture")
    base = ["evaluate", model, "--data", data, "--out", str(out), "--device", "cpu"]
    assert main([*base, "--task", "retrieval"]) == 1  # one item cannot be read
    assert "bad.jpg" in capsys.readouterr().err
    rows = json.loads(out.read_text())["results"]
    assert all(row["n"] == 5 for row in rows), "what cannot be read stays in the denominator"
    assert {row["settings"]["k"] for row in rows} == {0, 128}
    monkeypatch.setattr("omnivl.metrics.captions.missing", lambda: "it needs Java")
    main([*base, "--task", "retrieval", "--task", "caption"])
    assert "meteor, rouge_l, cider: it needs Java" in capsys.readouterr().err
    again = json.loads(out.read_text())["results"]
    assert [row for row in again if row["task"] == "retrieval"] == rows
    values = {row["metric"]: row["value"] for row in again if row["task"] == "caption"}
    assert {"exact", "token_f1", "bleu4", "meteor", "rouge_l", "cider", "spice"} <= set(values)
    assert {metric for metric, value in values.items() if value is not None} == {"exact", "token_f1"}
    assert "NaN" not in out.read_text()


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "omnivl", "train", "demmo"],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 2 and "did you mean 'demo'" in done.stderr and "Traceback" not in done.stderr


def test_words_may_stand_behind_options(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(picture(tmp_path / "a.png")), str(picture(tmp_path / "b.png"))
    assert main(["caption", a, "--model", model, "--json", b]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["media"] for row in rows] == [a, b]
    assert "has no place for 'y'" in refused(capsys, "match", a, "x", "--model", model, "y")
    assert "has no option '--jsn'" in refused(capsys, "caption", a, "--jsn", "--model", model)


def test_names_that_are_not_text_stop_nothing_and_json_stays_json(model: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    picture(tmp_path / "b.png")
    for encoding in ("utf-8:strict", "ascii"):
        words = [sys.executable, "-m", "omnivl", "caption", str(tmp_path), "--model", model, "--json"]
        done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
        assert len(rows) == 2 and all("text" in row for row in rows)


def test_an_empty_folder_among_others_and_an_empty_name_are_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(picture(tmp_path / "a.png"))
    (tmp_path / "empty").mkdir()
    assert main(["caption", a, str(tmp_path / "empty"), "--model", model]) == 1
    out, err = capsys.readouterr()
    assert out.strip() and "no pictures or clips in there" in err
    assert "is empty" in refused(capsys, "embed", "", "--model", model)


def test_where_results_cannot_be_written_nothing_is_measured(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").write_text("x")
    common = ["evaluate", model, "--task", "caption", "--data", "world:", "--num-items", "2"]
    assert "is a folder: name a file" in refused(capsys, *common, "--out", str(tmp_path))
    assert "cannot be written" in refused(capsys, *common, "--out", str(tmp_path / "afile" / "x.json"))
    assert "afile" in refused(capsys, *common, "--out", str(tmp_path / "afile"))
    assert "is a folder" in refused(capsys, *common, "--out", str(tmp_path / "r.json"), "--predictions", str(tmp_path))
    assert not (tmp_path / "r.json").exists()


def test_a_recipe_that_fails_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.py").write_text("def f():\n    return 1 / 0\n")
    assert "does not run: ZeroDivisionError" in refused(capsys, "show", f"{tmp_path / 'r.py'}:f")
    (tmp_path / "s.py").write_text("def f(:\n")
    assert "does not run: SyntaxError" in refused(capsys, "train", f"{tmp_path / 's.py'}:f")
