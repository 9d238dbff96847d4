"""VQA answers by hand: what the published rules make of an answer, and of ten annotators (paper, table of VQAv2)."""

import pytest

from omnivl.metrics import normalise_answer, vqa_accuracies

NORMALISED = [  # answer, what the rules make of it
    # case and blanks
    ("Yes", "yes"),
    ("  no  ", "no"),
    ("two\nwords", "2 words"),
    ("a\ttab", "tab"),
    ("many   blanks", "many blanks"),
    ("", ""),
    # articles
    ("a dog", "dog"),
    ("An apple", "apple"),
    ("the left one", "left 1"),
    ("on the table", "on table"),
    ("the", ""),
    ("theatre", "theatre"),
    # number words
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("Two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "eleven"),
    ("twenty one", "twenty 1"),
    ("someone", "someone"),
    # contractions: one lost apostrophe comes back
    ("dont", "don't"),
    ("Dont know", "don't know"),
    ("isnt", "isn't"),
    ("cant", "can't"),
    ("wont", "won't"),
    ("its", "its"),
    ("im", "im"),
    ("thats", "that's"),
    ("oclock", "o'clock"),
    ("12 oclock", "12 o'clock"),
    ("couldnt've", "couldn't've"),
    ("couldn'tve", "couldn't've"),
    ("couldntve", "couldntve"),
    ("maam", "ma'am"),
    ("twas", "'twas"),
    ("yall", "y'all"),
    ("yall'd've", "y'all'd've"),
    ("somebody'd", "somebodyd"),
    ("don't", "don't"),
    # punctuation that touches no blank becomes one
    ("red/white", "red white"),
    ("t-shirt", "t shirt"),
    ("hot_dog", "hot dog"),
    ("rock&roll", "rock&roll"),
    ("me@home", "me home"),
    ("(left)", "left"),
    ('"stop"', "stop"),
    ("wow!", "wow"),
    ("what?", "what"),
    ("x=y", "x y"),
    # beside a blank anywhere in the text it goes without a trace, wherever else it stands
    ("red, white", "red white"),
    ("red / white", "red white"),
    ("t-shirt -", "tshirt"),
    ("yes , no,maybe", "yes nomaybe"),
    ("- 5", "5"),
    # digits that a comma joins: every mark goes without a trace
    ("1,000", "1000"),
    ("1,000-2,000", "10002000"),
    ("10,5", "105"),
    ("1, 2", "1 2"),
    # points: those of decimals stay
    ("5.5", "5.5"),
    ("3.", "3"),
    ("u.s.a.", "usa"),
    ("st. louis", "st louis"),
    (".5", ".5"),
    ("no.1", "no.1"),
    # marks that the rules do not name stay: colons, apostrophes, percent
    ("10:30", "10:30"),
    ("50%", "50%"),
    ("dog's", "dog's"),
    ("$5", "$5"),
]


@pytest.mark.parametrize(("answer", "normal"), NORMALISED)
def test_an_answer_becomes_what_the_published_rules_make_of_it(answer: str, normal: str) -> None:
    assert normalise_answer(answer) == normal


def test_there_are_at_least_sixty_cases_worked_by_hand() -> None:
    assert len({answer for answer, _ in NORMALISED}) >= 60


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    # k of ten agree: (k x min(1, (k - 1) / 3) + (10 - k) x min(1, k / 3)) / 10
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (5, 1.0), (9, 1.0), (10, 1.0)],
)
def test_ten_annotators_are_each_held_against_the_nine_others(agreeing: int, accuracy: float) -> None:
    given = {"yes": agreeing, "no": 10 - agreeing}
    assert vqa_accuracies(["yes"], [{k: v for k, v in given.items() if v}]) == [pytest.approx(accuracy)]


def by_nine(prediction: str, annotators: list[str]) -> float:
    """The published average, one annotator left out at a time, written out."""
    total = 0.0
    for left_out in range(len(annotators)):
        others = annotators[:left_out] + annotators[left_out + 1 :]
        agreeing = sum(normalise_answer(other) == normalise_answer(prediction) for other in others)
        total += min(1.0, agreeing / 3)
    return total / len(annotators)


@pytest.mark.parametrize(
    ("prediction", "annotators"),
    [
        ("2", ["two"] * 3 + ["2"] * 2 + ["three"] * 5),
        ("Two!", ["2"] * 2 + ["4"] * 8),
        ("dont know", ["don't know"] * 3 + ["yes"] * 7),
        ("the dog", ["dog", "a dog", "cat", "cats"]),
        ("", ["yes"] * 10),
        ("none", ["none"] * 10),
        ("no", ["yes", "no"]),
    ],
)
def test_both_sides_are_normalised_once_and_counted_as_one_answer(prediction: str, annotators: list[str]) -> None:
    given = {answer: annotators.count(answer) for answer in annotators}
    assert vqa_accuracies([prediction], [given]) == [pytest.approx(by_nine(prediction, annotators))]


def test_an_only_annotator_is_agreed_with_or_not() -> None:
    assert vqa_accuracies(["a cat", "dog"], [{"cat": 1}, {"cat": 1}]) == [1.0, 0.0]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        vqa_accuracies(["yes"], [{"yes": 1}, {"no": 1}])
    with pytest.raises(ValueError, match="without annotators' answers"):
        vqa_accuracies(["yes"], [{}])
