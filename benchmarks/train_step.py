"""A whole pretraining step against one assembled from Hugging Face's BLIP modules that does the same work.

    python benchmarks/train_step.py [--tiny] [--pairs N]

A step is UniVLC, matching and language modelling: forward, backward, AdamW, momentum update, memory bank. Both sides
have one visual forward for all three losses, texts padded to the longest of the batch, the same dropout, the same
sharing of the stacks, and our losses, negatives, bank and optimiser: what differs is the networks and how they are
called. BLIP has no video encoder, so for clips the peer's is Hugging Face's TimeSformer with as many tokens (tubelets
of one frame in ours).
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextLMHeadModel, BlipTextModel, BlipVisionConfig, BlipVisionModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from benchmarks.video_encoder import timesformer
from omnivl.config import MODELS, ModelConfig, OptimConfig, TaskConfig, TextConfig, VisionConfig
from omnivl.data.sample import Batch
from omnivl.losses import sample_hard_negatives, univlc_loss, vlm_loss
from omnivl.model import OmniVL, starting_with
from omnivl.model.momentum import MemoryBank
from omnivl.tasks.pretrain import PretrainTask
from omnivl.train.optim import build_optimizer

SMALL = replace(MODELS["small"], vision=replace(MODELS["small"].vision, tubelet_size=1))
TINY = ModelConfig(
    vision=VisionConfig(
        image_size=32, patch_size=16, tubelet_size=1, num_frames=4, width=32, layers=2, heads=2, mlp_width=64
    ),
    text=TextConfig(vocab_size=300, width=32, layers=2, heads=2, mlp_width=64, max_positions=64),
    embed_dim=16,
)
TASK = TaskConfig()  # the paper's: all losses, a bank of 57,600
BATCH = {"image": 16, "video": 2}
LENGTHS = (8, 25)  # tokens of a text, drawn evenly: from a short caption to a long one
PAD, CLS, SEP = 0, 101, 102  # BERT's


def batch_of(config: ModelConfig, medium: str, size: int) -> Batch:
    """Random pixels and texts, all different, padded to the longest."""
    draw = torch.Generator().manual_seed(0)
    vision, frames = config.vision, config.vision.num_frames if medium == "video" else 1
    pixels = torch.randn(size, frames, 3, vision.image_size, vision.image_size, generator=draw)
    lengths = torch.randint(*LENGTHS, (size,), generator=draw)
    places = torch.arange(int(lengths.max()))
    mask = (places < lengths[:, None]).long()
    ids = torch.randint(SEP + 1, config.text.vocab_size - 2, mask.shape, generator=draw)
    ids = torch.where(places == lengths[:, None] - 1, SEP, ids) * mask
    ids[:, 0] = CLS
    return Batch(medium, pixels, ids, mask, torch.arange(size))


def our_task(config: ModelConfig, settings: TaskConfig) -> PretrainTask:
    torch.manual_seed(0)
    words = config.text.vocab_size
    task = PretrainTask(OmniVL(config), settings, 0, enc_id=words - 1, dec_id=words - 2, pad_id=PAD)
    return task.train()


def our_step(task: PretrainTask, batch: Batch) -> Callable[[], Tensor]:
    """A step as the trainer takes it."""
    optimizer = build_optimizer(task, OptimConfig(), task.lr_factors(OptimConfig()))

    def step() -> Tensor:
        task.begin_step()
        total = task(batch, 0, 0).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(0)
        return total.detach()

    return step


class BlipPretraining(nn.Module):
    """The same step by Hugging Face's modules, put together as BLIP does for its pretraining."""

    def __init__(self, config: ModelConfig, settings: TaskConfig, medium: str) -> None:
        super().__init__()
        self.settings, self.words = settings, config.text.vocab_size
        self.is_video = medium == "video"
        self.visual = timesformer(config.vision) if self.is_video else blip_vision(config.vision)
        self.text = BlipTextModel(blip_text(config, settings), add_pooling_layer=False)
        self.decoder = BlipTextLMHeadModel(blip_text(config, settings))
        share(self.decoder, self.text)
        self.match_head = nn.Linear(config.text.width, 2)
        self.visual_projection = nn.Linear(config.vision.width, config.embed_dim)
        self.text_projection = nn.Linear(config.text.width, config.embed_dim)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        encoders = (self.visual, self.text, self.visual_projection, self.text_projection)
        self.fast: list[nn.Module] = list(encoders)  # a plain list: no second names for them
        self.slow = nn.ModuleList(copy.deepcopy(module) for module in encoders).requires_grad_(False).eval()
        for layer in self.slow[1].encoder.layer:  # type: ignore[union-attr]
            del layer.crossattention
        self.bank = MemoryBank(settings.bank_size, config.embed_dim)

    def see(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """(B, T, C, H, W) -> tokens (B, N, D)."""
        return encoder(pixel_values=pixels if self.is_video else pixels[:, 0]).last_hidden_state

    def encode(self, parts: list[nn.Module], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Visual tokens, and the unit vectors of both sides."""
        visual, text, visual_projection, text_projection = parts
        assert batch.pixels is not None
        tokens = self.see(visual, batch.pixels)
        read = text(batch.ids, batch.mask).last_hidden_state
        vectors = (visual_projection(tokens[:, 0]), text_projection(read[:, 0]))
        return tokens, F.normalize(vectors[0], dim=-1), F.normalize(vectors[1], dim=-1)

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The sum of the three losses, and what the bank is to hold."""
        temperature = self.temperature.clamp(0.001, 0.5)
        tokens, seen, read = self.encode(self.fast, batch)
        with torch.no_grad():
            _, slow_seen, slow_read = self.encode(list(self.slow), batch)
        bank, labels = self.bank, batch.labels
        contrast = univlc_loss(
            seen,
            read,
            labels,
            torch.cat([slow_seen, bank.visual]),
            torch.cat([slow_read, bank.text]),
            torch.cat([labels, bank.labels]),
            temperature,
            torch.cat([torch.ones_like(labels, dtype=torch.bool), bank.mask()]),
        ).mean()
        matching = self.match(batch, tokens, seen.detach(), read.detach())
        targets = starting_with(batch.ids, self.words - 2).masked_fill(batch.mask == 0, -100)
        written = self.decoder(
            starting_with(batch.ids, self.words - 2), batch.mask, encoder_hidden_states=tokens, labels=targets
        )
        return contrast + matching + written.loss, (slow_seen, slow_read, labels)

    def match(self, batch: Batch, tokens: Tensor, seen: Tensor, read: Tensor) -> Tensor:
        """One call for the pairs, the wrong texts and the wrong pictures."""
        scaled, dice = seen @ read.T / self.temperature.detach(), torch.rand(2, len(batch))
        rows, wrong_text = sample_hard_negatives(scaled, batch.labels, batch.labels, dice[0])
        _, wrong_visual = sample_hard_negatives(scaled.T, batch.labels, batch.labels, dice[1])
        texts, shown = torch.cat([rows, wrong_text, rows]), torch.cat([rows, rows, wrong_visual])
        ids = starting_with(batch.ids[texts], self.words - 1)
        states = self.text(ids, batch.mask[texts], encoder_hidden_states=tokens[shown]).last_hidden_state
        matched = (torch.arange(len(texts)) < len(rows)).long()
        return vlm_loss(self.match_head(states[:, 0]), matched).mean()

    @torch.no_grad()
    def after_step(self, fresh: tuple[Tensor, Tensor, Tensor]) -> None:
        self.temperature.clamp_(0.001, 0.5)
        self.bank.push(*fresh)
        slow = dict(self.slow.named_parameters())
        fast = dict(nn.ModuleList(self.fast).named_parameters())
        torch._foreach_lerp_(list(slow.values()), [fast[name].detach() for name in slow], 1 - self.settings.momentum)


def blip_vision(config: VisionConfig) -> BlipVisionModel:
    sizes = BlipVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        layer_norm_eps=config.layer_norm_eps,
        initializer_range=0.02,  # its default, 1e-10, makes denormal numbers, and those are slow
    )
    return BlipVisionModel(sizes)


def blip_text(config: ModelConfig, settings: TaskConfig) -> BlipTextConfig:
    text = config.text
    return BlipTextConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        encoder_hidden_size=config.vision.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        intermediate_size=text.mlp_width,
        max_position_embeddings=text.max_positions,
        layer_norm_eps=text.layer_norm_eps,
        hidden_dropout_prob=text.dropout,
        attention_probs_dropout_prob=text.dropout,
        label_smoothing=settings.label_smoothing,
        pad_token_id=PAD,
        is_decoder=True,  # it has cross-attentions; whether it looks back only is said at each call
        use_cache=False,
    )


def share(decoder: BlipTextLMHeadModel, text: BlipTextModel) -> None:
    """The decoder keeps its self-attention and its head; all else becomes the encoder's (BLIP)."""
    decoder.bert.embeddings = text.embeddings
    decoder.cls.predictions.decoder.weight = text.embeddings.word_embeddings.weight
    for own, other in zip(decoder.bert.encoder.layer, text.encoder.layer, strict=True):
        own.crossattention, own.intermediate, own.output = other.crossattention, other.intermediate, other.output


def peer_step(peer: BlipPretraining, batch: Batch) -> Callable[[], Tensor]:
    optimizer = build_optimizer(peer, OptimConfig(), {})

    def step() -> Tensor:
        total, fresh = peer(batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        peer.after_step(fresh)
        return total.detach()

    return step


def measure(tiny: bool, pairs: int) -> list[Row]:
    config = TINY if tiny else SMALL
    task = replace(TASK, bank_size=64) if tiny else TASK
    rows = []
    for medium, size in BATCH.items():
        batch = batch_of(config, medium, size)
        torch.manual_seed(0)
        theirs = BlipPretraining(config, task, medium).train()
        times = take_turns(our_step(our_task(config, task), batch), peer_step(theirs, batch), pairs)
        settings = {
            "goal": 1.5,
            "us": "`PretrainTask`",
            "them": "Hugging Face BLIP" + (" with `TimesformerModel`" if medium == "video" else ""),
            "width": config.vision.width,
            "layers": config.vision.layers,
            "pixels": config.vision.image_size,
            "batch": size,
            "frames": batch.pixels.shape[1] if batch.pixels is not None else 0,
            "text_tokens": f"{int(batch.mask.sum(1).min())} to {batch.ids.shape[1]}",
            "bank": task.bank_size,
            "dropout": config.text.dropout,
        }
        rows.append(against(f"pretraining step, {medium}s", times, settings))
    return rows


if __name__ == "__main__":
    command(__doc__, measure, pairs=3)
