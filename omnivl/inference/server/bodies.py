"""What requests and answers hold. A request is JSON, or a form of the same fields with a `file`; answers are as the
command line gives them with --json."""

import json
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from omnivl.inference.server.guard import Refusal

Body = TypeVar("Body", bound="MediaBody")
LABELS = 1000  # to choose from: each is some prompts for the model


class MediaBody(BaseModel):
    """A picture or clip: a file sent along, or the path of one inside the indexed folders."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    path: str | None = Field(None, description="a file inside the indexed folders")


class MatchBody(MediaBody):
    text: str


class AskBody(MediaBody):
    question: str


class ClassifyBody(MediaBody):
    labels: list[str] | None = Field(
        None, max_length=LABELS, description="in a form: a,b,c, or the field once for each; none: the model's own"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def split(cls, given: Any) -> Any:
        labels = [word.strip() for word in given.split(",") if word.strip()] if isinstance(given, str) else given
        if isinstance(labels, list) and len(labels) > LABELS:
            raise PydanticCustomError("labels", "{n} labels: {most} are allowed", {"n": len(labels), "most": LABELS})
        return labels


class SearchBody(MediaBody):
    """By `query`, or by example."""

    query: str | None = None
    top_k: int = Field(10, ge=1, le=1000)
    type: Literal["image", "video"] | None = None
    within: str | None = Field(None, alias="in", description="a folder, or the name of one anywhere")
    after: str | None = Field(None, description="taken then or later: 2024-05-01, 2024-05 or 2024")
    before: str | None = None
    min_duration: float | None = Field(None, description="seconds")
    max_duration: float | None = None
    rerank: int | None = Field(None, ge=0, le=1000, description="order the best by the matching score too")
    min_match: float | None = Field(None, ge=0, le=1, description="leave out what matches less probably")

    @field_validator("top_k", "rerank", "min_match", "min_duration", "max_duration", mode="before")
    @classmethod
    def number(cls, given: Any) -> Any:
        if isinstance(given, bool):
            raise PydanticCustomError("number", "wanted a number, got true or false")
        return given


class Problem(BaseModel):
    error: str


class Hit(BaseModel):
    id: int
    path: str
    media: Literal["image", "video"]
    score: float
    kind: Literal["cosine", "match"]
    start: float | None = None
    end: float | None = None
    similarity: float | None = Field(None, description="the cosine, where the score is the matching probability")


class SearchAnswer(BaseModel):
    query: str
    results: list[Hit]
    best: float | None = Field(None, description="the highest matching probability that was seen")


class EmbedAnswer(BaseModel):
    media: str
    kind: Literal["image", "video"]
    embedding: list[float]
    times: list[float] | None = None


class TextAnswer(BaseModel):
    media: str
    text: str
    score: float
    kind: Literal["logprob", "match"]
    times: list[float] | None = None


class Alternative(BaseModel):
    text: str
    score: float


class AskAnswer(BaseModel):
    media: str
    question: str
    text: str
    score: float
    alternatives: list[Alternative]
    kind: Literal["probability"]
    times: list[float] | None = None


class Scored(BaseModel):
    label: str
    score: float


class ClassifyAnswer(BaseModel):
    media: str
    labels: list[Scored]
    kind: Literal["probability"]
    times: list[float] | None = None


class Health(BaseModel):
    status: Literal["ok"]
    version: str
    model: str
    files: int


def described(body: type[MediaBody]) -> dict[str, Any]:
    """The request body of a route, for OpenAPI."""
    schema = body.model_json_schema(by_alias=True)
    form = {**schema, "properties": {"file": {"type": "string", "format": "binary"}, **schema["properties"]}}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, body: type[Body]) -> tuple[Body, UploadFile | None]:
    """The fields of a request, and the file that came along. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload = None
    if kind == "multipart/form-data":
        try:
            form = await request.form(max_files=1, max_fields=30)
        except HTTPException as error:
            raise Refusal(400, f"the form cannot be read: {error.detail}") from None
        texts = {name: [text for text in form.getlist(name) if isinstance(text, str) and text] for name in form}
        fields: Any = {name: many if len(many) > 1 else many[0] for name, many in texts.items() if many}
        file = form.get("file")
        upload = file if isinstance(file, UploadFile) else None
    elif kind == "application/json":
        try:
            fields = json.loads(await request.body())
        except ValueError:
            raise Refusal(400, "the request is not JSON") from None
        except RecursionError:
            raise Refusal(400, "the request is nested too deeply") from None
    else:
        raise Refusal(415, "send application/json, or multipart/form-data with a file")
    try:
        json.dumps([fields, upload and upload.filename], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refusal(
            400, "the request holds half a surrogate pair, which is no text: send Unicode characters"
        ) from None
    try:
        return body.model_validate(fields), upload
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(422, f"{where or 'the request'}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
