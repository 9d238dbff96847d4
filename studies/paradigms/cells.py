"""The tables of the study's page, and the sentences that are made from numbers."""

from collections.abc import Mapping, Sequence

from studies.paradigms.numbers import Measure, Study, Told, difference
from studies.paradigms.words import OURS

NOTHING = "–"  # where a measure is not for what stands in the column


def verdicts(study: Study, rivals: Mapping[str, str], media: Mapping[str, Measure]) -> str:
    """One sentence a medium, made from the differences; `rivals` are runs by what they are called."""
    said = []
    for noun, measure in media.items():
        found: dict[str, list[str]] = {}
        for title, run in rivals.items():
            gained = difference(study, OURS, run, measure)
            if gained:
                seeds = f", {len(gained.by_seed)} seed{'s' * (len(gained.by_seed) > 1)}"
                found.setdefault(gained.verdict, []).append(f"{title} ({gained.mean:+.3f}{seeds})")
        parts = [f"{verdict} against {listed(names)}" for verdict, names in sorted(found.items(), reverse=True)]
        said.append(f"on {noun} {'; '.join(parts)}")
    return verdict(". ".join(map(sentence, said)))


def verdict(said: str) -> str:
    return f"**Verdict.** {said}."


def sentence(said: str) -> str:
    return said[:1].upper() + said[1:]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def cell(found: Told | None) -> str:
    if found is None:
        return NOTHING
    return f"{found.mean:.3f}{spread(found)} [{found.low:.3f}, {found.high:.3f}]"


def gap(found: Told | None) -> str:
    """A difference, bold where its verdict is one."""
    if found is None:
        return NOTHING
    mean = f"{found.mean:+.3f}" if found.verdict == "not shown" else f"**{found.mean:+.3f}**"
    return f"{mean}{spread(found)} [{found.low:+.3f}, {found.high:+.3f}]"


def spread(found: Told) -> str:
    return "" if found.spread is None else f" ± {found.spread:.3f}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    *others, last = names or ["none"]
    return f"{', '.join(others)} and {last}" if others else last
