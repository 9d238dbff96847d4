"""Accuracy of answers as the VQA benchmarks count it (Antol et al. 2015; Goyal et al. 2017): every answer of both sides
is normalised exactly once, and each annotator in turn is held against the others.

The rules are those of the published evaluation, its quirks included: what happens to a punctuation mark depends on
whether it touches a space somewhere in the text, and on whether digits are joined by a comma. Ours is one thing: all
annotators' answers are normalised, where the published script leaves unanimous ones as they are.
"""

import re
from collections.abc import Mapping, Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# Words that the benchmark knows with their apostrophes; one that lost exactly one of them gets it back.
APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in APOSTROPHES.split()
    for place in (match.start() for match in re.finditer("'", word))
} | {"somebody'd": "somebodyd"}  # the one that the benchmark has the other way round
DIGIT_COMMA = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")  # not the point of a decimal


def normalise_answer(text: str) -> str:
    """An answer as it is compared: lower case, punctuation and articles gone, number words as digits, apostrophes put
    back."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    joined = DIGIT_COMMA.search(text) is not None
    plain = text
    for mark in PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if apart or joined else " ")
    kept = (NUMBERS.get(word, word) for word in PERIOD.sub("", plain).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ARTICLES)


def vqa_accuracies(predictions: Sequence[str], answers: Sequence[Mapping[str, float]]) -> list[float]:
    """The accuracy of each prediction against its annotators' answers (answer -> how many gave it).

    It is the mean over the annotators of min(1, how many of the *others* agree with the prediction / 3): one that
    three or four of ten gave gets 0.9 or 1. An only annotator, who has no others, counts as agreed with or not.
    Raises ValueError where a question has no annotators, or there are not as many predictions as questions.
    """
    if len(predictions) != len(answers):
        raise ValueError(f"there are {len(predictions)} predictions for {len(answers)} questions")
    found = []
    for prediction, given in zip(predictions, answers, strict=True):
        total = sum(given.values())
        if total < 1:
            raise ValueError("a question without annotators' answers has no accuracy")
        wanted = normalise_answer(prediction)
        agree = sum(count for answer, count in given.items() if normalise_answer(answer) == wanted)
        if total == 1:
            found.append(float(agree))
            continue
        of_agreeing, of_others = min(1.0, max(0, agree - 1) / 3), min(1.0, agree / 3)
        found.append((agree * of_agreeing + (total - agree) * of_others) / total)
    return found
