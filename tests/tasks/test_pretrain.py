"""What the pretraining task must hold: images leave time alone, negatives have other labels, a loss without weight or
without rows is left out, banks grow once a step."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from omnivl.config import TaskConfig
from omnivl.data.sample import Batch
from omnivl.losses import univlc_loss
from omnivl.model import CrossKV, starting_with
from omnivl.tasks import pretrain
from omnivl.tasks.base import Losses
from omnivl.tasks.pretrain import PretrainTask, uniforms
from tests.training import DEC, ENC, STILL, TASK, VOCABULARY, make_batch, pretrain_task, text_task, tiny_model


def still_task(**changes: float | str) -> PretrainTask:
    return pretrain_task(tiny_model(STILL), replace(TASK, **changes))  # type: ignore[arg-type]


def stepped(task: PretrainTask, batch: Batch, step: int = 0) -> Losses:
    task.begin_step()
    losses = task(batch, step, 0)
    losses.total.backward()
    return losses


def test_an_image_step_leaves_every_temporal_gradient_none_and_a_video_step_none() -> None:
    task = still_task()
    temporal = {
        name: parameter
        for name, parameter in task.model.named_parameters()
        if "temporal" in name or "time_position" in name or "patches.video" in name
    }
    assert len(temporal) == 2 * 6 + 3
    stepped(task, make_batch("image", 4, 0))
    assert [name for name, parameter in temporal.items() if parameter.grad is not None] == []
    others = {n: p for n, p in task.model.named_parameters() if n not in temporal}
    assert [name for name, parameter in others.items() if parameter.grad is None] == []
    task.zero_grad(set_to_none=True)
    stepped(task, make_batch("video", 4, 0))
    assert [name for name, parameter in temporal.items() if parameter.grad is None] == []
    unused = [name for name, parameter in others.items() if parameter.grad is None]
    assert unused == ["visual.patches.image.weight", "visual.patches.image.bias"]


def spy_on_match(task: PretrainTask, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The texts that `match` reads, one tensor a call, in order: each right text with a wrong one after it, then right
    texts again."""
    seen: list[torch.Tensor] = []
    match = task.model.match

    def spy(ids: torch.Tensor, mask: torch.Tensor, context: object) -> torch.Tensor:
        seen.append(ids)
        return match(ids, mask, context)  # type: ignore[arg-type]

    monkeypatch.setattr(task.model, "match", spy)
    return seen


def owner(ids: torch.Tensor, batch: Batch) -> list[int]:
    """Which row of the batch each text is, by its words."""
    return [next(i for i in range(len(batch)) if torch.equal(row[1:], batch.ids[i, 1:])) for row in ids]


def test_matching_has_one_positive_to_two_negatives_and_none_of_the_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    task = still_task()
    labels = [7, 7, 7, 8, 8, 9]
    batch = make_batch("image", 6, 0, labels)
    seen = spy_on_match(task, monkeypatch)
    for step in range(20):
        seen.clear()
        losses = task(batch, step, 0)
        right, again = seen
        assert len(right) == 12 and len(again) == 6 and losses.sums["match_accuracy"][1] == 18
        assert torch.equal(right[:, 0], torch.full((12,), ENC))
        assert owner(right[::2], batch) == owner(again, batch) == list(range(6))
        assert all(labels[i] != labels[wrong] for i, wrong in enumerate(owner(right[1::2], batch)))


def test_the_wrong_picture_is_never_of_the_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    task = still_task(lm_weight=0.0)
    batch = make_batch("image", 4, 0, [1, 1, 1, 2])
    chosen: list[torch.Tensor] = []
    select = CrossKV.select

    def spy(context: CrossKV, index: torch.Tensor) -> CrossKV:
        chosen.append(index)
        return select(context, index)

    monkeypatch.setattr(CrossKV, "select", spy)
    for step in range(10):
        chosen.clear()
        task(batch, step, 0)
        (wrong,) = chosen  # the right pictures are all there are, in order: no copy is made of them
        assert wrong[:3].tolist() == [3, 3, 3] and wrong[3] < 3


def test_the_matching_loss_is_that_of_its_pairs_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = still_task(), make_batch("video", 4, 0)
    others = torch.tensor([1, 2, 3, 0])
    monkeypatch.setattr(pretrain, "sample_hard_negatives", lambda *_: (torch.arange(4), others))
    assert batch.pixels is not None
    tokens = task.model.encode_visual(batch.pixels).tokens
    ids = starting_with(batch.ids, ENC)
    losses = []
    for i in range(4):
        other = int(others[i])
        for text, picture, matched in ((i, i, 1), (other, i, 0), (i, other, 0)):
            logits = task.model.match(ids[[text]], batch.mask[[text]], tokens[[picture]])
            losses.append(F.cross_entropy(logits[0], torch.tensor(matched)))
    torch.testing.assert_close(task(batch, 0, 0).parts["vlm"], torch.stack(losses).mean().detach())


@pytest.mark.parametrize("labels", [[5], [5, 5, 5]])
def test_without_a_possible_negative_matching_is_left_out_and_nothing_is_raised(labels: list[int]) -> None:
    task = still_task()
    losses = stepped(task, make_batch("image", len(labels), 0, labels))
    right, of = losses.sums["match_accuracy"]
    assert float(losses.parts["vlm"]) == int(right) == of == 0
    head = task.model.alignment.head.weight.grad
    assert head is None or not head.any()
    assert float(losses.parts["univlc"]) >= 0 and float(losses.parts["lm"]) > 0
    torch.testing.assert_close(losses.total.detach(), losses.parts["univlc"] + losses.parts["lm"])


@pytest.mark.parametrize("weight", ["univlc_weight", "vlm_weight", "lm_weight"])
def test_a_loss_of_weight_0_is_left_out_and_its_parts_get_no_gradient(weight: str) -> None:
    name = weight.removesuffix("_weight")
    task = still_task(**{weight: 0.0})
    losses = stepped(task, make_batch("video", 4, 0))
    assert set(losses.parts) == {"univlc", "vlm", "lm"} - {name}
    part = {"univlc": "visual_projection.weight", "vlm": "alignment.head.weight", "lm": "generation.head.bias"}
    for other, parameter in part.items():
        assert (task.model.get_parameter(parameter).grad is None) == (other == name), other
    momentum = copy.deepcopy(task.momentum.state_dict())
    with torch.no_grad():
        task.model.visual.norm.bias.add_(1)
    task.after_step(0)
    moved = any(
        not torch.equal(a, b) for a, b in zip(momentum.values(), task.momentum.state_dict().values(), strict=True)
    )
    assert moved == (name != "univlc") and int(task.bank.pushed) == (0 if name == "univlc" else 4)


def test_the_total_is_the_weighted_sum_and_each_part_is_a_mean() -> None:
    task = still_task(univlc_weight=0.5, vlm_weight=2.0, lm_weight=3.0, label_smoothing=0.0)
    batch = make_batch("image", 4, 0)
    losses = task(batch, 0, 0)
    parts = losses.parts
    torch.testing.assert_close(losses.total, 0.5 * parts["univlc"] + 2 * parts["vlm"] + 3 * parts["lm"])
    assert batch.pixels is not None
    visual = task.model.encode_visual(batch.pixels)
    ids = batch.ids.clone()
    ids[:, 0] = DEC
    logits = task.model.decode(ids, batch.mask, visual.tokens)
    wanted = [
        F.cross_entropy(logits[i, j], ids[i, j + 1]) for i in range(4) for j in range(int(batch.mask[i].sum()) - 1)
    ]
    torch.testing.assert_close(parts["lm"], torch.stack(wanted).mean())
    text = task.model.encode_text(batch.ids, batch.mask)
    # a new momentum copy is the model itself, and the bank is empty: InfoNCE within the batch
    scores = visual.embed @ text.embed.T / 0.07
    truth = torch.arange(4)
    torch.testing.assert_close(parts["univlc"], (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2)


def test_contrast_sees_the_momentum_vectors_of_the_steps_before() -> None:
    task = still_task(vlm_weight=0.0, lm_weight=0.0)
    first, second = make_batch("image", 4, 0, [1, 2, 3, 4]), make_batch("video", 4, 1, [4, 5, 6, 1])
    task(first, 0, 0)
    task.after_step(0)
    visual, text, labels = task.bank.in_order()
    assert labels.tolist() == [1, 2, 3, 4]
    assert second.pixels is not None
    own_visual, own_text = (
        task.model.encode_visual(second.pixels).embed,
        task.model.encode_text(second.ids, second.mask).embed,
    )
    wanted = univlc_loss(
        own_visual,
        own_text,
        second.labels,
        torch.cat([own_visual, visual]).detach(),
        torch.cat([own_text, text]).detach(),
        torch.cat([second.labels, labels]),
        0.07,
    ).mean()
    task.begin_step()
    torch.testing.assert_close(task(second, 1, 0).parts["univlc"], wanted.detach())


def test_plain_infonce_has_one_positive_whatever_the_labels() -> None:
    plain, other = still_task(contrast="infonce"), still_task()
    for step in (0, 1):
        batch = make_batch("image", 4, step, [7, 7, 8, 8])
        assert batch.pixels is not None
        own = plain.model.encode_visual(batch.pixels).embed, plain.model.encode_text(batch.ids, batch.mask).embed
        # the momentum copy is the model itself; a sample's own keys come first, then the bank's
        keys = [torch.cat([fresh, old]) for fresh, old in zip(own, plain.bank.in_order()[:2], strict=True)]
        scores = own[0] @ keys[1].T / 0.07, own[1] @ keys[0].T / 0.07
        truth = torch.arange(4)
        wanted = (F.cross_entropy(scores[0], truth) + F.cross_entropy(scores[1], truth)) / 2
        for task in (plain, other):
            task.begin_step()
        found = plain(batch, step, 0).parts["univlc"]
        torch.testing.assert_close(found, wanted.detach())
        assert float(other(batch, step, 0).parts["univlc"]) != pytest.approx(float(found), rel=1e-3)
        plain.after_step(step)
        other.after_step(step)
    assert plain.bank.in_order()[2].tolist() == list(range(8)), "no label twice"
    assert other.bank.in_order()[2].tolist() == [7, 7, 8, 8] * 2


def test_banks_are_pushed_once_a_step_also_under_accumulation_and_where_a_step_is_done_again() -> None:
    task = still_task()
    batch = make_batch("image", 8, 0)
    for _ in range(2):  # the second time round is the step done again
        task.begin_step()
        for micro, part in enumerate(batch.split(2)):
            task(part, 0, micro)
            assert int(task.bank.pushed) == 0
    task.after_step(0)
    assert task.bank.in_order()[2].tolist() == batch.labels.tolist()


@pytest.mark.parametrize(("part", "stride"), [(1.0, 1), (0.5, 2), (0.25, 4)])
def test_a_share_takes_every_row_in_its_turn(part: float, stride: int) -> None:
    task = still_task()
    batch = make_batch("image", 8, 0)
    rows = [task.rows(batch, part, step)[0].tolist() for step in range(stride)]
    assert all(len(each) == 8 // stride for each in rows)
    assert sorted(row for each in rows for row in each) == list(range(8))


def test_a_batch_smaller_than_a_share_s_stride_has_steps_without_the_loss() -> None:
    task = still_task(match_share=0.25, lm_share=0.25)
    counted = [stepped(task, make_batch("image", 2, step), step).sums["match_accuracy"][1] for step in range(4)]
    assert counted == [3, 0, 0, 3]
    assert [float(task(make_batch("image", 2, step), step, 0).parts["lm"]) > 0 for step in range(4)] == [
        True,
        False,
        False,
        True,
    ]


def test_shares_are_counted_in_the_losses_they_name() -> None:
    task = still_task(match_share=0.5, lm_share=0.25, video_lm_share=1.0, label_smoothing=0.0)
    for medium, rows in (("image", [0, 4]), ("video", list(range(8)))):
        batch = make_batch(medium, 8, 0)
        losses = task(batch, 0, 0)
        assert losses.sums["match_accuracy"][1] == 4 * 3
        alone = Batch(medium, batch.pixels[rows], batch.ids[rows], batch.mask[rows], batch.labels[rows])  # type: ignore[index]
        whole = still_task(label_smoothing=0.0)(alone, 0, 0)
        torch.testing.assert_close(losses.parts["lm"], whole.parts["lm"])


def test_temperature_is_held_within_its_bounds() -> None:
    task = still_task()
    for wild, held in ((-3.0, 0.001), (9.0, 0.5)):
        with torch.no_grad():
            task.model.temperature.fill_(wild)
        assert torch.isfinite(task(make_batch("image", 4, 0), 0, 0).total)
        task.after_step(0)
        assert float(task.model.temperature.detach()) == pytest.approx(held)


def test_momentum_warms_up_where_asked() -> None:
    task = pretrain_task(tiny_model(STILL), replace(TASK, momentum=0.99, momentum_warmup=True))
    weight = dict(task.momentum.encoders.named_parameters())["visual.norm.bias"]
    with torch.no_grad():
        task.model.visual.norm.bias.fill_(1.0)
    task.after_step(0)  # momentum 1/2
    assert weight.unique().tolist() == pytest.approx([0.5])
    task.after_step(1)  # 2/3
    assert weight.unique().tolist() == pytest.approx([0.5 * 2 / 3 + 1 / 3])
    task.after_step(10**6)  # 0.99 and no more
    assert weight.unique().tolist() == pytest.approx([0.99 * (0.5 * 2 / 3 + 1 / 3) + 0.01])


def test_a_stage_begins_with_the_temporal_part_of_its_image_weights_unless_videos_taught_it() -> None:
    task = still_task()
    spatial, temporal = (getattr(task.model.visual.blocks[0], name) for name in ("spatial", "temporal"))
    with torch.no_grad():
        spatial.qkv.weight.add_(1)
    task.begin_stage()
    assert torch.equal(temporal.qkv.weight, spatial.qkv.weight)
    slow = dict(task.momentum.encoders.named_parameters())["visual.blocks.0.temporal.qkv.weight"]
    assert torch.equal(slow, spatial.qkv.weight)
    with torch.no_grad():
        temporal.out.weight.add_(1)
        spatial.qkv.weight.add_(1)
    task.begin_stage()
    assert not torch.equal(temporal.qkv.weight, spatial.qkv.weight)


def test_distillation_mixes_the_momentum_similarities_in_step_by_step() -> None:
    batch = make_batch("image", 4, 0)
    values = [
        float(still_task(distill_alpha=0.8, distill_steps=10)(batch, step, 0).parts["univlc"])
        for step in (0, 5, 10, 99)
    ]
    assert values[0] == pytest.approx(float(still_task()(batch, 0, 0).parts["univlc"]))
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5) and values[2] == values[3] != values[0]


def test_random_choices_depend_on_step_micro_batch_and_stream_alone() -> None:
    first = uniforms(0, 1, 2, "negatives", 2, 5)
    torch.rand(7)
    assert torch.equal(first, uniforms(0, 1, 2, "negatives", 2, 5))
    others = [(1, 1, 2, "negatives"), (0, 2, 2, "negatives"), (0, 1, 3, "negatives"), (0, 1, 2, "words")]
    assert all(not torch.equal(first, uniforms(*key, 2, 5)) for key in others)


# --- the language warm-up --------------------------------------------------------------------------------------------


def test_masked_words_are_never_special_tokens_and_both_losses_fall() -> None:
    task = text_task(tiny_model(STILL), TaskConfig(name="text", mask_share=1.0))
    batch = make_batch("text", 4, 0)
    words = int((batch.ids > 5).sum())
    counted: list[int] = []
    hook = task.model.generation.head.register_forward_hook(lambda module, args, out: counted.append(len(out)))
    before = task(batch, 0, 0)
    hook.remove()
    assert counted == [words]  # every word is asked for, no special token
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    for step in range(30):
        optimizer.zero_grad()
        losses = task(batch, step, 0)
        losses.total.backward()
        optimizer.step()
    assert all(losses.parts[name] < before.parts[name] for name in ("masked", "words"))


def test_the_bag_of_words_is_each_word_once_and_no_special_token() -> None:
    task = text_task(tiny_model(STILL), TaskConfig(name="text", mask_share=0.0))
    batch = make_batch("text", 3, 0)
    batch.ids[0, 1] = batch.ids[0, 2]  # a word that stands twice counts once
    losses = task(batch, 0, 0)
    encoded = task.model.encode_text(batch.ids, batch.mask)
    logits = task.words(encoded.embed / task.model.config.temperature).double()
    wanted = 0.0
    for i in range(3):
        words = {int(word) for word in batch.ids[i] if word > 5}
        for word in range(VOCABULARY):  # each word of the vocabulary is asked for by itself
            probability = torch.sigmoid(logits[i, word] if word in words else -logits[i, word])
            wanted -= math.log(float(probability.detach())) / 3
    assert float(losses.parts["words"]) == pytest.approx(wanted, rel=1e-5)
    assert logits.shape[1] == VOCABULARY and float(losses.parts["masked"]) == 0


def test_the_warm_up_touches_no_visual_parameter() -> None:
    task = text_task(tiny_model(STILL))
    task(make_batch("text", 4, 0), 0, 0).total.backward()
    touched = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None}
    assert touched == {"text", "text_projection", "generation"}
