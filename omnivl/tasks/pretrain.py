"""Pretraining: UniVLC + VLM + LM on one visual forward (paper, section 3.2), and the text-only warm-up of a model that
starts without a language *(ours)*.

Every random choice is keyed by (seed, step, global row), and every loss is a sum over ranks divided by a global count, so
that two processes on half batches do what one does on the whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch
from omnivl.losses import lm_loss, sample_hard_negatives, text_loss, univlc_loss, vlm_loss
from omnivl.model import CrossKV, OmniVL
from omnivl.model.momentum import MemoryBank, MomentumEncoder
from omnivl.tasks.base import Losses, Task


def uniforms(seed: int, step: int, micro: int, stream: str, *shape: int) -> Tensor:
    """Numbers in [0, 1) that depend on the arguments alone; the same on every rank."""
    key = hash((seed, step, micro, sum(map(ord, stream)))) & 0x7FFF_FFFF_FFFF_FFFF  # ints hash alike in every process
    return torch.rand(*shape, generator=torch.Generator().manual_seed(key))


def starting_with(ids: Tensor, first: int) -> Tensor:
    """The same texts with another first token ([ENC] or [DEC] for [CLS])."""
    ids = ids.clone()
    ids[:, 0] = first
    return ids


class PretrainTask(Task):
    """UniVLC, VLM and LM with momentum encoders and memory banks, for image and for video batches alike.

    Args:
        model: the network being trained.
        config: weights, bank size, momentum and shares.
        seed: of negatives and of the choice of rows.
        enc_id, dec_id, pad_id: token ids.
    """

    def __init__(self, model: OmniVL, config: TaskConfig, seed: int, *, enc_id: int, dec_id: int, pad_id: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.enc_id, self.dec_id, self.pad_id = enc_id, dec_id, pad_id
        self.momentum = MomentumEncoder(model)
        self.bank = MemoryBank(config.bank_size, model.config.embed_dim)
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # of this step's micro-batches, for the bank

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        assert batch.pixels is not None
        config, model = self.config, self.model
        visual = model.encode_visual(batch.pixels)
        text = model.encode_text(batch.ids, batch.mask)
        parts: dict[str, Tensor] = {}
        sums: dict[str, tuple[Tensor, int]] = {}
        temperature = model.temperature.clamp(0.001, 0.5)
        if config.univlc_weight:
            parts["univlc"] = self.contrast(batch, visual.embed, text.embed, temperature, step)
        rows = self.rows(len(batch), config.match_share, step)
        lm_rows = self.rows(len(batch), config.video_lm_share if batch.medium == "video" else config.lm_share, step)
        if config.vlm_weight or config.lm_weight:
            context = model.cross_keys_values(visual.tokens)  # once, for matching and language modelling
            if config.vlm_weight:
                similarity = (visual.embed.detach(), text.embed.detach(), float(temperature.detach()))
                parts["vlm"], sums["match_accuracy"] = self.match(batch, visual.tokens, context, similarity, rows, step, micro)
            if config.lm_weight:
                ids, mask = starting_with(batch.ids[lm_rows], self.dec_id), batch.mask[lm_rows]
                logits = model.decode(ids, mask, context.select(lm_rows))
                loss = lm_loss(logits, ids, mask, label_smoothing=config.label_smoothing)
                parts["lm"] = distributed.share(loss.sum(), mask[:, 1:].sum())
        weights = {"univlc": config.univlc_weight, "vlm": config.vlm_weight, "lm": config.lm_weight}
        total = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, sums)

    def rows(self, size: int, part: float, step: int) -> Tensor:
        """Every (1 / part)-th row of the global batch, the first one moving with the step."""
        stride = max(1, round(1 / part))
        return torch.arange((-step - distributed.rank() * size) % stride, size, stride)

    def contrast(self, batch: Batch, visual: Tensor, text: Tensor, temperature: Tensor, step: int) -> Tensor:
        assert batch.pixels is not None
        slow_visual, slow_text = self.momentum(batch.pixels, batch.ids, batch.mask)
        fresh = (
            distributed.gather(slow_visual.embed),
            distributed.gather(slow_text.embed),
            distributed.gather(batch.labels),
        )
        self.waiting.append(fresh)
        alpha = self.config.distill_alpha
        if self.config.distill_steps:
            alpha *= min(1.0, step / self.config.distill_steps)
        loss = univlc_loss(
            visual,
            text,
            batch.labels,
            torch.cat([fresh[0], self.bank.visual]),
            torch.cat([fresh[1], self.bank.text]),
            torch.cat([fresh[2], self.bank.labels]),
            temperature,
            torch.cat([torch.ones_like(fresh[2], dtype=torch.bool), self.bank.mask()]),
            soft_visual=slow_visual.embed,
            soft_text=slow_text.embed,
            alpha=alpha,
        )
        return distributed.share(loss.sum(), len(loss))

    def match(
        self,
        batch: Batch,
        tokens: Tensor,
        context: CrossKV,
        similarity: tuple[Tensor, Tensor, float],
        rows: Tensor,
        step: int,
        micro: int,
    ) -> tuple[Tensor, tuple[Tensor, int]]:
        """One positive and two negatives for each of `rows`: a wrong text for its picture, a wrong picture for its text."""
        visual, text, temperature = similarity
        everywhere = self.config.negatives == "global"
        all_visual, all_text, labels = visual, text, batch.labels
        all_ids, all_mask, all_tokens = batch.ids, batch.mask, tokens
        size, start = len(batch), 0
        if everywhere and distributed.world_size() > 1:
            all_visual, all_text = distributed.gather(visual), distributed.gather(text)
            labels = distributed.gather(batch.labels)
            all_ids = distributed.gather_padded(batch.ids, self.pad_id)
            all_mask = distributed.gather_padded(batch.mask, 0)
            all_tokens = distributed.gather_with_gradient(tokens)
            size, start = len(labels), distributed.rank() * len(batch)
        drawn = uniforms(self.seed, step, micro, "negatives", 2, size).to(tokens.device)[:, start : start + len(batch)]

        def negatives(query: Tensor, keys: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            scaled = query[rows] @ keys.T / temperature
            return sample_hard_negatives(scaled, batch.labels[rows], labels, which[rows])

        has_text, wrong_text = negatives(visual, all_text, drawn[0])
        has_visual, wrong_visual = negatives(text, all_visual, drawn[1])  # the same rows have one in both directions
        of_text, of_visual = rows[has_text], rows[has_visual]
        pad = all_ids.shape[1] - batch.ids.shape[1]
        ids = starting_with(F.pad(batch.ids, (0, pad), value=self.pad_id), self.enc_id)
        mask = F.pad(batch.mask, (0, pad))
        all_ids = starting_with(all_ids, self.enc_id)
        if len(all_tokens) == len(tokens):
            wrong_context = context.select(wrong_visual)
        else:  # a picture of another rank: its keys and values are computed here
            wrong_context = self.model.cross_keys_values(all_tokens[wrong_visual])
        right = self.model.match(
            torch.cat([ids[of_text], all_ids[wrong_text]]),
            torch.cat([mask[of_text], all_mask[wrong_text]]),
            context.select(torch.cat([of_text, of_text])),
        )
        wrong = self.model.match(ids[of_visual], mask[of_visual], wrong_context)
        logits = torch.cat([right, wrong])
        matched = (torch.arange(len(logits), device=logits.device) < len(of_text)).long()
        # rows without a possible negative are left out, and with none at all the loss is 0
        loss = vlm_loss(logits, matched)
        correct = (logits.detach().argmax(1) == matched).sum()
        return distributed.share(loss.sum(), len(loss)), (correct, len(loss))

    def begin_step(self) -> None:
        self.waiting.clear()

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.model.temperature.clamp_(0.001, 0.5)
        for fresh in self.waiting:
            self.bank.push(*fresh)
        momentum = self.config.momentum
        if self.config.momentum_warmup:
            momentum = min(momentum, 1 - 1 / (step + 2))
        if self.config.univlc_weight:
            self.momentum.update(self.model, momentum)


class TextTask(Task):
    """A language for a model that starts without one: masked words (15%: 80% [MASK], 10% another, 10% kept) and the bag
    of words from the projected [CLS] *(ours)*."""

    def __init__(
        self, model: OmniVL, config: TaskConfig, seed: int, *, mask_id: int, special_ids: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.mask_id, self.special_ids = mask_id, special_ids
        self.words = nn.Linear(model.config.embed_dim, model.config.text.vocab_size)

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        ids, size = batch.ids, len(batch)
        rank, world = distributed.rank(), distributed.world_size()
        # drawn for the longest text there can be, so that the draw does not depend on a rank's padding
        width = self.model.config.text.max_positions
        dice = uniforms(self.seed, step, micro, "words", 3, world * size, width).to(ids.device)
        chosen, how, other = dice[:, rank * size : (rank + 1) * size, : ids.shape[1]]
        special = torch.isin(ids, torch.tensor(self.special_ids, device=ids.device))
        masked = (chosen < self.config.mask_share) & ~special
        vocabulary = self.model.config.text.vocab_size
        inputs = ids.clone()
        inputs[masked & (how < 0.8)] = self.mask_id
        swap = masked & (how >= 0.9)
        inputs[swap] = (other * vocabulary).long()[swap]
        encoded = self.model.encode_text(inputs, batch.mask)
        words = F.one_hot(ids, vocabulary).amax(1).float()  # (B, V)
        words[:, list(self.special_ids)] = 0
        masked_loss, words_loss = text_loss(
            self.model.lm_logits(encoded.tokens[masked]), ids, masked, self.words(encoded.embed / self.model.config.temperature), words
        )
        parts = {
            "masked": distributed.share(masked_loss.sum(), masked.sum()),
            "words": distributed.share(words_loss.sum(), len(words_loss)),
        }
        total = parts["masked"] + self.config.words_weight * parts["words"]
        return Losses(total, {name: loss.detach() for name, loss in parts.items()})
