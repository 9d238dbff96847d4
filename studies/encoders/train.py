"""Pretrain the upper part of the converted encoders on the mini benchmark: drawings first, then drawings and clips.

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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is a path, so the repository is not on it

from omnivl.config import OptimConfig
from omnivl.model import OmniVL
from omnivl.model.folder import save_folder
from omnivl.results import commit, machine
from omnivl.tokenizer import Tokenizer
from omnivl.train.checkpoint import write_json
from studies.encoders.features import CUT, read, start, training_items
from studies.encoders.fit import Corpus, Steps, Upper, fit

UPPER = Upper(visual=CUT, text=5)
OPTIM = OptimConfig(lr=1e-3, warmup_steps=15, betas=(0.9, 0.98))
DRAWINGS = Steps(steps=200, batch=512, optim=OPTIM)
BOTH = Steps(steps=80, batch=256, clips=128, optim=OPTIM)


def read_corpora(data: Path, features: Path) -> tuple[list[Corpus], float]:
    """Drawings in all their copies, and clips where they are there; the CPU seconds that their tokens took."""
    names = sorted(path.stem for path in features.glob("emoji_train_*.safetensors"))
    copies = [read(features, name) for name in names]
    pictures = torch.stack([tokens for tokens, _ in copies], 1)  # (I, C, 1, 1 + S, D)
    corpora = [Corpus.of(training_items(data, "emoji_train"), pictures, "image")]
    seconds = sum(each for _, each in copies)
    if (features / "flare_train.safetensors").exists():
        clips, more = read(features, "flare_train")
        corpora.append(Corpus.of(training_items(data, "flare_train"), clips[:, None], "video"))
        seconds += more
    return corpora, seconds


def train(model: OmniVL, tokenizer: Tokenizer, corpora: Sequence[Corpus], seed: int) -> dict[str, list[float]]:
    """Both stages in place, the second where there are clips; gives their losses."""
    losses = {"drawings": fit(model, tokenizer, UPPER, DRAWINGS, corpora[:1], seed=seed)}
    if len(corpora) > 1:
        model.start_video_from_image()  # from the image weights as they are now
        losses["both"] = fit(model, tokenizer, UPPER, BOTH, corpora, seed=seed + 1000)
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
        "settings": {"upper": dataclasses.asdict(UPPER), "drawings": dataclasses.asdict(DRAWINGS),
                     "both": dataclasses.asdict(BOTH)},
        "cpu_seconds": {"features": round(spent, 1), "training": round(took, 1), "all": round(spent + took, 1)},
        "losses": ends,  # of the first and of the last five steps
    }  # fmt: skip
    write_json(options.out / "training.json", told)
    print(told["losses"], told["cpu_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
