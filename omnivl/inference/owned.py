"""Which files of a folder are an index's own, by their exact names: nobody else's are ever removed, nor told to be."""

import re
import shlex
from pathlib import Path

KEYED = re.compile(r"media-[0-9a-f]{12}\.db(-wal|-shm|-journal)?|vectors-[0-9a-f]{12}-\d+\.(f16|hnsw)")
OTHERS = re.compile(r"\.lock|index\.json|\.index\.json\.tmp|\.vectors-[0-9a-f]{12}-\d+\.hnsw\.tmp")


def foreign(folder: Path) -> list[str]:
    """Names in a folder that no index gives; none where there is no such folder."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not KEYED.fullmatch(name) and not OTHERS.fullmatch(name)]


def check_free(folder: Path) -> None:
    """Raises ValueError where a new index would lie among files of others; what a killed run left is none of them."""
    if others := foreign(folder):
        raise ValueError(
            f"{folder} holds other files ({others[0]}) and no index: choose a new or an empty folder as --index"
        )


def removal(folder: Path) -> str:
    """The command that removes an index and nothing else."""
    if not foreign(folder):
        return f"rm -r {shlex.quote(str(folder))}"
    own = [path for path in sorted(folder.iterdir()) if KEYED.fullmatch(path.name) or OTHERS.fullmatch(path.name)]
    return shlex.join(["rm", *map(str, own)])
