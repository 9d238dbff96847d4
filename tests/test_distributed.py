"""Two processes on half batches equal one on the whole (method, invariants 2 and 8), and no rank waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from omnivl import distributed
from tests.training import STILL, TinyRun, stage_config

# the image stage alternates two micro-batches a step; all losses, banks and global negatives are on
STAGES = (
    stage_config("text", 1),
    stage_config("image", 2, accumulate=2),
    stage_config("image video", 4),
)


def run_stages(folder: Path, name: str) -> None:
    """Train, and leave weights, banks, and what an image step left in the temporal gradients (rank 0)."""
    run = TinyRun(*STAGES, folder=folder / name, model=STILL)
    temporal: list[str] = []
    trainer = run.trainer
    original = trainer.make_stage

    def watched(number: int) -> Any:
        stage = original(number)
        if number == 1:
            after = stage.task.after_step

            def look(step: int) -> None:
                touched = [n for n, p in stage.task.model.visual.named_parameters() if p.grad is not None]
                temporal.extend(n for n in touched if "temporal" in n or "time_position" in n or "video" in n)
                after(step)

            vars(stage.task)["after_step"] = look
        return stage

    vars(trainer)["make_stage"] = watched
    run.train()
    if distributed.is_main():
        state = torch.load(folder / name / "checkpoints/step-7/training.pt", weights_only=True)
        torch.save(
            {
                "weights": dict(run.model.state_dict()),
                "bank": {key: value for key, value in state["task"].items() if key.startswith("bank.")},
                "temporal": temporal,
            },
            folder / f"{name}.pt",
        )


def rank_main(rank: int, folder: Path, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        run_stages(folder, "two")


def test_two_processes_equal_one_and_an_image_step_touches_nothing_temporal(tmp_path: Path) -> None:
    spawn(rank_main, (tmp_path, 29_511 + os.getpid() % 1000), nprocs=2)
    run_stages(tmp_path, "one")
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    for name, value in one["weights"].items():
        # Adam divides a gradient by its own size: rounding may move single weights by a part of the rate (0.003) a step
        difference = (two["weights"][name] - value).abs()
        assert float(difference.max()) < 1e-3 and float(difference.mean()) < 1e-5, name
    for name, value in one["bank"].items():
        torch.testing.assert_close(two["bank"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert one["bank"]["bank.pushed"] == 4 * 8, "pushed once for each step of the last stage, whole batches"
    assert one["temporal"] == two["temporal"] == []
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for left, right in zip(*lines, strict=True):
        assert left["medium"] == right["medium"]
        for key in ("loss", "univlc", "vlm", "lm", "masked", "words", "gradient_norm"):
            if key in left:
                assert abs(left[key] - right[key]) < 2e-5 * max(1.0, left[key]), (left["step"], key)
        assert left.get("match_accuracy") == right.get("match_accuracy"), "the same negatives were drawn"


def test_torchrun_trains_on_the_world_and_equals_one_process(tmp_path: Path) -> None:
    """One text stage and one image stage; without dropout the numbers are those of one process."""
    words = ["train", "image_only", "--train.steps", "2", "--data.batch_size", "8", "--task.bank_size", "16"]
    words += ["--device", "cpu", "--seed", "1", "--model.text.dropout", "0", "--model.vision.image_size", "32"]
    words += ["--model.vision.layers", "1", "--evaluation.num_items", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", launch)):
        command = [*start, "-m", "omnivl", *words, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for left, right in zip(one, two, strict=True):
        assert abs(left["loss"] - right["loss"]) < 1e-3 * left["loss"]
    assert (tmp_path / "two/results.json").exists()


def test_without_torchrun_every_collective_is_a_no_op() -> None:
    rows = torch.randn(3, 2)
    assert torch.equal(distributed.gather(rows), rows) and torch.equal(distributed.gather_padded(rows, 0), rows)
    assert distributed.gather_with_gradient(rows) is rows
    assert (distributed.rank(), distributed.world_size(), distributed.gather_objects("x")) == (0, 1, ["x"])
    assert (
        float(distributed.share(torch.tensor(6.0), 3)) == 2.0 and float(distributed.share(torch.tensor(0.0), 0)) == 0.0
    )
