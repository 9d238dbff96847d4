"""Zero-shot classification: a class is the mean of its prompts' vectors (the ensemble of CLIP and ActionCLIP; templates
are ours)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.data.sample import Gallery
from omnivl.metrics import mean_per_class_accuracy, top_k_accuracy
from omnivl.model import OmniVL
from omnivl.prompts import fill, label_prompts
from omnivl.tasks.base import Result
from omnivl.tasks.retrieval import encode_texts, gallery_result
from omnivl.tokenizer import Tokenizer


def class_vectors(
    model: OmniVL, tokenizer: Tokenizer, labels: Sequence[str], medium: str, prompts: Sequence[str] = ()
) -> Tensor:
    """(labels, E) unit vectors."""
    prompts = prompts or label_prompts(medium)
    texts = [fill(prompt, label) for label in labels for prompt in prompts]
    vectors = encode_texts(model, tokenizer, texts)
    return F.normalize(vectors.view(len(labels), len(prompts), -1).mean(1), dim=-1)


@torch.inference_mode()
def evaluate_zero_shot(model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, batch_size: int = 64) -> list[Result]:
    """top1, top5 and mean_per_class over the gallery's labels."""
    if not all(gallery.labels):
        raise ValueError(
            f"{gallery.name}: {sum(not name for name in gallery.labels)} of {len(gallery)} items have no label"
        )
    labels = sorted(set(gallery.labels))
    classes = class_vectors(model, tokenizer, labels, gallery.medium)
    scores = torch.zeros(len(gallery), len(labels))  # an item that cannot be read scores all alike
    for indices, pixels in gallery.batches(batch_size):
        visual = model.encode_visual(pixels.to(classes.device))
        scores[indices] = (visual.embed @ classes.T).float().cpu()
    targets = torch.tensor([labels.index(name) for name in gallery.labels])
    settings = {"zero_shot": True, "classes": len(labels), "bad": len(gallery.bad)}
    values = {
        "top1": (top_k_accuracy(scores, targets, 1), 1 / len(labels)),
        "top5": (top_k_accuracy(scores, targets, 5), min(1.0, 5 / len(labels))),
        "mean_per_class": (mean_per_class_accuracy(scores, targets), 1 / len(labels)),
    }
    return [
        gallery_result(gallery, "classify", metric, value, len(gallery), chance, settings)
        for metric, (value, chance) in values.items()
    ]
