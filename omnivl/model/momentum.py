"""The slow side of contrast: a momentum copy of the encoders, and the memory banks of its vectors (MoCo; ALBEF; paper,
section 3.2). They belong to a task, never to the saved model. This room knows no loss and no rank.
"""

import copy

import torch
from torch import Tensor, nn

from omnivl.model.omnivl import OmniVL


class MomentumEncoder(nn.Module):
    """An exponential moving average of the visual encoder, the text encoder and their projections.

    It has no gradient and no dropout. `update` is in place; every rank applies the same update to the same weights.
    """

    def __init__(self, model: OmniVL) -> None:
        super().__init__()
        self.encoders = copy.deepcopy(model).without_decoders().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MomentumEncoder":
        return super().train(False)

    def _pairs(self, model: OmniVL) -> tuple[list[Tensor], list[Tensor]]:
        live = dict(model.named_parameters(remove_duplicate=False))
        slow = dict(self.encoders.named_parameters())
        return [local_part(value) for value in slow.values()], [local_part(live[name]).detach() for name in slow]

    @torch.no_grad()
    def copy_from(self, model: OmniVL) -> None:
        slow, live = self._pairs(model)
        torch._foreach_copy_(slow, live)

    @torch.no_grad()
    def update(self, model: OmniVL, momentum: float) -> None:
        """slow = momentum * slow + (1 - momentum) * live."""
        slow, live = self._pairs(model)
        torch._foreach_lerp_(slow, live, 1.0 - momentum)

    @torch.no_grad()
    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, E) of pixels (B, T, C, H, W) and of texts (B, L)."""
        return self.encoders.embed_visual(pixels), self.encoders.embed_text(ids, mask)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be sharded (a DTensor); live and slow ones are sharded alike."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class MemoryBank(nn.Module):
    """The latest `size` momentum visual vectors, text vectors and labels: three rings with one write position.

    A push may have any length, larger than the bank included: the last `size` entries stay.
    """

    visual: Tensor
    text: Tensor
    labels: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("visual", torch.zeros(size, dim))
        self.register_buffer("text", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # ever, so that position = pushed % size

    @torch.no_grad()
    def push(self, visual: Tensor, text: Tensor, labels: Tensor) -> None:
        """Append rows (N, dim), (N, dim), (N,), oldest first."""
        skip = max(0, len(labels) - self.size)
        count = len(labels) - skip
        at = (self.pushed + skip + torch.arange(count, device=self.labels.device)) % max(1, self.size)
        self.visual[at] = visual[skip:].to(self.visual.dtype)
        self.text[at] = text[skip:].to(self.text.dtype)
        self.labels[at] = labels[skip:]
        self.pushed += skip + count

    def mask(self) -> Tensor:
        """(size,) true where a slot is filled."""
        return torch.arange(self.size, device=self.labels.device) < self.pushed

    def in_order(self) -> tuple[Tensor, Tensor, Tensor]:
        """The filled slots, oldest first."""
        pushed = int(self.pushed)
        order = torch.arange(max(0, pushed - self.size), pushed, device=self.labels.device) % max(1, self.size)
        return self.visual[order], self.text[order], self.labels[order]
