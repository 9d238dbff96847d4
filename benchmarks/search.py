"""A search among many vectors, exact and along a graph, against a plain numpy product.

    python benchmarks/search.py [--tiny] [--pairs N]

The peer holds float32 rows in memory, multiplies all of them with one query at a time and takes the best ten by
argpartition. Ours is given the float16 rows of a memory map; of few the exact search has made its own float32 copy
before the clock runs, as it does once an index is open, more it reads from the map each time. The vectors lie
in clusters of 32 dimensions, as embeddings do: random ones are hard for any graph. A graph of a million rows takes the
better part of an hour to build on two cores, so it is timed up to a hundred thousand.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from omnivl.inference.search import Exact, Graph, Searcher, grow_graph

WIDTH, TOP, QUERIES = 256, 10, 10
SIZES = {"exact": (10_000, 100_000, 1_000_000), "faiss HNSW": (10_000, 100_000)}
TINY = {"exact": (2000,), "faiss HNSW": (2000,)}


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """(N, E) float32 of unit length, around a thousand centres in 32 of the dimensions."""
    rng = np.random.default_rng(seed)
    plane = np.linalg.qr(rng.standard_normal((WIDTH, 32)))[0].T.astype(np.float32)
    centres = np.random.default_rng(1).standard_normal((1000, 32)).astype(np.float32)
    rows = (centres[rng.integers(1000, size=count)] + 0.5 * rng.standard_normal((count, 32), np.float32)) @ plane
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    scores = rows @ query
    best = np.argpartition(-scores, TOP)[:TOP]
    return best[np.argsort(-scores[best])]


def recall(searcher: Searcher, rows: np.ndarray, queries: np.ndarray) -> float:
    every = np.arange(len(rows))
    hits = [len(set(searcher.search(q, TOP, every)[0]) & set(plain(rows, q))) for q in queries]
    return sum(hits) / (TOP * len(queries))


def measure(tiny: bool, pairs: int) -> list[Row]:
    made = []
    for kind, sizes in (TINY if tiny else SIZES).items():
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                made.append(one(Path(folder), kind, size, pairs))
    return made


def one(folder: Path, kind: str, size: int, pairs: int) -> Row:
    rows, every = vectors(size), np.arange(size)
    queries = rows[:: size // QUERIES][:QUERIES]
    rows.astype(np.float16).tofile(folder / "vectors.f16")
    mapped = np.memmap(folder / "vectors.f16", np.float16, "c", shape=rows.shape)
    searcher: Searcher = Exact(mapped)
    if kind != "exact":
        searcher = Graph(mapped, grow_graph(folder / "graph.hnsw", mapped, keep=False))
    times = take_turns(
        lambda: [searcher.search(query, TOP, every) for query in queries],
        lambda: [plain(rows, query) for query in queries],
        pairs,
    )
    kept = isinstance(searcher, Exact) and searcher.kept is not None
    settings: dict[str, Any] = {
        "us": f"`{type(searcher).__name__}`, {'a float32 copy' if kept else 'over a memory map'} of float16",
        "them": "numpy, float32 in memory",
        "vectors": size,
        "width": WIDTH,
        "queries": QUERIES,
        "recall_at_10": round(recall(searcher, rows, queries), 4),
    }
    if kind == "exact":
        settings["goal"] = 1.0
    return against(f"search, {kind}, {size:,} vectors, {QUERIES} queries", times, settings)


if __name__ == "__main__":
    command(__doc__, measure, pairs=7)
