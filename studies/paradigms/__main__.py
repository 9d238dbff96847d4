"""Make every run of the study that has no results file yet, one after the other, and write the page.

    make -C studies/paradigms                       # or: python -m studies.paradigms
    python -m studies.paradigms image_only joint --seeds 0
    python -m studies.paradigms --page-only         # from the results files that are there, making no run

A signal stops it; what was not finished is made again by the next command. One thread, whatever the machine has.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from omnivl.results import commit
from omnivl.train.stopping import Stopped, TrainingError
from studies.paradigms.cost import RESULTS
from studies.paradigms.floor import FLOOR
from studies.paradigms.make import Bench
from studies.paradigms.page import write_page
from studies.paradigms.plan import FULL, TINY, in_order, jobs


def options_of(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.paradigms", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="runs to make (default: all; --list names them)")
    parser.add_argument("--seeds", nargs="+", type=int, help="make these seeds alone")
    parser.add_argument("--runs", type=Path, help="folder for models (default: runs/paradigms)")
    parser.add_argument("--results", type=Path, help="folder of the results files (default: docs/results/paradigms)")
    parser.add_argument("--list", action="store_true", help="name every run and whether it is done")
    parser.add_argument("--page-only", action="store_true", help="write the page and nothing else")
    parser.add_argument("--tiny", action="store_true", help="a few steps each, to see that the command works")
    options = parser.parse_args(words)
    root = RESULTS.parents[2] / "runs"
    options.runs = options.runs or root / ("paradigms_tiny" if options.tiny else "paradigms")
    options.results = options.results or (root / "paradigms_tiny_results" if options.tiny else RESULTS)
    return options


def main(words: list[str] | None = None) -> int:
    options = options_of(words)
    torch.set_num_threads(1)
    bench = Bench(options.runs, options.results, TINY if options.tiny else FULL, commit())
    try:
        return act(options, bench)
    except Stopped as stopped:
        print(f"paradigms: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        return 130
    except (ValueError, TrainingError) as error:
        print(f"paradigms: {error}", file=sys.stderr)
        return 2


def act(options: argparse.Namespace, bench: Bench) -> int:
    listed = jobs(bench.size)
    unknown = sorted(set(options.names) - {job.name for job in listed})
    if unknown:
        raise ValueError(f"there is no run {unknown[0]!r}: choose {', '.join(job.name for job in listed)}")
    wanted = [
        (job, seed)
        for job, seed in in_order(listed)
        if job.name in (options.names or [job.name]) and seed in (options.seeds or [seed])
    ]
    if options.list:
        for job, seed in wanted:
            print(f"{job.name} seed {seed}: {'done' if bench.is_done(f'{job.name}_seed{seed}') else 'missing'}")
        return 0
    if not options.page_only and not bench.is_done(FLOOR):
        bench.make_floor()
    for job, seed in [] if options.page_only else wanted:
        if not bench.is_done(f"{job.name}_seed{seed}"):
            begun = time.process_time()
            bench.make(job, seed)
            print(f"{job.name} seed {seed}: {time.process_time() - begun:.0f} CPU seconds", file=sys.stderr, flush=True)
    print(write_page(bench.results, bench.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
