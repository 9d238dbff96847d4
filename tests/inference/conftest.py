"""A tiny random model that the tests of search share, and a folder of pictures and films."""

from pathlib import Path

import pytest

import omnivl
from omnivl.inference.pipeline import Pipeline
from tests.data.make_media import numbered, write_video
from tests.helpers import mini_folder, moving_gif, picture


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return omnivl.load(mini_folder(tmp_path_factory.mktemp("search") / "mini"), device="cpu")


def fill(folder: Path, pictures: int = 6) -> Path:
    """`pictures` pictures, a copy of the first, an animation, a film of six seconds, and a file that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(pictures):
        picture(folder / f"{seed}.png", seed)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "copy.png").write_bytes((folder / "0.png").read_bytes())
    moving_gif(folder / "sub" / "moves.gif")
    write_video(folder / "film.mp4", numbered(60), fps=10)
    (folder / "broken.jpg").write_text("no picture")
    return folder
