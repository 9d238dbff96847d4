"""Caption metrics of the field by their reference implementation, `pycocoevalcap` (extra `metrics`): BLEU-1 to 4,
METEOR, ROUGE-L and CIDEr-D. Nothing of them is written again here.

Its tokenizer (the Penn Treebank's) and METEOR are Java programs. Without Java or the package nothing is scored on texts
that were split in another way: each metric is named with the reason why it was not run.
"""

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
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
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by metric, and for each metric that was not run the reason.

    `references[i]` are the captions of item i. An empty prediction scores 0 and stays in the mean. Raises ValueError
    for no items, unequal counts, or an item without references.
    """
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"there are {len(predictions)} captions and references for {len(references)} items; want as many, not 0"
        )
    if any(not own for own in references):
        raise ValueError("an item without reference captions cannot be scored")
    not_run = {"spice": SPICE}
    reason = missing()
    if reason:
        return {}, not_run | dict.fromkeys(METRICS, reason)
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    split = [
        tokenizer.tokenize({i: [{"caption": one_line(text)} for text in own] for i, own in enumerate(texts)})
        for texts in ([[text] for text in predictions], references)
    ]
    return score_split(*split, meteor=True), not_run


def one_line(text: str) -> str:
    """A text that the Java programs read as one: METEOR parts its fields by bars."""
    return " ".join(text.replace("|||", " ").split()) or NOTHING


def score_split(
    written: Mapping[int, list[str]], references: Mapping[int, list[str]], *, meteor: bool
) -> dict[str, float]:
    """Values by metric of texts that are split into words already, one blank between two. METEOR starts Java."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    written = {i: [own[0] or NOTHING] for i, own in written.items()}
    bleu, _ = Bleu(4).compute_score(references, written, verbose=0)
    values: dict[str, Any] = {f"bleu{n}": value for n, value in enumerate(bleu, 1)}
    if meteor:
        from pycocoevalcap.meteor.meteor import Meteor

        values["meteor"] = Meteor().compute_score(references, written)[0]
    values["rouge_l"] = Rouge().compute_score(references, written)[0]
    values["cider"] = Cider().compute_score(references, written)[0]
    return {name: float(value) for name, value in values.items()}
