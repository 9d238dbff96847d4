"""An index that is searched in Milvus: a file is Milvus Lite, an address a server or cluster, the calls are the same.

milvus:./local.db                 in this process; one process at a time owns the file
milvus:http://host:19530[/db]     MILVUS_TOKEN ("user:password" or a key) is sent where it is set

What files there are, what was read of them and their vectors stay in a folder of the machine that indexes
(`omnivl.inference.store`), which is the truth: a collection is filled from it after each run
(`omnivl.inference.filling`) and can be made anew from it. A row of it is a window of a file with all that a search
needs and answers, so machines that only search have neither the folder nor the media. A file that is not there is left
out where its folder is on this machine. The paper (OmniVL, arXiv 2209.07526) says nothing about this.
Axes: E embedding.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnivl.inference.filters import Filters, below, folder_here, start_of
from omnivl.inference.identity import data_folder, default_folder
from omnivl.inference.search import EXPLORE
from omnivl.inference.store import Description, Settings, read_description

PREFIX = "milvus:"
NEEDS = 'pip install "omnivl[milvus]"'
LOUD = "pymilvus", "milvus_lite", "grpc._server", "faiss.loader"  # they log what they raise, traceback and all
CURRENT = "omnivl"  # the alias of the collection that is searched
TIMEOUT = 10.0  # seconds that a connection may take
PATIENCE = 120.0  # seconds that a call may take
MOST = 16384  # hits of one search that a server gives
NONE = -1.0  # seconds, where a picture has none


@dataclass(frozen=True)
class Hit:
    """A window of a file that was found; `start` and `end` in seconds, None for a picture."""

    key: str  # of all that its row says
    file: int
    path: str
    kind: str
    start: float | None
    end: float | None
    score: float


def located(index: str | Path | None) -> tuple[Path, str | None]:
    """The folder of an index, and where it is searched in Milvus the address; None: OMNIVL_INDEX, else the default."""
    named = str(index or os.environ.get("OMNIVL_INDEX", ""))
    if not named.startswith(PREFIX):
        return (default_folder() if index is None else Path(os.path.expanduser(index))), None
    uri = named.removeprefix(PREFIX)
    if re.match(r"https?://[^/]", uri):
        address = shown(uri).partition("://")[2]
        return data_folder() / f"milvus-{re.sub(r'[^0-9A-Za-z.]+', '-', address).strip('-')}", uri
    if "://" in uri or not uri.endswith(".db"):
        raise ValueError(f"{named} is neither milvus:FILE.db nor milvus:http://HOST:PORT")
    path = Path(os.path.expanduser(uri)).absolute()
    return path.with_name(f"{path.name}.catalogue"), str(path)


def shown(uri: str) -> str:
    """What `--index` says, without a user and a password."""
    return PREFIX + re.sub(r"://[^/@]*@", "://", uri)


def known_index(index: str | Path | None) -> Description | None:
    """What an index says of itself, None where there is none."""
    folder, uri = located(index)
    if uri is None:
        return read_description(folder)
    if not uri.startswith("http") and not Path(uri).exists():
        return None
    with closing(Collection(uri)) as collection:
        return collection.description if collection.about else None


class Collection:
    """A connection. Raises ValueError (one sentence) where there is none, now and in every call; ModuleNotFoundError
    without pymilvus."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError:
            raise ModuleNotFoundError(f"an index in Milvus needs pymilvus: {NEEDS}") from None
        try:
            self.client = MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=TIMEOUT)
        except MilvusException as error:
            raise ValueError(self.refusal(error.message)) from error
        self.about: dict[str, Any] | None = None  # the properties that `fill` gave it; None: there is no collection
        try:
            if self.exists():
                self.about = self.read_about(CURRENT)
                with self.told("loading"):
                    self.client.load_collection(CURRENT, timeout=PATIENCE)
        except BaseException:
            self.close()
            raise

    @property
    def remote(self) -> bool:
        return self.uri.startswith("http")

    def refusal(self, message: str) -> str:
        """Why there is no connection, which Milvus Lite does not tell."""
        if self.remote:
            return f"{shown(self.uri)} does not answer, or refuses the token (MILVUS_TOKEN): {message}"
        path = Path(self.uri)
        if path.exists() and not path.is_dir():
            return f"{path} is not a database of Milvus Lite, which is a folder: choose another name"
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            return f"{path} cannot be written to: choose another --index"
        if (path / "LOCK").exists():
            with open(path / "LOCK") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return (
                        f"{path} is in use by another process, and Milvus Lite has one owner at a time: wait for it, "
                        "or run a Milvus server and give milvus:http://HOST:19530"
                    )
        return f"{path} cannot be opened by Milvus Lite ({message}): it is damaged, or its package is missing: {NEEDS}"

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            raise ValueError(f"{shown(self.uri)}: {what} failed: {error.message}") from error

    def close(self) -> None:
        self.client.close()
        if not self.remote:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)  # and with it the lock

    # --- what it is --------------------------------------------------------------------------------------------------

    def exists(self, name: str = CURRENT) -> bool:
        with self.told("asking for the collection"):
            return self.client.has_collection(name, timeout=PATIENCE)

    def read_about(self, name: str) -> dict[str, Any]:
        with self.told("reading the collection"):
            found = self.client.describe_collection(name, timeout=PATIENCE)["properties"]
        try:
            return {key: json.loads(found[f"omnivl.{key}"]) for key in ("description", "owner", "roots", "files")}
        except (KeyError, ValueError):
            raise ValueError(
                f"{shown(self.uri)} has a collection {name!r} that omnivl has not made: name another database"
            ) from None

    @property
    def description(self) -> Description:
        assert self.about
        found = self.about["description"]
        return Description(**found | {"settings": Settings(**found["settings"])})

    def roots(self) -> list[str]:
        return self.read_about(CURRENT)["roots"]  # a writer may have added some

    def count(self) -> int:
        """Files that can be found."""
        return self.read_about(CURRENT)["files"]

    def path_of(self, file: int) -> str | None:
        with self.told("asking for a file"):
            rows = self.client.query(
                CURRENT, filter=f"file == {file}", output_fields=["path"], limit=1, timeout=PATIENCE
            )
        return rows[0]["path"] if rows else None

    # --- searching ---------------------------------------------------------------------------------------------------

    def nearest(self, vector: np.ndarray, count: int, filters: Filters) -> list[Hit]:
        """The best window of each of the nearest `count` files to a vector (E,), best first."""
        files: dict[int, Hit] = {}
        roots = [root for root in self.roots() if os.path.isdir(root)]
        asked = 0
        while len(files) < count and asked < MOST:
            asked = min(max(4 * asked, 4 * count), MOST)  # a film has many windows: count files
            hits = self.search(vector, asked, filters)
            files.clear()  # a graph that is asked for more may find better ones too
            for hit in hits:
                here = any(hit.path.startswith(f"{root.rstrip('/')}/") for root in roots)
                if hit.file not in files and (not here or os.path.isfile(hit.path)):
                    files[hit.file] = hit
            if len(hits) < asked:
                break
        return list(files.values())[:count]

    def search(self, vector: np.ndarray, k: int, filters: Filters) -> list[Hit]:
        """The nearest `k` windows, fewer where there are fewer."""
        graph = self.description.settings.backend != "exact"
        with self.told("searching"):
            (found,) = self.client.search(
                CURRENT,
                data=[vector.astype(np.float32).tolist()],
                limit=k,
                filter=expression(filters),
                output_fields=["id", "file", "path", "kind", "start", "end"],
                search_params={"params": {"ef": max(EXPLORE, 2 * k)}} if graph else {},
                timeout=PATIENCE,
            )
        hits = []
        for hit in found:
            row = hit["entity"]
            start, end = (None if row[name] == NONE else row[name] for name in ("start", "end"))
            hits.append(Hit(row["id"], row["file"], row["path"], row["kind"], start, end, float(hit["distance"])))
        return hits


def expression(filters: Filters) -> str:
    """The conditions in Milvus's language."""
    conditions = []
    if filters.kind:
        conditions.append(f"kind == {quoted(filters.kind)}")
    conditions += [in_folder(folder) for folder in filters.folders]
    if filters.after:
        conditions.append(f"taken >= {quoted(start_of(filters.after))}")
    if filters.before:
        conditions.append(f"taken < {quoted(start_of(filters.before))}")
    if filters.min_duration is not None or filters.max_duration is not None:
        conditions.append(f"duration >= {max(filters.min_duration or 0.0, 0.0)!r}")  # pictures have less
    if filters.max_duration is not None:
        conditions.append(f"duration <= {float(filters.max_duration)!r}")
    return " and ".join(conditions)


def in_folder(folder: str) -> str:
    """A folder of this machine and all in it, or the name of one anywhere, as in `omnivl.inference.filters`."""
    if path := folder_here(folder):
        first, last = (edge.decode("utf-8", "replace") for edge in below(path))
        return f"path >= {quoted(first)} and path < {quoted(last)}"
    name = re.sub(r"([%_\\])", r"\\\1", folder.strip("/"))
    return f"path like {quoted(f'%/{name}/%')}"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
