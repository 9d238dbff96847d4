"""Samples into batches: what is padded, what is a positive of what, and what travels along."""

import unicodedata

import numpy as np
import pytest
import torch
from torch import Tensor

from omnivl.data.sample import BadSample, Batch, Gallery, Sample, collate, label_key
from tests.helpers import mini_model

TOKENIZER = mini_model()[1]
TEXTS = ["a red circle", "a big blue star on a white ground lies left", "", "a red circle"]


def samples(frames: int = 2) -> list[Sample]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 255, (len(TEXTS), frames, 6, 8, 3), dtype=np.uint8)
    return [Sample(each, text, key=str(i)) for i, (each, text) in enumerate(zip(drawn, TEXTS, strict=True))]


def test_pixels_keep_their_place_under_other_axes() -> None:
    batch = collate(samples(), "video", TOKENIZER, 40)
    assert batch.pixels is not None and batch.pixels.shape == (4, 2, 3, 6, 8) and batch.pixels.dtype == torch.uint8
    for b, sample in enumerate(samples()):
        assert sample.pixels is not None
        for t, y, x, c in np.ndindex(sample.pixels.shape):
            assert batch.pixels[b, t, c, y, x] == sample.pixels[t, y, x, c]
    assert batch.pixels.is_contiguous()


def test_text_is_padded_to_the_longest_of_the_batch_and_cut_at_the_limit() -> None:
    batch = collate(samples(), "video", TOKENIZER, 40)
    alone = [collate([sample], "video", TOKENIZER, 40) for sample in samples()]
    assert batch.ids.shape[1] == max(each.ids.shape[1] for each in alone) < 40
    for row, each in enumerate(alone):
        length = each.ids.shape[1]
        assert torch.equal(batch.ids[row, :length], each.ids[0]) and batch.mask[row].sum() == length
        assert (batch.ids[row, length:] == TOKENIZER.pad_id).all()
    assert collate(samples(), "video", TOKENIZER, 5).ids.shape[1] == 5


def test_text_alone_has_no_pixels_and_pixels_are_never_left_out_silently() -> None:
    texts = [Sample(None, text) for text in TEXTS]
    batch = collate(texts, "text", TOKENIZER, 40)
    assert batch.pixels is None and len(batch) == 4
    with pytest.raises(AssertionError, match="without pixels"):
        collate([*samples()[:3], texts[3]], "video", TOKENIZER, 40)
    with pytest.raises(ValueError, match="shape"):
        collate([samples(1)[0], samples(2)[1]], "video", TOKENIZER, 40)


def test_what_was_replaced_travels_with_the_batch_and_is_counted_once_in_its_parts() -> None:
    some = samples()
    some[1].bad, some[3].bad = (("a", "x"), ("a", "y")), (("b", "z"),)
    batch = collate(some, "video", TOKENIZER, 40)
    assert batch.keys == ["0", "1", "2", "3"] and batch.bad == [("a", "x"), ("a", "y"), ("b", "z")]
    parts = batch.split(2)
    assert [item for part in parts for item in part.bad] == batch.bad
    assert [key for part in parts for key in part.keys] == batch.keys


def tensors(batch: Batch) -> tuple[Tensor, ...]:
    assert batch.pixels is not None
    return batch.pixels, batch.ids, batch.mask, batch.labels


def test_parts_are_the_batch_in_order_and_moving_changes_nothing() -> None:
    batch = collate(samples(), "video", TOKENIZER, 40)
    for whole, *parts in zip(tensors(batch), *map(tensors, batch.split(4)), strict=True):
        assert torch.equal(torch.cat(parts), whole)
    for one, other in zip(tensors(batch), tensors(batch.to("cpu")), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(AssertionError, match="does not split in 3"):
        batch.split(3)


@pytest.mark.gpu
def test_a_pinned_batch_is_pinned() -> None:
    assert all(tensor.is_pinned() for tensor in tensors(collate(samples(), "video", TOKENIZER, 40).pin_memory()))


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_same_text_and_the_same_class_are_positives_and_nothing_else() -> None:
    decomposed = unicodedata.normalize("NFD", "a café")
    assert label_key("A  red\tcircle ") == label_key("a red circle") and label_key(decomposed) == label_key("a café")
    assert label_key("a photo of a cat", "cat") == label_key("there is a cat", "cat")
    assert label_key("", unicodedata.normalize("NFD", "café")) == label_key("", "café")
    others = [label_key("cat"), label_key("", "cat"), label_key("", "Cat"), label_key("a cat"), label_key("cat.")]
    assert len(set(others)) == 5
    assert collate(samples(), "video", TOKENIZER, 40).labels.tolist() == [label_key(text) for text in TEXTS]


def test_labels_fill_64_signed_bits_and_do_not_change() -> None:
    keys = np.array([label_key(f"text {i}") for i in range(2000)])
    assert keys.dtype == np.int64 and len(set(keys)) == 2000
    set_bits = (keys[:, None] >> np.arange(64) & 1).mean(0)
    assert np.abs(set_bits - 0.5).max() < 0.06, "every bit is used about evenly"
    known = (-8304831058511548363, -2013168422206662025)  # they stand in the banks of checkpoints
    assert (label_key("a red circle"), label_key("", "cat")) == known


# --- galleries -------------------------------------------------------------------------------------------------------


def test_an_item_that_cannot_be_read_is_listed_once_however_often_it_is_asked_for() -> None:
    def read(index: int) -> np.ndarray:
        if index in (1, 2):
            raise BadSample(f"{index}: broken")
        return np.full((1, 2, 2, 3), index, np.uint8)

    gallery = Gallery("x", "test", "image", list("abcd"), [("x",)] * 4, [""] * 4, read)
    for _ in range(2):
        assert [(indices, int(batch.sum())) for indices, batch in gallery.batches(2)] == [([0], 0), ([3], 36)]
    assert gallery.bad == [("b", "1: broken"), ("c", "2: broken")] and len(gallery) == 4
