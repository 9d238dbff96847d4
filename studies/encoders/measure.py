"""Measure a model of the study on what it never saw, by the ordinary evaluation, beside chance.

    python studies/encoders/measure.py MODEL NAME [--data runs/mini-data] [--out docs/results/encoders.json]

Zero-shot, nothing is finetuned; NAME says in the results whose numbers these are (they are merged into the file). The
encoders run in bfloat16 (autocast), which halves the time.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.config import EvaluationConfig, read_json
from omnivl.data.annotations import read_manifest
from omnivl.evaluation import evaluate
from omnivl.model.folder import load_folder
from omnivl.report import print_table
from omnivl.results import write_results
from omnivl.tasks.base import Result

TEST = (  # manifest, tasks, frames of a clip (0: the model's)
    ("emoji_unseen_hand", ("retrieval", "classify"), (0,)),
    ("emoji_unseen_concepts", ("classify",), (0,)),  # three hands share each name: no retrieval
    ("emoji_unseen_concepts_names", ("classify",), (0,)),
    ("stamps_transfer", ("retrieval",), (0,)),
    ("flare_validation", ("classify",), (4, 1)),
    ("flare_test", ("classify",), (4, 1)),
)


def names_as_labels(source: Path, target: Path) -> None:
    """A manifest whose labels are the captions of another, so that the name of each item is asked for."""
    items = read_manifest(source, None, "").items
    rows = ({"media": str(item.media.resolve()), "label": item.captions[0], "id": item.key} for item in items)
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def measured(folder: Path, data: Path, name: str, only: Sequence[str]) -> list[Result]:
    model, tokenizer = load_folder(folder)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as made:
        for manifest, tasks, frame_counts in (row for row in TEST if not only or row[0] in only):
            path = data / f"{manifest}.jsonl"
            if manifest.endswith("_names"):
                path = Path(made) / path.name
                names_as_labels(data / f"{manifest.removesuffix('_names')}.jsonl", path)
            for frames in frame_counts:
                wanted = EvaluationConfig(tasks=tasks, data=f"manifest:{path}", rerank=0, num_frames=frames)
                with torch.autocast("cpu", torch.bfloat16):
                    found, bad = evaluate(model, tokenizer, wanted)
                assert not bad, bad
                results += [
                    replace(result, dataset=f"mini/{manifest}", settings={**result.settings, "model": name})
                    for result in found
                ]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a model of the study.")
    parser.add_argument("model", type=Path, help="what train.py wrote")
    parser.add_argument("name", help="what to call it in the results")
    parser.add_argument("--data", type=Path, default=Path("runs/mini-data"), help="what build.py wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/results/encoders.json"), help="results file")
    parser.add_argument("--only", nargs="+", default=(), choices=[row[0] for row in TEST], help="manifests (all)")
    options = parser.parse_args()
    begun = time.process_time()
    results = measured(options.model, options.data, options.name, options.only)
    seconds = round(time.process_time() - begun, 1)
    earlier = read_json(options.out)["config"] if options.out.exists() else {}
    run = read_json(options.model.parent / "training.json")
    config = {**earlier, options.name: {**run, "cpu_seconds_of_measuring": seconds}}
    write_results(options.out, results, config=config, seed=0, seconds=seconds)
    print_table([vars(result) for result in results])
    return 0


if __name__ == "__main__":
    sys.exit(main())
