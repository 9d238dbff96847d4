"""The decoders of the study from real encoders: kept tokens stand for pixels, what learns, numbers of a loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omnivl.data.annotations import Item
from omnivl.data.sample import Question
from omnivl.model import OmniVL, starting_with
from omnivl.model.generation import Specials, generate
from omnivl.tokenizer import Tokenizer
from studies.encoders import cached
from studies.paradigms import mini_decoders
from studies.paradigms.mini_decoders import PART, FromTokens, Lessons, Pairs, Taught, Tried, some, taught
from studies.paradigms.mini_measure import Shown
from studies.paradigms.numbers import scores
from tests.helpers import MINI, mini_model

NAMES = ("a red star", "a blue ring", "a green circle")
LOWER = 1


@pytest.fixture(scope="module")
def small() -> tuple[OmniVL, Tokenizer]:
    """Two visual layers, of which the first does not learn; clips of 4 frames."""
    config = replace(MINI, vision=replace(MINI.vision, layers=3), text=replace(MINI.text, layers=2, dropout=0))
    model, tokenizer = mini_model(config=config)
    made = cached.shortened(model, vision_layers=2, image_size=48, num_frames=4)
    torch.nn.init.normal_(made.visual.blocks[LOWER].temporal.out.weight, std=0.3)  # so that clips differ from pictures
    return made, tokenizer


def pairs(medium: str, count: int = 12) -> Pairs:
    """Items under three captions, whose tokens tell which; asked for is the colour, in words that the tokenizer has."""
    items = [
        Item(
            Path(f"{i}.png"),
            captions=(NAMES[i % 3],),
            questions=(Question("a", ((NAMES[i % 3].split()[1], 1.0),)),),
            id=f"{i}",
        )
        for i in range(count)
    ]
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(3, 1, 10, 32, generator=draw)
    tokens = kinds[[i % 3 for i in range(count)]] + 0.1 * torch.randn(count, 1, 10, 32, generator=draw)
    return Pairs(medium, items, tokens.expand(-1, 4 if medium == "video" else 1, -1, -1).half())


@pytest.mark.parametrize("frames", [1, 4])
def test_kept_tokens_are_seen_as_their_pixels(small: tuple[OmniVL, Tokenizer], frames: int) -> None:
    model, _ = small
    pixels = torch.randint(
        0, 256, (2, frames, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = FromTokens.of(model, LOWER).eval().encode_visual(cached.lower_visual(model, pixels, LOWER))
    with torch.no_grad():
        wanted = model.encode_visual(pixels)
    assert found.tokens.shape == wanted.tokens.shape
    likeness = torch.cosine_similarity(found.tokens, wanted.tokens, dim=-1)
    assert likeness.min() > 0.999  # the lower part runs in bfloat16 and is kept in half precision
    torch.testing.assert_close(found.embed, wanted.embed, atol=0.02, rtol=0)


def test_decoders_learn_to_tell_three_things_apart_and_the_visual_encoder_stays(
    small: tuple[OmniVL, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = small
    monkeypatch.setattr(mini_decoders, "OPTIM", replace(mini_decoders.OPTIM, lr=1e-2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    both = [pairs("image"), pairs("video")]
    made = taught(model, tokenizer, both, Lessons(120, 60, 12, 8), LOWER, 0, still=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "a copy learns"
    for copy in (made.writer, made.answerer):
        state = copy.state_dict()
        changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert not {name for name in changed if name.startswith(("visual", "temperature")) or "embeddings" in name}
        assert any(name.startswith("alignment.") for name in changed)
    (first, last), (asked, answered) = made.losses
    assert last < 0.7 * first and answered < 0.8 * asked  # word vectors do not learn
    shown = Shown("emoji_unseen_hand", "image", both[0].items, both[0].tokens)
    alike = torch.full((12, 3), 0.5)
    rows = Tried(made, tokenizer, shown, alike, list(NAMES), still=False).rows(["red", "blue", "green"])
    told = {(row["metric"], row["k"]): row["value"] for row in rows}
    assert told["caption_exact", 0] > 0.9 and told["answer", 0] > 0.9
    assert told["i2t_r1", 16] > 0.9, "similarity tells nothing, so matching decides"


@pytest.fixture(scope="module")
def tried(small: tuple[OmniVL, Tokenizer]) -> Tried:
    model, tokenizer = small
    each = pairs("video")
    shown = Shown("flare_test", "video", each.items, each.tokens)
    writer = FromTokens.of(model, LOWER).eval()
    alike = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)) / 10
    return Tried(Taught(writer, writer, []), tokenizer, shown, alike, list(NAMES), still=False)


@torch.inference_mode()
def test_numbers_are_those_of_a_loop(tried: Tried) -> None:
    found = {(row["metric"], row["k"]): row for row in tried.rows(["red", "blue", "green", "ring"])}
    assert {row["task"] for row in found.values()} == {f"{PART}flare_test"}
    writer, tokenizer = tried.taught.writer, tried.tokenizer
    with torch.autocast("cpu", torch.bfloat16):
        tokens = writer.encode_visual(tried.shown.tokens).tokens
        matched = torch.stack([matching(writer, tokenizer, tokens[i : i + 1]) for i in range(12)])
        written = [
            generate(writer, tokens[i : i + 1], specials=Specials.of(tokenizer), min_length=2)[0] for i in range(12)
        ]
    own = [NAMES.index(caption) for caption in tried.shown.captions]
    for k, table in ((0, tried.similarity), (16, tried.similarity / writer.temperature + matched)):
        right = [float(int(np.argmax(row)) == one) for row, one in zip(table.numpy(), own, strict=True)]
        assert scores(found["v2t_r1", k]["items"]).tolist() == right
        best = [int(np.argmax(column)) for column in table.numpy().T]
        assert scores(found["t2v_r1", k]["items"]).tolist() == [float(own[i] == text) for text, i in enumerate(best)]
    texts = [tokenizer.decode(each.ids) for each in written]
    assert found["caption_exact", 0]["value"] == np.mean(
        [t == c for t, c in zip(texts, tried.shown.captions, strict=True)]
    )
    actions = [c.split()[-1] in t.split() for t, c in zip(texts, tried.shown.captions, strict=True)]
    assert found["caption_action", 0]["value"] == pytest.approx(np.mean(actions), abs=1e-6)
    assert found["answer", 0]["chance"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["answer", 0]["n"] == 12


def matching(writer: FromTokens, tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
    """(3,) log p(matched) of one item and every name, one at a time."""
    each = []
    for name in NAMES:
        ids, mask = tokenizer([name])
        each.append(writer.match(starting_with(ids, tokenizer.enc_id), mask, tokens)[0].float().log_softmax(0)[1])
    return torch.stack(each)


def test_only_what_training_could_have_said_is_asked(tried: Tried) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tokens = tried.taught.writer.encode_visual(tried.shown.tokens).tokens
        (row,) = tried.answers(tokens, ["red", "blue"])
    assert row["n"] == 8, "the four green ones are not asked about"


def test_some_are_every_fifth_drawing_and_two_directions_of_each_clip() -> None:
    items = [Item(Path(f"{i}.png"), captions=("a star",), id=f"star/spins-{i}") for i in range(16)]
    shown = Shown("flare_test", "video", items, torch.arange(16.0).view(16, 1, 1, 1))
    assert [item.id[-1] for item in some(shown).items[:4]] == ["0", "4", "8", "2"]
    assert some(replace(shown, name="emoji_unseen_hand")).tokens.flatten().tolist() == [0, 5, 10, 15]
