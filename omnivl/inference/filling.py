"""A collection of Milvus is brought to what an index's folder says: what is new goes in, what is gone goes out.

Rows are put in first and then noted in the folder's database (`served`), so what a killed run did not note is put in
again under the same key. A key is of all that a row says, so a row is never changed: it goes and another one comes. The
paper (OmniVL, arXiv 2209.07526) says nothing about this.
"""

import hashlib
import json
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from omnivl.inference.milvus import CURRENT, NONE, PATIENCE, Collection, shown
from omnivl.inference.search import BUILD, NEIGHBOURS
from omnivl.inference.store import Description, Writer

TOGETHER = 1000  # rows of one insertion
LONGEST = 8192  # bytes of a path
ROWS = """
SELECT files.id, path, kind, files.taken, duration, number, start, windows.end, hash, row FROM files
JOIN contents ON contents.id = files.content JOIN windows ON windows.content = contents.id ORDER BY row, files.id
"""


class Filler(Collection):
    """A connection that writes."""

    def check_owner(self, folder: Path) -> None:
        """Raises ValueError where another folder fills it: what that has would be taken for gone."""
        if self.about and (owner := self.about["owner"]) != owner_of(folder):
            raise ValueError(
                f"{shown(self.uri)} is filled from {owner['folder']} on {owner['machine']}: index there, or name "
                "another database"
            )

    def fill(self, writer: Writer) -> list[tuple[str, str]]:
        """Bring it to what the folder says; the (path, reason) of files that it cannot hold."""
        name = f"{CURRENT}_{writer.description.key}"
        writer.execute("CREATE TABLE IF NOT EXISTS served (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self.prepare(name, writer)
        served = {key for (key,) in writer.execute("SELECT id FROM served")}
        wanted, failed = {}, {}
        for row in writer.execute(ROWS):
            try:
                row[1].decode()
            except UnicodeDecodeError:
                failed[os.fsdecode(row[1])] = "its name is no text (UTF-8), which Milvus cannot hold: rename it"
                continue
            wanted[hashlib.blake2b(repr(row[:-1]).encode(), digest_size=16).hexdigest()] = row
        new, gone = [key for key in wanted if key not in served], sorted(served - wanted.keys())
        vectors = writer.vectors()
        with self.told("writing"):
            for first in range(0, len(new), TOGETHER):
                keys = new[first : first + TOGETHER]
                rows = [as_row(key, wanted[key], vectors) for key in keys]
                self.client.upsert(name, rows, timeout=PATIENCE)
                with writer.transaction():
                    for key in keys:
                        writer.execute("INSERT INTO served VALUES (?)", (key,))
            for first in range(0, len(gone), TOGETHER):
                keys = gone[first : first + TOGETHER]
                self.client.delete(name, ids=keys, timeout=PATIENCE)
                with writer.transaction():
                    for key in keys:
                        writer.execute("DELETE FROM served WHERE id = ?", (key,))
            self.client.flush(name, timeout=PATIENCE)
            self.client.alter_collection_properties(name, properties(writer), timeout=PATIENCE)
            self.make_current(name)
        self.about = self.read_about(CURRENT)
        return sorted(failed.items())

    def prepare(self, name: str, writer: Writer) -> None:
        """An empty collection where there is none, or what is in it is not what the folder's database notes."""
        with self.told("making a collection"):
            if self.exists(name):
                self.client.load_collection(name, timeout=PATIENCE)
                (served,) = writer.execute("SELECT count(*) FROM served")[0]
                (held,) = self.client.query(name, filter="", output_fields=["count(*)"], timeout=PATIENCE)
                before = self.read_about(name)["description"]
                if held["count(*)"] == served and before == asdict(writer.description):
                    return
                self.drop(name)
            writer.execute("DELETE FROM served")
            schema, index = layout(writer.description)
            self.client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong", timeout=PATIENCE
            )
            self.client.alter_collection_properties(name, properties(writer), timeout=PATIENCE)

    def make_current(self, name: str) -> None:
        """Searches go to this collection from now on; others of ours, of another model or windows, go."""
        now = self.client.describe_alias(CURRENT)["collection_name"] if self.exists() else None
        if now != name:
            (self.client.alter_alias if now else self.client.create_alias)(name, CURRENT, timeout=PATIENCE)
        for other in self.client.list_collections(timeout=PATIENCE):
            if other.startswith(f"{CURRENT}_") and other != name:
                self.drop(other)

    def drop(self, name: str) -> None:
        for alias in self.client.list_aliases(name, timeout=PATIENCE)["aliases"]:
            self.client.drop_alias(alias, timeout=PATIENCE)
        self.client.drop_collection(name, timeout=PATIENCE)


def owner_of(folder: Path) -> dict[str, str]:
    return {"folder": str(folder.absolute()), "machine": socket.gethostname()}


def properties(writer: Writer) -> dict[str, str]:
    about = {
        "description": asdict(writer.description),
        "owner": owner_of(writer.folder),
        "roots": writer.roots(),
        "files": writer.count(),
    }
    return {f"omnivl.{name}": json.dumps(value) for name, value in about.items()}


def layout(description: Description) -> tuple[Any, Any]:
    """The schema of a collection, and how it is searched: every row (`exact`), or along a graph (`faiss`)."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, max_length=32, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=description.embed_dim)
    schema.add_field("file", DataType.INT64)
    for name, length in (("path", LONGEST), ("kind", 8), ("taken", 32)):
        schema.add_field(name, DataType.VARCHAR, max_length=length)
    for name in ("duration", "start", "end"):
        schema.add_field(name, DataType.DOUBLE)
    index = MilvusClient.prepare_index_params()
    if description.settings.backend == "exact":
        index.add_index("vector", index_type="FLAT", metric_type="IP")
    else:
        options = {"M": NEIGHBOURS, "efConstruction": BUILD}
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=options)
    return schema, index


def as_row(key: str, row: Any, vectors: np.ndarray) -> dict[str, Any]:
    file, path, kind, taken, duration, _, start, end, _, place = row
    seconds = {"duration": duration, "start": start, "end": end}
    return {
        "id": key,
        "vector": vectors[place].astype(np.float32),
        "file": file,
        "path": path.decode(),
        "kind": kind,
        "taken": taken,
        **{name: NONE if value is None else float(value) for name, value in seconds.items()},
    }
