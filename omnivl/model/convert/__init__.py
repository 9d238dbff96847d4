"""Weights of others as a model folder of ours: one source for the whole model, or the visual encoder of one and the
text side of another.

`tables` (of `rows`) says which tensor is which, `apply` does it, `files` reads, `architecture` tells the shape,
`assemble` makes the model and the report.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from omnivl.config import ModelConfig
from omnivl.model.convert.apply import recognise, to_ours
from omnivl.model.convert.architecture import check_settings, text_config, vision_config, with_pixels
from omnivl.model.convert.assemble import Report, derive_text, fill, fit_widths, grow_vocabulary, share, tell
from omnivl.model.convert.files import open_weights
from omnivl.model.convert.tables import BLIP_TEXT, CLASSIFIER
from omnivl.model.folder import load_folder, save_folder
from omnivl.model.hub import SOURCE_FILES, VOCABULARY_FILES, local_folder
from omnivl.model.omnivl import OmniVL
from omnivl.tokenizer import ADDED_SPECIALS, Tokenizer

__all__ = ["Report", "convert"]

VOCAB = "give one with --vocab FILE_OR_HUB_ID, such as --vocab google-bert/bert-base-uncased"
CAPTION_PROMPT = "a picture of "  # what BLIP's captioners are finetuned with


@dataclass
class Side:
    """What one source gives: its tensors under our names, and a config of which only the parts it has are meant."""

    where: str
    folder: Path  # where its vocabulary may stand
    values: dict[str, Tensor]
    config: ModelConfig
    blip: bool = False

    def take(self, visual: bool) -> None:
        """Keep the visual encoder alone, or all but it."""
        self.values = {name: value for name, value in self.values.items() if name.startswith("visual") is visual}


def convert(
    source: str | Path | None,
    out: Path | str,
    *,
    vision: str | Path | None = None,
    text: str | Path | None = None,
    vocab: str | Path | None = None,
    image_size: int | None = None,
    num_frames: int | None = None,
    **hub: Any,
) -> Report:
    """Write the model folder `out` from `source`, or from the visual encoder of `vision` and the text side of `text`:
    files, folders or hub repositories.

    Args:
        vocab: a vocab.txt, tokenizer.json, folder or hub repository; none: what stands beside the (text) source.
        image_size: pixels, where not those of the source; its position table is resized.
        num_frames: frames a clip, where not those of the source (8 where it knows none).
        hub: revision, token, cache_dir, local_files_only, as `omnivl.load` takes them.

    Raises ValueError or FileNotFoundError (one sentence); then nothing is left of `out`.
    """
    out = free(Path(out))
    report = Report()
    if source is not None and vision is None and text is None:
        sides = [read_side(source, report, hub)]
        whole_or_not(sides[0])
    elif source is None and vision is not None and text is not None:
        sides = [read_side(vision, report, hub), read_side(text, report, hub)]
        part_or_not(sides)
    else:
        raise ValueError("give one SOURCE for the whole model, or both --vision and --text")
    tokenizer = find_vocabulary(vocab, sides[-1], hub)
    model = assemble(sides, tokenizer, report)
    report.notes += model.resize(
        model.config.vision.image_size if image_size is None else image_size,
        model.config.vision.num_frames if num_frames is None else num_frames,
    )
    model.extra["origin"] = str(report).splitlines()
    write_whole(model, tokenizer, out)
    return report


def free(out: Path) -> Path:
    """The folder to write, if it can be. Raises ValueError."""
    if not out.name:
        raise ValueError(f"{out} is no name of a folder to write: choose one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: choose another folder, or remove it")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{out} cannot be written: {above} is no folder that may be written in")
    return out


def write_whole(model: OmniVL, tokenizer: Tokenizer, out: Path) -> None:
    """Write the folder under another name, then rename it."""
    temporary = out.parent / f".{out.name}.{os.getpid()}"
    try:
        save_folder(model, tokenizer, temporary)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_side(name: str | Path, report: Report, hub: Mapping[str, Any]) -> Side:
    """Read and translate one source. Raises ValueError, FileNotFoundError."""
    path = local_folder(name, files=SOURCE_FILES, **hub)
    folder = path if path.is_dir() else path.parent
    opened = open_weights(path, str(name))
    if "visual.patches.image.weight" in opened.weights:
        model, _ = load_folder(folder)
        report.sources.append(f"{name}: a model folder of omnivl")
        report.sources += [line for line in model.extra.get("origin", ()) if line.startswith("source: ")]
        values = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
        report.used += [k for k in opened.weights if not k.startswith("classifier.")]
        report.dropped |= {k: CLASSIFIER for k in opened.weights if k.startswith("classifier.")}
        return Side(str(name), folder, values, model.config)
    source = recognise(opened.weights, opened.where)
    check_settings(source, opened.settings, opened.where)
    made = to_ours(source, opened.weights, opened.where)
    report.sources.append(f"{name}: {source.name} ({', '.join(made.parts)})")
    tell(report, made)
    config, values = ModelConfig(), made.values
    if "visual.cls" in values:
        seen = vision_config(values, source, opened.settings, opened.where, report.notes)
        config = with_pixels(
            replace(config, vision=seen), source, opened.settings, opened.preprocessor, opened.where, report.notes
        )
    if has_text(values):
        config = replace(config, text=text_config(values, source, opened.settings, opened.where, report.notes))
    if "decoder" in made.parts and "text encoder" not in made.parts:
        config = replace(config, image_prompt=CAPTION_PROMPT, video_prompt=CAPTION_PROMPT)
    return Side(str(name), folder, values, config, blip=source.parts.keys() >= BLIP_TEXT.keys())


def has_text(values: Mapping[str, Tensor]) -> bool:
    return any(f"{stack}.embeddings.word.weight" in values for stack in ("text", "generation"))


def whole_or_not(side: Side) -> None:
    """Raises ValueError where one source is not both."""
    if "visual.cls" not in side.values:
        raise ValueError(
            f"{side.where} holds a text encoder alone: give it as --text, and a visual encoder as --vision"
        )
    if not has_text(side.values):
        raise ValueError(
            f"{side.where} holds a visual encoder alone: give it as --vision, and a text encoder as --text"
        )


def part_or_not(sides: list[Side]) -> None:
    """Keep of two sources what each was named for. Raises ValueError where it has nothing of that."""
    if "visual.cls" not in sides[0].values:
        raise ValueError(f"{sides[0].where} was given as --vision, but holds text weights alone")
    if not has_text(sides[1].values):
        raise ValueError(f"{sides[1].where} was given as --text, but holds a visual encoder alone")
    sides[0].take(visual=True)
    sides[1].take(visual=False)


def find_vocabulary(vocab: str | Path | None, side: Side, hub: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that is given, or that stands beside the source. Raises ValueError where there is none, or where
    it is not that of the embedding."""
    if vocab is not None:
        path = local_folder(vocab, files=VOCABULARY_FILES, **{k: v for k, v in hub.items() if k != "revision"})
    elif (side.folder / "vocab.txt").is_file() or (side.folder / "tokenizer.json").is_file():
        path = side.folder
    else:
        raise ValueError(f"{side.where} carries no vocabulary: {VOCAB}")
    if path.is_dir() or path.name == "tokenizer.json":
        tokenizer = Tokenizer.from_folder(path if path.is_dir() else path.parent)
    else:
        tokenizer = Tokenizer.from_vocab(path)
    rows, size = side.config.text.vocab_size, tokenizer.vocab_size
    if rows > size or not set(tokenizer.vocab[rows:]) <= set(ADDED_SPECIALS):
        raise ValueError(
            f"{path} is not the vocabulary of {side.where}: it has {size} tokens with [DEC] and [ENC], the embedding "
            f"{rows} rows: {VOCAB}"
        )
    if side.blip and tokenizer.vocab[-2:] != ADDED_SPECIALS:
        raise ValueError(f"{path} is not the vocabulary of {side.where}: BLIP's last two tokens are [DEC] and [ENC]")
    return tokenizer


def assemble(sides: list[Side], tokenizer: Tokenizer, report: Report) -> OmniVL:
    """One model of one source, or of the visual encoder of the first and all else of the second."""
    seen, said = sides[0], sides[-1]
    where = " and ".join(side.where for side in sides)
    values = {name: value for side in sides for name, value in side.values.items()}
    widths = {len(values[name]) for name in ("visual_projection.bias", "text_projection.bias") if name in values}
    if len(widths) > 1:
        raise ValueError(f"{where} project to different dimensions ({widths}): vectors of theirs cannot be compared")
    config = replace(
        said.config,
        vision=seen.config.vision,
        mean=seen.config.mean,
        std=seen.config.std,
        interpolation=seen.config.interpolation,
        embed_dim=widths.pop() if widths else said.config.embed_dim,
    )
    fit_widths(values, config, report.notes)
    config = share(values, config, report.derived)
    derive_text(values, config, report.derived)
    grown: list[str] = []
    grow_vocabulary(values, tokenizer.vocab_size, grown)
    config = replace(config, text=replace(config.text, vocab_size=tokenizer.vocab_size))
    model = fill(values, config, report, where)
    report.new += grown
    return model
