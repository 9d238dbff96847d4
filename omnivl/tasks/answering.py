"""Question answering about pictures and clips (paper, section 4): trained with weighted answers, evaluated by ranking a
list or by writing.

The loss of an answer is the sum over its tokens, times the share of annotators who gave it (ALBEF, BLIP); a question
counts once. Axes: B questions, A answers, L tokens.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch, Gallery, Question
from omnivl.losses import lm_loss
from omnivl.metrics import exact_match, vqa_accuracies
from omnivl.model import OmniVL, starting_with
from omnivl.model.answering import Answered, answer_list, ask, choose, read_questions, write
from omnivl.tasks.base import Losses, Result, Task, gallery_result
from omnivl.tokenizer import Tokenizer


class AnsweringTask(Task):
    """The generation decoder learns to write a question's answers from the alignment decoder's states of it."""

    def __init__(self, model: OmniVL, config: TaskConfig, *, enc_id: int, dec_id: int) -> None:
        super().__init__()
        self.model, self.config, self.enc_id, self.dec_id = model, config, enc_id, dec_id
        model.extra["answers"] = True  # whoever uses it may know

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        assert batch.pixels is not None
        if batch.answers is None:
            raise ValueError("these samples have no answers: answering needs a source that reads questions")
        answers, model = batch.answers, self.model
        visual = model.encode_visual(batch.pixels)
        asked = read_questions(model, starting_with(batch.ids, self.enc_id), batch.mask, visual.tokens)
        ids, wanted = starting_with(answers.ids, self.dec_id), answers.mask[:, 1:].bool()
        states = model.decode_states(ids, answers.mask, asked.context.select(answers.rows), asked.mask[answers.rows])
        logits = model.lm_logits(states[:, :-1][wanted])  # padding needs no word
        losses = lm_loss(logits, ids, answers.mask, label_smoothing=self.config.label_smoothing)  # (A,)
        total = distributed.share((losses * answers.weights).sum(), len(batch))
        return Losses(total, {"lm": total.detach()})


@torch.inference_mode()
def answer_questions(
    model: OmniVL,
    tokenizer: Tokenizer,
    gallery: Gallery,
    *,
    answers: Sequence[str] = (),
    batch_size: int = 64,
    max_tokens: int = 40,
) -> list[tuple[Question, str]]:
    """Every question of the gallery with the model's answer: of the list, or written where there is none; empty where
    the item cannot be read. Ranks share the items."""
    device = model.temperature.device
    listed = answer_list(model, tokenizer, answers, max_tokens=max_tokens) if answers else None
    found: dict[int, list[str]] = {}
    for indices, pixels in gallery.batches(batch_size, distributed.own_part(len(gallery))):
        context = model.cross_keys_values(model.encode_visual(pixels.to(device)).tokens)
        rows = [(place, asked) for place, index in enumerate(indices) for asked in gallery.questions[index]]
        texts: list[str] = []
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            seen = context.select(torch.tensor([place for place, _ in part], device=device))
            asked = ask(model, tokenizer, [question.text for _, question in part], seen, max_tokens=max_tokens)
            best: list[Answered]
            best = choose(model, asked, listed, top=1) if listed else write(model, tokenizer, asked, top=1)
            texts += [answered[0][0] for answered in best]
        for (place, _), text in zip(rows, texts, strict=True):
            found.setdefault(indices[place], []).append(text)
    found = distributed.merge_from_ranks(found)
    gallery.gather_bad()
    return [
        (question, text)
        for index, questions in enumerate(gallery.questions)
        for question, text in zip(questions, found.get(index, [""] * len(questions)), strict=True)
    ]


def score_answers(
    gallery: Gallery, answered: Sequence[tuple[Question, str]], settings: Mapping[str, object]
) -> list[Result]:
    """vqa_accuracy where questions have several annotators, else top1; of all questions that have answers, and of each
    kind of answer. Chance is the commonest answer given to all of them."""
    known = [(question, text) for question, text in answered if question.answers]
    if not known:
        return []
    many = any(sum(weight for _, weight in question.answers) > 1 for question, _ in known)
    metric, score = ("vqa_accuracy", vqa_scores) if many else ("top1", top1_scores)
    kinds = sorted({question.kind for question, _ in known if question.kind})
    results = []
    for kind in ("", *kinds):
        part = [(question, text) for question, text in known if kind in ("", question.kind)]
        (commonest,) = commonest_answers([question for question, _ in part], 1)
        items, guessed = score(part), score([(question, commonest) for question, _ in part])
        value, chance = (sum(each) / len(part) for each in (items, guessed))
        told = {**settings, "answer_type": kind or "all", "bad": len(gallery.bad)}
        results.append(gallery_result(gallery, "answer", metric, value, len(part), chance, told, items))
    return results


Score = Callable[[Sequence[tuple[Question, str]]], list[float]]


def vqa_scores(answered: Sequence[tuple[Question, str]]) -> list[float]:
    return vqa_accuracies([text for _, text in answered], [dict(question.answers) for question, _ in answered])


def top1_scores(answered: Sequence[tuple[Question, str]]) -> list[float]:
    return [exact_match([text], [[given for given, _ in question.answers]]) for question, text in answered]


def commonest_answers(questions: Sequence[Question], limit: int = 0) -> list[str]:
    """The answers of some questions, each once, the commonest first and of equally common ones in the order of the
    alphabet; `limit` of them, or all."""
    totals: dict[str, float] = {}
    for question in questions:
        for text, weight in question.answers:
            totals[text] = totals.get(text, 0.0) + weight
    ordered = sorted(totals, key=lambda text: (-totals[text], text))
    return ordered[:limit] if limit else ordered
