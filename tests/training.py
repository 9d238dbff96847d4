"""A tiny pretraining run that reads no files: its batches are a function of the step, shared out among ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omnivl import distributed
from omnivl.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StageConfig,
    TaskConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from omnivl.data.sample import Batch
from omnivl.model import OmniVL, load_model, save_weights
from omnivl.tasks.pretrain import PretrainTask, TextTask
from omnivl.train.checkpoint import RunFolder, SaveModel, checkpoint_steps, copy_to_host
from omnivl.train.trainer import Stage, Trainer

PAD, CLS, SEP, ENC, DEC, MASK, WORDS, VOCABULARY = 0, 1, 2, 3, 4, 5, 6, 40

TINY = ModelConfig(
    vision=VisionConfig(image_size=32, patch_size=16, num_frames=4, width=16, layers=2, heads=2, mlp_width=32),
    text=TextConfig(vocab_size=VOCABULARY, width=16, layers=1, heads=2, mlp_width=32, max_positions=16),
    embed_dim=8,
)
STILL = replace(TINY, text=replace(TINY.text, dropout=0.0))  # without dropout
TASK = TaskConfig(bank_size=20, momentum=0.9)


def tiny_model(config: ModelConfig = TINY, seed: int = 0) -> OmniVL:
    torch.manual_seed(seed)
    return OmniVL(config)


def make_batch(medium: str, size: int, seed: int, labels: list[int] | None = None) -> Batch:
    """Random pixels (size, 1 or 4, 3, 32, 32) and texts of 4 to 9 tokens."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 10, (size,), generator=draw)
    place = torch.arange(int(lengths.max()))
    mask = (place < lengths[:, None]).long()
    ids = torch.randint(WORDS, VOCABULARY, mask.shape, generator=draw)
    ids[:, 0] = CLS
    ids[torch.arange(size), lengths - 1] = SEP
    frames = {"image": 1, "video": 4, "text": 0}[medium]
    pixels = torch.randint(0, 256, (size, frames, 3, 32, 32), generator=draw, dtype=torch.uint8) if frames else None
    names = torch.arange(size) + 100 * seed if labels is None else torch.tensor(labels)
    keys = [f"{medium} {seed}.{i}" for i in range(size)]
    return Batch(medium, pixels, ids * mask, mask, names, keys)


def rank_part(batch: Batch, micros: int = 1) -> Batch:
    """This rank's rows of a global batch: its part of each micro-batch, padded no further than it needs."""
    world, rank = distributed.world_size(), distributed.rank()
    rows = torch.arange(len(batch)).view(micros, world, -1)[:, rank].flatten()
    mask = batch.mask[rows]
    longest = int(mask.sum(1).max())
    pixels = None if batch.pixels is None else batch.pixels[rows]
    keys = [batch.keys[i] for i in rows.tolist()]
    bad = batch.bad[rank::world]
    return Batch(batch.medium, pixels, batch.ids[rows, :longest], mask[:, :longest], batch.labels[rows], keys, bad)


def pretrain_task(model: OmniVL, config: TaskConfig = TASK, seed: int = 0) -> PretrainTask:
    return PretrainTask(model, config, seed, enc_id=ENC, dec_id=DEC, pad_id=PAD)


def text_task(model: OmniVL, config: TaskConfig = TASK, seed: int = 0) -> TextTask:
    return TextTask(model, config, seed, mask_id=MASK, special_ids=(PAD, CLS, SEP, ENC, DEC, MASK))


def stage_config(name: str, steps: int, task: TaskConfig = TASK, size: int = 8, **train: Any) -> StageConfig:
    """`name` says which media take turns: "image", "image video", ..., or "text"."""
    return StageConfig(
        name=name,
        data=DataConfig(batch_size=size),
        task=replace(task, name="text" if name == "text" else "pretrain"),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, text_lr_factor=0.5),
        train=TrainConfig(**{"checkpoint_every": 0, "precision": "fp32", **train}, steps=steps),
    )


class TinyRun:
    """A run around one model: new, or from a checkpoint of `folder`."""

    def __init__(
        self,
        *stages: StageConfig,
        folder: Path | None = None,
        resume: bool = False,
        model: ModelConfig = TINY,
        alter: Callable[[int, int, Batch], Batch] = lambda stage, step, batch: batch,
    ) -> None:
        self.config = RunConfig(model=model, stages=stages)
        self.folder = RunFolder(folder) if folder and distributed.is_main() else None
        self.checkpoint: Path | None = None
        if resume:
            assert folder
            self.checkpoint = folder / f"checkpoints/step-{checkpoint_steps(folder)[-1]}"
        self.model = load_model(self.checkpoint) if self.checkpoint else tiny_model(model)
        self.alter = alter
        self.trainer = Trainer(self.config, self.stage, self.copy, self.folder, torch.device("cpu"))

    def copy(self) -> SaveModel:
        model = copy_to_host(self.model)
        return lambda to: save_weights(model, to)

    def stage(self, number: int) -> Stage:
        config = self.config.stages[number]
        media = config.name.split()

        def batches(first: int, last: int) -> Any:
            for step in range(first, last):
                medium = media[step % len(media)]
                whole = make_batch(medium, config.data.batch_size, 1000 * number + step)
                yield rank_part(self.alter(number, step, whole), config.train.accumulate)

        torch.manual_seed(number)
        task = (
            text_task(self.model, config.task) if config.task.name == "text" else pretrain_task(self.model, config.task)
        )
        return Stage(config, task, batches, f"batches of {config.data.batch_size}")

    def train(self) -> "TinyRun":
        try:
            self.trainer.train(self.checkpoint)
        finally:
            if self.folder:
                self.folder.close()
        return self


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal bit for bit, whatever it is made of."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
