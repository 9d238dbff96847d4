"""Embedding on many machines: Ray Data hands files to a pool of workers, this process alone writes the index.

Each worker holds the model, on a GPU where the cluster has some, and does with a file what one machine does
(`omnivl.inference.reader`): its vectors are the same. What a worker that died had in hand is done again by another;
what came back is in the index at once, so a run that is stopped goes on where it was. Files must be readable from
every machine: URLs, or a shared folder. The paper (OmniVL, arXiv 2209.07526) says nothing about this.
Axes: P parts of a file, E embedding.
"""

import json
import logging
import math
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from omnivl.data.facts import Facts
from omnivl.inference.forward import BATCH
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.reader import Content, End, File, Message, Part, Reader
from omnivl.inference.store import Settings

NEEDS_RAY = 'bulk work needs Ray: pip install "omnivl[ray]"'
TOGETHER = 32  # files that a worker takes at once, and does again where another one died with them


class EngineError(RuntimeError):
    """The cluster could not go on: the message is one sentence."""


def import_ray() -> Any:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ModuleNotFoundError(NEEDS_RAY) from None
    return ray


def read_bulk(
    pipeline: Pipeline, settings: Settings, known: dict[bytes, int], files: Sequence[File]
) -> Generator[Message, None, None]:
    """As `Reader.read`, in any order, with vectors (E,) in the place of what is loaded.

    RAY_ADDRESS names the cluster; without one, this machine is it. Raises EngineError.
    """
    if not files:
        return
    ray = import_ray()
    began = not ray.is_initialized()
    if began:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield from received(run(ray, pipeline, settings, known, files), known)
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray could not go on: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if began:
            ray.shutdown()


def run(
    ray: Any, pipeline: Pipeline, settings: Settings, known: dict[bytes, int], files: Sequence[File]
) -> Iterator[dict[str, Any]]:
    """The workers' rows as they come."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    machines = ray.cluster_resources()
    gpus = int(machines.get("GPU", 0))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or max(int(machines.get("CPU", 1)), 1))
    device = pipeline.model.temperature.device
    shared = ray.put((pipeline.model.cpu(), pipeline.tokenizer, pipeline.forward.precision, known))
    pipeline.model.to(device)
    items = [{"path": file.path, "size": file.size, "mtime": file.mtime} for file in files]
    blocks = ray.data.from_items(items, override_num_blocks=math.ceil(len(items) / TOGETHER))
    rows = blocks.map_batches(
        Worker,
        fn_constructor_args=([shared], settings, bool(gpus)),  # in a list: a reference that stays one
        batch_size=TOGETHER,
        compute=pool,
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )
    yield from rows.iter_rows()


class Worker:
    """One of the pool: a batch of files in, a row for each with what is to be stored of it."""

    def __init__(self, shared: Sequence[Any], settings: Settings, gpu: bool) -> None:
        import ray

        model, tokenizer, precision, known = ray.get(shared[0])
        self.pipeline = Pipeline(model.to("cuda" if gpu else "cpu"), tokenizer, precision=precision)
        self.reader = Reader(self.pipeline, settings, known, 0)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        self.reader.taken.clear()  # of a batch that is done again, nothing has been taken
        rows = [
            self.row(File(bytes(path), int(size), int(mtime)))
            for path, size, mtime in zip(batch["path"], batch["size"], batch["mtime"], strict=True)
        ]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def row(self, file: File) -> dict[str, Any]:
        """`about` as JSON, `vectors` (P, E) float32 as bytes."""
        parts: list[Part] = []
        vectors: list[np.ndarray] = []
        spans: list[tuple[int, float | None, float | None]] = []
        end = None
        for message in self.reader.parts(file):
            if isinstance(message, End):
                end = message
                continue
            parts.append(message)
            spans.append((message.number, message.start, message.end))
            if len(parts) == BATCH[message.content.kind]:
                vectors += list(self.pipeline.embed([part.loaded for part in parts]))
                parts.clear()
        if parts:
            vectors += list(self.pipeline.embed([part.loaded for part in parts]))
        assert end is not None  # each file has one, the last of its messages
        about: dict[str, Any] = {"error": end.error, "retry": end.retry, "spans": spans}
        if end.content is not None:
            about |= {"kind": end.content.kind, "taken": end.content.facts.taken}
        return {
            "path": file.path,
            "size": file.size,
            "mtime": file.mtime,
            "hash": end.hash,
            "about": json.dumps(about),
            "vectors": np.array(vectors, np.float32).tobytes(),
        }


def received(rows: Iterator[dict[str, Any]], known: dict[bytes, int]) -> Generator[Message, None, None]:
    """What the workers sent as the reader's messages. Copies that two of them embedded count once."""
    taken: set[bytes] = set()
    for row in rows:
        file, about = File(bytes(row["path"]), int(row["size"]), int(row["mtime"])), json.loads(row["about"])
        digest = bytes(row["hash"])
        if digest in taken:  # whatever became of it there: what the first one said of these bytes stands
            yield End(file, digest)
            continue
        if "kind" not in about:
            yield End(file, digest, error=about["error"], retry=about["retry"])
            continue
        taken.add(digest)
        content = Content(digest, about["kind"], Facts(0, None, about["taken"]), file, stored=known.get(digest, 0))
        spans = about["spans"]
        vectors = np.frombuffer(row["vectors"], np.float32).reshape(len(spans), -1 if spans else 0)
        for (number, start, end), vector in zip(spans, vectors, strict=True):
            yield Part(content, number, vector, start, end)
        yield End(file, digest, content, about["error"], about["retry"])
