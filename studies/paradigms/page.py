"""The page of the study, written from its results files and nothing else; what was not run is named on it."""

import re
from collections.abc import Sequence
from pathlib import Path

from omnivl.model.folder import write_text
from studies.paradigms import figures
from studies.paradigms.cells import cell, gap, listed, number, sentence, table, verdict, verdicts
from studies.paradigms.cost import clip_cost
from studies.paradigms.measure import ONE, SHUFFLED
from studies.paradigms.mini_page import mini_section
from studies.paradigms.numbers import CLIPS, PICTURES, Measure, Study, Told, difference, of_run, told
from studies.paradigms.plan import BUDGETS, CLAIMS, Size, grown, jobs
from studies.paradigms.words import ABOUT, INTRODUCTION, LEFT_OUT, MEASURES, OURS, READING, RIVALS, SHOWN, TITLES

MEDIA = {"pictures": PICTURES, "clips": CLIPS}
CONTROLS = ("chance", "pixel neighbour", "one frame", "shuffled frames")


class Page:
    """The page of one study."""

    def __init__(self, study: Study, size: Size) -> None:
        self.study, self.size = study, size
        self.jobs = jobs(size)
        self.parts: list[str] = []

    def add(self, *parts: str) -> None:
        self.parts += [part for part in parts if part]

    def text(self) -> str:
        size = self.size
        self.add(
            INTRODUCTION.format(
                items=size.items, clip=clip_cost(), images=size.images, joint=size.joint, copied=size.copied
            )
        )
        self.add(*self.missing())
        self.paradigms("At equal compute", "", "Decoupled joint pretraining is ahead of its rivals at equal compute.")
        self.paradigms(
            "At equal numbers of pictures and clips",
            "_exposure",
            "Decoupled joint pretraining is ahead of rivals that see as many pictures and clips as it does, of those "
            "that they see at all (its joint stage comes on top of its image stage).",
        )
        self.claims()
        self.reranking()
        self.growth()
        self.add(*mini_section(self.study.folder), READING, self.costs(), LEFT_OUT)
        self.parts.insert(1, in_short(self.parts))
        return "\n\n".join(part.strip("\n") for part in self.parts) + "\n"

    # --- what there is ---

    def missing(self) -> list[str]:
        absent = [
            f"{job.name} (seed {', '.join(map(str, seeds))})"
            for job in self.jobs
            if (seeds := [seed for seed in job.seeds if (job.name, seed) not in self.study.files])
        ]
        absent += [] if self.study.floor else ["the pixel neighbour"]
        return [f"**Not run yet**, so missing in the tables: {'; '.join(absent)}."] if absent else []

    def costs(self) -> str:
        study, rows = self.study, []
        for job in self.jobs:
            for seed in study.seeds(job.name):
                file = study.files[job.name, seed]
                seen, cpu = file["seen"], file["cpu_seconds"]
                rows.append(
                    [
                        f"[{job.name}](paradigms/{job.name}_seed{seed}.json)",
                        str(seed),
                        f"{file['weighted_steps']:,.1f}",
                        f"{cpu['pretraining']:,.1f}",
                        f"{sum(cpu.values()) - cpu['pretraining']:,.1f}",
                        *(f"{seen.get(medium, 0):,}" for medium in ("image", "video")),
                    ]
                )
        head = ["run", "seed", "weighted steps", "CPU s, pretraining", "CPU s, the rest", "pictures", "clips"]
        whole = study.cpu_seconds()
        commits = ", ".join(sorted({str(file["commit"])[:7] for file in study.files.values()}))
        machines = "; ".join(sorted({file["machine"] for file in study.files.values()}))
        return (
            f"## What each run took\n\nIn all {whole:,.0f} CPU seconds ({whole / 3600:.1f} hours), warm-ups, measuring "
            f"and finetuning included. Commits: {commits}. Machine: {machines}.{self.again()}\n\n" + table(head, rows)
        )

    def again(self) -> str:
        """Of what was made a second time, how much is the same."""
        said = []
        for second in self.study.again:
            name, seed, commit = second["name"], second["seed"], str(second["commit"])[:7]
            first = self.study.files[name, seed]
            same = sum(row in first["results"] for row in second["results"])
            said.append(
                f" [{name}](paradigms/again/{name}_seed{seed}.json), seed {seed}, was made again at commit "
                f"{commit}, its results file and its models deleted: {same} of "
                f"{len(first['results'])} rows are the same in every item."
            )
        return "".join(said)

    # --- the paradigms ---

    def paradigms(self, title: str, end: str, claim: str) -> None:
        study = self.study
        there = [name for name in RIVALS if study.seeds(f"{name}{end}", OURS)]
        self.add(f"## {title}", f"**Claim.** {claim}")
        if not there or not study.seeds(OURS):
            self.add("Not run yet.")
            return
        image = "paradigms/exposure.svg" if end else "paradigms/compute.svg"
        self.add(f"![{title}: pictures and clips]({image})")
        self.add(verdicts(study, {TITLES[name]: f"{name}{end}" for name in there}, MEDIA))
        runs = {OURS: OURS} | {name: f"{name}{end}" for name in RIVALS}
        for heading, measures in MEASURES.items():
            head = ["", *(TITLES[name] for name in runs), *CONTROLS]
            rows = [
                [
                    measure.title,
                    *(self.cell(run, measure) for run in runs.values()),
                    *self.controls(measure),
                ]
                for measure in measures
            ]
            self.add(f"### {heading}", table(head, rows))
        head = ["decoupled joint minus", *(TITLES[name] for name in there)]
        rows = [
            [measure.title, *(gap(difference(study, OURS, f"{name}{end}", measure)) for name in there)]
            for measure in (PICTURES, CLIPS, *(each for many in MEASURES.values() for each in many))
        ]
        self.add("### Paired differences", table(head, rows))

    def cell(self, run: str, measure: Measure) -> str:
        """What a run has on all of its seeds."""
        seeds = self.study.seeds(run)
        return cell(of_run(self.study, run, measure, seeds)) if seeds else "not run"

    def controls(self, measure: Measure) -> list[str]:
        """Chance, pixel neighbour, one frame, shuffled frames."""
        study, seeds = self.study, self.study.seeds(OURS)
        ways = [of_run(study, OURS, measure.seen(view), seeds) for view in (ONE, SHUFFLED)]
        return [
            *(number(value) for value in (study.chance(measure), study.floor_value(measure))),
            *(number(way.mean if way else None) for way in ways),
        ]

    # --- further claims ---

    def claims(self) -> None:
        study, shown = self.study, list(SHOWN.values())
        self.add("## What else is claimed", "Decoupled joint pretraining at x1, with one thing taken away.")
        rows, said = [], []
        for name, (claim, without) in ABOUT.items():
            run = f"{OURS}_{name}"
            seeds = study.seeds(run, OURS)
            if not seeds:
                rows.append([without, "not run yet"] + [""] * len(shown))
                continue
            rows.append(
                [without, listed([str(seed) for seed in seeds]), *(self.cell(run, measure) for measure in shown)]
            )
            gaps = [difference(study, OURS, run, measure, seeds) for measure in shown]
            rows.append(["*the whole minus that*", "", *map(gap, gaps)])
            verdicts = [f"{g.verdict} on {noun} ({g.mean:+.3f})" for g, noun in zip(gaps, SHOWN, strict=True) if g]
            said.append(f"- **{claim}**: {', '.join(verdicts)}.")
        whole = [self.cell(OURS, measure) for measure in shown]
        controls = [self.controls(measure) for measure in shown]
        rows.insert(0, ["decoupled joint, whole", listed([str(seed) for seed in study.seeds(OURS)]), *whole])
        rows += [[name, "", *(own[i] for own in controls)] for i, name in enumerate(CONTROLS)]
        self.add("![What else is claimed](paradigms/claims.svg)" if said else "")
        self.add("\n".join(said), table(["", "seeds", *(measure.title for measure in shown)], rows))

    def reranking(self) -> None:
        study, seeds = self.study, self.study.seeds(OURS)
        self.add(
            "## Reranking",
            "**Claim.** Reranking the best K by the matching decoder helps. Decoupled joint pretraining at x1, seeds "
            f"{listed([str(seed) for seed in seeds])}, log p(matched) + similarity / temperature.",
        )
        if not seeds:
            self.add("Not run yet.")
            return
        depths = {k: [at_depth(measure, k) for measure in MEDIA.values()] for k in (0, 16, 128)}
        rows = [[f"K = {k}", *(self.cell(OURS, measure) for measure in both)] for k, both in depths.items()]
        said = []
        for place, noun in enumerate(MEDIA):
            for k in (16, 128):
                one, none = (study.values(OURS, seeds, depths[depth][place]) for depth in (k, 0))
                if one is not None and none is not None:
                    gained = told(one - none)
                    said.append(f"{gained.verdict} on {noun} with K = {k} ({gained.mean:+.3f})")
        controls = [self.controls(measure) for measure in MEDIA.values()]
        rows += [[f"{name}, K = 0", *(own[i] for own in controls)] for i, name in enumerate(CONTROLS)]
        self.add(verdict(sentence("; ".join(said))), table(["", PICTURES.title, CLIPS.title], rows))

    # --- growth ---

    def growth(self) -> None:
        study = self.study
        self.add("## Growth", "The same recipe with fewer and with more steps, each stage's share kept; seed 0 alone.")
        if sum(self.has(OURS, times) for times in BUDGETS) > 1:
            self.add("![Growth](paradigms/growth.svg)")
        rows = []
        for measure in MEDIA.values():
            for name, title in TITLES.items():
                found = [of_run(study, grown(name, t), measure, [0]) if self.has(name, t) else None for t in BUDGETS]
                rows.append([f"{title}: {measure.title}", *(cell(each) if each else "not run yet" for each in found)])
            for control, value in zip(CONTROLS[:2], self.controls(measure)[:2], strict=True):
                rows.append([f"{control}: {measure.title}", *(value for _ in BUDGETS)])
        budgets = [f"x{times:g}" for times in BUDGETS]
        self.add(self.order(), table(["", *budgets], rows))
        gaps = [
            [f"{TITLES[name]}: {measure.title}"]
            + [
                gap(difference(study, grown(OURS, times), grown(name, times), measure, [0]))
                if self.has(OURS, times) and self.has(name, times)
                else "not run yet"
                for times in BUDGETS
            ]
            for measure in MEDIA.values()
            for name in RIVALS
        ]
        self.add("Paired differences:", table(["decoupled joint minus", *budgets], gaps))

    def order(self) -> str:
        said = []
        for noun, measure in MEDIA.items():
            orders = {}
            for t in BUDGETS:
                found = {n: of_run(self.study, grown(n, t), measure, [0]) for n in TITLES if self.has(n, t)}
                if len(found) == len(TITLES):
                    orders[t] = sorted(found, key=lambda name: -mean_of(found[name]))
            if len(orders) > 1:
                same = "stays the same" if len({tuple(names) for names in orders.values()}) == 1 else "changes"
                last = max(orders)
                best = ", ".join(TITLES[name] for name in orders[last])
                said.append(f"the order on {noun} {same} from x{min(orders):g} to x{last:g} (at x{last:g}: {best})")
        return verdict(sentence("; ".join(said)) if said else "Not run yet")

    def has(self, name: str, times: float) -> bool:
        return (grown(name, times), 0) in self.study.files


def in_short(parts: Sequence[str]) -> str:
    """A list of the verdicts of all parts, each under the heading before it."""
    heading, said = "", ["## In short\n"]
    for part in parts:
        if part.startswith(("## ", "### From real encoders")):
            heading = part.splitlines()[0].lstrip("# ")
        if part.startswith("**Verdict.** "):
            place = re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
            said.append(f"- [{heading}](#{place}): {part.removeprefix('**Verdict.** ')}")
        elif part.startswith("- **"):
            said.append(part)
    return "\n".join(said)


def at_depth(measure: Measure, k: int) -> Measure:
    return Measure(measure.title, tuple(part._replace(k=k) for part in measure.parts), measure.together)


def mean_of(found: Told | None) -> float:
    return found.mean if found else 0.0


def write_page(results: Path, size: Size) -> Path:
    """RESULTS.md beside the folder of results, and its figures in there."""
    study = Study(results)
    assert set(ABOUT) == set(CLAIMS)
    path = results.with_suffix(".md")
    figures.draw(study, results, TITLES, {f"{OURS}_{name}": without for name, (_, without) in ABOUT.items()})
    write_text(path, Page(study, size).text())
    return path
