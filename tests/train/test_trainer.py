"""Resume is exact, stops are clean, and a loss that is not finite never reaches the weights (method, invariant 7)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivl.data.sample import Batch
from omnivl.train.checkpoint import RunFolder, checkpoint_steps, read_state
from omnivl.train.stopping import TrainingError
from tests.training import TinyRun, assert_same, stage_config

STAGES = (
    stage_config("text", 3, checkpoint_every=1, keep_checkpoints=100),
    stage_config("image", 3, checkpoint_every=1, keep_checkpoints=100, accumulate=2),
    stage_config("image video", 4, checkpoint_every=1, keep_checkpoints=100),
)
TIMINGS = ("seconds", "samples_per_second")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def without_time(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "seconds"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    TinyRun(*STAGES, folder=folder).train()
    return folder


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 7, 9])
def test_resuming_at_any_step_equals_the_uninterrupted_run_bit_for_bit(whole: Path, tmp_path: Path, step: int) -> None:
    """Weights, momentum copy, banks, optimiser, schedule, metrics; in stages, between them, and under accumulation."""
    (tmp_path / "checkpoints").mkdir()
    (whole / f"checkpoints/step-{step}").rename(tmp_path / f"checkpoints/step-{step}")
    try:
        (tmp_path / "metrics.jsonl").write_text((whole / "metrics.jsonl").read_text())  # lines past the step are cut
        TinyRun(*STAGES, folder=tmp_path, resume=True).train()
        assert metrics(tmp_path) == metrics(whole)
        for later in range(step + 1, 11):
            states = [read_state(folder / f"checkpoints/step-{later}") for folder in (tmp_path, whole)]
            assert_same(without_time(states[0]), without_time(states[1]))
            weights = [(f / f"checkpoints/step-{later}/model.safetensors").read_bytes() for f in (tmp_path, whole)]
            assert weights[0] == weights[1]
    finally:
        (tmp_path / f"checkpoints/step-{step}").rename(whole / f"checkpoints/step-{step}")


def test_metrics_name_the_losses_of_each_stage(whole: Path) -> None:
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["medium"] for line in lines] == ["text"] * 3 + ["image"] * 3 + ["image", "video"] * 2
    assert all({"masked", "words", "loss", "lr"} <= set(line) for line in lines[:3])
    assert all({"univlc", "vlm", "lm", "match_accuracy", "loss", "lr"} <= set(line) for line in lines[3:])


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_is_named(tmp_path: Path) -> None:
    def poison(stage: int, step: int, batch: Batch) -> Batch:
        if step == 2:
            assert batch.pixels is not None
            batch.pixels = batch.pixels.float() * float("nan")
        return batch

    run = TinyRun(stage_config("image", 5, checkpoint_every=1, keep_checkpoints=9), folder=tmp_path, alter=poison)
    with pytest.raises(TrainingError, match=r"step 3.*nan"):
        run.train()
    assert checkpoint_steps(tmp_path) == [1, 2]
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_a_resumed_run_refuses_other_data(tmp_path: Path) -> None:
    TinyRun(stage_config("image", 2, checkpoint_every=1), folder=tmp_path).train()
    other = replace(stage_config("image", 4), data=replace(stage_config("image", 4).data, batch_size=4))
    with pytest.raises(ValueError, match="the data are not those of the checkpoint"):
        TinyRun(other, folder=tmp_path, resume=True).train()


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TinyRun(stage_config("image", 4, checkpoint_every=1, keep_checkpoints=9), folder=tmp_path)
    real = torch.save

    def full(state: Any, file: Any) -> None:
        if state["step"] == 3:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        run.train()
    assert checkpoint_steps(tmp_path) == [1, 2]
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]


def test_a_second_writer_is_refused_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="in use by another run"):
        RunFolder(tmp_path)
    first.close()
    RunFolder(tmp_path).close()
    code = "from omnivl.train.checkpoint import RunFolder; from pathlib import Path; import os; "
    holder = code + f"f = RunFolder(Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", holder], check=False)
    RunFolder(tmp_path).close()


def test_what_a_killed_save_left_behind_is_cleared_and_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".tmp-step-7").mkdir(parents=True)
    assert checkpoint_steps(tmp_path) == []
    RunFolder(tmp_path).close()
    assert not (tmp_path / "checkpoints" / ".tmp-step-7").exists()


COMMAND = [
    *(sys.executable, "-m", "omnivl", "train", "image_only", "--device", "cpu", "--train.steps", "40"),
    *("--data.batch_size", "8", "--task.bank_size", "16", "--train.checkpoint_every", "1", "--optim.warmup_steps", "0"),
    *("--model.vision.image_size", "32", "--model.vision.width", "32", "--model.vision.heads", "2"),
    *("--model.text.width", "32", "--model.text.heads", "2", "--evaluation.num_items", "8"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--out", str(out)] if not words else [sys.executable, "-m", "omnivl", *words],
        env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def wait_for(out: Path, step: int) -> None:
    limit = time.monotonic() + 120
    while not any(s >= step for s in checkpoint_steps(out)):
        assert time.monotonic() < limit, "training did not get there"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untouched") / "run"
    process = start(out)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def assert_equal_runs(out: Path, untouched: Path) -> None:
    assert metrics(out) == metrics(untouched)
    assert (out / "model/model.safetensors").read_bytes() == (untouched / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_resumed_run_is_the_same(
    tmp_path: Path, untouched: Path, signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, 7)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "its state is saved" in err and f"omnivl train --resume {out}" in err and "Traceback" not in err
    resumed = start(out, "train", "--resume", str(out), "--device", "cpu")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert_equal_runs(out, untouched)


def kill_and_resume(out: Path, untouched: Path, steps: list[int]) -> None:
    process = start(out)
    for step in steps:
        wait_for(out, step)
        process.kill()
        process.communicate()
        process = start(out, "train", "--resume", str(out), "--device", "cpu")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_equal_runs(out, untouched)


def test_kill_9_and_resume_equals_the_run_without(tmp_path: Path, untouched: Path) -> None:
    kill_and_resume(tmp_path / "run", untouched, [23])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_at_three_random_steps_and_resume_equals_the_run_without(
    tmp_path: Path, untouched: Path, seed: int
) -> None:
    draws = torch.randint(1, 75, (3,), generator=torch.Generator().manual_seed(seed))
    kill_and_resume(tmp_path / "run", untouched, sorted(draws.tolist()))
