"""Caption metrics of the field by their reference implementation, `pycocoevalcap` (extra `metrics`): BLEU-1 to 4,
METEOR, ROUGE-L and CIDEr-D. Nothing of them is written again here.

Its tokenizer (the Penn Treebank's) and METEOR are Java programs. Without Java or the package nothing is scored on texts
that were split in another way: each metric is named with the reason why it was not run.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from typing import Any

METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider")
SPICE = "it downloads its own files at run time"
NOTHING = "nowordwaswritten"  # stands for an empty caption: matches no reference, and METEOR needs a word a line


def missing() -> str:
    """Why caption metrics cannot run here; empty where they can."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "pycocoevalcap is not installed: pip install 'omnivl[metrics]'"
    if shutil.which("java") is None:
        return "its tokenizer needs Java: install a Java runtime, such as default-jre-headless"
    return ""


def caption_metrics(
    several: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[list[dict[str, float]], dict[str, str]]:
    """Of each of several sets of captions of the same items the values by metric; and for each metric that was not run
    the reason. (The Java programs start slowly: what is to be compared is best scored at once.)

    `references[i]` are the captions of item i. An empty prediction scores 0 and stays in the mean. Raises ValueError
    for no items, unequal counts, or an item without references.
    """
    for predictions in several:
        if len(predictions) != len(references) or not predictions:
            raise ValueError(
                f"there are {len(predictions)} captions and references for {len(references)} items; want as many, not 0"
            )
    if any(not own for own in references):
        raise ValueError("an item without reference captions cannot be scored")
    not_run = {"spice": SPICE}
    reason = missing()
    if reason:
        return [{} for _ in several], not_run | dict.fromkeys(METRICS, reason)
    from pycocoevalcap.meteor.meteor import Meteor

    split = split_words([*references, *([text] for predictions in several for text in predictions)])
    count, meteor = len(references), Meteor()
    sets = [[own[0] or NOTHING for own in split[first : first + count]] for first in range(count, len(split), count)]
    return [score(written, split[:count], meteor) for written in sets], not_run


def split_words(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Texts as the reference implementation splits them: lower case, no punctuation, one blank between two words."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = {i: [{"caption": one_line(text)} for text in own] for i, own in enumerate(texts)}
    found = PTBTokenizer().tokenize(lines)
    return [found[i] for i in range(len(texts))]


def one_line(text: str) -> str:
    """A text that the Java programs read as one: METEOR parts its fields by bars."""
    return " ".join(text.replace("|||", " ").split()) or NOTHING


def score(written: Sequence[str], references: Sequence[list[str]], meteor: Any) -> dict[str, float]:
    """Values by metric of texts that are split already."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    own, said = dict(enumerate(references)), {i: [text] for i, text in enumerate(written)}
    bleu, _ = Bleu(4).compute_score(own, said, verbose=0)
    values = {f"bleu{n}": value for n, value in enumerate(bleu, 1)}
    for name, scorer in (("meteor", meteor), ("rouge_l", Rouge()), ("cider", Cider())):
        values[name] = scorer.compute_score(own, said)[0]
    return {name: float(value) for name, value in values.items()}
