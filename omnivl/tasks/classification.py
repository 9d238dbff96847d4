"""Recognition: a classifier finetuned on the visual encoder, and zero-shot classification, where a class is the mean of
its prompts' vectors (the ensemble of CLIP and ActionCLIP; templates are ours).

An item may be seen in several views (clips x crops), whose probabilities are averaged. Axes: N items, V views, T
frames.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch, Gallery, label_key
from omnivl.metrics import hits_at_k, mean_per_class_accuracy, top_k_accuracy
from omnivl.model import OmniVL, Visual
from omnivl.prompts import fill, label_prompts
from omnivl.tasks.base import Losses, Result, Task, gallery_result
from omnivl.tasks.retrieval import encode_texts
from omnivl.tokenizer import Tokenizer


class ClassificationTask(Task):
    """Cross-entropy of `model.classifier` on the visual [CLS], with label smoothing.

    Raises ValueError for a batch with a class that the classifier does not have.
    """

    keys: Tensor

    def __init__(self, model: OmniVL, config: TaskConfig) -> None:
        super().__init__()
        assert model.classifier is not None
        self.model, self.config = model, config
        self.register_buffer("keys", torch.tensor([label_key("", name) for name in model.extra["labels"]]), False)

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        assert batch.pixels is not None and self.model.classifier is not None
        same = batch.labels[:, None] == self.keys  # (B, classes)
        if not bool(same.any(1).all()):
            stranger = batch.keys[int((~same.any(1)).nonzero()[0])]
            raise ValueError(f"{stranger} has no label, or one that the classifier does not know")
        classes = same.int().argmax(1)
        logits = self.model.classifier(self.model.encode_visual(batch.pixels).pooled).float()
        loss = F.cross_entropy(logits, classes, reduction="none", label_smoothing=self.config.label_smoothing)
        total = distributed.share(loss.sum(), len(loss))
        right = (logits.detach().argmax(1) == classes).sum()
        return Losses(total, {"class": total.detach()}, {"class_accuracy": (right, len(loss))})


def class_vectors(
    model: OmniVL, tokenizer: Tokenizer, labels: Sequence[str], medium: str, prompts: Sequence[str] = ()
) -> Tensor:
    """(labels, E) unit vectors."""
    prompts = prompts or label_prompts(medium)
    texts = [fill(prompt, label) for label in labels for prompt in prompts]
    vectors = encode_texts(model, tokenizer, texts)
    return F.normalize(vectors.view(len(labels), len(prompts), -1).mean(1), dim=-1)


def require_labels(gallery: Gallery) -> None:
    if not all(gallery.labels):
        raise ValueError(
            f"{gallery.name}: {sum(not name for name in gallery.labels)} of {len(gallery)} items have no label"
        )


@torch.inference_mode()
def evaluate_classes(
    model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, zero_shot: bool = False, batch_size: int = 64
) -> list[Result]:
    """top1, top5 and mean_per_class: by the model's classifier where it has one, by prompts where it has none or with
    `zero_shot`. Raises ValueError where an item has no label, or one that the classifier does not know."""
    require_labels(gallery)
    by_prompts = zero_shot or model.classifier is None
    labels = sorted(set(gallery.labels)) if by_prompts else model.extra["labels"]
    unknown = sorted(set(gallery.labels) - set(labels))
    if unknown:
        raise ValueError(
            f"{gallery.name} has the class {unknown[0]!r}, which is none of the classifier's {len(labels)}: "
            "use --zero-shot, or data of its classes"
        )
    classes = class_vectors(model, tokenizer, labels, gallery.medium) if by_prompts else None

    def scores_of(visual: Visual) -> Tensor:
        if classes is not None:
            return visual.embed @ classes.T / model.temperature.clamp(0.001, 0.5)
        assert model.classifier is not None
        return model.classifier(visual.pooled)

    scores = torch.zeros(len(gallery), len(labels))  # an item that cannot be read scores all alike
    for indices, pixels in gallery.batches(max(1, batch_size // gallery.views), distributed.own_part(len(gallery))):
        views = pixels.unflatten(1, (gallery.views, -1)).flatten(0, 1)  # (b V, T, C, H, W)
        probability = scores_of(model.encode_visual(views.to(model.temperature.device))).float().softmax(1)
        scores[indices] = probability.view(len(indices), gallery.views, -1).mean(1).cpu()
    scores = distributed.fill_from_ranks(scores)
    gallery.gather_bad()
    settings = {"zero_shot": by_prompts, "classes": len(labels), "views": gallery.views}
    return score_classes(gallery, "classify", scores, labels, settings)


def score_classes(
    gallery: Gallery, task: str, scores: Tensor, labels: Sequence[str], settings: dict[str, Any]
) -> list[Result]:
    """The three accuracies of scores (N, classes)."""
    targets = torch.tensor([labels.index(name) for name in gallery.labels])
    values = {
        "top1": (top_k_accuracy(scores, targets, 1), 1 / len(labels)),
        "top5": (top_k_accuracy(scores, targets, 5), min(1.0, 5 / len(labels))),
        "mean_per_class": (mean_per_class_accuracy(scores, targets), 1 / len(labels)),
    }
    items = {"top1": hits_at_k(scores, targets[:, None].tolist(), 1).tolist()}
    settings = {**settings, "bad": len(gallery.bad)}
    return [
        gallery_result(gallery, task, metric, value, len(gallery), chance, settings, items.get(metric, ()))
        for metric, (value, chance) in values.items()
    ]
