"""The study's figures, as SVG: pictures against clips, the claims' differences, growth."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from studies.paradigms.mini_page import ACTIONS, DRAWINGS, FOLDER
from studies.paradigms.numbers import CLIPS, PICTURES, Measure, Study, difference, of_run
from studies.paradigms.plan import BUDGETS, grown

OURS = "decoupled_joint"
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#b9770e")
pyplot.rcParams |= {"svg.hashsalt": "omnivl", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
pyplot.rcParams |= {"axes.spines.right": False, "legend.frameon": False, "figure.constrained_layout.use": True}


def draw(study: Study, folder: Path, titles: Mapping[str, str], claims: Mapping[str, str]) -> None:
    """Write the figures that there are results for."""
    for file, end in (("compute", ""), ("exposure", "_exposure")):
        rivals = {name: f"{name}{end}" for name in titles if name != OURS}
        if study.seeds(OURS) and any(map(study.seeds, rivals.values())):
            draw_media(study, folder / f"{file}.svg", rivals, titles, (PICTURES, CLIPS))
    mini = Study(folder / FOLDER)
    if mini.seeds(OURS):
        rivals = {name: name for name in titles if name != OURS}
        draw_media(mini, folder / "mini.svg", rivals, titles, (DRAWINGS, ACTIONS))
    there = [run for run in claims if study.seeds(run, OURS)]
    if there:
        draw_claims(study, folder / "claims.svg", {run: claims[run] for run in there})
    if sum((grown(OURS, times), 0) in study.files for times in BUDGETS) > 1:
        draw_growth(study, folder / "growth.svg", titles)


def save(path: Path) -> None:
    pyplot.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close()


def draw_media(
    study: Study, path: Path, rivals: Mapping[str, str], titles: Mapping[str, str], across_up: tuple[Measure, Measure]
) -> None:
    """A small point a seed, a large one for their mean: clips against pictures."""
    first, second = across_up
    pyplot.figure(figsize=(5.2, 4.0))
    for (name, run), colour in zip({OURS: OURS, **rivals}.items(), COLOURS, strict=True):
        seeds = study.seeds(run)
        across, up = of_run(study, run, first, seeds), of_run(study, run, second, seeds)
        if across and up:
            pyplot.scatter(across.by_seed, up.by_seed, s=14, color=colour, alpha=0.5, linewidths=0)
            errors = [[[each.mean - each.low], [each.high - each.mean]] for each in (across, up)]
            pyplot.errorbar(
                across.mean, up.mean, xerr=errors[0], yerr=errors[1], fmt="o", color=colour, ms=6, lw=1,
                label=titles[name],
            )  # fmt: skip
    floors = study.floor_value(first), study.floor_value(second)
    if all(floors):
        pyplot.plot(*([floor] for floor in floors), "x", color="grey", label="pixel neighbour")
    pyplot.xlabel(first.title)
    pyplot.ylabel(second.title)
    pyplot.xlim(0, 1 if study.floor else None)  # far from 1 where nothing is easy
    pyplot.ylim(0, 1 if study.floor else None)
    pyplot.legend()
    save(path)


def draw_claims(study: Study, path: Path, claims: dict[str, str]) -> None:
    """What the whole recipe is ahead by, with intervals."""
    pyplot.figure(figsize=(6.4, 0.6 + 0.45 * len(claims)))
    for shift, measure, colour in ((0.12, PICTURES, COLOURS[1]), (-0.12, CLIPS, COLOURS[0])):
        for place, run in enumerate(reversed(claims)):
            gap = difference(study, OURS, run, measure)
            if gap:
                error = [[gap.mean - gap.low], [gap.high - gap.mean]]
                label = measure.title if place == 0 else None
                pyplot.errorbar(gap.mean, place + shift, xerr=error, fmt="o", color=colour, ms=4, lw=1, label=label)
    pyplot.axvline(0, color="black", lw=0.6)
    pyplot.yticks(range(len(claims)), [claims[run] for run in reversed(claims)])
    pyplot.xlabel("decoupled joint, whole, is ahead by")
    pyplot.legend(fontsize=7)
    save(path)


def draw_growth(study: Study, path: Path, titles: Mapping[str, str]) -> None:
    """R@1 of pictures and of clips against the budget."""
    figure, panels = pyplot.subplots(1, 2, figsize=(7.2, 3.5), sharey=True)
    for panel, measure in zip(panels, (PICTURES, CLIPS), strict=True):
        panel.set(xscale="log", title=measure.title, xlabel="budget", ylim=(0, 1))
        panel.minorticks_off()
        panel.set_xticks(BUDGETS, [f"x{times:g}" for times in BUDGETS])
        for (name, title), colour in zip(titles.items(), COLOURS, strict=True):
            runs = {times: grown(name, times) for times in BUDGETS}
            found = {each: of_run(study, run, measure, [0]) for each, run in runs.items() if (run, 0) in study.files}
            line = [told.mean if told else None for told in found.values()]
            panel.plot(list(found), line, "o-", color=colour, ms=4, label=title)
        floor = study.floor_value(measure)
        if floor is not None:
            panel.axhline(floor, color="grey", lw=0.8, ls=":", label="pixel neighbour")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    save(path)
