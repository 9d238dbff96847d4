"""The plan against a plain loop that counts, and the loader's promises: exact resume, equal ranks, honest
replacements."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from omnivl.config import DataConfig
from omnivl.data.loader import ATTEMPTS, CYCLE, STEP_CYCLE, Key, Plan, PlannedBatches, training_loader
from omnivl.data.sample import BadSample, Batch, Sample
from omnivl.data.sources import Ask
from tests.helpers import mini_model

NAMES = ["a", "b"]
LENGTHS = [{"image": 30, "video": 12}, {"image": 10, "video": 0}]
ASK = Ask(32, 4, "bicubic")


class Numbers:
    """A source whose samples tell their number; those in `broken` cannot be read."""

    group_size = 1

    def __init__(self, name: str = "numbers", length: int = 20, broken: tuple[int, ...] = ()) -> None:
        self.name, self.count, self.broken = name, length, broken

    def length(self, medium: str) -> int:
        return self.count

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if index in self.broken:
            raise BadSample(f"{self.name}/{index}.jpg: broken")
        pixels = np.full((1 if medium == "image" else 4, 32, 32, 3), index, np.uint8)
        pixels[0, 0, 0, 0] = rng.integers(255)
        return Sample(pixels, f"text {index}", key=f"{self.name}/{index}")

    def texts(self, limit: int) -> list[str]:
        return []


def plan(*, rank: int = 0, world: int = 1, seed: int = 3, **changes: object) -> Plan:
    data = DataConfig(sources=("x:a", "x:b"), **{"batch_size": 8, "video_share": 0.3, **changes})  # type: ignore[arg-type]
    return Plan(data, seed, NAMES, LENGTHS, [1, 1], rank=rank, world=world)


def planned(source: Numbers, on_bad: str = "replace", seed: int = 0) -> PlannedBatches:
    return PlannedBatches([source], ASK, mini_model()[1], seed, 40, on_bad)


def numbers(batch: Batch) -> list[int]:
    assert batch.pixels is not None
    return batch.pixels[:, 0, 0, 5, 5].tolist()


def test_media_keep_their_exact_shares_and_nth_is_a_count() -> None:
    a_plan = plan()
    media = [a_plan.medium(step) for step in range(3 * STEP_CYCLE)]
    for cycle in range(3):
        assert Counter(media[cycle * STEP_CYCLE : (cycle + 1) * STEP_CYCLE]) == {"image": 70, "video": 30}
    assert media[:STEP_CYCLE] != media[STEP_CYCLE : 2 * STEP_CYCLE], "each cycle is shuffled anew"
    seen: Counter[str] = Counter()
    for step, medium in enumerate(media):
        assert a_plan._step(step) == (medium, seen[medium])
        seen[medium] += 1


def test_sources_keep_their_shares_and_each_item_stands_once_an_epoch() -> None:
    a_plan = plan(media="image")
    keys = [key for step in range(CYCLE // 8) for key in a_plan.keys(step)]
    assert Counter(key.source for key in keys) == {0: 7500, 1: 2500}
    for source, length in ((0, 30), (1, 10)):
        mine = [key for key in keys if key.source == source]
        for epoch in range(3):
            part = [key for key in mine if key.epoch == epoch]
            assert part == mine[epoch * length : (epoch + 1) * length], "epochs follow each other"
            assert sorted(key.index for key in part) == list(range(length))
        orders = [[key.index for key in mine if key.epoch == epoch] for epoch in (0, 1)]
        assert orders[0] != orders[1], "each epoch is shuffled anew"


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_batch_of_one_process(world: int) -> None:
    whole = plan()
    ranks = [plan(rank=rank, world=world) for rank in range(world)]
    for step in (0, 1, 17, 12_345):
        assert [key for rank in ranks for key in rank.keys(step)] == whole.keys(step)
        assert len({rank.medium(step) for rank in ranks}) == 1
    assert len({rank.fingerprint() for rank in ranks} | {whole.fingerprint()}) == 1


def test_groups_fill_adjacent_slots_and_every_member_comes_once_an_epoch() -> None:
    data = DataConfig(sources=("x:a", "x:b"), media="video", batch_size=8)
    a_plan = Plan(data, 0, NAMES, [{"video": 24}, {"video": 40}], [4, 1])
    keys = [key for step in range(CYCLE // 2) for key in a_plan.keys(step)]
    for first in range(0, len(keys), 4):
        block = keys[first : first + 4]
        assert len({key.source for key in block}) == 1
        if block[0].source == 0:
            assert [key.index - block[0].index for key in block] == [0, 1, 2, 3] and block[0].index % 4 == 0
    for source, length in ((0, 24), (1, 40)):
        epoch = [key.index for key in keys if key.source == source and key.epoch == 1]
        assert sorted(epoch) == list(range(length))


@pytest.mark.parametrize(
    ("changes", "world", "told"),
    [
        ({"weights": (1.0, 1e-6)}, 1, "raise its weight"),
        ({"weights": (1.0,)}, 1, "1 numbers for 2 sources"),
        ({"weights": (1.0, -1.0)}, 1, "above 0"),
        ({"batch_size": 9}, 2, "does not divide over 2 processes"),
        ({"video_share": 0.0}, 1, "data.media"),
        ({"media": "text"}, 1, "no source has any captions"),
    ],
)
def test_plans_that_cannot_be_kept_are_refused(changes: dict[str, Any], world: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        plan(world=world, **changes)


def test_mixing_temperature_raises_small_sources() -> None:
    shares = [plan(media="image", mixing_temperature=t).counts["image"][1] / CYCLE for t in (1.0, 2.0, 1e9)]
    np.testing.assert_allclose(shares, [0.25, 10**0.5 / (10**0.5 + 30**0.5), 0.5], atol=1e-3)


def test_the_fingerprint_tells_another_plan() -> None:
    prints = {
        plan(**changes).fingerprint() for changes in ({}, {"seed": 4}, {"batch_size": 4}, {"weights": (1.0, 1.0)})
    }
    assert len(prints) == 4


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resuming_at_any_step_gives_the_same_bits_with_any_number_of_workers(workers: int) -> None:
    data = DataConfig(sources=("x:n",), media="image", batch_size=8)
    a_plan = Plan(data, 0, ["numbers"], [{"image": 20}], [1])
    batches = planned(Numbers())
    whole = list(training_loader(a_plan, batches, 0, 8, 0))  # 64 samples: three epochs of 20
    for first in (1, 3) if workers else (1, 2, 3, 7):
        rest = list(training_loader(a_plan, batches, first, 8, workers))
        assert len(rest) == 8 - first
        for one, other in zip(rest, whole[first:], strict=True):
            assert one.keys == other.keys and torch.equal(one.ids, other.ids)
            assert one.pixels is not None and other.pixels is not None and torch.equal(one.pixels, other.pixels)


def test_iterating_draws_nothing_from_the_global_generator() -> None:
    data = DataConfig(sources=("x:n",), media="image", batch_size=4)
    loader = training_loader(Plan(data, 0, ["numbers"], [{"image": 20}], [1]), planned(Numbers()), 0, 2, 0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(islice(loader, 2))
    assert torch.equal(torch.rand(1), expected)


def test_a_bad_sample_is_replaced_as_a_whole_counted_and_the_same_again() -> None:
    batches = planned(Numbers(broken=(3, 4)))
    first = batches[[Key(0, "image", 0, index) for index in (2, 3, 4, 5)]]
    shown = numbers(first)
    assert shown[0] == 2 and shown[3] == 5 and not {3, 4} & set(shown)
    assert first.keys == [f"numbers/{number}" for number in shown], "media and key belong together"
    tokenizer = mini_model()[1]
    texts, _ = tokenizer([f"text {number}" for number in shown], max_tokens=40)
    assert torch.equal(first.ids, texts), "media and text belong together"
    assert [reason for _, reason in first.bad][:1] == ["numbers/3.jpg: broken"] and len(first.bad) >= 2
    again = planned(Numbers(broken=(3, 4)))[[Key(0, "image", 0, index) for index in (2, 3, 4, 5)]]
    assert torch.equal(again.ids, first.ids) and again.bad == first.bad


def test_bad_samples_can_be_raised_and_too_many_in_a_row_end_in_an_error() -> None:
    with pytest.raises(BadSample, match=r"3.jpg"):
        planned(Numbers(broken=(3,)), on_bad="raise")[[Key(0, "image", 0, 3)]]
    with pytest.raises(ValueError, match=f"numbers: {ATTEMPTS + 1} samples in a row cannot be read"):
        planned(Numbers(broken=tuple(range(20))))[[Key(0, "image", 0, 3)]]


def test_random_numbers_of_a_sample_do_not_depend_on_other_sources_or_neighbours() -> None:
    alone = planned(Numbers())[[Key(0, "image", 2, 7)]]
    both = PlannedBatches([Numbers("other"), Numbers()], ASK, mini_model()[1], 0, 40, "replace")
    beside = both[[Key(0, "image", 0, 1), Key(1, "image", 2, 7)]]
    other_epoch = planned(Numbers())[[Key(0, "image", 3, 7)]]
    assert alone.pixels is not None and beside.pixels is not None and other_epoch.pixels is not None
    assert torch.equal(alone.pixels[0], beside.pixels[1])
    assert not torch.equal(alone.pixels, other_epoch.pixels)
