"""`MediaIndex`: folders of pictures and videos that can be searched by text or by example.

index = omnivl.MediaIndex.build("photos/", model)
index.search("a red car", top_k=5)

Search has the two steps of the paper (OmniVL, arXiv 2209.07526, section 4): the nearest by similarity, then, where
asked for, the best of them ordered by the matching score too, as in `omnivl.model.rerank`. A video answers with its
best window.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnivl.data.remote import is_url
from omnivl.inference import indexer
from omnivl.inference.bulk import import_ray
from omnivl.inference.filling import Filler
from omnivl.inference.filters import Filters
from omnivl.inference.identity import describe, refuse_another
from omnivl.inference.indexer import Progress, Report
from omnivl.inference.inputs import Loaded
from omnivl.inference.matching import Candidate, Matcher
from omnivl.inference.milvus import Collection, known_index, located, shown
from omnivl.inference.pipeline import Pipeline, load
from omnivl.inference.search import Exact, Graph, Searcher, grow_graph
from omnivl.inference.store import Store, Writer, read_description

log = logging.getLogger(__name__)
RERANK = 128  # candidates that the matching decoder judges on a GPU; on a CPU that takes minutes with a base model
Query = str | Path | Image.Image | np.ndarray | Loaded  # a text, or an example


@dataclass(frozen=True)
class Result:
    """A file that was found; `start` and `end` are the seconds of a video's best window."""

    path: str
    media: str  # image or video
    score: float
    kind: str  # of the score: cosine, or match (a probability)
    start: float | None
    end: float | None
    id: int  # of the file in the index
    similarity: float | None = None  # the cosine, where the score is another one: both say where it stands
    content: str = field(default="", repr=False)  # another one where the index has other bytes of this file


@dataclass(frozen=True)
class Found:
    """Best first. `best` is the highest matching probability that was seen, None where none was asked for."""

    results: list[Result]
    best: float | None = None


class MediaIndex:
    """Use `MediaIndex.build` to make one or bring it up to date, `MediaIndex.open` to search one as it is."""

    def __init__(self, store: Store | Collection, pipeline: Pipeline, report: Report | None = None) -> None:
        self.store, self.pipeline = store, pipeline
        self.report = report  # of the run that built it
        self.matcher = Matcher(pipeline, store.description.settings.num_frames)
        self._selected: tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
        self._searcher: tuple[Any, Searcher] | None = None

    @classmethod
    def build(
        cls,
        folders: str | Path | Sequence[str | Path],
        model: Pipeline | str | Path,
        *,
        index: str | Path | None = None,
        seconds: float | None = None,
        stride: float | None = None,
        backend: str | None = None,
        scenes: bool | None = None,
        prune: bool = False,
        rebuild: bool = False,
        engine: str | None = None,
        progress: Progress = lambda *_: None,
    ) -> "MediaIndex":
        """Index what is new in the folders, forget what is gone, and open the index.

        Args:
            folders: one or many, or URLs that fsspec can list; none: those of the index.
            index: the folder where it is or will be, or milvus:FILE.db, or milvus:http://HOST:PORT; None: OMNIVL_INDEX,
                else omnivl/index where the user's data live.
            seconds, stride: of the windows of videos; None: as the index has them, else 4 and half the length.
            backend: exact, or faiss (a graph; in Milvus its own); None: as the index has it, else exact.
            scenes: windows begin anew where a film is cut, which takes a second decoding; None: as the index has it,
                else they do not.
            prune: forget files of folders that are gone or empty, too.
            rebuild: where the index is of another model or other windows, make a new one in its place; the old one
                stays until that is whole.
            engine: ray, to embed on the workers of a cluster (RAY_ADDRESS) or of this machine; None: in this process.

        Raises:
            ValueError: the index is of another model or other windows, or is being written to; none of the folders
                is one.
        """
        folder, uri = located(index)
        if engine == "ray":
            import_ray()  # or say at once that it is missing
        elif engine is not None:
            raise ValueError(f"an engine is ray or none, got {engine!r}")
        if uri:
            with closing(Filler(uri)) as collection:  # not kept open: others may search while this reads
                collection.check_owner(folder)
        pipeline = model if isinstance(model, Pipeline) else load(model)
        known = read_description(folder)
        wanted = describe(pipeline, known.settings if known else None, seconds, stride, backend, scenes)
        if known is not None and not rebuild:
            refuse_another(shown(uri) if uri else folder, known, wanted)
        many = [folders] if isinstance(folders, (str, Path)) else list(folders)
        stored: list[str] = []
        if known is not None:
            old = Store(folder, known)
            stored = old.roots()
            old.close()
        many = many or list(stored)
        if not many:
            raise ValueError(f"there is no index in {folder} yet: name the folders to index")
        roots, refused = indexer.roots_of(many, stored)
        if not roots:
            raise ValueError("; ".join(f"{path}: {reason}" for path, reason in refused))
        writer = Writer(folder, wanted)
        try:
            report = indexer.update(writer, pipeline, roots, prune=prune, progress=progress, engine=engine)
            report.failed = refused + report.failed
            if uri:
                with closing(Filler(uri)) as collection:
                    report.failed += collection.fill(writer)
            elif wanted.settings.backend == "faiss":
                grow_graph(graph_path(writer), writer.vectors(), keep=True)
            writer.publish()
        finally:
            writer.close()
        return cls(Collection(uri) if uri else Store(folder, wanted), pipeline, report)

    @classmethod
    def open(
        cls, index: str | Path | None = None, model: Pipeline | str | Path | None = None, *, device: str = "auto"
    ) -> "MediaIndex":
        """An index as it is, with its own model where none is given. Raises ValueError where there is none, or it is of
        another model."""
        folder, uri = located(index)
        place = shown(uri) if uri else folder
        known = known_index(index)
        if known is None:
            raise ValueError(f"there is no index in {place}: make one with `omnivl index FOLDER`")
        pipeline = model if isinstance(model, Pipeline) else load(model or known.model, device=device)
        refuse_another(place, known, describe(pipeline, known.settings))
        return cls(Collection(uri) if uri else Store(folder, known), pipeline)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> "MediaIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- searching ---------------------------------------------------------------------------------------------------

    def search(
        self, query: Query, top_k: int = 10, *, filters: Filters | None = None, rerank: int | None = None
    ) -> list[Result]:
        """The `top_k` files nearest to a text, or to a picture or clip (a Path, a PIL image, an array), best first;
        fewer where there are fewer. Raises ValueError, BadSample."""
        return self.find(query, top_k, filters=filters, rerank=rerank).results

    def find(
        self,
        query: Query,
        top_k: int = 10,
        *,
        filters: Filters | None = None,
        rerank: int | None = None,
        min_match: float | None = None,
    ) -> Found:
        """As `search`; the best `rerank` by similarity (None: 128 on a GPU, else 0) are ordered by
        log p(matched) + similarity / temperature, and those less likely than `min_match` to match are left out."""
        text = query if isinstance(query, str) else None
        depth = self.check(text, top_k, rerank, min_match)
        vector = self.pipeline.embed(query) if text is None else self.pipeline.embed_text(text)
        return self.nearest(vector, text, top_k, filters or Filters(), depth, min_match)

    def check(self, text: str | None, top_k: int, rerank: int | None, min_match: float | None) -> int:
        """How many are to be matched. Raises ValueError where a query cannot be answered."""
        for name, number, least in (("top_k", top_k, 1), ("rerank", 0 if rerank is None else rerank, 0)):
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < least:
                raise ValueError(f"{name} is {number}, wanted a whole number, {least} or more")
        if not 0 <= (min_match or 0) <= 1:
            raise ValueError(f"min_match is {min_match}, wanted 0 to 1")
        if text is None:
            if rerank or min_match is not None:
                raise ValueError("only a text can be matched: search by example without a matching score")
            return 0
        if not text.strip():
            raise ValueError("the query is empty: say what to look for")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the query {text!r} is no text: its bytes are not UTF-8") from None
        depth = (RERANK if self.pipeline.model.temperature.is_cuda else 0) if rerank is None else rerank
        return depth if min_match is None else max(depth, top_k)

    def nearest(
        self, vector: np.ndarray, text: str | None, top_k: int, filters: Filters, rerank: int, min_match: float | None
    ) -> Found:
        """`find` for a query whose vector (E,) is known; `rerank` as `check` gives it."""
        candidates = self.candidates(vector, max(top_k, rerank), filters)
        if not rerank or text is None:
            return Found(candidates)
        started = time.monotonic()
        head, tail = candidates[:rerank], candidates[rerank:]
        logs = self.matcher.log_probabilities(text, [candidate(r) for r in head])
        temperature = float(self.pipeline.model.temperature.detach().clamp(0.001, 0.5))
        judged = [(p + r.score / temperature, p, r) for p, r in zip(logs, head, strict=True) if p is not None]
        judged.sort(key=lambda one: -one[0])
        log.info("matching %d candidates took %.1f s", len(head), time.monotonic() - started)
        results = [replace(r, score=math.exp(p), kind="match", similarity=r.score) for _, p, r in judged]
        best = max((r.score for r in results), default=0.0)
        results = results + tail if min_match is None else [r for r in results if r.score >= min_match]
        return Found(results[:top_k], best)

    def candidates(self, vector: np.ndarray, count: int, filters: Filters) -> list[Result]:
        """The nearest `count` files that are still there."""
        if isinstance(self.store, Collection):
            hits = self.store.nearest(vector, count, filters)
            return [
                Result(hit.path, hit.kind, hit.score, "cosine", hit.start, hit.end, hit.file, content=hit.key)
                for hit in hits
            ]
        vectors, rows, files, allowed = self.select(filters)
        results: dict[int, Result] = {}
        asked = 0
        while len(results) < count and asked < len(allowed):
            asked = min(max(4 * asked, 4 * count), len(allowed))  # a film has many windows: count files
            found, scores = self.searcher(vectors).search(vector, asked, allowed)
            results.clear()  # a graph that is asked for more may find better ones too
            for row, score in zip(found.tolist(), scores.tolist(), strict=True):
                if len(results) >= count:
                    break
                for file in files[np.searchsorted(rows, row) : np.searchsorted(rows, row, "right")].tolist():
                    if file not in results and (result := self.result(file, row, score)) is not None:
                        results[file] = result
        return list(results.values())[:count]

    def result(self, file: int, row: int, score: float) -> Result | None:
        """None where there is no such file any more, or the index no longer has this row of it."""
        assert isinstance(self.store, Store)
        found = self.store.execute(
            "SELECT path, kind, start, windows.end, hash FROM files JOIN contents ON contents.id = files.content "
            "JOIN windows ON windows.content = contents.id WHERE files.id = ? AND row = ?",
            (file, row),
        )
        if not found or not (is_url(os.fsdecode(found[0][0])) or os.path.isfile(found[0][0])):
            return None
        path, kind, start, end, digest = found[0]
        return Result(os.fsdecode(path), kind, score, "cosine", start, end, file, content=digest.hex())

    def select(self, filters: Filters) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vectors, the rows and files that may be found, and each of these rows once; kept until the index changes."""
        assert isinstance(self.store, Store)
        state, selected = (filters, self.store.changes()), self._selected
        if selected is None or selected[0] != state:
            vectors, pairs = self.store.snapshot(*filters.query())
            both = np.array(pairs, np.int64).reshape(-1, 2)
            rows, files = both.T.copy()
            self._selected = selected = state, vectors, rows, files, np.unique(rows)
        return selected[1:]

    def searcher(self, vectors: np.ndarray) -> Searcher:
        """Of these vectors, kept until there are others."""
        assert isinstance(self.store, Store)
        state, kept = (getattr(vectors, "filename", None), len(vectors)), self._searcher
        if kept is None or kept[0] != state:
            self._searcher = kept = state, self.new_searcher(vectors)
        return kept[1]

    def new_searcher(self, vectors: np.ndarray) -> Searcher:
        assert isinstance(self.store, Store)
        if self.store.description.settings.backend == "exact":
            return Exact(vectors)
        try:
            return Graph(vectors, grow_graph(graph_path(self.store), vectors, keep=False))
        except ValueError as error:
            warnings.warn(f"{error}; until then every vector is looked at", stacklevel=2)
            return Exact(vectors)


def candidate(result: Result) -> Candidate:
    return Candidate((result.content, result.id, result.start), result.path, result.start, result.end)


def graph_path(store: Store) -> Path:
    return (store.folder / store.meta("vectors")).with_suffix(".hnsw")
