"""What the server does with a request once it may be done: media are read in threads, the model runs in one."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import UploadFile

from omnivl.data.facts import read_facts
from omnivl.data.media import BadSample
from omnivl.inference.filters import Filters
from omnivl.inference.inputs import Loaded
from omnivl.inference.media_index import Found, MediaIndex
from omnivl.inference.pipeline import Label
from omnivl.inference.server.access import Roots
from omnivl.inference.server.batching import Batcher
from omnivl.inference.server.bodies import MediaBody, SearchBody
from omnivl.inference.server.guard import Limits, Refusal
from omnivl.inference.server.thumbnails import Thumbnails

READERS = 4  # files that are decoded at once
T = TypeVar("T")


class Service:
    """One index and its model behind a server. `close` ends its thread."""

    def __init__(self, index: MediaIndex, limits: Limits) -> None:
        self.index, self.limits = index, limits
        pipeline = index.pipeline
        self.batcher = Batcher(
            {
                "embed_text": lambda texts: list(pipeline.embed_text(list(texts))),
                "embed": lambda media: list(pipeline.embed(list(media))),
                "caption": lambda media: pipeline.caption(list(media)),
                "match": lambda pairs: pipeline.match([media for media, _ in pairs], [text for _, text in pairs]),
                "ask": lambda pairs: pipeline.answer([media for media, _ in pairs], [text for _, text in pairs]),
                "classify": self.classify,
                "nearest": lambda asked: [index.nearest(*one) for one in asked],
            }
        )
        self.thumbnails = Thumbnails()
        self.readers = CapacityLimiter(READERS)

    def classify(self, pairs: Sequence[tuple[Loaded, tuple[str, ...] | None]]) -> list[list[Label]]:
        """The labels of each, best first: those with the same choice are one batch."""
        found: dict[int, list[Label]] = {}
        for choice in dict.fromkeys(labels for _, labels in pairs):
            own = [number for number, (_, labels) in enumerate(pairs) if labels == choice]
            found |= zip(own, self.index.pipeline.classify([pairs[i][0] for i in own], choice), strict=True)
        return [found[number] for number in range(len(pairs))]

    def close(self) -> None:
        self.batcher.close()
        self.index.close()

    async def run(self, kind: str, item: Any) -> Any:
        """An answer of the model, which others may be computed beside."""
        return await asyncio.wrap_future(self.batcher.submit(kind, item))

    async def in_thread(self, act: Callable[..., T], *values: Any) -> T:
        return await anyio.to_thread.run_sync(act, *values, limiter=self.readers)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Raises Refusal where it takes longer than a request may."""
        try:
            return await asyncio.wait_for(work, self.limits.seconds)
        except TimeoutError:
            raise Refusal(503, f"it took longer than {self.limits.seconds:g} seconds", {"retry-after": "10"}) from None

    # --- media -------------------------------------------------------------------------------------------------------

    def roots(self) -> Roots:
        return Roots(self.index.store.roots())

    async def media(self, body: MediaBody, upload: UploadFile | None) -> tuple[str, Loaded]:
        """The name and the frames of what a request is about. Raises Refusal."""
        if (body.path is None) == (upload is None):
            raise Refusal(
                422, "send a picture or clip as `file`, or give the `path` of one that is indexed: one of both"
            )
        if upload is not None:
            return upload.filename or "file", await self.in_thread(self.read_upload, upload)
        assert body.path is not None
        path = self.roots().named(body.path)
        return body.path, await self.in_thread(self.read, path, None)

    def read_upload(self, upload: UploadFile) -> Loaded:
        with tempfile.NamedTemporaryFile(prefix="omnivl-") as file:  # under a name of ours, never the client's
            shutil.copyfileobj(upload.file, file)
            file.flush()
            return self.read(Path(file.name), self.limits.video_seconds)

    def read(self, path: Path, seconds: float | None) -> Loaded:
        """Frames of the model's size. Raises Refusal where it is too large, too long (`seconds`) or cannot be read."""
        try:
            facts = read_facts(path)
            if facts.pixels > self.limits.pixels:
                raise Refusal(413, f"{facts.pixels / 1e6:.0f} million pixels: {self.limits.pixels / 1e6:g} are allowed")
            if seconds is not None and (facts.duration or 0) > seconds:
                raise Refusal(413, f"the video lasts {facts.duration:.0f} seconds: {seconds:g} are allowed")
            return self.index.pipeline.read(path)
        except BadSample as error:
            raise Refusal(422, reason(error, path)) from None

    def file(self, number: int) -> Path:
        """Where an indexed file really is. Raises Refusal (404)."""
        path = self.index.store.path_of(min(number, 2**62))
        if path is None:
            raise Refusal(404, "there is no such file in the index")
        return self.roots().allowed(path)

    async def thumbnail(self, number: int, side: int, at: float | None) -> bytes:
        """A JPEG. Raises Refusal."""
        path = await self.in_thread(self.file, number)
        try:
            return await self.in_thread(self.thumbnails.jpeg, path, side, at)
        except (BadSample, OSError) as error:
            raise Refusal(422, reason(error, path)) from None

    # --- searching ---------------------------------------------------------------------------------------------------

    async def search(self, body: SearchBody, upload: UploadFile | None) -> tuple[str, Found]:
        """The name of the query, and what was found. Raises Refusal."""
        example = body.path is not None or upload is not None
        if example == (body.query is not None):
            raise Refusal(400, "give a `query`, or a `file` or `path` as an example: one of them")
        within = (body.within,) if body.within else ()
        try:
            filters = Filters(body.type, within, body.after, body.before, body.min_duration, body.max_duration)
            depth = self.index.check(body.query, body.top_k, body.rerank, body.min_match)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if body.query is not None:
            name, vector = body.query, await self.run("embed_text", body.query)
        else:
            name, loaded = await self.media(body, upload)
            vector = await self.run("embed", loaded)
        asked = (vector, body.query, body.top_k, filters, depth, body.min_match)
        if depth:  # the model judges, so it is its turn
            return name, await self.run("nearest", asked)
        return name, await self.in_thread(self.index.nearest, *asked)


def readable(path: str) -> str:
    """A path as text that any client can be sent, where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def reason(error: Exception, path: Path) -> str:
    """What is wrong with a file, without where it lies on the server."""
    return str(error).removeprefix(f"{path}: ")
