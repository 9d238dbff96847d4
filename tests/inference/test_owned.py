"""An index removes no file but its own, and lies in no folder of others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnivl.inference.identity import describe
from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.store import Writer, read_description
from tests.helpers import picture

LIKE_OURS = ("media-holiday.png", "vectors-logo.png", "media-0123456789ab.db.bak", "vectors-0123456789ab-1.f16.txt")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (folder := tmp_path / "media").mkdir()
    picture(folder / "0.png")
    return folder


def test_an_index_never_lies_among_files_of_others(pipeline: Pipeline, tmp_path: Path) -> None:
    (own := tmp_path / "own").mkdir()
    for seed, name in enumerate(LIKE_OURS):
        picture(own / "picture.png", seed).rename(own / name)
    before = files(own)
    with pytest.raises(ValueError, match=r"own holds other files \(media-0123456789ab\.db\.bak\) and no index: choose"):
        MediaIndex.build(own, pipeline, index=own)
    assert files(own) == before
    for others in ('{"pages": []}', '{"format_version": 3}'):
        (own / "index.json").write_text(others)
        with pytest.raises(ValueError, match=r"index\.json is not the description of an index: choose another folder"):
            MediaIndex.build(own, pipeline, index=own)
        assert files(own) == {**before, "index.json": others.encode()}


def test_files_that_came_to_lie_beside_it_stay_and_no_remedy_removes_them(
    pipeline: Pipeline, media: Path, tmp_path: Path
) -> None:
    MediaIndex.build(media, pipeline, index=(folder := tmp_path / "index")).close()
    for name in LIKE_OURS:
        (folder / name).write_text("mine")
    MediaIndex.build(media, pipeline, index=folder, seconds=2.0, rebuild=True).close()
    assert files(folder).keys() >= set(LIKE_OURS) and sum(name.endswith(".db") for name in files(folder)) == 1
    (database,) = folder.glob("*.db")
    database.write_text("no database" * 100)
    with pytest.raises(ValueError, match=r"is damaged .*index again after `rm ") as told:
        MediaIndex.open(folder, pipeline).search("a red circle")
    assert "rm -r" not in str(told.value) and "mine" not in str(told.value)
    removed = str(told.value).partition("`rm ")[2].rstrip("`").split()
    assert str(database) in removed and not {str(folder / name) for name in LIKE_OURS} & set(removed)
    said = json.loads((folder / "index.json").read_text())
    wrong: list[Any] = [[], {}, {**said, "model": 5}, {**said, "settings": {**said["settings"], "seconds": "4"}}]
    for damaged in wrong:
        (folder / "index.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"index\.json is damaged: index again after `rm "):
            MediaIndex.build(media, pipeline, index=folder)


def test_what_a_killed_first_run_left_goes_on(pipeline: Pipeline, media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Writer(folder, describe(pipeline, None)).close()
    (folder / "index.json").unlink()  # killed before it was written
    (folder / ".index.json.tmp").write_text("{")
    MediaIndex.build(media, pipeline, index=folder).close()
    known = read_description(folder)
    assert known is not None
    other = replace(known, fingerprint="of another model")
    Writer(folder, other).close()
    assert {name for name in files(folder) if name.endswith((".db", ".f16"))} == {
        *(f"media-{d.key}.db" for d in (known, other)),
        *(f"vectors-{d.key}-1.f16" for d in (known, other)),
    }
    with MediaIndex.build(media, pipeline, index=folder) as index:
        assert index.store.count() == 1
    assert not list(folder.glob(f"*{other.key}*"))
