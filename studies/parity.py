"""How far our modules are from other people's on the same weights: the largest absolute difference of each comparison.

    python -m studies.parity

Runs the tests that compare with Hugging Face's modules (random weights, tiny and of the real base size; MiniLM's real
ones where its package is installed) and notes what their comparisons see. The table is printed, and goes to
docs/results/parity.json.
"""

import sys
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from omnivl.results import commit, machine
from omnivl.train.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("test_convert.py", "test_convert_minilm.py", "test_parity_blip.py")
GOAL = 1e-4


class Recorder:
    """A pytest plugin: test -> (comparisons, largest absolute difference)."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, float]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        compare = torch.testing.assert_close

        def noted(ours: Tensor, theirs: Tensor, **limits: Any) -> None:
            count, largest = self.rows.get(item.name, (0, 0.0))
            self.rows[item.name] = (count + 1, max(largest, float((ours - theirs).abs().max())))
            compare(ours, theirs, **limits)

        with patch("torch.testing.assert_close", noted):
            return (yield)


def main() -> int:
    recorder = Recorder()
    files = [str(ROOT / "tests" / "model" / name) for name in TESTS]
    failed = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "", *files], plugins=[recorder])
    if failed:
        return int(failed)
    rows = [
        {"test": name, "comparisons": count, "largest_difference": float(f"{largest:.1e}")}
        for name, (count, largest) in recorder.rows.items()
    ]
    found = {
        "command": "python -m studies.parity",
        "omnivl": version("omnivl"),
        "transformers": version("transformers"),
        "commit": commit(),
        "machine": machine(),
        "goal": GOAL,
        "results": rows,
    }
    write_json(ROOT / "docs" / "results" / "parity.json", found)
    for row in rows:
        print(f"{row['largest_difference']:.1e}  {row['test']} ({row['comparisons']} comparisons)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
