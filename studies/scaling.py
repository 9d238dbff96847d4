"""What base costs and what follows from it: parameters, FLOPs of a step, communication, hours; printed as tables.

    python -m studies.scaling

Counted here from the configs alone, and checked against torch.utils.flop_counter on the modules themselves by
tests/studies/test_scaling.py. A product of (m, k) and (k, n) is 2 m k n; what is no matrix product is not counted.
Cards and their efficiency are assumptions, which docs/scaling.md names. Rates come from docs/results/benchmarks.json;
what an index's database takes is measured here. The numbers go to docs/results/scaling.json.
Axes: L text tokens, N visual tokens, D width, S patches of a frame.
"""

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnivl.config import MODELS, ModelConfig, read_json
from omnivl.inference.filling import Filler
from omnivl.inference.reader import File
from omnivl.inference.search import NEIGHBOURS
from omnivl.inference.store import Description, Settings, Writer
from omnivl.inference.storing import link
from omnivl.model import OmniVL
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
BANK = 57600

# --- assumptions -----------------------------------------------------------------------------------------------------

TEXT = 24  # tokens of a text: the longest of a batch of alt-texts
CARD = 989e12  # FLOP a second of an H100's dense bf16 products, as its maker says
SHARE = 0.4  # of that which a step reaches
WITHIN, BETWEEN = 450e9, 50e9  # bytes a second of a card: to the seven others of its node, to other nodes
BATCH = {"image": 64, "video": 16}  # a card
PICTURES, CLIPS = 14e6 + 1.28e6, 2.5e6 + 0.24e6  # the paper's: 14M + ImageNet; WebVid-2.5M + Kinetics-400
EPOCHS = 20, 10  # of the first and the second stage
PICTURE = 100e3  # bytes
FILES = 20_000  # of the index whose database is measured


# --- FLOPs -----------------------------------------------------------------------------------------------------------


def attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width


def visual(config: ModelConfig, frames: int, queries: int | None = None) -> int:
    """The visual encoder's forward pass of one picture (1 frame) or clip."""
    vision = config.vision
    width, patches = vision.width, (vision.image_size // vision.patch_size) ** 2
    slots, depth = (1, 1) if frames == 1 else (-(-frames // vision.tubelet_size), vision.tubelet_size)
    tokens = 1 + patches
    total = 2 * slots * patches * 3 * depth * vision.patch_size**2 * width
    for left in reversed(range(vision.layers)):
        asked = tokens if left or queries is None else queries
        spatial = 2 * tokens * 2 * width**2 + 2 * asked * 2 * width**2 + attention(asked, tokens, width)
        total += slots * (spatial + 4 * asked * width * vision.mlp_width)
        if frames > 1:
            total += tokens * (slots * 8 * width**2 + attention(slots, slots, width))
    return total + 2 * width * config.embed_dim


def text(config: ModelConfig, length: int, context: int = 0, queries: int | None = None) -> int:
    """One text through the stack, looking at `context` visual tokens whose keys and values are there."""
    shape, total = config.text, 0
    width = shape.width
    for left in reversed(range(shape.layers)):
        asked = length if left or queries is None else queries
        total += 2 * length * 2 * width**2 + 2 * asked * 2 * width**2 + attention(asked, length, width)
        if context:
            total += 4 * asked * width**2 + attention(asked, context, width)
        total += 4 * asked * width * shape.mlp_width
    return total


def keys_values(config: ModelConfig, context: int) -> int:
    return config.text.layers * 2 * context * config.vision.width * 2 * config.text.width


def words(config: ModelConfig, length: int) -> int:
    """The language-modelling head."""
    return 2 * (length - 1) * config.text.width * (config.text.width + config.text.vocab_size)


def step(
    config: ModelConfig, frames: int, length: int = TEXT, bank: int = BANK, together: bool = False
) -> dict[str, int]:
    """A pretraining step, FLOPs for each of its rows: forward and backward of what learns (the backward pass is two
    forward ones), forward of the momentum copy. `together`: negatives are drawn over all ranks, so their keys and
    values are computed once more."""
    vision = config.vision
    slots = 1 if frames == 1 else -(-frames // vision.tubelet_size)
    context = 1 + slots * (vision.image_size // vision.patch_size) ** 2
    embed = 2 * config.text.width * config.embed_dim
    return {
        "visual encoder": 3 * visual(config, frames),
        "text encoder": 3 * (text(config, length) + embed),
        "cross-attention keys and values": 3 * keys_values(config, context) * (2 if together else 1),
        "matching, three pairs": 3 * 3 * text(config, length, context, queries=1),
        "language modelling": 3 * (text(config, length, context) + words(config, length)),
        "momentum copy": visual(config, frames, 1) + text(config, length, queries=1) + embed,
        "bank": 3 * 2 * 2 * bank * config.embed_dim,
    }


# --- what follows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Parameters that learn, by where FSDP gathers them."""

    whole: int
    visual: int  # attentions and feed-forwards of the visual blocks: gathered one by one in bf16
    temporal: int  # of these, what images never touch
    rest: int  # once a step, in float32
    momentum: int


def sizes(config: ModelConfig) -> Sizes:
    with torch.device("meta"):
        model = OmniVL(config)
    counts = {name: p.numel() for name, p in model.named_parameters()}
    products = {n: c for n, c in counts.items() if ".blocks." in n and n.startswith("visual.") and "norm" not in n}
    temporal = sum(c for n, c in products.items() if ".temporal." in n)
    momentum = sum(c for n, c in counts.items() if n.startswith(("visual", "text")))
    whole, parts = sum(counts.values()), sum(products.values())
    return Sizes(whole, parts, temporal, whole - parts, momentum)


def gathered(part: Sizes, frames: int) -> tuple[float, float]:
    """Bytes that a card receives in an FSDP step when there are very many: parameters of the model and of its momentum
    copy, and gradients (float32). Visual parts come twice, forward and backward."""
    visual_part = part.visual - (0 if frames > 1 else part.temporal)
    copy = 2 * visual_part + 4 * (part.momentum - part.visual)
    return 2 * 2 * visual_part + 4 * part.rest + copy, 4 * (visual_part + part.rest)


def communication(config: ModelConfig, cards: int, frames: int) -> dict[str, Any]:
    """A step of `cards` cards: what each receives; seconds of compute, and of sending where nothing overlaps."""
    part, batch = sizes(config), BATCH["image" if frames == 1 else "video"]
    parameters, gradients = (value * (cards - 1) / cards for value in gathered(part, frames))
    slots = 1 if frames == 1 else -(-frames // config.vision.tubelet_size)
    context = 1 + slots * (config.vision.image_size // config.vision.patch_size) ** 2
    negatives = (cards - 1) * batch * context * config.vision.width * 2  # bf16, and as much back as gradients
    speed = WITHIN if cards <= 8 else BETWEEN
    compute = batch * sum(step(config, frames, together=True).values()) / (SHARE * CARD)
    return {
        "cards": cards,
        "medium": "image" if frames == 1 else "video",
        "global batch": cards * batch,
        "parameters GB": parameters / 1e9,
        "gradients GB": gradients / 1e9,
        "tokens of negatives GB": negatives / 1e9,
        "compute s": compute,
        "FSDP s": (parameters + gradients) / speed,
        "DDP s": 2 * 4 * part.whole * (cards - 1) / cards / speed,
        "negatives s": 2 * negatives / speed,
    }


def schedule(config: ModelConfig) -> dict[str, float]:
    image, video = (sum(step(config, frames, together=True).values()) for frames in (1, 8))
    first, second = PICTURES * image, PICTURES * image + CLIPS * video
    total = EPOCHS[0] * first + EPOCHS[1] * second
    hours = {f"hours on {cards}": total / (cards * SHARE * CARD) / 3600 for cards in (8, 64, 512)}
    epochs = {"exaFLOP an epoch of stage 1": first / 1e18, "exaFLOP an epoch of stage 2": second / 1e18}
    return {**epochs, "exaFLOP": total / 1e18, **hours}


def measured() -> dict[str, float]:
    """Rates of docs/results/benchmarks.json, on its machine."""
    found = {row["benchmark"]: row for row in read_json(RESULTS / "benchmarks.json")["results"]}
    loader, clips = found["loader, pictures from shards"], found["loader, clips from files"]
    small = found["pretraining step, images"]
    flops = sum(step(MODELS["small"], 1, 16, small["settings"]["bank"]).values()) * small["settings"]["batch"]
    largest = found["search, exact, 1,000,000 vectors, 10 queries"]
    return {
        "pictures a second and process": a_process(loader, "pictures"),
        "clips a second and process": a_process(clips, "clips"),
        "GFLOP a second, step of small on two CPU threads": flops / small["ours"] / 1e9,
        "seconds of an exact search of a million": largest["ours"] / largest["settings"]["queries"],
    }


def a_process(row: dict[str, Any], what: str) -> float:
    settings = row["settings"]
    return settings["passes"] * settings[what] / row["ours"] / settings["processes"]


def database(folder: Path) -> dict[str, float]:
    """What an index of FILES pictures takes beside its vectors, and the CPU time of putting it into Milvus Lite."""
    description = Description("made up", "made up", 256, Settings(8))
    vectors = np.random.default_rng(0).standard_normal((FILES, 256)).astype(np.float16)
    writer = Writer(folder / "index", description)
    with writer.transaction():
        row = writer.append(vectors)
        for number in range(FILES):
            digest, path = number.to_bytes(16), f"s3://bucket/photos/{number // 1000:04}/{number:09}.jpg".encode()
            writer.execute("INSERT INTO contents (hash, kind, done) VALUES (?, 'image', 1)", (digest,))
            writer.execute(
                "INSERT INTO windows SELECT id, 0, ?, NULL, NULL FROM contents WHERE hash = ?", (row, digest)
            )
            writer.execute(*link(File(path, 100_000, 0), digest))
            row += 1
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = writer.path.stat().st_size
    begun = time.process_time()
    with closing(Filler(str(folder / "a.db"))) as filler:
        filler.fill(writer)
    seconds = time.process_time() - begun
    writer.close()
    return {
        "bytes of a picture in the database": size / FILES,
        "pictures put into Milvus a CPU second": FILES / seconds,
    }


def gigaflops(counted: dict[str, int]) -> dict[str, float]:
    return {name: round(value / 1e9, 2) for name, value in counted.items()} | {
        "total": round(sum(counted.values()) / 1e9, 1)
    }


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}


def main() -> None:
    base, part = MODELS["base"], sizes(MODELS["base"])
    read = 8 * SHARE * CARD / sum(step(base, 1, together=True).values())  # pictures a second of a node
    with tempfile.TemporaryDirectory() as folder:
        put = database(Path(folder))
    found: dict[str, Any] = {
        "command": "python -m studies.scaling",
        "omnivl": version("omnivl"),
        "commit": commit(),
        "machine": machine(),
        "assumed": {
            "text tokens": TEXT,
            "FLOP a second of a card": CARD,
            "share reached": SHARE,
            "bytes a second within a node": WITHIN,
            "bytes a second between nodes": BETWEEN,
            "batch of a card": BATCH,
            "pictures": PICTURES,
            "clips": CLIPS,
            "epochs of each stage": EPOCHS,
        },
        "parameters": vars(part),
        "GFLOP a picture": gigaflops(step(base, 1)),
        "GFLOP a clip of 8 frames": gigaflops(step(base, 8)),
        "GFLOP to embed": {
            "a picture": round(visual(base, 1, 1) / 1e9, 1),
            "a clip": round(visual(base, 8, 1) / 1e9, 1),
        },
        "schedule": rounded(schedule(base)),
        "communication": [rounded(communication(base, cards, frames)) for cards in (8, 64, 512) for frames in (1, 8)],
        "follows": {
            "million pictures": PICTURES / 1e6,
            "million clips": CLIPS / 1e6,
            "GB that a card holds under DDP": round((16 * part.whole + 4 * part.momentum) / 1e9, 1),
            "GB of a checkpoint": round((12 * part.whole + 4 * part.momentum) / 1e9, 1),
            "GB a second that a node reads": round(read * PICTURE / 1e9, 1),
            "kB of a node of the graph": (4 * base.embed_dim + 2 * NEIGHBOURS * 4) / 1e3,
        },
        "measured": rounded(measured() | put),
    }
    write_json(RESULTS / "scaling.json", found)
    for name, value in found.items():
        rows = value if isinstance(value, list) else [value]
        for row in rows:
            told = row if not isinstance(row, dict) else ", ".join(f"{key} {each}" for key, each in row.items())
            print(f"{name}: {told}")


if __name__ == "__main__":
    main()
