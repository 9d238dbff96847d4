"""Pretrain the upper part of the converted encoders on the mini benchmark: drawings, then drawings and clips.

    python studies/encoders/train.py OUT [--encoders runs/encoders] [--features runs/encoders/features] [--seed 0]

Reads what sources.py and features.py wrote (without features of clips: drawings alone), and writes OUT/model, an
ordinary model folder, and OUT/training.json with the CPU seconds of all that it took. --random starts from random
weights (with features of `features.py --random`): the control.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.config import OptimConfig, read_json
from omnivl.data.annotations import Item
from omnivl.model import OmniVL
from omnivl.model.folder import save_folder
from omnivl.results import commit, machine
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import write_json
from studies.encoders.features import CUT, DRAWINGS, read, start, training_items
from studies.encoders.fit import Corpus, Steps, Upper, fit, in_other_words
from studies.encoders.language import phrases, with_mean_block

LEARNT = Upper(visual=CUT, text=6)  # the last visual block, and the text block added to MiniLM's six
TEMPERATURE = 0.03  # to start from: it would take a hundred steps to come down to it
PHRASES = 3000  # texts whose main directions the projection starts from
OPTIM = OptimConfig(lr=1e-3, warmup_steps=15, betas=(0.9, 0.98))
DRAWN = Steps(steps=800, batch=512, optim=OPTIM, text_rate=1.0, noise=1.0, text_noise=0.6)
BOTH = Steps(steps=80, batch=256, clips=128, optim=OPTIM, noise=1.0, text_noise=0.6)


def sets_of_drawings(features: Path) -> list[str]:
    """Those whose tokens are there."""
    return [name for name in DRAWINGS if (features / f"{name}_0.safetensors").exists()]


def drawn_items(data: Path, features: Path) -> list[Item]:
    """The training items in all of them, in the order of their tokens in `read_corpora`."""
    return [item for name in sets_of_drawings(features) for item in training_items(data, name)]


def read_corpora(data: Path, features: Path) -> tuple[list[Corpus], float]:
    """Drawings in the copies that all sets of them have, and clips where they are there; the CPU seconds that their
    tokens took."""
    sets = sets_of_drawings(features)
    copies = min(len(list(features.glob(f"{name}_?.safetensors"))) for name in sets)
    kept = [[read(features, f"{name}_{copy}") for name in sets] for copy in range(copies)]
    pictures = torch.stack([torch.cat([tokens for tokens, _ in one]) for one in kept], 1)  # (I, C, 1, 1 + S, D)
    seconds = sum(each for one in kept for _, each in one)
    items = drawn_items(data, features)
    words, rng = read_json(data / "emoji_words.json"), np.random.default_rng(0)
    captions = sorted({item.captions[0] for item in items})
    said = {caption: in_other_words(caption, words.get(caption, []), rng) for caption in captions}
    corpora = [Corpus.of(items, pictures, "image", said)]
    if (features / "flare_train.safetensors").exists():
        clips, more = read(features, "flare_train")
        corpora.append(Corpus.of(training_items(data, "flare_train"), clips[:, None], "video"))
        seconds += more
    return corpora, seconds


def train(model: OmniVL, tokenizer: Tokenizer, corpora: Sequence[Corpus], seed: int) -> dict[str, list[float]]:
    """All stages in place, the last where there are clips; gives their losses."""
    with torch.no_grad():
        model.temperature.fill_(TEMPERATURE)
    losses = {"drawings": fit(model, tokenizer, LEARNT, DRAWN, corpora[:1], seed=seed)}
    if len(corpora) > 1:
        model.start_video_from_image()  # from the image weights as they are now
        losses["both"] = fit(model, tokenizer, LEARNT, BOTH, corpora, seed=seed + 1000)
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description="Pretrain from real encoders on the mini benchmark.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--encoders", type=Path, default=Path("runs/encoders"), help="what sources.py wrote")
    parser.add_argument("--features", type=Path, default=Path("runs/encoders/features"), help="what features.py wrote")
    parser.add_argument("--data", type=Path, default=Path("runs/mini-data"), help="what build.py --size 112 wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="from random weights")
    options = parser.parse_args()
    corpora, spent = read_corpora(options.data, options.features)
    begun = time.process_time()
    model, tokenizer = start(options.encoders, random=options.random)
    model = with_mean_block(model, tokenizer, phrases(tokenizer, PHRASES, np.random.default_rng(options.seed)))
    losses = train(model, tokenizer, corpora, options.seed)
    took = time.process_time() - begun
    save_folder(model, tokenizer, options.out / "model")
    ends = {stage: [round(sum(part) / 5, 3) for part in (each[:5], each[-5:])] for stage, each in losses.items()}
    told = {
        "command": "python studies/encoders/train.py OUT" + (" --random" if options.random else ""),
        "commit": commit(),
        "machine": f"{machine()}, 1 thread",
        "seed": options.seed,
        "copies": corpora[0].tokens.shape[1],
        "clips": sum(len(corpus.captions) for corpus in corpora[1:]),
        "settings": {"upper": dataclasses.asdict(LEARNT), "drawings": dataclasses.asdict(DRAWN),
                     "both": dataclasses.asdict(BOTH)},
        "cpu_seconds": {"features": round(spent, 1), "training": round(took, 1), "all": round(spent + took, 1)},
        "losses": ends,  # of the first and of the last five steps
    }  # fmt: skip
    write_json(options.out / "training.json", told)
    print(told["losses"], told["cpu_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
