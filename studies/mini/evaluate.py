"""Measure a model on the mini benchmark's held-out items, beside chance and a one-frame control; writes a results file.

    python studies/mini/evaluate.py runs/pretrain_mini/model docs/results/mini.json

Zero-shot, nothing is finetuned. The pixel floors beside which these numbers are to be read are in mini_floors.json.
"""

import sys
from dataclasses import replace
from pathlib import Path

from omnivl.config import EvaluationConfig
from omnivl.evaluation import evaluate
from omnivl.model.folder import load_folder
from omnivl.report import print_table
from omnivl.results import stopwatch, write_results
from omnivl.tasks.base import Result
from studies.mini.recipes import DATA

MEASURED = (  # manifest, tasks, frames of a clip, 0: the model's
    ("emoji_unseen_hand", ("retrieval", "classify"), (0,)),
    ("emoji_unseen_concepts", ("classify",), (0,)),  # three hands share each caption: no retrieval
    ("flare_validation", ("classify",), (4, 1)),
    ("flare_test", ("classify",), (4, 1)),
)


def main(model_folder: str, out: str) -> None:
    model, tokenizer = load_folder(Path(model_folder))
    results: list[Result] = []
    with stopwatch() as seconds:
        for name, tasks, frame_counts in MEASURED:
            for frames in frame_counts:
                data = f"manifest:{DATA}/{name}.jsonl"
                wanted = EvaluationConfig(tasks=tasks, data=data, rerank=16, num_frames=frames)
                found, bad = evaluate(model, tokenizer, wanted)
                assert not bad, bad
                results += [replace(result, dataset=f"mini/{name}") for result in found]
    config = {"model": Path(model_folder).parent.name, "command": "python studies/mini/evaluate.py MODEL OUT"}
    write_results(Path(out), results, config=config, seed=0, seconds=seconds[0])
    print_table([vars(result) for result in results])


if __name__ == "__main__":
    main(*sys.argv[1:])
