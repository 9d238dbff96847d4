"""How many of the ten nearest the graph finds among real embeddings: the world's pictures under a trained model.

    python -m studies.recall MODEL [--pictures 20000] [--seed 0]

The pictures are of training scenes, the queries are captions of the test split, and the exact search says what the ten
nearest are; the graph searches all pictures, and a third of them as a filter leaves it. Goal: a recall at 10 of at
least 0.97. The numbers go to docs/results/recall.json.
"""

import argparse
import tempfile
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np

import omnivl
from omnivl.data import world
from omnivl.inference import search
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.search import Exact, Graph, grow_graph
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[1]
TOP, BATCH = 10, 256
GOAL = 0.97


def embeddings(pipeline: Pipeline, pictures: int, seed: int) -> np.ndarray:
    """(N, E) float16, as an index holds them."""
    rng = np.random.default_rng(seed)
    size = pipeline.config.vision.image_size
    scenes, places, extents = world.scenes("train"), tuple(world.PLACES), tuple(world.EXTENTS)
    found = []
    for first in range(0, pictures, BATCH):
        drawn = [
            world.render_image(
                scenes[rng.integers(len(scenes))], places[rng.integers(5)], extents[rng.integers(2)], rng, size
            )[0]
            for _ in range(min(BATCH, pictures - first))
        ]
        found.append(pipeline.embed(drawn).astype(np.float16))
    return np.concatenate(found)


def recall(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray, folder: Path) -> float:
    """The share of the TOP nearest of `rows` that the graph finds; ties at the edge count as found."""
    graph, exact = Graph(vectors, grow_graph(folder / "graph.hnsw", vectors, keep=True)), Exact(vectors)
    hits = 0
    for query in queries:
        _, best = exact.search(query, TOP, rows)
        found, _ = graph.search(query, TOP, rows)
        hits += int((vectors[found].astype(np.float32) @ query >= best[-1] - 1e-6).sum())
    return hits / (TOP * len(queries))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = omnivl.load(options.model, device="cpu")
    vectors = embeddings(pipeline, options.pictures, options.seed)
    queries = pipeline.embed_text(list(islice(world.all_captions("test"), 400)))
    search.FEW = 0  # below it the graph is never asked
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, chosen in (("all", np.arange(len(vectors))), ("every third", np.arange(0, len(vectors), 3))):
            share = recall(vectors, queries, chosen, Path(folder))
            rows.append({"searched": name, "pictures": len(chosen), "queries": len(queries), "recall_at_10": share})
            print(f"{name}: recall at {TOP} {share:.4f} over {len(queries)} queries, {len(chosen)} pictures")
    found = {
        "command": f"python -m studies.recall MODEL --pictures {options.pictures} --seed {options.seed}",
        "model": "make demo, seed 0",
        "omnivl": version("omnivl"),
        "commit": commit(),
        "machine": machine(),
        "seed": options.seed,
        "goals": {"recall_at_10": GOAL},
        "settings": {"neighbours": search.NEIGHBOURS, "build": search.BUILD, "explore": search.EXPLORE},
        "results": rows,
    }
    write_json(ROOT / "docs" / "results" / "recall.json", found)


if __name__ == "__main__":
    main()
