"""The loader's promises: exact resume whatever the workers, honest replacements, and an end that leaves nothing
behind."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from omnivl.config import DataConfig
from omnivl.data import loader as loaders
from omnivl.data.annotations import read_manifest
from omnivl.data.loader import ATTEMPTS, PlannedBatches, training_loader
from omnivl.data.plan import Key, Plan, generator
from omnivl.data.sample import BadSample, Batch, LoadingError, Sample, label_key
from omnivl.data.shard_writer import write_shards
from omnivl.data.sources import Ask, FileSource, Source, open_source
from tests.data.test_annotations import manifest
from tests.helpers import mini_model, moving_gif, picture

ASK = Ask(32, 4, "bicubic")
TOKENIZER = mini_model()[1]
SIZES = {"image": 20, "video": 6}


class Numbers:
    """A source whose samples tell their number; those in `broken` cannot be read, that of `hangs` never comes."""

    group_size = 1

    def __init__(self, name: str = "numbers", broken: tuple[int, ...] = (), hangs: int = -1) -> None:
        self.name, self.broken, self.hangs = name, broken, hangs

    def length(self, medium: str) -> int:
        return SIZES[medium]

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        if index in self.broken:
            raise BadSample(f"{self.name}/{index}.jpg: broken")
        if index == self.hangs:
            time.sleep(3600)
        pixels = np.full((1 if medium == "image" else 4, 32, 32, 3), index, np.uint8)
        pixels[0, 0, :4, 0] = rng.integers(255, size=4)
        return Sample(pixels, f"text {index}", f"class {index}" if index % 2 else "", f"{self.name}/{index}")

    def texts(self, limit: int) -> list[str]:
        return []


def planned(*sources: Numbers, on_bad: str = "replace", seed: int = 0) -> PlannedBatches:
    return PlannedBatches(sources or (Numbers(),), ASK, TOKENIZER, seed, 40, on_bad)


def plan(**changes: Any) -> Plan:
    data = DataConfig(**{"media": "both", "batch_size": 8, "video_batch_size": 4, **changes})
    return Plan(data, 0, ["numbers"], [SIZES], [1])


def images(*indices: int, epoch: int = 0, source: int = 0) -> list[Key]:
    return [Key(source, "image", epoch, index) for index in indices]


def numbers(batch: Batch) -> list[int]:
    assert batch.pixels is not None
    return batch.pixels[:, 0, 0, 5, 5].tolist()


def equal(one: Batch, other: Batch) -> bool:
    assert one.pixels is not None and other.pixels is not None
    pairs = ((one.pixels, other.pixels), (one.ids, other.ids), (one.mask, other.mask), (one.labels, other.labels))
    same = all(torch.equal(*pair) for pair in pairs)
    return same and (one.medium, one.keys, one.bad) == (other.medium, other.keys, other.bad)


# --- the same batches, whoever makes them ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resuming_at_any_step_gives_the_same_bits_with_any_number_of_workers(workers: int) -> None:
    batches = planned(Numbers(broken=(3, 11)))
    whole = [batches.batch(plan().keys(step)) for step in range(10)]  # over three epochs of both media
    assert {batch.medium for batch in whole} == {"image", "video"} and any(batch.bad for batch in whole)
    for first in (0, 3) if workers else (0, 1, 2, 5, 9):
        rest = list(training_loader(plan(), batches, first, 10, workers))
        assert len(rest) == 10 - first and all(map(equal, rest, whole[first:]))


def test_workers_that_are_spawned_give_the_same_too() -> None:
    wanted = planned().batch(plan().keys(0))
    assert equal(pickle.loads(pickle.dumps(planned())).batch(plan().keys(0)), wanted)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        (batch,) = training_loader(plan(), planned(), 0, 1, 1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert equal(batch, wanted)


def test_files_come_the_same_from_workers(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", seed=i)
        moving_gif(tmp_path / f"{i}.gif", seed=i)
    rows = [{"media": f"{i}.{kind}", "caption": [f"a {i}", f"b {i}"]} for i in range(5) for kind in ("png", "gif")]
    path = manifest(tmp_path, *rows, {"media": "gone.png", "caption": "x"})
    data = DataConfig(batch_size=4, augment_ops=2)
    source = open_source(f"manifest:{path}", data)
    a_plan = Plan(data, 0, [source.name], [{m: source.length(m) for m in ("image", "video")}], [1])
    batches = PlannedBatches([source], Ask(16, 2, "bicubic", 0.2, True, 2), TOKENIZER, 0, 40, "replace")
    here, there = (list(training_loader(a_plan, batches, 0, 6, workers)) for workers in (0, 2))
    assert all(map(equal, here, there))
    bad = {reason for batch in here for _, reason in batch.bad}
    assert len(bad) == 1 and "gone.png" in bad.pop()


def test_loading_draws_nothing_from_the_global_generators() -> None:
    def drawn() -> tuple[float, float]:
        return float(torch.rand(())), float(np.random.rand())

    for workers in (0, 1):
        torch.manual_seed(0)
        np.random.seed(0)
        expected = drawn()
        torch.manual_seed(0)
        np.random.seed(0)
        list(training_loader(plan(), planned(), 0, 2, workers))
        assert drawn() == expected


def test_random_numbers_of_a_sample_do_not_depend_on_other_sources_or_neighbours() -> None:
    alone = planned().batch(images(7, epoch=2)).pixels
    beside = planned(Numbers("other"), Numbers()).batch([*images(1), *images(7, epoch=2, source=1)]).pixels
    other_epoch = planned().batch(images(7, epoch=3)).pixels
    other_seed = planned(seed=1).batch(images(7, epoch=2)).pixels
    assert alone is not None and beside is not None and other_epoch is not None and other_seed is not None
    assert torch.equal(alone[0], beside[1])
    assert not torch.equal(alone, other_epoch) and not torch.equal(alone, other_seed)


# --- bad samples -----------------------------------------------------------------------------------------------------


def test_a_bad_sample_is_replaced_as_a_whole_counted_and_the_same_again() -> None:
    keys = images(2, 3, 4, 5)
    first = planned(Numbers(broken=(3, 4))).batch(keys)
    shown = numbers(first)
    assert shown[0] == 2 and shown[3] == 5 and not {3, 4} & set(shown)
    good = planned().batch(images(*shown))  # media, text, label and key of each belong together
    assert torch.equal(first.ids, good.ids) and torch.equal(first.labels, good.labels) and first.keys == good.keys
    reasons = [reason for _, reason in first.bad]
    assert {"numbers/3.jpg: broken", "numbers/4.jpg: broken"} == set(reasons)
    assert {source for source, _ in first.bad} == {"numbers"}
    assert equal(planned(Numbers(broken=(3, 4))).batch(keys), first)


def test_what_replaces_depends_on_seed_epoch_and_index() -> None:
    def shown(seed: int, epoch: int, *indices: int) -> list[int]:
        return numbers(planned(Numbers(broken=(1, 2, 3)), seed=seed).batch(images(*indices, epoch=epoch)))

    drawn = [shown(0, 0, 1, 2, 3), shown(1, 0, 1, 2, 3), shown(0, 1, 1, 2, 3)]
    assert len(set(map(tuple, drawn))) == 3 and len(set(drawn[0])) > 1


def test_samples_that_one_item_stands_in_for_are_augmented_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "ATTEMPTS", 1000)
    all_but_nine = tuple(i for i in range(20) if i != 9)
    batch = planned(Numbers(broken=all_but_nine)).batch(images(*range(20)))
    assert numbers(batch) == [9] * 20 and batch.pixels is not None
    assert len({tuple(row) for row in batch.pixels[:, 0, 0, 0, :4].tolist()}) == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_in_a_row_end_in_one_sentence(workers: int) -> None:
    loader = training_loader(plan(), planned(Numbers(broken=tuple(range(20)))), 0, 3, workers)
    with pytest.raises(LoadingError) as caught:
        next(loader)
    assert str(caught.value).startswith(f"numbers: {ATTEMPTS + 1} samples in a row cannot be read; the last: numbers/")
    assert str(caught.value).endswith(".jpg: broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_samples_are_raised_where_none_are_to_be_replaced(workers: int) -> None:
    batches = planned(Numbers(broken=tuple(range(20))), on_bad="raise")
    with pytest.raises(BadSample, match=r"^numbers/\d+\.jpg: broken$"):
        next(training_loader(plan(), batches, 0, 3, workers))


# --- its end ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_hangs_is_an_error_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "TIMEOUT", 1)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    before = set(multiprocessing.active_children())
    loader = training_loader(plan(media="image"), planned(Numbers(hangs=4)), 0, 9, 2)
    with pytest.raises(
        LoadingError, match=r"the samples of step \d did not come in 1 seconds: a file or disk may hang"
    ):
        list(loader)
    assert set(multiprocessing.active_children()) == before


class Collecting(Numbers):
    """Reading takes so much memory that garbage is collected."""

    def read(self, medium: str, index: int, rng: np.random.Generator, ask: Ask) -> Sample:
        gc.collect()
        return super().read(medium, index, rng, ask)


def test_a_decoder_that_is_left_over_in_the_parent_does_not_hang_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads do not live in a forked process, and freeing it waits for them."""
    monkeypatch.setattr(loaders, "TIMEOUT", 20)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for level in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    gc.disable()
    try:
        held: list[Any] = [av.open(str(tmp_path / "a.mp4"))]
        held[0].streams.video[0].thread_type = "FRAME"
        held[0].streams.video[0].codec_context.thread_count = 4
        held += [next(held[0].decode(video=0)), held]  # a ring, that only a collection frees
        del held
        (batch,) = training_loader(plan(), planned(Collecting()), 0, 1, 1)
    finally:
        gc.enable()
    assert equal(batch, planned().batch(plan().keys(0)))


def test_leaving_off_early_ends_the_workers() -> None:
    before = set(multiprocessing.active_children())
    loader = training_loader(plan(), planned(), 0, 100, 2)
    assert len(list(islice(loader, 2))) == 2 and len(set(multiprocessing.active_children()) - before) == 2
    del loader
    assert set(multiprocessing.active_children()) == before


SCRIPT = """
import signal, sys
from multiprocessing import active_children
from tests.data.test_loader import Numbers, plan, planned
from omnivl.data.loader import training_loader
import torch

torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5
mode = sys.argv[1]
asked = []
if mode == "note":
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))
pictures = plan(media="image")
hangs = pictures.keys(1)[0].index if mode == "raise" else -1  # which is not in the first step
batches = training_loader(pictures, planned(Numbers(hangs=hangs)), 0, 10**6, 2)
try:
    kept = next(batches)
    print(*(child.pid for child in active_children()), flush=True)
    if mode == "raise":
        raise ValueError("as meant")
    after = 0
    for batch in batches:
        after += bool(asked)
        if after == 20:
            break
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@contextlib.contextmanager
def running(mode: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A process group that loads with two workers, and their process ids."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mode],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2, process.stderr and process.stderr.read()
        yield process, workers
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def gone(workers: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, workers)):
        time.sleep(0.05)
    return not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc").is_dir() else True
    )


def test_ctrl_c_ends_the_workers_without_a_word_from_them() -> None:
    with running("interrupt") as (process, workers):
        os.killpg(process.pid, signal.SIGINT)
        shown, told = process.communicate(timeout=20)
        assert shown.endswith("interrupted\n") and not told, told
        assert gone(workers, 5)


def test_workers_go_on_after_a_sigterm_to_all_until_the_parent_has_done() -> None:
    with running("note") as (process, workers):
        os.killpg(process.pid, signal.SIGTERM)
        shown, told = process.communicate(timeout=20)
        assert process.returncode == 0 and shown.endswith("finished\n") and not told, told
        assert gone(workers, 5)


def test_an_error_ends_the_process_although_a_worker_hangs() -> None:
    with running("raise") as (process, workers):
        _, told = process.communicate(timeout=20)
        assert process.returncode == 1 and told.rstrip().endswith("ValueError: as meant")
        assert gone(workers, 5)


@pytest.mark.long
def test_workers_of_a_killed_process_end_by_themselves() -> None:
    with running("kill") as (process, workers):
        process.kill()
        assert gone(workers, 30)


def test_every_batch_is_a_file_source_s_own(tmp_path: Path) -> None:
    """FileSource keeps the protocol that the loader is written against."""
    picture(tmp_path / "a.png")
    source = open_source(f"manifest:{manifest(tmp_path, {'media': 'a.png', 'caption': 'x'})}", DataConfig())
    assert isinstance(source, FileSource)
    batch = PlannedBatches([source], ASK, TOKENIZER, 0, 40, "raise").batch(images(0))
    assert batch.pixels is not None and batch.pixels.shape == (1, 1, 3, 32, 32) and batch.pixels.dtype == torch.uint8


# --- files and shards over epochs, workers and ranks -----------------------------------------------------------------

STEPS, STOP = 70, 13  # of 8 samples: 40 pictures and 12 clips are gone through many times


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Source], Any]:
    """Pictures and clips from a manifest and from shards of them, with bad ones among them; and plans over both."""
    folder = tmp_path_factory.mktemp("mixed")
    rows: list[dict[str, Any]] = []
    for i in range(26):
        media = moving_gif(folder / f"{i}.gif", i) if i % 4 == 3 else picture(folder / f"{i}.png", i)
        rows.append({"media": media.name, "caption": [f"a {i}", f"b {i}"], "id": f"id {i}"})
    write_shards(read_manifest(manifest(folder, *rows), None, "").items, folder / "tars", 40_000)
    for i in (2, 7):
        (folder / rows[i]["media"]).write_bytes((folder / rows[i]["media"]).read_bytes()[:-600])
    path = manifest(folder, *rows, {"media": "gone.png", "caption": "gone"})
    data = DataConfig(batch_size=8, video_batch_size=4, video_share=0.3, weights=(2.0, 1.0))
    sources = [open_source(spec, data) for spec in (f"manifest:{path}", f"shards:{folder / 'tars'}")]
    names, lengths = [s.name for s in sources], [{m: s.length(m) for m in ("image", "video")} for s in sources]
    return sources, lambda **ranks: Plan(data, 5, names, lengths, [1, 1], **ranks)


def over_both(sources: list[Source]) -> PlannedBatches:
    return PlannedBatches(sources, Ask(16, 2, "bicubic", 0.2, True, 2), TOKENIZER, 5, 40, "replace")


@pytest.fixture(scope="module")
def by_hand(mixed: tuple[list[Source], Any]) -> list[Batch]:
    """Every batch by a plain loop: each key's sample with its own random numbers, or the first of those drawn in its
    place that can be read."""
    sources, plan_of = mixed
    batches = []
    for step in range(STEPS):
        samples, bad = [], []
        for key in (keys := plan_of().keys(step)):
            source, index = sources[key.source], key.index
            for attempt in range(9):
                where = (source.name, key.medium, key.epoch, key.index, attempt)
                try:
                    numbers_of = generator(5, "augment", *where)
                    samples.append(source.read(key.medium, index, numbers_of, Ask(16, 2, "bicubic", 0.2, True, 2)))
                    break
                except BadSample as error:
                    bad.append((source.name, str(error)))
                    index = int(generator(5, "replace", *where).integers(source.length(key.medium)))
        pixels = torch.stack([torch.from_numpy(np.array(each.pixels)) for each in samples]).permute(0, 1, 4, 2, 3)
        ids, mask = TOKENIZER([each.text for each in samples], max_tokens=40)
        labels = torch.tensor([label_key(each.text, each.label) for each in samples])
        batches.append(Batch(keys[0].medium, pixels, ids, mask, labels, [each.key for each in samples], bad))
    return batches


def test_the_loader_gives_what_a_plain_loop_gives(mixed: tuple[list[Source], Any], by_hand: list[Batch]) -> None:
    sources, plan_of = mixed
    loaded = list(training_loader(plan_of(), over_both(sources), 0, STEPS, 0))
    assert len(loaded) == STEPS and all(map(equal, loaded, by_hand))
    assert {batch.medium for batch in loaded} == {"image", "video"}
    reasons = {reason.partition(": ")[0].rpartition("/")[2] for batch in loaded for _, reason in batch.bad}
    assert reasons == {"2.png", "gone.png"}, "of the clip that is cut short, the frames before are used"
    epochs = {key.epoch for step in range(STOP, STOP + 50) for key in plan_of().keys(step)}
    assert len(epochs) > 3, "the fifty batches below lie over several epochs"


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_stopped_and_resumed_with_other_workers_the_next_fifty_batches_are_the_same_to_the_bit(
    mixed: tuple[list[Source], Any], by_hand: list[Batch], workers: int
) -> None:
    sources, plan_of = mixed
    before = training_loader(plan_of(), over_both(sources), 0, STEPS, 2)  # workers ahead of the step that was consumed
    assert all(map(equal, islice(before, STOP), by_hand))
    del before
    after = islice(training_loader(plan_of(), over_both(sources), STOP, STEPS, workers), 50)
    resumed = list(after)
    assert len(resumed) == 50 and all(map(equal, resumed, by_hand[STOP:]))


@pytest.mark.parametrize("world", [2, 4])
def test_the_batches_of_all_ranks_are_those_of_one(
    mixed: tuple[list[Source], Any], by_hand: list[Batch], world: int
) -> None:
    sources, plan_of = mixed
    ranks = [
        list(training_loader(plan_of(rank=rank, world=world), over_both(sources), 0, 30, rank % 2))
        for rank in range(world)
    ]
    assert {len(each) for each in ranks} == {30}
    for parts, whole in zip(zip(*ranks, strict=True), by_hand[:30], strict=True):
        assert {part.medium for part in parts} == {whole.medium} and {len(part) for part in parts} == {
            len(whole) // world
        }
        assert whole.pixels is not None
        assert torch.equal(torch.cat([part.pixels for part in parts if part.pixels is not None]), whole.pixels)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        texts = [
            row[: int(row_mask.sum())] for part in parts for row, row_mask in zip(part.ids, part.mask, strict=True)
        ]
        assert all(torch.equal(text, row[: len(text)]) for text, row in zip(texts, whole.ids, strict=True))
        assert [key for part in parts for key in part.keys] == whole.keys
        assert [bad for part in parts for bad in part.bad] == whole.bad
