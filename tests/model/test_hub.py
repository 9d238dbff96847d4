"""Models by the name of a hub repository: from huggingface_hub's own cache, laid out here on disk, with no connection;
uploads go to a hub that is played. What can go wrong is one sentence."""

import json
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, errors

import omnivl
from omnivl.cli import main
from omnivl.model import load_model
from omnivl.model.folder import add_results, load_folder
from omnivl.model.hub import MODEL_FILES, local_folder
from tests.foreign import save, vit
from tests.helpers import mini_folder, picture

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repo: str, *, commit: str = COMMIT, branch: str = "main") -> Path:
    """The empty snapshot of a repository as huggingface_hub keeps one."""
    storage = cache / f"models--{repo.replace('/', '--')}"
    (storage / "refs").mkdir(parents=True, exist_ok=True)
    (storage / "refs" / branch).write_text(commit)
    snapshot = storage / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache where HF_HUB_CACHE would put it; the suite runs with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNIVL_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("omnivl: ") and err.count("\n") == 1
    return err


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_cached_model_loads_by_its_name_without_a_connection(cache: Path, tmp_path: Path) -> None:
    mini_folder(cached(cache, "me/mine"))
    mini_folder(cached(tmp_path / "other", "me/mine", commit="f" * 40, branch="v2"), seed=1)
    image = picture(tmp_path / "a.png")
    first = omnivl.load("me/mine", device="cpu").embed(image)
    again = omnivl.Pipeline.from_pretrained("me/mine", device="cpu", local_files_only=True, token=False).embed(image)
    np.testing.assert_array_equal(again, first)
    other = omnivl.load("me/mine", device="cpu", revision="v2", cache_dir=tmp_path / "other").embed(image)
    assert not np.array_equal(other, first)


def test_a_folder_of_that_name_comes_before_the_hub(cache: Path, tmp_path: Path) -> None:
    mini_folder(cached(cache, "me/mine"))
    mini_folder(tmp_path / "me" / "mine", seed=1)
    assert local_folder("me/mine") == Path("me/mine")
    for name in ("me/mine/model", "weights/model.pth", "./me/other", "other"):  # no name of a repository
        assert local_folder(name) == Path(name)


def test_every_command_takes_a_hub_name_and_writes_nothing_into_the_cache(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    snapshot = mini_folder(cached(cache, "me/mine"))
    before = {file: file.stat().st_mtime_ns for file in snapshot.iterdir()}
    image = str(picture(tmp_path / "a.png"))
    row = {"media": image, "caption": "a red circle"}
    (tmp_path / "my.jsonl").write_text(
        "".join(json.dumps({**row, "caption": f"a red circle {i}"}) + "\n" for i in "ab")
    )
    assert main(["caption", image, "--model", "me/mine", "--device", "cpu"]) == 0
    assert main(["info", "me/mine"]) == 0
    words = ["--data", "manifest:my.jsonl", "--task", "retrieval", "--split", "train", "--device", "cpu"]
    assert main(["evaluate", "me/mine", *words]) == 0
    assert (tmp_path / "results.json").is_file()
    assert {file: file.stat().st_mtime_ns for file in snapshot.iterdir()} == before
    train = ["train", "pretrain_stage1", "--init", "me/mine", "--data.sources", "manifest:my.jsonl", "--device", "cpu"]
    train += ["--data.batch_size", "2", "--data.num_workers", "0", "--train.steps", "1", "--optim.warmup_steps", "0"]
    train += ["--task.bank_size", "4", "--model.vision.image_size", "48", "--out", "run"]
    assert main(train) == 0
    assert load_model("run/model").config.vision.image_size == 48  # P81: its positions were resized
    assert "positions resized from 32 to 48 pixels" in caplog.text


def test_encoders_and_a_vocabulary_are_converted_from_the_cache(cache: Path, tmp_path: Path) -> None:
    save(vit("ViT"), cached(cache, "them/vit"), vocabulary=False)
    snapshot = save(vit("Bert", 24), cached(cache, "them/bert"))
    (cached(cache, "them/words") / "vocab.txt").write_text((snapshot / "vocab.txt").read_text())
    (snapshot / "vocab.txt").unlink()
    words = ["convert", "--vision", "them/vit", "--text", "them/bert", "--vocab", "them/words", str(tmp_path / "out")]
    assert main(words) == 0
    load_folder(tmp_path / "out")


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_one_sentence(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached(cache, "me/empty")
    image = str(picture(Path("a.png")))
    assert "nor is it in the cache of the hub" in refused(capsys, "caption", image, "--model", "me/absent")
    assert "no config.json" in refused(capsys, "caption", image, "--model", "me/empty")
    assert "nor is it in the cache" in refused(capsys, "info", "me/absent")
    words = ["--task", "retrieval", "--data", "world:"]
    assert "nor is it in the cache" in refused(capsys, "evaluate", "me/absent", *words)
    assert "nor is it in the cache" in refused(capsys, "train", "demo", "--init", "me/absent")
    with pytest.raises(ValueError, match="nor is it in the cache"):
        omnivl.load("me/absent")
    with pytest.raises(ValueError, match="is not the name of a hub repository"):
        omnivl.load("me/mi--ne")


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/api/models/me/mine"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.GatedRepoError("403", response=response(403)), "is gated: ask for access"),
        (errors.RepositoryNotFoundError("404", response=response(404)), "the hub has no model of that name"),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision 'v9'"),
        (errors.HfHubHTTPError("401\nUnauthorised", response=response(401)), "the hub refuses it"),
        (errors.HfHubHTTPError("500\nServer", response=response(500)), "could not be read or written: 500 Server"),
        (errors.LocalTokenNotFoundError("none"), "no hub token"),
    ],
)
def test_the_hubs_errors_are_one_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fails(*words: Any, **more: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match=told) as raised:
        omnivl.load("me/mine", revision="v9")
    assert "\n" not in str(raised.value)


# --- keeping ---------------------------------------------------------------------------------------------------------


def test_a_push_makes_the_repository_and_uploads_the_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class PlayedHub:
        def __init__(self, token: Any = None) -> None:
            calls.append(("token", token))

        def create_repo(self, *, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            calls.append(("create", repo_id, private, exist_ok))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, folder_path: str, **more: Any) -> str:
            calls.append(("upload", sorted(file.name for file in Path(folder_path).iterdir()), more))
            return "https://huggingface.co/me/mine/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", PlayedHub)
    folder = mini_folder(tmp_path / "model")
    (folder / "results.json").write_text("{}")
    model = omnivl.load(folder, device="cpu")
    told = model.push_to_hub("me/mine", private=True, token="secret", branch="dev", commit_message="first")
    assert told == "https://huggingface.co/me/mine/commit/1"
    assert calls[:2] == [("token", "secret"), ("create", "me/mine", True, True)]
    _, names, more = calls[2]
    assert names == sorted(MODEL_FILES)
    assert more["repo_id"] == "me/mine" and more["revision"] == "dev" and more["commit_message"] == "first"
    assert model.save_pretrained(tmp_path / "copy") is None
    assert model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other") == told
    assert ("create", "me/other", None, True) in calls


def test_a_push_without_the_hub_is_one_sentence(tmp_path: Path) -> None:
    model = omnivl.load(mini_folder(tmp_path / "model"), device="cpu")
    with pytest.raises(ValueError, match="cannot be reached or is switched off"):
        model.push_to_hub("me/mine")


def test_the_card_carries_measured_numbers_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    folder = mini_folder(tmp_path / "model")
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## Ethics\n\nMine.\n")
    row = {"task": "retrieval", "dataset": "world:", "split": "test", "n": 64, "chance": 0.0156}
    rows = [
        {**row, "metric": "t2i_r1", "value": 0.25, "settings": {"k": 128}},
        {**row, "metric": "t2i_r5", "value": None, "settings": {"k": 128}},
    ]
    add_results(folder, rows)
    add_results(folder, [{**rows[0], "value": 0.5}])
    read = ModelCard.load(card)
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in read.data.eval_results] == [
        ("t2i_r1", 0.5, "test")
    ]
    assert read.data.library_name == "omnivl" and read.data.pipeline_tag == "image-to-text"
    assert read.text.count("## Results") == 1 and "| t2i_r1 | 0.5 |" in read.text and "Mine." in read.text
    omnivl.load(folder, device="cpu").save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == card.read_text()


def test_a_model_folder_holds_what_others_read(tmp_path: Path) -> None:
    folder = mini_folder(tmp_path / "model")
    assert {file.name for file in folder.iterdir()} == set(MODEL_FILES) - {"results.json"}
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert set(settings) == {"size", "image_mean", "image_std", "interpolation", "num_frames"}
    assert json.loads((folder / "config.json").read_text())["format_version"] == 1


def test_doctor_names_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"torch                        {torch.__version__}" in told
    assert "offline (HF_HUB_OFFLINE)" in told and "heic" in told
