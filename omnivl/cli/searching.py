"""index, search, moments: finding things in folders of pictures and videos, and in one long film."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from omnivl.cli.common import add_device, add_precision, model_name, new_command, one_line, plain_warnings
from omnivl.cli.progress import Progress, moment
from omnivl.config import ConfigError

SHOWN = 20  # files that could not be read, named at the end of a run


def add_commands(commands: Any) -> None:
    made = new_command(commands, "index", index, "make folders searchable; a second run reads only what changed")
    made.add_argument(
        "folders", metavar="FOLDER", nargs="*", help="or URLs (s3://bucket/photos); default: those in the index"
    )
    made.add_argument("--window", type=float, metavar="S", help="seconds of a video that one vector is of (default: 4)")
    made.add_argument("--stride", type=float, metavar="S", help="seconds between windows (default: half a window)")
    made.add_argument(
        "--scenes",
        action=argparse.BooleanOptionalAction,
        help="windows begin anew where a video is cut, which is decoded twice for it (default: they do not)",
    )
    made.add_argument(
        "--backend",
        choices=["exact", "faiss"],
        help="faiss: an HNSW graph (in Milvus its own), for a million vectors or more",
    )
    made.add_argument("--prune", action="store_true", help="forget files also where their folder is gone or empty")
    made.add_argument("--rebuild", action="store_true", help="for another model or other windows, in place of the old")
    made.add_argument(
        "--engine", choices=["ray"], help="ray: embed on the workers of a Ray cluster (RAY_ADDRESS), or of this machine"
    )
    made.add_argument("--errors", action="store_true", help="list the files that could not be read, and why")
    add_index(made)

    made = new_command(commands, "search", search, "find pictures and videos by text, or by an example")
    made.add_argument("query", metavar="QUERY", help="an existing file is an example, anything else a text")
    made.add_argument("folder", metavar="FOLDER", nargs="?", help="search in here; what is new in it is indexed first")
    made.add_argument("-t", "--top", type=int, default=10, metavar="N", help="results at most (default: 10)")
    made.add_argument("--type", choices=["image", "video"])
    made.add_argument("--in", dest="within", metavar="NAME", help="a folder, or the name of one such as Holiday")
    made.add_argument("--after", metavar="DATE", help="taken then or later: 2024-05-01, 2024-05 or 2024")
    made.add_argument("--before", metavar="DATE", help="taken earlier than that")
    made.add_argument("--min-duration", type=float, metavar="S", help="videos of so many seconds or more")
    made.add_argument("--max-duration", type=float, metavar="S")
    made.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="order the best K by the matching score and the similarity (shown in brackets) together "
        "(default: 128 on a GPU, else 0)",
    )
    made.add_argument("--min-match", type=float, metavar="P", help="leave out what matches with a probability below P")
    made.add_argument("--no-update", action="store_true", help="search FOLDER as the index has it")
    made.add_argument("--paths-only", action="store_true")
    made.add_argument("-0", "--null", action="store_true", help="paths alone, each ended by a zero byte (for xargs -0)")
    made.add_argument("--json", action="store_true")
    add_index(made)

    made = new_command(commands, "moments", moments, "the spans of one long video that a text describes")
    made.add_argument("film", metavar="FILM")
    made.add_argument("text")
    made.add_argument("-t", "--top", type=int, default=5, metavar="N", help="spans at most (default: 5)")
    made.add_argument("--window", type=float, default=4.0, metavar="S", help="seconds looked at at once (default: 4)")
    made.add_argument("--stride", type=float, metavar="S", help="precision in seconds (default: a quarter of a window)")
    made.add_argument("--model", help="a model folder or hub repository (default: OMNIVL_MODEL)")
    made.add_argument("--json", action="store_true")
    add_device(made)
    add_precision(made)


def add_index(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--index",
        metavar="DIR",
        help="where the index is: a folder, milvus:FILE.db or milvus:http://HOST:PORT (default: OMNIVL_INDEX, else "
        "$XDG_DATA_HOME/omnivl/index)",
    )
    made.add_argument("--model", help="a model folder or hub repository (default: the index's own, else OMNIVL_MODEL)")
    add_device(made)
    add_precision(made)


def load_model(options: argparse.Namespace) -> Any:
    """The model named, else the index's own, else that of the environment."""
    from omnivl.inference.milvus import known_index
    from omnivl.inference.pipeline import load

    known = None if options.model else known_index(options.index)
    name = known.model if known else model_name(options)
    return load(name, device=options.device, precision=options.precision)


# --- index -----------------------------------------------------------------------------------------------------------


def index(options: argparse.Namespace) -> int:
    if options.errors:
        return errors(options)
    from omnivl.inference.bulk import EngineError
    from omnivl.inference.media_index import MediaIndex

    plain_warnings()
    model = load_model(options)
    try:
        made = MediaIndex.build(
            options.folders,
            model,
            index=options.index,
            seconds=options.window,
            stride=options.stride,
            backend=options.backend,
            scenes=options.scenes,
            prune=options.prune,
            rebuild=options.rebuild,
            engine=options.engine,
            progress=Progress(),
        )
    except EngineError as error:
        print(f"omnivl: {error}; what was embedded is in the index", file=sys.stderr)
        return 1
    except OSError as error:  # of the index: what is wrong with a file is in the report
        print(f"omnivl: the index cannot be written ({error.strerror}); what it had stays", file=sys.stderr)
        return 1
    report = made.report
    assert report is not None
    tell(report)
    if still := report.unreadable:
        files = "1 file" if still == 1 else f"{still} files"
        print(
            f"omnivl: {files} still cannot be read; omnivl index --errors lists {'it' if still == 1 else 'them'}",
            file=sys.stderr,
        )
    counts = {
        "new": report.embedded,
        "known": report.known,
        "unchanged": report.unchanged,
        "still unreadable": still,
        "forgotten": report.removed,
    }
    print(", ".join([f"{report.found} files", *(f"{n} {what}" for what, n in counts.items() if n)]))
    return 1 if report.failed or still else 0


def errors(options: argparse.Namespace) -> int:
    from omnivl.inference.milvus import located
    from omnivl.inference.store import Store, read_description

    folder, _ = located(options.index)
    known = read_description(folder)
    if known is None:
        raise ConfigError(f"there is no index in {folder}: make one with `omnivl index FOLDER`")
    for path, reason in Store(folder, known).errors():
        write(f"{one_line(path)}\t{reason}")
    return 0


def tell(report: Any) -> None:
    """What went wrong, on standard error: what an extra would mend in one line, other files by name."""
    for sentence in report.kept:
        print(f"omnivl: {sentence}", file=sys.stderr)
    common = Counter(reason for _, reason in report.failed if "pip install" in reason)
    for reason, count in common.items():
        print(f"omnivl: {count} files left out: {reason}", file=sys.stderr)
    others = [(path, reason) for path, reason in report.failed if reason not in common]
    for path, reason in others[:SHOWN]:
        print(f"omnivl: {printable(path)}: {reason}", file=sys.stderr)
    if len(others) > SHOWN:
        print(f"omnivl: and {len(others) - SHOWN} more: see `omnivl index --errors`", file=sys.stderr)


# --- search ----------------------------------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> int:
    from omnivl.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
    from omnivl.inference.filters import Filters
    from omnivl.inference.media_index import MediaIndex

    logging.basicConfig(level=logging.INFO, format="omnivl: %(message)s", stream=sys.stderr)
    plain_warnings()
    within = [folder for folder in (options.folder, options.within) if folder]
    filters = Filters(
        options.type, tuple(within), options.after, options.before, options.min_duration, options.max_duration
    )
    if not options.query.strip():
        raise ConfigError("the query is empty: say what to look for")
    if options.folder and not Path(options.folder).is_dir():
        raise ConfigError(f"{options.folder} is not a folder")
    failed = False
    if options.folder and not options.no_update:
        opened = MediaIndex.build(options.folder, load_model(options), index=options.index, progress=Progress())
        assert opened.report is not None
        tell(opened.report)
        failed = bool(opened.report.failed)
    else:
        opened = MediaIndex.open(options.index, options.model, device=options.device)
    query = Path(options.query) if is_file(options.query) else options.query
    if isinstance(query, str) and Path(query).suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
        print(f"omnivl: there is no file {one_line(query)}: it is searched for as a text", file=sys.stderr)
    found = opened.find(query, options.top, filters=filters, rerank=options.rerank, min_match=options.min_match)
    if options.json:
        rows = [row(result) for result in found.results]
        write_json({"query": options.query, "results": rows})
    elif options.null or options.paths_only:
        for result in found.results:
            write(result.path, "\0" if options.null else "\n")
    else:
        for result in found.results:
            beside = "" if result.similarity is None else f" ({result.similarity:.3f})"
            write(f"{result.score:.3f}{beside}\t{one_line(result.path)}{span(result)}")
    if not found.results:
        print(f"nothing matches{'' if found.best is None else f' (best {found.best:.2f})'}", file=sys.stderr)
    return 1 if failed else 0


def row(result: Any) -> dict[str, Any]:
    values = dataclasses.asdict(result)
    return {name: value for name, value in values.items() if value is not None and name not in ("id", "content")}


def span(result: Any) -> str:
    return "" if result.start is None else f"\t{moment(result.start)}-{moment(result.end)}"


def is_file(query: str) -> bool:
    try:
        return Path(query).is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte
        return False


def write(text: str, end: str = "\n") -> None:
    """To standard output, paths as the system has them, whatever their bytes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text + end))
    sys.stdout.buffer.flush()


def write_json(value: Any) -> None:
    """As readable as can be: escaped where a path is no text, which raw bytes would make no JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    write(text)


def printable(path: str) -> str:
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


# --- moments ---------------------------------------------------------------------------------------------------------


def moments(options: argparse.Namespace) -> int:
    from omnivl.inference.moments import find_moments
    from omnivl.inference.pipeline import load

    if not options.text.strip():
        raise ConfigError("the text is empty: say what to look for")
    if options.top < 1:
        raise ConfigError(f"--top is {options.top}, wanted 1 or more")
    plain_warnings()
    pipeline = load(model_name(options), device=options.device, precision=options.precision)
    found = find_moments(
        pipeline, options.film, options.text, top_k=options.top, seconds=options.window, stride=options.stride
    )
    if options.json:
        shared = {"path": options.film, "media": "video", "kind": "cosine"}
        rows = [{**shared, **dataclasses.asdict(each)} for each in found]
        write_json({"query": options.text, "results": rows})
        return 0
    for each in found:
        write(f"{each.score:.3f}\t{moment(each.start)}-{moment(each.end)}")
    return 0
