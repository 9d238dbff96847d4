"""Pretraining: UniVLC + VLM + LM on one visual forward (paper, section 3.2), and the text-only warm-up of a model that
starts without a language *(ours)*.

Every random choice is keyed by (seed, step, global row), and every loss is a sum over ranks divided by a global count,
so that two processes on half batches do what one does on the whole. Under gradient accumulation each micro-batch is a
batch of its own, with keys and negatives of its own, and a step is the mean over them; the banks grow once a step. This
room knows the model and the losses; it does not know where batches come from, nor how a step is taken.
"""

import torch
from torch import Tensor, nn

from omnivl import distributed
from omnivl.config import TaskConfig
from omnivl.data.sample import Batch
from omnivl.losses import lm_loss, sample_hard_negatives, text_loss, univlc_loss, vlm_loss
from omnivl.model import CrossKV, OmniVL, starting_with
from omnivl.model.momentum import MemoryBank, MomentumEncoder
from omnivl.model.omnivl import Visual
from omnivl.tasks.base import Losses, Task, sub_layers


def uniforms(seed: int, step: int, micro: int, stream: str, *shape: int) -> Tensor:
    """Numbers in [0, 1) that depend on the arguments alone; the same on every rank."""
    key = hash((seed, step, micro, sum(map(ord, stream)))) & 0x7FFF_FFFF_FFFF_FFFF  # ints hash alike in every process
    return torch.rand(*shape, generator=torch.Generator().manual_seed(key))


def chosen(context: CrossKV, rows: Tensor, size: int) -> CrossKV:
    """Some rows of `size`, in order; no copy where they are all of them."""
    return context if len(rows) == size else context.select(rows)


class PretrainTask(Task):
    """UniVLC, VLM and LM with momentum encoders and memory banks, for image and for video batches alike.

    Args:
        model: the network being trained.
        config: weights, bank size, momentum and shares.
        seed: of negatives.
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
        """See `Task.forward`. A loss of weight 0 is not computed; one with nothing to count is 0."""
        assert batch.pixels is not None
        config, model = self.config, self.model
        pixels = model.normalised(batch.pixels)  # once, for the model and its momentum copy
        visual = model.encode_visual(pixels)
        text = model.embed_text(batch.ids, batch.mask)
        slow = self.momentum(pixels, batch.ids, batch.mask) if config.univlc_weight else None
        parts: dict[str, Tensor] = {}
        sums: dict[str, tuple[Tensor, int]] = {}
        # similarities divided by a small temperature need all digits of float32
        with torch.autocast(batch.ids.device.type, enabled=False):
            temperature = model.temperature.clamp(0.001, 0.5)
            if slow:
                parts["univlc"] = self.contrast(batch, visual.embed, text, slow, temperature, step)
        if config.vlm_weight or config.lm_weight:
            context = model.cross_keys_values(visual.tokens)  # once, for matching and language modelling
            if config.vlm_weight:
                parts["vlm"], sums["match_accuracy"] = self.match(batch, visual, text, context, step, micro)
            if config.lm_weight:
                parts["lm"] = self.write(batch, context, step)
        weights = {"univlc": config.univlc_weight, "vlm": config.vlm_weight, "lm": config.lm_weight}
        total = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, sums)

    def rows(self, batch: Batch, part: float, step: int) -> tuple[Tensor, int]:
        """Every (1 / part)-th row of the global batch, the first one moving with the step; and 1.

        A rank that has none of them goes through its first row without counting it, and 0: every rank must run through
        the same operations, or their collectives come apart.
        """
        stride = max(1, round(1 / part))
        first = (-step - distributed.rank() * len(batch)) % stride
        if first >= len(batch):
            return torch.zeros(1, dtype=torch.int64, device=batch.ids.device), 0
        return torch.arange(first, len(batch), stride, device=batch.ids.device), 1

    def contrast(
        self, batch: Batch, visual: Tensor, text: Tensor, slow: tuple[Tensor, Tensor], temperature: Tensor, step: int
    ) -> Tensor:
        """UniVLC of unit vectors (B, E) against the momentum vectors of all ranks' batches and the bank."""
        slow_visual, slow_text = slow
        labels = batch.labels if self.config.contrast == "univlc" else self.own_labels(batch)
        fresh = (
            distributed.gather(slow_visual),
            distributed.gather(slow_text),
            distributed.gather(labels),
        )
        self.waiting.append(fresh)
        alpha = self.config.distill_alpha
        if self.config.distill_steps:
            alpha *= min(1.0, step / self.config.distill_steps)
        loss = univlc_loss(
            visual,
            text,
            labels,
            torch.cat([fresh[0], self.bank.visual]),
            torch.cat([fresh[1], self.bank.text]),
            torch.cat([fresh[2], self.bank.labels]),
            temperature,
            torch.cat([torch.ones_like(fresh[2], dtype=torch.bool), self.bank.mask()]),
            soft_visual=slow_visual,
            soft_text=slow_text,
            alpha=alpha,
        )
        return distributed.share(loss.sum(), len(loss))

    def own_labels(self, batch: Batch) -> Tensor:
        """(B,) labels that no other sample has: how many were seen before it. UniVLC is plain InfoNCE with them."""
        before = int(self.bank.pushed) + sum(len(labels) for _, _, labels in self.waiting)
        return before + distributed.rank() * len(batch) + torch.arange(len(batch), device=batch.labels.device)

    def match(
        self, batch: Batch, visual: Visual, text: Tensor, context: CrossKV, step: int, micro: int
    ) -> tuple[Tensor, tuple[Tensor, int]]:
        """One positive and two negatives for each of some rows: a wrong text for its picture, a wrong picture for its
        text. Rows without a possible negative are left out. Gives the loss, and how many pairs were told right of how
        many."""
        seen, read = visual.embed.detach(), text.detach()
        all_seen, all_read, labels = seen, read, batch.labels
        all_ids, all_mask, all_tokens = batch.ids, batch.mask, visual.tokens
        together = self.config.negatives == "global" and distributed.world_size() > 1
        if together:
            all_seen, all_read = distributed.gather(seen), distributed.gather(read)
            labels = distributed.gather(batch.labels)
            all_ids = distributed.gather_padded(batch.ids, self.pad_id)
            all_mask = distributed.gather_padded(batch.mask, 0)
            all_tokens = distributed.gather_with_gradient(visual.tokens)
        rows, counted = self.rows(batch, self.config.match_share, step)
        first = distributed.rank() * len(batch) if together else 0
        drawn = uniforms(self.seed, step, micro, "negatives", 2, len(labels)).to(rows.device)[:, first + rows]

        def negatives(query: Tensor, keys: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(query.device.type, enabled=False):
                scaled = query[rows] @ keys.T / self.model.temperature.detach().clamp(0.001, 0.5)
            return sample_hard_negatives(scaled, batch.labels[rows], labels, which)

        has_negative, wrong_text = negatives(seen, all_read, drawn[0])
        _, wrong_visual = negatives(read, all_seen, drawn[1])  # the same rows have one in both directions
        if not len(has_negative):  # as in `rows`
            counted, nothing = 0, torch.zeros(1, dtype=torch.int64, device=rows.device)
            has_negative, wrong_text, wrong_visual = nothing, nothing, nothing
        rows = rows[has_negative]
        own_ids, own_mask = all_ids[first + rows], all_mask[first + rows]  # as wide as all
        if together:  # a picture of another rank: its keys and values are computed here
            wrong_context = self.model.cross_keys_values(all_tokens[wrong_visual])
        else:
            wrong_context = context.select(wrong_visual)
        # a picture's own text and the wrong one are neighbours: both read its keys and values without a copy
        two_ids, two_masks = (
            torch.stack([own_ids, all_ids[wrong_text]], 1),
            torch.stack([own_mask, all_mask[wrong_text]], 1),
        )
        two = self.model.match(
            starting_with(two_ids.flatten(0, 1), self.enc_id),
            two_masks.flatten(0, 1),
            chosen(context, rows, len(batch)),
        )
        wrong = self.model.match(starting_with(own_ids, self.enc_id), own_mask, wrong_context)
        logits = torch.cat([two[::2], two[1::2], wrong])
        matched = (torch.arange(len(logits), device=logits.device) < len(rows)).long()
        loss = vlm_loss(logits, matched).sum() * counted
        correct = (logits.detach().argmax(1) == matched).sum() * counted
        return distributed.share(loss, len(logits) * counted), (correct, len(logits) * counted)

    def write(self, batch: Batch, context: CrossKV, step: int) -> Tensor:
        """Language modelling of some rows, each looking at its own picture: the mean over all their tokens."""
        config = self.config
        rows, counted = self.rows(batch, config.video_lm_share if batch.medium == "video" else config.lm_share, step)
        ids, mask = starting_with(batch.ids[rows], self.dec_id), batch.mask[rows]
        states = self.model.decode_states(ids, mask, chosen(context, rows, len(batch)))
        logits = self.model.lm_logits(states[:, :-1][mask[:, 1:].bool()])  # padding needs no word
        loss = lm_loss(logits, ids, mask, label_smoothing=config.label_smoothing)
        return distributed.share(loss.sum() * counted, mask[:, 1:].sum() * counted)

    def begin_stage(self) -> None:
        """A model that has learnt from no video yet takes its temporal part from its image weights as they are now."""
        if self.model.visual.is_silent():
            self.model.visual.start_video_from_image()
            self.momentum.copy_from(self.model)

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

    def compiled_parts(self) -> list[nn.Module]:
        return [*super().compiled_parts(), *self.momentum.encoders.visual.blocks]

    def sharded_parts(self) -> list[nn.Module]:
        return [*super().sharded_parts(), *sub_layers(self.momentum.encoders), self.momentum]


class TextTask(Task):
    """A language for a model that starts without one: masked words (15%: 80% [MASK], 10% another, 10% kept) and the bag
    of words from the text's unit vector, which is what retrieval will compare *(ours)*."""

    special: Tensor

    def __init__(
        self, model: OmniVL, config: TaskConfig, seed: int, *, mask_id: int, special_ids: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.mask_id = mask_id
        self.register_buffer("special", torch.tensor(special_ids), persistent=False)
        self.words = nn.Linear(model.config.embed_dim, model.config.text.vocab_size)

    def forward(self, batch: Batch, step: int, micro: int) -> Losses:
        ids, size = batch.ids, len(batch)
        rank, world = distributed.rank(), distributed.world_size()
        # drawn for the longest text there can be, so that the draw does not depend on a rank's padding
        width = self.model.config.text.max_positions
        dice = uniforms(self.seed, step, micro, "words", 3, world * size, width).to(ids.device)
        chosen, how, other = dice[:, rank * size : (rank + 1) * size, : ids.shape[1]]
        masked = (chosen < self.config.mask_share) & ~torch.isin(ids, self.special)
        vocabulary = self.model.config.text.vocab_size
        inputs = torch.where(masked & (how < 0.8), self.mask_id, ids)
        inputs = torch.where(masked & (how >= 0.9), (other * vocabulary).long(), inputs)
        encoded = self.model.encode_text(inputs, batch.mask)
        words = torch.zeros(size, vocabulary, device=ids.device).scatter_(1, ids, 1.0)  # (B, V) what a text holds
        words[:, self.special] = 0
        masked_loss, words_loss = text_loss(
            self.model.lm_logits(encoded.tokens[masked]),
            ids,
            masked,
            self.words(encoded.embed / self.model.config.temperature),
            words,
        )
        parts = {
            "masked": distributed.share(masked_loss.sum(), masked.sum()),
            "words": distributed.share(words_loss.sum(), len(words_loss)),
        }
        total = parts["masked"] + self.config.words_weight * parts["words"]
        return Losses(total, {name: loss.detach() for name, loss in parts.items()})
