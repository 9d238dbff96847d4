"""The visual encoder: images and videos through one set of weights (method, invariants 1, 2 and 12)."""

import math

import pytest
import torch
from torch import Tensor, nn

from omnivl.config import ConfigError, VisionConfig
from omnivl.model import PatchEmbed, SpaceTimeBlock, VisualEncoder
from omnivl.model.layers import SelfAttention, drop_path_scale
from omnivl.model.vision import resize_space, resize_time

SMALL = VisionConfig(
    image_size=16, patch_size=4, width=24, layers=3, heads=3, mlp_width=40, num_frames=6, tubelet_size=2
)
NO_LAYERS = VisionConfig(image_size=16, patch_size=4, width=24, layers=0, heads=3, mlp_width=40, num_frames=6)


def randomised(module: nn.Module) -> None:
    """Weights as after some training: nothing is zero or equal any more."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


def encoder(config: VisionConfig = SMALL) -> VisualEncoder:
    torch.manual_seed(0)
    made = VisualEncoder(config).double()
    randomised(made)
    return made.eval()


def temporal_names(model: VisualEncoder) -> set[str]:
    return {name for name, _ in model.named_parameters() if "temporal" in name or "time" in name or "video" in name}


@pytest.mark.parametrize("frames", [2, 5, 6, 8])
def test_a_static_clip_at_the_start_equals_the_image(frames: int) -> None:
    model = encoder()
    model.start_video_from_image()  # from image weights that have moved since the model was made
    image = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        still = model(image)
        clip = model(image.expand(-1, frames, -1, -1, -1))
    slots = math.ceil(frames / 2)
    torch.testing.assert_close(clip[:, 0], still[:, 0])
    for slot in range(slots):
        torch.testing.assert_close(clip[:, 1 + 16 * slot : 17 + 16 * slot], still[:, 1:])


def test_temporal_attention_starts_as_a_copy_of_the_spatial_with_nothing_to_say() -> None:
    model = encoder()
    model.start_video_from_image()
    for block in model.blocks:
        spatial, temporal = block.spatial.state_dict(), block.temporal.state_dict()
        assert torch.equal(temporal["qkv.weight"], spatial["qkv.weight"])
        assert torch.equal(temporal["qkv.bias"], spatial["qkv.bias"])
        assert not temporal["out.weight"].any() and not temporal["out.bias"].any()
        for ours, theirs in zip(block.temporal_norm.parameters(), block.spatial_norm.parameters(), strict=True):
            assert torch.equal(ours, theirs) and ours is not theirs


def test_a_new_encoder_is_silent_and_a_trained_one_is_not() -> None:
    torch.manual_seed(0)
    assert VisualEncoder(SMALL).is_silent()
    assert not encoder().is_silent()


def test_an_image_touches_no_temporal_parameter_and_a_video_no_2d_convolution() -> None:
    model = encoder()
    everything = {name for name, _ in model.named_parameters()}
    assert len(temporal_names(model)) == 3 + 6 * SMALL.layers
    for frames, untouched in ((1, temporal_names(model)), (4, {"patches.image.weight", "patches.image.bias"})):
        model.zero_grad(set_to_none=True)
        model(torch.randn(2, frames, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
        assert {name for name, value in model.named_parameters() if value.grad is None} == untouched
        moved = {
            name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0
        }
        assert moved == everything - untouched


def slow_attention(attention: SelfAttention, sequence: list[Tensor]) -> list[Tensor]:
    """Multi-head attention of vectors (D,), one query and one head at a time."""
    width, heads = len(sequence[0]), attention.heads
    size = width // heads
    packed = [attention.qkv.weight @ vector + attention.qkv.bias for vector in sequence]
    outputs = []
    for mine in packed:
        parts = []
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            scores = torch.stack([mine[:width][cut] @ other[width : 2 * width][cut] for other in packed]) / math.sqrt(
                size
            )
            weights = scores.softmax(0)
            parts.append(sum(w * other[2 * width :][cut] for w, other in zip(weights, packed, strict=True)))
        outputs.append(attention.out.weight @ torch.cat(parts) + attention.out.bias)
    return outputs


def slow_block(block: SpaceTimeBlock, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """The description, word by word, on one clip: cls (D,), patches (T, S, D)."""
    frames, places = patches.shape[:2]
    patches = patches.clone()
    if frames > 1:  # temporal attention: each position along time, without [CLS]
        for s in range(places):
            outputs = slow_attention(block.temporal, [block.temporal_norm(patches[t, s]) for t in range(frames)])
            for t in range(frames):
                patches[t, s] = patches[t, s] + outputs[t]
    given = []  # spatial attention: [CLS] is given to every frame, its outputs are averaged
    after = patches.clone()
    for t in range(frames):
        tokens = [block.spatial_norm(cls), *(block.spatial_norm(patches[t, s]) for s in range(places))]
        outputs = slow_attention(block.spatial, tokens)
        given.append(outputs[0])
        for s in range(places):
            after[t, s] = patches[t, s] + outputs[1 + s]
    cls = cls + sum(given) / frames
    for t in range(frames):
        for s in range(places):
            after[t, s] = after[t, s] + block.mlp(block.mlp_norm(after[t, s]))
    return cls + block.mlp(block.mlp_norm(cls)), after


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_the_block_equals_a_plain_loop_over_frames_and_positions(frames: int) -> None:
    torch.manual_seed(0)
    block = SpaceTimeBlock(SMALL, 0.0).double().eval()
    randomised(block)
    cls, patches = torch.randn(2, 24, dtype=torch.float64), torch.randn(2, frames, 5, 24, dtype=torch.float64)
    x = torch.cat([cls[:, None, None].expand(-1, frames, -1, -1), patches], 2)
    result = block(x, frames > 1)
    for row in range(2):
        slow_cls, slow_patches = slow_block(block, cls[row], patches[row])
        torch.testing.assert_close(result[row, :, 1:], slow_patches)
        for frame in range(frames):
            torch.testing.assert_close(result[row, frame, 0], slow_cls)


@torch.no_grad()
def test_token_order_is_cls_time_height_width() -> None:
    model = encoder(NO_LAYERS)
    clip = torch.randn(1, 6, 3, 16, 16, dtype=torch.float64)
    before = model(clip)
    clip[0, 4, :, 4:8, 12:16] += 1.0  # slot 2, row 1, column 3
    changed = (model(clip) != before).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [1 + 2 * 16 + 1 * 4 + 3]


@torch.no_grad()
def test_the_order_of_frames_matters_once_time_is_learnt() -> None:
    model = encoder()
    clip = torch.randn(1, 6, 3, 16, 16, dtype=torch.float64)
    assert (model(clip)[:, 0] - model(clip.flip(1))[:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_where_the_tubelet_does_not_divide_the_last_frame_is_repeated() -> None:
    model = encoder()
    clip = torch.randn(2, 5, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(model(clip), model(torch.cat([clip, clip[:, -1:]], 1)))


@torch.no_grad()
def test_patches_equal_a_convolution_written_by_hand() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(SMALL).double()
    randomised(embed)
    clip = torch.randn(1, 4, 3, 8, 12, dtype=torch.float64)
    assert embed.image.bias is not None and embed.video.bias is not None
    flat, deep = embed(clip[:, :1]), embed(clip)
    assert flat.shape == (1, 1, 2, 3, 24) and deep.shape == (1, 2, 2, 3, 24)
    for row in range(2):
        for column in range(3):
            window = clip[0, :, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]  # (T, C, 4, 4)
            expected = torch.einsum("cij,dcij->d", window[0], embed.image.weight) + embed.image.bias
            torch.testing.assert_close(flat[0, 0, row, column], expected)
            for slot in range(2):
                pair = window[2 * slot : 2 * slot + 2]
                expected = torch.einsum("tcij,dctij->d", pair, embed.video.weight) + embed.video.bias
                torch.testing.assert_close(deep[0, slot, row, column], expected)


def test_position_tables_are_kept_at_the_same_size() -> None:
    space, time = torch.randn(16, 8), torch.randn(3, 8)
    assert torch.equal(resize_space(space, 4, 4, 4), space)
    assert torch.equal(resize_time(time, 3), time)


def test_a_constant_position_table_stays_constant_at_any_size() -> None:
    constant = torch.randn(8)
    for height, width in ((2, 2), (3, 9), (8, 5), (1, 1)):
        torch.testing.assert_close(
            resize_space(constant.expand(16, 8), 4, height, width), constant.expand(height * width, 8)
        )
    for slots in (1, 2, 5, 9):
        torch.testing.assert_close(resize_time(constant.expand(3, 8), slots), constant.expand(slots, 8))


def cubic(line: Tensor, size: int) -> Tensor:
    """One line of numbers at another length: cubic convolution (a = -0.75), edges repeated, centres aligned."""

    def weight(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    result = []
    for i in range(size):
        place = (i + 0.5) * len(line) / size - 0.5
        taps = range(math.floor(place) - 1, math.floor(place) + 3)
        result.append(sum(weight(place - tap) * float(line[min(max(tap, 0), len(line) - 1)]) for tap in taps))
    return torch.tensor(result)


def test_space_is_resized_in_two_dimensions_and_need_not_be_square() -> None:
    torch.manual_seed(0)
    rows, columns = torch.randn(4), torch.randn(4)
    table = torch.stack([rows[:, None].expand(4, 4), columns[None].expand(4, 4), torch.outer(rows, columns)], -1)
    resized = resize_space(table.flatten(0, 1), 4, 7, 3).unflatten(0, (7, 3))
    tall, wide = cubic(rows, 7), cubic(columns, 3)
    expected = torch.stack([tall[:, None].expand(7, 3), wide[None].expand(7, 3), torch.outer(tall, wide)], -1)
    torch.testing.assert_close(resized, expected)


def test_time_is_resized_linearly() -> None:
    table = torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(resize_time(table, 4)[:, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


@torch.no_grad()
def test_other_sizes_and_lengths_are_encoded() -> None:
    model = encoder()
    assert model(torch.randn(1, 8, 3, 24, 8, dtype=torch.float64)).shape == (1, 1 + 4 * 6 * 2, 24)
    assert model(torch.randn(1, 2, 3, 16, 16, dtype=torch.float64)).shape == (1, 1 + 16, 24)


@pytest.mark.parametrize("frames", [1, 4])
def test_drop_path_drops_whole_branches_of_a_sample(frames: int) -> None:
    torch.manual_seed(0)
    block = SpaceTimeBlock(SMALL, 0.5).double()
    randomised(block)
    cls = torch.randn(64, 1, 1, 24, dtype=torch.float64).expand(-1, frames, -1, -1)
    x = torch.cat([cls, torch.randn(64, frames, 5, 24, dtype=torch.float64)], 2)
    kept = [bool((a == b).all()) for a, b in zip(block.train()(x, frames > 1), x, strict=True)]
    assert 0 < sum(kept) < 40  # all branches are dropped in an eighth or a quarter of the rows, never in most
    scale = drop_path_scale(torch.zeros(4000, 3, dtype=torch.float64), 0.25)
    assert set(scale.flatten().tolist()) == {0.0, 1 / 0.75}
    assert abs(float(scale.mean()) - 1) < 0.05
    assert torch.equal(block.eval()(x, frames > 1), block(x, frames > 1))


def test_drop_path_grows_linearly_with_depth() -> None:
    config = VisionConfig(image_size=8, patch_size=4, width=8, layers=5, heads=2, mlp_width=8, drop_path=0.2)
    assert [block.drop_path for block in VisualEncoder(config).blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_pictures_that_do_not_divide_into_patches_are_refused() -> None:
    model = encoder()
    with pytest.raises(ValueError, match="18 x 16 pixels do not divide into patches of 4"):
        model(torch.randn(1, 1, 3, 16, 18, dtype=torch.float64))


def test_sizes_that_cannot_be_built_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"vision\.width"):
        VisualEncoder(VisionConfig(width=10, heads=3, layers=1))
    with pytest.raises(ConfigError, match=r"vision\.image_size"):
        VisualEncoder(VisionConfig(image_size=30, width=8, heads=2, layers=1))


def test_positions_start_all_apart_and_as_loud_as_patches() -> None:
    """A common part, or waves longer than the picture, would leave a small model blind for where things are."""
    for grid in (4, 14):
        encoder = VisualEncoder(VisionConfig(image_size=16 * grid, width=64, layers=1, heads=4, mlp_width=64))
        table = encoder.position[1:].detach()
        assert table.mean(0).abs().max() < 1e-5
        assert table.pow(2).mean().sqrt() > 0.5
        apart = torch.cdist(table, table) + 100 * torch.eye(len(table))
        assert apart.min() > 0.2 * table.norm(dim=1).mean()
