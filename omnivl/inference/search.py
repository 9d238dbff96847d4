"""Which rows are nearest: exact by default, or along a graph (faiss HNSW), behind one small protocol.

Exact search is one product with all rows. What it costs is reading them from memory, so they stay the float16 of the
map, of which a block at a time becomes float32; of few rows a float32 copy is held, as it stays in a processor's cache.
Nothing is left out, and ties keep the order of rows.
The graph is approximate, and worth its memory above a million rows. This room knows no files and no model.
Axes: N rows, E embedding.
"""

import logging
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

KEPT = 2**24  # bytes of a float32 copy: 16,384 rows of 256
GROUP = 64  # scores of which the greatest stands for all while a bound is sought
PICKED = 4  # fewer than one row in so many: picking them costs less than a product with all
BLOCK = 2048  # rows at a time: in float32 they stay in a core's own cache, which is four times as fast as larger ones
ADDED = 65536  # rows added to a graph at a time
FEW = 50_000  # rows that filters leave: below it the exact product is as fast, and a graph finds too little
NEIGHBOURS, BUILD, EXPLORE = 32, 200, 128  # of a node; candidates while building and while searching
NEEDS_FAISS = 'approximate search needs faiss: pip install "omnivl[faiss]"'


class Searcher(Protocol):
    def search(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The `k` of `rows` (ascending, int64) with the greatest product with `query` (E,) float32, best first, and
        the products, float32; all of them where there are fewer."""


class Exact:
    """Every row is looked at. `vectors` (N, E) float16; keep it from query to query: it holds a float32 copy of few."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        small = 4 * vectors.size <= KEPT
        self.kept = torch.from_numpy(vectors).float().numpy() if small else None  # torch casts 20 times as fast

    def search(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.ascontiguousarray(query, np.float32)
        if self.kept is None:
            scores = blocked(self.vectors, wanted, rows)
        elif len(rows) > len(self.kept) / PICKED:
            scores = self.kept @ wanted
            scores = scores if len(rows) == len(scores) else scores[rows]
        else:
            scores = self.kept[rows] @ wanted
        best = top(scores, k)
        return rows[best], scores[best]


def blocked(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Products of a float32 query (E,) with some rows of float16 vectors (N, E), a block at a time."""
    products, wanted = torch.empty(len(rows)), torch.from_numpy(query)
    buffer = torch.empty(BLOCK, len(query))
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        together = part[-1] - part[0] + 1 == len(part)
        block = torch.from_numpy(vectors[part[0] : part[-1] + 1] if together else vectors[part])
        torch.mv(buffer[: len(part)].copy_(block), wanted, out=products[first : first + len(part)])
    return products.numpy()


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the `k` greatest scores stand, greatest first, equal ones in order."""
    chosen, groups = np.arange(len(scores)), len(scores) // GROUP
    if 0 < k < len(scores):  # where k groups reach a score, so do k scores
        reached = scores[: groups * GROUP].reshape(groups, GROUP).max(1) if groups >= k else scores
        chosen = np.flatnonzero(scores >= np.partition(reached, -k)[-k])
    return chosen[np.argsort(-scores[chosen], kind="stable")][:k]


class Graph:
    """faiss HNSW over all rows; exact where filters leave few of them, or where almost all are asked for."""

    def __init__(self, vectors: np.ndarray, graph: Any) -> None:
        self.vectors, self.graph = vectors, graph

    def search(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        faiss = import_faiss()
        if len(rows) <= max(FEW, 4 * k):
            scores = blocked(self.vectors, np.ascontiguousarray(query, np.float32), rows)
            best = top(scores, k)
            return rows[best], scores[best]
        options = faiss.SearchParametersHNSW(efSearch=max(EXPLORE, 2 * k))
        if len(rows) < self.graph.ntotal:
            options.sel = chosen = faiss.IDSelectorBatch(rows)  # a name of its own: faiss holds no reference
            assert chosen is not None
        products, found = self.graph.search(np.ascontiguousarray(query[None], np.float32), k, params=options)
        there = found[0] >= 0  # faiss pads with -1
        return found[0][there].astype(np.int64), products[0][there]


def import_faiss() -> Any:
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells how it was loaded
    try:
        import faiss
    except ImportError:
        raise ModuleNotFoundError(NEEDS_FAISS) from None
    return faiss


def grow_graph(path: Path, vectors: np.ndarray, *, keep: bool) -> Any:
    """The graph in `path` with the rows that it lacks; none there: a new one. Written back, whole or not at all, where
    `keep`, and then a damaged one is made anew. Raises ModuleNotFoundError without faiss; ValueError for a damaged one
    that is not kept."""
    faiss, graph = import_faiss(), None
    if path.exists():
        try:
            graph = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:  # what faiss raises for a file that is damaged
            if not keep:
                raise ValueError(f"{path} is damaged: `omnivl index` makes it anew") from error
        if graph is not None and graph.ntotal > len(vectors):  # of a run whose last rows did not come to count
            graph = None
    if graph is None:
        graph = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD
    lacking = graph.ntotal < len(vectors)
    for first in range(graph.ntotal, len(vectors), ADDED):
        graph.add(np.ascontiguousarray(vectors[first : first + ADDED], np.float32))
    if keep and lacking:
        temporary = path.with_name(f".{path.name}.tmp")
        faiss.write_index(graph, str(temporary))
        os.replace(temporary, path)
    return graph
