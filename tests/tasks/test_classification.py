"""Recognition: the classifier's loss and its averaged views against plain passes; prompts where there is none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.galleries import all_views
from omnivl.data.sample import BadSample, Gallery, Sample, collate
from omnivl.data.sources import Ask
from omnivl.tasks.classification import ClassificationTask, evaluate_classes
from tests.helpers import mini_model

LABELS = ["star", "circle", "ring"]


def pixels(seed: int, frames: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def test_the_loss_is_smoothed_cross_entropy_of_the_named_class() -> None:
    model, tokenizer = mini_model()
    head = model.add_classifier(LABELS)
    names = ["ring", "star", "ring", "circle"]
    batch = collate([Sample(pixels(i), "", name) for i, name in enumerate(names)], "image", tokenizer, 8)
    losses = ClassificationTask(model, TaskConfig(label_smoothing=0.2), 0)(batch, 0, 0)
    assert batch.pixels is not None
    logits = head(model.encode_visual(batch.pixels).pooled)
    expected = F.cross_entropy(logits, torch.tensor([2, 0, 2, 1]), label_smoothing=0.2)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    right, count = losses.sums["class_accuracy"]
    assert count == 4 and int(right) == int((logits.argmax(1) == torch.tensor([2, 0, 2, 1])).sum())
    stranger = collate([Sample(pixels(0), "", "dog", "dog.jpg")], "image", tokenizer, 8)
    with pytest.raises(ValueError, match=r"dog\.jpg has no label, or one that the classifier does not know"):
        ClassificationTask(model, TaskConfig(), 0)(stranger, 0, 0)


def test_mixup_is_the_formula_by_hand() -> None:
    """Pair by pair, pixel by pixel, with the shares that the seed, the step and the pair's place draw."""
    model, tokenizer = mini_model()
    head = model.add_classifier(LABELS)
    names = ["ring", "star", "ring", "circle"]
    batch = collate([Sample(pixels(i), "", name) for i, name in enumerate(names)], "image", tokenizer, 8)
    assert batch.pixels is not None
    for seed, step in ((3, 5), (3, 6), (4, 5)):
        losses = ClassificationTask(model, TaskConfig(mixup=0.8, label_smoothing=0.1), seed)(batch, step, 0)
        shares = np.random.default_rng([seed, step]).beta(0.8, 0.8, 2)
        expected = 0.0
        for row, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
            share = float(shares[row // 2])
            x = share * batch.pixels[row].double() + (1 - share) * batch.pixels[other].double()
            x = (x / 255 - torch.tensor(model.config.mean).view(3, 1, 1)) / torch.tensor(model.config.std).view(3, 1, 1)
            with torch.no_grad():
                logs = head(model.encode_visual(x[None].float()).pooled)[0].log_softmax(0)
            for label, weight in ((names[row], share), (names[other], 1 - share)):
                expected -= weight * (0.9 * float(logs[LABELS.index(label)]) + 0.1 * float(logs.mean())) / 4
        assert losses.total.item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"task\.mixup mixes pairs, but a process has 3 samples at a time"):
        odd = collate([Sample(pixels(i), "", "ring") for i in range(3)], "image", tokenizer, 8)
        ClassificationTask(model, TaskConfig(mixup=0.8), 0)(odd, 0, 0)


def test_two_micro_batches_mix_as_the_whole() -> None:
    model, _ = mini_model()
    model.add_classifier(LABELS)
    task = ClassificationTask(model, TaskConfig(mixup=0.4), 7)
    x, targets = torch.randn(12, 1, 3, 4, 4), torch.eye(3)[torch.arange(12) % 3]
    whole = task.mixed(x, targets, 2, 0)
    parts = [task.mixed(x[6 * m : 6 * m + 6], targets[6 * m : 6 * m + 6], 2, m) for m in range(2)]
    for one, both in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(both))


def test_two_labels_that_are_spelt_alike_are_one_target() -> None:
    """As a disk may hold folders of both: an accent composed, and behind its letter."""
    model, tokenizer = mini_model()
    model.add_classifier(["caf\u00e9", "cafe\u0301", "tea"])
    batch = collate([Sample(pixels(0), "", "caf\u00e9")], "image", tokenizer, 8)
    assert batch.pixels is not None and model.classifier is not None
    logits = model.classifier(model.encode_visual(batch.pixels).pooled)
    total = ClassificationTask(model, TaskConfig(label_smoothing=0.0), 0)(batch, 0, 0).total
    assert total.item() == pytest.approx(float(-logits.log_softmax(1)[0, 0].detach()), rel=1e-5)


def test_two_processes_mix_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = mini_model()
    model.add_classifier(LABELS)
    task = ClassificationTask(model, TaskConfig(mixup=1.0), 7)
    x, targets = torch.randn(8, 1, 3, 4, 4), torch.eye(3)[torch.arange(8) % 3]
    whole = task.mixed(x, targets, 2, 1)
    assert torch.equal(task.mixed(x, targets, 2, 1)[0], whole[0])
    assert not torch.equal(task.mixed(x, targets, 2, 0)[0], whole[0])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        halves.append(task.mixed(x[rank * 4 : rank * 4 + 4], targets[rank * 4 : rank * 4 + 4], 2, 1))
    for one, both in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(one, torch.cat(both))


def gallery(labels: list[str], views: int = 1, frames: int = 1, broken: int | None = None) -> Gallery:
    def read(index: int) -> np.ndarray:
        if index == broken:
            raise BadSample(f"{index}.jpg: broken")
        return pixels(index, views * frames)

    keys, medium = [str(i) for i in range(len(labels))], "video" if frames > 1 else "image"
    return Gallery("g", "test", medium, keys, [()] * len(keys), labels, read, views=views)


def test_views_are_averaged_as_probabilities_whatever_the_batch() -> None:
    model, tokenizer = mini_model()
    head = model.add_classifier(LABELS)
    labels = [LABELS[i % 3] for i in range(5)]
    right = 0
    for i, name in enumerate(labels):
        views = torch.from_numpy(pixels(i, 12)).permute(0, 3, 1, 2).unflatten(0, (3, 4))
        with torch.no_grad():
            probability = head(model.encode_visual(views).pooled).softmax(1).mean(0)
        right += LABELS[int(probability.argmax())] == name
    for size in (1, 7, 64):
        results = evaluate_classes(model, tokenizer, gallery(labels, views=3, frames=4), batch_size=size)
        assert {r.metric: r.value for r in results}["top1"] == pytest.approx(right / 5)
        assert results[0].settings["views"] == 3 and results[0].settings["zero_shot"] is False


def test_prompts_are_used_where_there_is_no_classifier_or_it_is_asked_for() -> None:
    model, tokenizer = mini_model()
    labels = ["star", "circle", "star"]
    plain = evaluate_classes(model, tokenizer, gallery(labels))
    model.add_classifier(LABELS)
    asked = evaluate_classes(model, tokenizer, gallery(labels), zero_shot=True)
    assert [r.value for r in plain] == [r.value for r in asked] and plain[0].settings["zero_shot"]
    assert plain[0].settings["classes"] == 2


def test_an_unread_item_is_wrong_and_a_strange_class_is_refused() -> None:
    model, tokenizer = mini_model()
    model.add_classifier(LABELS)
    results = {r.metric: r for r in evaluate_classes(model, tokenizer, gallery(["star"], broken=0))}
    assert {r.value for r in results.values()} == {0.0} and results["top1"].items == (0.0,), (
        "not even in the first five"
    )
    assert results["top1"].settings["bad"] == 1
    with pytest.raises(ValueError, match="class 'dog', which is none of the classifier's 3: use --zero-shot"):
        evaluate_classes(model, tokenizer, gallery(["star", "dog"]))
    with pytest.raises(ValueError, match="1 of 2 items have no label"):
        evaluate_classes(model, tokenizer, gallery(["star", ""]))


def test_clips_interleave_and_crops_go_along_the_longer_side() -> None:
    frames = np.zeros((6, 32, 96, 3), np.uint8)
    frames[:, :, :, 0] = np.arange(6)[:, None, None]  # the frame's number
    frames[:, :, :, 1] = np.repeat(np.arange(3), 32) * 100  # the third of the width
    views = all_views(frames, 2, 3, Ask(32, 3, "bicubic"))
    assert views.shape == (2 * 3 * 3, 32, 32, 3)
    numbers = views[:, 16, 16, 0].reshape(2, 3, 3)
    assert numbers[0].tolist() == [[0, 2, 4]] * 3 and numbers[1].tolist() == [[1, 3, 5]] * 3
    thirds = views[:, 16, 16, 1].reshape(2, 3, 3)
    assert thirds[0].tolist() == [[0] * 3, [100] * 3, [200] * 3]
    whole = all_views(frames, 2, 1, Ask(32, 3, "bicubic"))
    assert whole.shape == (6, 32, 32, 3) and whole[:3, 16, 16, 0].tolist() == [0, 2, 4]
