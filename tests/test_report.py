"""The report of a run: a whole HTML page that loads nothing, and a table that is whole in a narrow pipe."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from omnivl.config import ConfigError, RunConfig, StageConfig, TrainConfig, to_dict
from omnivl.report import Example, Search, write_report
from omnivl.report.curves import smoothed, ticks
from omnivl.report.items import BAD, GOOD, marked, verdict
from omnivl.report.tables import group_rows

HOSTILE = """</dd><script src="https://e.example/x.js">alert(1)</script> & "quoted" 'single' <img onerror=x> \ud800"""
VOID = {"meta", "link", "img", "br", "source"}


def row(task: str, metric: str, value: float | None, chance: float | None = 0.1, **settings: Any) -> dict[str, Any]:
    return {
        "task": task,
        "dataset": "world",
        "split": "test",
        "metric": metric,
        "value": value,
        "n": 4096,
        "chance": chance,
        "settings": {"seed": 0, **settings},
    }


ROWS = (
    [
        row("retrieval", f"{way}_{measure}", value + k / 1e4, chance, medium=medium, rerank=bool(k), k=k)
        for medium, letter in (("image", "i"), ("video", "v"))
        for k in (0, 128)
        for way in (f"t2{letter}", f"{letter}2t")
        for measure, value, chance in (("r1", 0.4321, 0.0042), ("r5", 0.7654, 0.0195))
    ]
    + [
        row("retrieval", "median_rank", 1234.5 + k, None, medium=medium, rerank=bool(k), k=k, direction=way)
        for medium, letter in (("image", "i"), ("video", "v"))
        for k in (0, 128)
        for way in (f"t2{letter}", f"{letter}2t")
    ]
    + [
        row("caption", "exact", None, 0.0, medium="video", frames=4),
        row("caption", "token_f1", 0.912, 0.5, medium="video", frames=4),
        row("motion", "match_sibling_v2t", 0.713, 0.125, medium="video", frames=4),
        row("classify", "top1", 0.951, 0.1, medium="image"),
        row("a new task", "a_measure_of_a_new_task_with_a_long_name", 0.111, None),
    ]
)


def frames(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def run_folder(folder: Path, rows: list[dict[str, Any]], steps: int = 40, **results: Any) -> Path:
    """A run of two stages with their curves, as `omnivl.run` and the trainer write it."""
    half = steps // 2
    stages = tuple(StageConfig(name=name, train=TrainConfig(steps=half)) for name in ("language", "joint"))
    config = to_dict(RunConfig(recipe="demo", stages=stages))
    (folder / "config.json").write_text(json.dumps(config))
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        line = {"step": step, "stage": "language", "medium": "text", "seconds": step / 2, "loss": 1 / step}
        if step <= half:
            line |= {"masked": 5 / step, "words": 4 / step}
        else:
            line |= {"stage": "joint", "medium": "image" if step % 2 else "video", "univlc": 9 / step, "vlm": 0.6}
            line |= {"lm": 6 / step, "match_accuracy": 0.7}
        lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole = {
        "omnivl": "0.1.0",
        "commit": "0123456789abcdef+changes",
        "config": config,
        "seed": 7,
        "machine": "a machine",
    }
    (folder / "results.json").write_text(json.dumps({**whole, "seconds": 3.0, "results": rows, **results}))
    return folder


class Page(HTMLParser):
    """What a reader of the page meets: elements, which must close in order, text, and the lines of tables."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.style = self.text = ""
        self.lines: list[list[str]] = []  # of table bodies: metric in words, its name, by, value, chance, n
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr" and "tbody" in self.open:
            self.lines.append([])
        elif tag in ("td", "code"):
            self.lines[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself outside of an svg"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
            return
        self.text += data
        if "td" in self.open:
            self.lines[-1][-1] += data.strip()

    def values(self, *names: str) -> list[str]:
        """All values of attributes of these names."""
        return [value for _, attrs in self.elements for name, value in attrs.items() if name in names]


def report(folder: Path, examples: Sequence[Example] = (), searches: Sequence[Search] = ()) -> Page:
    return Page(write_report(folder, examples, searches).read_text(encoding="utf-8"))


ITEMS = [
    Example("image", frames(1), ("a red star", "a red sun"), "a red star", ("a red star", "a blue star", "a red bar")),
    Example("video", frames(4), (HOSTILE,), HOSTILE[::-1], (HOSTILE, "another")),
]
SEARCHES = [
    Search("video", HOSTILE, tuple(frames(4, i) for i in range(5)), (False, True, False, False, False)),
    Search("image", "a bar", (frames(1, 9),), (False,)),
]


def test_every_tag_is_closed_in_order_and_nothing_of_a_user_becomes_one(tmp_path: Path) -> None:
    rows = [*ROWS, row(HOSTILE, HOSTILE, 0.5, medium=HOSTILE, note=HOSTILE)]
    page = report(run_folder(tmp_path, rows, machine=HOSTILE, omnivl=HOSTILE), ITEMS, SEARCHES)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert page.text.count(HOSTILE.replace("\ud800", "\ufffd")) >= 6  # caption, found, query, machine, metric, setting


def test_every_picture_is_described(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS), ITEMS, SEARCHES)
    assert len(page.values("alt")) == len([tag for tag, _ in page.elements if tag == "img"]) == 2 + 5 + 1
    assert all(page.values("alt"))
    assert all(attrs.get("aria-label") for tag, attrs in page.elements if tag == "svg")


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS, machine="//e.example/x"), ITEMS, SEARCHES)
    loaded = page.values("src", "href", "srcset", "data", "poster", "action", "xlink:href")
    assert len(loaded) > 10 and all(value.startswith(("data:", "#")) for value in loaded)
    for style in [page.style, *page.values("style")]:
        assert "url(" not in style and "@import" not in style and "//" not in style
    assert any(value.startswith("default-src 'none'") for value in page.values("content"))
    assert {value[1:] for value in page.values("href") if value[0] == "#"} <= set(page.values("id"))


def test_every_result_stands_in_a_table_beside_chance(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS))
    assert sorted(line[1:] for line in page.lines) == sorted(map(expected, ROWS))
    titles = re.findall("<h4>(.*?)</h4>", page.source)
    assert titles[:5] == [
        "Retrieval, pictures (world, test)",
        "Retrieval, clips (world, test)",
        "Motion, clips (world, test)",
        "Classify, pictures (world, test)",
        "Caption, clips (world, test)",
    ]


def expected(each: dict[str, Any]) -> list[str]:
    """The cells of a row, from its metric's name on."""
    decimals = 1 if each["metric"].endswith("median_rank") else 3
    value, chance = ("-" if x is None else f"{x:.{decimals}f}" for x in (each["value"], each["chance"]))
    by = {True: ["reranked, k 128"], False: ["similarity"]}.get(each["settings"].get("rerank"), [])
    if direction := each["settings"].get("direction"):
        by = [f"{by[0]}, {direction}"]
    return [each["metric"], *by, value, chance, str(each["n"])]


def test_rows_that_only_a_setting_tells_apart_say_it(tmp_path: Path) -> None:
    rows = [row("caption", "exact", 0.5, medium="video", frames=count) for count in (4, 8)]
    assert [line[2] for line in report(run_folder(tmp_path, rows)).lines] == ["frames 4", "frames 8"]


def test_the_table_is_whole_in_a_pipe_of_80_columns() -> None:
    code = f"from omnivl.report import print_table; print_table({ROWS!r})"
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    for each in ROWS[:-1]:
        assert expected(each) in lines
    assert "".join(line.split(" ")[0] for line in done.stdout.splitlines()).count(ROWS[-1]["metric"]) == 1  # folded
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout and "…" not in done.stdout


def test_the_headline_says_what_was_trained_and_where(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ROWS)
    assert "A model was trained in 20 seconds" in report(folder).text
    (folder / "model").mkdir()
    save_file({"a": torch.zeros(30, 40), "b": torch.zeros(34)}, folder / "model" / "model.safetensors")
    text = report(folder).text
    for said in (
        "1,234 parameters",
        "language (20 steps), joint (20 steps)",
        "a machine",
        "Seed 7",
        "0123456789ab with",
    ):
        assert said in text, said


def test_a_chart_is_drawn_for_each_loss_there_is_with_its_stages_and_media(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS))
    charts = dict(re.findall("<strong>([^<]*)</strong>(<svg.*?)</figure>", page.source, re.S))
    assert list(charts) == ["Masked words", "Bag of words", "UniVLC", "VLM", "LM", "Matching accuracy"]
    for name, chart in charts.items():
        media = ["text"] if "ords" in name else ["image", "video"]  # a line each, as each is in one stage
        assert sorted(re.findall('path class="(text|image|video)"', chart)) == media
        assert sorted(re.findall('path class="raw (text|image|video)"', chart)) == media
        stage = "language" if "ords" in name else "joint"
        assert {other for other in ("language", "joint") if f">{other}</text>" in chart} == {stage}
        assert chart.count('class="dash"') == 1 + (name in ("VLM", "Matching accuracy"))  # a stage, and knowing nothing
        assert (">share<" if name == "Matching accuracy" else ">nats<") in chart
    assert "pictures 0.700 to 0.700" in charts["Matching accuracy"]


def test_a_long_run_makes_no_long_page(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS, steps=20_000))
    assert len(page.source) < 150_000
    assert max(path.count("L") for path in page.values("d")) < 300


def test_the_average_is_of_the_points_around_and_keeps_a_straight_level() -> None:
    line = np.stack([np.arange(200.0), np.random.default_rng(0).normal(size=200)], 1)
    for i, (step, value) in enumerate(smoothed(line)):
        around = line[max(0, i - 3) : i + 4, 1]
        assert (step, value) == (i, pytest.approx(around.mean()))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.003), (0.0, 1.05), (0.4, 1.0), (600, 3400), (0, 1), (0.0, 7e5)])
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high * (1 + 1e-9)
    step = found[1] - found[0]
    assert f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")
    assert np.allclose(np.diff(found), step) and np.allclose(np.array(found) / step, np.round(np.array(found) / step))


def test_words_that_differ_are_marked_and_only_these() -> None:
    assert marked("a red star", ("a red star",)) == "a red star"
    assert marked("A red star.", ("a red star",)) == "A red star."
    assert marked("a blue star moves", ("a red star moves",)) == "a <mark>blue</mark> star moves"
    assert marked("a star", ("a red star",)) == "a <mark>(missing: red)</mark> star"
    assert marked("", ("a <b>",)) == "<mark>(missing: a &lt;b&gt;)</mark>"
    assert marked("a red red <i>", ("a red",)) == "a red <mark>red &lt;i&gt;</mark>"


def test_right_is_the_same_words_as_results_are_counted() -> None:
    assert verdict("A red star.", ("a red star",)) == GOOD
    assert verdict("a blue star", ("a red star",)) == verdict("", ("a red star",)) == BAD
    assert verdict("a red sun", ("a red star", "a red sun")) == GOOD  # any of an item's own captions
    assert marked("a red sun", ("a big blue bar", "a red sun")) == "a red sun"
    assert verdict("☆", ("☆",)) == GOOD and verdict("☆", ("★",)) == BAD  # no words in either, yet not the same


def test_searches_mark_what_is_right_and_say_where_it_is(tmp_path: Path) -> None:
    page = report(run_folder(tmp_path, ROWS), [], SEARCHES)
    marks = [attrs["aria-label"] for _, attrs in page.elements if attrs.get("role") == "img" and "class" in attrs]
    assert marks[2:] == ["wrong", "right", "wrong", "wrong", "wrong", "wrong"]  # after the two of the legend
    assert "its own is number 2" in page.text and "its own is not among these" in page.text


def test_small_frames_come_back_bit_for_bit_and_large_ones_shrunk(tmp_path: Path) -> None:
    small, large = frames(4, 1), frames(2, 2, size=300)
    items = [Example("video", clip, ("t",), "w", ()) for clip in (small, large)]
    page = report(run_folder(tmp_path, ROWS), items)
    opened = [Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))) for src in page.values("src")]
    assert [getattr(image, "n_frames", 1) for image in opened] == [4, 2]
    for i, frame in enumerate(small):
        opened[0].seek(i)
        assert np.array_equal(np.asarray(opened[0].convert("RGB")), frame)
    assert opened[1].size == (128, 128)


def test_the_page_is_replaced_whole(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ROWS)
    path = write_report(folder, [], [])
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(folder, [None], [])  # type: ignore[list-item]
    assert path.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "metrics.jsonl", "report.html", "results.json"]


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "config.json"))):
        write_report(tmp_path, [], [])


def test_what_was_not_run_is_one_line_a_reason_and_no_row(tmp_path: Path) -> None:
    reason = "pycocoevalcap is not installed"
    rows = [row("caption", "exact", 0.5, medium="image")]
    rows += [row("caption", name, None, None, medium="image", not_run=reason) for name in ("bleu1", "cider")]
    (group,) = group_rows(rows)
    assert [own["metric"] for own in group.rows] == ["exact"] and group.hows == [""]
    assert group.not_run == [f"not run: bleu1, cider: {reason}"]
    assert f"not run: bleu1, cider: {reason}" in report(run_folder(tmp_path, rows), [], []).text
