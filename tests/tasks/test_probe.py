"""The linear probe beside scikit-learn's, and what it learns from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from omnivl.data.sample import BadSample, Gallery
from omnivl.tasks.probe import choose_strength, draw_shots, evaluate_probe, fit
from tests.helpers import mini_model


def blobs(count: int, classes: int, seed: int, spread: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds in 20 dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, 20))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, 20))).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-4, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_probe_is_scikit_learns_at_the_same_regularisation(strength: float, classes: int) -> None:
    inputs, labels = blobs(400, classes, 0)
    others, truth = blobs(2000, classes, 1)
    weights, bias = fit(torch.from_numpy(inputs), torch.from_numpy(labels), classes, strength)
    logits = F.linear(torch.from_numpy(others).double(), weights, bias)
    peer = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
    peer.fit(inputs, labels)
    accuracy = float((logits.argmax(1).numpy() == truth).mean())
    assert accuracy == pytest.approx(peer.score(others, truth), abs=0.003)
    np.testing.assert_allclose(logits.softmax(1).numpy(), peer.predict_proba(others), atol=2e-3)


@pytest.mark.parametrize("peak", [-5.25, -0.5, 0.0, 1.875, 6.0])
def test_the_strength_is_found_within_an_eighth_of_a_decade(peak: float) -> None:
    tried: list[float] = []

    def score(strength: float) -> float:
        tried.append(strength)
        return -abs(np.log10(strength) - peak)

    assert abs(np.log10(choose_strength(score)) - peak) <= 1 / 16 + 1e-9
    assert len(tried) < 20 and len(set(tried)) == len(tried)


def test_shots_are_drawn_by_the_seed_and_the_rest_is_left() -> None:
    labels = ["a", "b"] * 10 + ["b"]
    drawn, rest = draw_shots(labels, 3, seed=1)
    assert [labels[i] for i in drawn].count("a") == 3 and len(drawn) == 6 and sorted(drawn + rest) == list(range(21))
    assert draw_shots(labels, 3, seed=1)[0] == drawn != draw_shots(labels, 3, seed=2)[0]
    with pytest.raises(ValueError, match="11 shots were asked for, but class 'a' has 10 training items"):
        draw_shots(labels, 11, seed=0)


COLOURS = {"red": 0, "green": 1, "blue": 2}


def gallery(split: str, count: int, seed: int, labels: tuple[str, ...] = tuple(COLOURS), bad: int = -1) -> Gallery:
    """Noisy plain pictures, named by their colour."""
    named = [labels[i % len(labels)] for i in range(count)]

    def read(index: int) -> np.ndarray:
        if index == bad:
            raise BadSample("broken")
        rng = np.random.default_rng((seed, index))
        frames = rng.integers(0, 100, (1, 32, 32, 3), dtype=np.uint8)
        frames[..., COLOURS.get(named[index], 0)] += 120
        return frames

    keys = [f"{split}/{i}" for i in range(count)]
    return Gallery("g", split, "image", keys, [()] * count, named, read)


def test_a_probe_learns_colours_and_counts_what_it_cannot_read() -> None:
    model, _ = mini_model()
    train, validation = gallery("train", 30, 0), gallery("validation", 12, 1)
    found = [
        evaluate_probe(model, train, validation, gallery("test", 12, 2, bad=0), batch_size=size) for size in (1, 7, 64)
    ]
    values = [{r.metric: r.value for r in results} for results in found]
    assert values[1] == pytest.approx(values[0]) and values[2] == pytest.approx(values[0])
    assert values[0]["top1"] == pytest.approx(11 / 12), "what cannot be read is wrong"
    assert values[0]["top5"] == pytest.approx(11 / 12)
    assert found[0][0].settings["bad"] == 1 and found[0][0].settings["trained_on"] == 42
    few = evaluate_probe(model, train, None, gallery("test", 12, 2), shots=2)
    assert few[0].settings["shots"] == 2 and few[0].settings["trained_on"] == 6


def test_what_cannot_be_probed_is_one_sentence() -> None:
    model, _ = mini_model()
    with pytest.raises(ValueError, match="class 'blue' of split 'test' is not in training"):
        evaluate_probe(model, gallery("train", 4, 0, ("red", "green")), None, gallery("test", 3, 0))
    with pytest.raises(ValueError, match="at least two"):
        evaluate_probe(model, gallery("train", 4, 0, ("red",)), None, gallery("test", 3, 0, ("red",)))
