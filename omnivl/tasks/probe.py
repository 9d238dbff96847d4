"""The linear probe: multinomial logistic regression on frozen features, as CLIP's paper does it (Radford et al. 2021,
appendix A.3): L-BFGS, the strength of the regularisation chosen on a validation split, then fitted on both splits.

Features are the visual [CLS] before the projection. Axes: N items, D features, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.data.sample import Gallery
from omnivl.metrics import top_k_accuracy
from omnivl.model import OmniVL
from omnivl.tasks.base import Result
from omnivl.tasks.classification import require_labels, score_classes
from omnivl.tasks.work import Work, table

COARSE = tuple(range(-6, 7, 2))  # powers of ten of C that are tried first
STEPS_A_DECADE = 8
ITERATIONS = 1000
HELD_SHARE = 0.2  # of the training items that choose, where there is no validation split


@torch.inference_mode()
def features(
    model: OmniVL, gallery: Gallery, *, batch_size: int = 64, work: Work | None = None
) -> tuple[Tensor, Tensor]:
    """(N, D) float32 features and (N,) bool, which items could be read; ranks share the items."""
    device = model.temperature.device

    def pooled(_: list[int], pixels: Tensor) -> list[Tensor]:
        return list(model.encode_visual(pixels.to(device)).pooled.float().cpu())

    rows = (work or Work()).rows("features", gallery, batch_size, pooled)
    found, read = table(rows, len(gallery), model.config.vision.width)
    return found.to(device), read.to(device)


def fit(inputs: Tensor, targets: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and bias (C,) that minimise strength * (sum of cross-entropies) + |weights|^2 / 2, the bias not
    regularised: scikit-learn's C. inputs (N, D), targets (N,)."""
    inputs = inputs.double()
    weights = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=inputs.device, requires_grad=True)
    scale = 1 / (strength * len(inputs))
    if classes == 2:  # scikit-learn has one vector of them, the difference of ours, whose square is twice theirs
        scale *= 2
    solver = torch.optim.LBFGS(
        [weights, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weights, bias), targets) + scale * weights.square().sum() / 2
        loss.backward()
        return loss

    with torch.inference_mode(False), torch.enable_grad():
        solver.step(closure)
    return weights.detach(), bias.detach()


def choose_strength(score: Callable[[float], float]) -> float:
    """The C of the best validation score: a coarse grid, then steps that halve around its peak, down to an eighth of a
    decade. The smallest of equals."""
    scores = {float(power): score(10.0**power) for power in COARSE}
    step = float(COARSE[1] - COARSE[0])
    while step > 1 / STEPS_A_DECADE:
        step /= 2
        peak = max(scores, key=lambda power: (scores[power], -power))
        for power in (peak - step, peak + step):
            if COARSE[0] <= power <= COARSE[-1] and power not in scores:
                scores[power] = score(10.0**power)
    return 10.0 ** max(scores, key=lambda power: (scores[power], -power))


def draw_shots(labels: Sequence[str], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """`shots` items of every class, drawn by the seed, and all others. Raises ValueError where a class has fewer."""
    rng = np.random.default_rng(seed)
    drawn: list[int] = []
    for name in sorted(set(labels)):
        own = [number for number, label in enumerate(labels) if label == name]
        if len(own) < shots:
            raise ValueError(f"{shots} shots were asked for, but class {name!r} has {len(own)} training items")
        drawn += [own[place] for place in rng.permutation(len(own))[:shots].tolist()]
    chosen = set(drawn)
    return sorted(drawn), [number for number in range(len(labels)) if number not in chosen]


def held_out(labels: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Training items to learn from, and a fifth of them, drawn by the seed, to choose by."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    count = max(1, round(HELD_SHARE * len(labels)))
    return sorted(order[count:]), sorted(order[:count])


def evaluate_probe(
    model: OmniVL,
    train: Gallery,
    validation: Gallery | None,
    test: Gallery,
    *,
    shots: int = 0,
    seed: int = 0,
    batch_size: int = 64,
    work: Work | None = None,
) -> list[Result]:
    """top1, top5 and mean_per_class on `test`. Without a validation split a fifth of the training items chooses, with
    `shots` the items that were not drawn.

    Raises ValueError where an item has no label, a class is not in training, or there is one class alone.
    """
    for gallery in filter(None, (train, validation, test)):
        require_labels(gallery)
    labels = sorted(set(train.labels))
    strangers = sorted(set(test.labels) - set(labels))
    if len(labels) < 2 or strangers:
        raise ValueError(
            f"{test.name}: class {strangers[0]!r} of split {test.split!r} is not in training"
            if strangers
            else f"{train.name} has {len(labels)} class in training: a probe needs at least two"
        )
    inputs, read = features(model, train, batch_size=batch_size, work=work)
    targets = torch.tensor([labels.index(name) for name in train.labels], device=inputs.device)
    learning, rest = draw_shots(train.labels, shots, seed) if shots else (list(range(len(train))), [])
    if validation is not None:
        known = [number for number, name in enumerate(validation.labels) if name in set(labels)]
        held_inputs, held_read = features(model, validation, batch_size=batch_size, work=work)
        held_inputs, held_read = held_inputs[known], held_read[known]
        held_targets = torch.tensor([labels.index(validation.labels[number]) for number in known], device=inputs.device)
    else:
        if not rest:
            learning, rest = held_out(train.labels, seed)
        held_inputs, held_read, held_targets = inputs[rest], read[rest], targets[rest]
    held_inputs, held_targets = held_inputs[held_read], held_targets[held_read]
    kept = torch.tensor(learning, device=inputs.device)[read[learning]]

    def score(strength: float) -> float:
        weights, bias = fit(inputs[kept], targets[kept], len(labels), strength)
        return top_k_accuracy(F.linear(held_inputs.double(), weights, bias), held_targets, 1)

    strength = choose_strength(score) if len(held_inputs) else 1.0
    last_inputs, last_targets = inputs[kept], targets[kept]
    if not shots:  # few shots stay few
        last_inputs = torch.cat([last_inputs, held_inputs])
        last_targets = torch.cat([last_targets, held_targets])
    weights, bias = fit(last_inputs, last_targets, len(labels), strength)
    test_inputs, test_read = features(model, test, batch_size=batch_size, work=work)
    scores = F.linear(test_inputs.double(), weights, bias)
    settings = {"shots": shots or None, "strength": strength, "trained_on": len(last_inputs), "classes": len(labels)}
    return score_classes(test, "probe", scores.cpu(), labels, settings, test_read.cpu())
