"""The training loader with its workers, against nothing but decoding and resizing the same files in as many processes,
and against webdataset's own pipeline.

    python benchmarks/loader.py [--tiny] [--pairs N]

Pictures are JPEGs of a photograph's size, clips are MP4s; they are made here, and lie in the page cache. The bare side
opens each picture with Pillow and nothing else (of a clip it takes the frames as ours does), resizes, and throws the
result away: no text, no batch, no way back to the parent. webdataset gets the same decoding, resizing, tokens and
batches, and shards that divide over its workers. Each side goes several times through the files, as an epoch's length
makes it in earnest; starting the processes is in every figure. Augmentation is off.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the command is a path, so the repository is not on it

from benchmarks.common import Row, against, command, take_turns
from omnivl.config import DataConfig, from_dict
from omnivl.data.annotations import Item
from omnivl.data.loader import Plan, PlannedBatches, training_loader
from omnivl.data.media import read_image, read_video
from omnivl.data.sample import Batch, Sample, collate
from omnivl.data.shard_writer import write_shards
from omnivl.data.sources import Ask, open_source
from omnivl.data.transforms import prepare
from omnivl.tokenizer import Tokenizer

WORDS = ("a", "photograph", "of", "one", "small", "thing", "on", "some", "large", "ground", "beside", "the", "others")
TOKENS = 40
SHARDS = 4


@dataclass(frozen=True)
class Shape:
    pictures: int
    clips: int
    batch: int
    clip_batch: int  # small, so that the last batches do not wait for one worker
    image_size: int
    num_frames: int
    stored: tuple[int, int]  # width, height of a picture
    filmed: tuple[int, int]  # of a clip
    length: int  # frames of a clip
    passes: int  # through the files
    processes: int = 2


SMALL = Shape(1024, 96, 32, 8, 224, 8, (500, 375), (340, 256), 75, 4)
TINY = Shape(16, 4, 4, 2, 32, 2, (60, 40), (64, 48), 6, 2)


def scenery(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soft shapes with some grain, which a codec compresses about as it does photographs."""
    soft = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    grain = rng.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))


def film(path: Path, rng: np.random.Generator, width: int, height: int, length: int, keyframes: int = 30) -> None:
    """A pan over one large picture: H.264, one keyframe in so many."""
    ground = np.asarray(scenery(rng, width + length, height))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": str(keyframes), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for step in range(length):
            frame = np.ascontiguousarray(ground[:, step : step + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


class Bench:
    """Files of both media, the same pictures as shards, and the ways of going through them once."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape, rng = shape, np.random.default_rng(0)
        self.ask = Ask(shape.image_size, shape.num_frames, "bicubic")
        self.files: dict[str, list[Path]] = {"image": [], "video": []}
        for number in range(shape.pictures):
            self.files["image"].append(folder / f"{number:05d}.jpg")
            scenery(rng, *shape.stored).save(self.files["image"][-1], quality=90)
        for number in range(shape.clips):
            self.files["video"].append(folder / f"{number:05d}.mp4")
            film(self.files["video"][-1], rng, *shape.filmed, shape.length)
        self.manifests = {medium: folder / f"{medium}.jsonl" for medium in self.files}
        texts = [" ".join(rng.permutation(WORDS)[: rng.integers(4, len(WORDS))]) for _ in range(shape.pictures)]
        self.tokenizer = Tokenizer.train(texts, vocab_size=200)
        for medium, paths in self.files.items():
            rows = (
                f'{{"media": "{path}", "caption": "{text}"}}'
                for path, text in zip(paths, texts[: len(paths)], strict=True)
            )
            self.manifests[medium].write_text("\n".join(rows))
        items = [Item(path, (text,)) for path, text in zip(self.files["image"], texts, strict=True)]
        each = sum(path.stat().st_size + 4096 for path in self.files["image"]) // SHARDS
        self.tars = folder / "tars"
        write_shards(items, self.tars, each)

    def loader(self, spec: str, medium: str) -> Callable[[], Iterator[Batch]]:
        """What begins a run of ours. A source is opened once a run, which is not timed."""
        batch = self.shape.clip_batch if medium == "video" else self.shape.batch
        data = from_dict(DataConfig, {"media": medium, "batch_size": batch}, where="data")
        source = open_source(spec, data)
        plan = Plan(data, 0, [spec], [{medium: source.length(medium)}], [1])
        batches = PlannedBatches([source], self.ask, self.tokenizer, 0, TOKENS, "raise")
        steps = self.shape.passes * source.length(medium) // batch
        return lambda: training_loader(plan, batches, 0, steps, self.shape.processes)

    def webdataset(self) -> Any:
        """A run of the peer."""
        import webdataset as wds

        tars = sorted(map(str, self.tars.glob("*.tar")))

        def sample(parts: dict[str, Any]) -> Sample:
            frames = np.asarray(read_image(parts["jpg"]))[None]
            return Sample(prepare(frames, self.shape.image_size), parts["txt"].decode(), key=parts["__key__"])

        def batch(samples: list[Sample]) -> Batch:
            return collate(samples, "image", self.tokenizer, TOKENS)

        made = wds.WebDataset(tars, shardshuffle=False, empty_check=False).repeat(self.shape.passes).map(sample)
        made = made.batched(self.shape.batch, collation_fn=batch)
        return wds.WebLoader(made, batch_size=None, num_workers=self.shape.processes, prefetch_factor=2)

    def bare(self, medium: str) -> None:
        """Decode and resize every file, in as many processes as the loaders have workers."""
        paths, processes = self.files[medium], self.shape.processes
        context = multiprocessing.get_context("fork")
        running = [
            context.Process(target=self.decode_all, args=(medium, paths[i::processes])) for i in range(processes)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join()
        assert all(process.exitcode == 0 for process in running)

    def decode_all(self, medium: str, paths: list[Path]) -> None:
        for path in paths * self.shape.passes:
            self.decode(medium, path)

    def decode(self, medium: str, path: Path) -> np.ndarray:
        """(T, H, W, 3) uint8."""
        size = self.shape.image_size
        if medium == "image":
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))[None]
        return prepare(read_video(path, self.shape.num_frames).frames, size)


def through(batches: Callable[[], Any]) -> Callable[[], None]:
    """Going through all batches, as a training step that costs nothing would."""

    def work() -> None:
        for _ in batches():
            pass

    return work


def measure(tiny: bool, pairs: int) -> list[Row]:
    shape = TINY if tiny else SMALL
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), shape)
        pictures = f"manifest:{bench.manifests['image']}"
        clips, shards = f"manifest:{bench.manifests['video']}", f"shards:{bench.tars}"
        told = {
            "processes": shape.processes,
            "batch": shape.batch,
            "pixels": shape.image_size,
            "stored": "x".join(map(str, shape.stored)),
            "pictures": shape.pictures,
            "passes": shape.passes,
        }
        filmed = {
            **told,
            "batch": shape.clip_batch,
            "frames": f"{shape.num_frames} of {shape.length}",
            "stored": "x".join(map(str, shape.filmed)),
            "clips": shape.clips,
        }
        del filmed["pictures"]
        bare = {"goal": 0.9, "us": "the loader", "them": "decode and resize alone"}
        peer = {"goal": 1, "us": "the loader", "them": "webdataset"}
        rows = (
            ("loader, pictures from files", pictures, "image", lambda: bench.bare("image"), bare | told),
            ("loader, pictures from shards", shards, "image", lambda: bench.bare("image"), bare | told),
            ("loader, clips from files", clips, "video", lambda: bench.bare("video"), bare | filmed),
            ("loader, shards beside webdataset", shards, "image", through(bench.webdataset), peer | told),
        )
        return [
            against(name, take_turns(through(bench.loader(spec, medium)), other, pairs), settings)
            for name, spec, medium, other, settings in rows
        ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are what runs side by side
    command(__doc__, measure, pairs=5)
