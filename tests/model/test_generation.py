"""Writing and ranking texts against exhaustive search and plain loops (method, invariants 10 and 11)."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from omnivl.config import ModelConfig, TextConfig, VisionConfig
from omnivl.model import OmniVL
from omnivl.model.generation import (
    Generated,
    Specials,
    Writer,
    beam_search,
    caption,
    generate,
    nucleus,
    rank_answers,
)
from omnivl.tokenizer import Tokenizer

# ids: 0 [PAD], 1 [DEC], 2 [SEP], 3 [ENC], and words from 4 on
SPECIALS = Specials(dec_id=1, sep_id=2, banned=(0, 1, 3))
METHODS: tuple[Any, ...] = ("greedy", "beam", "nucleus")


def model(vocabulary: int = 8, text_width: int = 16, seed: int = 0, prompt: str = "") -> OmniVL:
    """A decoder with strong opinions, which differ from picture to picture."""
    torch.manual_seed(seed)
    text = TextConfig(vocab_size=vocabulary, width=text_width, layers=2, heads=2, mlp_width=24, max_positions=16)
    vision = VisionConfig(image_size=8, patch_size=4, width=16, layers=1, heads=2, mlp_width=16)
    made = OmniVL(ModelConfig(vision=vision, text=text, embed_dim=4, image_prompt=prompt)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.35)
        made.generation.head.bias[2] += 0.5
    return made.eval()


def pictures(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return 2 * torch.randn(rows, 5, 16, dtype=torch.float64, generator=generator)


@torch.no_grad()
def token_scores(m: OmniVL, context: Tensor, ids: list[int], look: Tensor | None = None) -> list[float]:
    """Log-probability of each token after the first, by one uncached reading of the whole text."""
    logits = m.decode(torch.tensor([ids]), None, context, look)[0].log_softmax(1)
    return [float(logits[i, token]) for i, token in enumerate(ids[1:])]


@pytest.mark.parametrize(("seed", "min_length"), [(0, 1), (1, 1), (2, 3), (3, 4)])
def test_beam_search_equals_exhaustive_search(seed: int, min_length: int) -> None:
    m, visual, words, max_length = model(seed=seed), pictures(3), range(4, 8), 4
    written = generate(
        m,
        visual,
        specials=SPECIALS,
        method="beam",
        num_beams=4**max_length,
        min_length=min_length,
        max_length=max_length,
    )
    for row in range(3):
        best, text = -math.inf, tuple[int, ...]()
        for length in range(min_length, max_length + 1):
            for choice in itertools.product(words, repeat=length - 1):
                scores = token_scores(m, visual[row : row + 1], [1, *choice, 2])
                if sum(scores) / length > best:
                    best, text = sum(scores) / length, (*choice, 2)
        assert written[row].ids == text
        assert written[row].score == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0])
def test_the_best_few_texts_are_those_of_exhaustive_search(length_penalty: float) -> None:
    m, visual, max_length, keep = model(seed=1), pictures(2), 3, 4
    writer = Writer(m, visual, None, SPECIALS, (), 1, max_length, 1.0)
    found = beam_search(writer, 4**max_length, length_penalty=length_penalty, keep=keep)
    for row in range(2):
        worth = {}
        for length in range(max_length):
            for words in itertools.product(range(4, 8), repeat=length):
                scores = token_scores(m, visual[row : row + 1], [1, *words, 2])
                worth[(*words, 2)] = (sum(scores) / len(scores) ** length_penalty, sum(scores) / len(scores))
        best = sorted(worth, key=lambda text: -worth[text][0])[:keep]
        assert [text.ids for text in found[row]] == best
        assert [text.score for text in found[row]] == pytest.approx([worth[text][1] for text in best])


def test_an_item_gets_the_same_caption_alone_and_in_a_batch() -> None:
    m, visual = model(vocabulary=20), pictures(12)
    together = generate(m, visual, specials=SPECIALS, num_beams=3, max_length=12)
    assert len({len(text.ids) for text in together}) > 2  # they end at different times
    for row, text in enumerate(together):
        alone = generate(m, visual[row : row + 1], specials=SPECIALS, num_beams=3, max_length=12)[0]
        assert alone.ids == text.ids
        assert alone.score == pytest.approx(text.score, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prompt", [(), (5, 9)])
def test_the_score_is_the_models_own_mean_log_probability(method: Any, prompt: tuple[int, ...]) -> None:
    m, visual = model(vocabulary=20), pictures(6)
    written = generate(
        m,
        visual,
        specials=SPECIALS,
        prompt_ids=prompt,
        method=method,
        temperature=0.7,
        min_length=3,
        max_length=8,
        repetition_penalty=1.5,
        generator=torch.Generator().manual_seed(0),
    )
    for row, text in enumerate(written):
        scores = token_scores(m, visual[row : row + 1], [1, *prompt, *text.ids])[len(prompt) :]
        assert text.score == pytest.approx(sum(scores) / len(scores), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_lengths_are_kept_texts_end_and_banned_tokens_never_come(method: Any) -> None:
    m, visual = model(vocabulary=12), pictures(16)
    for min_length, max_length in ((1, 1), (1, 6), (4, 6), (6, 6)):
        written = generate(
            m,
            visual,
            specials=SPECIALS,
            method=method,
            min_length=min_length,
            max_length=max_length,
            generator=torch.Generator().manual_seed(1),
        )
        assert len(written) == 16
        for text in written:
            assert min_length <= len(text.ids) <= max_length
            assert text.ids[-1] == 2
            assert not set(text.ids[:-1]) & {0, 1, 2, 3}


def test_greedy_equals_a_plain_uncached_loop() -> None:
    m, visual = model(vocabulary=20), pictures(8)
    written = generate(m, visual, specials=SPECIALS, prompt_ids=[6], method="greedy", max_length=8)
    for row in range(8):
        ids = [1, 6]
        while ids[-1] != 2 and len(ids) < 2 + 8:
            logits = m.decode(torch.tensor([ids]), None, visual[row : row + 1])[0, -1]
            logits[[0, 1, 3]] = -math.inf
            ids.append(int(logits.argmax()) if len(ids) < 2 + 7 else 2)
        assert written[row].ids == tuple(ids[2:])


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_after_the_prompt_depends_on_it_and_does_not_hold_it(method: Any) -> None:
    m, visual = model(vocabulary=20), pictures(4)

    def write(prompt: list[int]) -> list[Generated]:
        generator = torch.Generator().manual_seed(0)
        return generate(
            m, visual, specials=SPECIALS, prompt_ids=prompt, method=method, max_length=6, generator=generator
        )

    assert [text.ids for text in write([5, 6])] != [text.ids for text in write([9, 9])]


def test_nucleus_draws_from_the_smallest_set_that_holds_the_probability() -> None:
    wish = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.05, 0.05, 0.8]]).log()
    generator = torch.Generator().manual_seed(0)
    counts = [Counter[int](), Counter[int]()]
    for _ in range(4000):
        for row, token in enumerate(nucleus(wish, 0.7, 1.0, generator).tolist()):
            counts[row][token] += 1
    assert set(counts[0]) == {0, 1} and set(counts[1]) == {3}
    assert counts[0][0] / 4000 == pytest.approx(0.5 / 0.8, abs=0.03)


def test_nucleus_is_reproducible_and_narrows_to_greedy() -> None:
    m, visual = model(vocabulary=20), pictures(6)

    def draw(seed: int, **settings: float) -> list[Generated]:
        generator = torch.Generator().manual_seed(seed)
        return generate(m, visual, specials=SPECIALS, method="nucleus", max_length=8, generator=generator, **settings)  # type: ignore[arg-type]

    assert draw(0) == draw(0) != draw(1)
    greedy = generate(m, visual, specials=SPECIALS, method="greedy", max_length=8)
    assert [text.ids for text in draw(0, top_p=1e-6)] == [text.ids for text in greedy]
    assert [text.ids for text in draw(0, temperature=1e-3)] == [text.ids for text in greedy]


@pytest.mark.parametrize("method", METHODS)
def test_a_strong_repetition_penalty_repeats_no_word(method: Any) -> None:
    m, visual = model(vocabulary=40), pictures(8)

    def repeats(penalty: float) -> int:
        written = generate(
            m,
            visual,
            specials=SPECIALS,
            prompt_ids=[7, 8],
            method=method,
            min_length=8,
            max_length=8,
            repetition_penalty=penalty,
            generator=torch.Generator().manual_seed(0),
            top_p=0.5,
        )
        return sum(len(text.ids) + 2 - len({7, 8, *text.ids}) for text in written)

    assert repeats(1.0) > 0
    assert repeats(1e6) == 0


def test_keys_and_values_of_a_picture_are_computed_once() -> None:
    m, visual = model(), pictures(3)
    calls: list[int] = []
    for block in m.generation.blocks:
        assert block.cross is not None
        block.cross.key_value.register_forward_hook(lambda layer, given, made: calls.append(len(made)))
    expected = generate(m, visual, specials=SPECIALS, num_beams=4, min_length=5, max_length=6)
    assert calls == [3, 3]
    context = m.cross_keys_values(visual)
    calls.clear()
    assert generate(m, context, specials=SPECIALS, num_beams=4, min_length=5, max_length=6) == expected
    assert calls == []


@pytest.mark.parametrize("method", METHODS)
def test_the_padding_of_a_question_changes_nothing(method: Any) -> None:
    m, states = model(vocabulary=20, text_width=8), torch.randn(2, 5, 8, dtype=torch.float64)
    look = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])

    def write(context: Tensor, mask: Tensor | None) -> list[Generated]:
        generator = torch.Generator().manual_seed(0)
        return generate(
            m, context, specials=SPECIALS, context_mask=mask, method=method, max_length=6, generator=generator
        )

    first = write(states, look)
    states[0, 3:] = 5.0
    assert [text.ids for text in write(states, look)] == [text.ids for text in first]
    if method != "nucleus":  # whose draws depend on the batch
        assert write(states[:1, :3], None)[0].ids == first[0].ids


def test_settings_out_of_range_are_refused() -> None:
    m, visual = model(), pictures(1)
    for settings, told in (
        ({"method": "best"}, "method is 'best'"),
        ({"min_length": 5, "max_length": 4}, "min_length is 5 and max_length 4"),
        ({"max_length": 17}, "max_length <= 16"),
        ({"max_length": 15, "prompt_ids": [5, 5]}, "max_length <= 14"),
        ({"num_beams": 0}, "num_beams 0"),
        ({"top_p": 0.0}, "top_p 0"),
        ({"temperature": 0.0}, "temperature 0"),
    ):
        with pytest.raises(ValueError, match=told):
            generate(m, visual, **{"specials": SPECIALS, "max_length": 8, **settings})  # type: ignore[arg-type]


def test_the_longest_text_fits_the_position_table() -> None:
    written = generate(model(), pictures(2), specials=SPECIALS, num_beams=2, min_length=16, max_length=16)
    assert [len(text.ids) for text in written] == [16, 16]


def answers(count: int, vocabulary: int) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Answers of 1 to 4 words, several of them with the same first word."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for i in range(count):
        words = torch.randint(4, vocabulary, (i % 4,), generator=generator).tolist()
        rows.append([1, 4 + i // 2, *words, 2])
    ids, mask = torch.zeros(count, 6, dtype=torch.int64), torch.zeros(count, 6, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask, rows


@pytest.mark.parametrize("rows", [1, 30, 512])
def test_ranking_the_full_list_equals_brute_force(rows: int) -> None:
    m, states = model(vocabulary=20, text_width=8), torch.randn(3, 5, 8, dtype=torch.float64)
    look = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    ids, mask, listed = answers(11, 20)
    ranked = rank_answers(m, states, look, ids, mask, rows=rows)
    assert ranked.shape == (3, 11)
    for item in range(3):
        cut = slice(item, item + 1)
        expected = [sum(token_scores(m, states[cut], row, look[cut])) for row in listed]
        assert ranked[item].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_shortlist_holds_the_likeliest_first_tokens_and_no_other_answer() -> None:
    m, visual = model(vocabulary=20), pictures(4)
    ids, mask, listed = answers(12, 20)
    full = rank_answers(m, visual, None, ids, mask)
    short = rank_answers(m, m.cross_keys_values(visual), None, ids, mask, 4)
    for item in range(4):
        first = [token_scores(m, visual[item : item + 1], row)[0] for row in listed]
        order = sorted(range(12), key=lambda i: -round(first[i], 9))[:4]  # answers of one first word keep their order
        assert torch.isfinite(short[item]).nonzero().flatten().tolist() == sorted(order)
        torch.testing.assert_close(short[item, order], full[item, order])


def test_an_answer_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="answers of at least one token"):
        rank_answers(model(), pictures(1), None, torch.tensor([[1, 0]]), torch.tensor([[1, 0]]))


def test_captions_start_with_the_models_prompt_and_leave_it_out() -> None:
    texts = ["a picture of a red star", "a blue ring moves left", "the green bar turns"]
    tokenizer = Tokenizer.train(texts, vocab_size=60)
    m, plain = (model(vocabulary=tokenizer.vocab_size, prompt=prompt) for prompt in ("a picture of ", ""))
    prompt_ids = tokenizer(["a picture of"])[0][0, 1:-1].tolist()
    assert len(prompt_ids) == 3
    visual, specials = pictures(3), Specials.of(tokenizer)
    expected = generate(m, visual, specials=specials, prompt_ids=prompt_ids, min_length=2, max_length=6)
    made = caption(m, tokenizer, visual, "image", min_length=2, max_length=6)
    assert made == [(tokenizer.decode(text.ids), text.score) for text in expected]
    without = generate(plain, visual, specials=specials, min_length=2, max_length=6)
    assert [text for text, _ in caption(m, tokenizer, visual, "video", min_length=2, max_length=6)] == [
        tokenizer.decode(text.ids) for text in without
    ]
    assert set(specials.banned) == set(tokenizer.special_ids) - {tokenizer.sep_id}
