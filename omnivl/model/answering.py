"""Answers to questions about pictures and clips (paper, section 4): the alignment decoder reads a question beside what
is seen, and the generation decoder, which looks at its states alone, ranks a list of answers or writes one.

Axes: Q questions, A answers, L tokens. Probabilities: over the list where there is one, else that the model writes just
this text. This room knows no data set and no task.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omnivl.model.generation import Specials, Writer, beam_search, rank_answers, require_generation
from omnivl.model.layers import CrossKV
from omnivl.model.omnivl import OmniVL
from omnivl.model.text import starting_with
from omnivl.tokenizer import Tokenizer

Answered = list[tuple[str, float]]  # texts and their probabilities, best first


class Asked(NamedTuple):
    """Questions as the generation decoder looks at them."""

    context: CrossKV
    mask: Tensor  # (Q, L), 1 where a token is real


class AnswerList(NamedTuple):
    """Answers to choose from."""

    texts: tuple[str, ...]
    ids: Tensor  # (A, L), starting with [DEC]
    mask: Tensor


def read_questions(model: OmniVL, ids: Tensor, mask: Tensor, seen: Tensor | CrossKV) -> Asked:
    """Questions (Q, L) starting with [ENC], each beside its own visual tokens or their `cross_keys_values`."""
    return Asked(model.context_keys_values(model.match_states(ids, mask, seen)), mask)


def ask(
    model: OmniVL, tokenizer: Tokenizer, questions: Sequence[str], seen: Tensor | CrossKV, *, max_tokens: int = 40
) -> Asked:
    """As `read_questions`, of texts. Raises ValueError for a question without words, and where the model has no
    generation decoder."""
    require_generation(model)
    blank = [number for number, question in enumerate(questions) if not question.strip()]
    if blank:
        raise ValueError(f"question {blank[0]} is empty: ask something")
    ids, mask = (tensor.to(model.temperature.device) for tensor in tokenizer(questions, max_tokens=max_tokens))
    return read_questions(model, starting_with(ids, tokenizer.enc_id), mask, seen)


def answer_list(model: OmniVL, tokenizer: Tokenizer, answers: Sequence[str], *, max_tokens: int = 40) -> AnswerList:
    """Answers, each once, to choose from. Raises ValueError where there are fewer than two different ones."""
    texts = tuple(dict.fromkeys(text for text in map(str.strip, answers) if text))
    if len(texts) < 2:
        raise ValueError(f"there must be at least two different answers to choose from, got {len(texts)}")
    ids, mask = (tensor.to(model.temperature.device) for tensor in tokenizer(texts, max_tokens=max_tokens))
    return AnswerList(texts, starting_with(ids, tokenizer.dec_id), mask)


@torch.inference_mode()
def choose(model: OmniVL, asked: Asked, answers: AnswerList, *, shortlist: int = 128, top: int = 5) -> list[Answered]:
    """The `top` answers of the list to each question. The shortlist is by the first token; the probabilities are over
    it."""
    scores = rank_answers(model, asked.context, asked.mask, answers.ids, answers.mask, shortlist)
    values, places = scores.softmax(1).topk(min(top, shortlist, len(answers.texts)), dim=1)
    return [
        [(answers.texts[place], value) for place, value in zip(*row, strict=True)]
        for row in zip(places.tolist(), values.tolist(), strict=True)
    ]


@torch.inference_mode()
def write(
    model: OmniVL, tokenizer: Tokenizer, asked: Asked, *, num_beams: int = 5, max_length: int = 10, top: int = 5
) -> list[Answered]:
    """The likeliest answers as whole texts, by beam search, to each question."""
    writer = Writer(model, asked.context, asked.mask, Specials.of(tokenizer), (), 2, max_length, 1.0)
    found = beam_search(writer, num_beams, length_penalty=0.0, keep=top)
    return [[(tokenizer.decode(text.ids), math.exp(text.score * len(text.ids))) for text in texts] for texts in found]
