"""Which sample stands at which step: a pure function of the seed, the step and the sources' sizes.

`Plan` computes step -> medium and step -> the samples of a rank in closed form, so resuming is starting at another
step, and any number of workers or ranks sees the same batches. What the paper (OmniVL, arXiv 2209.07526) tells is which
data each stage has; how they follow each other is ours. This room opens no source and knows no tensor.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from omnivl.config import DataConfig

log = logging.getLogger(__name__)

CYCLE = 10_000  # blocks over which sources keep their exact shares
STEP_CYCLES = (100, 1000, 10_000)  # steps over which media keep theirs: the first that divides evenly
LARGE = 10_000_000  # samples: the order of a longer source is computed place by place instead of held in memory
VERSION = 1  # raised when the same numbers would give other samples


# --- numbers that are functions of a key -----------------------------------------------------------------------------


def generator(*key: Any) -> np.random.Generator:
    """Random numbers that are a function of the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


class Shuffled:
    """0..length-1 in a random order that takes no memory: a Feistel network over the next power of four, gone through
    again where it leads past the end."""

    def __init__(self, length: int, rng: np.random.Generator) -> None:
        self.length = length
        self.half = max(1, ((length - 1).bit_length() + 1) // 2)  # bits
        self.keys = rng.integers(1 << 63, size=6).tolist()

    def __getitem__(self, place: int) -> int:
        mask = (1 << self.half) - 1
        while True:
            left, right = place >> self.half, place & mask
            for key in self.keys:
                mixed = (right ^ key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
                mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
                left, right = right, left ^ (mixed >> 32 & mask)
            place = left << self.half | right
            if place < self.length:
                return place


def order(length: int, *key: Any) -> np.ndarray | Shuffled:
    """A permutation of 0..length-1 that is a function of the key."""
    rng = generator("permutation", *key)
    return Shuffled(length, rng) if length > LARGE else rng.permutation(length).astype(np.uint32)


@lru_cache(maxsize=64)
def shuffled_shares(counts: tuple[int, ...], *key: Any) -> tuple[np.ndarray, np.ndarray]:
    """One cycle: who stands at each place, each exactly `counts` times, and how often it stood there before."""
    who = generator("shares", *key).permutation(np.repeat(np.arange(len(counts)), counts))
    before = np.zeros(len(who), dtype=np.int64)
    for i in range(len(counts)):
        at = who == i
        before[at] = np.arange(at.sum())
    return who, before


def whole_shares(weights: np.ndarray) -> np.ndarray:
    """CYCLE in whole parts as near to the weights as can be (largest remainders)."""
    exact = weights / weights.sum() * CYCLE
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: CYCLE - counts.sum()]:
        counts[i] += 1
    return counts


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One sample of the plan."""

    source: int
    medium: str
    epoch: int
    index: int


@dataclass(frozen=True)
class Mix:
    """How the batches of one medium are put together."""

    batch: int  # samples over all ranks
    block: int  # adjacent slots of one source: a group of clips
    members: tuple[int, ...]  # sources that have the medium
    counts: tuple[int, ...]  # blocks of each member in a cycle


class Plan:
    """step -> medium, and step -> keys of this rank. With the same batch size, any number of ranks sees the same
    batches.

    Args:
        data: a stage's data settings; `batch_size` is over all ranks.
        lengths: for each source, medium -> number of samples.
        names, groups: of the sources; a group of g neighbours fills g adjacent slots.
        accumulate: micro-batches of a step. Each is dealt over the ranks on its own, so that all ranks' parts of one
            are the micro-batch of one process.

    Raises ValueError where nothing can be drawn, a source would never come, or a batch does not divide by ranks or
    groups.
    """

    def __init__(
        self,
        data: DataConfig,
        seed: int,
        names: Sequence[str],
        lengths: Sequence[Mapping[str, int]],
        groups: Sequence[int],
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.seed, self.names, self.lengths, self.groups = seed, list(names), list(lengths), list(groups)
        self.rank, self.world, self.accumulate = rank, world, accumulate
        check_mixing(data, self.names)
        self.media = ("text" if data.media == "text" else "image", "video")
        self.steps = step_shares(data)
        self.cycle = sum(self.steps)
        self.mixes = {m: self._mix(data, m) for m, steps in zip(self.media, self.steps, strict=True) if steps}
        self._orders: dict[tuple[int, str], tuple[int, np.ndarray | Shuffled]] = {}  # of each source's present epoch

    def _mix(self, data: DataConfig, medium: str) -> Mix:
        batch = (data.video_batch_size if medium == "video" else 0) or data.batch_size
        wanted = {"image": "pictures", "video": "clips", "text": "captions"}[medium]
        members = [i for i, length in enumerate(self.lengths) if length.get(medium, 0) > 0]
        if not members:
            raise ValueError(
                f"no source has any {wanted}: {', '.join(self.names) or 'data.sources is empty'}; add one that has, or "
                f"set data.media, now {data.media}, to what there is"
            )
        for i in sorted(set(range(len(self.names))) - set(members)):
            log.info("%s has no %s: none are drawn from it", self.names[i], wanted)
        setting = "data.video_batch_size" if medium == "video" and data.video_batch_size else "data.batch_size"
        parts = self.world * self.accumulate
        if batch < 1 or batch % parts:
            micros = f" with train.accumulate {self.accumulate}" if self.accumulate > 1 else ""
            raise ValueError(
                f"a batch of {batch} {medium} samples does not divide over {self.world} processes{micros}: "
                f"choose {setting} a multiple of {parts}"
            )
        groups = {i: self.groups[i] if medium == "video" else 1 for i in members}
        block = max(groups.values())
        if (batch // parts) % block:
            raise ValueError(
                f"a batch of {batch // parts} clips a process does not divide in groups of {block}: "
                f"choose {setting} a multiple of {parts * block}, or another data.group_size"
            )
        for i, group in groups.items():
            if block % group:
                raise ValueError(f"{self.names[i]} has groups of {group}, which do not fill blocks of {block}")
            if self.lengths[i][medium] < group:
                raise ValueError(f"{self.names[i]} has {self.lengths[i][medium]} clips, fewer than a group of {group}")
        if data.weights:
            weights = np.array([data.weights[i] for i in members])
        else:  # n^(1/T), of logarithms so that no T overflows
            logs = np.log([self.lengths[i][medium] for i in members]) / data.mixing_temperature
            weights = np.exp(logs - logs.max())
        counts = whole_shares(weights)
        if (counts == 0).any():
            name = self.names[members[int(np.argmin(counts))]]
            raise ValueError(
                f"source {name} would get less than 1 in {CYCLE:,} samples: raise its weight or leave it out"
            )
        return Mix(batch, block, tuple(members), tuple(counts.tolist()))

    def _step(self, step: int) -> tuple[str, int]:
        """The medium of a step, and how many steps before it had the same."""
        cycle, place = divmod(step, self.cycle)
        who, before = shuffled_shares(self.steps, self.seed, "medium", cycle)
        return self.media[who[place]], cycle * self.steps[who[place]] + int(before[place])

    def medium(self, step: int) -> str:
        """The medium of a step, the same on every rank."""
        return self._step(step)[0]

    def keys(self, step: int) -> list[Key]:
        """The samples of this rank at a step, counted from 0; its part of each micro-batch after the other."""
        medium, nth = self._step(step)
        each = self.mixes[medium].batch // (self.world * self.accumulate)
        firsts = [((nth * self.accumulate + m) * self.world + self.rank) * each for m in range(self.accumulate)]
        return [self._key(medium, slot) for first in firsts for slot in range(first, first + each)]

    def _key(self, medium: str, slot: int) -> Key:
        mix = self.mixes[medium]
        block, inside = divmod(slot, mix.block)
        cycle, place = divmod(block, CYCLE)
        who, before = shuffled_shares(mix.counts, self.seed, medium, cycle)
        member = int(who[place])
        nth_block = cycle * mix.counts[member] + int(before[place])
        source = mix.members[member]
        group = self.groups[source] if medium == "video" else 1  # a source without groups fills its block one by one
        number, inside = divmod(nth_block * mix.block + inside, group)
        epoch, position = divmod(number, self.lengths[source][medium] // group)
        return Key(source, medium, epoch, self._place(source, medium, epoch, position, group) * group + inside)

    def _place(self, source: int, medium: str, epoch: int, position: int, group: int) -> int:
        held = self._orders.get((source, medium))
        if held is None or held[0] != epoch:
            length = self.lengths[source][medium] // group
            held = epoch, order(length, self.seed, self.names[source], medium, epoch)
            self._orders[source, medium] = held
        return int(held[1][position])

    def fingerprint(self) -> str:
        """Names everything the plan depends on but the step and the ranks; a resumed run must have the same."""
        lengths = [sorted((medium, int(length)) for medium, length in each.items()) for each in self.lengths]
        parts = (VERSION, int(self.seed), self.names, lengths, self.groups, self.steps, sorted(self.mixes.items()))
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def check_mixing(data: DataConfig, names: Sequence[str]) -> None:
    """Refuse settings of mixing that make no sense. Raises ValueError."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"source {twice[0]} is listed twice: give it a larger weight in data.weights instead")
    if data.weights and len(data.weights) != len(names):
        raise ValueError(f"data.weights has {len(data.weights)} numbers for {len(names)} sources")
    if any(weight <= 0 for weight in data.weights):
        raise ValueError("data.weights must all be above 0; leave a source out instead")
    if data.mixing_temperature <= 0:
        raise ValueError(f"data.mixing_temperature is {data.mixing_temperature:g}, wanted above 0 (1: by size)")


def step_shares(data: DataConfig) -> tuple[int, int]:
    """Steps without and with video in a cycle. Raises ValueError where either would never come."""
    if data.media != "both":
        return (0, STEP_CYCLES[0]) if data.media == "video" else (STEP_CYCLES[0], 0)
    for cycle in STEP_CYCLES:
        videos = round(data.video_share * cycle)
        if abs(videos - data.video_share * cycle) < 1e-6:
            break
    if not 0 < videos < cycle:
        least = 1 / STEP_CYCLES[-1]
        raise ValueError(
            f"data.video_share is {data.video_share:g}, wanted from {least:g} to {1 - least:g}; "
            "for one medium alone set data.media"
        )
    return cycle - videos, videos
