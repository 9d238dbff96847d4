"""A file is written to a path or URL whole, or not at all."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from omnivl.data.remote import written


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_a_file_stands_whole_or_not_at_all(kind: str, tmp_path: Path) -> None:
    folder = {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[kind]
    system, root = fsspec.core.url_to_fs(folder)
    system.makedirs(root, exist_ok=True)

    def there() -> dict[str, bytes]:
        return {Path(name).name: system.cat_file(name) for name in system.ls(root, detail=False)}

    with written(f"{folder}/a.jsonl") as file:
        file.write("één\n")
        assert "a.jsonl" not in there()
    assert there() == {"a.jsonl": "één\n".encode()}
    with pytest.raises(RuntimeError), written(f"{folder}/a.jsonl") as file:
        file.write("half")
        raise RuntimeError
    assert there() == {"a.jsonl": "één\n".encode()}
    with written(f"{folder}/a.jsonl") as file:
        file.write("new")
    assert there() == {"a.jsonl": b"new"}


def test_what_a_file_system_raises_is_an_oserror_and_leaves_what_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/kept/a", b"old")

    def refuse(*words: Any, **more: Any) -> None:
        raise RuntimeError("no space in the bucket")

    monkeypatch.setattr(type(system), "put_file", refuse)
    with pytest.raises(OSError, match="no space in the bucket") as caught, written("memory://kept/a") as file:
        file.write("new")
    assert caught.value.filename == "memory://kept/a" and system.cat_file("/kept/a") == b"old"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written(str(tmp_path / "none" / "a")):
        pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="nosuch"), written("nosuch://a/b"):
        pass
