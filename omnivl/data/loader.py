"""Which sample stands at which step is a pure function (`Plan`); the loader only carries it out.

`Plan` knows the seed, the sources' sizes and the ranks, and computes step -> medium and step -> the samples of a rank,
in closed form: resuming is starting at another step, with any number of workers. Random numbers of a sample are keyed
by (seed, source name, epoch, index, attempt), so they do not depend on who draws them. This room never sees the model.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from omnivl.config import DataConfig
from omnivl.data.sample import BadSample, Batch, Sample, collate
from omnivl.data.sources import Ask, Source

CYCLE = 10_000  # slots over which sources keep their exact shares
STEP_CYCLE = 100  # steps over which media keep theirs
ATTEMPTS = 8  # replacements tried for a bad sample
VERSION = 1  # of the plan: raised when the same numbers would give other samples


def generator(*key: Any) -> np.random.Generator:
    """Random numbers that are a function of the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


@lru_cache(maxsize=16)
def permutation(length: int, *key: Any) -> np.ndarray:
    return generator("permutation", *key).permutation(length)


@lru_cache(maxsize=64)
def shuffled_shares(counts: tuple[int, ...], *key: Any) -> tuple[np.ndarray, np.ndarray]:
    """One cycle: who stands at each place, each exactly `counts` times, and how often it stood there before."""
    who = generator("shares", *key).permutation(np.repeat(np.arange(len(counts)), counts))
    before = np.zeros(len(who), dtype=np.int64)
    for i in range(len(counts)):
        at = who == i
        before[at] = np.arange(at.sum())
    return who, before


@dataclass(frozen=True)
class Key:
    """One sample of the plan."""

    source: int
    medium: str
    epoch: int
    index: int


class Plan:
    """step -> medium, and step -> keys of this rank.

    Args:
        data: a stage's data settings; `batch_size` is over all ranks.
        lengths: for each source, medium -> number of samples.
        names, groups: of the sources; a group of g neighbours fills g adjacent slots.

    Raises ValueError where nothing can be drawn, or a batch does not divide by ranks or groups.
    """

    def __init__(
        self,
        data: DataConfig,
        seed: int,
        names: Sequence[str],
        lengths: Sequence[dict[str, int]],
        groups: Sequence[int],
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, self.names, self.lengths, self.groups = seed, names, lengths, groups
        self.rank, self.world = rank, world
        # round() so that 0.7 of 100 steps is 70
        video_steps = {"image": 0, "text": 0, "video": STEP_CYCLE, "both": round(data.video_share * STEP_CYCLE)}
        self.steps = (STEP_CYCLE - video_steps[data.media], video_steps[data.media])
        if data.media == "both" and not 0 < data.video_share < 1:
            raise ValueError(
                f"data.video_share is {data.video_share:g}, wanted above 0 and below 1; "
                "for one medium alone set data.media"
            )
        self.media = ("text" if data.media == "text" else "image", "video")
        self.batch: dict[str, int] = {}
        self.members: dict[str, list[int]] = {}
        self.block: dict[str, int] = {}  # adjacent slots that one group fills
        self.counts: dict[str, tuple[int, ...]] = {}
        for medium, steps in zip(self.media, self.steps, strict=True):
            if steps:
                self._mix(data, medium)

    def _mix(self, data: DataConfig, medium: str) -> None:
        batch = (data.video_batch_size if medium == "video" else 0) or data.batch_size
        members = [i for i, length in enumerate(self.lengths) if length.get(medium, 0) > 0]
        if not members:
            wanted = {"image": "pictures", "video": "clips", "text": "captions"}[medium]
            raise ValueError(f"no source has any {wanted}: {', '.join(self.names) or 'data.sources is empty'}")
        if batch < 1 or batch % self.world:
            raise ValueError(f"a batch of {batch} {medium} samples does not divide over {self.world} processes")
        block = max(self.groups[i] for i in members) if medium == "video" else 1
        if (batch // self.world) % block:
            raise ValueError(f"a batch of {batch // self.world} clips a process does not divide in groups of {block}")
        if data.weights:
            if len(data.weights) != len(self.names):
                raise ValueError(f"data.weights has {len(data.weights)} numbers for {len(self.names)} sources")
            weights = np.array([data.weights[i] for i in members], dtype=float)
        else:
            weights = np.array([self.lengths[i][medium] for i in members], dtype=float) ** (1 / data.mixing_temperature)
        if (weights <= 0).any():
            raise ValueError("data.weights must all be above 0; leave a source out instead")
        exact = weights / weights.sum() * CYCLE
        counts = np.floor(exact).astype(int)
        for i in np.argsort(counts - exact, kind="stable")[: CYCLE - counts.sum()]:
            counts[i] += 1
        if (counts == 0).any():
            name = self.names[members[int(np.argmin(counts))]]
            raise ValueError(
                f"source {name} would get less than 1 in {CYCLE:,} samples: raise its weight or leave it out"
            )
        self.batch[medium], self.members[medium], self.block[medium] = batch, members, block
        self.counts[medium] = tuple(counts.tolist())

    def _step(self, step: int) -> tuple[str, int]:
        cycle, place = divmod(step, STEP_CYCLE)
        who, before = shuffled_shares(self.steps, self.seed, "medium", cycle)
        return self.media[who[place]], cycle * self.steps[who[place]] + int(before[place])

    def medium(self, step: int) -> str:
        """The medium of a step, the same on every rank."""
        return self._step(step)[0]

    def keys(self, step: int) -> list[Key]:
        """The samples of this rank at a step, counted from 0."""
        medium, nth = self._step(step)
        each = self.batch[medium] // self.world
        first = (nth * self.world + self.rank) * each
        return [self._key(medium, slot) for slot in range(first, first + each)]

    def _key(self, medium: str, slot: int) -> Key:
        grouped = self.block[medium]
        block, inside = divmod(slot, grouped)
        cycle, place = divmod(block, CYCLE)
        counts = self.counts[medium]
        who, before = shuffled_shares(counts, self.seed, medium, cycle)
        member = int(who[place])
        source = self.members[medium][member]
        nth_block = cycle * counts[member] + int(before[place])
        length = self.lengths[source][medium]
        together = self.groups[source] if medium == "video" else 1
        if together == grouped:  # the block is one group of the source
            epoch, position = divmod(nth_block, length // together)
            index = int(permutation(length // together, self.seed, self.names[source], medium, epoch)[position])
            return Key(source, medium, epoch, index * together + inside)
        epoch, position = divmod(nth_block * grouped + inside, length)
        return Key(
            source, medium, epoch, int(permutation(length, self.seed, self.names[source], medium, epoch)[position])
        )

    def fingerprint(self) -> str:
        """Names everything the plan depends on but the step; a resumed run must have the same."""
        parts = (VERSION, self.seed, self.names, self.lengths, self.groups, self.steps, self.batch, self.counts)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class PlannedBatches(Dataset[Batch]):
    """A step's keys -> its `Batch`. Runs in the workers; a bad sample is replaced as a whole, or raised."""

    def __init__(
        self, sources: Sequence[Source], asks: Ask, tokenizer: Any, seed: int, max_tokens: int, on_bad: str
    ) -> None:
        self.sources, self.ask, self.tokenizer = sources, asks, tokenizer
        self.seed, self.max_tokens, self.on_bad = seed, max_tokens, on_bad

    def __getitem__(self, keys: list[Key]) -> Batch:
        return collate([self.sample(key) for key in keys], keys[0].medium, self.tokenizer, self.max_tokens)

    def sample(self, key: Key) -> Sample:
        source = self.sources[key.source]
        bad: list[tuple[str, str]] = []
        index = key.index
        for attempt in range(ATTEMPTS + 1):
            rng = generator(self.seed, "augment", source.name, key.medium, key.epoch, key.index, attempt)
            try:
                sample = source.read(key.medium, index, rng, self.ask)
                sample.bad = tuple(bad)
                return sample
            except BadSample as error:
                if self.on_bad == "raise":
                    raise
                bad.append((source.name, str(error)))
                draw = generator(self.seed, "replace", source.name, key.medium, key.epoch, key.index, attempt)
                index = int(draw.integers(source.length(key.medium)))
        raise ValueError(f"{source.name}: {ATTEMPTS + 1} samples in a row cannot be read; the last: {bad[-1][1]}")


class _Steps(Sampler[list[Key]]):
    def __init__(self, plan: Plan, first: int, last: int) -> None:
        self.plan, self.first, self.last = plan, first, last

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.plan.keys(step) for step in range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first


def training_loader(
    plan: Plan, batches: PlannedBatches, first: int, last: int, num_workers: int, *, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Batches of the steps first..last-1 of this rank, in order."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=_Steps(plan, first, last),
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
        timeout=600 if num_workers else 0,  # a worker that hangs on a file becomes an error
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each iteration draws from the global one, and a resumed run differs
    )
