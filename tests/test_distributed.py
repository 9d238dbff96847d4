"""Two processes on half batches equal one on the whole (method, invariants 2 and 8), and no rank waits for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from omnivl import distributed
from omnivl.data.sample import Batch
from omnivl.train.checkpoint import RunFolder, checkpoint_steps, read_state
from omnivl.train.stopping import Stopped, TrainingError
from tests.training import STILL, TASK, TinyRun, assert_same, stage_config

# All losses, banks and global negatives are on; in the last stage shares are so small that a rank may have no row.
SHARES = replace(TASK, match_share=0.125, lm_share=0.125, video_lm_share=0.125)
STAGES = tuple(
    replace(stage, optim=replace(stage.optim, eps=1e-2))  # with a small one rounding decides where a gradient is nought
    for stage in (
        stage_config("text", 2),
        stage_config("image", 3, accumulate=2),
        stage_config("image video", 4),
        stage_config("video", 4, SHARES),
    )
)
ONE_LABEL = (2, 2)  # stage and step whose samples all have one label: matching has nothing to do


def alter(stage: int, step: int, batch: Batch) -> Batch:
    return replace(batch, labels=torch.zeros_like(batch.labels)) if (stage, step) == ONE_LABEL else batch


def run_stages(folder: Path, name: str) -> None:
    """Train, and leave the weights of rank 0, and what image steps left in the temporal gradients of every rank."""
    run = TinyRun(*STAGES, folder=folder / name, model=STILL, alter=alter)
    make = run.trainer.make_stage
    touched: list[str] = []

    def watched(number: int) -> Any:
        stage = make(number)
        if stage.config.name == "image":
            after = stage.task.after_step

            def look(step: int) -> None:
                named = stage.task.model.visual.named_parameters()
                touched.extend(
                    n for n, p in named if ("temporal" in n or "time" in n or "video" in n) and p.grad is not None
                )
                after(step)

            vars(stage.task)["after_step"] = look
        return stage

    vars(run.trainer)["make_stage"] = watched
    run.train()
    everything = {"weights": dict(run.model.state_dict()), "touched": touched}
    torch.save(everything, folder / f"{name}.{distributed.rank()}.pt")


# --- what two ranks do, each in its process --------------------------------------------------------------------------

SHORT = stage_config("image", 4)


def outcome(act: Callable[[], Any]) -> str:
    try:
        act()
    except (Stopped, TrainingError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def on_rank_1_at(wanted: int, action: Callable[[], None]) -> Callable[[int, int, Batch], Batch]:
    def alter(stage: int, step: int, batch: Batch) -> Batch:
        if step == wanted and distributed.rank() == 1:
            action()
        return batch

    return alter


def fail() -> None:
    raise ValueError("a file is not there")


def poison(stage: int, step: int, batch: Batch) -> Batch:
    """The last row, which is rank 1's, is not finite."""
    assert batch.pixels is not None
    pixels = batch.pixels.float()
    pixels[-1] = float("nan") if step == 2 else 0.0
    return replace(batch, pixels=pixels)


def full_disk(run: TinyRun) -> TinyRun:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    run.trainer.save_model = full
    return run


def stops(folder: Path) -> dict[str, str]:
    """What stops one rank, and how each rank ends."""

    def run(name: str, **words: Any) -> TinyRun:
        return TinyRun(SHORT, folder=folder / name, model=STILL, **words)

    ends = {
        "error": outcome(run("error", alter=on_rank_1_at(2, fail)).train),
        "signal": outcome(run("signal", alter=on_rank_1_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM))).train),
        "nan": outcome(run("nan", alter=poison).train),
        "disk": outcome(full_disk(run("disk")).train),
        "whole": outcome(run("whole").train),
        "resumed": outcome(run("signal", resume=True).train),
    }
    held: list[RunFolder] = []
    ends["folder"] = outcome(lambda: distributed.main_first(lambda: held.append(RunFolder(folder / "new/run"))))
    ends["busy"] = outcome(lambda: distributed.main_first(lambda: RunFolder(folder / "new/run")))
    return ends


def collectives() -> None:
    """Rows keep their order, gradients come home, shares are global means."""
    rank = distributed.rank()
    rows = torch.arange(2.0 * rank, 2.0 * rank + 2)[:, None].requires_grad_()
    every = distributed.gather_with_gradient(rows)
    assert every.squeeze(1).tolist() == [0, 1, 2, 3] == distributed.gather(rows).squeeze(1).tolist()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0]) * (rank + 1)
    (every.squeeze(1) * weights).sum().backward()
    assert rows.grad is not None and rows.grad.squeeze(1).tolist() == [[3.0, 6.0], [9.0, 12.0]][rank]
    padded = distributed.gather_padded(torch.full((1, 2 + rank), rank + 1), 0)
    assert padded.tolist() == [[1, 1, 0], [2, 2, 2]]
    # rank 0 counted 1 and rank 1 counted 3: DDP's average of the shares is the mean over all 4
    assert float(distributed.share(torch.tensor(8.0), 1 + 2 * rank)) == 4.0
    assert float(distributed.share(torch.tensor(0.0), 0)) == 0.0
    assert distributed.sum_over_ranks([1.0, rank]) == [2.0, 1.0] and distributed.max_over_ranks([rank, 5.0]) == [
        1.0,
        5.0,
    ]
    assert distributed.gather_objects("ab"[rank]) == ["a", "b"]
    assert distributed.main_first(lambda: f"of {rank}") == "of 0"


def rank_main(rank: int, folder: Path, port: int) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        collectives()
        run_stages(folder, "two")
        (folder / f"ends.{rank}.json").write_text(json.dumps(stops(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left, and one process beside them."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(rank_main, (folder, port), nprocs=2)
    run_stages(folder, "one")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_have_the_losses_of_one_on_texts_images_and_videos_also_under_accumulation(folder: Path) -> None:
    one, two = lines(folder / "one"), lines(folder / "two")
    assert [line["medium"] for line in two] == ["text"] * 2 + ["image"] * 3 + ["image", "video"] * 2 + ["video"] * 4
    timings = ("seconds", "samples_per_second")
    for left, right in zip(one, two, strict=True):
        assert list(left) == list(right)
        for name, value in left.items():
            if name not in timings:
                wanted = pytest.approx(value, abs=1e-5, rel=1e-5) if isinstance(value, float) else value
                assert right[name] == wanted, (left["step"], name)
    nothing = one[2 + 3 + ONE_LABEL[1]]
    assert nothing["vlm"] == 0 and nothing["match_accuracy"] is None, "a batch of one label has no negatives"


def test_two_processes_make_the_weights_momentum_copy_and_banks_of_one(folder: Path) -> None:
    one, two, other = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one.0", "two.0", "two.1"))
    moved = 0.0
    start = dict(TinyRun(*STAGES, model=STILL).model.state_dict())
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=1e-5, rtol=1e-5, msg=name)
        assert torch.equal(two["weights"][name], other["weights"][name]), f"ranks drift apart in {name}"
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3
    states = [read_state(folder / name / "checkpoints/step-13")["task"] for name in ("one", "two")]
    assert list(states[0]) == list(states[1]) and {"bank.visual", "bank.pushed"} <= set(states[0])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert states[0]["bank.pushed"] == 4 * 8, "whole batches, once for each step of the last stage"


def test_an_image_step_leaves_temporal_gradients_none_on_every_rank(folder: Path) -> None:
    for name in ("one.0", "two.0", "two.1"):
        assert torch.load(folder / f"{name}.pt", weights_only=True)["touched"] == []


def test_what_stops_one_rank_stops_both_with_the_state_saved(folder: Path) -> None:
    first, second = (json.loads((folder / f"ends.{rank}.json").read_text()) for rank in (0, 1))
    assert second["error"] == "TrainingError: training stopped after step 2: a file is not there"
    assert first["error"].startswith("TrainingError: another process could not go on after step 2")
    assert first["signal"] == second["signal"] == "Stopped: stopped by SIGTERM after step 2; its state is saved"
    assert all(
        each["nan"].startswith("TrainingError: not finite at step 3: loss is nan, univlc is nan")
        for each in (first, second)
    )
    assert first["disk"] == second["disk"] and "was not written: No space left on device" in first["disk"]
    assert checkpoint_steps(folder / "error") == [2]


def test_two_ranks_resumed_are_two_ranks_uninterrupted_bit_for_bit(folder: Path) -> None:
    states = [read_state(folder / name / "checkpoints/step-4") for name in ("whole", "signal")]
    for state in states:
        del state["seconds"]
    assert_same(states[0], states[1])
    weights = [(folder / name / "model/model.safetensors").read_bytes() for name in ("whole", "signal")]
    assert weights[0] == weights[1]


def test_two_ranks_make_one_folder_and_a_busy_one_is_refused_on_both(folder: Path) -> None:
    for rank in (0, 1):
        ends = json.loads((folder / f"ends.{rank}.json").read_text())
        assert ends["folder"] == "done" and "is in use by another run" in ends["busy"]


def test_torchrun_trains_on_the_world_and_equals_one_process(tmp_path: Path) -> None:
    """One text stage and one image stage; without dropout the numbers are those of one process."""
    words = ["train", "image_only", "--train.steps", "2", "--data.batch_size", "8", "--task.bank_size", "16"]
    words += ["--device", "cpu", "--seed", "1", "--model.text.dropout", "0", "--model.vision.image_size", "32"]
    words += ["--model.vision.layers", "1", "--evaluation.num_items", "8", "--optim.eps", "0.01"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    running = [
        subprocess.Popen(
            [*start, "-m", "omnivl", *words, "--out", str(tmp_path / name)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name, start in (("one", [sys.executable]), ("two", launch))
    ]  # fmt: skip
    for process in running:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for left, right in zip(one, two, strict=True):
        assert list(left) == list(right)
        for name in {"loss", "univlc", "vlm", "lm", "masked", "words", "match_accuracy", "gradient_norm"} & set(left):
            assert right[name] == pytest.approx(left[name], rel=1e-4), (left["step"], name)
    assert (tmp_path / "two/results.json").exists()


def test_without_torchrun_every_collective_is_a_no_op() -> None:
    rows = torch.randn(3, 2)
    assert torch.equal(distributed.gather(rows), rows) and torch.equal(distributed.gather_padded(rows, 0), rows)
    assert distributed.gather_with_gradient(rows) is rows
    assert (distributed.rank(), distributed.world_size(), distributed.gather_objects("x")) == (0, 1, ["x"])
    assert float(distributed.share(torch.tensor(6.0), 3)) == 2.0
    assert float(distributed.share(torch.tensor(0.0), 0)) == 0.0
