"""Templates keep the name they are filled with, and read as English."""

import numpy as np
import pytest

from omnivl.prompts import CAPTION_PROMPTS, LABEL_PROMPTS, draw_prompt, fill, label_prompts


@pytest.mark.parametrize("medium", list(LABEL_PROMPTS))
def test_every_template_has_one_place_for_the_name_and_none_stands_twice(medium: str) -> None:
    templates = label_prompts(medium)
    assert len(set(templates)) == len(templates) >= 10
    assert all(template.count("{}") == 1 for template in templates)
    assert {fill(template, "x y").replace("x y", "{}").replace(" an {}", " a {}") for template in templates} == set(
        templates
    )


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("dog", "a dog"),
        ("apple", "an apple"),
        ("Apple pie", "an Apple pie"),
        ("ice_cream", "an ice cream"),
        ("umbrella", "an umbrella"),
        ("utter mess", "an utter mess"),
        ("usher", "an usher"),
        ("unicorn", "a unicorn"),
        ("used car", "a used car"),
        ("utility pole", "a utility pole"),
        ("European robin", "a European robin"),
        ("one-way sign", "a one-way sign"),
        ("unidentified thing", "an unidentified thing"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
    ],
)
def test_the_article_is_the_one_that_is_spoken(name: str, phrase: str) -> None:
    assert fill("a photo of a {}.", name) == f"a photo of {phrase}."


def test_only_an_article_right_before_the_name_changes() -> None:
    assert fill("{}", "apple") == "apple"
    assert fill("a video of {}.", "archery") == "a video of archery."
    assert fill("this is the {}.", "apple") == "this is the apple."


def test_braces_in_a_name_are_only_text() -> None:
    assert fill("a photo of a {}.", "{0} {}") == "a photo of a {0} {}."


def test_the_same_seed_draws_the_same_prompts_and_all_are_drawn() -> None:
    drawn = [draw_prompt("dog", "image", np.random.default_rng(seed)) for seed in range(300)]
    assert drawn == [draw_prompt("dog", "image", np.random.default_rng(seed)) for seed in range(300)]
    assert set(drawn) == {fill(template, "dog") for template in label_prompts("image")}


def test_both_media_have_a_caption_prompt_that_ends_where_the_caption_starts() -> None:
    assert set(CAPTION_PROMPTS) == set(LABEL_PROMPTS) == {"image", "video"}
    assert all(prompt.endswith(" ") for prompt in CAPTION_PROMPTS.values())


def test_another_medium_is_refused() -> None:
    with pytest.raises(ValueError, match="'sound'"):
        label_prompts("sound")


def test_templates_of_ones_own_take_the_place_of_the_table() -> None:
    assert draw_prompt("left", "video", np.random.default_rng(0), ("it moves {}",)) == "it moves left"
    with pytest.raises(ValueError, match="no place for the name"):
        draw_prompt("left", "video", np.random.default_rng(0), ("it moves",))
