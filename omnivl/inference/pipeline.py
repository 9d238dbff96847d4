"""`Pipeline`: a model with its tokenizer and preprocessing, on paths, PIL images and numpy arrays.

Images and videos go through every verb alike; one input gives one result, a list gives a list. The model underneath is
`pipeline.model`. This room knows nothing of tasks or training.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from omnivl.data.media import BadSample
from omnivl.inference.forward import BATCH, Forward, Precision
from omnivl.inference.inputs import Loaded, Media, is_many, read_media
from omnivl.inference.outputs import Answer, Caption, Label, Match
from omnivl.model import OmniVL, starting_with
from omnivl.model.answering import Answered, answer_list, ask, choose, write
from omnivl.model.folder import load_folder, save_folder
from omnivl.model.generation import caption
from omnivl.model.hub import local_folder, push_folder
from omnivl.model.rerank import match_log_probability
from omnivl.prompts import fill, label_prompts
from omnivl.tokenizer import Tokenizer

MAX_TOKENS = 40
T = TypeVar("T")


class Pipeline:
    """Use `omnivl.load` to get one."""

    def __init__(
        self, model: OmniVL, tokenizer: Tokenizer, folder: Path | None = None, precision: Precision = "auto"
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.folder = folder  # where it was loaded from, if anywhere
        self.config = model.config
        self.name = ""  # what it was loaded as: a folder or a hub id
        self.forward = Forward(model, precision)

    # --- verbs -------------------------------------------------------------------------------------------------------

    def embed(self, media: Any) -> np.ndarray:
        """Unit vectors (N, E) float32 of pictures and clips; one input gives (E,). Raises BadSample."""
        rows = self.forward.over(
            self._load(media), lambda pixels, medium: list(self.model.embed_visual(pixels).float().cpu().numpy())
        )
        if is_many(media):
            return np.stack(rows) if rows else np.zeros((0, self.config.embed_dim), np.float32)
        return rows[0]

    def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Unit vectors (N, E) float32; one text gives (E,). Raises ValueError for what is no text."""
        many = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [text for text in many if not isinstance(text, str)]:
            raise ValueError(f"texts must be strings, got {wrong[0]!r}")
        rows: list[np.ndarray] = []
        with self.forward.inference():
            for first in range(0, len(many), 256):
                ids, mask = self._tokens(many[first : first + 256])
                rows += list(self.model.encode_text(ids, mask).embed.float().cpu().numpy())
        if isinstance(texts, str):
            return rows[0]
        return np.stack(rows) if rows else np.zeros((0, self.config.embed_dim), np.float32)

    def caption(self, media: Any, *, num_beams: int = 3, max_length: int = 30) -> Any:
        """A `Caption` for each picture or clip, by beam search. Raises BadSample."""

        def describe(tokens: Tensor, embed: Tensor, medium: str) -> list[tuple[str, float]]:
            return caption(self.model, self.tokenizer, tokens, medium, num_beams=num_beams, max_length=max_length)

        loaded = self._load(media)
        texts = self._run(loaded, describe)
        results = [Caption(text, score, item.times) for (text, score), item in zip(texts, loaded, strict=True)]
        return results if is_many(media) else results[0]

    def match(self, media: Any, text: str | Sequence[str]) -> Any:
        """A `Match` for each pair: two lists are paired, one of them broadcasts. Raises BadSample, ValueError."""
        loaded, texts, pairs = self._paired(media, text, "texts")
        tokens = self._run(loaded, lambda tokens, embed, medium: list(tokens))
        scores: dict[int, float] = {}
        with self.forward.inference():
            for numbers in self._of_one_shape(tokens, pairs):
                ids, mask = self._tokens(texts)
                items = dict.fromkeys(pairs[number][0] for number in numbers)
                places = {item: place for place, item in enumerate(items)}
                both = [(places[item], text) for item, text in (pairs[number] for number in numbers)]
                logs = match_log_probability(
                    self.model,
                    torch.stack([tokens[item] for item in items]),
                    starting_with(ids, self.tokenizer.enc_id),
                    mask,
                    torch.tensor(both, device=self.forward.device),
                )
                scores |= zip(numbers, logs.exp().tolist(), strict=True)
        results = [Match(scores[number], loaded[item].times) for number, (item, _) in enumerate(pairs)]
        return results if is_many(media) or not isinstance(text, str) else results[0]

    def answer(self, media: Any, question: str | Sequence[str], choices: Sequence[str] | None = None) -> Any:
        """An `Answer` for each pair of media and question, paired as in `match`; one of the `choices`, or free text.

        Raises BadSample, and ValueError for an empty question or fewer than two different choices.
        """
        if isinstance(choices, str):
            raise ValueError(f"choices must be a list of answers, got the text {choices!r}")
        listed = None if choices is None else answer_list(self.model, self.tokenizer, choices, max_tokens=MAX_TOKENS)
        loaded, questions, pairs = self._paired(media, question, "questions")
        if blank := [number for number, each in enumerate(questions) if not each.strip()]:
            raise ValueError(f"question {blank[0]} is empty: ask something")
        tokens = self._run(loaded, lambda tokens, embed, medium: list(tokens))
        found: dict[int, Answered] = {}
        with self.forward.inference():
            for numbers in self._of_one_shape(tokens, pairs):
                for first in range(0, len(numbers), BATCH["image"]):
                    part = numbers[first : first + BATCH["image"]]
                    seen = torch.stack([tokens[pairs[number][0]] for number in part])
                    texts = [questions[pairs[number][1]] for number in part]
                    asked = ask(self.model, self.tokenizer, texts, seen, max_tokens=MAX_TOKENS)
                    if listed:
                        best = choose(self.model, asked, listed, top=len(listed.texts))
                    else:
                        best = write(self.model, self.tokenizer, asked)
                    found |= zip(part, best, strict=True)
        results = []
        for number, (item, _) in enumerate(pairs):
            labels = tuple(Label(*each) for each in found[number])
            results.append(Answer(labels[0].text, labels[0].score, labels, loaded[item].times))
        return results if is_many(media) or not isinstance(question, str) else results[0]

    def classify(self, media: Any, labels: Sequence[str] | None = None, *, zero_shot: bool = False) -> Any:
        """The `Label`s of each picture or clip, best first: of the classes given, or of the model's own.

        A finetuned classifier is used where the model has one and no labels are given; prompts where they are, or with
        `zero_shot`. Raises BadSample, and ValueError where there are no labels or one alone.
        """
        own = self.model.extra.get("labels", [])
        if isinstance(labels, str):
            raise ValueError(f"labels must be a list of names, got the text {labels!r}")
        names = list(dict.fromkeys(own if labels is None else labels))
        if not names:
            raise ValueError("this model has no classifier of its own: give the labels to choose from")
        if len(names) < 2 or not all(name.strip() for name in names):
            raise ValueError(f"there must be at least two labels, none of them empty, got {', '.join(names)}")
        by_head = labels is None and not zero_shot
        loaded = self._load(media)
        media_seen = set() if by_head else {item.medium for item in loaded}
        vectors = {medium: self._class_vectors(names, medium) for medium in media_seen}
        temperature = self.model.temperature.clamp(0.001, 0.5)

        def tell(tokens: Tensor, embed: Tensor, medium: str) -> list[list[Label]]:
            if by_head:
                assert self.model.classifier is not None
                scores = self.model.classifier(tokens[:, 0])
            else:
                scores = embed @ vectors[medium].T / temperature
            values, order = scores.float().softmax(1).sort(dim=1, descending=True, stable=True)
            return [
                [Label(names[place], value) for place, value in zip(*row, strict=True)]
                for row in zip(order.tolist(), values.tolist(), strict=True)
            ]

        results = self._run(loaded, tell)
        return results if is_many(media) else results[0]

    def _class_vectors(self, names: Sequence[str], medium: str) -> Tensor:
        """(labels, E) unit vectors: each the mean of its prompts'."""
        prompts = label_prompts(medium)
        texts = self.embed_text([fill(prompt, name) for name in names for prompt in prompts])
        vectors = torch.from_numpy(texts).view(len(names), len(prompts), -1).mean(1)
        return torch.nn.functional.normalize(vectors, dim=-1).to(self.forward.device)

    def visual_tokens(self, media: Sequence[Media]) -> list[Tensor]:
        """What the decoders read of each picture or clip: (N, D). Raises BadSample."""
        return self._run(self._load(list(media)), lambda tokens, embed, medium: list(tokens))

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model folder, with the card and the results of the one it was loaded from; with `push_to_hub` it
        goes to the hub as well (as `repo_id`, else by the folder's name), and the address of the commit is given."""
        folder = Path(save_directory)
        for name in ("README.md", "results.json"):
            if self.folder and (self.folder / name).is_file() and not (folder / name).exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, folder / name)
        save_folder(self.model, self.tokenizer, folder)
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using huggingface_hub.",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
    ) -> str:
        """Upload the model folder to a repository of the hub, made where there is none; gives the address of the
        commit. Raises ValueError (one sentence) where the hub refuses or cannot be reached."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                branch=branch,
                commit_message=commit_message,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> "Pipeline":
        """A pipeline from a model folder, or from a hub repository in huggingface_hub's cache or fetched into it.

        Raises ValueError (one sentence) where it is neither, or cannot be reached.
        """
        from omnivl.distributed import resolve_device

        folder = local_folder(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        model, tokenizer = load_folder(folder, resolve_device(device))
        pipeline = cls(model, tokenizer, folder, precision)
        pipeline.name = str(pretrained_model_name_or_path)
        return pipeline

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, media: Media, start: float | None = None, end: float | None = None) -> Loaded:
        """One picture or clip at the model's size; of a video file [start, end] in seconds. Raises BadSample for a
        file, ValueError for an array of another shape."""
        return read_media(media, self.config, start, end)

    def _load(self, media: Any) -> list[Loaded]:
        return [self.read(item) for item in (media if is_many(media) else [media])]

    def _paired(
        self, media: Any, text: str | Sequence[str], what: str
    ) -> tuple[list[Loaded], list[str], list[tuple[int, int]]]:
        """Media and texts, and the numbers of those that go together: two lists are paired, one of them broadcasts."""
        loaded, texts = self._load(media), [text] if isinstance(text, str) else list(text)
        if is_many(media) and not isinstance(text, str) and len(loaded) != len(texts):
            raise ValueError(f"{len(loaded)} media and {len(texts)} {what} were given: lists must be of one length")
        count = max(len(loaded), len(texts)) if loaded and texts else 0
        alone, same = not is_many(media), isinstance(text, str)
        return loaded, texts, [(0 if alone else number, 0 if same else number) for number in range(count)]

    def _of_one_shape(self, tokens: list[Tensor], pairs: list[tuple[int, int]]) -> list[list[int]]:
        """The numbers of the pairs whose visual tokens can be stacked."""
        groups: dict[torch.Size, list[int]] = {}
        for number, (item, _) in enumerate(pairs):
            groups.setdefault(tokens[item].shape, []).append(number)
        return list(groups.values())

    def _run(self, loaded: list[Loaded], act: Callable[[Tensor, Tensor, str], list[T]]) -> list[T]:
        """Encode in batches and act on each; results in the order of `loaded`."""

        def encode(pixels: Tensor, medium: str) -> list[T]:
            visual = self.model.encode_visual(pixels)
            return act(visual.tokens, visual.embed, medium)

        return self.forward.over(loaded, encode)

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer(texts, max_tokens=MAX_TOKENS)
        return ids.to(self.forward.device), mask.to(self.forward.device)


def load(
    model: str | Path,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Pipeline:
    """The pipeline of a model folder or a hub repository: `omnivl.load("runs/demo/model")`, `omnivl.load("user/name")`.

    Args:
        precision: what matrices are multiplied in. bf16 is the faster one on a CPU that has instructions for it; auto:
            fp16 on CUDA, fp32 elsewhere.
        revision: branch, tag or commit of the repository.
        token: of the hub, for private repositories; none: that of `hf auth login`.
        cache_dir: where downloads go; none: where HF_HOME and HF_HUB_CACHE say.
        local_files_only: take the cache as it is and open no connection, as HF_HUB_OFFLINE=1 does everywhere.

    Raises ValueError (one sentence) where it is no model, or cannot be reached.
    """
    return Pipeline.from_pretrained(
        model,
        device=device,
        precision=precision,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


__all__ = ["Answer", "BadSample", "Caption", "Label", "Match", "Pipeline", "load"]
