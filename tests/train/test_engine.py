"""A stage's task made ready to take steps: recomputed activations, compiled blocks, how ranks are used, validation."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from omnivl import distributed
from omnivl.config import ConfigError, OptimConfig, TrainConfig
from omnivl.train.engine import Engine
from tests.training import TINY, TinyRun, make_batch, pretrain_task, stage_config, tiny_model

CPU = torch.device("cpu")
DROPPING = replace(TINY, vision=replace(TINY.vision, layers=4, drop_path=0.3))  # and the text's dropout


def engine(**train: Any) -> Engine:
    return Engine(pretrain_task(tiny_model(DROPPING)), TrainConfig(**train), OptimConfig(clip=0.0), CPU, None)


def step(engine: Engine, medium: str) -> dict[str, Tensor]:
    """The gradients of a step."""
    engine.take_step(make_batch(medium, 4, 0), 0, (0, 0, 0), 1)
    return {n: p.grad.clone() for n, p in engine.task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("medium", ["image", "video"])
def test_recomputed_activations_give_the_same_gradients_bit_for_bit_dropout_and_drop_path_included(medium: str) -> None:
    kept, recomputed = step(engine(), medium), step(engine(checkpoint_activations=True), medium)
    assert list(kept) == list(recomputed) and len(kept) > 60
    for name, gradient in kept.items():
        assert torch.equal(gradient, recomputed[name]), name


def kept_bytes(engine: Engine) -> int:
    """How many bytes the forward pass of a step keeps for the backward one, parameters aside."""
    found: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in engine.task.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = engine.module(make_batch("video", 8, 0), 0, 0)
    assert losses.total.requires_grad
    return sum(found.values())


def test_recomputing_keeps_less_and_is_undone_where_the_next_stage_does_not_want_it() -> None:
    task = pretrain_task(tiny_model(DROPPING))
    kept = [
        kept_bytes(Engine(task, TrainConfig(checkpoint_activations=recomputed), OptimConfig(), CPU, None))
        for recomputed in (False, True, False)
    ]
    assert kept[1] < kept[0] / 2 and kept[2] == pytest.approx(kept[0], rel=0.01)


def test_a_copy_of_a_model_that_recomputes_is_a_model_of_its_own() -> None:
    """A later stage's momentum copy is one, and so is what FSDP shards."""
    trained = engine(checkpoint_activations=True).task
    other = copy.deepcopy(trained)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    pixels = make_batch("video", 2, 0).pixels
    assert pixels is not None
    assert float(other.model.encode_visual(pixels).embed.abs().max().detach()) > 0


# --- compiling -------------------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Compiles without generating code, which takes a minute, and counts what was compiled."""
    import torch._dynamo.utils as utils

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **words: real(model, **words, backend="eager"))
    torch.compiler.reset()
    utils.counters.clear()
    return lambda: utils.counters["stats"]["unique_graphs"]


def test_each_medium_is_compiled_once_whatever_texts_come_and_whatever_is_validated(graphs: Callable[[], int]) -> None:
    stages = (stage_config("image", 2), stage_config("image video", 4, validate_every=2))
    counted: list[int] = []
    runs = []
    for compiled in (True, False):
        wanted = (replace(stage, train=replace(stage.train, compile=compiled)) for stage in stages)
        run = TinyRun(*wanted)
        make, record = run.trainer.make_stage, run.trainer.record

        def validated(number: int, run: TinyRun = run, make: Any = make) -> Any:
            def validate() -> dict[str, float]:
                assert not run.model.training
                pixels = make_batch("image", 3, 0).pixels  # of a size that no step has
                assert pixels is not None
                return {"mean": float(run.model.encode_visual(pixels).embed.mean().detach())}

            return replace(make(number), validate=validate)

        def note(*words: Any, record: Any = record) -> None:
            counted.append(graphs())
            record(*words)

        vars(run.trainer).update(make_stage=validated, record=note)
        runs.append(run.train().model)
    # three codes a medium: a block of the model, one of its copy, and the copy's last, which sees to [CLS] alone
    assert counted == [3, 3, 3, 6, 6, 6] + [6] * 6
    for (name, value), other in zip(runs[0].state_dict().items(), runs[1].state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


def test_blocks_of_many_rates_of_drop_path_are_all_compiled(graphs: Callable[[], int]) -> None:
    deep = replace(DROPPING, vision=replace(DROPPING.vision, layers=10))
    task = pretrain_task(tiny_model(deep))
    Engine(task, TrainConfig(compile=True), OptimConfig(), CPU, None).module(make_batch("image", 4, 0), 0, 0)
    assert graphs() == 10 + 2  # one a rate, and the copy's, which drops nothing


# --- how ranks are used ----------------------------------------------------------------------------------------------


def test_one_process_is_neither_ddp_nor_fsdp() -> None:
    assert distributed.choose("fsdp", torch.nn.Linear(2, 2), CPU, None) == "one"


def test_several_processes_choose_fsdp_where_ddp_may_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, module = torch.device("cuda"), torch.nn.Linear(1000, 1000, bias=False)
    monkeypatch.setattr("omnivl.distributed.parallel.world_size", lambda: 2)
    for memory, wanted in ((31_000_000, "fsdp"), (40_000_000, "ddp")):  # 16 bytes a parameter that learns
        card = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert distributed.choose("auto", module, cuda, torch.bfloat16) == wanted
        assert distributed.choose("auto", module, cuda, torch.float16) == "ddp"
    module.requires_grad_(False)
    assert distributed.choose("auto", module, cuda, None) == "ddp"  # 4 bytes
    assert distributed.choose("auto", module, CPU, None) == "ddp"
    assert [distributed.choose(each, module, CPU, None) for each in ("ddp", "fsdp")] == ["ddp", "fsdp"]
    with pytest.raises(ConfigError, match=r"fsdp does not go with train\.precision fp16: choose bf16, or ddp"):
        distributed.choose("fsdp", module, CPU, torch.float16)
