"""Results in words: rows of results.json in groups, and the table of them in the terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]  # of results.json["results"], or a line of metrics.jsonl

NOUNS = {"text": "texts", "image": "pictures", "video": "clips"}
LETTERS = {"t": "text", "i": "picture", "v": "clip"}
METRICS = {
    "median_rank": "median rank",
    "sibling_t2v": "text to clip, among its siblings",
    "sibling_v2t": "clip to text, among its siblings",
    "reverse": "forwards told from backwards",
    "top1": "class right (top 1)",
    "top5": "class among the first five",
    "mean_per_class": "class right, mean over classes",
    "exact": "whole caption right",
    "token_f1": "words shared with the caption (F1)",
    "motion_word": "motion word right",
    "vqa_accuracy": "answers as annotators gave them",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
}
KEY_METRICS = ("t2i_r1", "t2v_r1", "sibling_t2v", "reverse", "top1", "exact", "motion_word", "vqa_accuracy")
ABOUT = {  # tasks in the order of the tables
    "retrieval": "A text looks for its own item in the whole set, and an item for its text. R@K is the share of "
    "queries whose own is among the first K; the median rank is 1 at best. Reranked means that the best k by "
    "similarity were ordered again with the help of the matching decoder. Chance is an order drawn at random.",
    "motion": "One scene is shown in every motion: is the right sibling found? And does a caption prefer its clip to "
    "the same clip played backwards? A single frame cannot tell. By matching means by the matching decoder, else it is "
    "by similarity. Chance is one among the siblings, and one in two.",
    "classify": "The class whose prompts are nearest to the item (zero-shot), or that a finetuned classifier tells. "
    "Chance is one guess, or five, among the classes.",
    "probe": "Logistic regression on what the visual encoder gives, itself left as it is. Chance as for classes.",
    "caption": "One caption is written for each item and compared with the item's own. Chance is what another item's "
    "caption would get; for the motion word it is one among the motions.",
    "answer": "Questions are answered by ranking a list or by writing. Chance is the commonest answer, given "
    "to every question.",
}


@dataclass(frozen=True)
class Group:
    """Rows of one task, medium, data set and split; `hows` tells those of one metric apart."""

    task: str
    title: str
    settings: str  # that all rows have
    rows: Sequence[Row]
    hows: Sequence[str]
    not_run: Sequence[str]  # a line for each reason


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """Groups in the order of ABOUT, then as they first occur; rows of one metric stand together."""
    together: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        key = (row["task"], row["settings"].get("medium", ""), row["dataset"], row["split"])
        together.setdefault(key, []).append(row)
    tasks, groups = list(ABOUT), []
    for (task, medium, dataset, split), own in together.items():
        reasons: dict[str, list[str]] = {}
        for row in own:
            if reason := row["settings"].get("not_run"):
                reasons.setdefault(reason, []).append(row["metric"])
        own = [row for row in own if not row["settings"].get("not_run")]
        metrics = [row["metric"] for row in own]
        own = sorted(own, key=lambda row: metrics.index(row["metric"]))
        values: dict[str, dict[Any, None]] = {}  # of each setting; None says that a row has none
        for name, value in ((n, v) for row in own for n, v in row["settings"].items() if n != "medium"):
            values.setdefault(name, {}).update({} if value is None else {value: None})
        same = ", ".join(f"{name} {next(iter(found))}" for name, found in values.items() if len(found) == 1)
        varying = [name for name, found in values.items() if len(found) > 1]
        of = f", {NOUNS.get(medium, medium)}" if medium else ""
        title = f"{task.capitalize()}{of} ({dataset}, {split})"
        not_run = [f"not run: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        groups.append(Group(task, title, same, own, [how(row["settings"], varying) for row in own], not_run))
    return sorted(groups, key=lambda group: tasks.index(group.task) if group.task in tasks else len(tasks))


def how(settings: Row, varying: Sequence[str]) -> str:
    """What sets a row apart from others of its group: "similarity", "reranked, k 16", "frames 8", "t2v"."""
    said = {name: f"{name} {settings[name]}" for name in varying if settings.get(name) is not None}
    if "direction" in said:
        said["direction"] = settings["direction"]
    if "rerank" in said:
        said["rerank"] = "reranked" if settings["rerank"] else "similarity"
        if not settings["rerank"]:
            said.pop("k", None)
    return ", ".join(said.values())


def metric_words(metric: str) -> str:
    """A metric in words: "t2v_r5" is "text to clip, R@5". An unknown one stays as it is."""
    name = metric.removeprefix("match_")
    said = METRICS.get(name, name)
    if found := re.fullmatch(r"([tiv])2([tiv])_r(\d+)", name):
        said = f"{LETTERS[found[1]]} to {LETTERS[found[2]]}, R@{found[3]}"
    return said if name == metric else f"{said}, by matching"


def number(row: Row, name: str = "value") -> str:
    """A fraction with three decimals, a rank with one, "-" for what was not measured or has no chance."""
    if row[name] is None:
        return "-"
    return f"{row[name]:.1f}" if row["metric"].endswith("median_rank") else f"{row[name]:.3f}"


def print_table(rows: Sequence[Row]) -> None:
    """The results on standard output, grouped by task; whole at 80 columns, plain where it is piped."""
    console = Console(highlight=False)
    for group in group_rows(rows):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("metric", min_width=18, overflow="fold")
        table.add_column("by" if any(group.hows) else "", min_width=18, overflow="fold")
        for name in ("value", "chance", "n"):
            table.add_column(name, justify="right", min_width=7, no_wrap=True, style="bold" if name == "value" else "")
        for row, said in zip(group.rows, group.hows, strict=True):
            table.add_row(Text(row["metric"]), Text(said), number(row), number(row, "chance"), str(row["n"]))
        console.print(Text(group.title, "bold"), table, *map(Text, group.not_run), "", sep="\n")
