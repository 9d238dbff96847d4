"""The study of the paradigms: its runs are the demo's but for what they are about, see no test scene before the end,
and give the same numbers again; its statistics agree with scipy's and with hands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from omnivl.config import ConfigError, StageConfig, to_dict
from omnivl.data import world
from omnivl.presets import changed, demo
from studies.paradigms import cost, floor, make, numbers, plan
from studies.paradigms.__main__ import main
from studies.paradigms.cost import clip_cost
from studies.paradigms.measure import MEDIA, ONE, SHUFFLED, TestItems
from studies.paradigms.numbers import Measure, Study, Told, told
from studies.paradigms.plan import CLAIMS, FULL, TINY, Job, jobs
from tests.helpers import mini_model

# --- what runs there are ---------------------------------------------------------------------------------------------


def flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from flat(value, f"{name}.{key}".lstrip("."))
    else:
        yield name, settings


def unlike(stage: StageConfig, other: StageConfig) -> set[str]:
    one, two = dict(flat(to_dict(stage))), dict(flat(to_dict(other)))
    return {name for name in one if one[name] != two[name]}


def test_a_run_differs_from_the_demo_in_its_stages_its_steps_and_its_claim_alone() -> None:
    language, images, joint = demo().stages
    assert unlike(plan.warm_up(FULL), language) <= {"train.steps", "train.checkpoint_every"}
    for job in jobs():
        claim = next((name for name in CLAIMS if job.name == f"decoupled_joint_{name}"), None)
        about = set(dict(flat(CLAIMS[claim][0]))) if claim else set()
        for stage in job.stages:
            allowed = {"train.steps", "train.checkpoint_every"} | about
            if stage.name == "videos":  # the demo's joint stage, without its pictures
                allowed |= {"name", "data.media", "data.batch_size"}
            if job.name == "joint_exposure":
                allowed |= {"data.video_share"}
            assert unlike(stage, images if stage.name == "images" else joint) <= allowed, job.name


def test_nothing_trains_on_test_scenes_and_nothing_else_is_reported() -> None:
    assert all(stage.data.split == "train" and not stage.train.validate_every for j in jobs() for stage in j.stages)
    good = jobs()[0].stages[0]
    for changes in (
        {"data": {"split": "test"}},
        {"data": {"sources": ("manifest:test.jsonl",)}},
        {"train": {"validate_every": 5}},
        {"train": {"select": "t2i_r1"}},
    ):
        with pytest.raises(ConfigError, match="must"):
            plan.check(Job("mine", (changed(good, **changes),), (0,)))
    items = TestItems(TINY, 64)
    seen = [*map(items.gallery, MEDIA), *items.siblings(), *items.reverse()]
    assert {key.split("/")[1] for gallery in seen for key in gallery.keys} == {"test"}
    texts = {text for gallery in seen for own in gallery.captions for text in own}
    assert texts.isdisjoint(world.all_captions("train"))


def test_budgets_are_equal() -> None:
    counted = {}
    for job in jobs():
        images = videos = 0.0
        for stage in job.stages:
            share = {"images": 0.0, "videos": 1.0}.get(stage.name, stage.data.video_share)
            images, videos = images + (1 - share) * stage.train.steps, videos + share * stage.train.steps
        counted[job.name] = images, videos
    for times in plan.BUDGETS:
        for name in plan.at_equal_compute(FULL):
            images, videos = counted[plan.grown(name, times)]
            assert images + clip_cost() * videos == pytest.approx(plan.budget(FULL, times), rel=2e-3), name
    ours = counted["decoupled_joint"]
    assert counted["image_only_exposure"] == pytest.approx((ours[0], 0))
    assert counted["video_only_exposure"] == pytest.approx((0, ours[1]))
    for name in ("joint_exposure", "image_then_video_exposure"):
        assert counted[name] == pytest.approx(ours, rel=0.01), "share of clips in a cycle of 100 steps"


def test_seeds_come_one_after_the_other_and_paradigms_first() -> None:
    order = [(job.name, seed) for job, seed in plan.in_order(jobs())]
    assert len(set(order)) == len(order) == 54
    assert {name for name, _ in order[:5]} == set(plan.at_equal_compute(FULL)) and {s for _, s in order[:5]} == {0}
    assert order[15][0].endswith("_exposure") and order[27] == ("decoupled_joint_no_labels", 0)
    assert order[-1][0].endswith("_x2") and max(plan.BUDGETS) / min(plan.BUDGETS) == 8


def test_the_cost_of_a_step_is_measured_once() -> None:
    found = cost.measure(pairs=1, first=0)
    assert found["image_step"] == 1.0 and min(found.values()) > 0
    assert cost.main() == 2, "budgets follow from the one that is there"


# --- the command -----------------------------------------------------------------------------------------------------


def without_time(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "cpu_seconds"}


def test_the_command_makes_what_is_missing_and_the_same_numbers_again(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "results.md"
    words = ["--tiny", "--runs", str(tmp_path / "runs"), "--results", str(results)]
    names = ["decoupled_joint", "image_only", "decoupled_joint_tubelet1"]
    assert main([*names, *words, "--seeds", "0"]) == 0
    files = {path.stem: path for path in results.glob("*.json")}
    assert set(files) == {"pixel_neighbour", "language_seed0", *(f"{name}_seed0" for name in names)}
    first = without_time(files["decoupled_joint_seed0"])
    assert first["steps"] == {"image": 2, "video": 3} and first["seen"] == {"image": 16, "video": 24}
    assert first["weighted_steps"] == round(2 + 3 * clip_cost(), 1)
    finetuned = {(row["task"], row["medium"]) for row in first["results"] if row.get("finetuned")}
    assert finetuned == {("caption", "image"), ("caption", "video"), ("answer", "image"), ("answer", "video")}
    for row in first["results"]:
        items = [float(item) for item in row["items"].split()]
        assert len(items) == row["n"] and row["value"] == pytest.approx(np.mean(items), abs=1e-5)
    told_page = page.read_text()
    assert "video_only (seed 0, 1, 2)" in told_page and "image_only (seed 1, 2)" in told_page
    assert "not shown against image only" in told_page or "reverse against image only" in told_page
    short, compute = (told_page.partition(f"## {title}\n")[2] for title in ("In short", "At equal compute"))
    verdict = next(line for line in compute.splitlines() if line.startswith("**Verdict.** "))
    told_first = short.strip().splitlines()[0]
    assert told_first == f"- [At equal compute](#at-equal-compute): {verdict.removeprefix('**Verdict.** ')}"
    assert (results / "compute.svg").stat().st_size < 200_000
    untouched = files["image_only_seed0"].stat().st_mtime_ns
    (results / "again").mkdir()
    files["decoupled_joint_seed0"].rename(results / "again" / "decoupled_joint_seed0.json")
    assert main([*names, *words, "--seeds", "0"]) == 0
    assert without_time(files["decoupled_joint_seed0"]) == first
    assert files["image_only_seed0"].stat().st_mtime_ns == untouched
    same = f"{len(first['results'])} of {len(first['results'])} rows are the same in every item"
    assert same in page.read_text() and "was made again" not in told_page
    twin = json.loads((results / "again" / "decoupled_joint_seed0.json").read_text())
    twin["results"][0]["items"] = twin["results"][0]["items"][::-1] + " 2"
    (results / "again" / "decoupled_joint_seed0.json").write_text(json.dumps(twin))
    assert main(["--page-only", *words]) == 0
    assert f"{len(first['results']) - 1} of {len(first['results'])} rows are the same" in page.read_text()
    assert page.read_text().split("## What each run took")[0] == told_page.split("## What each run took")[0]


def test_what_cannot_be_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--results", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(["nothing", *words]) == 2
    assert "there is no run 'nothing': choose decoupled_joint, " in capsys.readouterr().err
    (tmp_path / "image_only_seed0.json").write_text('{"size": {"images": 7}}')
    assert main(["image_only", "--list", *words]) == 2
    assert "is of a study of another size: give this one its own --results" in capsys.readouterr().err


# --- what runs begin with --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_other_starts_leave_pictures_and_texts_as_they_are() -> None:
    model, tokenizer = mini_model()
    picture = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    clip = picture.expand(-1, 4, -1, -1, -1)
    seen, still = model.encode_visual(picture).embed, model.encode_visual(clip).embed
    assert torch.allclose(seen, still, atol=1e-5) and model.visual.is_silent()
    other = make.tubelet1(model)
    assert other.visual.is_silent() and other.visual.patches.video.weight.shape[2] == 1
    other.eval().visual.start_video_from_image()  # as a stage with clips does
    assert torch.equal(other.encode_visual(picture).embed, seen)
    assert torch.allclose(other.encode_visual(clip).embed, seen, atol=1e-5)
    ids, mask = tokenizer(["a red star"])
    assert torch.equal(other.encode_text(ids, mask).embed, model.encode_text(ids, mask).embed)
    other = make.random_temporal(model)
    assert not other.visual.is_silent(), "so that a stage with clips does not derive it again"
    assert torch.equal(other.encode_visual(picture).embed, seen)
    assert not torch.allclose(other.encode_visual(clip).embed, seen, atol=1e-3)


@torch.no_grad()
def test_who_saw_one_medium_takes_the_patches_of_the_other_from_it() -> None:
    model, _ = mini_model()
    picture = torch.rand(2, 1, 3, 32, 32)
    clip, patches = picture.expand(-1, 4, -1, -1, -1), model.visual.patches
    for seen, other in ((patches.image, "video"), (patches.video, "image")):
        torch.nn.init.normal_(seen.weight)
        assert not torch.allclose(patches(clip)[:, :1], patches(picture), atol=1e-3)
        make.completed(model, make.Count({"image": 3, "video": 3}))
        assert not torch.allclose(patches(clip)[:, :1], patches(picture), atol=1e-3), "who saw both stays as it is"
        make.completed(model, make.Count({"image" if other == "video" else "video": 3}))
        torch.testing.assert_close(patches(clip)[:, :1], patches(picture), atol=1e-4, rtol=1e-4)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_frames_are_shuffled_within_each_clip_and_one_frame_is_its_middle() -> None:
    whole, shuffled, one = (TestItems(TINY, 64, view).gallery("video") for view in ("whole clips", SHUFFLED, ONE))
    orders = set()
    for i in range(len(whole)):
        frames, other = whole.read(i), shuffled.read(i)
        order = [[np.array_equal(frame, own) for own in frames].index(True) for frame in other]
        orders.add(tuple(order))
        assert other.shape == frames.shape and one.read(i).shape[0] == 1
        assert np.array_equal(other, shuffled.read(i)), "the same every time"
        assert {frame.tobytes() for frame in other} == {frame.tobytes() for frame in frames}
    assert len(orders) > 3
    pictures, still = (TestItems(TINY, 64, still=as_clips).gallery("image") for as_clips in (False, True))
    assert pictures.read(3).shape[0] == 1 and np.array_equal(still.read(3), np.repeat(pictures.read(3), 4, axis=0))
    assert whole.captions == shuffled.captions == one.captions


def test_the_pixel_neighbour_is_the_nearest_by_a_loop() -> None:
    copier, gallery = floor.Copier("video", 30), TestItems(TINY, 64).gallery("video")
    assert all("train" in item.key for item in copier.items)
    for index, found in enumerate(copier.nearest(gallery)):
        query = floor.small(gallery.read(index)).astype(np.float64)
        distances = [((floor.small(item.frames) - query) ** 2).sum() for item in copier.items]
        nearest = copier.items[int(np.argmin(distances))]
        assert found is nearest or np.isclose(distances[copier.items.index(found)], min(distances))
    frame = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(1, 64, 64, 3)
    assert floor.small(frame)[3] == frame[0, :4, 4:8, 0].mean()


def test_the_floor_is_measured_by_the_same_names_as_the_runs() -> None:
    found = {(row["task"], row["metric"], row["medium"]) for row in floor.measure_floor(TINY)}
    assert ("motion", "reverse", "video") in found and ("answer", "top1", "image") in found
    assert {("retrieval", f"{way}_r1", m) for way, m in (("t2i", "image"), ("v2t", "video"))} <= found


# --- statistics ------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(1).random((3, 200)) < 0.4
    found = told(values.astype(float))
    by_item = (values.mean(0),)
    other = scipy.stats.bootstrap(by_item, np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.006)
    assert found.by_seed == pytest.approx(values.mean(1)) and found.spread == pytest.approx(values.mean(1).std(ddof=1))


def test_items_that_stand_together_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(1).random((1, 50)) < 0.5, 8, axis=1).astype(float)
    alone, together = told(values), told(values, 8)
    assert alone.mean == together.mean
    assert together.high - together.low == pytest.approx((alone.high - alone.low) * 8**0.5, rel=0.15)


def test_a_difference_is_shown_where_items_and_seeds_agree() -> None:
    assert Told(0.1, 0.05, 0.15, (0.1, 0.1)).verdict == "shown"
    assert Told(0.1, 0.05, 0.15, (0.25, -0.05)).verdict == "not shown"
    assert Told(0.1, -0.01, 0.2, (0.1, 0.1)).verdict == "not shown"
    assert Told(0.1, 0.05, 0.15, (0.1,)).verdict == "not shown", "one seed shows nothing"
    assert Told(-0.1, -0.15, -0.05, (-0.1, -0.1)).verdict == "the reverse"


def test_differences_are_paired_by_item_and_seed(tmp_path: Path) -> None:
    part = numbers.retrieval("t2i_r1", "image")
    for name, seed, items in (
        ("one", 0, "1 1 0 1"),
        ("one", 1, "1 1 0 0"),
        ("two", 0, "1 0 0 0.5"),
        ("three", 1, "0 0 0 0"),
    ):
        row = {"task": "retrieval", "metric": "t2i_r1", "medium": "image", "view": "whole clips", "k": 0}
        row |= {"value": 0, "chance": 0.25, "n": 4, "items": items}
        told_file = {"name": name, "seed": seed, "results": [row], "cpu_seconds": {"pretraining": 2.0}}
        (tmp_path / f"{name}_seed{seed}.json").write_text(json.dumps(told_file))
    study = Study(tmp_path)
    measure = Measure("m", (part,))
    found = numbers.difference(study, "one", "two", measure)
    assert found and found.mean == pytest.approx(1.5 / 4) and found.by_seed == pytest.approx((1.5 / 4,)), "seed 0 alone"
    assert found.spread is None and study.cpu_seconds() == 8.0 and study.chance(measure) == 0.25
    assert numbers.difference(study, "two", "three", measure) is None
    assert numbers.of_run(study, "one", Measure("m", (part, part._replace(k=16))), [0]) is None
    study.rows["one", 1].clear()
    assert numbers.of_run(study, "one", measure, [0]) and numbers.of_run(study, "one", measure, [0, 1]) is None
