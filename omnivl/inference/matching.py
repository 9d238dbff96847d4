"""The second step of a search: how well a text matches what was found, judged by the matching decoder (section 4 of the
paper, OmniVL, arXiv 2209.07526).

What is found is read again, at the window that was found; visual tokens stay in a cache of bounded size, so that the
next text costs the decoder alone.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnivl.data.media import BadSample, read_video
from omnivl.data.remote import on_disk
from omnivl.data.transforms import prepare
from omnivl.inference.forward import BATCH
from omnivl.inference.inputs import Loaded
from omnivl.inference.pipeline import Pipeline
from omnivl.model.rerank import match_log_probability

CACHE = 256 * 2**20  # bytes of visual tokens


@dataclass(frozen=True)
class Candidate:
    """What is to be matched: a picture, or [start, end] of a video in seconds. `key` names it in the cache."""

    key: Hashable
    path: str
    start: float | None
    end: float | None


class Matcher:
    """Safe between threads, which take turns."""

    def __init__(self, pipeline: Pipeline, num_frames: int, cache: int = CACHE) -> None:
        self.pipeline, self.num_frames, self.limit = pipeline, num_frames, cache
        self.tokens: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.size = 0
        self.lock = threading.Lock()

    def log_probabilities(self, text: str, candidates: Sequence[Candidate]) -> list[float | None]:
        """log p(matched) of each; None where it can no longer be read."""
        scores: list[float | None] = [None] * len(candidates)
        with self.lock:
            for first in range(0, len(candidates), BATCH["image"]):
                part = range(first, min(first + BATCH["image"], len(candidates)))
                found = self.encode([candidates[i] for i in part])
                for shape in {tuple(tokens.shape) for tokens in found.values()}:
                    numbers = [i for i, tokens in found.items() if tuple(tokens.shape) == shape]
                    logs = self.match(text, torch.stack([found[i] for i in numbers]))
                    for number, value in zip(numbers, logs, strict=True):
                        scores[first + number] = value
        return scores

    def match(self, text: str, tokens: Tensor) -> list[float]:
        """Tokens (B, N, D) of candidates, in halves on a device that has no room for so many."""
        tokenizer, device = self.pipeline.tokenizer, tokens.device
        ids, mask = tokenizer([text])
        ids[:, 0] = tokenizer.enc_id
        pairs = torch.tensor([[i, 0] for i in range(len(tokens))], device=device)
        try:
            with self.pipeline.forward.inference():
                logs = match_log_probability(self.pipeline.model, tokens, ids.to(device), mask.to(device), pairs)
            return logs.tolist()
        except torch.OutOfMemoryError:
            if len(tokens) == 1:
                raise ValueError(f"{device} has no room to match one text: choose another device") from None
        half = len(tokens) // 2
        return self.match(text, tokens[:half]) + self.match(text, tokens[half:])

    def encode(self, candidates: Sequence[Candidate]) -> dict[int, Tensor]:
        """Tokens (N, D) of the candidates that can be read, by their numbers."""
        found, new, loaded = {}, [], []
        for number, candidate in enumerate(candidates):
            if candidate.key in self.tokens:
                self.tokens.move_to_end(candidate.key)
                found[number] = self.tokens[candidate.key]
                continue
            try:
                loaded.append(self.read(candidate))
                new.append(number)
            except (BadSample, OSError):
                continue
        for number, tokens in zip(new, self.pipeline.visual_tokens(loaded), strict=True):
            found[number] = tokens
            self.keep(candidates[number].key, tokens)
        return found

    def read(self, candidate: Candidate) -> Loaded:
        with on_disk(candidate.path) as path:
            if candidate.start is None:
                return self.pipeline.read(path)
            clip = read_video(path, self.num_frames, candidate.start, candidate.end)
        config = self.pipeline.config
        return Loaded(prepare(clip.frames, config.vision.image_size, config.interpolation), clip.times)

    def keep(self, key: Hashable, tokens: Tensor) -> None:
        self.tokens[key] = tokens
        self.size += tokens.nbytes
        while self.size > self.limit:
            self.size -= self.tokens.popitem(last=False)[1].nbytes
