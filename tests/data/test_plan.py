"""The plan against a plain loop that counts, and what it refuses."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from omnivl.config import DataConfig
from omnivl.data import plan as plans
from omnivl.data.plan import CYCLE, Key, Plan, Shuffled, generator, order, shuffled_shares
from omnivl.data.sources import Ask, WorldSource

NAMES = ["a", "b", "c"]
LENGTHS = [{"image": 30, "video": 12}, {"image": 10, "video": 0}, {"image": 7, "video": 21}]
GROUPS = [4, 1, 1]


def plan(*, rank: int = 0, world: int = 1, seed: int = 3, lengths: Any = LENGTHS, **changes: Any) -> Plan:
    data = DataConfig(**{"batch_size": 8, "video_batch_size": 16, "video_share": 0.3, **changes})
    return Plan(data, seed, NAMES[: len(lengths)], lengths, GROUPS[: len(lengths)], rank=rank, world=world)


def counted(a_plan: Plan, steps: int) -> Iterator[list[Key]]:
    """The keys of the steps from 0 on, by counting what was drawn before instead of by formulas."""
    steps_of: Counter[str] = Counter()
    blocks_of: Counter[str] = Counter()
    drawn: dict[tuple[str, int], int] = defaultdict(int)
    for step in range(steps):
        who, _ = shuffled_shares(a_plan.steps, a_plan.seed, "medium", step // a_plan.cycle)
        medium = a_plan.media[who[step % a_plan.cycle]]
        steps_of[medium] += 1
        mix = a_plan.mixes[medium]
        keys: list[Key] = []
        while len(keys) < mix.batch:
            who, _ = shuffled_shares(mix.counts, a_plan.seed, medium, blocks_of[medium] // CYCLE)
            source = mix.members[who[blocks_of[medium] % CYCLE]]
            blocks_of[medium] += 1
            group = GROUPS[source] if medium == "video" else 1
            for _ in range(mix.block // group):
                length = LENGTHS[source][medium] // group
                epoch, place = divmod(drawn[medium, source], length)
                drawn[medium, source] += 1
                first = int(order(length, a_plan.seed, NAMES[source], medium, epoch)[place]) * group
                keys += [Key(source, medium, epoch, first + member) for member in range(group)]
        yield keys


@pytest.mark.parametrize("changes", [{}, {"video_share": 0.125}, {"weights": (5.0, 1.0, 2.0)}])
def test_every_step_is_what_a_loop_that_counts_arrives_at(changes: dict[str, Any]) -> None:
    a_plan = plan(**changes)
    for step, keys in enumerate(counted(a_plan, 2500)):
        assert a_plan.keys(step) == keys


def test_steps_can_be_asked_for_in_any_order() -> None:
    steps = [7, 900, 3, 900, 0, 12_345_678, 899]
    assert [plan().keys(step) for step in steps] == list(map(plan().keys, steps))


@pytest.mark.parametrize(("share", "cycle"), [(0.3, 100), (0.125, 1000), (1 / 3, 10_000), (0.0015, 10_000)])
def test_media_keep_their_exact_shares_in_every_cycle(share: float, cycle: int) -> None:
    a_plan = plan(video_share=share)
    assert a_plan.cycle == cycle
    media = [a_plan.medium(step) for step in range(2 * cycle)]
    for part in (media[:cycle], media[cycle:]):
        assert part.count("video") == round(share * cycle)
    assert media[:cycle] != media[cycle:], "each cycle is shuffled anew"


def test_sources_keep_their_exact_shares_in_every_cycle() -> None:
    a_plan = plan(media="image", weights=(0.5, 0.3, 0.2))
    for cycle in range(2):
        steps = range(cycle * CYCLE // 8, (cycle + 1) * CYCLE // 8)
        assert Counter(key.source for step in steps for key in a_plan.keys(step)) == {0: 5000, 1: 3000, 2: 2000}


@pytest.mark.parametrize("medium", ["image", "video"])
def test_every_item_comes_once_an_epoch_and_each_epoch_is_shuffled_anew(medium: str) -> None:
    a_plan = plan(media=medium)
    keys = [key for step in range(300) for key in a_plan.keys(step)]
    for source, lengths in enumerate(LENGTHS):
        mine = [key for key in keys if key.source == source]
        assert [key.epoch for key in mine] == sorted(key.epoch for key in mine)
        orders = [[key.index for key in mine if key.epoch == epoch] for epoch in range(5)]
        assert all(sorted(order) == list(range(lengths[medium])) for order in orders)
        if lengths[medium]:
            assert len(set(map(tuple, orders))) > 2


def test_text_steps_draw_captions_alone() -> None:
    a_plan = plan(media="text", lengths=[{"text": 50}, {"text": 0}])
    keys = [key for step in range(25) for key in a_plan.keys(step)]
    assert {(key.source, key.medium) for key in keys} == {(0, "text")}
    assert Counter(key.index for key in keys) == dict.fromkeys(range(50), 4)


def test_groups_are_adjacent_and_never_on_two_ranks() -> None:
    for rank in range(4):
        a_plan = plan(media="video", world=4, rank=rank)
        for step in range(200):
            keys = a_plan.keys(step)
            assert len(keys) == 4 and len({key.source for key in keys}) == 1
            if keys[0].source == 0:
                assert [key.index - keys[0].index for key in keys] == [0, 1, 2, 3] and keys[0].index % 4 == 0


def test_a_group_of_the_world_is_one_scene_in_different_motions() -> None:
    source = WorldSource("", "train", 4)
    data = DataConfig(media="video", batch_size=8, group_size=4)
    a_plan = Plan(data, 0, [source.name], [{"video": source.length("video")}], [source.group_size])
    for step in range(3):
        keys = a_plan.keys(step)
        for first in (0, 4):
            texts = [
                source.read("video", key.index, generator(key.index), Ask(16, 2, "bicubic")).text
                for key in keys[first : first + 4]
            ]
            assert len({text.split(" ground ")[0] for text in texts}) == 1, "one scene"
            assert len({text.split(" ground ")[1] for text in texts}) == 4, "four motions"


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_batch_of_one_process(world: int) -> None:
    whole, ranks = plan(), [plan(rank=rank, world=world) for rank in range(world)]
    for step in (*range(50), 999, 12_345_678):
        assert [key for rank in ranks for key in rank.keys(step)] == whole.keys(step)
        assert {rank.medium(step) for rank in ranks} == {whole.medium(step)}
    assert {rank.fingerprint() for rank in ranks} == {whole.fingerprint()}


def test_another_source_changes_neither_order_nor_epochs_of_the_others() -> None:
    def orders(lengths: Any) -> list[tuple[int, int]]:
        a_plan = plan(media="image", lengths=lengths)
        return [(k.epoch, k.index) for step in range(100) for k in a_plan.keys(step) if k.source == 0]

    alone, beside = orders(LENGTHS[:1]), orders(LENGTHS)
    assert len(beside) < len(alone) and beside == alone[: len(beside)]


# --- weights ---------------------------------------------------------------------------------------------------------


def test_mixing_temperature_raises_small_sources() -> None:
    shares = [
        plan(media="image", lengths=LENGTHS[:2], mixing_temperature=t).mixes["image"].counts[1] / CYCLE
        for t in (1.0, 2.0, 1e9)
    ]
    np.testing.assert_allclose(shares, [0.25, 10**0.5 / (10**0.5 + 30**0.5), 0.5], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "world", "told"),
    [
        ({"weights": (1.0, 1e-6, 1.0)}, 1, "source b would get less than 1 in 10,000 samples: raise its weight"),
        ({"mixing_temperature": 0.01}, 1, "source b would get less than 1 in 10,000"),
        ({"mixing_temperature": 0.0}, 1, "mixing_temperature is 0, wanted above 0"),
        ({"weights": (1.0,)}, 1, "data.weights has 1 numbers for 3 sources"),
        ({"weights": (1.0, -1.0, 1.0)}, 1, "data.weights must all be above 0"),
        ({"media": "video", "weights": (1.0, 0.0, 1.0)}, 1, "data.weights must all be above 0"),
        ({"batch_size": 9}, 2, "a batch of 9 image samples does not divide over 2 processes: choose data.batch_size a"),
        ({"batch_size": 0}, 1, "a batch of 0 image samples"),
        ({"video_batch_size": 18}, 1, "does not divide in groups of 4: choose data.video_batch_size a multiple of 4"),
        ({"video_batch_size": 16}, 8, "a batch of 2 clips a process does not divide in groups of 4: .*multiple of 32"),
        ({"video_share": 0.0}, 1, "data.video_share is 0, wanted from 0.0001 to 0.9999; .*data.media"),
        ({"video_share": 0.00001}, 1, "data.video_share is 1e-05, wanted from"),
        ({"video_share": 1.0}, 1, "data.video_share is 1, wanted from"),
        ({"media": "text"}, 1, "no source has any captions: a, b, c; add one that has, or set data.media, now text"),
    ],
)
def test_plans_that_cannot_be_kept_are_refused(changes: dict[str, Any], world: int, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        plan(world=world, **changes)
    assert "\n" not in str(caught.value)


def test_sources_that_do_not_fit_groups_or_stand_twice_are_refused() -> None:
    data = DataConfig(media="video", batch_size=24)
    with pytest.raises(ValueError, match="b has groups of 2, which do not fill blocks of 3"):
        Plan(data, 0, ["a", "b"], [{"video": 9}, {"video": 8}], [3, 2])
    with pytest.raises(ValueError, match="a has 2 clips, fewer than a group of 3"):
        Plan(data, 0, ["a"], [{"video": 2}], [3])
    with pytest.raises(ValueError, match="source a is listed twice"):
        Plan(data, 0, ["a", "a"], [{"video": 9}, {"video": 9}], [1, 1])


def test_the_fingerprint_tells_another_plan_and_knows_the_same_again() -> None:
    longer = [{"image": 31, "video": 12}, *LENGTHS[1:]]
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 4},
        {"batch_size": 4},
        {"video_batch_size": 8},
        {"weights": (1.0, 1.0, 1.0)},
        {"video_share": 0.4},
        {"media": "image"},
        {"lengths": longer},
    ]
    assert len({plan(**each).fingerprint() for each in changes}) == len(changes)
    numpy_lengths = [{medium: np.int64(n) for medium, n in each.items()} for each in LENGTHS]
    assert plan(lengths=numpy_lengths).fingerprint() == plan().fingerprint()


# --- sources too long to hold their order in memory ------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_an_order_computed_place_by_place_is_a_permutation(length: int) -> None:
    shuffled = Shuffled(length, generator("x"))
    assert sorted(shuffled[place] for place in range(length)) == list(range(length))


def test_an_order_computed_place_by_place_is_well_mixed_and_another_for_each_key() -> None:
    size = 2000
    places = np.array([[Shuffled(size, generator(key))[place] for place in range(size)] for key in range(4)])
    assert abs(np.corrcoef(places, np.arange(size)[None])[np.triu_indices(5, 1)]).max() < 0.1
    neighbours = np.abs(np.diff(places)).mean() / size
    assert abs(neighbours - 1 / 3) < 0.02, "neighbours are as far apart as chance has them"
    small = Counter(tuple(Shuffled(3, generator(key))[p] for p in range(3)) for key in range(1200))
    assert len(small) == 6 and max(small.values()) < 280, "all orders of three are about equally likely"


def test_a_plan_keeps_its_promises_with_such_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "LARGE", 5)
    test_every_item_comes_once_an_epoch_and_each_epoch_is_shuffled_anew("video")
    test_ranks_together_see_the_batch_of_one_process(2)


def test_only_the_present_epoch_of_a_source_is_held() -> None:
    a_plan = plan()
    for step in range(500):
        a_plan.keys(step)
    held = list(a_plan._orders.values())
    assert len(held) == 5 and all(isinstance(each, np.ndarray) and each.itemsize == 4 for _, each in held)


def test_micro_batches_of_all_ranks_together_are_those_of_one_process() -> None:
    """Contrast and negatives live within a micro-batch, so which samples share one must not depend on the ranks."""
    data = DataConfig(sources=("x:a",), media="video", batch_size=16)

    def micros(rank: int, world: int) -> list[list[Key]]:
        a_plan = Plan(data, 0, ["a"], [{"video": 40}], [2], rank=rank, world=world, accumulate=2)
        keys = a_plan.keys(3)
        return [keys[: len(keys) // 2], keys[len(keys) // 2 :]]

    whole = micros(0, 1)
    for world in (2, 4):
        ranks = [micros(rank, world) for rank in range(world)]
        for micro in range(2):
            assert [key for rank in ranks for key in rank[micro]] == whole[micro]
    with pytest.raises(ValueError, match="does not divide"):
        Plan(data, 0, ["a"], [{"video": 40}], [4], world=4, accumulate=2)
