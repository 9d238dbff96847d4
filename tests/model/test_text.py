"""The text stack: one block used three ways, with masks, shared keys and values, and a cache (method, invariant 11)."""

import pytest
import torch
from torch import Tensor

from omnivl.config import ConfigError, ModelConfig, TextConfig, VisionConfig
from omnivl.model import KVCache, OmniVL, TextEncoder

VOCABULARY = 30


def config(text_width: int = 24, sharing: str = "blip") -> ModelConfig:
    text = TextConfig(
        vocab_size=VOCABULARY, width=text_width, layers=2, heads=4, mlp_width=32, max_positions=12, dropout=0.1
    )
    vision = VisionConfig(image_size=8, patch_size=4, width=24, layers=1, heads=4, mlp_width=16)
    return ModelConfig(vision=vision, text=text, embed_dim=8, sharing="blip" if sharing == "blip" else "none")


def model(text_width: int = 24, sharing: str = "blip") -> OmniVL:
    torch.manual_seed(0)
    made = OmniVL(config(text_width, sharing)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made.eval()


def texts(rows: int, length: int, padding: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Random ids; row i has `padding[i]` tokens of padding on its right."""
    ids = torch.randint(1, VOCABULARY, (rows, length))
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        mask[row, length - count :] = 0
    return ids * mask, mask


def pictures(rows: int) -> Tensor:
    return torch.randn(rows, 5, 24, dtype=torch.float64)


@torch.no_grad()
def test_padding_is_never_seen() -> None:
    m, visual = model(), pictures(3)
    ids, mask = texts(3, 7, (0, 2, 4))
    noise = torch.where(mask.bool(), ids, torch.randint(1, VOCABULARY, ids.shape))
    real = mask.bool()
    for act in (
        lambda i, k: m.encode_text(i, k).tokens,
        lambda i, k: m.match_states(i, k, visual),
        lambda i, k: m.decode(i, k, visual),
    ):
        torch.testing.assert_close(act(ids, mask)[real], act(noise, mask)[real])
        for row, length in enumerate(mask.sum(1).tolist()):  # each text alone, unpadded and without a mask
            alone = m.encode_text(ids[row : row + 1, :length], None).tokens[0]
            torch.testing.assert_close(alone, m.encode_text(ids, mask).tokens[row, :length])


@torch.no_grad()
def test_encoders_look_both_ways_and_the_generation_decoder_only_back() -> None:
    m, visual = model(), pictures(1)
    ids, mask = texts(1, 6)
    other = ids.clone()
    other[0, 3] = ids[0, 3] % (VOCABULARY - 1) + 1

    def changed(act: object) -> list[bool]:
        difference = (act(ids) - act(other)).abs().amax(-1)[0]  # type: ignore[operator]
        return (difference > 1e-6).tolist()

    assert changed(lambda i: m.encode_text(i, mask).tokens) == [True] * 6
    assert changed(lambda i: m.match_states(i, mask, visual)) == [True] * 6
    for given in (mask, None):
        assert changed(lambda i, given=given: m.decode(i, given, visual)) == [False] * 3 + [True] * 3


@torch.no_grad()
def test_both_decoders_look_at_the_picture_and_the_text_encoder_has_none() -> None:
    m = model()
    ids, mask = texts(2, 4)
    one, two = pictures(2), pictures(2)
    assert (m.match(ids, mask, one) - m.match(ids, mask, two)).abs().min() > 1e-4
    assert (m.decode(ids, mask, one) - m.decode(ids, mask, two)).abs().amax() > 1e-3


def test_text_alone_leaves_every_cross_attention_untouched() -> None:
    m = model()
    m.encode_text(*texts(2, 4)).embed.sum().backward()
    touched = {name for name, value in m.named_parameters() if value.grad is not None}
    assert touched == set(m.text_encoder_parameters())


@pytest.mark.parametrize("sharing", ["blip", "none"])
@torch.no_grad()
def test_keys_and_values_once_equal_tokens_each_time(sharing: str) -> None:
    m, visual = model(sharing=sharing), pictures(3)
    ids, mask = texts(3, 6, (0, 1, 3))
    context = m.cross_keys_values(visual)
    assert (context.alignment is context.generation) == (sharing == "blip")
    torch.testing.assert_close(m.match(ids, mask, context), m.match(ids, mask, visual))
    torch.testing.assert_close(m.decode(ids, mask, context), m.decode(ids, mask, visual))
    index = torch.tensor([2, 0, 2])
    chosen = context.select(index)
    assert (chosen.alignment is chosen.generation) == (sharing == "blip")
    torch.testing.assert_close(m.match(ids, mask, chosen), m.match(ids, mask, visual[index]))
    torch.testing.assert_close(m.decode(ids, mask, chosen), m.decode(ids, mask, visual[index]))


def test_gradients_flow_back_through_selected_keys_and_values() -> None:
    m = model()
    ids, mask = texts(3, 4)
    index = torch.tensor([1, 1, 0])
    grads = []
    for chosen in (lambda v: m.cross_keys_values(v).select(index), lambda v: v[index]):
        torch.manual_seed(1)
        visual = pictures(2).requires_grad_()
        m.match(ids, mask, chosen(visual)).square().sum().backward()
        grads.append(visual.grad)
    torch.testing.assert_close(grads[0], grads[1])


@torch.no_grad()
def test_a_context_serves_consecutive_texts_without_a_copy() -> None:
    m, visual = model(), pictures(2)
    ids, mask = texts(6, 5, (0, 1, 2, 3, 0, 1))
    repeated = visual.repeat_interleave(3, 0)
    look = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    torch.testing.assert_close(m.match(ids, mask, visual), m.match(ids, mask, repeated))
    expected = m.decode(ids, mask, repeated, look.repeat_interleave(3, 0))
    torch.testing.assert_close(m.decode(ids, mask, visual, look), expected)
    with pytest.raises(ValueError, match="5 texts cannot be dealt evenly to 2 contexts"):
        m.match(ids[:5], mask[:5], visual)


@torch.no_grad()
def test_the_padding_of_a_question_is_never_seen() -> None:
    m = model()
    ids, mask = texts(2, 4)
    states, look = pictures(2), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = m.decode(ids, mask, states, look)
    torch.testing.assert_close(m.decode(ids[:1], mask[:1], states[:1, :3]), expected[:1])
    torch.testing.assert_close(m.decode(ids[1:], mask[1:], states[1:]), expected[1:])
    states[0, 3:] = 9.0
    torch.testing.assert_close(m.decode(ids, mask, states, look), expected)


def test_another_text_width_gives_question_states_projections_of_their_own() -> None:
    assert not [name for name, _ in model().named_parameters() if "question" in name]
    m = model(text_width=16)
    own = {name for name, _ in m.named_parameters() if "question" in name}
    assert own == {f"generation.question_key_value.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")}
    ids, mask = texts(2, 4)
    visual = pictures(2)
    question = m.match_states(ids, mask, visual)
    assert question.shape == (2, 4, 16)
    m.decode(ids, mask, question, mask).sum().backward()
    assert all(value.grad is not None for name, value in m.named_parameters() if name in own)
    m.zero_grad(set_to_none=True)
    m.decode(ids, mask, visual).sum().backward()
    assert all(value.grad is None for name, value in m.named_parameters() if name in own)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_cached_logits_equal_uncached(masked: bool) -> None:
    m, visual = model(), pictures(3)
    prompt, prompt_mask = texts(3, 4, (0, 1, 2) if masked else ())
    written, _ = texts(3, 5)
    ids = torch.cat([prompt, written], 1)
    mask = torch.cat([prompt_mask, torch.ones_like(written)], 1) if masked else None
    expected = m.decode(ids, mask, visual)
    context, cache = m.cross_keys_values(visual), KVCache()
    pieces = [m.decode(prompt, prompt_mask if masked else None, context, cache=cache)]
    for start, end in ((4, 5), (5, 8), (8, 9)):  # one token, several at once, one again
        pieces.append(m.decode(ids[:, start:end], None, context, cache=cache))
        assert cache.length == end
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    torch.testing.assert_close(torch.cat(pieces, 1)[real], expected[real])
    for row in range(3):  # and both equal the text with its padding taken out
        alone = m.decode(ids[row][real[row]][None], None, visual[row : row + 1])[0]
        torch.testing.assert_close(alone, expected[row][real[row]])


@torch.no_grad()
def test_a_cache_follows_the_rows_that_are_kept() -> None:
    m, visual = model(), pictures(2)
    ids, mask = texts(2, 4, (0, 2))
    index = torch.tensor([1, 1])
    cache = KVCache()
    m.decode(ids[:, :3], mask[:, :3], visual, cache=cache)
    cache.select(index)
    step = m.decode(ids[index, 3:], mask[index, 3:], visual[index], cache=cache)
    torch.testing.assert_close(step, m.decode(ids[index], mask[index], visual[index])[:, 3:])


@torch.no_grad()
def test_the_language_head_reads_text_states_and_is_tied_to_the_words() -> None:
    m = model()
    states = m.encode_text(*texts(2, 4)).tokens
    before = m.lm_logits(states[1, 2:])
    assert before.shape == (2, VOCABULARY)
    m.text.embeddings.word.weight[7] = 0.0
    assert torch.equal(m.lm_logits(states[1, 2:])[:, 7], m.generation.head.bias[7].expand(2))


def test_dropout_acts_in_training_alone() -> None:
    m = model()
    ids, mask = texts(2, 4)
    assert torch.equal(m.encode_text(ids, mask).tokens, m.encode_text(ids, mask).tokens)
    m.train()
    assert not torch.equal(m.encode_text(ids, mask).tokens, m.encode_text(ids, mask).tokens)


def test_texts_longer_than_the_position_table_are_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens does not fit the model's 12 positions"):
        model().encode_text(*texts(1, 13))


def test_a_width_that_heads_do_not_divide_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"text\.width"):
        TextEncoder(TextConfig(width=10, heads=3))
