"""What converting a base-size BLIP checkpoint takes: seconds, and the peak of memory beside the file's size.

    python -m studies.conversion

The checkpoint is made here, of random weights under BLIP's own names (its captioner's and its matcher's); the command
line converts it in a process of its own, on one thread; Linux alone tells the peak. The numbers go to
docs/results/conversion.json.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omnivl.config import ModelConfig
from omnivl.model import OmniVL
from omnivl.model.convert.apply import to_theirs
from omnivl.model.convert.tables import BLIP
from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"captioner": r"visual_encoder|text_decoder", "matcher": r"visual_encoder|text_encoder|\w+_proj|itm_head"}
CONVERT = """
import re, sys, time
begun = time.monotonic()
from omnivl.cli import main
code = main(["convert", sys.argv[1], sys.argv[2], "--vocab", sys.argv[3]])
seconds = time.monotonic() - begun
# of this process alone, where getrusage would still count the one that started it
print("measured", seconds, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def vocabulary(path: Path) -> None:
    """30,522 entries, as BERT's has."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*words, *(f"w{i}" for i in range(30522 - len(words)))]))


def measure(kind: str, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / f"{kind}.pth"
    torch.save({"model": {name: v.clone() for name, v in state.items() if re.match(PARTS[kind], name)}}, file)
    words = [sys.executable, "-c", CONVERT, str(file), str(folder / kind), str(folder / "vocab.txt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    _, seconds, peak = told.splitlines()[-1].split()
    sizes = {"file_bytes": file.stat().st_size, "peak_bytes": int(peak) * 1024}
    row = {"source": f"BLIP {kind}, base, 384 pixels", "seconds": round(float(seconds), 2), **sizes}
    return row | {"peak_over_file": round(sizes["peak_bytes"] / sizes["file_bytes"], 3)}


def main() -> None:
    base = ModelConfig()
    torch.manual_seed(0)
    model = OmniVL(replace(base, vision=replace(base.vision, image_size=384)))
    state = {name: value.detach() for name, value in to_theirs(BLIP, model.state_dict()).items()}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary(Path(folder) / "vocab.txt")
        rows = [measure(kind, state, Path(folder)) for kind in PARTS]
    found = {
        "command": "python -m studies.conversion",
        "omnivl": version("omnivl"),
        "commit": commit(),
        "machine": f"{machine()}, 1 thread",
        "seed": 0,
        "goals": {"seconds": 30, "peak_over_file": 2.5},
        "results": rows,
    }
    write_json(ROOT / "docs" / "results" / "conversion.json", found)
    for row in rows:
        print(f"{row['source']}: {row['seconds']} s, peak {row['peak_over_file']} times the file's size")


if __name__ == "__main__":
    main()
