"""Finetune for every downstream task and measure all of them, beside chance, pixel floors and one frame.

    python -m studies.tasks.run world                         # docs/results/tasks_world.json
    python -m studies.tasks.run mini --base MODEL             # docs/results/tasks_mini.json; OMNIVL_MINI=runs/mini-data

Whatever is there already is kept: a run that was stopped goes on where it was, and the numbers are gathered in the end.
Without --base the bases are made first, which takes longest. `--split validation` measures what settings are chosen by,
in the run's own folder.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnivl.cli import main as omnivl
from omnivl.config import to_dict
from omnivl.evaluation import evaluate
from omnivl.model.folder import load_folder
from omnivl.results import commit, machine, write_results
from omnivl.tasks.base import Result
from omnivl.train.checkpoint import checkpoint_steps, write_json
from studies.tasks.benches import BASE, BENCHES, Bench, Measure
from studies.tasks.floors import measure as measure_floors
from studies.tasks.tables import gather, table, write_rows


def call(words: list[str]) -> None:
    """One omnivl command. Ends the study with its exit status where it does not succeed."""
    print("omnivl", *words, file=sys.stderr)
    if code := omnivl(words):
        sys.exit(code)


def train(words: list[str], out: Path) -> Path:
    """A trained model: there already, gone on with, or trained; what it took goes to `out`/spent.json."""
    if not (out / "spent.json").exists():
        begun = time.process_time()
        resumed = bool(checkpoint_steps(out)) and words[0] != "demo"
        call(["train", "--resume", str(out)] if resumed else [*words, "--out", str(out)])
        spent = round(time.process_time() - begun, 1)
        told = {"commit": commit(), "machine": machine(), "cpu_seconds": None if resumed else spent}
        write_json(out / "spent.json", {"command": " ".join(words), **told})
    return out / "model"


def measure(one: Measure, model: Path, seed: int, out: Path) -> None:
    if out.exists():
        return
    print(f"measure {out}", file=sys.stderr)
    begun = time.process_time()
    network, tokenizer = load_folder(model)
    found, bad = evaluate(network, tokenizer, one.wanted, seed=seed)
    assert not bad, bad
    write([renamed(result, one.dataset, one.told) for result in found], one.wanted, seed, begun, out)


def floors(bench: Bench, seed: int) -> None:
    out = bench.floors_file(seed)
    if out.exists():
        return
    print(f"measure {out}", file=sys.stderr)
    begun = time.process_time()
    found = [
        renamed(result, dataset, told)
        for dataset, told, known, gallery, tasks, frames in bench.floors(seed)
        for result in measure_floors(known, gallery, tasks, frames)
    ]
    write(found, None, seed, begun, out)


def renamed(result: Result, dataset: str, told: dict[str, str]) -> Result:
    return replace(result, dataset=dataset, settings={**result.settings, **told})


def write(results: list[Result], wanted: Any, seed: int, begun: float, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    spent = round(time.process_time() - begun, 1)
    config = {"evaluation": to_dict(wanted) if wanted else None, "cpu_seconds": spent}
    write_results(out, results, config=config, seed=seed, seconds=spent)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Every downstream task on one bench.")
    parser.add_argument("bench", choices=list(BENCHES))
    parser.add_argument("--out", type=Path, help="folder of the runs (default: runs/tasks_BENCH)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=Path, nargs="+", help="pretrained models: one a seed, or one for all")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--results", type=Path, help="file to write (default: docs/results/tasks_BENCH.json)")
    parser.add_argument("--tiny", action="store_true", help="two steps a run, a few items: does everything run?")
    options = parser.parse_args(words)
    out = options.out or Path(f"runs/tasks_{options.bench}")
    bench = BENCHES[options.bench](options.split, out, options.tiny)
    bases = options.base or []
    if len(bases) not in (0, 1, len(options.seeds)):
        parser.error(f"there are {len(bases)} bases for {len(options.seeds)} seeds: give one a seed, or one for all")
    for place, seed in enumerate(options.seeds):
        folder = bench.folder(seed)
        if bases:
            base = bases[place % len(bases)]
        else:
            made = out / BASE if bench.fixed else folder / BASE
            base = train([*bench.base_words, "--seed", "0" if bench.fixed else str(seed)], made)
        floors(bench, seed)
        tiny = ["--train.steps", "2", "--data.batch_size", "8", "--data.video_batch_size", "4"] if options.tiny else []
        models = {BASE: base}
        for one in bench.measures():
            if one.model not in models:
                recipe = ["train", bench.recipes[one.model], "--init", str(base), "--seed", str(seed)]
                recipe += ["--evaluation.tasks", *tiny]  # nothing: it is all measured below
                models[one.model] = train(recipe, folder / one.model)
            measure(one, models[one.model], seed, bench.measured(seed, one.name))
    found = gather(bench, options.seeds, bases)
    own = Path("docs/results") / f"tasks_{bench.name}.json" if options.split == "test" else out / "validation.json"
    write_rows(options.results or own, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
