"""Caption metrics: they are pycocoevalcap's, and what cannot run is named, never left out or nought."""

import math
from collections import Counter

import pytest

from omnivl.metrics import caption_metrics, captions

WRITTEN = ["a man rides a horse", "", "two dogs run on the grass"]
REFERENCES = [["a man rides a horse", "a rider"], ["a cat sleeps"], ["dogs run on grass", "two dogs play"]]


def test_without_java_every_metric_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnivl.metrics.captions.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("omnivl.metrics.captions.shutil.which", lambda name: None)
    values, not_run = caption_metrics([WRITTEN], REFERENCES)
    assert values == [{}]
    assert set(not_run) == {*captions.METRICS, "spice"} and "Java" in not_run["meteor"] and "Java" in not_run["bleu4"]


def test_without_the_package_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnivl.metrics.captions.importlib.util.find_spec", lambda name: None)
    values, not_run = caption_metrics([WRITTEN], REFERENCES)
    assert values == [{}] and "omnivl[metrics]" in not_run["cider"]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="1 captions and references for 2 items"):
        caption_metrics([["a"]], [["b"], ["c"]])
    with pytest.raises(ValueError, match="not 0"):
        caption_metrics([[]], [])
    with pytest.raises(ValueError, match="without reference captions"):
        caption_metrics([["a"]], [[]])


@pytest.mark.caption_metrics
def test_values_are_those_of_a_hand_and_an_empty_caption_scores_nothing() -> None:
    nothing, right = ["", "", ""], ["a ||| man rides\na horse", "a cat sleeps.", "Two dogs play"]
    one_right = [right[0], "", "zebras"]
    (written, empty, perfect, third), not_run = caption_metrics([WRITTEN, nothing, right, one_right], REFERENCES)
    assert set(written) == set(captions.METRICS) and set(not_run) == {"spice"}
    matched = 0
    for text, own in zip(WRITTEN, REFERENCES, strict=True):
        most: Counter[str] = Counter()
        for reference in own:
            most |= Counter(reference.split())
        matched += (Counter(text.split()) & most).total()
    length, nearest = 5 + 1 + 6, 5 + 3 + 4  # an empty caption stands as one word; references of the nearest length
    assert written["bleu1"] == pytest.approx(min(1.0, math.exp(1 - nearest / length)) * matched / length, abs=1e-6)
    assert max(empty.values()) == pytest.approx(0.0, abs=1e-6)
    for metric in ("bleu1", "bleu2", "rouge_l"):  # marks that part METEOR's fields, and lines, break nothing
        assert perfect[metric] == pytest.approx(1.0, abs=1e-6)
    assert perfect["meteor"] > 0.9 and third["rouge_l"] == pytest.approx(1 / 3)
