"""The loader: it carries out a `Plan`, in this process or in workers, and puts whole samples in the place of bad ones.

Random numbers of a sample are keyed by (seed, source name, medium, epoch, index, attempt), so they do not depend on who
draws them; names, so that another source beside it changes nothing. The paper (OmniVL, arXiv 2209.07526) says nothing
about bad samples: all of this is ours. This room never sees the model.
"""

import atexit
import gc
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from itertools import count
from multiprocessing import active_children
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from omnivl.data.plan import Key, Plan, generator
from omnivl.data.sample import BadSample, Batch, LoadingError, Sample, collate
from omnivl.data.sources import Ask, Source

__all__ = ["Plan", "PlannedBatches", "training_loader"]

T = TypeVar("T")

ATTEMPTS = 8  # replacements tried for a bad sample
TIMEOUT = 600  # seconds for a batch to come: a worker that hangs on a file becomes an error


class PlannedBatches(Dataset[Batch | ValueError]):
    """A step's keys -> its `Batch`. Runs in the workers; a bad sample is replaced as a whole, or raised."""

    def __init__(
        self, sources: Sequence[Source], ask: Ask, tokenizer: Any, seed: int, max_tokens: int, on_bad: str
    ) -> None:
        self.sources, self.ask, self.tokenizer = sources, ask, tokenizer
        self.seed, self.max_tokens, self.on_bad = seed, max_tokens, on_bad

    def __getitem__(self, keys: list[Key]) -> Batch | ValueError:
        """The batch, or the error why there is none: raised here it would come out of a worker as a page of text."""
        try:
            return self.batch(keys)
        except (BadSample, LoadingError) as error:
            return error

    def batch(self, keys: Sequence[Key]) -> Batch:
        """Raises LoadingError where a sample and all its replacements are bad; BadSample where none are wanted."""
        return collate([self.sample(key) for key in keys], keys[0].medium, self.tokenizer, self.max_tokens)

    def sample(self, key: Key) -> Sample:
        source = self.sources[key.source]
        bad: list[tuple[str, str]] = []
        index = key.index
        for attempt in range(ATTEMPTS + 1):
            rng = generator(self.seed, "augment", source.name, key.medium, key.epoch, key.index, attempt)
            try:
                sample = source.read(key.medium, index, rng, self.ask)
                sample.bad = tuple(bad)
                return sample
            except BadSample as error:
                if self.on_bad == "raise":
                    raise
                bad.append((source.name, str(error)))
                draw = generator(self.seed, "replace", source.name, key.medium, key.epoch, key.index, attempt)
                index = int(draw.integers(source.length(key.medium)))
        raise LoadingError(f"{source.name}: {ATTEMPTS + 1} samples in a row cannot be read; the last: {bad[-1][1]}")


class _Steps(Sampler[list[Key]]):
    def __init__(self, plan: Plan, first: int, last: int) -> None:
        self.plan, self.first, self.last = plan, first, last

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.plan.keys(step) for step in range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first


def training_loader(
    plan: Plan, batches: PlannedBatches, first: int, last: int, num_workers: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """Batches of the steps first..last-1 of this rank, in order. Workers start with the first and end with the
    iterator, whatever ends it.

    Raises LoadingError where a batch cannot be made or does not come, BadSample where a bad sample is not replaced.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=_Steps(plan, first, last),
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
        timeout=TIMEOUT if num_workers else 0,
        pin_memory=pin_memory,
        worker_init_fn=follow_the_parent,
        generator=torch.Generator(),  # else each iteration draws from the global one, and a resumed run differs
    )
    arriving = _arriving(loader, first)
    # before multiprocessing's own exit, which would wait for workers that nobody told to end
    atexit.register(_close, weakref.ref(arriving))
    return arriving


def _arriving(loader: DataLoader[Batch | ValueError], first: int) -> Iterator[Batch]:
    others = active_children()
    source = started(loader)
    workers = [child for child in active_children() if child not in others]
    try:
        for step in count(first):
            late = False
            try:
                batch = next(source, None)
            except RuntimeError as error:
                late = "timed out" in str(error)
                if not late:
                    raise
            if late:
                raise LoadingError(
                    f"the samples of step {step + 1} did not come in {TIMEOUT} seconds: a file or disk may hang"
                )
            if batch is None:
                return
            if isinstance(batch, ValueError):
                raise batch
            yield batch
    finally:
        if workers:
            source._shutdown_workers()  # type: ignore[attr-defined]  # __del__ would, but an error's frames hold it
        for worker in workers:  # one that hangs did not hear
            worker.kill()
            worker.join()


def started(loader: DataLoader[T]) -> Iterator[T]:
    """What is loaded, by workers that free none of this process's objects: a decoder's threads do not live in a forked
    worker, which would wait for them for ever."""
    gc.collect()
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


def _close(arriving: weakref.ref[Any]) -> None:
    if (running := arriving()) is not None:
        running.close()


def follow_the_parent(worker: int) -> None:
    """Ctrl-C, and a SIGTERM to a whole group of processes, reach workers too: they go on until the parent has done, and
    say nothing when it hangs up."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    sys.excepthook = _unless_hung_up  # of the thread that hands over tensors; other errors are passed on by torch


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
