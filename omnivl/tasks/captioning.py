"""Captioning: finetuned by language modelling after a prompt (BLIP), evaluated by one written caption an item against
the item's own captions.
"""

from typing import Any

import torch
from torch import Tensor

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch, Gallery
from omnivl.losses import lm_loss
from omnivl.metrics import caption_metrics, exact_match, token_f1, words
from omnivl.model import OmniVL
from omnivl.model.generation import caption
from omnivl.tasks.base import Losses, Result, Task, gallery_result
from omnivl.tasks.work import Work
from omnivl.tokenizer import Tokenizer


class CaptioningTask(Task):
    """Next-token prediction of captions that start with the model's prompt, whose own tokens are out of the loss."""

    def __init__(self, model: OmniVL, config: TaskConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model, self.config = model, config
        prompts = {"image": model.config.image_prompt, "video": model.config.video_prompt}
        self.starts = {
            medium: [tokenizer.dec_id, *(tokenizer([prompt])[0][0, 1:-1].tolist() if prompt else ())]
            for medium, prompt in prompts.items()
        }

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        assert batch.pixels is not None
        start = batch.ids.new_tensor(self.starts[batch.medium]).expand(len(batch), -1)
        ids = torch.cat([start, batch.ids[:, 1:]], 1)
        mask = torch.cat([torch.ones_like(start), batch.mask[:, 1:]], 1)
        targets = torch.cat([torch.zeros_like(start), batch.mask[:, 1:]], 1)
        context = self.model.context_keys_values(self.model.encode_visual(batch.pixels).tokens)
        states = self.model.decode_states(ids, mask, context)
        logits = self.model.lm_logits(states[:, :-1][targets[:, 1:].bool()])
        loss = lm_loss(logits, ids, targets, label_smoothing=self.config.label_smoothing)
        total = distributed.share(loss.sum(), targets.sum())
        return Losses(total, {"lm": total.detach()})


@torch.inference_mode()
def write_captions(
    model: OmniVL,
    tokenizer: Tokenizer,
    gallery: Gallery,
    *,
    batch_size: int = 64,
    seed: int = 0,
    work: Work | None = None,
    **how: Any,
) -> list[str]:
    """A caption for each item, `how` as in `generate`; empty where it cannot be read. Ranks share the items. Where
    words are drawn (nucleus) each item has random numbers of its own, so that its neighbours change nothing."""
    device = model.temperature.device

    def describe(items: list[int], pixels: Tensor) -> list[str]:
        tokens = model.encode_visual(pixels.to(device)).tokens
        if how.get("method") != "nucleus":
            return [text for text, _ in caption(model, tokenizer, tokens, gallery.medium, **how)]
        made = []
        for item, own in zip(items, tokens.split(1), strict=True):
            draws = torch.Generator(device).manual_seed((seed * len(gallery) + item) % 2**63)
            made += caption(model, tokenizer, own, gallery.medium, generator=draws, **how)
        return [text for text, _ in made]

    found = distributed.merge_from_ranks((work or Work()).rows("captions", gallery, batch_size, describe))
    return [found.get(index, "") for index in range(len(gallery))]


def score_captions(gallery: Gallery, written: list[str], settings: dict[str, Any]) -> list[Result]:
    """What `score_words` gives, and the metrics of the field where they can run (else they are named).

    Raises ValueError as `require_words` does.
    """
    results = score_words(gallery, written, settings)
    (known, guessed), not_run = caption_metrics([written, captions_of_others(gallery)], gallery.captions)
    settings = {**settings, "bad": len(gallery.bad)}
    results += [
        gallery_result(gallery, "caption", metric, value, len(gallery), guessed[metric], settings)
        for metric, value in known.items()
    ]
    return results + [
        gallery_result(gallery, "caption", metric, None, len(gallery), None, {**settings, "not_run": reason})
        for metric, reason in not_run.items()
    ]


def score_words(gallery: Gallery, written: list[str], settings: dict[str, Any]) -> list[Result]:
    """exact, token_f1, and for the world's clips motion_word: the share whose motion word is right.

    Raises ValueError as `require_words` does.
    """
    require_words(gallery)
    others, pairs = captions_of_others(gallery), list(zip(written, gallery.captions, strict=True))
    found = {
        metric: ([score([text], [own]) for text, own in pairs], score(others, gallery.captions))
        for metric, score in (("exact", exact_match), ("token_f1", token_f1))
    }
    if gallery.motions:
        right = [
            float(word_of(own[0], motion) in text.split())
            for (text, own), motion in zip(pairs, gallery.motions, strict=True)
        ]
        found["motion_word"] = right, 1 / len(set(gallery.motions))
    settings = {**settings, "bad": len(gallery.bad)}
    return [
        gallery_result(gallery, "caption", metric, sum(items) / len(items), len(items), chance, settings, items)
        for metric, (items, chance) in found.items()
    ]


def captions_of_others(gallery: Gallery) -> list[str]:
    """What a model that says another item's caption would say."""
    return [gallery.captions[(i + 1 + len(gallery) // 2) % len(gallery)][0] for i in range(len(gallery))]


def require_words(gallery: Gallery) -> None:
    """Raises ValueError where an item has no captions, or one without words."""
    for key, own in zip(gallery.keys, gallery.captions, strict=True):
        if not own or not all(words(text) for text in own):
            told = "a caption without words" if own else "no captions"
            raise ValueError(f"{gallery.name}: {key} has {told}, which nothing can be scored by")


def word_of(caption: str, motion: str) -> str:
    """The word of a caption that tells the motion: "left", "grows", "stays", ..."""
    return next(
        word for word in caption.split() if word.startswith(motion[:4]) or (motion == "still" and word == "still")
    )
