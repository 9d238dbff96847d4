"""Captioning: the prompt is read but never a target, and a caption does not depend on its neighbours (P97)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnivl.config import TaskConfig
from omnivl.data.sample import BadSample, Gallery, Sample, collate
from omnivl.model import OmniVL
from omnivl.tasks.captioning import CaptioningTask, score_captions, write_captions
from omnivl.tokenizer import Tokenizer
from tests.helpers import MINI, mini_model

CAPTIONS = ["a red circle lies left", "a star", "a big blue square on a white ground lies up"]


def model_with_prompt() -> tuple[OmniVL, Tokenizer]:
    config = replace(MINI, image_prompt="a big ", video_prompt="a ", text=replace(MINI.text, dropout=0.0))
    return mini_model(config=config)


def pixels(seed: int, frames: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(("medium", "frames", "prompt"), [("image", 1, "a big "), ("video", 4, "a ")])
def test_the_loss_is_that_of_the_captions_tokens_after_the_prompt(medium: str, frames: int, prompt: str) -> None:
    model, tokenizer = model_with_prompt()
    batch = collate([Sample(pixels(i, frames), text) for i, text in enumerate(CAPTIONS)], medium, tokenizer, 40)
    total, count = 0.0, 0
    with torch.no_grad():
        for row, text in enumerate(CAPTIONS):
            ids = tokenizer([prompt + text])[0]
            ids[:, 0] = tokenizer.dec_id
            start = tokenizer([prompt])[0].shape[1] - 1  # [DEC] and the prompt
            assert batch.pixels is not None
            visual = model.encode_visual(batch.pixels[row : row + 1])
            scores = model.decode(ids, None, visual.tokens)[0].log_softmax(1)
            for place in range(start, ids.shape[1]):
                total -= float(scores[place - 1, ids[0, place]])
                count += 1
    loss = CaptioningTask(model, TaskConfig(label_smoothing=0.0), tokenizer)(batch, 0, 0)
    assert loss.total.item() == pytest.approx(total / count, rel=1e-4)


def gallery(captions: list[tuple[str, ...]], broken: int | None = None) -> Gallery:
    def read(index: int) -> np.ndarray:
        if index == broken:
            raise BadSample(f"{index}.jpg: broken")
        return pixels(index, 1)

    keys = [str(i) for i in range(len(captions))]
    return Gallery("g", "test", "image", keys, captions, [""] * len(keys), read)


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_an_item_alone_and_in_a_batch_gets_the_same_caption(method: str) -> None:
    model, tokenizer = model_with_prompt()
    wanted: list[tuple[str, ...]] = [(text,) for text in CAPTIONS * 2]
    alone = write_captions(model, tokenizer, gallery(wanted), batch_size=1, method=method)
    assert write_captions(model, tokenizer, gallery(wanted), batch_size=5, method=method) == alone


def test_an_unread_item_has_an_empty_caption_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnivl.metrics.captions.missing", lambda: "no Java")
    model, tokenizer = model_with_prompt()
    items = gallery([(text,) for text in CAPTIONS], broken=1)
    written = write_captions(model, tokenizer, items)
    assert written[1] == "" and items.bad == [("1", "1.jpg: broken")]
    results = {r.metric: r for r in score_captions(items, [CAPTIONS[0], "", CAPTIONS[2]], {})}
    assert results["exact"].value == pytest.approx(2 / 3) and results["exact"].settings["bad"] == 1
    assert results["cider"].value is None and results["cider"].settings["not_run"] == "no Java"


def test_a_caption_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="g: 1 has a caption without words"):
        score_captions(gallery([("a cat",), ("...",)]), ["", ""], {})
