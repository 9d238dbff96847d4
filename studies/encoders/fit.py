"""The contrastive steps of the study: the upper parts of both encoders learn from cached tokens, by our UniVLC.

The keys are the batch's own vectors: with no lower part to run, a batch holds hundreds of different captions, and needs
neither bank nor momentum encoders. Axes: B rows, I items, C copies, T frames, S patches, L tokens, D width.
"""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from omnivl.config import OptimConfig
from omnivl.data.annotations import Item
from omnivl.losses import univlc_loss
from omnivl.model import OmniVL
from omnivl.prompts import fill, label_prompts
from omnivl.tokenizer import Tokenizer
from omnivl.train.optim import build_optimizer, learning_rate, set_learning_rate
from studies.encoders.cached import cached_texts, upper_text, upper_visual

OTHER_WORDS = 0.5  # share of the captions that have other words and are drawn in them


@dataclass(frozen=True)
class Upper:
    """Which blocks learn: all from these numbers on, with the final norm and the projections."""

    visual: int
    text: int

    def freeze(self, model: OmniVL) -> None:
        """Leave a gradient to the upper parts of both encoders alone."""
        model.requires_grad_(False)
        parts: list[nn.Module] = [*model.visual.blocks[self.visual :], *model.text.blocks[self.text :]]
        for part in [*parts, model.visual.norm, model.visual_projection, model.text_projection]:
            part.requires_grad_(True)
        model.temperature.requires_grad_(True)

    def factors(self, model: OmniVL, blocks: float, text: float) -> dict[str, float]:
        """Of the rate: the pretrained blocks learn more slowly than the new projections."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return {n: blocks if n.startswith("visual.") else text for n in names if n.startswith(("visual.", "text."))}


def in_other_words(caption: str, words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A caption as a sentence and in two prompts; then three of the words that people look for it by, with it and
    without it."""
    prompts = rng.choice([prompt for prompt in label_prompts("image") if prompt != "{}"], 2, replace=False)
    said = [fill(prompt, caption).strip() for prompt in (" a {}.", *prompts)]
    if len(words) > 2:
        first, second = (" ".join(rng.choice(words, 3, replace=False)) for _ in range(2))
        said += [f"{caption} {first}", second]
    return said


@dataclass
class Corpus:
    """Media of one kind as tokens, and what is said of each: its caption, as it is or in other words, or its label in
    the words of a prompt."""

    tokens: Tensor  # (I, C, T, 1 + S, D) half precision
    captions: list[str]
    labels: list[str]
    medium: str
    other_words: dict[str, list[str]] = field(default_factory=dict)  # for each caption
    by_caption: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[str, list[int]] = collections.defaultdict(list)
        for number, caption in enumerate(self.captions):
            found[caption].append(number)
        self.by_caption = list(found.values())

    @classmethod
    def of(
        cls, items: Sequence[Item], tokens: Tensor, medium: str, other_words: dict[str, list[str]] | None = None
    ) -> "Corpus":
        captions, labels = [item.captions[0] for item in items], [item.label for item in items]
        return cls(tokens, captions, labels, medium, other_words or {})

    def texts(self) -> list[str]:
        prompted = [fill(prompt, label) for label in sorted(set(self.labels)) for prompt in label_prompts(self.medium)]
        return sorted(set(self.captions)) + [text for said in self.other_words.values() for text in said] + prompted

    def draw(self, size: int, label_share: float, rng: np.random.Generator) -> tuple[Tensor, list[str], list[str]]:
        """Tokens (B, T, 1 + S, D), texts, and what tells positives apart, of `size` rows: different captions as far as
        they go, and a share of labels in the words of a prompt."""
        labelled = round(size * label_share)
        groups = rng.permutation(len(self.by_caption))[: size - labelled]
        rows = [int(rng.choice(self.by_caption[group])) for group in groups]
        texts = [self.captions[row] for row in rows]
        keys = [f"caption {text}" for text in texts]
        for i, text in enumerate(texts):
            if text in self.other_words and rng.random() < OTHER_WORDS:
                texts[i] = str(rng.choice(self.other_words[text]))
        prompts = label_prompts(self.medium)
        for row in rng.integers(len(self.labels), size=labelled):
            rows.append(int(row))
            texts.append(fill(prompts[int(rng.integers(len(prompts)))], self.labels[row]))
            keys.append(f"label {self.labels[row]}")
        copies = rng.integers(self.tokens.shape[1], size=len(rows))
        return self.tokens[rows, copies], texts, keys


@dataclass(frozen=True, kw_only=True)
class Steps:
    """One stage."""

    steps: int
    optim: OptimConfig
    batch: int  # rows of pictures a step
    clips: int = 0  # rows of clips a step
    label_share: float = 0.1
    clip_label_share: float = 0.5
    patches: int = 24  # of a picture, drawn anew each step (as FLIP does): less work, and other crops of every copy
    block_rate: float = 1.0  # of the rate, for the pretrained visual block
    text_rate: float = 0.3  # for the text block
    noise: float = 0.0  # added to the tokens of a picture, one vector to [CLS] and one to all patches: this share of
    # how far pictures lie apart
    text_noise: float = 0.0  # the same of texts, one vector to all tokens


def spread_of_pictures(corpus: Corpus) -> Tensor:
    """(2, D): the deviation of [CLS] and of the mean over the patches, from picture to picture."""
    first = [torch.stack([one[0], one[1:].float().mean(0)]) for one in corpus.tokens[:, 0, 0]]
    return torch.stack(first).std(0)


def spread_of_texts(states: Tensor, mask: Tensor) -> Tensor:
    """(D,): the deviation of the mean over the tokens (N, L, D), from text to text."""
    return ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).std(0)


def fit(
    model: OmniVL,
    tokenizer: Tokenizer,
    upper: Upper,
    stage: Steps,
    corpora: Sequence[Corpus],
    *,
    seed: int,
    lower_texts: Callable[[OmniVL, Tokenizer, Sequence[str], int], tuple[Tensor, Tensor]] = cached_texts,
) -> list[float]:
    """Train in place; gives the loss of every step. A step goes through each corpus once. `lower_texts` may have the
    texts' tokens already."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model.eval()
    vocabulary = list(dict.fromkeys(text for corpus in corpora for text in corpus.texts()))
    states, mask = lower_texts(model, tokenizer, vocabulary, upper.text)
    place = {text: number for number, text in enumerate(vocabulary)}
    picture_spread = stage.noise * spread_of_pictures(corpora[0])
    text_spread = stage.text_noise * spread_of_texts(states, mask)
    model.train()
    upper.freeze(model)
    optimizer = build_optimizer(model, stage.optim, upper.factors(model, stage.block_rate, stage.text_rate))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    told = []
    for step in range(stage.steps):
        set_learning_rate(optimizer, learning_rate(stage.optim, step, stage.steps))
        losses = []
        for corpus in corpora:
            clips = corpus.medium == "video"
            size, share = (stage.clips, stage.clip_label_share) if clips else (stage.batch, stage.label_share)
            tokens, texts, keys = corpus.draw(size, share, rng)
            rows = torch.tensor([place[text] for text in texts])
            length = int(mask[rows].sum(1).max())
            patches = 1 + rng.permutation(tokens.shape[2] - 1)[: stage.patches]
            tokens = tokens[:, :, torch.from_numpy(np.append(0, patches))].float()
            if stage.noise and not clips:
                pushed = picture_spread * torch.randn(len(tokens), 1, *picture_spread.shape)
                tokens = torch.cat([tokens[:, :, :1] + pushed[:, :, :1], tokens[:, :, 1:] + pushed[:, :, 1:]], 2)
            read = states[rows, :length]
            if stage.text_noise:
                read = read + text_spread * torch.randn(len(rows), 1, len(text_spread))
            number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
            labels = torch.tensor([number[key] for key in keys])
            with torch.autocast("cpu", torch.bfloat16):
                seen = upper_visual(model, tokens, upper.visual)
                said = upper_text(model, read, mask[rows, :length], upper.text)
            loss = univlc_loss(seen, said, labels, seen, said, labels, model.temperature.clamp(0.001, 0.5)).mean()
            loss.backward()
            losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(learnt, stage.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.temperature.clamp_(0.001, 0.5)
        told.append(sum(losses) / len(losses))
    model.eval()
    return told
