"""The visual encoder: one ViT with divided space-time blocks for images and for videos (paper, section 3.1;
TimeSformer).

Axes: B clips, T frames (after the patch embedding: time slots of `tubelet_size` frames), S patches of a slot, D width,
C colours, H and W pixels. Inside, tokens stand as (B, T, 1 + S, D): every slot carries its own copy of [CLS] in
front, and the copies are always equal. So spatial attention is a plain view, [CLS] reaches every frame, and averaging
its outputs over the frames is averaging the copies. Outside, tokens are (B, 1 + T S, D) in the order ([CLS], time,
height, width).

An image is one frame: it goes through the 2-D convolution, gets no temporal position and skips temporal attention, so
it never touches a temporal parameter. The room knows nothing of text, nor of how pixels are normalised.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivl.config import ConfigError, VisionConfig
from omnivl.model.layers import MLP, SelfAttention, drop_path_scale


class PatchEmbed(nn.Module):
    """Patches by two convolutions: 2-D for images, 3-D over tubelets for videos."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch, self.tubelet = config.patch_size, config.tubelet_size
        self.image = nn.Conv2d(3, config.width, self.patch, self.patch)
        depth = (self.tubelet, self.patch, self.patch)
        self.video = nn.Conv3d(3, config.width, depth, depth)
        nn.init.normal_(self.image.weight, std=0.02)
        assert self.image.bias is not None
        nn.init.zeros_(self.image.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T', H', W', D). T = 1 takes the 2-D road; else the last frame is repeated until the
        tubelet depth divides T. Raises ValueError where H or W is not a multiple of the patch size."""
        frames, height, width = pixels.shape[1], pixels.shape[-2], pixels.shape[-1]
        if height % self.patch or width % self.patch or not height or not width:
            raise ValueError(
                f"pictures of {width} x {height} pixels do not divide into patches of {self.patch}: "
                "resize them to a multiple of the patch size"
            )
        if frames == 1:
            return self.convolve(self.image, pixels, 1)
        missing = -frames % self.tubelet
        if missing:
            pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1, -1)], 1)
        return self.convolve(self.video, pixels, self.tubelet)

    def convolve(self, convolution: nn.Conv2d | nn.Conv3d, pixels: Tensor, depth: int) -> Tensor:
        """A convolution whose windows do not overlap, as the matrix product that it is: faster, most of all
        backward."""
        patch = self.patch
        windows = pixels.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch)).unflatten(1, (-1, depth))
        windows = windows.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4)  # (B, T', H', W', C depth patch patch)
        return F.linear(windows, convolution.weight.flatten(1), convolution.bias)

    @torch.no_grad()
    def start_video_from_image(self) -> None:
        """Mean inflation: the 3-D kernel is the 2-D one spread evenly over its depth, so a static clip gives its
        output."""
        self.video.weight.copy_(self.image.weight.unsqueeze(2).expand_as(self.video.weight) / self.tubelet)
        assert self.video.bias is not None and self.image.bias is not None
        self.video.bias.copy_(self.image.bias)


class SpaceTimeBlock(nn.Module):
    """Temporal self-attention, spatial self-attention, MLP; each pre-norm with its residual."""

    def __init__(self, config: VisionConfig, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.temporal_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.temporal = SelfAttention(config.width, config.heads)
        self.spatial_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.spatial = SelfAttention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = MLP(config.width, config.mlp_width)

    def forward(self, x: Tensor, over_time: bool, queries: int | None = None) -> Tensor:
        """(B, T, 1 + S, D) -> the same, or the first tokens of each slot alone (B, T, queries, D). Without `over_time`
        (images) the temporal attention is not touched."""
        if over_time:
            x = self.attend_time(x)
        mixed = self.spatial(self.spatial_norm(x).flatten(0, 1), queries=queries)
        x = x[:, :, :queries]
        x = self.residual(x, mixed.view(x.shape))
        if x.shape[1] > 1:  # in place, and safe: nothing saved the sum for its backward
            x[:, :, :1] = x[:, :, :1].mean(1, keepdim=True)
        # three axes: with an axis of length one in the middle, memory formats are ambiguous and copies are made
        return self.residual(x, self.mlp(self.mlp_norm(x).flatten(0, 1)).view(x.shape))

    def attend_time(self, x: Tensor) -> Tensor:
        """Each patch position looks along time. [CLS] takes no part: its outputs are multiplied by zero."""
        batch, slots, tokens, width = x.shape
        along = self.temporal_norm(x).transpose(1, 2).reshape(batch * tokens, slots, width)
        mixed = self.temporal(along).view(batch, tokens, slots, width).transpose(1, 2)
        gate = torch.ones(tokens, 1, dtype=x.dtype, device=x.device)
        gate[0] = 0
        if self.training and self.drop_path:
            gate = gate * drop_path_scale(x, self.drop_path)
        return torch.addcmul(x, mixed.to(x.dtype), gate)

    def residual(self, x: Tensor, branch: Tensor) -> Tensor:
        if self.training and self.drop_path:
            return torch.addcmul(x, branch.to(x.dtype), drop_path_scale(x, self.drop_path))
        return x + branch

    @torch.no_grad()
    def start_video_from_image(self) -> None:
        """Temporal attention becomes a copy of the spatial one with a zero output projection: silent at its start."""
        self.temporal_norm.load_state_dict(self.spatial_norm.state_dict())
        self.temporal.load_state_dict(self.spatial.state_dict())
        nn.init.zeros_(self.temporal.out.weight)
        nn.init.zeros_(self.temporal.out.bias)


class VisualEncoder(nn.Module):
    """Normalised pixels to visual tokens, for images (T = 1) and videos."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(f"vision.width ({config.width}) must be a multiple of vision.heads ({config.heads})")
        if config.image_size % config.patch_size:
            raise ConfigError(
                f"vision.image_size ({config.image_size}) must be a multiple of vision.patch_size ({config.patch_size})"
            )
        self.config = config
        self.patches = PatchEmbed(config)
        self.grid = config.image_size // config.patch_size
        self.cls = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty(1 + self.grid**2, config.width))  # first that of [CLS]
        slots = -(-config.num_frames // config.tubelet_size)
        self.time_position = nn.Parameter(torch.empty(slots, config.width))
        rates = [config.drop_path * i / max(1, config.layers - 1) for i in range(config.layers)]
        blocks = nn.ModuleList(SpaceTimeBlock(config, rate) for rate in rates)
        self.blocks: Sequence[SpaceTimeBlock] = blocks  # type: ignore[assignment]  # a list of these, for the checker
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        nn.init.normal_(self.cls, std=0.02)
        with torch.no_grad():  # *(ours)*: as loud as the patches, or a small model takes long to see where things are
            self.position.zero_()
            self.position[1:] = 2.0 * sine_cosine(self.grid, config.width)
        self.start_video_from_image()

    @torch.no_grad()
    def start_video_from_image(self) -> None:
        """(Re)derive all that only videos use from the image weights, so that the network begins as the image model
        applied to each frame: temporal attention, 3-D kernel, temporal positions."""
        self.patches.start_video_from_image()
        for block in self.blocks:
            block.start_video_from_image()
        nn.init.zeros_(self.time_position)

    @torch.no_grad()
    def resize(self, image_size: int, num_frames: int) -> VisionConfig:
        """Position tables for other pictures and clips: bicubic in space, linear in time. Gives the config that is now
        true. Raises ConfigError where the patch size does not divide `image_size`, or there is no frame."""
        config = dataclasses.replace(self.config, image_size=image_size, num_frames=num_frames)
        if image_size < 1 or image_size % config.patch_size:
            raise ConfigError(
                f"an image size of {image_size} must be a multiple of the patch size, {config.patch_size}"
            )
        if num_frames < 1:
            raise ConfigError(f"a clip must have 1 frame or more, not {num_frames}")
        grid = image_size // config.patch_size
        if grid != self.grid:
            table = resize_space(self.position[1:], self.grid, grid, grid)
            self.position = nn.Parameter(torch.cat([self.position[:1], table]))
        slots = -(-num_frames // config.tubelet_size)
        if slots != len(self.time_position):
            self.time_position = nn.Parameter(resize_time(self.time_position, slots))
        self.config, self.grid = config, grid
        return config

    def distances(self) -> dict[str, int]:
        """How many layers lie between a parameter and the end: 0 for the final norm, 1 for the last block, and one more
        than the first block for patches and positions. What layer-wise learning rates are counted by."""
        layers = len(self.blocks)
        found = {}
        for name, _ in self.named_parameters():
            first, _, rest = name.partition(".")
            found[name] = (
                layers - int(rest.split(".")[0]) if first == "blocks" else 0 if first == "norm" else layers + 1
            )
        return found

    def is_silent(self) -> bool:
        """Whether no video has been learnt from yet: every temporal output projection is still zero."""
        return all(not bool(block.temporal.out.weight.any()) for block in self.blocks)

    def forward(self, pixels: Tensor, queries: int | None = None) -> Tensor:
        """(B, T, C, H, W) normalised -> (B, 1 + T' S, D) after the final norm, [CLS] first; with `queries` 1 that one
        alone (B, 1, D), which spares the last block the others. Any H and W that the patch size divides, any T:
        position tables are resized."""
        over_time = pixels.shape[1] > 1
        x = self.patches(pixels)  # (B, T', H', W', D)
        batch, slots, height, width = x.shape[:4]
        position = resize_space(self.position[1:], self.grid, height, width)
        x = x.flatten(2, 3) + position
        if over_time:
            x = x + resize_time(self.time_position, slots).unsqueeze(1)
        cls = (self.cls + self.position[0]).to(x.dtype).expand(batch, slots, 1, -1)
        x = torch.cat([cls, x], 2)  # (B, T', 1 + S, D)
        for left, block in zip(reversed(range(len(self.blocks))), self.blocks, strict=True):
            x = block(x, over_time, None if left else queries)
        x = x.flatten(1, 2) if slots == 1 else torch.cat([x[:, 0, :1], x[:, :, 1:].flatten(1, 2)], 1)
        return self.norm(x)


def sine_cosine(grid: int, width: int) -> Tensor:
    """(grid * grid, width) fixed 2-D positions: a quarter of the channels each for the sine and cosine of row and
    column. Wavelengths are 6 to 60 patches, and the table's mean is taken out, so that all of it tells places apart."""
    count = width // 4
    rates = 10.0 ** -(torch.arange(count, dtype=torch.float32) / max(1, count))
    angles = torch.arange(grid, dtype=torch.float32)[:, None] * rates  # (grid, count)
    line = torch.cat([angles.sin(), angles.cos()], 1)
    line = line - line.mean(0)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return F.pad(torch.cat([rows, columns], 2).flatten(0, 1), (0, width - 4 * count))


def resize_space(table: Tensor, grid: int, height: int, width: int) -> Tensor:
    """A (grid * grid, D) position table for height x width patches: bicubic in two dimensions, the same table where
    it fits."""
    if (height, width) == (grid, grid):
        return table
    image = table.T.unflatten(1, (grid, grid)).unsqueeze(0)  # (1, D, grid, grid)
    return F.interpolate(image.float(), (height, width), mode="bicubic")[0].flatten(1).T.to(table.dtype)


def resize_time(table: Tensor, slots: int) -> Tensor:
    """A (T, D) position table for another number of time slots: linear, the same table where it fits."""
    if slots == len(table):
        return table
    return F.interpolate(table.T.unsqueeze(0).float(), slots, mode="linear")[0].T.to(table.dtype)
