"""Writing texts: greedy, beam and nucleus search with a key-value cache, and ranking a list of answers (paper,
section 4).

Axes: B items, K beams or candidates, L tokens, V vocabulary. Items of a batch never influence each other: each has
its own beams and its own end. A text starts with [DEC] and a prompt, and always ends with [SEP], which is forced
where it has not come by `max_length`. Its score is the mean log-probability, under the model itself, of the tokens
written ([SEP] included, prompt excluded); penalties and bans change what is chosen, never what a choice is said to be
worth. Label smoothing has no place here. What the context shows (pixels, a question) is not known to this room.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from omnivl.model.layers import CrossKV, KVCache
from omnivl.model.omnivl import OmniVL
from omnivl.tokenizer import Tokenizer

Method = Literal["greedy", "beam", "nucleus"]
NEVER = float("-inf")


@dataclass(frozen=True)
class Specials:
    """Token ids that writing must know: the first, the last, and those that may never be written."""

    dec_id: int
    sep_id: int
    banned: tuple[int, ...] = ()  # [PAD], [CLS], [ENC], [DEC], [MASK], [UNK]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Specials":
        banned = tuple(number for number in tokenizer.special_ids if number != tokenizer.sep_id)
        return cls(tokenizer.dec_id, tokenizer.sep_id, banned)


@dataclass(frozen=True)
class Generated:
    """What was written: token ids after [DEC] and the prompt, [SEP] included, and their mean log-probability."""

    ids: tuple[int, ...]
    score: float


@torch.inference_mode()
def generate(
    model: OmniVL,
    context: Tensor | CrossKV,
    *,
    specials: Specials,
    prompt_ids: Sequence[int] = (),
    context_mask: Tensor | None = None,
    method: Method = "beam",
    num_beams: int = 3,
    top_p: float = 0.9,
    temperature: float = 1.0,
    min_length: int = 1,
    max_length: int = 20,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[Generated]:
    """Write one text for each context.

    Args:
        context: visual tokens (B, N, D), question states with their `context_mask` (B, N), or either's keys and values.
        prompt_ids: tokens that every text starts with, after [DEC].
        method: greedy takes the likeliest token; beam keeps the `num_beams` likeliest beginnings and gives the finished
            text with the best log-probability over length ** `length_penalty` (1: its mean; 0: the likeliest text
            as a whole); nucleus draws from the smallest set of tokens that holds `top_p`
            of the probability at `temperature`, by `generator`.
        min_length, max_length: of the tokens written, [SEP] included.
        repetition_penalty: above 1, tokens that stand in the text already become less likely (CTRL).

    The model should be in evaluation mode. Raises ValueError where a number is out of its range.
    """
    positions = model.config.text.max_positions - len(prompt_ids)
    if method not in ("greedy", "beam", "nucleus"):
        raise ValueError(f"method is {method!r}, wanted greedy, beam or nucleus")
    if not 1 <= min_length <= max_length <= positions:
        raise ValueError(
            f"min_length is {min_length} and max_length {max_length}: "
            f"wanted 1 <= min_length <= max_length <= {positions}, the positions that the prompt leaves"
        )
    above = all(0 < value < math.inf for value in (temperature, repetition_penalty))
    if num_beams < 1 or not 0 < top_p <= 1 or not above or not 0 <= length_penalty < math.inf:
        raise ValueError(
            f"num_beams {num_beams}, top_p {top_p:g}, temperature {temperature:g}, repetition_penalty "
            f"{repetition_penalty:g}, length_penalty {length_penalty:g}: "
            "wanted at least 1, above 0 and at most 1, above 0, above 0, 0 or more"
        )
    writer = Writer(model, context, context_mask, specials, prompt_ids, min_length, max_length, repetition_penalty)
    if method == "beam":
        return [found[0] for found in beam_search(writer, num_beams, length_penalty=length_penalty)]
    if method == "greedy":
        return one_by_one(writer, lambda wish: wish.argmax(1))
    return one_by_one(writer, lambda wish: nucleus(wish, top_p, temperature, generator))


class Writer:
    """The model reading what has been written so far, one row a text, and saying what may come next."""

    def __init__(
        self,
        model: OmniVL,
        context: Tensor | CrossKV,
        context_mask: Tensor | None,
        specials: Specials,
        prompt_ids: Sequence[int],
        min_length: int,
        max_length: int,
        repetition_penalty: float,
    ) -> None:
        self.model, self.specials, self.context_mask = model, specials, context_mask
        self.min_length, self.max_length, self.penalty = min_length, max_length, repetition_penalty
        self.context = context if isinstance(context, CrossKV) else model.context_keys_values(context)
        self.items = len(self.context.generation[0])
        self.start = 1 + len(prompt_ids)
        self.cache = KVCache()
        prompt = torch.tensor([[specials.dec_id, *prompt_ids]], device=model.temperature.device)
        self.texts = prompt.new_empty(self.items, 0)  # (R, length)
        self.read(prompt.expand(self.items, -1))

    def read(self, tokens: Tensor) -> None:
        """Take in the tokens (R, L) that come next."""
        self.texts = torch.cat([self.texts, tokens], 1)
        states = self.model.decode_states(tokens, None, self.context, self.context_mask, cache=self.cache)
        self.logits = self.model.lm_logits(states[:, -1]).float()  # (R, V)

    def select(self, rows: Tensor) -> None:
        """Go on with the rows (R,); those of an item stay together, as its context serves consecutive rows."""
        self.texts, self.logits = self.texts[rows], self.logits[rows]
        self.cache.select(rows)

    def next(self, length: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities (R, V) of token number `length` of what is written: the model's, and those to choose by,
        where what may not come is -inf."""
        truth = self.logits.log_softmax(1)
        wish = truth.clone()
        if self.penalty != 1:
            seen = self.logits.gather(1, self.texts)
            seen = torch.where(seen > 0, seen / self.penalty, seen * self.penalty)
            wish = self.logits.scatter(1, self.texts, seen).log_softmax(1)
        end = wish[:, self.specials.sep_id].clone()
        if length == self.max_length:
            wish.fill_(NEVER)
        wish[:, list(self.specials.banned)] = NEVER
        wish[:, self.specials.sep_id] = NEVER if length < self.min_length else end
        return truth, wish


def one_by_one(writer: Writer, draw: Callable[[Tensor], Tensor]) -> list[Generated]:
    """Texts of which each token is chosen by `draw`, from log-probabilities (B, V) to tokens (B,)."""
    sep = writer.specials.sep_id
    going = torch.ones(writer.items, dtype=torch.bool, device=writer.texts.device)
    totals = torch.zeros(writer.items, device=writer.texts.device)
    for length in range(1, writer.max_length + 1):
        truth, wish = writer.next(length)
        tokens = torch.where(going, draw(wish), sep)
        totals += torch.where(going, truth.gather(1, tokens[:, None])[:, 0], 0.0)
        going = going & (tokens != sep)
        if not going.any():
            break
        writer.read(tokens[:, None])
    texts = torch.cat([writer.texts[:, writer.start :], tokens[:, None]], 1).tolist()
    written = [text[: text.index(sep) + 1] for text in texts]
    return [Generated(tuple(ids), total / len(ids)) for ids, total in zip(written, totals.tolist(), strict=True)]


def nucleus(wish: Tensor, top_p: float, temperature: float, generator: torch.Generator | None) -> Tensor:
    """A token a row (B,), drawn from the smallest set of tokens that holds `top_p` of the probability."""
    probability, order = (wish / temperature).softmax(1).sort(1, descending=True)
    before = probability.cumsum(1) - probability
    drawn = torch.multinomial(probability.masked_fill(before >= top_p, 0.0), 1, generator=generator)
    return order.gather(1, drawn)[:, 0]


def beam_search(writer: Writer, beams: int, *, length_penalty: float = 1.0, keep: int = 1) -> list[list[Generated]]:
    """For each item the `keep` finished texts with the best log-probability over length ** `length_penalty`, best
    first, among the endings of its likeliest beginnings; there may be fewer.

    An item is finished only when none of its beginnings could still beat what is kept: log-probabilities only fall, so
    a beginning worth s ends with at most s / max_length ** length_penalty.
    """
    items, sep, device = writer.items, writer.specials.sep_id, writer.texts.device
    first = torch.arange(items, device=device)[:, None] * beams  # (B, 1) the first row of an item
    writer.select(torch.arange(items, device=device).repeat_interleave(beams))
    wished = torch.full((items, beams), NEVER, device=device)  # what beginnings are worth by the choosing numbers
    wished[:, 0] = 0.0  # at the start all beginnings are one
    worth = torch.zeros(items, beams, device=device)  # and by the model's own
    to_beat = torch.full((items,), NEVER, device=device)  # the last of what is kept
    kept: list[list[tuple[float, Generated]]] = [[] for _ in range(items)]
    for length in range(1, writer.max_length + 1):
        truth, wish = (numbers.view(items, beams, -1) for numbers in writer.next(length))
        totals = wished[:, :, None] + wish  # (B, K, V)
        ended = totals[:, :, sep] / length**length_penalty
        for item, beam in (ended > to_beat[:, None]).nonzero().tolist():
            text = writer.texts[item * beams + beam, writer.start :].tolist()
            score = (worth[item, beam] + truth[item, beam, sep]).item() / length
            kept[item].append((ended[item, beam].item(), Generated((*text, sep), score)))
            kept[item] = sorted(kept[item], key=lambda found: -found[0])[:keep]
            if len(kept[item]) == keep:
                to_beat[item] = kept[item][-1][0]
        totals[:, :, sep] = NEVER
        wished, flat = totals.flatten(1).topk(beams)  # (B, K)
        source, tokens = flat // totals.shape[2], flat % totals.shape[2]
        if (wished[:, 0] / writer.max_length**length_penalty <= to_beat).all():
            break
        worth = worth.gather(1, source) + truth.flatten(1).gather(1, flat)
        writer.select((first + source).flatten())
        writer.read(tokens.view(-1, 1))
    return [[text for _, text in found] for found in kept]


@torch.inference_mode()
def rank_answers(
    model: OmniVL,
    context: Tensor | CrossKV,
    context_mask: Tensor | None,
    answer_ids: Tensor,
    answer_mask: Tensor,
    shortlist: int = 128,
    *,
    rows: int = 512,
) -> Tensor:
    """Log-probabilities (B, A) of whole answers, summed over their tokens; -inf for those that are not on the
    shortlist.

    Args:
        context, context_mask: as in `generate`, B of them.
        answer_ids, answer_mask: (A, L), each [DEC], the answer, [SEP], padding.
        shortlist: answers an item whose first token is likeliest; ties go to the earlier one. All where there are
        fewer.
        rows: answers read at a time.
    """
    if shortlist < 1 or not (answer_mask[:, 1:].sum(1) > 0).all():
        raise ValueError("ranking wants a shortlist of at least 1, and answers of at least one token after [DEC]")
    keys_values = context if isinstance(context, CrossKV) else model.context_keys_values(context)
    items, answers = len(keys_values.generation[0]), len(answer_ids)
    shortlist = min(shortlist, answers)
    start = answer_ids[:1, :1].expand(items, 1)
    first = model.decode(start, None, keys_values, context_mask)[:, 0].float().log_softmax(1)
    order = first[:, answer_ids[:, 1]].sort(dim=1, descending=True, stable=True).indices[:, :shortlist]  # (B, K)
    scores = first.new_full((items, answers), NEVER)
    step = max(1, rows // shortlist)
    for part in torch.arange(items, device=order.device).split(step):
        picked = order[part].flatten()
        ids, wanted = answer_ids[picked], answer_mask[picked][:, 1:].bool()
        look = None if context_mask is None else context_mask[part]
        states = model.decode_states(ids, answer_mask[picked], keys_values.select(part), look)[:, :-1]
        told = model.lm_logits(states[wanted]).float().log_softmax(1).gather(1, ids[:, 1:][wanted][:, None])[:, 0]
        sums = told.new_zeros(len(picked)).index_add(0, wanted.nonzero()[:, 0], told)
        scores[part] = scores[part].scatter(1, order[part], sums.view(len(part), shortlist))
    return scores


def caption(
    model: OmniVL,
    tokenizer: Tokenizer,
    tokens: Tensor,
    medium: str,
    *,
    min_length: int = 5,
    **how: Any,
) -> list[tuple[str, float]]:
    """Captions of visual tokens (B, N, D) of one medium, with their mean log-probabilities; `how` as in `generate`.

    The model's prompt for "image" or "video" is written first, and left out of the text. Raises ValueError as
    `generate` does, and where the model has no generation decoder.
    """
    require_generation(model)
    prompt = model.config.video_prompt if medium == "video" else model.config.image_prompt
    prompt_ids = tokenizer([prompt])[0][0, 1:-1].tolist() if prompt else []
    written = generate(
        model, tokens, specials=Specials.of(tokenizer), prompt_ids=prompt_ids, min_length=min_length, **how
    )
    return [(tokenizer.decode(text.ids), text.score) for text in written]


def require_generation(model: OmniVL) -> None:
    if not hasattr(model, "generation"):
        raise ValueError("this model has no generation decoder: it can embed and match, not write or answer")
