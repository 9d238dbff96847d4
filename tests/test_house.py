"""The house rules, read from the source: who may import whom, and what no file may hold.

docs/architecture.md tells why. A new room must be put into ROOMS before it may be imported or import anything.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnivl import config

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "omnivl"

# A room and what it may import of ours: rooms, or single modules of a room. Imports within a room are free.
ROOMS: dict[str, set[str]] = {
    "config": set(),
    "tokenizer": set(),
    "losses": set(),
    "prompts": set(),
    "metrics": set(),
    "distributed": {"config"},
    "presets": {"config"},
    "model": {"config", "tokenizer", "prompts"},
    "data": {"config", "tokenizer", "prompts", "distributed"},
    "tasks": {"config", "tokenizer", "prompts", "distributed", "losses", "metrics", "model", "data.sample"},
    "inference": {
        "config",
        "tokenizer",
        "prompts",
        "distributed",
        "model",
        "data.media",
        "data.remote",
        "data.windows",
        "data.facts",
        "data.transforms",
        "data.sample",
    },
    "train": {"config", "distributed", "tasks.base", "data.sample"},
    "checks": {"config", "tokenizer", "data", "evaluation"},
    "run": {
        "checks",
        "config",
        "tokenizer",
        "prompts",
        "distributed",
        "model",
        "data",
        "tasks",
        "train",
        "evaluation",
        "report",
        "results",
    },
    "predictions": {"config", "data", "tasks"},
    "evaluation": {
        "predictions",
        "config",
        "tokenizer",
        "metrics",
        "distributed",
        "model",
        "data",
        "tasks",
        "train.checkpoint",
    },
    "results": {"config", "tasks.base", "train.checkpoint"},
    "report": {"config", "metrics", "model", "data", "tasks", "train"},
    "cli": {
        "config",
        "distributed",
        "presets",
        "run",
        "evaluation",
        "predictions",
        "report",
        "results",
        "inference",
        "data",
        "model",
        "train.stopping",
    },
    "__main__": {"cli"},
    "__init__": {"inference"},
}


def module_name(path: Path) -> str:
    """omnivl/data/media.py -> data.media; omnivl/data/__init__.py -> data; omnivl/__init__.py -> __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def imports_of_ours(tree: ast.AST) -> Iterator[str]:
    """Modules of omnivl that a source imports, at its top or within functions, without the leading name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "omnivl":
                    yield alias.name.partition(".")[2] or "__init__"
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "relative import"
            elif node.module == "omnivl":  # a submodule, or a name of the package's face
                yield from (alias.name if is_module(alias.name) else "__init__" for alias in node.names)
            elif node.module and node.module.startswith("omnivl."):
                base = node.module.removeprefix("omnivl.")
                yield from (f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names)


def is_module(name: str) -> bool:
    return name in SOURCES


IMPORTS = {name: set(imports_of_ours(tree)) for name, tree in TREES.items()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def test_the_reader_of_imports_sees_every_form() -> None:
    code = (
        "import omnivl\nimport omnivl.config as c\nfrom omnivl import config, load\nfrom omnivl.config import MODELS\n"
        "from . import x\ndef f():\n    from omnivl.tokenizer import Tokenizer\nimport torch, omnivlx\n"
    )
    assert sorted(imports_of_ours(ast.parse(code))) == [
        "__init__",
        "__init__",
        "config",
        "config",
        "config",
        "relative import",
        "tokenizer",
    ]


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_room_imports_only_what_the_house_allows(module: str) -> None:
    room = room_of(module)
    assert room in ROOMS, f"omnivl/{room} is a new room: say in ROOMS what it may import"
    for imported in IMPORTS[module]:
        allowed = room_of(imported) == room or any(imported == a or imported.startswith(f"{a}.") for a in ROOMS[room])
        assert allowed, f"omnivl.{module} may not import omnivl.{imported}"


def reachable(start: str) -> set[str]:
    """All modules of ours that are loaded with one, the packages above each included."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            parts = module.split(".")
            parents = {".".join(parts[:i]) for i in range(1, len(parts))}
            waiting += sorted((IMPORTS.get(module, set()) | parents) & set(SOURCES))
    return found


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("model", {"data", "tasks", "distributed", "train", "run", "inference"}),
        ("data", {"model", "tasks", "train", "run", "inference"}),
        ("inference", {"tasks", "train", "run", "losses", "metrics", "presets"}),
        ("tasks", {"train", "run", "inference", "presets"}),
        ("train", {"run", "inference", "presets"}),
        ("run", {"presets", "inference", "cli"}),
        ("evaluation", {"presets", "inference", "cli", "run"}),
        ("report", {"presets", "inference", "cli"}),
    ],
)
def test_what_a_room_must_never_see_it_does_not_even_load(room: str, never: set[str]) -> None:
    for module in SOURCES:
        if room_of(module) == room:
            loaded = {name for name in reachable(module) if room_of(name) in never}
            assert not loaded, f"omnivl.{module} loads {sorted(loaded)}"


def test_train_never_names_a_task() -> None:
    for module, tree in TREES.items():
        if room_of(module) == "train":
            assert {name for name in IMPORTS[module] if room_of(name) == "tasks"} <= {"tasks.base"}
            words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            named = words & {"pretrain", "retrieval", "classification", "captioning", "answering"}
            assert not named, f"omnivl.{module} names a task: {sorted(map(str, named))}"
            asked = [
                n.lineno
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute) and ast.unparse(n).endswith("task.name")
            ]
            assert not asked, f"omnivl.{module} asks for the task's name at {asked}"


def test_there_is_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"imports run in a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for imported in sorted(IMPORTS[module] & set(SOURCES)):
                visit(imported, (*path, module))
            done.add(module)

    for module in SOURCES:
        visit(module, ())


# --- what no source may do -------------------------------------------------------------------------------------------


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Calls of a function or method of one of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names:
                yield node


def argument(call: ast.Call, name: str) -> object:
    """The constant given for a keyword, None where there is none."""
    return next((getattr(k.value, "value", "?") for k in call.keywords if k.arg == name), None)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_error_is_swallowed_whole(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"omnivl.{module}:{node.lineno} has a bare except"
            broad = getattr(node.type, "id", "") in ("Exception", "BaseException")
            silent = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
            assert not (broad and silent), f"omnivl.{module}:{node.lineno} swallows every error"


def unread(tree: ast.AST) -> set[int]:
    """Lines where weights are loaded with strict=False and the names that did not fit are dropped."""
    kept = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Call)
    }
    return {
        call.lineno
        for call in calls(tree, "load_state_dict", "load_model")
        if argument(call, "strict") is False and call not in kept
    }


def test_the_names_that_did_not_fit_are_read() -> None:
    assert unread(ast.parse("m.load_state_dict(s, strict=False)")) == {1}
    assert unread(ast.parse("x = m.load_state_dict(s, strict=False)")) == {1}
    assert not unread(ast.parse("missing, unexpected = m.load_state_dict(s, strict=False)"))
    for module, tree in TREES.items():
        assert not unread(tree), f"omnivl.{module} loads weights loosely and drops what did not fit: {unread(tree)}"


def unpickled(tree: ast.AST) -> set[int]:
    """Lines that may run code out of a file: pickle, or torch and numpy without their guards."""
    lines = {c.lineno for c in calls(tree, "load") if argument(c, "allow_pickle")}
    for call in calls(tree, "load"):
        if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "torch":
            lines |= set() if argument(call, "weights_only") is True else {call.lineno}
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"} & set(names):
            lines.add(node.lineno)  # type: ignore[attr-defined]
    return lines


def test_nothing_is_unpickled_but_weights_only() -> None:
    assert unpickled(ast.parse("import pickle\ntorch.load(p)\ntorch.load(p, weights_only=False)")) == {1, 2, 3}
    assert unpickled(ast.parse("np.load(p, allow_pickle=True)\nfrom pickle import loads")) == {1, 2}
    assert not unpickled(ast.parse("torch.load(p, weights_only=True)\nnp.load(p)\njson.load(f)"))
    for module, tree in TREES.items():
        assert not unpickled(tree), f"omnivl.{module} unpickles at {unpickled(tree)}"


def test_asserts_are_no_way_to_tell_a_user() -> None:
    """`python -O` drops them: they are for our own invariants, so none is caught again."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                assert "AssertionError" not in ast.unparse(node.type), (
                    f"omnivl.{module}:{node.lineno} catches an assert"
                )


# --- settings --------------------------------------------------------------------------------------------------------

# Where the settings of each config are read; a config is held to it once these rooms are there.
READERS = {
    "VisionConfig": {"model.vision"},
    "TextConfig": {"model.text"},
    "ModelConfig": {"model.omnivl", "inference.pipeline"},
    "DataConfig": {"data.loader", "data.sources"},
    "TaskConfig": {"tasks.pretrain", "run"},
    "OptimConfig": {"train.optim"},
    "TrainConfig": {"train.stopping"},
    "StageConfig": {"run"},
    "EvaluationConfig": {"evaluation"},
    "RunConfig": {"run", "report"},
}
CONFIGS = {name: kind for name, kind in vars(config).items() if dataclasses.is_dataclass(kind)}


def attributes_read() -> set[str]:
    """Every name after a dot that omnivl reads outside the room of the configs, which reads the format by its key."""
    trees = [tree for module, tree in TREES.items() if room_of(module) != "config"]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {"format_version"} | {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


def test_every_config_has_a_reader() -> None:
    assert set(READERS) == set(CONFIGS)


@pytest.mark.parametrize("name", sorted(READERS))
def test_no_setting_is_dead(name: str) -> None:
    if READERS[name] <= set(SOURCES):
        dead = {f.name for f in dataclasses.fields(CONFIGS[name])} - attributes_read()
        assert not dead, f"nothing reads {', '.join(sorted(dead))} of {name}"


# --- every file that is ours -----------------------------------------------------------------------------------------

# A path of somebody's machine, or the host of a registry: neither holds anywhere else.
FOREIGN = re.compile(
    r"(?<![\w.~$}>-])/(?:work|opt|root|home|Users)/\w|"
    + "|".join(("pypi[.]org", "pythonhosted", "npmjs", "debian[.]org"))
)
TEXT_ENDINGS = {"", ".py", ".md", ".toml", ".txt", ".cff", ".json", ".jsonl", ".html", ".yml", ".yaml", ".js", ".css"}


def our_files() -> list[Path]:
    """The texts in the root and in the folders that are ours: not what a run, an environment or a cache left there."""
    folders = [".ci", "omnivl", "tests", "docs", "studies", "benchmarks", "examples"]
    top = (path for path in ROOT.iterdir() if path.name != ".git")  # which is a file in a worktree
    found = [*top, *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return [p for p in found if p.is_file() and p.suffix.lower() in TEXT_ENDINGS and p != Path(__file__).resolve()]


def test_no_file_speaks_of_one_machine() -> None:
    assert FOREIGN.search("see /" + "home/me/x") and FOREIGN.search("https://" + "pypi" + ".org/simple")
    assert not FOREIGN.search("https://huggingface.co/docs") and not FOREIGN.search("~/opt/x and $HOME/work/x")
    files = our_files()
    assert PACKAGE / "losses.py" in files
    for path in files:
        found = FOREIGN.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)} speaks of {found.group() if found else ''!r}"


def test_no_test_skips_itself() -> None:
    """A check that cannot run here is marked (gpu, ...) and reported as not run: see conftest.py."""
    for path in (ROOT / "tests").rglob("*.py"):
        skips = [
            call.lineno for call in calls(ast.parse(path.read_text(encoding="utf-8")), "skip", "skipif", "importorskip")
        ]
        assert not skips, f"{path.relative_to(ROOT)} skips at {skips}: mark what it needs instead"


def test_every_room_says_what_it_is() -> None:
    for module, tree in TREES.items():
        assert isinstance(tree, ast.Module)
        empty = not tree.body  # an empty __init__.py is a folder, not a room
        assert empty or len(ast.get_docstring(tree) or "") > 40, (
            f"omnivl.{module} has no docstring that says what it is"
        )
