"""The objectives against loops written by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.losses import lm_loss, sample_hard_negatives, text_loss, univlc_loss, vlm_loss


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def univlc_by_hand(
    visual: Tensor,
    text: Tensor,
    labels: Tensor,
    key_visual: Tensor,
    key_text: Tensor,
    key_labels: Tensor,
    filled: list[bool],
    t: float,
) -> list[float]:
    """Straight from the formula, one number at a time."""
    losses = []
    for i in range(len(visual)):
        total = 0.0
        for query, keys in ((visual[i], key_text), (text[i], key_visual)):
            scores = [math.exp(float(query @ keys[j]) / t) for j in range(len(keys)) if filled[j]]
            positives = [
                float(query @ keys[j]) / t for j in range(len(keys)) if filled[j] and key_labels[j] == labels[i]
            ]
            total += sum(math.log(sum(scores)) - p for p in positives) / len(positives)
        losses.append(total / 2)
    return losses


@pytest.mark.parametrize("filled_slots", [0, 3, 6])
def test_univlc_equals_the_formula_on_mixed_labels_with_the_bank_partly_empty(filled_slots: int) -> None:
    labels = torch.tensor([7, 7, 1, 2, 3])  # two of one class, three texts
    key_labels = torch.cat([labels, torch.tensor([1, 7, 9, 2, 8, 7])])
    filled = [True] * 5 + [slot < filled_slots for slot in range(6)]
    visual, text, key_visual, key_text = unit(5, 8), unit(5, 8, seed=1), unit(11, 8, seed=2), unit(11, 8, seed=3)
    key_visual[5 + filled_slots :] = (
        float("inf") if filled_slots < 0 else 1e3
    )  # an empty slot's content must not matter
    got = univlc_loss(visual, text, labels, key_visual, key_text, key_labels, 0.07, torch.tensor(filled))
    want = univlc_by_hand(visual, text, labels, key_visual, key_text, key_labels, filled, 0.07)
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_univlc_with_distinct_labels_is_infonce() -> None:
    visual, text = unit(6, 8), unit(6, 8, seed=1)
    logits = visual @ text.T / 0.1
    want = (
        F.cross_entropy(logits, torch.arange(6), reduction="none")
        + F.cross_entropy(logits.T, torch.arange(6), reduction="none")
    ) / 2
    got = univlc_loss(visual, text, torch.arange(6), visual, text, torch.arange(6), 0.1)
    torch.testing.assert_close(got, want)


def test_univlc_targets_sum_to_one_with_and_without_distillation() -> None:
    """With all keys alike every log-probability is -log K, so the loss is log K whatever the targets, if they sum to
    one."""
    keys = unit(1, 8).expand(10, 8)
    labels = torch.tensor([1, 1, 2])
    for alpha in (0.0, 0.4):
        loss = univlc_loss(
            unit(3, 8), unit(3, 8, seed=1), labels, keys, keys, torch.arange(10), 0.07, torch.arange(10) < 7,
            soft_visual=unit(3, 8, seed=4), soft_text=unit(3, 8, seed=5), alpha=alpha,
        )  # fmt: skip
        torch.testing.assert_close(loss, torch.full((3,), math.log(7)))


def test_univlc_gradient_of_temperature_matches_a_finite_difference() -> None:
    visual, text = unit(4, 8).double(), unit(4, 8, seed=1).double()
    labels = torch.tensor([0, 0, 1, 2])

    def loss(t: Tensor) -> Tensor:
        return univlc_loss(visual, text, labels, visual, text, labels, t).sum()

    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(temperature), temperature)
    step = 1e-6
    numeric = (loss(temperature.detach() + step) - loss(temperature.detach() - step)) / (2 * step)
    torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-5)


def test_no_negative_shares_its_label_and_similar_ones_are_drawn_more_often() -> None:
    labels = torch.tensor([0, 0, 1, 2, 3])
    similarity = torch.zeros(5, 5)
    similarity[2, 4] = math.log(6)  # row 2 has four negatives, one of them six times as likely as each other one
    draws = torch.zeros(5, 5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        rows, negatives = sample_hard_negatives(similarity, labels, labels, torch.rand(5, generator=generator))
        assert rows.tolist() == [0, 1, 2, 3, 4]
        assert (labels[rows] != labels[negatives]).all()
        draws[rows, negatives] += 1
    assert abs(float(draws[2, 4]) / 2000 - 6 / 9) < 0.04
    assert (draws[0] > 0).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_extreme_draws_stay_within_the_allowed(uniform: float) -> None:
    similarity = torch.tensor([[5.0, -50.0, 2.0, 80.0]])
    rows, negative = sample_hard_negatives(
        similarity, torch.tensor([9]), torch.tensor([1, 2, 3, 9]), torch.tensor([uniform])
    )
    assert rows.tolist() == [0] and negative.item() in (0, 2)


@pytest.mark.parametrize("labels", [[5], [5, 5, 5]])
def test_a_batch_without_negatives_gives_no_pair_and_no_error(labels: list[int]) -> None:
    size = len(labels)
    rows, negatives = sample_hard_negatives(
        torch.zeros(size, size), torch.tensor(labels), torch.tensor(labels), torch.rand(size)
    )
    assert len(rows) == len(negatives) == 0


def test_vlm_loss_of_the_base_rate_is_0_6365_nats() -> None:
    matched = torch.tensor([1, 0, 0] * 10)
    logits = torch.log(torch.tensor([2 / 3, 1 / 3])).expand(30, 2)
    assert float(vlm_loss(logits, matched).mean()) == pytest.approx(0.6365, abs=1e-4)


def test_lm_loss_equals_a_loop_and_ignores_padding_and_prompt() -> None:
    ids = torch.tensor([[9, 4, 5, 3, 0, 0], [9, 6, 7, 8, 2, 3]])
    targets = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])  # row 0: token 1 is prompt, 4 and 5 padding
    logits = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    want = [0.0, 0.0]
    for row in range(2):
        for place in range(1, 6):
            if targets[row, place]:
                want[row] -= float(logits[row, place - 1].log_softmax(0)[ids[row, place]])
    torch.testing.assert_close(lm_loss(logits, ids, targets), torch.tensor(want))
    of_targets = logits[:, :-1][targets[:, 1:].bool()]
    torch.testing.assert_close(lm_loss(of_targets, ids, targets), torch.tensor(want))
    smooth = lm_loss(logits, ids, targets, label_smoothing=0.1)
    assert not torch.allclose(smooth, torch.tensor(want))


def test_text_loss_counts_each_word_of_the_bag_once_whether_there_or_not() -> None:
    ids = torch.tensor([[2, 7, 8, 3]])
    masked = torch.tensor([[False, True, False, False]])
    words = torch.zeros(1, 10)
    words[0, [7, 8]] = 1
    logits = torch.full((1, 10), -1e4)
    logits[0, 7] = 0.0
    words_logits = torch.where(words > 0, 50.0, -50.0)
    words_logits[0, 8] = -words_logits[0, 8]  # one word that is there is denied
    words_logits[0, 1] = 0.0  # and one that is not is left open
    masked_loss, words_loss = text_loss(logits, ids, masked, words_logits, words)
    assert float(masked_loss) == pytest.approx(0, abs=1e-5)
    assert float(words_loss) == pytest.approx(50 + math.log(2), abs=1e-4)
