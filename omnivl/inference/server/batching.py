"""One thread that runs the model, and what waits for it: requests of one kind that wait together become one batch.

Callers get their own answers and their own errors: where a batch fails, each of it is run alone. This room knows no
HTTP and no model.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Act = Callable[[Sequence[Any]], Sequence[Any]]  # items of one kind -> their answers, in order


@dataclass
class Job:
    kind: str
    item: Any
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """`acts`: kind -> what to do with a batch of its items. Ends with `close`."""

    def __init__(self, acts: Mapping[str, Act], size: int = 32) -> None:
        self.acts, self.size = acts, size
        self.jobs: deque[Job] = deque()
        self.change = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self.work, name="model", daemon=True)
        self.thread.start()

    def submit(self, kind: str, item: Any) -> Future[Any]:
        """A cancelled future is not run, if it still waits."""
        job = Job(kind, item)
        with self.change:
            self.jobs.append(job)
            self.change.notify()
        return job.answer

    def close(self) -> None:
        with self.change:
            self.closed = True
            self.change.notify()
        self.thread.join()

    def work(self) -> None:
        while batch := self.take():
            live = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            if live:
                self.run(live)

    def take(self) -> list[Job]:
        """The job that waits longest, and others of its kind; none where all is over."""
        with self.change:
            self.change.wait_for(lambda: self.jobs or self.closed)
            if not self.jobs:
                return []
            kind = self.jobs[0].kind
            batch = [job for job in self.jobs if job.kind == kind][: self.size]
            for job in batch:
                self.jobs.remove(job)
            return batch

    def run(self, batch: list[Job]) -> None:
        try:
            answers = self.acts[batch[0].kind]([job.item for job in batch])
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self.run([job])
            else:
                batch[0].answer.set_exception(error)
            return
        for job, answer in zip(batch, answers, strict=True):
            job.answer.set_result(answer)
