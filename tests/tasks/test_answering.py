"""Answering: its loss against a loop written by hand, its evaluation against plain forward passes one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from omnivl.config import ModelConfig, TaskConfig
from omnivl.data.sample import BadSample, Gallery, Question, Sample, collate
from omnivl.model import OmniVL, starting_with
from omnivl.model.answering import answer_list, ask, choose, write
from omnivl.tasks.answering import AnsweringTask, answer_questions, commonest_answers, score_answers
from omnivl.tokenizer import Tokenizer
from tests.helpers import MINI, mini_model

NARROW = replace(MINI, text=replace(MINI.text, width=16, dropout=0.0))  # text and vision of different widths
EVEN = replace(MINI, text=replace(MINI.text, dropout=0.0))
ALONE = replace(EVEN, sharing="none")
SHAPES: list[ModelConfig] = [EVEN, NARROW, ALONE]
ANSWERS = ["red", "moves left", "a big blue star", "circle", "up", "green circle"]
QUESTIONS = ["what colour is it?", "where?", "how does the big red star on a white ground move, and where does it lie?"]


def pixels(seed: int, frames: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def shaken(config: ModelConfig) -> tuple[OmniVL, Tokenizer]:
    """A model with opinions."""
    model, tokenizer = mini_model(config=config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, tokenizer


@torch.no_grad()
def log_probability(model: OmniVL, tokenizer: Tokenizer, frames: np.ndarray, question: str, answer: str) -> list[float]:
    """Of each token of one answer to one question, by one plain forward pass without padding."""
    visual = model.encode_visual(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    states = model.match_states(starting_with(tokenizer([question])[0], tokenizer.enc_id), None, visual.tokens)
    ids = starting_with(tokenizer([answer])[0], tokenizer.dec_id)
    logits = model.decode(ids, None, states)[0].log_softmax(1)
    return [float(logits[i, token]) for i, token in enumerate(ids[0, 1:])]


@pytest.mark.parametrize("config", SHAPES, ids=["even", "narrow", "unshared"])
def test_the_loss_is_the_weighted_sum_over_answers_of_their_tokens(config: ModelConfig) -> None:
    model, tokenizer = shaken(config)
    answers = [(("red", 3.0), ("blue", 1.0)), (("left", 1.0),), (("a big star", 2.0), ("up", 1.0), ("red", 1.0))]
    samples = [
        Sample(pixels(i), question, answers=own)
        for i, (question, own) in enumerate(zip(QUESTIONS, answers, strict=True))
    ]
    batch = collate(samples, "image", tokenizer, 40)
    task = AnsweringTask(model, TaskConfig(label_smoothing=0.0), enc_id=tokenizer.enc_id, dec_id=tokenizer.dec_id)
    assert model.extra["answers"], "its folder will say so"
    expected = 0.0
    for sample in samples:
        total = sum(weight for _, weight in sample.answers)
        assert sample.pixels is not None
        for text, weight in sample.answers:
            expected -= weight / total * sum(log_probability(model, tokenizer, sample.pixels, sample.text, text))
    losses = task(batch, 0, 0)
    assert losses.total.item() == pytest.approx(expected / 3, rel=1e-4)
    losses.total.backward()
    missing = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None and name.startswith(("alignment.blocks", "generation."))
    }
    assert missing == set(), "questions and answers reach every layer of both decoders"
    parts = batch.split(3)
    assert [part.answers.rows.tolist() for part in parts if part.answers] == [[0, 0], [0], [0, 0, 0]]
    assert sum(task(part, 0, 0).total.item() for part in parts) / 3 == pytest.approx(expected / 3, rel=1e-4)


@pytest.mark.parametrize("config", SHAPES, ids=["even", "narrow", "unshared"])
def test_ranking_equals_scoring_every_answer_one_by_one(config: ModelConfig) -> None:
    model, tokenizer = shaken(config)
    frames = [pixels(i, 4) for i in range(3)]
    seen = model.encode_visual(torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3)).tokens
    with torch.inference_mode():
        asked = ask(model, tokenizer, QUESTIONS, seen)
        ranked = choose(model, asked, answer_list(model, tokenizer, ANSWERS), top=6)
        written = write(model, tokenizer, asked, num_beams=20, max_length=3, top=4)
    for row in range(3):
        sums = [sum(log_probability(model, tokenizer, frames[row], QUESTIONS[row], answer)) for answer in ANSWERS]
        total = sum(map(math.exp, sums))
        expected = sorted(((math.exp(s) / total, text) for s, text in zip(sums, ANSWERS, strict=True)), reverse=True)
        assert [text for text, _ in ranked[row]] == [text for _, text in expected]
        assert [value for _, value in ranked[row]] == pytest.approx([value for value, _ in expected], rel=1e-4)
        values = [value for _, value in written[row]]
        assert len(values) == 4 and values == sorted(values, reverse=True)


def gallery(broken: int | None = None) -> Gallery:
    """Five items with none to four questions."""
    kinds = ("colour", "place")
    questions = [
        tuple(
            Question(QUESTIONS[(i + j) % 3], (("red", 2.0), ("left", 1.0)), f"{i}{j}", kinds[j % 2]) for j in range(i)
        )
        for i in range(5)
    ]

    def read(index: int) -> np.ndarray:
        if index == broken:
            raise BadSample(f"{index}.jpg: broken")
        return pixels(index)

    return Gallery("g", "test", "image", [str(i) for i in range(5)], [()] * 5, [""] * 5, read, questions=questions)


def test_answers_do_not_depend_on_the_batch_and_come_in_order() -> None:
    model, tokenizer = shaken(EVEN)
    alone = answer_questions(model, tokenizer, gallery(), answers=ANSWERS, batch_size=1)
    assert [question.id for question, _ in alone] == ["10", "20", "21", "30", "31", "32", "40", "41", "42", "43"]
    for size in (3, 64):
        assert answer_questions(model, tokenizer, gallery(), answers=ANSWERS, batch_size=size) == alone
    for question, text in alone:
        frames = pixels(int(question.id[0]))
        best = max(ANSWERS, key=lambda one: sum(log_probability(model, tokenizer, frames, question.text, one)))
        assert text == best


def test_what_cannot_be_read_counts_as_wrong_and_each_kind_is_told() -> None:
    model, tokenizer = shaken(EVEN)
    broken = gallery(4)
    answered = answer_questions(model, tokenizer, broken, answers=["red", "up"])
    assert [text for question, text in answered if question.id.startswith("4")] == [""] * 4
    answered = [(question, "red" if text else "") for question, text in answered]
    results = score_answers(broken, answered, {"mode": "rank"})
    # two of three said red: (2 x min(1, 1/3) + 1 x min(1, 2/3)) / 3
    one = (2 * (1 / 3) + 2 / 3) / 3
    by_type = {result.settings["answer_type"]: result for result in results}
    assert set(by_type) == {"all", "colour", "place"}
    assert by_type["all"].n == 10 and by_type["all"].value == pytest.approx(6 * one / 10)
    assert by_type["all"].chance == pytest.approx(one) and by_type["all"].metric == "vqa_accuracy"
    assert by_type["all"].settings["bad"] == 1 and broken.bad == [("4", "4.jpg: broken")]


def test_one_answer_a_question_is_top1() -> None:
    asked = [Question("?", (("moves left", 1.0),), "0"), Question("?", (("red", 1.0),), "1"), Question("?", (), "2")]
    answered = [(asked[0], "Moves  left"), (asked[1], "left"), (asked[2], "red")]
    results = score_answers(gallery(), answered, {})
    assert [(r.metric, r.value, r.n) for r in results] == [("top1", 0.5, 2)]
    assert score_answers(gallery(), [(asked[2], "red")], {}) == []


def test_the_commonest_answers_come_first_and_equal_ones_by_the_alphabet() -> None:
    asked = [Question("?", (("b", 1.0), ("c", 2.0))), Question("?", (("a", 1.0),)), Question("?")]
    assert commonest_answers(asked) == ["c", "a", "b"] and commonest_answers(asked, 2) == ["c", "a"]


def test_what_cannot_be_answered_is_one_sentence() -> None:
    model, tokenizer = mini_model()
    with pytest.raises(ValueError, match="at least two different answers to choose from, got 1"):
        answer_list(model, tokenizer, ["yes", " yes", ""])
    seen = model.encode_visual(torch.from_numpy(pixels(0)).permute(0, 3, 1, 2)[None]).tokens
    with pytest.raises(ValueError, match="question 0 is empty"):
        ask(model, tokenizer, [" "], seen)
    with pytest.raises(ValueError, match="no generation decoder"):
        ask(model.without_decoders(), tokenizer, ["what?"], seen)
