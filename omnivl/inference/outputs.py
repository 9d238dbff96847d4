"""What a pipeline answers with: texts, their scores, and the seconds of a video that were looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    text: str
    score: float  # mean log-probability a token
    times: tuple[float, ...] | None = None  # seconds looked at; None for an image


@dataclass(frozen=True)
class Match:
    score: float  # probability that text and picture match
    times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Label:
    text: str
    score: float  # a probability


@dataclass(frozen=True)
class Answer:
    text: str
    score: float  # its probability: among the choices where some were given, else that the model writes just this
    alternatives: tuple[Label, ...]  # the choices, or the likeliest answers, best first, this one among them
    times: tuple[float, ...] | None = None  # seconds looked at; None for an image
