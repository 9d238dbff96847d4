"""Every figure that README and docs quote stands in a committed results file, and pages that are made from results
files say what those say.

A figure is a decimal number, or minutes and seconds, outside code. It must stand, as it is rounded, in one of the
results files that its document has named so far. Where none was named there may be no measured number: none with three
digits behind the point.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common
from omnivl.config import read_json
from studies.paradigms.numbers import Study
from studies.paradigms.page import Page
from studies.paradigms.plan import FULL

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "studies").glob("*/README.md"))]
CODE = re.compile(r"`[^`]*`|\]\([^)\n]*\)")  # links too
VERSION = re.compile(r"(Python|CC-BY|CC-BY-SA) \d+\.\d+")
FIGURE = re.compile(r"(?<![\w.,:/-])(?:(\d+):(\d\d)(?= minutes)|(\d+\.\d+)(?![.-]?\w))")


def numbers(value: Any) -> Iterator[float]:
    """All that a results file says, its settings aside."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in ("config", "settings"):
                yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def named_files(text: str) -> set[Path]:
    """The results files that a text names; a name with a number stands for all of its kind."""
    patterns = {re.sub(r"\d+$", "*", stem) for stem in re.findall(r"([\w*]+)\.json\b", text)}
    return {path for pattern in patterns for path in RESULTS.rglob(f"{pattern}.json")}


def unfounded(text: str) -> list[str]:
    """Figures of a document that no results file named before or in their section holds."""
    found: list[str] = []
    files: set[Path] = set()
    for section in re.split(r"(?m)^(?=#+ )", re.sub(r"(?s)```.*?```", "", text)):
        files |= named_files(section)
        known = [number for path in sorted(files) for number in numbers(read_json(path))]
        for minutes, seconds, decimal in FIGURE.findall(VERSION.sub("", CODE.sub("", section))):
            told = f"{minutes}:{seconds}" if minutes else decimal
            value = 60.0 * int(minutes) + int(seconds) if minutes else float(decimal)
            digits = 0 if minutes else len(decimal.partition(".")[2])
            if not any(abs(number - value) <= 0.5 * 10.0**-digits + 1e-9 for number in known) and (
                files or digits >= 3
            ):
                found.append(told)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_figure_stands_in_a_results_file(path: Path) -> None:
    assert unfounded(path.read_text(encoding="utf-8")) == []


def test_the_checker_finds_what_is_unfounded() -> None:
    named = "\n`docs/results/demo_time.json`, Python 3.11, `--rate 0.123`\n"
    assert unfounded(f"# A{named}it took 6:03 minutes\n") == []
    assert unfounded(f"# A{named}it took 6:09 minutes, or 5.5\n\n## B\n\n| 0.777 |\n") == ["6:09", "5.5", "0.777"]
    assert unfounded("# A\n\n| 0.777 | 1.14-1 | 0.9.0 | CC-BY 4.0 | 2.5 |\n") == ["0.777"], "no file is named"
    assert unfounded("# A\n`docs/results/demo_seed0.json`\n| 0.930 | 0.914 |") == [], "of seed 0 and of seed 1"
    assert named_files("`nothing.json`") == set()


def test_the_page_of_benchmarks_is_made_from_their_results() -> None:
    page = (RESULTS / "benchmarks.md").read_text(encoding="utf-8")
    assert page == common.page(read_json(RESULTS / "benchmarks.json"))


def test_the_page_of_the_paradigms_is_made_from_their_results() -> None:
    page = (RESULTS / "paradigms.md").read_text(encoding="utf-8")
    assert page == Page(Study(RESULTS / "paradigms"), FULL).text(), "write it again: make -C studies/paradigms page"
