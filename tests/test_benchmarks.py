"""The two sides of each benchmark do the same work, on tiny shapes; no time is asserted."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    checkpoint,
    clip_frames,
    common,
    generation,
    growth,
    indexing,
    loader,
    momentum,
    retrieval,
    search,
    train_step,
    video_encoder,
)
from omnivl.data.media import read_clips
from omnivl.data.sample import Batch
from omnivl.model import VisualEncoder
from omnivl.model.generation import Writer
from omnivl.model.rerank import rerank

ROOT = Path(common.__file__).resolve().parents[1]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_video_encoders_have_equally_many_tokens() -> None:
    _, encode, _, encode_as_peer = video_encoder.encoders(video_encoder.TINY)
    pixels = video_encoder.clips(video_encoder.TINY, 2)
    assert encode(pixels).shape == encode_as_peer(pixels).shape
    # the small model's, on the meta device: a linear layer a block more in the peer, two patch kernels in ours
    with torch.device("meta"):
        both = VisualEncoder(video_encoder.SMALL), video_encoder.timesformer(video_encoder.SMALL)
    assert parameters(both[0]) == pytest.approx(parameters(both[1]), rel=0.10)


@pytest.mark.parametrize("medium", ["image", "video"])
def test_a_pretraining_step_learns_on_both_sides(medium: str) -> None:
    settings = replace(train_step.TASK, bank_size=16)
    batch = train_step.batch_of(train_step.TINY, medium, 4)
    task = train_step.our_task(train_step.TINY, settings)
    torch.manual_seed(0)
    peer = train_step.BlipPretraining(train_step.TINY, settings, medium).train()
    for step in (train_step.our_step(task, batch), train_step.peer_step(peer, batch)):
        losses = [float(step()) for _ in range(3)]
        assert all(map(torch.isfinite, torch.tensor(losses))) and losses[0] != losses[1]
    assert int(task.bank.pushed) == int(peer.bank.pushed) == 12
    # contrast, matching and language modelling of untrained networks cost about the same on both sides, where positions
    # start alike
    task = train_step.our_task(train_step.TINY, settings)
    torch.nn.init.normal_(task.model.visual.position, std=0.02)
    fresh = float(task(batch, 0, 0).total.detach())
    torch.manual_seed(0)
    other = float(train_step.BlipPretraining(train_step.TINY, settings, medium)(batch)[0].detach())
    assert fresh == pytest.approx(other, rel=0.25)


def test_captions_are_the_same_with_and_without_a_cache() -> None:
    model, tokens = generation.model_and_tokens(train_step.TINY, 3)
    texts = [generation.write(kind, model, tokens, 6) for kind in (Writer, generation.Rereader, generation.Forgetful)]
    ids = [[text.ids for text in written] for written in texts]
    assert ids[0] == ids[1] == ids[2]
    assert all(len(text.ids) == 6 for text in texts[0]), "no text ends early"


@pytest.mark.parametrize("k", [1, 4, 99])
def test_reranking_at_once_and_query_by_query_gives_the_same_scores(k: int) -> None:
    model, gallery = retrieval.made_up(train_step.TINY, 9)
    both = (rerank(model, *gallery, k), retrieval.one_query_at_a_time(model, gallery, k))
    for ours, theirs in zip(*both, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert retrieval.measure(True, 1)[0].settings["pairs scored"] <= 144


def test_the_share_of_momentum_is_a_part_of_a_step() -> None:
    (row,) = momentum.measure(True, 1)
    assert row.is_share and 0 < row.ratio < 1


def test_a_checkpoint_is_written_on_both_sides() -> None:
    (row,) = checkpoint.measure(True, 1)
    assert row.settings["megabytes"] > 1 and row.n == 1


def test_growth_is_the_exponent_of_a_power() -> None:
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    rows = growth.measure(True, 1)
    assert [row.benchmark.split()[-1] for row in rows] == ["(exponent)"] * 4 and all(row.ours > 0 for row in rows)


def test_make_bench_runs_every_benchmark() -> None:
    shown = subprocess.run(["make", "-n", "bench"], capture_output=True, text=True, cwd=ROOT).stdout
    pattern = next(line for line in shown.splitlines() if "benchmarks/*.py" in line)
    assert "grep -l '^if __name__' benchmarks/*.py" in pattern
    mains = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "\nif __name__" in path.read_text()}
    assert mains == {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"common.py", "__init__.py"}


def test_all_searches_find_the_same() -> None:
    rows = search.measure(True, 1)
    assert [row.settings["recall_at_10"] >= 0.97 for row in rows] == [True, True]


@pytest.mark.parametrize("case", clip_frames.TINY, ids=lambda case: case.name)
def test_every_way_to_a_clip_gives_the_same_frames(case: clip_frames.Case, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    loader.film(path, np.random.default_rng(0), *case.size, case.length, case.keyframes)
    (clip,) = read_clips(path, [case.choice])
    for name, way in clip_frames.peers().items():
        frames = way(path, clip.times)
        # others convert colours in their own way
        off = np.abs(frames.astype(int) - clip.frames).mean()
        assert frames.shape == clip.frames.shape and off < (1e-9 if name.startswith("PyAV") else 3), name


def test_clip_frames_have_a_row_for_each_case_and_peer() -> None:
    rows = clip_frames.measure(True, 1)
    assert len(rows) == len({row.benchmark for row in rows}) == len(clip_frames.TINY) * len(clip_frames.peers())


def test_an_index_its_parts_and_a_plain_loop_are_of_the_same_files() -> None:
    rows = indexing.measure(True, 1)
    assert [row.settings["vectors"] for row in rows] == [6, 6, 4, 4]
    assert not any(row.is_share for row in rows)


def test_ratios_are_medians_of_pairs_and_are_published_once_each(tmp_path: Path) -> None:
    settings = {"goal": 1.2, "us": "ours", "them": "theirs"}
    row = common.against("a", [(1.0, 2.0), (2.0, 2.0), (1.0, 1.5)], settings)
    assert row.ratio == 1.5 and row.met and not replace(row, ratio=1.1).met
    share = common.against("b", [(1.0, 100.0)], {**settings, "goal": 0.03})
    assert share.ratio == 0.01 and share.met
    assert common.figure(asdict(replace(row, settings={"us": "ours", "them": "theirs"}))) == ("1.50", "")
    common.publish([row, share], tmp_path)
    common.publish([replace(row, ratio=1.1)], tmp_path)
    found = json.loads((tmp_path / "benchmarks.json").read_text())["results"]
    assert [(r["benchmark"], r["ratio"]) for r in found] == [("a", 1.1), ("b", 0.01)]
    assert "1.10 (missed)" in (tmp_path / "benchmarks.md").read_text()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> loader.Bench:
    return loader.Bench(tmp_path_factory.mktemp("bench"), loader.TINY)


def test_loaders_and_the_bare_loop_go_through_the_same_pictures_and_clips(bench: loader.Bench) -> None:
    def seen(batches: Iterable[Batch]) -> set[bytes]:
        found = [pixels.permute(0, 2, 3, 1).numpy().tobytes() for batch in batches for pixels in tensors(batch)]
        assert set(Counter(found).values()) == {bench.shape.passes}
        return set(found)

    def tensors(batch: Batch) -> torch.Tensor:
        assert batch.pixels is not None
        return batch.pixels

    for medium, paths in bench.files.items():
        wanted = {bench.decode(medium, path).tobytes() for path in paths}
        assert len(wanted) == len(paths)
        assert seen(bench.loader(f"manifest:{bench.manifests[medium]}", medium)()) == wanted
        if medium == "image":
            assert seen(bench.loader(f"shards:{bench.tars}", medium)()) == seen(bench.webdataset()) == wanted


def test_a_loader_s_goal_is_a_ratio_and_no_share(bench: loader.Bench) -> None:
    bench.bare("image")
    row = common.against("c", [(1.0, 0.95)], {"goal": 0.9, "us": "ours", "them": "theirs"})
    assert not row.is_share and row.met and row.ratio == 0.95
