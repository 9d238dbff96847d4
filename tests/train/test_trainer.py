"""Resume is exact, stops are clean, and a loss that is not finite never reaches the weights (method, invariant 7)."""

import copy
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivl.data.sample import Batch
from omnivl.train.checkpoint import RunFolder, checkpoint_steps, read_state
from omnivl.train.stopping import Stopped, TrainingError
from omnivl.train.tracker import Tracker
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


def everything(run: TinyRun) -> dict[str, Any]:
    """Weights and state, copied."""
    return copy.deepcopy({"model": dict(run.model.state_dict()), **without_time(run.trainer.state())})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("name", "hook"), [("univlc", "text_projection"), ("lm", "generation.head.dense")])
def test_a_loss_that_is_not_finite_is_named_and_stops_before_anything_has_changed(
    tmp_path: Path, name: str, hook: str, accumulate: int
) -> None:
    run = TinyRun(stage_config("image", 5, checkpoint_every=1, accumulate=accumulate), folder=tmp_path)
    before: dict[str, Any] = {}

    def poison(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if run.trainer.step < 2:
            return output
        before.update(everything(run) if not before else {})
        return output * float("nan")

    run.model.get_submodule(hook).register_forward_hook(poison)
    with pytest.raises(TrainingError, match=rf"^not finite at step 3: loss is nan, .*{name} is nan"):
        run.train()
    assert_same(everything(run), before)
    assert checkpoint_steps(tmp_path) == [1, 2] and len(metrics(tmp_path)) == 2
    assert read_state(tmp_path / "checkpoints/step-2")["step"] == 2


def test_a_gradient_that_is_not_finite_stops_before_the_weights_too(tmp_path: Path) -> None:
    run = TinyRun(stage_config("image", 3), folder=tmp_path)
    run.model.visual.norm.weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(dict(run.model.state_dict()))
    with pytest.raises(TrainingError, match=r"^not finite at step 1: gradient_norm is (nan|inf) \(samples image 0\.0"):
        run.train()
    assert_same(dict(run.model.state_dict()), before)


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_what_its_step_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_config("image video", 5, checkpoint_every=2, keep_checkpoints=9)
    TinyRun(stage, folder=tmp_path / "plain").train()
    taken, release, first = threading.Event(), threading.Event(), threading.Event()
    real = torch.save

    def slow(state: Any, file: Any) -> None:
        if state["step"] == 2:
            first.set()
            assert release.wait(60)
            assert taken.is_set(), "the third step is taken while the second is written"
        real(state, file)

    monkeypatch.setattr(torch, "save", slow)

    def third() -> None:  # begun after the second step: what it changes is not in the checkpoint
        assert first.wait(60)

    def fourth() -> None:
        assert checkpoint_steps(tmp_path / "beside") == []
        taken.set()
        release.set()

    def alter(number: int, step: int, batch: Batch) -> Batch:
        {2: third, 3: fourth}.get(step, lambda: None)()
        return batch

    TinyRun(stage, folder=tmp_path / "beside", alter=alter).train()
    for step in (2, 4, 5):
        folders = [tmp_path / name / f"checkpoints/step-{step}" for name in ("plain", "beside")]
        one, other = (without_time(read_state(folder)) for folder in folders)
        assert_same(one, other)
        weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
        assert weights[0] == weights[1]


def test_what_could_not_be_written_beside_the_training_stops_it_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TinyRun(stage_config("image", 9, checkpoint_every=4), folder=tmp_path)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    run.trainer.copy_model = lambda: full
    after = at_step(5, run.trainer.writing.join)
    run.alter = after
    with pytest.raises(TrainingError, match=r"^the checkpoint of step 4 was not written: No space left on device;"):
        run.train()
    assert run.trainer.step <= 6 and checkpoint_steps(tmp_path) == []


# --- fp16 ------------------------------------------------------------------------------------------------------------

FP16 = stage_config("image video", 5, precision="fp16", checkpoint_every=1, keep_checkpoints=9)


def scaled_run(folder: Path, scale: float, monkeypatch: pytest.MonkeyPatch, **words: Any) -> TinyRun:
    scaler = functools.partial(torch.amp.GradScaler, init_scale=scale)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    return TinyRun(FP16, folder=folder, **words)


def test_an_overflowing_step_is_done_again_and_leaves_no_trace_but_a_lower_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = scaled_run(tmp_path / "high", 2.0**30, monkeypatch).train()
    state = read_state(tmp_path / "high/checkpoints/step-5")
    assert state["scaler"]["scale"] < 2.0**30, "nothing overflowed"
    monkeypatch.undo()
    scaled_run(tmp_path / "low", state["scaler"]["scale"], monkeypatch).train()  # never overflows
    assert metrics(tmp_path / "high") == metrics(tmp_path / "low")  # the schedule and the step count among them
    other = read_state(tmp_path / "low/checkpoints/step-5")
    for name in ("task", "optimizer", "step"):  # the banks were pushed once a step
        assert_same(state[name], other[name], name)
    assert {float(each["step"]) for each in state["optimizer"]["state"].values()} <= {3.0, 2.0, 5.0}
    assert int(high.trainer.stage.task.state_dict()["bank.pushed"]) == 5 * 8


def test_the_scaler_is_saved_and_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_run(tmp_path, 2.0**30, monkeypatch).train()
    lines, last = metrics(tmp_path), read_state(tmp_path / "checkpoints/step-5")
    for step in (3, 4, 5):
        shutil.rmtree(tmp_path / f"checkpoints/step-{step}")
    monkeypatch.undo()
    scaled_run(tmp_path, 2.0**30, monkeypatch, resume=True).train()
    assert metrics(tmp_path) == lines
    assert_same(without_time(read_state(tmp_path / "checkpoints/step-5")), without_time(last))


def test_what_overflows_at_any_scale_stops_with_the_weights_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scaled_run(tmp_path, 1.0, monkeypatch)
    run.model.visual.norm.weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(dict(run.model.state_dict()))
    with pytest.raises(TrainingError, match="overflows fp16 at any scale at step 1"):
        run.train()
    assert_same(dict(run.model.state_dict()), before)


# --- what stops a run, and what it leaves ----------------------------------------------------------------------------


def at_step(wanted: int, action: Callable[[], None]) -> Callable[[int, int, Batch], Batch]:
    """Do something while the batch of a step (from 0) is being read."""

    def alter(stage: int, step: int, batch: Batch) -> Batch:
        if step == wanted:
            action()
        return batch

    return alter


def raises(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


LONG = stage_config("image", 5)  # saved at its end, and where it is stopped


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4])
def test_a_signal_stops_between_steps_with_the_state_saved(tmp_path: Path, signum: int, step: int) -> None:
    earlier = signal.getsignal(signum)
    alter = at_step(step, lambda: os.kill(os.getpid(), signum))
    with pytest.raises(Stopped, match=f"after step {step}; its state is saved") as stopped:
        TinyRun(LONG, folder=tmp_path / "stopped", alter=alter).train()
    assert stopped.value.signum == signum and signal.getsignal(signum) == earlier
    assert checkpoint_steps(tmp_path / "stopped") == [step]
    TinyRun(LONG, folder=tmp_path / "stopped", resume=True).train()
    TinyRun(LONG, folder=tmp_path / "whole").train()
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    one, other = (read_state(tmp_path / name / "checkpoints/step-5") for name in ("stopped", "whole"))
    assert_same(without_time(one), without_time(other))


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        TinyRun(LONG, folder=tmp_path, alter=at_step(0, lambda: os.kill(os.getpid(), signal.SIGTERM))).train()
    assert checkpoint_steps(tmp_path) == []


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        TinyRun(LONG, folder=tmp_path, alter=at_step(2, twice)).train()
    assert checkpoint_steps(tmp_path) == []
    RunFolder(tmp_path).close()


def test_training_on_a_thread_that_cannot_have_signals_works(tmp_path: Path) -> None:
    runner = threading.Thread(target=TinyRun(LONG, folder=tmp_path).train)
    runner.start()
    runner.join(60)
    assert (tmp_path / "model/model.safetensors").exists()


@pytest.mark.parametrize("workers_error", [False, True])
def test_data_that_fail_stop_the_run_in_one_sentence_with_the_steps_before_saved(
    tmp_path: Path, workers_error: bool
) -> None:
    text = "world: 9 samples in a row cannot be read"
    if workers_error:
        text = f"Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  File\nValueError: {text}\n"
    with pytest.raises(
        TrainingError, match=r"^training stopped after step 2: world: 9 samples in a row cannot be read$"
    ):
        TinyRun(LONG, folder=tmp_path, alter=at_step(2, raises(ValueError(text)))).train()
    assert checkpoint_steps(tmp_path) == [2]


def test_a_worker_that_dies_during_a_step_is_heard_of_after_it(tmp_path: Path) -> None:
    """torch would raise in the middle of the step; the signal that killed the worker may be on its way to us too."""

    def torchs(signum: int, frame: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    earlier = signal.signal(signal.SIGCHLD, torchs)
    try:
        for name, also, wanted in (
            ("dead", None, (TrainingError, "after step 2: DataLoader worker .pid 7. is killed by signal: Killed")),
            ("asked", signal.SIGTERM, (Stopped, "stopped by SIGTERM after step 2")),
        ):
            run = TinyRun(LONG, folder=tmp_path / name)

            def during(module: Any, inputs: Any, run: TinyRun = run, also: int | None = also) -> None:
                if run.trainer.step == 1:
                    os.kill(os.getpid(), signal.SIGCHLD)
                    if also:
                        os.kill(os.getpid(), also)

            run.model.text.register_forward_pre_hook(during)
            with pytest.raises(wanted[0], match=wanted[1]):
                run.train()
            assert checkpoint_steps(tmp_path / name) == [2]
            assert signal.getsignal(signal.SIGCHLD) is torchs
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_our_own_mistakes_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="typo"):
        TinyRun(LONG, folder=tmp_path, alter=at_step(1, raises(KeyError("typo")))).train()


def test_too_many_bad_samples_are_counted_by_source_written_down_and_stop_the_run(tmp_path: Path) -> None:
    def alter(stage: int, step: int, batch: Batch) -> Batch:
        batch.bad = [("source" if i else "other", f"file {step}.{i}: cut short") for i in range(4)]
        return batch

    told = r"^12 of 24 samples could not be read \(3 of other, 9 of source\).*the first: file 0\.0: cut short;"
    with pytest.raises(TrainingError, match=told):
        TinyRun(LONG, folder=tmp_path, alter=alter).train()
    assert [line["bad_samples"] for line in metrics(tmp_path)] == [4, 8, 12]
    assert [line["bad_by_source"] for line in metrics(tmp_path)] == [{"other": n, "source": 3 * n} for n in (1, 2, 3)]
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert lines[4] == {"step": 2, "source": "other", "reason": "file 1.0: cut short"} and len(lines) == 12
    assert read_state(tmp_path / "checkpoints/step-3")["samples"]["bad"] == {"other": 3, "source": 9}


def test_a_disk_that_is_full_for_metrics_stops_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TinyRun(LONG, folder=tmp_path)
    step = Tracker.step

    def full(tracker: Tracker, record: dict[str, Any], bad: Any) -> None:
        if record["step"] == 3:
            raise OSError(28, "No space left on device")
        step(tracker, record, bad)

    monkeypatch.setattr(Tracker, "step", full)
    with pytest.raises(TrainingError, match="after step 3: No space left on device"):
        run.train()


def test_a_finished_run_says_so_and_keeps_its_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TinyRun(LONG, folder=tmp_path).train()
    card = tmp_path / "model/README.md"
    card.write_text("mine")
    lines = metrics(tmp_path)
    with caplog.at_level(logging.INFO):
        TinyRun(LONG, folder=tmp_path, resume=True).train()
    assert "this run is finished: its 5 steps are done" in caplog.text
    assert card.read_text() == "mine" and metrics(tmp_path) == lines
    shutil.rmtree(tmp_path / "model")  # stopped while it was being written
    TinyRun(LONG, folder=tmp_path, resume=True).train()
    assert (tmp_path / "model/model.safetensors").exists()


def test_the_best_step_is_kept_and_published_and_one_that_is_not_a_number_is_never_best(tmp_path: Path) -> None:
    values = {1: float("nan"), 2: 0.5, 3: 0.8, 4: float("nan"), 5: 0.7, 6: 0.1}
    config = stage_config("image", 6, checkpoint_every=1, keep_checkpoints=1, validate_every=1, select="recall")

    def trained(resume: bool, until: int) -> None:
        alter = at_step(until, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run = TinyRun(config, folder=tmp_path, resume=resume, alter=alter)
        make = run.trainer.make_stage
        run.trainer.make_stage = lambda number: replace(
            make(number), validate=lambda: {"recall": values[run.trainer.step], "other": 9.0}
        )
        run.train()

    with pytest.raises(Stopped):
        trained(False, 4)
    assert checkpoint_steps(tmp_path) == [3, 4]
    trained(True, 99)
    assert checkpoint_steps(tmp_path) == [3, 6] and read_state(tmp_path / "checkpoints/step-6")["best"] == (0.8, 3)
    published, best = ((tmp_path / at / "model.safetensors").read_bytes() for at in ("model", "checkpoints/step-3"))
    assert published == best


@pytest.mark.parametrize("until", [3, 99])
def test_the_best_step_is_the_last_stages(tmp_path: Path, until: int) -> None:
    """Another stage's values, of another metric on other data, do not count: stopped between the stages or not."""
    words: dict[str, Any] = {"checkpoint_every": 1, "keep_checkpoints": 1, "validate_every": 1, "select": "recall"}
    stages = stage_config("image", 2, **words), stage_config("image", 3, **words)
    values = {1: 0.9, 2: 0.8, 3: 0.1, 4: 0.3, 5: 0.2}

    def trained(resume: bool, until: int) -> None:
        run = TinyRun(*stages, folder=tmp_path, resume=resume)
        make = run.trainer.make_stage

        def validate() -> dict[str, float]:
            if run.trainer.step == until:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"recall": values[run.trainer.step]}

        run.trainer.make_stage = lambda number: replace(make(number), validate=validate)
        run.train()

    if until < 99:
        with pytest.raises(Stopped):
            trained(False, until)
    trained(until < 99, 99)
    assert checkpoint_steps(tmp_path) == [4, 5] and read_state(tmp_path / "checkpoints/step-5")["best"] == (0.3, 4)
    published, best = ((tmp_path / at / "model.safetensors").read_bytes() for at in ("model", "checkpoints/step-4"))
    assert published == best


VALIDATED = stage_config("image", 6, checkpoint_every=0, keep_checkpoints=1, validate_every=2, select="recall")
VALUES = {2: 0.3, 4: 0.9, 6: 0.5}


def validating(folder: Path, *, resume: bool = False, during: Callable[[int], None] = lambda step: None) -> list[int]:
    """A run that measures VALUES; gives the steps that it has measured."""
    measured: list[int] = []
    run = TinyRun(VALIDATED, folder=folder, resume=resume, alter=at_step(3, lambda: during(-4)))
    make = run.trainer.make_stage

    def validate() -> dict[str, float]:
        during(run.trainer.step)
        measured.append(run.trainer.step)
        return {"recall": VALUES[run.trainer.step]}

    run.trainer.make_stage = lambda number: replace(make(number), validate=validate)
    run.train()
    return measured


@pytest.mark.parametrize(
    ("when", "action", "error", "measured"),
    [
        (-4, lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped, [4, 6]),  # while the batch is read: not measured
        (4, lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped, [6]),  # while it is measured: to its end
        (4, raises(KeyboardInterrupt()), KeyboardInterrupt, [4, 6]),  # killed
        (6, raises(KeyboardInterrupt()), KeyboardInterrupt, [6]),
        (4, raises(ValueError("c.json: no such file")), TrainingError, [4, 6]),
    ],
)
def test_a_step_is_saved_before_it_is_validated_and_what_was_cut_short_is_measured_by_the_resumed_run(
    tmp_path: Path, when: int, action: Callable[[], None], error: type[BaseException], measured: list[int]
) -> None:
    assert validating(tmp_path / "whole") == [2, 4, 6]

    def during(step: int) -> None:
        if step == when:
            if step > 0:
                assert checkpoint_steps(tmp_path / "stopped")[-1] == step, "it is on the disk already"
            action()

    with pytest.raises(error):
        validating(tmp_path / "stopped", during=during)
    assert validating(tmp_path / "stopped", resume=True) == measured
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    for name in ("stopped", "whole"):
        assert checkpoint_steps(tmp_path / name) == [4, 6]
        assert read_state(tmp_path / name / "checkpoints/step-6")["best"] == (0.9, 4)
    for file in ("model/model.safetensors", "checkpoints/step-6/model.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_validation_that_fails_is_one_sentence(tmp_path: Path) -> None:
    told = r"^the validation after step 2 failed: c\.json: no such file; the step is saved$"
    with pytest.raises(TrainingError, match=told):
        validating(tmp_path, during=lambda step: raises(ValueError("c.json: no such file"))())


def test_no_state_is_gathered_while_the_copy_before_is_still_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under FSDP a gathered state is a copy already: one at a time is what the host's memory must hold."""
    run = TinyRun(stage_config("image", 4, checkpoint_every=1), folder=tmp_path)
    writing: list[bool] = []
    gathered, copied = run.trainer.state, run.trainer.copy_model

    def state() -> dict[str, Any]:
        writing.append(bool(run.trainer.writing.thread and run.trainer.writing.thread.is_alive()))
        return gathered()

    def slow() -> Callable[[Path], None]:
        write = copied()

        def slowly(folder: Path) -> None:
            time.sleep(0.2)
            write(folder)

        return slowly

    monkeypatch.setattr(run.trainer, "state", state)
    monkeypatch.setattr(run.trainer, "copy_model", slow)
    run.train()
    assert writing == [False] * 4


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
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="the checkpoint of step 3 was not written: No space left on device"):
        run.train()
    assert checkpoint_steps(tmp_path) == [1, 2]
    monkeypatch.undo()
    TinyRun(stage_config("image", 4, checkpoint_every=1), folder=tmp_path, resume=True).train()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]


# --- other processes -------------------------------------------------------------------------------------------------

COMMAND = [
    *(sys.executable, "-m", "omnivl", "train", "image_only", "--device", "cpu", "--train.steps", "16"),
    *("--data.batch_size", "8", "--task.bank_size", "16", "--train.checkpoint_every", "1", "--optim.warmup_steps", "0"),
    *("--model.vision.image_size", "32", "--model.vision.width", "32", "--model.vision.heads", "2"),
    *("--model.vision.layers", "1", "--model.text.width", "32", "--model.text.heads", "2", "--evaluation.tasks"),
    *("--data.num_workers", "1"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--out", str(out)] if not words else [sys.executable, "-m", "omnivl", *words],
        env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
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


def test_a_signal_saves_and_leaves_and_the_resumed_run_is_the_same(tmp_path: Path, untouched: Path) -> None:
    """As a terminal or a launcher sends it: to the loader's workers too."""
    out = tmp_path / "run"
    process = start(out)
    for step, signum, code in ((7, signal.SIGTERM, 143), (17, signal.SIGINT, 130)):
        wait_for(out, step)
        os.killpg(process.pid, signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "its state is saved" in err and f"omnivl train --resume {out}" in err and "Traceback" not in err
        process = start(out, "train", "--resume", str(out), "--device", "cpu")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_equal_runs(out, untouched)


def kill_and_resume(out: Path, untouched: Path, steps: list[int]) -> None:
    """The loader's workers outlive a killed run for some seconds, and the resumed one does not wait for them."""
    process = start(out)
    for step in steps:
        wait_for(out, step)
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()
        process = start(out, "train", "--resume", str(out), "--device", "cpu")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_equal_runs(out, untouched)


def test_kill_9_and_resume_equals_the_run_without(tmp_path: Path, untouched: Path) -> None:
    kill_and_resume(tmp_path / "run", untouched, [11])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_at_three_random_steps_and_resume_equals_the_run_without(
    tmp_path: Path, untouched: Path, seed: int
) -> None:
    draws = torch.randint(1, 30, (3,), generator=torch.Generator().manual_seed(seed))
    kill_and_resume(tmp_path / "run", untouched, sorted(draws.tolist()))
