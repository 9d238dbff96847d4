"""report.html, one file that opens offline: what was trained, the main numbers beside chance, the curves, all results,
and test items.
"""

import json
import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from safetensors import safe_open

from omnivl.config import RunConfig, from_dict, read_json
from omnivl.report.curves import CHARTS, curve
from omnivl.report.items import BAD, GOOD, Example, Search, example_card, search_card
from omnivl.report.tables import ABOUT, KEY_METRICS, NOUNS, Group, Row, group_rows, metric_words, number

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
<tbody>{lines}</tbody></table>{"".join(f'<p class="soft small">{escape(line)}</p>' for line in group.not_run)}""")
    return "".join(made)
