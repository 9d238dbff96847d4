"""Matching, captions and answers of a mini run: what the decoders learn after pretraining, and how they do.

Pretraining from kept tokens is contrastive alone (`mini.py`). Then the runs at equal compute have the same short
finetuning, in a copy: the project's own tasks (`omnivl/tasks`) teach the decoders, first to match and to write
captions, then to answer, and the visual encoder stays as pretraining left it. A learnt pair is a training drawing or
clip as it is, drawings and clips by turns. Axes: B rows, I items, T frames, S patches, D width, N visual tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnivl.config import OptimConfig, TaskConfig
from omnivl.data.annotations import Item
from omnivl.data.sample import Answers, Batch, Question, label_key
from omnivl.metrics import exact_match, hits_at_k, token_f1
from omnivl.model import OmniVL, starting_with
from omnivl.model.answering import answer_list, ask, choose
from omnivl.model.generation import Specials, generate
from omnivl.model.omnivl import Visual
from omnivl.model.rerank import rerank
from omnivl.tasks.answering import AnsweringTask
from omnivl.tasks.base import Task
from omnivl.tasks.pretrain import PretrainTask
from omnivl.tokenizer import Tokenizer
from omnivl.train.optim import build_optimizer, learning_rate, set_learning_rate
from studies.paradigms.measure import WHOLE, Row
from studies.paradigms.mini_measure import BATCH, Asked, Shown, as_text, seen

SOME = {"emoji_unseen_hand": 5, "flare_test": 4}  # manifests that are asked about, one item in so many
PART = "some_"  # what their rows' tasks begin with
K = 16  # candidates that are reranked
OPTIM = OptimConfig(lr=5e-4, warmup_steps=10, betas=(0.9, 0.98))


@dataclass(frozen=True)
class Lessons:
    """How much the decoders learn."""

    decoding: int = 80  # steps of matching and captions
    answering: int = 60
    pictures: int = 24  # rows a step
    videos: int = 8


class FromTokens(OmniVL):
    """A model whose pixels are what its lower part made of them: tokens (B, T, 1 + S, D) after `lower` blocks."""

    lower: int

    @classmethod
    def of(cls, model: OmniVL, lower: int) -> "FromTokens":
        """A copy, of which the text blocks, the decoders and the heads learn; word vectors do not."""
        made = cls(model.config)
        made.load_state_dict(model.state_dict())
        made.lower = lower
        for name, parameter in made.named_parameters():
            learns = name.startswith(("text.blocks.", "alignment.", "generation.")) and "embeddings" not in name
            parameter.requires_grad_(learns)
        return made

    def normalised(self, pixels: Tensor) -> Tensor:
        return pixels.float()

    def encode_visual(self, pixels: Tensor) -> Visual:
        x = self.normalised(pixels)
        for block in self.visual.blocks[self.lower :]:
            x = block(x, x.shape[1] > 1)
        tokens = self.visual.norm(torch.cat([x[:, 0, :1], x[:, :, 1:].flatten(1, 2)], 1))
        return Visual(tokens, tokens[:, 0], F.normalize(self.visual_projection(tokens[:, 0]).float(), dim=-1))


# --- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Training items of one medium, and their tokens (I, T, 1 + S, D)."""

    medium: str
    items: list[Item]
    tokens: Tensor

    def batch(self, tokenizer: Tokenizer, size: int, rng: np.random.Generator, *, still: bool, asked: bool) -> Batch:
        """Different items with their captions, or each with one of its questions and the answer."""
        rows = rng.choice(len(self.items), min(size, len(self.items)), replace=False)
        tokens = self.tokens[rows]
        if still and self.medium == "image":
            tokens = tokens.expand(-1, 2, -1, -1)
        if asked:
            questions = [one_of(self.items[row].questions, rng) for row in rows]
            texts = [question.text for question in questions]
        else:
            texts = [self.items[row].captions[0] for row in rows]
        ids, mask = tokenizer(texts)
        answers = None
        if asked:
            said, real = tokenizer([question.answers[0][0] for question in questions])
            answers = Answers(said, real, torch.ones(len(rows)), torch.arange(len(rows)))
        return Batch(self.medium, tokens, ids, mask, torch.tensor([label_key(t) for t in texts]), answers=answers)


def one_of(questions: Sequence[Question], rng: np.random.Generator) -> Question:
    return questions[int(rng.integers(len(questions)))]


def learn(model: FromTokens, task: Task, batches: Iterator[Batch], steps: int, seed: int) -> list[float]:
    """Train in place; gives the loss of every step."""
    torch.manual_seed(seed)
    model.train()
    optimizer = build_optimizer(model, OPTIM, {})
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    told = []
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate(OPTIM, step, steps))
        with torch.autocast("cpu", torch.bfloat16):
            losses = task(next(batches), step, 0)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(learnt, OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told.append(float(losses.total.detach()))
    model.eval()
    return told


@dataclass(frozen=True)
class Taught:
    """A copy that matches and writes captions, a copy of that which answers, and the mean losses of the first and of
    the last ten steps of both."""

    writer: FromTokens
    answerer: FromTokens
    losses: list[list[float]]


def taught(
    model: OmniVL,
    tokenizer: Tokenizer,
    pairs: Sequence[Pairs],
    lessons: Lessons,
    lower: int,
    seed: int,
    *,
    still: bool,
) -> Taught:
    """`still` shows drawings as clips that stand still."""
    enc, dec = tokenizer.enc_id, tokenizer.dec_id

    def batches(number: int, *, asked: bool) -> Iterator[Batch]:
        rng = np.random.default_rng([seed, number])
        while True:
            for each in pairs:
                size = lessons.videos if each.medium == "video" else lessons.pictures
                yield each.batch(tokenizer, size, rng, still=still, asked=asked)

    writer = FromTokens.of(model, lower)
    config = TaskConfig(univlc_weight=0.0, bank_size=0)
    both = PretrainTask(writer, config, seed, enc_id=enc, dec_id=dec, pad_id=tokenizer.pad_id)
    told = [learn(writer, both, batches(0, asked=False), lessons.decoding, seed)]
    answerer = FromTokens.of(writer, lower)
    config = TaskConfig(name="answering", label_smoothing=0.0)
    answering = AnsweringTask(answerer, config, enc_id=enc, dec_id=dec)
    told.append(learn(answerer, answering, batches(1, asked=True), lessons.answering, seed))
    ends = [[round(sum(part) / len(part), 3) for part in (each[:10], each[-10:])] for each in told]
    return Taught(writer, answerer, ends)


# --- measuring -------------------------------------------------------------------------------------------------------


def some(shown: Shown) -> Shown:
    """The items that are asked about."""
    kept = slice(None, None, SOME[shown.name])
    return replace(shown, items=shown.items[kept], tokens=shown.tokens[kept])


@dataclass(frozen=True)
class Tried:
    """Some items as the two models see them, and what pretraining's encoders take for alike."""

    taught: Taught
    tokenizer: Tokenizer
    shown: Shown
    similarity: Tensor  # (I, M) of items and `names`
    names: list[str]
    still: bool

    @torch.inference_mode()
    def rows(self, answers: Sequence[str]) -> list[Row]:
        """Retrieval as it is and reranked, captions, and answers out of `answers`."""
        with torch.autocast("cpu", torch.bfloat16):
            tokens = torch.cat(
                [
                    self.taught.writer.encode_visual(part).tokens
                    for part in seen(self.shown, WHOLE, self.still).split(BATCH)
                ]
            )
            return [*self.retrieval(tokens), *self.captions(tokens), *self.answers(tokens, answers)]

    def retrieval(self, tokens: Tensor) -> Iterator[Row]:
        ids, mask = self.tokenizer(self.names)
        ids = starting_with(ids, self.tokenizer.enc_id)
        target = torch.tensor([[own == name for name in self.names] for own in self.shown.captions])
        letter = self.shown.medium[0]
        for k in (0, K):
            to_text, to_visual = rerank(self.taught.writer, self.similarity, tokens.float(), ids, mask, k)
            for way, scores, wanted in ((f"t2{letter}", to_visual, target.T), (f"{letter}2t", to_text, target)):
                chance = float(hits_at_k(torch.zeros_like(scores), wanted, 1).mean())
                yield self.row(f"{way}_r1", hits_at_k(scores, wanted, 1).tolist(), chance, k)

    def captions(self, tokens: Tensor) -> Iterator[Row]:
        specials = Specials.of(self.tokenizer)
        found = [generate(self.taught.writer, part, specials=specials, min_length=2) for part in tokens.split(BATCH)]
        written = [self.tokenizer.decode(text.ids) for part in found for text in part]
        pairs = list(zip(written, self.shown.captions, strict=True))
        scored: dict[str, Callable[[str, str], float]] = {
            "caption_exact": lambda text, own: exact_match([text], [own]),
            "caption_f1": lambda text, own: token_f1([text], [own]),
        }
        if self.shown.medium == "video":  # an unseen species has no words yet, what it does has
            scored["caption_action"] = lambda text, own: float(own.split()[-1] in text.split())
        for metric, score in scored.items():
            yield self.row(metric, [score(*pair) for pair in pairs], 0.0)

    def answers(self, tokens: Tensor, listed: Sequence[str]) -> Iterator[Row]:
        """Of the questions whose answer is in the list; chance is the commonest answer to the same question."""
        choices = answer_list(self.taught.answerer, self.tokenizer, listed)
        by_question: dict[str, list[tuple[int, str]]] = {}
        for place, item in enumerate(self.shown.items):
            for question in item.questions:
                if (answer := question.answers[0][0]) in listed:
                    by_question.setdefault(question.text, []).append((place, answer))
        right, common = list[float](), 0
        for text, asked in by_question.items():
            own = [answer for _, answer in asked]
            common += max(own.count(answer) for answer in set(own))
            for first in range(0, len(asked), BATCH):
                part = asked[first : first + BATCH]
                context = tokens[torch.tensor([place for place, _ in part])]
                told = choose(
                    self.taught.answerer,
                    ask(self.taught.answerer, self.tokenizer, [text] * len(part), context),
                    choices,
                    top=1,
                )
                right += [float(best[0][0] == answer) for best, (_, answer) in zip(told, part, strict=True)]
        if right:
            yield self.row("answer", right, common / len(right))

    def row(self, metric: str, items: Sequence[float], chance: float, k: int = 0) -> Row:
        return {
            "task": f"{PART}{self.shown.name}",
            "metric": metric,
            "medium": self.shown.medium,
            "k": k,
            "value": round(sum(items) / len(items), 6),
            "chance": round(chance, 6),
            "n": len(items),
            "items": as_text(items),
            "view": WHOLE,
        }


def tried(finetuned: Taught, asked: Asked, *, still: bool) -> Tried:
    """The items of `asked`, and how much alike they and their captions are to the encoders that pretraining left."""
    names = list(dict.fromkeys(asked.shown.captions))
    alike = asked.vectors @ asked.text_vectors(names).T
    return Tried(finetuned, asked.tokenizer, asked.shown, alike, names, still)
