"""The linear probe of the study's models, after their runs: shapes of pictures and motions of clips.

    python -m studies.paradigms.probe [--runs FOLDER ...] [--results FOLDER]

For every run whose model is there and that has no file under docs/results/paradigms/probe/ yet. Multinomial logistic
regression on the visual [CLS] of some training scenes; its regularisation is chosen on validation scenes over a small
grid, each fit beginning with the weaker one's weights; then it is fitted on both, and measured on the same test items
as everything else.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from omnivl.data import world
from omnivl.data.galleries import of_items
from omnivl.data.sample import Gallery
from omnivl.model import OmniVL
from omnivl.model.folder import load_folder
from omnivl.results import commit
from omnivl.tasks.classification import score_classes
from omnivl.tasks.probe import features
from studies.paradigms.cost import RESULTS
from studies.paradigms.make import Bench, clocked, rounded
from studies.paradigms.measure import FRAMES, MEDIA, ONE, SHUFFLED, WHOLE, Row, TestItems, rows
from studies.paradigms.numbers import PROBES
from studies.paradigms.page import write_page
from studies.paradigms.plan import FULL, Job, Size, in_order, jobs

STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # scikit-learn's C, of standardised features


@dataclass(frozen=True)
class Scenes:
    """How many are learnt from and chosen on."""

    train: dict[str, int]
    validation: dict[str, int]


SCENES = Scenes({"image": 2000, "video": 1000}, {"image": 480, "video": 384})


@cache
def scenes(split: str, medium: str, number: int, size: int) -> Gallery:
    """Items of the endless stream of training scenes, or of validation's."""
    items = [
        world.train_item(split, medium, i, world.generator("probed", split, medium, i), num_frames=FRAMES, size=size)
        for i in range(number)
    ]
    return of_items("world", split, medium, items)


def learn(
    train: tuple[Tensor, Sequence[str]], validation: tuple[Tensor, Sequence[str]]
) -> tuple[LogisticRegression, float]:
    """The regression fitted on both, with the strength that is best on the second alone, the smallest of equals."""
    (inputs, labels), (held, truth) = train, validation

    def fresh() -> LogisticRegression:
        return LogisticRegression(warm_start=True, max_iter=3000, tol=1e-4)

    scores = {}
    model = fresh()
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(inputs.numpy(), list(labels))
        scores[strength] = model.score(held.numpy(), list(truth))
    best = max(scores, key=lambda strength: (scores[strength], -strength))
    last = fresh().set_params(C=best).fit(torch.cat([inputs, held]).numpy(), [*labels, *truth])
    return last, best


def probe(model: OmniVL, size: Size, counts: Scenes, *, still: bool) -> list[Row]:
    """Rows of both media, of clips in all three views, whatever the model saw; `still` as in the study's measuring."""
    model.eval()
    side, found = model.config.vision.image_size, list[Row]()
    for medium in MEDIA:
        galleries = [
            scenes(split, medium, number[medium], side)
            for split, number in (("train", counts.train), ("validation", counts.validation))
        ]
        (inputs, held), labels = (vectors(model, each, still) for each in galleries), [g.labels for g in galleries]
        mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
        fitted, strength = learn(((inputs - mean) / spread, labels[0]), ((held - mean) / spread, labels[1]))
        for view in (WHOLE, ONE, SHUFFLED) if medium == "video" else (WHOLE,):
            test = TestItems(size, side, view).gallery(medium)
            seen = (vectors(model, test, still) - mean) / spread
            scores = torch.from_numpy(fitted.decision_function(seen.numpy()))
            settings = {"strength": strength}
            results = score_classes(test, "probe", scores, list(fitted.classes_), settings)
            found += [{**row, "strength": strength} for row in rows(results, view)]
    return found


def vectors(model: OmniVL, gallery: Gallery, still: bool) -> Tensor:
    """(N, D), pictures as clips that stand still where `still` asks for it."""
    read = gallery.read
    if still and gallery.medium == "image":
        gallery = replace(gallery, read=lambda index: np.repeat(read(index), FRAMES, axis=0))
    return features(model, gallery)[0]


def model_folder(folders: Sequence[Path], run: str) -> Path | None:
    """Of a run that is over: its checkpoints are gone."""
    for folder in folders:
        model, unfinished = folder / run / "model", folder / run / "checkpoints"
        if model.exists() and not unfinished.exists():
            return model
    return None


def make(job: Job, seed: int, folder: Path, bench: Bench, counts: Scenes) -> None:
    cpu: dict[str, float] = {}
    with clocked(cpu, "probe"):
        model, _ = load_folder(folder)
        found = probe(model, bench.size, counts, still=all(stage.name == "videos" for stage in job.stages))
    told = {"name": job.name, "seed": seed, "scenes": asdict(counts), "cpu_seconds": rounded(cpu), "results": found}
    bench.keep(f"{job.name}_seed{seed}", told)


def main(words: list[str] | None = None, size: Size = FULL, counts: Scenes = SCENES) -> int:
    told, runs = (__doc__ or "").split("\n")[0], RESULTS.parents[2] / "runs" / "paradigms"
    parser = argparse.ArgumentParser(prog="python -m studies.paradigms.probe", description=told)
    parser.add_argument("--runs", nargs="+", type=Path, default=[runs], help="folders of models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study's results files")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    bench = Bench(options.runs[0], options.results / PROBES, size, commit())
    try:
        for job, seed in in_order(jobs(size)):
            run = f"{job.name}_seed{seed}"
            folder = model_folder(options.runs, run)
            if folder and not bench.is_done(run):
                make(job, seed, folder, bench, counts)
                print(f"{run}: probed", file=sys.stderr, flush=True)
    except ValueError as error:
        print(f"paradigms: {error}", file=sys.stderr)
        return 2
    print(write_page(options.results, size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
