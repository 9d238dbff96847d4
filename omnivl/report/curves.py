"""The curves of a run: its losses (paper, section 3.2; the language warm-up is ours) and its pace, as inline SVG."""

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from omnivl.config import RunConfig
from omnivl.report.tables import NOUNS, Row


class Chart(NamedTuple):
    """A curve of metrics.jsonl. `base` is the value of knowing nothing, and what that is called."""

    key: str
    title: str
    unit: str
    base: tuple[float, str] | None
    about: str


CHARTS = (
    Chart("masked", "Masked words", "nats", None, "Language warm-up: the hidden words of a caption."),
    Chart("words", "Bag of words", "nats", None, "Language warm-up: which words a text holds, told from its vector."),
    Chart("univlc", "UniVLC", "nats", None, "Contrast: a vector picks its own partner in batch and memory banks."),
    Chart(
        "vlm", "VLM", "nats", (0.6365, "knows only the 1:2 ratio"), "Matching: one right pair to two hard wrong ones."
    ),
    Chart("lm", "LM", "nats", None, "The next word of the caption. Label smoothing keeps it above zero."),
    Chart("match_accuracy", "Matching accuracy", "share", (2 / 3, "always says no"), "Pairs that are judged right."),
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 36, 16, 34, 34  # of a chart and its margins, in pixels
POINTS = 240  # of a line at most


def curve(chart: Chart, records: Sequence[Row], config: RunConfig) -> str:
    """One chart with a line for each stage and medium; nothing where no stage has this value."""
    ends = list(accumulate(stage.train.steps for stage in config.stages))
    lines: dict[tuple[int, str], list[tuple[float, float]]] = {}  # stage and medium -> (step, value)
    for record in records:
        if record.get(chart.key) is not None:
            stage = sum(record["step"] > end for end in ends)
            lines.setdefault((stage, record["medium"]), []).append((record["step"], record[chart.key]))
    if not lines:
        return ""
    steps, values = zip(*(point for line in lines.values() for point in line), strict=True)
    first, last = min(steps) - 1, max(steps)
    low, high = 0.0, max(values) * 1.05 or 1.0
    if chart.unit == "share":
        low, high = min(0.5, math.floor(min(values) * 10) / 10), 1.0

    def x(step: float) -> float:
        return round(LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def path(points: np.ndarray, style: str) -> str:
        kept = points[:: -math.ceil(len(points) / POINTS)]  # a long run makes no long page; the last is among them
        return f'<path class="{style}" d="M{"L".join(f"{x(step)} {y(value)}" for step, value in kept)}"/>'

    def text(across: float, down: float, said: str, anchor: str = "start") -> str:
        return f'<text x="{across}" y="{down}" text-anchor="{anchor}">{escape(said)}</text>'

    drawn = [text(0, 12, chart.unit), text((WIDTH + LEFT) / 2, HEIGHT - 3, "step", "middle")]
    drawn += [f'<path class="axis" d="M{LEFT} {y(at)}H{WIDTH - RIGHT}"/>' for at in ticks(low, high)]
    drawn += [text(LEFT - 5, y(at) + 4, f"{at:g}", "end") for at in ticks(low, high)]
    drawn += [text(x(at), HEIGHT - 18, f"{at:,.0f}", "middle") for at in ticks(first, last)]
    for stage, (begin, end) in zip(config.stages, pairwise([0, *ends]), strict=True):
        if first <= begin < last:
            drawn.append(f'<path class="dash" d="M{x(begin)} {TOP}V{HEIGHT - BOTTOM}"/>')
            fits = int((x(min(end, last)) - x(begin)) / 6)  # letters
            drawn.append(text(x(begin) + 3, TOP - 4, stage.name[:fits]))
    if chart.base:
        drawn.append(f'<path class="dash" d="M{LEFT} {y(chart.base[0])}H{WIDTH - RIGHT}"/>')
        drawn.append(text(WIDTH - RIGHT, y(chart.base[0]) - 9, chart.base[1], "end"))
    smooth = {place: smoothed(np.array(line)) for place, line in lines.items()}
    drawn += [path(np.array(line), f"raw {medium}") for (_, medium), line in lines.items()]
    drawn += [path(line, medium) for (_, medium), line in smooth.items()]
    told = []
    for medium in dict.fromkeys(medium for _, medium in lines):
        own = np.concatenate([line for (_, other), line in smooth.items() if other == medium])
        told.append(f'<span class="{medium}">━</span> {NOUNS[medium]} {own[0, 1]:.3f} to {own[-1, 1]:.3f}')
    return f"""<figure><strong>{chart.title}</strong><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
aria-label="{chart.title}, {chart.unit} against step {first + 1} to {last}">{"".join(drawn)}</svg>
<figcaption>{chart.about}<br>{"<br>".join(told)}</figcaption></figure>"""


def smoothed(line: np.ndarray) -> np.ndarray:
    """The moving average of (N, 2) steps and values over a thirtieth of them, cut short at the ends."""
    at, half = np.arange(len(line)), len(line) // 60
    total = np.concatenate([[0.0], np.cumsum(line[:, 1])])
    begin, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(line))
    return np.stack([line[:, 0], (total[end] - total[begin]) / (end - begin)], 1)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about four."""
    scale = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(scale * each for each in (1, 2, 5, 10) if scale * each >= (high - low) / 4)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
