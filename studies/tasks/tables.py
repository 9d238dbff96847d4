"""All runs of a bench in one file, a row a line: means and single seeds beside chance, pixel floors and one frame; and
the tables of README.md, which hold nothing that is not in these files.

    python -m studies.tasks.tables        # docs/results/tasks_*.json -> studies/tasks/README.md
"""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivl.config import read_json
from omnivl.results import machine

if TYPE_CHECKING:
    from studies.tasks.benches import Bench

Row = dict[str, Any]
KEPT = {  # metrics; the others say the same less well
    *(f"{way}_{metric}" for way in ("t2i", "i2t", "t2v", "v2t") for metric in ("r1", "r5", "r10")),
    "median_rank",
    *("sibling_t2v", "sibling_v2t", "reverse", "match_sibling_t2v", "match_sibling_v2t", "match_reverse"),
    *("top1", "mean_per_class", "exact", "token_f1", "bleu4", "meteor", "rouge_l", "cider", "motion_word"),
}
SHOWN = {  # metrics of the tables
    *("t2i_r1", "i2t_r1", "t2v_r1", "v2t_r1", "sibling_t2v", "reverse", "top1"),
    *("exact", "token_f1", "cider", "motion_word"),
}
FROM_FLOOR = {"probe": "classify"}


def identity(row: Row) -> tuple[Any, ...]:
    """What is compared with a floor: the task, the data and the metric."""
    settings = row["settings"]
    task = FROM_FLOOR.get(row["task"], row["task"])
    told = (settings.get(name) for name in ("answer_type", "direction"))
    return task, row["dataset"], settings["medium"], row["metric"], *told


def read_rows(path: Path) -> list[Row]:
    return [row for row in read_json(path)["results"] if row["metric"] in KEPT and row["value"] is not None]


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def gather(bench: "Bench", seeds: Sequence[int], bases: Sequence[Path]) -> Row:
    """Everything that was measured. Missing numbers (a floor of a motion test) are null."""
    files: list[Row] = []
    rows: dict[tuple[Any, ...], Row] = {}
    floors: dict[tuple[Any, ...], list[float]] = {}
    chances: dict[tuple[Any, ...], list[float | None]] = {}
    for path in dict.fromkeys(bench.floors_file(seed) for seed in seeds):
        files.append(read_json(path))
        for row in read_rows(path):
            floors.setdefault((*identity(row), row["settings"]["frames"]), []).append(row["value"])
    for seed in seeds:
        for one in bench.measures():
            path = bench.measured(seed, one.name)
            files.append(read_json(path))
            for row in read_rows(path):
                settings = row["settings"]
                how = (settings.get("rerank"), settings.get("mode"))
                key = (one.model, row["task"], identity(row), how)
                made = rows.setdefault(key, new_row(one.model, row))
                chances.setdefault(key, []).append(row["chance"])
                made["one_frame" if one.wanted.num_frames == 1 else "values"].append(round(row["value"], 4))
    for key, made in rows.items():
        made["chance"] = mean(chances[key])
        for name, frames in (("floor", max(1, made["frames"])), ("floor_one_frame", 1)):
            made[name] = mean(floors.get((*key[2], frames), []))
        made["mean"], made["one_frame_mean"] = mean(made["values"]), mean(made["one_frame"])
    for made in rows.values():
        if made.get("answer_type") == "all":
            made["commonest_by_question"] = commonest_by_question(made, list(rows.values()))
    trained: dict[str, list[Row]] = {}
    for name in (*bench.recipes, "base"):
        paths = [folder / name / "spent.json" for folder in (bench.out, *map(bench.folder, seeds))]
        trained[name] = [read_json(path) for path in paths if path.exists()]
    return {
        "command": f"python -m studies.tasks.run {bench.name}",
        "omnivl": version("omnivl"),
        "commits": sorted({file["commit"] or "" for file in files}),
        "machine": f"{machine()}, {os.environ.get('OMP_NUM_THREADS', 'default')} threads",
        "seeds": list(seeds),
        "base": [base_told(path) for path in bases],
        "training": {
            name: {
                "command": without_paths(runs[0]["command"]),
                "commits": sorted({run["commit"] or "" for run in runs}),
                "cpu_seconds": [run["cpu_seconds"] for run in runs],
            }
            for name, runs in trained.items()
            if runs
        },
        "measuring_cpu_seconds": round(sum(file["config"]["cpu_seconds"] for file in files), 1),
        "results": list(rows.values()),
    }


def commonest_by_question(row: Row, rows: Sequence[Row]) -> float:
    """What the commonest answer to each question gives, where chance is the commonest of all of them."""
    same = ("dataset", "medium", "mode")
    parts = [r for r in rows if r.get("answer_type", "all") != "all" and all(r.get(n) == row.get(n) for n in same)]
    return round(sum(part["n"] * part["chance"] for part in parts) / sum(part["n"] for part in parts), 4)


def new_row(model: str, row: Row) -> Row:
    settings = row["settings"]
    return {
        "model": model,
        "task": row["task"],
        "dataset": row["dataset"],
        "split": row["split"],
        "medium": settings["medium"],
        "metric": row["metric"],
        **{
            name: settings[name]
            for name in ("rerank", "k", "direction", "mode", "answer_type", "zero_shot")
            if name in settings
        },
        "frames": settings.get("frames", 1),
        "n": row["n"],
        "chance": None,
        "values": [],
        "one_frame": [],
    }


def base_told(model: Path) -> Row:
    """A model that was given: where its own results file stands it says the commit and the seed."""
    results = model.parent / "results.json"
    told = read_json(results) if results.exists() else {}
    config = read_json(model.parent / "config.json") if (model.parent / "config.json").exists() else {}
    return {"recipe": config.get("recipe"), "seed": config.get("seed"), "commit": told.get("commit")}


def without_paths(command: str) -> str:
    """A command with MODEL for the base."""
    return " ".join("MODEL" if before == "--init" else word for before, word in pairwise(["", *command.split()]))


def write_rows(path: Path, found: Row) -> None:
    """JSON with one line for each result, written whole or not at all."""
    head = json.dumps({name: value for name, value in found.items() if name != "results"}, indent=2)
    lines = ",\n".join("    " + json.dumps(row, allow_nan=False) for row in found["results"])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(head.removesuffix("\n}") + ',\n  "results": [\n' + lines + "\n  ]\n}\n")
    os.replace(temporary, path)


# --- tables ----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """The mean, and from the worst seed to the best where there are several."""
    if not values:
        return ""
    told = number(mean(values))
    return f"{told} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else told


def title(row: Row) -> str:
    start = "as pretrained" if row["model"] == "base" else "finetuned"
    parts = [f"{row['task']}, {start}"] if row["task"] != "probe" else ["probe"]
    parts += ["reranked"] if row.get("rerank") else []
    parts += ["written"] if row.get("mode") == "generate" else []
    parts += [row["answer_type"]] if row.get("answer_type") else []
    return ", ".join(parts)


def table(found: Row) -> str:
    """Markdown: a table for each data set and medium, in the order in which they were measured."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found["results"]:
        detail = row.get("mode") == "generate" and row["answer_type"] != "all"
        if row["metric"] in SHOWN and row["values"] and not detail:
            groups.setdefault((row["dataset"], row["medium"]), []).append(row)
    told = []
    for (dataset, medium), rows in groups.items():
        clips = medium == "video"
        head = [
            "task",
            "metric",
            "n",
            "chance",
            "pixels",
            *(["pixels, one frame", "one frame"] if clips else []),
            "model",
        ]
        lines = [f"**{dataset}, {'clips' if clips else 'pictures'}**", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in rows:
            by_question = f", by question {row['commonest_by_question']:.3f}" if "commonest_by_question" in row else ""
            cells = [
                title(row),
                row["metric"],
                str(row["n"]),
                number(row["chance"]) + by_question,
                number(row["floor"]),
            ]
            cells += [number(row["floor_one_frame"]), spread(row["one_frame"])] if clips else []
            lines.append("| " + " | ".join([*cells, f"**{spread(row['values'])}**"]) + " |")
        told.append("\n".join(lines))
    return "\n\n".join(told)


def filled(page: str, bench: str, text: str) -> str:
    """The page with `text` between the marks of a bench."""
    start, end = f"<!-- {bench} -->\n", f"\n<!-- end of {bench} -->"
    return page[: page.index(start) + len(start)] + text + page[page.index(end) :]


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md")
    page = readme.read_text()
    for results in sorted((Path(__file__).parents[2] / "docs" / "results").glob("tasks_*.json")):
        page = filled(page, results.stem.removeprefix("tasks_"), table(read_json(results)))
    readme.write_text(page)
