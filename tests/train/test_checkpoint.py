"""The run folder: checkpoints whole or absent, one writer, and files that end where the run does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivl.train.checkpoint import RunFolder, checkpoint_steps, read_state, refuse_foreign, write_json
from omnivl.train.stopping import TrainingError

STATE = {"step": 1, "tensor": torch.arange(3), "best": (0.5, 1), "scaler": {}, "names": ["a"]}


def save_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")


def saved(path: Path, *steps: int) -> RunFolder:
    folder = RunFolder(path)
    for step in steps:
        folder.save(step, save_model, {**STATE, "step": step})
    return folder


def python(code: str, *words: str, **settings: Any) -> subprocess.Popen[str]:
    """Another process that has the names of this room."""
    start = "import os, sys, time, torch\nfrom pathlib import Path\nfrom omnivl.train.checkpoint import *\n"
    settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", start + code, *words], **settings)


def test_a_checkpoint_is_a_model_folder_and_the_state_read_back_without_pickled_code(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    assert sorted(path.name for path in folder.at(1).iterdir()) == ["model.safetensors", "training.pt"]
    state = read_state(folder.at(1))
    assert torch.equal(state.pop("tensor"), torch.arange(3))
    assert {**state, "tensor": STATE["tensor"]} == {**STATE, "validated": False}
    folder.note_validated(1, (0.75, 1))
    assert read_state(folder.at(1))["validated"] and read_state(folder.at(1))["best"] == (0.75, 1)
    folder.note_validated(1, None)
    assert read_state(folder.at(1))["best"] is None
    folder.publish(1)
    assert [path.name for path in folder.model.iterdir()] == ["model.safetensors"]


def test_killed_while_saving_the_earlier_checkpoint_is_whole_and_the_next_run_clears_up(tmp_path: Path) -> None:
    saved(tmp_path, 1).close()
    code = (
        "def slow(folder):\n"
        "    folder.mkdir(); (folder / 'model.safetensors').write_bytes(b'half')\n"
        "    print('saving', flush=True); time.sleep(60)\n"
        "RunFolder(Path(sys.argv[1])).save(2, slow, {})"
    )
    process = python(code, str(tmp_path))
    assert process.stdout and process.stdout.readline() == "saving\n"
    assert (tmp_path / "checkpoints/.tmp-step-2").exists() and checkpoint_steps(tmp_path) == [1]
    process.kill()
    process.communicate()
    folder = RunFolder(tmp_path)  # the dead one holds no lock
    assert folder.steps() == [1] and read_state(folder.at(1))["step"] == 1
    assert not (tmp_path / "checkpoints/.tmp-step-2").exists()


def test_what_is_not_ours_is_never_cleared_away(tmp_path: Path) -> None:
    ours = ["checkpoints/.tmp-step-12", "checkpoints/.tmp-old-3", ".tmp-model"]
    theirs = ["checkpoints/.tmp-step-12b", "checkpoints/.tmp-notes", ".tmp-backup", ".tmp-step-1"]
    for name in ours + theirs:
        (tmp_path / name).mkdir(parents=True)
    RunFolder(tmp_path).close()
    assert [name for name in ours + theirs if (tmp_path / name).exists()] == theirs


@pytest.mark.parametrize("held", ["notes.txt", "metrics.jsonl", ".tmp-model/", "config.json"])
def test_a_folder_of_something_else_is_no_run_folder(tmp_path: Path, held: str) -> None:
    (tmp_path / held).mkdir() if held.endswith("/") else (tmp_path / held).write_text('{"width": 32}')
    with pytest.raises(ValueError, match=r"holds files that are not of a run: choose another --out"):
        refuse_foreign(tmp_path)


def test_a_folder_that_is_new_empty_or_of_a_run_however_it_ended_is_one(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "new")
    refuse_foreign(tmp_path)
    RunFolder(tmp_path).close()
    (tmp_path / ".config.json.tmp").write_text('{"sta')  # killed while it was writing its config
    refuse_foreign(tmp_path)
    (tmp_path / "config.json").write_text('{"stages": []}')
    (tmp_path / "metrics.jsonl").write_text("")
    refuse_foreign(tmp_path)


@pytest.mark.parametrize("failing", ["model", "state"])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path: Path, failing: str) -> None:
    """A real limit on the size of files, which the writers of weights and of the state each report in their own way."""
    saved(tmp_path, 1).close()
    code = (
        "import resource\nfrom safetensors.torch import save_file\n"
        "def model(folder):\n    folder.mkdir(); save_file({'a': torch.zeros(COUNT)}, folder / 'model.safetensors')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    RunFolder(Path(sys.argv[1])).save(2, model, {'a': torch.zeros(60_000 - COUNT)})\n"
        "except TrainingError as error:\n    print(error)"
    )
    out, err = python(code.replace("COUNT", "60_000" if failing == "model" else "0"), str(tmp_path)).communicate()
    assert err == ""
    assert (
        out.startswith("the checkpoint of step 2 was not written: ")
        and "File too large" in out
        and out.count("\n") == 1
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    assert read_state(tmp_path / "checkpoints/step-1")["step"] == 1


def test_a_full_disk_while_publishing_leaves_the_checkpoints_and_the_earlier_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, 1)
    folder.publish(1)

    def full(*words: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(TrainingError, match="model/ was not written: No space left on device"):
        folder.publish(1)
    assert folder.model.is_dir() and folder.steps() == [1]


def test_an_interrupted_save_is_no_disk_error_and_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        path.mkdir()
        raise KeyboardInterrupt

    folder = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        folder.save(1, interrupted, {})
    assert list(folder.checkpoints.iterdir()) == []


def test_the_second_writer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"is in use by another run; wait for it, stop it, or choose another --out$"):
        RunFolder(tmp_path)
    _, err = python("RunFolder(Path(sys.argv[1]))", str(tmp_path)).communicate()
    assert "is in use by another run" in err
    first.close()
    RunFolder(tmp_path).close()


def test_children_of_a_killed_run_do_not_hold_its_lock(tmp_path: Path) -> None:
    """A loader's workers live on for some seconds after a kill -9."""
    code = "f = RunFolder(Path(sys.argv[1]))\nif os.fork():\n    print('ready', flush=True)\ntime.sleep(60)"
    process = python(code, str(tmp_path), start_new_session=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
        RunFolder(tmp_path).close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written to .*; choose another --out$"):
        RunFolder(tmp_path / "file")


def test_pruning_keeps_the_latest_and_the_best(tmp_path: Path) -> None:
    folder = saved(tmp_path, 2, 4, 10, 12, 14)
    folder.prune(2, best=4)
    assert folder.steps() == [4, 12, 14]
    folder.prune(0, best=None)  # one is always kept
    assert folder.steps() == [14]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-14"]


def test_the_published_model_is_the_checkpoint_without_its_state_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    folder.model.mkdir()
    (folder.model / "old").write_text("")
    folder.publish(1)
    assert [path.name for path in folder.model.iterdir()] == ["model.safetensors"]


def test_resuming_cuts_the_lines_past_the_checkpoint_and_a_half_written_last_one(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    lines = b'{"step": 1, "a": "\\u2028"}\n{"step": 2}\n'
    folder.metrics.write_bytes(lines + b'{"step": 3}\n{"step": 4, "lo')
    folder.bad_samples.write_bytes(b'{"step": 2, "reason": "x"}\nnot json\n[1]\n{"step": 9}\n')
    folder.cut(2)
    assert folder.metrics.read_bytes() == lines
    assert folder.bad_samples.read_bytes() == b'{"step": 2, "reason": "x"}\n'
    folder.metrics.write_bytes(lines + b'{"step": 2}')  # whole but for its end: the next line would be glued to it
    folder.cut(5)
    assert folder.metrics.read_bytes() == lines
    folder.cut(0)
    assert folder.metrics.read_bytes() == b""


def test_a_damaged_or_missing_state_is_told_in_one_sentence(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    file = folder.at(1) / "training.pt"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"training.pt cannot be read .*: it is damaged$"):
        read_state(folder.at(1))
    file.unlink()
    with pytest.raises(ValueError, match="a model folder alone is not resumed, start from it with --init"):
        read_state(folder.at(1))


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
