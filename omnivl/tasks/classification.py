"""Recognition: a classifier finetuned on the visual encoder, and zero-shot classification, where a class is the mean of
its prompts' vectors (the ensemble of CLIP and ActionCLIP; templates are ours).

An item may be seen in several views (clips x crops), whose probabilities are averaged. Axes: N items, V views, T
frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch, Gallery, label_key
from omnivl.metrics import hits_at_k, mean_per_class
from omnivl.model import OmniVL, Visual
from omnivl.prompts import fill, label_prompts
from omnivl.tasks.base import Losses, Result, Task, gallery_result
from omnivl.tasks.retrieval import encode_texts
from omnivl.tasks.work import Work, table
from omnivl.tokenizer import Tokenizer


class ClassificationTask(Task):
    """Cross-entropy of `model.classifier` on the visual [CLS], with label smoothing, and with mixup where it is asked
    for (Zhang et al. 2018).

    Raises ValueError for a batch with a class that the classifier does not have, and where mixup finds no pairs.
    """

    keys: Tensor

    def __init__(self, model: OmniVL, config: TaskConfig, seed: int) -> None:
        super().__init__()
        assert model.classifier is not None
        self.model, self.config, self.seed = model, config, seed
        self.register_buffer("keys", torch.tensor([label_key("", name) for name in model.extra["labels"]]), False)

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        assert batch.pixels is not None and self.model.classifier is not None
        same = batch.labels[:, None] == self.keys  # (B, classes)
        if not bool(same.any(1).all()):
            stranger = batch.keys[int((~same.any(1)).nonzero()[0])]
            raise ValueError(f"{stranger} has no label, or one that the classifier does not know")
        pixels, targets = self.model.normalised(batch.pixels), F.one_hot(same.int().argmax(1), same.shape[1]).float()
        if self.config.mixup:
            pixels, targets = self.mixed(pixels, targets, step, micro)
        logits = self.model.classifier(self.model.encode_visual(pixels).pooled).float()
        loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.config.label_smoothing)
        total = distributed.share(loss.sum(), len(loss))
        right = (logits.detach().argmax(1) == targets.argmax(1)).sum()
        return Losses(total, {"class": total.detach()}, {"class_accuracy": (right, len(loss))})

    def mixed(self, pixels: Tensor, targets: Tensor, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, T, C, H, W) and targets (B, classes), each row mixed with its neighbour, which stands
        in no other pair: x1 = s x1 + (1 - s) x2 and x2 = s x2 + (1 - s) x1, with one s ~ Beta(mixup, mixup) a pair.

        The numbers depend on the seed, the step and the pair's place in the whole batch alone.
        """
        if len(pixels) % 2:
            raise ValueError(
                f"task.mixup mixes pairs, but a process has {len(pixels)} samples at a time: give it an even number "
                "(data.batch_size over processes and train.accumulate)"
            )
        pairs, rank, ranks = len(pixels) // 2, distributed.rank(), distributed.world_size()
        first = (micro * ranks + rank) * pairs
        drawn = np.random.default_rng([abs(self.seed), step]).beta(*2 * (self.config.mixup,), first + pairs)[first:]
        own = torch.tensor(drawn, dtype=torch.float32, device=pixels.device).repeat_interleave(2)[:, None]  # (B, 1)
        partner = torch.arange(len(pixels), device=pixels.device) ^ 1
        share = own.view(-1, 1, 1, 1, 1).to(pixels.dtype)
        return share * pixels + (1 - share) * pixels[partner], own * targets + (1 - own) * targets[partner]


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
    model: OmniVL,
    tokenizer: Tokenizer,
    gallery: Gallery,
    *,
    zero_shot: bool = False,
    batch_size: int = 64,
    work: Work | None = None,
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

    def averaged(items: list[int], pixels: Tensor) -> list[Tensor]:
        views = pixels.unflatten(1, (gallery.views, -1)).flatten(0, 1)  # (b V, T, C, H, W)
        probability = scores_of(model.encode_visual(views.to(model.temperature.device))).float().softmax(1)
        return list(probability.view(len(items), gallery.views, -1).mean(1).cpu())

    rows = (work or Work()).rows("classes", gallery, max(1, batch_size // gallery.views), averaged)
    scores, read = table(rows, len(gallery), len(labels))
    settings = {"zero_shot": by_prompts, "classes": len(labels), "views": gallery.views}
    return score_classes(gallery, "classify", scores, labels, settings, read)


def score_classes(
    gallery: Gallery,
    task: str,
    scores: Tensor,
    labels: Sequence[str],
    settings: dict[str, Any],
    read: Tensor | None = None,
) -> list[Result]:
    """The three accuracies of scores (N, classes), of whose items all or those that are `read` (N,) can be right."""
    targets = torch.tensor([labels.index(name) for name in gallery.labels])
    known = torch.ones(len(gallery), dtype=torch.bool) if read is None else read
    first, five = (hits_at_k(scores, targets[:, None].tolist(), k) * known for k in (1, 5))
    values = {
        "top1": (first.mean().item(), 1 / len(labels)),
        "top5": (five.mean().item(), min(1.0, 5 / len(labels))),
        "mean_per_class": (mean_per_class(first, targets), 1 / len(labels)),
    }
    items = {"top1": first.tolist()}
    settings = {**settings, "bad": len(gallery.bad)}
    return [
        gallery_result(gallery, task, metric, value, len(gallery), chance, settings, items.get(metric, ()))
        for metric, (value, chance) in values.items()
    ]
