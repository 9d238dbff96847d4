"""Captioning evaluation: one caption an item by beam search, against the item's own captions."""

import torch

from omnivl.data.sample import Gallery
from omnivl.metrics import exact_match, token_f1
from omnivl.model import OmniVL
from omnivl.model.generation import caption
from omnivl.tasks.base import Result
from omnivl.tasks.retrieval import gallery_result
from omnivl.tokenizer import Tokenizer


@torch.inference_mode()
def write_captions(
    model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, batch_size: int = 64, num_beams: int = 3
) -> list[str]:
    """A caption for each item; empty where it cannot be read."""
    captions = [""] * len(gallery)
    for indices, pixels in gallery.batches(batch_size):
        visual = model.encode_visual(pixels.to(model.temperature.device))
        made = caption(model, tokenizer, visual.tokens, gallery.medium, num_beams=num_beams)
        for index, (text, _) in zip(indices, made, strict=True):
            captions[index] = text
    return captions


@torch.inference_mode()
def evaluate_captions(model: OmniVL, tokenizer: Tokenizer, gallery: Gallery, *, num_beams: int = 3) -> list[Result]:
    """exact, token_f1, and for the world's clips motion_word: the share whose motion word is right."""
    written = write_captions(model, tokenizer, gallery, num_beams=num_beams)
    settings: dict[str, object] = {"num_beams": num_beams, "bad": len(gallery.bad)}
    # what a model that says another item's caption would get
    others = [gallery.captions[(i + 1 + len(gallery) // 2) % len(gallery)][0] for i in range(len(gallery))]
    values: list[tuple[str, float, float | None]] = [
        ("exact", exact_match(written, gallery.captions), exact_match(others, gallery.captions)),
        ("token_f1", token_f1(written, gallery.captions), token_f1(others, gallery.captions)),
    ]
    if gallery.motions:
        right = sum(
            word_of(own[0], motion) in text.split()
            for text, own, motion in zip(written, gallery.captions, gallery.motions, strict=True)
        )
        values.append(("motion_word", right / len(gallery), 1 / len(set(gallery.motions))))
    return [
        gallery_result(gallery, "caption", metric, value, len(gallery), chance, settings)
        for metric, value, chance in values
    ]


def word_of(caption: str, motion: str) -> str:
    """The word of a caption that tells the motion: "left", "grows", "stays", ..."""
    return next(
        word for word in caption.split() if word.startswith(motion[:4]) or (motion == "still" and word == "still")
    )
