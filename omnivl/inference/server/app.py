"""The HTTP API (FastAPI) and the search page: `create_app` for any ASGI server, `serve` with uvicorn.

Nothing is fetched for a client, and a file is read only where it was sent along or lies inside the indexed folders.
Every refusal is a status and {"error": one sentence}. FastAPI's own pages (/docs) are off: they load from other hosts.
"""

import mimetypes
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Collection, MutableMapping
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import version
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from omnivl.inference.media_index import MediaIndex
from omnivl.inference.server.bodies import (
    AskAnswer,
    AskBody,
    ClassifyAnswer,
    ClassifyBody,
    EmbedAnswer,
    Health,
    Hit,
    MatchBody,
    MediaBody,
    Problem,
    SearchAnswer,
    SearchBody,
    TextAnswer,
    described,
    read_body,
)
from omnivl.inference.server.guard import Guard, Limits, Receive, Refusal, Scope, Send
from omnivl.inference.server.service import Service, readable

PAGE = {
    "index.html": "text/html",
    "page.css": "text/css",
    **dict.fromkeys(("common.js", "page.js", "viewer.js"), "text/javascript"),
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 413, 415, 421, 422, 429, 500, 503)
}
Number = Annotated[int, Path(ge=0, le=2**62, description="the `id` of a result")]


def create_app(
    index: MediaIndex,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = LOOPBACK,
) -> FastAPI:
    """The app of one index, which is closed with it. `token`: what clients must send; `hosts`: the names that the
    server answers to, None: any."""
    limits = limits or Limits()
    service = Service(index, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="omnivl", version=version("omnivl"), docs_url=None, redoc_url=None, lifespan=lifespan, responses=REFUSALS
    )
    app.add_middleware(Guard, limits=limits, token=token, hosts=hosts)
    add_refusals(app)
    add_verbs(app, service)
    add_files(app, service)
    return app


def add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed at this request; its log says why"}, 500)


def add_verbs(app: FastAPI, service: Service) -> None:
    def route(path: str, body: type[MediaBody], answer: Any) -> Any:
        return app.post(path, response_model=answer, response_model_exclude_none=True, openapi_extra=described(body))

    @route("/v1/search", SearchBody, SearchAnswer)
    async def search(request: Request) -> dict[str, Any]:
        """Pictures and videos by text, or by an example."""

        async def work() -> dict[str, Any]:
            name, found = await service.search(*await read_body(request, SearchBody))
            hits = [Hit(**{**vars(result), "path": readable(result.path)}) for result in found.results]
            return {"query": name, "results": hits, "best": found.best}

        return await service.in_time(work())

    @route("/v1/embed", MediaBody, EmbedAnswer)
    async def embed(request: Request) -> dict[str, Any]:
        """The vector of a picture or clip, of unit length."""

        async def work() -> dict[str, Any]:
            name, media = await service.media(*await read_body(request, MediaBody))
            vector = await service.run("embed", media)
            return {"media": name, "kind": media.medium, "embedding": vector.tolist(), "times": media.times}

        return await service.in_time(work())

    @route("/v1/caption", MediaBody, TextAnswer)
    async def caption(request: Request) -> dict[str, Any]:
        """A sentence about a picture or clip."""

        async def work() -> dict[str, Any]:
            name, media = await service.media(*await read_body(request, MediaBody))
            written = await service.run("caption", media)
            return {"media": name, "kind": "logprob", **vars(written)}

        return await service.in_time(work())

    @route("/v1/match", MatchBody, TextAnswer)
    async def match(request: Request) -> dict[str, Any]:
        """The probability that a text describes a picture or clip."""

        async def work() -> dict[str, Any]:
            body, upload = await read_body(request, MatchBody)
            if not body.text.strip():
                raise Refusal(400, "the text to match is empty")
            name, media = await service.media(body, upload)
            matched = await service.run("match", (media, body.text))
            return {"media": name, "text": body.text, "kind": "match", **vars(matched)}

        return await service.in_time(work())

    @route("/v1/ask", AskBody, AskAnswer)
    async def ask(request: Request) -> dict[str, Any]:
        """An answer to a question about a picture or clip, and the likeliest others."""

        async def work() -> dict[str, Any]:
            body, upload = await read_body(request, AskBody)
            if not body.question.strip():
                raise Refusal(400, "the question is empty")
            name, media = await service.media(body, upload)
            answer = await service.run("ask", (media, body.question))
            others = [vars(other) for other in answer.alternatives]
            found = {"text": answer.text, "score": answer.score, "alternatives": others, "times": answer.times}
            return {"media": name, "question": body.question, "kind": "probability", **found}

        return await service.in_time(work())

    @route("/v1/classify", ClassifyBody, ClassifyAnswer)
    async def classify(request: Request) -> dict[str, Any]:
        """How probable each label is, best first."""

        async def work() -> dict[str, Any]:
            body, upload = await read_body(request, ClassifyBody)
            name, media = await service.media(body, upload)
            try:
                found = await service.run("classify", (media, None if body.labels is None else tuple(body.labels)))
            except ValueError as error:  # too few labels, or none where the model has none
                raise Refusal(400, str(error)) from None
            labels = [{"label": label.text, "score": label.score} for label in found]
            return {"media": name, "labels": labels, "kind": "probability", "times": media.times}

        return await service.in_time(work())


def add_files(app: FastAPI, service: Service) -> None:
    @app.get("/v1/health", response_model=Health)
    def health() -> dict[str, Any]:
        store = service.index.store
        model = store.description.model.rsplit("/", 1)[-1]
        return {"status": "ok", "version": version("omnivl"), "model": model, "files": store.count()}

    @app.head("/v1/media/{number}", include_in_schema=False)
    @app.get("/v1/media/{number}", response_class=FileResponse)
    def media(number: Number) -> FileResponse:
        """An indexed file as it is; ranges of it where they are asked for."""
        path = service.file(number)
        guessed = mimetypes.guess_type(path.name)[0] or ""
        shown = guessed.startswith(("image/", "video/"))  # nothing that a browser would run
        return IndexedFile(path, media_type=guessed if shown else "application/octet-stream")

    @app.get("/v1/thumbnail/{number}", response_class=Response)
    async def thumbnail(
        number: Number,
        size: Annotated[int, Query(ge=16, le=2048, description="pixels")] = 320,
        at: Annotated[float | None, Query(ge=0, le=1e7, description="seconds, of a video")] = None,
    ) -> Response:
        """A JPEG of an indexed picture, or of a moment of a video."""
        found = await service.in_time(service.thumbnail(number, size, at))
        return Response(found, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    for path, name in (("/", "index.html"), *((f"/{name}", name) for name in PAGE)):
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(page(name))


class IndexedFile(FileResponse):
    """A file, or ranges of it; those that make no sense are refused as everything else is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: JSONResponse | None = None

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                about = Headers(raw=message["headers"])
                kept = {name: about[name] for name in ("content-range",) if name in about}
                sentence = "the Range header names no bytes of this file: wanted one such as bytes=0-99"
                refusal = JSONResponse({"error": sentence}, message["status"], kept)
                await refusal(scope, receive, send)
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, told)


def page(name: str) -> Callable[[], Response]:
    def answer() -> Response:
        text = resources.files("omnivl.inference.server").joinpath("page", name).read_text(encoding="utf-8")
        return Response(text, media_type=PAGE[name], headers={"cache-control": "no-cache"})

    return answer


def serve(index: MediaIndex, host: str, port: int, token: str | None) -> None:
    """Until it is stopped. On a loopback address only its names are answered to. Raises ValueError where the port is
    not to be had."""
    hosts = LOOPBACK if host in LOOPBACK else None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else error
        raise ValueError(f"cannot listen on {host} port {port} ({reason}): choose another --host or --port") from None
    if hosts is None and not token:
        print(f"whoever reaches {host} can see what is indexed: --token keeps others out", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]}/", flush=True)
    app = create_app(index, token=token, hosts=hosts)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
