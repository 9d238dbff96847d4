"""Making an index of photographs and of videos: against the same model in a plain loop, and against its own parts.

    python benchmarks/indexing.py [--tiny] [--pairs N]

The plain loop reads a file (of a video each window in turn), embeds it alone, and saves the vectors once. The parts are
everything that the index's threads read and nothing embedded, then everything embedded that lies in memory: their sum
is what an index costs whose reading and computing do not overlap. Ours also hashes each file, writes each batch to the
disk, and leaves an index that can be searched and brought up to date. The files are made here, and lie in the page
cache; the model is of random weights. Goals: 1.5 times the plain loop; at most 1.15 of the parts, which is a ratio of
0.87.
"""

import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, seconds
from benchmarks.loader import film, scenery
from omnivl.config import MODELS, ModelConfig, TextConfig, VisionConfig
from omnivl.data import world
from omnivl.data.media import read_video
from omnivl.data.windows import spans
from omnivl.inference.indexer import THREADS
from omnivl.inference.inputs import Loaded
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.reader import File, Part, Reader
from omnivl.inference.store import Settings
from omnivl.model import OmniVL
from omnivl.tokenizer import Tokenizer

RATE = 25  # frames a second of a video, as `film` makes it


@dataclass(frozen=True)
class Shape:
    photos: int
    photo: tuple[int, int]  # width, height
    videos: int
    video: tuple[int, int]
    length: float  # seconds of a video
    model: ModelConfig


SMALL = Shape(32, (4000, 3000), 2, (1280, 720), 16, MODELS["small"])  # as phones make them
TINY = Shape(
    6,
    (60, 40),
    2,
    (64, 48),
    6,
    ModelConfig(
        vision=VisionConfig(image_size=32, num_frames=4, width=32, layers=1, heads=2, mlp_width=64),
        text=TextConfig(width=32, layers=1, heads=2, mlp_width=64),
        embed_dim=16,
    ),
)


def random_pipeline(config: ModelConfig) -> Pipeline:
    tokenizer = Tokenizer.train(world.all_captions(), vocab_size=200)
    torch.manual_seed(0)
    text = replace(config.text, vocab_size=tokenizer.vocab_size)
    return Pipeline(OmniVL(replace(config, text=text)), tokenizer)


def make_files(folder: Path, shape: Shape, medium: str) -> list[Path]:
    rng = np.random.default_rng(0)
    count = shape.photos if medium == "image" else shape.videos
    paths = [folder / f"{number:04d}.{'jpg' if medium == 'image' else 'mp4'}" for number in range(count)]
    for path in paths:
        if medium == "image":
            scenery(rng, *shape.photo).save(path, quality=90)
        else:
            film(path, rng, *shape.video, round(shape.length * RATE))
    return paths


def plain(pipeline: Pipeline, paths: Sequence[Path], medium: str, settings: Settings, out: Path) -> None:
    vectors = []
    for path in paths:
        if medium == "image":
            vectors.append(pipeline.embed(path))
            continue
        for start, end in spans(read_video(path, 1).duration, settings.seconds, settings.stride):
            vectors.append(pipeline.embed(read_video(path, settings.num_frames, start, end).frames))
    np.save(out, np.stack(vectors))


def decoded(pipeline: Pipeline, paths: Sequence[Path], settings: Settings) -> list[Loaded]:
    """All that the index's threads hand on."""
    files = [File(str(path).encode(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    with closing(Reader(pipeline, settings, {}, THREADS).read(files)) as messages:
        parts = [message.loaded for message in messages if isinstance(message, Part)]
    return [part for part in parts if isinstance(part, Loaded)]


def measure(tiny: bool, pairs: int) -> list[Row]:
    shape = TINY if tiny else SMALL
    pipeline = random_pipeline(shape.model)
    return [row for medium in ("image", "video") for row in of_medium(pipeline, shape, medium, pairs)]


def of_medium(pipeline: Pipeline, shape: Shape, medium: str, pairs: int) -> list[Row]:
    settings = Settings(pipeline.config.vision.num_frames)
    ours, loop, parts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        media = Path(folder) / "media"
        media.mkdir()
        paths = make_files(media, shape, medium)
        loaded = decoded(pipeline, paths, settings)
        pipeline.embed(loaded)
        for number in range(pairs):
            place = Path(folder) / f"index-{number}"
            ours.append(seconds(lambda place=place: MediaIndex.build(media, pipeline, index=place).close()))  # type: ignore[misc]
            loop.append(seconds(lambda: plain(pipeline, paths, medium, settings, Path(folder) / "loop.npy")))
            reading = seconds(lambda: decoded(pipeline, paths, settings))
            parts.append((reading, seconds(lambda: pipeline.embed(loaded))))
    told = {"image": "photographs", "video": "videos"}[medium]
    items = len(paths) if medium == "image" else len(paths) * shape.length
    shared = {
        "us": "`MediaIndex.build`",
        "pixels": "x".join(map(str, shape.photo if medium == "image" else shape.video)),
        "vectors": len(loaded),
        "model_width": pipeline.config.vision.width,
        "photos_a_second" if medium == "image" else "times_real_time": round(items / float(np.median(ours)), 2),
        "reading_alone_s": round(float(np.median([a for a, _ in parts])), 2),
        "embedding_alone_s": round(float(np.median([b for _, b in parts])), 2),
    }
    name = f"indexing, {len(paths)} {told}"
    each = {"them": "the same model in a plain loop", "goal": 1.5}
    summed = {"them": "reading alone plus embedding alone", "goal": 0.87}
    return [
        against(f"{name}, plain loop", list(zip(ours, loop, strict=True)), shared | each),
        against(f"{name}, its parts", [(a, sum(b)) for a, b in zip(ours, parts, strict=True)], shared | summed),
    ]


if __name__ == "__main__":
    command(__doc__, measure, pairs=3)
