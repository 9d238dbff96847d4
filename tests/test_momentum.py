"""The slow side of contrast: the bank holds the last M vectors in order, the momentum copy is a moving average."""

import copy

import pytest
import torch
from torch import Tensor

from omnivl.model.momentum import MemoryBank, MomentumEncoder
from tests.training import make_batch, tiny_model


def vectors(first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that name themselves: visual i, text -i, label 10 i."""
    number = torch.arange(first, first + count)
    return number[:, None].float().expand(-1, 3), -number[:, None].float().expand(-1, 3), 10 * number


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("pushes", [[3], [1] * 11, [5, 5], [8, 3, 2], [2, 40, 1], [0, 4, 0, 7], [16, 16]])
def test_the_bank_holds_the_last_entries_in_order_whatever_the_pushes(size: int, pushes: list[int]) -> None:
    bank, done = MemoryBank(size, 3), 0
    for count in pushes:
        bank.push(*vectors(done, count))
        done += count
        kept = min(size, done)
        for held, wanted in zip(bank.in_order(), vectors(done - kept, kept), strict=True):
            assert torch.equal(held, wanted)
        assert int(bank.mask().sum()) == kept
        assert sorted(bank.labels[bank.mask()].tolist()) == [10 * i for i in range(done - kept, done)]


def test_a_bank_of_no_size_takes_pushes_and_stays_empty() -> None:
    bank = MemoryBank(0, 3)
    bank.push(*vectors(0, 4))
    assert [len(part) for part in bank.in_order()] == [0, 0, 0] and bank.mask().shape == (0,)


def test_a_bank_saved_and_loaded_goes_on_where_it_was() -> None:
    bank = MemoryBank(5, 3)
    bank.push(*vectors(0, 7))
    loaded = MemoryBank(5, 3)
    loaded.load_state_dict(copy.deepcopy(bank.state_dict()))
    for each in (bank, loaded):
        each.push(*vectors(7, 2))
    assert loaded.in_order()[2].tolist() == [40, 50, 60, 70, 80]
    assert all(torch.equal(a, b) for a, b in zip(bank.state_dict().values(), loaded.state_dict().values(), strict=True))


def test_what_two_ranks_push_in_turns_is_what_one_pushes_whole() -> None:
    """Ranks push what was gathered from all of them, in rank order: the same rows in one push or in two."""
    whole, halves = MemoryBank(6, 3), MemoryBank(6, 3)
    for step in range(4):
        whole.push(*vectors(4 * step, 4))
        halves.push(*vectors(4 * step, 2))
        halves.push(*vectors(4 * step + 2, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True)
    )


def test_the_momentum_copy_is_the_moving_average_of_encoders_and_projections() -> None:
    model = tiny_model()
    slow = MomentumEncoder(model)
    names = dict(slow.encoders.named_parameters())
    assert {name.split(".")[0] for name in names} == {
        "visual",
        "text",
        "visual_projection",
        "text_projection",
        "temperature",
    }
    before = {name: value.clone() for name, value in names.items()}
    storage = {name: value.data_ptr() for name, value in names.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    live = dict(model.named_parameters(remove_duplicate=False))
    slow.update(model, 0.9)
    for name, value in names.items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * live[name])
    assert storage == {name: value.data_ptr() for name, value in slow.encoders.named_parameters()}
    slow.copy_from(model)
    assert all(torch.equal(value, live[name]) for name, value in names.items())


def test_the_momentum_copy_has_no_gradient_and_no_dropout_even_in_training() -> None:
    slow = MomentumEncoder(tiny_model()).train()
    batch = make_batch("image", 4, 0)
    assert batch.pixels is not None
    visual, text = slow(batch.pixels, batch.ids, batch.mask)
    again, text_again = slow(batch.pixels, batch.ids, batch.mask)
    assert torch.equal(visual, again) and torch.equal(text, text_again)
    assert not visual.requires_grad and not any(p.requires_grad for p in slow.parameters())
