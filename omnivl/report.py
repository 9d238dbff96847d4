"""What a run shows of itself: the table of results in the terminal, and report.html, one file that opens offline.

The page is plain HTML, CSS and inline SVG; pictures and clips are WebP data URIs, so nothing is loaded from anywhere.
It tells what was trained, the main numbers beside chance, the curves of the losses (paper, section 3.2; the language
warm-up is ours), all results, and test items with what the model writes of them and finds.
This room knows no model and no data set: `omnivl.run` hands it a run folder and what was written and found.
"""

import base64
import difflib
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import safe_open

from omnivl.config import RunConfig, from_dict, read_json
from omnivl.metrics import words

Row = Mapping[str, Any]  # of results.json["results"], or a line of metrics.jsonl

NOUNS = {"text": "texts", "image": "pictures", "video": "clips"}
LETTERS = {"t": "text", "i": "picture", "v": "clip"}
METRICS = {
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
class Example:
    """One picture or clip, what was written of it, and the texts that it finds."""

    medium: str  # image | video
    frames: np.ndarray  # (T, H, W, 3) uint8
    truth: str  # its caption
    written: str  # the caption the model wrote
    found: tuple[str, ...]  # the texts of the gallery it retrieves, best first


@dataclass(frozen=True)
class Search:
    """One text query and what it finds, best first."""

    medium: str
    query: str
    frames: tuple[np.ndarray, ...]  # each (T, H, W, 3) uint8
    right: tuple[bool, ...]


# --- results, as terminal and page show them -------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Rows of one task, medium, data set and split; `hows` tells those of one metric apart."""

    task: str
    title: str
    settings: str  # that all rows have
    rows: Sequence[Row]
    hows: Sequence[str]


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """Groups in the order of ABOUT, then as they first occur; rows of one metric stand together."""
    together: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        key = (row["task"], row["settings"].get("medium", ""), row["dataset"], row["split"])
        together.setdefault(key, []).append(row)
    tasks, groups = list(ABOUT), []
    for (task, medium, dataset, split), own in together.items():
        metrics = [row["metric"] for row in own]
        own = sorted(own, key=lambda row: metrics.index(row["metric"]))
        values: dict[str, dict[Any, None]] = {}  # of each setting; None says that a row has none
        for name, value in ((n, v) for row in own for n, v in row["settings"].items() if n != "medium"):
            values.setdefault(name, {}).update({} if value is None else {value: None})
        same = ", ".join(f"{name} {next(iter(found))}" for name, found in values.items() if len(found) == 1)
        varying = [name for name, found in values.items() if len(found) > 1]
        of = f", {NOUNS.get(medium, medium)}" if medium else ""
        title = f"{task.capitalize()}{of} ({dataset}, {split})"
        groups.append(Group(task, title, same, own, [how(row["settings"], varying) for row in own]))
    return sorted(groups, key=lambda group: tasks.index(group.task) if group.task in tasks else len(tasks))


def how(settings: Row, varying: Sequence[str]) -> str:
    """What sets a row apart from others of its group: "similarity", "reranked, k 16", "frames 8"."""
    said = {name: f"{name} {settings.get(name)}" for name in varying}
    if "rerank" in said:
        said["rerank"] = "reranked" if settings["rerank"] else "similarity"
        if not settings["rerank"]:
            said.pop("k", None)
    return ", ".join(said.values())


def metric_words(metric: str) -> str:
    """A metric in words: "t2v_r5" is "text to clip, R@5". An unknown one stays as it is."""
    name = metric.removeprefix("match_")
    said = METRICS.get(name, name)
    if found := re.fullmatch(r"([tiv])2([tiv])_(?:r(\d+)|median_rank)", name):
        said = f"{LETTERS[found[1]]} to {LETTERS[found[2]]}, {f'R@{found[3]}' if found[3] else 'median rank'}"
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
        console.print(Text(group.title, "bold"), table, "", sep="\n")


# --- the page --------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f4f5f7; --ink: #1b1e24; --soft: #59616e; --line: #d3d7de;
  --good: #0b6b35; --bad: #b02a1e; --mark: #ffe08a; --text: #7048b6; --image: #1a66c4; --video: #b84f08; }
@media (prefers-color-scheme: dark) { :root { --ground: #14161a; --card: #1e2127; --ink: #e8eaee; --soft: #a3abb8;
  --line: #3a404b; --good: #5fd08e; --bad: #ff8a7a; --mark: #6b5310; --text: #b79bf0; --image: #6fb1ff;
  --video: #ff9d57; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1140px; padding: 16px; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3, h4 { margin: 24px 0 4px; line-height: 1.25; } h1 { margin-top: 8px; } h2 { margin-top: 48px; }
p { margin: 4px 0 12px; max-width: 75ch; } nav a { margin-right: 16px; } a { color: var(--image); }
.soft, figcaption, dt, th, code { color: var(--soft); font-weight: normal; }
.small, figcaption, dt { font-size: 14px; } code { font-size: 13px; display: inline-block; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)); }
.card, figure { margin: 0; padding: 12px; background: var(--card); border-radius: 8px; }
.big { font-size: 2em; line-height: 1.2; font-variant-numeric: tabular-nums; }
.bar { position: relative; height: 8px; margin: 6px 0; background: var(--line); border-radius: 4px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--image); border-radius: 4px; }
.bar b { position: absolute; top: -3px; width: 2px; height: 14px; background: var(--ink); }
svg { display: block; width: 100%; height: auto; font-size: 11px; fill: var(--soft); }
svg path { fill: none; stroke-width: 2; } svg .axis { stroke: var(--line); stroke-width: 1; }
svg .dash { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 3; }
svg .raw { stroke-width: 1; opacity: .3; }
.text { stroke: var(--text); color: var(--text); } .image { stroke: var(--image); color: var(--image); }
.video { stroke: var(--video); color: var(--video); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { padding: 3px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td:first-child { min-width: 118px; } .by { min-width: 76px; }
.by { width: 22%; } .num { width: 12%; min-width: 3.3em; text-align: right; overflow-wrap: normal; }
picture img { display: block; width: 128px; max-width: 100%; } .pixels { image-rendering: pixelated; }
.example { display: grid; grid-template-columns: 128px 1fr; gap: 12px; } dl, dd, ol { margin: 0; padding: 0; }
dd { margin-bottom: 6px; } ol { list-style: none; } .good { color: var(--good); } .bad { color: var(--bad); }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 2px; }
.search { display: grid; grid-template-columns: 1fr auto; gap: 12px; margin-bottom: 12px; }
.search ol { display: grid; grid-template-columns: repeat(5, minmax(0, 128px)); gap: 8px; text-align: center; }
@media (max-width: 860px) { .search { grid-template-columns: 1fr; } }
@media (max-width: 500px) { table { font-size: 14px; } code { font-size: 12px; } }
"""


def write_report(folder: Path, examples: Sequence[Example], searches: Sequence[Search]) -> Path:
    """Write report.html of a run folder, whole or not at all; gives its path.

    Reads config.json, results.json and metrics.jsonl, and the size of model/ where it is there.
    Raises ConfigError, or FileNotFoundError for metrics.jsonl, where one of these is absent or cannot be read.
    """
    config = from_dict(RunConfig, read_json(folder / "config.json"))
    results = read_json(folder / "results.json")
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    groups = group_rows(results["results"])
    tables = "".join(section(task, groups) for task in dict.fromkeys(group.task for group in groups))
    name = escape(config.recipe or folder.name)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,"><title>omnivl: {name}</title><style>{STYLE}</style></head>
<body><header><h1>omnivl: {name}</h1>{headline(folder, config, results, records)}
<nav aria-label="Sections"><a href="#numbers">Main numbers</a> <a href="#curves">Curves</a>
<a href="#results">All results</a> <a href="#items">Test items</a> <a href="#searches">Searches</a></nav></header>
<main><h2 id="numbers">Main numbers</h2>
<p>Fractions of 1. Chance, the upright stroke on each bar, is what guessing gives.</p>
<div class="grid" style="--least: 160px">{cards(results["results"])}</div>
<h2 id="curves">Curves</h2><p>Thin lines are single steps, thick ones their moving average. A dashed upright is where a
stage begins. Losses are in nats: lower is better.</p>
<div class="grid" style="--least: 320px">{"".join(curve(chart, records, config) for chart in CHARTS)}</div>
<h2 id="results">All results</h2><p>As in results.json; n is the number of items or queries asked.</p>{tables}
<h2 id="items">Test items</h2><p>The caption that an item came with, the one that the model wrote, and the texts nearest
to the item by similarity. {GOOD} is right, {BAD} is wrong; <mark>marked</mark> words differ from the caption. A clip
holds its last frame for a moment, then starts again.</p>
<div class="grid" style="--least: 340px">{"".join(map(example_card, examples)) or "<p>This run shows none.</p>"}</div>
<h2 id="searches">Searches</h2><p>A text, and the items nearest to it by similarity, best first.</p>
{"".join(map(search_card, searches)) or "<p>This run shows none.</p>"}
</main></body></html>
"""
    temporary = folder / ".report.html.tmp"
    temporary.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))  # half a surrogate pair in a caption is no error
    os.replace(temporary, folder / "report.html")
    return folder / "report.html"


def headline(folder: Path, config: RunConfig, results: Row, records: Sequence[Row]) -> str:
    """What was trained, how long, and where."""
    weights, size = folder / "model" / "model.safetensors", ""
    if weights.exists():
        with safe_open(weights, "np") as file:  # one name a storage
            size = f" of {sum(math.prod(file.get_slice(key).get_shape()) for key in list(file.keys())):,} parameters"
    stages = escape(", ".join(f"{stage.name} ({stage.train.steps:,} steps)" for stage in config.stages))
    seconds = records[-1]["seconds"] if records else 0.0
    commit, _, changes = (results["commit"] or "unknown").partition("+")
    made = f"omnivl {results['omnivl']}, commit {commit[:12]}{' with changes' if changes else ''}"
    return f"""<p>A model{size} was trained in {seconds:,.0f} seconds ({seconds / 60:.1f} minutes): {stages}. Measuring
it took {results["seconds"]:,.0f} seconds.</p><p class="soft small">Machine: {escape(str(results["machine"]))}.
Seed {results["seed"]}; {escape(made)}.</p>"""


def cards(rows: Sequence[Row]) -> str:
    """The main numbers beside chance: of each the row that reranked most."""
    chosen: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row["metric"] in KEY_METRICS and row["value"] is not None:
            key = (row["metric"], row["settings"].get("medium", ""), row["dataset"], row["split"])
            chosen[key] = max(chosen.get(key, row), row, key=lambda row: row["settings"].get("k", 0))
    made = []
    for (metric, medium, *place), row in sorted(chosen.items(), key=lambda item: KEY_METRICS.index(item[0][0])):
        reranked = f", reranked, k&nbsp;{row['settings']['k']}" if row["settings"].get("rerank") else ""
        stroke = "" if row["chance"] is None else f'<b style="left: {100 * row["chance"]:.2f}%"></b>'
        about = f"{NOUNS.get(medium, medium)} ({', '.join(place)})"
        made.append(f"""<div class="card"><div class="big">{number(row)}</div><div class="bar" aria-hidden="true">
<i style="width: {100 * row["value"]:.2f}%"></i>{stroke}</div><div>{metric_words(metric)}{reranked}</div>
<div class="soft small">{escape(about)}; chance {number(row, "chance")}, n {row["n"]}</div></div>""")
    return "".join(made)


def section(task: str, groups: Sequence[Group]) -> str:
    """The tables of one task, under a sentence on what they measure; columns are those of the terminal."""
    made = [f"<h3>{escape(task.capitalize())}</h3><p>{ABOUT.get(task, '')}</p>"]
    heads = "".join(f'<th scope="col" class="num">{name}</th>' for name in ("value", "chance", "n"))
    for group in (group for group in groups if group.task == task):
        by = any(group.hows)
        lines = "".join(
            f"<tr><td>{escape(metric_words(row['metric']))} <code>{escape(row['metric'])}</code></td>"
            f'{f"<td>{escape(said)}</td>" if by else ""}<td class="num"><strong>{number(row)}</strong></td>'
            f'<td class="num">{number(row, "chance")}</td><td class="num">{row["n"]}</td></tr>'
            for row, said in zip(group.rows, group.hows, strict=True)
        )
        made.append(f"""<h4>{escape(group.title)}</h4><p class="soft small">{escape(group.settings)}</p>
<table><thead><tr><th scope="col">metric</th>{'<th scope="col" class="by">by</th>' if by else ""}{heads}</tr></thead>
<tbody>{lines}</tbody></table>""")
    return "".join(made)


# --- curves ----------------------------------------------------------------------------------------------------------


class Chart(NamedTuple):
    """A curve of metrics.jsonl. `base` is the value of knowing nothing, and what that is called."""

    key: str
    title: str
    unit: str
    base: tuple[float, str] | None
    about: str


CHARTS = (
    Chart("masked", "Masked words", "nats", None, "Language warm-up: the hidden words of a caption."),
    Chart("words", "Bag of words", "nats", None, "Language warm-up: which words a text holds, told from its vector."),
    Chart("univlc", "UniVLC", "nats", None, "Contrast: a vector picks its own partner in batch and memory banks."),
    Chart(
        "vlm", "VLM", "nats", (0.6365, "knows only the 1:2 ratio"), "Matching: one right pair to two hard wrong ones."
    ),
    Chart("lm", "LM", "nats", None, "The next word of the caption. Label smoothing keeps it above zero."),
    Chart("match_accuracy", "Matching accuracy", "share", (2 / 3, "always says no"), "Pairs that are judged right."),
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 36, 16, 34, 34  # of a chart and its margins, in pixels
POINTS = 240  # of a line at most


def curve(chart: Chart, records: Sequence[Row], config: RunConfig) -> str:
    """One chart with a line for each stage and medium; nothing where no stage has this value."""
    ends = list(accumulate(stage.train.steps for stage in config.stages))
    lines: dict[tuple[int, str], list[tuple[float, float]]] = {}  # stage and medium -> (step, value)
    for record in records:
        if record.get(chart.key) is not None:
            stage = sum(record["step"] > end for end in ends)
            lines.setdefault((stage, record["medium"]), []).append((record["step"], record[chart.key]))
    if not lines:
        return ""
    steps, values = zip(*(point for line in lines.values() for point in line), strict=True)
    first, last = min(steps) - 1, max(steps)
    low, high = 0.0, max(values) * 1.05 or 1.0
    if chart.unit == "share":
        low, high = min(0.5, math.floor(min(values) * 10) / 10), 1.0

    def x(step: float) -> float:
        return round(LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def path(points: np.ndarray, style: str) -> str:
        kept = points[:: -math.ceil(len(points) / POINTS)]  # a long run makes no long page; the last is among them
        return f'<path class="{style}" d="M{"L".join(f"{x(step)} {y(value)}" for step, value in kept)}"/>'

    def text(across: float, down: float, said: str, anchor: str = "start") -> str:
        return f'<text x="{across}" y="{down}" text-anchor="{anchor}">{escape(said)}</text>'

    drawn = [text(0, 12, chart.unit), text((WIDTH + LEFT) / 2, HEIGHT - 3, "step", "middle")]
    drawn += [f'<path class="axis" d="M{LEFT} {y(at)}H{WIDTH - RIGHT}"/>' for at in ticks(low, high)]
    drawn += [text(LEFT - 5, y(at) + 4, f"{at:g}", "end") for at in ticks(low, high)]
    drawn += [text(x(at), HEIGHT - 18, f"{at:,.0f}", "middle") for at in ticks(first, last)]
    for stage, begin, end in zip(config.stages, [0, *ends], ends, strict=False):
        if first <= begin < last:
            drawn.append(f'<path class="dash" d="M{x(begin)} {TOP}V{HEIGHT - BOTTOM}"/>')
            fits = int((x(min(end, last)) - x(begin)) / 6)  # letters
            drawn.append(text(x(begin) + 3, TOP - 4, stage.name[:fits]))
    if chart.base:
        drawn.append(f'<path class="dash" d="M{LEFT} {y(chart.base[0])}H{WIDTH - RIGHT}"/>')
        drawn.append(text(WIDTH - RIGHT, y(chart.base[0]) - 9, chart.base[1], "end"))
    smooth = {place: smoothed(np.array(line)) for place, line in lines.items()}
    drawn += [path(np.array(line), f"raw {medium}") for (_, medium), line in lines.items()]
    drawn += [path(line, medium) for (_, medium), line in smooth.items()]
    told = []
    for medium in dict.fromkeys(medium for _, medium in lines):
        own = np.concatenate([line for (_, other), line in smooth.items() if other == medium])
        told.append(f'<span class="{medium}">━</span> {NOUNS[medium]} {own[0, 1]:.3f} to {own[-1, 1]:.3f}')
    return f"""<figure><strong>{chart.title}</strong><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
aria-label="{chart.title}, {chart.unit} against step {first + 1} to {last}">{"".join(drawn)}</svg>
<figcaption>{chart.about}<br>{"<br>".join(told)}</figcaption></figure>"""


def smoothed(line: np.ndarray) -> np.ndarray:
    """The moving average of (N, 2) steps and values over a thirtieth of them, cut short at the ends."""
    at, half = np.arange(len(line)), len(line) // 60
    total = np.concatenate([[0.0], np.cumsum(line[:, 1])])
    begin, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(line))
    return np.stack([line[:, 0], (total[end] - total[begin]) / (end - begin)], 1)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about four."""
    scale = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(scale * each for each in (1, 2, 5, 10) if scale * each >= (high - low) / 4)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


# --- items -----------------------------------------------------------------------------------------------------------

SHOWN = 128  # pixels of the longer side on the page
GOOD = '<span class="good" role="img" aria-label="right">✓</span>'
BAD = '<span class="bad" role="img" aria-label="wrong">✗</span>'


def example_card(item: Example) -> str:
    found = "".join(f'<li dir="auto">{verdict(text, item.truth)} {escape(text)}</li>' for text in item.found)
    return f"""<div class="card example">{picture(item.frames, f"{item.medium}: {item.truth}")}
<dl><dt>caption</dt><dd dir="auto">{escape(item.truth)}</dd><dt>written</dt><dd dir="auto">
{verdict(item.written, item.truth)} {marked(item.written, item.truth)}</dd>
<dt>found</dt><dd><ol>{found}</ol></dd></dl></div>"""


def search_card(asked: Search) -> str:
    items = "".join(
        f"<li>{picture(frames, f'{asked.medium} number {rank}')}{GOOD if right else BAD}</li>"
        for rank, (frames, right) in enumerate(zip(asked.frames, asked.right, strict=True), 1)
    )
    place = f"number {asked.right.index(True) + 1}" if True in asked.right else "not among these"
    return f"""<div class="card search"><div><div dir="auto">{escape(asked.query)}</div><div class="soft small">
{NOUNS.get(asked.medium, "")}; its own is {place}</div></div><ol>{items}</ol></div>"""


def verdict(said: str, truth: str) -> str:
    """Right where the words are the same, case, accents and punctuation aside, as results are counted."""
    return GOOD if said == truth or (words(said) and words(said) == words(truth)) else BAD


def marked(written: str, truth: str) -> str:
    """The written caption as HTML, with words that differ from the true one marked and missing ones named."""
    before, after = ([" ".join(words(word)) or word for word in text.split()] for text in (truth, written))
    made = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        said = escape(" ".join(written.split()[c:d]) or f"(missing: {' '.join(truth.split()[a:b])})")
        made.append(said if tag == "equal" else f"<mark>{said}</mark>")
    return " ".join(made)


def picture(frames: np.ndarray, alt: str) -> str:
    """Frames (T, H, W, 3) as an img, still or moving; a square sheet of all frames for who wants no motion."""
    side = math.ceil(math.sqrt(len(frames)))
    padded = [*frames, *[np.zeros_like(frames[0])] * (side * side - len(frames))]
    sheet = np.vstack([np.hstack(padded[i : i + side]) for i in range(0, len(frames), side)])
    still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{webp([sheet])}">' if side > 1 else ""
    pixels = ' class="pixels"' if max(frames.shape[1:3]) <= SHOWN // 2 else ""
    return f'<picture>{still}<img{pixels} src="{webp(list(frames))}" alt="{escape(alt)}"></picture>'


def webp(frames: Sequence[np.ndarray]) -> str:
    """A data URI: small frames as they are, larger ones shrunk to what the page shows, at high quality."""
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    for image in images:
        image.thumbnail((SHOWN, SHOWN))
    spans = [max(100, 1400 // len(images))] * (len(images) - 1) + [900]  # milliseconds
    small = max(images[0].size) <= SHOWN // 2
    file = io.BytesIO()
    images[0].save(file, "WEBP", save_all=True, append_images=images[1:], duration=spans, lossless=small, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
