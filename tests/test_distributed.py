"""Two or three processes on parts of a batch equal one on the whole, under DDP and FSDP2 (method, invariants 2 and 8);
what some processes saved others go on with; and no rank waits for ever."""

import json
import os
import shutil
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
from torch.utils._python_dispatch import TorchDispatchMode

from omnivl import distributed
from omnivl.data.sample import Batch
from omnivl.distributed.parallel import is_sharded, local
from omnivl.train.checkpoint import RunFolder, checkpoint_steps, read_state
from omnivl.train.stopping import Stopped, TrainingError
from tests.training import STILL, TASK, TinyRun, assert_same, pretrain_task, stage_config, tiny_model

# All losses, banks and global negatives are on; in the last stage shares are so small that a rank may have no row.
SHARES = replace(TASK, match_share=0.125, lm_share=0.125, video_lm_share=0.125)
STAGES = tuple(
    replace(stage, optim=replace(stage.optim, eps=1e-2))  # with a small one rounding decides where a gradient is nought
    for stage in (
        stage_config("text", 2, size=12),
        stage_config("image", 3, size=12, accumulate=2),
        stage_config("image video", 4, size=12, checkpoint_every=2, keep_checkpoints=9),
        stage_config("video", 4, SHARES, size=12, keep_checkpoints=9),
    )
)
SAVED = 7  # the step that others go on from: between stages' ends
ONE_LABEL = (2, 2)  # stage and step whose samples all have one label: matching has nothing to do


def alter(stage: int, step: int, batch: Batch) -> Batch:
    return replace(batch, labels=torch.zeros_like(batch.labels)) if (stage, step) == ONE_LABEL else batch


def run_stages(folder: Path, name: str, *, resume: bool = False, **train: Any) -> None:
    """Train, and leave the weights that each rank ends with, what image steps left in its temporal gradients, and how
    much of the parameters it holds."""
    stages = (replace(stage, train=replace(stage.train, **train)) for stage in STAGES)
    run = TinyRun(*stages, folder=folder / name, model=STILL, alter=alter, resume=resume)
    record = run.trainer.record
    touched: list[str] = []

    def look(*words: Any) -> None:
        if run.trainer.stage.config.name == "image":
            named = run.trainer.engine.task.model.visual.named_parameters()
            touched.extend(
                n for n, p in named if ("temporal" in n or "time" in n or "video" in n) and p.grad is not None
            )
        record(*words)

    vars(run.trainer)["record"] = look
    run.train()
    task = run.trainer.engine.task
    held = {n: (p.numel(), local(p).numel()) for n, p in task.named_parameters() if is_sharded(p)}
    parameters = sum(p.numel() for p in task.parameters())
    everything = {"weights": dict(run.model.state_dict()), "touched": touched, "held": held, "all": parameters}
    torch.save(everything, folder / f"{name}.{distributed.rank()}.pt")


def hand_over(folder: Path, name: str) -> None:
    """A run folder that holds nothing but what two ranks under FSDP had saved at the step SAVED."""

    def copy() -> None:
        shutil.copytree(folder / f"fsdp2/checkpoints/step-{SAVED}", folder / f"{name}/checkpoints/step-{SAVED}")
        shutil.copy(folder / "fsdp2/metrics.jsonl", folder / name)

    distributed.main_first(copy)


# --- what ranks do, each in its process ------------------------------------------------------------------------------

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

    run.trainer.copy_model = lambda: full
    return run


def full_at_the_end(run: TinyRun) -> TinyRun:
    def full(step: int) -> None:
        raise TrainingError("model/ was not written: No space left on device")

    if run.folder:
        vars(run.folder)["publish"] = full
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
        "end": outcome(full_at_the_end(run("end")).train),
        "whole": outcome(run("whole").train),
        "resumed": outcome(run("signal", resume=True).train),
        "finished": outcome(run("whole", resume=True).train),
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


def in_half_precision(parallel: str) -> dict[str, torch.Tensor]:
    """The weights after two steps in bf16, and two micro-batches each: the temporal parts never run. DDP recomputes."""
    recomputed = parallel == "ddp"
    stage = stage_config(
        "image", 2, accumulate=2, precision="bf16", parallel=parallel, checkpoint_activations=recomputed
    )
    run = TinyRun(stage, model=STILL)
    run.train().trainer.engine.update_model()
    return dict(run.model.state_dict())


class Sent(TorchDispatchMode):
    """Names of the operations between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names += [str(func)] if "c10d" in str(func) else []
        return func(*args, **(kwargs or {}))


def reductions(accumulate: int) -> int:
    """How often gradients are sent in a step under FSDP."""
    run = TinyRun(stage_config("image", 1, accumulate=accumulate, parallel="fsdp"), model=STILL)
    with Sent() as sent:
        run.train()
    return sum("reduce_scatter" in name for name in sent.names)


def clipped() -> None:
    """The norm of a gradient of which each rank holds a part, and a number whole, is that of the whole gradient."""
    task = pretrain_task(tiny_model(STILL))
    distributed.shard(task, task.sharded_parts(), torch.device("cpu"), None)
    draw = torch.Generator().manual_seed(0)
    whole = {n: torch.randn(p.shape, generator=draw) for n, p in task.named_parameters() if p.requires_grad}
    for name, gradient in whole.items():
        parameter = task.get_parameter(name)
        parameter.grad = distributed.shard_like(gradient, parameter)
    wanted = torch.cat([gradient.flatten() for gradient in whole.values()]).norm()
    torch.testing.assert_close(distributed.clip_gradients(task, 2.0), wanted)
    gathered = distributed.whole([p.grad for p in task.parameters() if p.requires_grad])
    if distributed.is_main():
        torch.testing.assert_close(torch.cat([g.flatten() for g in gathered]).norm(), torch.tensor(2.0))


def rank_main(rank: int, folder: Path, port: int, world: int) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        if world == 2:
            collectives()
            run_stages(folder, "ddp2", parallel="ddp")
            run_stages(folder, "fsdp2", parallel="fsdp")
            torch.save([in_half_precision(each) for each in ("ddp", "fsdp")], folder / "half.pt")
            assert reductions(2) == reductions(1) > 0, "gradients are sent once a step"
            (folder / f"ends.{rank}.json").write_text(json.dumps(stops(folder)))
        else:
            run_stages(folder, "fsdp3", parallel="fsdp", checkpoint_activations=True)
        clipped()
        hand_over(folder, f"on{world}")
        run_stages(folder, f"on{world}", parallel="fsdp", resume=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two and three ranks left, and one process beside them."""
    folder = tmp_path_factory.mktemp("ranks")
    for world in (2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        spawn(rank_main, (folder, port, world), nprocs=world)
    run_stages(folder, "one")
    hand_over(folder, "on1")
    run_stages(folder, "on1", resume=True)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


RUNS = {"ddp2": 2, "fsdp2": 2, "fsdp3": 3, "on1": 1, "on3": 3}  # each beside one process, and its ranks


@pytest.mark.parametrize("name", RUNS)
def test_processes_have_the_losses_of_one_on_texts_images_and_videos_also_under_accumulation(
    folder: Path, name: str
) -> None:
    one, many = lines(folder / "one"), lines(folder / name)
    assert [line["medium"] for line in many] == ["text"] * 2 + ["image"] * 3 + ["image", "video"] * 2 + ["video"] * 4
    timings = ("seconds", "samples_per_second")
    for left, right in zip(one, many, strict=True):
        assert list(left) == list(right)
        for key, value in left.items():
            if key not in timings:
                wanted = pytest.approx(value, abs=1e-5, rel=1e-5) if isinstance(value, float) else value
                assert right[key] == wanted, (left["step"], key)
    nothing = one[2 + 3 + ONE_LABEL[1]]
    assert nothing["vlm"] == 0 and nothing["match_accuracy"] is None, "a batch of one label has no negatives"


@pytest.mark.parametrize("name", RUNS)
def test_processes_make_the_weights_momentum_copy_banks_and_optimiser_of_one(folder: Path, name: str) -> None:
    one, many, last = (load(folder, each) for each in ("one.0", f"{name}.0", f"{name}.{RUNS[name] - 1}"))
    moved = 0.0
    start = dict(TinyRun(*STAGES, model=STILL).model.state_dict())
    for key, value in one["weights"].items():
        torch.testing.assert_close(many["weights"][key], value, atol=1e-5, rtol=1e-5, msg=key)
        assert torch.equal(many["weights"][key], last["weights"][key]), f"ranks drift apart in {key}"
        moved = max(moved, float((value - start[key]).abs().max()))
    assert moved > 1e-3
    states = [read_state(folder / each / "checkpoints/step-13") for each in ("one", name)]
    assert list(states[0]["task"]) == list(states[1]["task"]) and {"bank.visual", "bank.pushed"} <= set(
        states[0]["task"]
    )
    for key, value in states[0]["task"].items():
        torch.testing.assert_close(states[1]["task"][key], value, atol=1e-5, rtol=1e-5, msg=key)
    assert states[0]["task"]["bank.pushed"] == 4 * 12, "whole batches, once for each step of the last stage"
    first, second = (state["optimizer"] for state in states)
    assert first["param_groups"] == second["param_groups"] and list(first["state"]) == list(second["state"])
    for number, own in first["state"].items():
        for key, value in own.items():
            torch.testing.assert_close(second["state"][number][key], value, atol=1e-4, rtol=1e-4, msg=f"{number} {key}")


def load(folder: Path, name: str) -> Any:
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("name", ["one.0", "ddp2.0", "ddp2.1", "fsdp2.0", "fsdp2.1", "fsdp3.2"])
def test_an_image_step_leaves_temporal_gradients_none_on_every_rank(folder: Path, name: str) -> None:
    assert load(folder, name)["touched"] == []


@pytest.mark.parametrize("world", [2, 3])
def test_under_fsdp_every_rank_holds_its_part_of_every_tensor_the_momentum_copy_included(
    folder: Path, world: int
) -> None:
    ranks = [load(folder, f"fsdp{world}.{rank}") for rank in range(world)]
    held = ranks[0]["held"]
    assert sum(whole for whole, _ in held.values()) == ranks[0]["all"] - 2, "all but the two temperatures"
    for name, (whole, _) in held.items():
        assert sum(each["held"][name][1] for each in ranks) == whole, name
    parts = {n: part for n, (_, part) in held.items()}
    slow = {n.removeprefix("momentum.encoders."): part for n, part in parts.items() if n.startswith("momentum.")}
    assert len(slow) > 50 and all(parts[f"model.{n}"] == part for n, part in slow.items())


def test_what_two_ranks_saved_two_ranks_go_on_with_bit_for_bit(folder: Path) -> None:
    states = [read_state(folder / name / "checkpoints/step-13") for name in ("fsdp2", "on2")]
    for state in states:
        del state["seconds"]
    assert_same(states[0], states[1])
    weights = [(folder / name / "model/model.safetensors").read_bytes() for name in ("fsdp2", "on2")]
    assert weights[0] == weights[1]


def test_in_bf16_fsdp_gathers_what_autocast_would_cast(folder: Path) -> None:
    ddp, fsdp = load(folder, "half")
    for name, value in ddp.items():
        torch.testing.assert_close(fsdp[name], value, atol=1e-6, rtol=1e-5, msg=name)


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
    assert first["end"] == second["end"] == "TrainingError: model/ was not written: No space left on device"
    assert first["finished"] == second["finished"] == "done"
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


def test_torchrun_trains_on_the_world_under_fsdp_and_equals_one_process(tmp_path: Path) -> None:
    """One text stage and one image stage, and what is measured after; without dropout the numbers are those of one
    process."""
    words = ["train", "image_only", "--train.steps", "2", "--data.batch_size", "8", "--task.bank_size", "16"]
    words += ["--device", "cpu", "--seed", "1", "--model.text.dropout", "0", "--model.vision.image_size", "32"]
    words += ["--model.vision.layers", "1", "--evaluation.num_items", "8", "--optim.eps", "0.01"]
    words += ["--train.parallel", "fsdp", "--stages.1.train.validate_every", "2"]
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
