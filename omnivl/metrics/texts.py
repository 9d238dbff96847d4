"""Texts beside their references, word by word: whole matches and shared words. This room knows no model."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence


def exact_match(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """Share of predictions whose words equal those of one of their references, case, accents and punctuation aside."""
    return mean_of_best(predictions, references, lambda one, other: float(bool(one) and one == other))


def token_f1(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """F1 of the words that a prediction shares with its best reference (each as often as both have it), averaged."""
    return mean_of_best(predictions, references, word_f1)


def word_f1(one: list[str], other: list[str]) -> float:
    """Harmonic mean of precision and recall of words; 0 where either has none."""
    shared = (Counter(one) & Counter(other)).total()
    return 2 * shared / (len(one) + len(other)) if shared else 0.0


def mean_of_best(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    score: Callable[[list[str], list[str]], float],
) -> float:
    """Mean over the predictions of the best score against their references. Raises ValueError for none, or unequal
    counts."""
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"there are {len(predictions)} predictions and references for {len(references)}; want as many, not 0"
        )
    total = 0.0
    for prediction, given in zip(predictions, references, strict=True):
        listed = [given] if isinstance(given, str) else given
        total += max((score(words(prediction), words(reference)) for reference in listed), default=0.0)
    return total / len(predictions)


def words(text: str) -> list[str]:
    """Lower-case words without accents and punctuation: what is left of a text after the tokenizer and back."""
    plain = "".join(char for char in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(char) != "Mn")
    return re.findall(r"\w+", plain)
