"""The study of the paradigms from real encoders, on tiny random ones: equal budgets, numbers that a loop finds too, and
a command that goes on and gives the same again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from omnivl.data.annotations import Item
from omnivl.model import OmniVL
from omnivl.model.folder import save_folder
from omnivl.prompts import fill, label_prompts
from omnivl.tokenizer import Tokenizer
from studies.encoders import cached
from studies.encoders.features import CUT, passes, start
from studies.paradigms import mini
from studies.paradigms.measure import ONE, SHUFFLED, WHOLE
from studies.paradigms.mini import MiniSize, runs
from studies.paradigms.mini_decoders import Lessons
from studies.paradigms.mini_measure import Asked, LowerTexts, Shown, as_text, seen, visual_vectors
from studies.paradigms.mini_page import BY_PICTURE, Floors
from studies.paradigms.numbers import Key, scores
from studies.paradigms.words import OURS
from tests.helpers import MINI, mini_model, moving_gif, picture

TINY = MiniSize(
    drawings=2, both=2, batch=4, clips=4, phrases=40, lessons=Lessons(decoding=2, answering=2, pictures=4, videos=4)
)
NAMES = ("a red star", "a blue ring", "a green circle")


@pytest.fixture(scope="module")
def small() -> tuple[OmniVL, Tokenizer]:
    """Two layers each, of which the first does not learn; clips of 4 frames."""
    config = replace(MINI, vision=replace(MINI.vision, layers=3), text=replace(MINI.text, layers=2, dropout=0))
    model, tokenizer = mini_model(config=config)
    made = cached.shortened(model, vision_layers=2, image_size=48, num_frames=4)
    torch.nn.init.normal_(made.visual.blocks[1].temporal.out.weight, std=0.3)  # so that clips differ from pictures
    return made, tokenizer


def test_budgets_are_equal() -> None:
    size, clip = MiniSize(), 1.3
    planned = runs(size, clip)
    passed = {name: np.sum([stage.passes(size) for stage in stages], axis=0) for name, stages in planned.items()}
    whole = passed[OURS] @ [1, clip]
    assert whole == size.drawings + size.both * (1 + clip)
    for name, (drawings, clips) in passed.items():
        if not name.endswith("_exposure"):
            assert drawings + clip * clips == pytest.approx(whole, rel=0.01), name
    ours = passed[OURS]
    assert passed["image_only_exposure"] == pytest.approx((ours[0], 0))
    assert passed["video_only_exposure"] == pytest.approx((0, ours[1]))
    for name in ("joint_exposure", "image_then_video_exposure"):
        assert passed[name] == pytest.approx(ours, rel=0.02), name


def test_kept_texts_are_those_of_the_lower_part(small: tuple[OmniVL, Tokenizer]) -> None:
    model, tokenizer = small
    texts = LowerTexts(model, tokenizer, [*NAMES, "a ring that moves left and then grows", NAMES[0]], 1)
    found, mask = texts(model, tokenizer, NAMES[1:], 1)
    states, wanted = cached.cached_texts(model, tokenizer, NAMES[1:], 1)
    assert torch.equal(mask, wanted)
    torch.testing.assert_close(found[mask.bool()], states[mask.bool()], atol=1e-5, rtol=1e-5)


def shown(medium: str, name: str, count: int = 12) -> Shown:
    """Random tokens under three captions and two labels."""
    items = [
        Item(
            Path(f"{i}.png"),
            captions=(NAMES[i * 3 // count],),
            label=("warm", "cold")[i % 2],
            id=f"{name}/{i * 3 // count}-{i % 4}",
        )
        for i in range(count)
    ]
    shape = (count, 4 if medium == "video" else 1, 10, 32)
    return Shown(name, medium, items, torch.randn(shape, generator=torch.Generator().manual_seed(0)).half())


@pytest.mark.parametrize(("medium", "name"), [("video", "flare_test"), ("image", "emoji_unseen_concepts")])
def test_numbers_are_those_of_a_loop(small: tuple[OmniVL, Tokenizer], medium: str, name: str) -> None:
    model, tokenizer = small
    some = shown(medium, name)
    texts = LowerTexts(model, tokenizer, some.texts(), 1)
    vectors = visual_vectors(model, 1, seen(some, WHOLE, still=False))
    asked = Asked(model, tokenizer, 1, texts, some, vectors)
    found = {row["metric"]: scores(row["items"]).tolist() for row in asked.rows()}
    chances = {row["metric"]: row["chance"] for row in asked.rows()}

    def by_label(labels: list[str]) -> list[float]:
        classes = sorted(set(labels))
        means = [asked.text_vectors([fill(p, one) for p in label_prompts(medium)]).mean(0).numpy() for one in classes]
        likeness = [[float(v @ m) / float(np.linalg.norm(m)) for m in means] for v in vectors.numpy()]
        return [float(classes[int(np.argmax(row))] == own) for row, own in zip(likeness, labels, strict=True)]

    right = by_label([item.label for item in some.items])
    if medium == "video":
        assert found["top1"] == right and chances["top1"] == 0.5
        table = (vectors @ asked.text_vectors(NAMES).T).numpy()
        own = [NAMES.index(caption) for caption in some.captions]
        assert found["v2t_r1"] == [float(np.argmax(row) == one) for row, one in zip(table, own, strict=True)]
        for text, hits in enumerate(found["t2v_r5"]):
            best = np.argsort(-table[:, text])[:5]
            assert hits == float(any(own[i] == text for i in best))
        likeness = (vectors @ asked.text_vectors(NAMES).T).numpy()
        for i, item in enumerate(some.items):
            facing = [j for j, other in enumerate(some.items) if other.id[-1] == item.id[-1]]  # one a name
            assert found["sibling_v2t"][i] == float(np.argmax(likeness[i]) == own[i])
            assert found["sibling_t2v"][i] == float(facing[int(np.argmax(likeness[facing, own[i]]))] == i)
        assert chances["sibling_v2t"] == pytest.approx(1 / 3)
        assert chances["t2v_r1"] == pytest.approx(4 / 12) and found["v2t_r5"] == [1.0] * 12
    else:
        hands = {caption: [i for i, one in enumerate(some.captions) if one == caption] for caption in sorted(NAMES)}
        named = by_label(some.captions)
        for metric, own_right in (("top1", right), ("name_top1", named)):
            wanted = [np.mean([own_right[i] for i in places]) for places in hands.values()]
            assert found[metric] == pytest.approx(wanted, abs=1e-3)
        assert "t2i_r1" not in found


def test_clips_are_seen_in_three_ways_and_pictures_standing_still(small: tuple[OmniVL, Tokenizer]) -> None:
    model, _ = small
    clips, pictures = shown("video", "flare_test"), shown("image", "emoji_unseen_hand")
    shuffled, one = seen(clips, SHUFFLED, still=False), seen(clips, ONE, still=False)
    assert torch.equal(one[:, 0], clips.tokens[:, 2]) and one.shape[1] == 1
    assert torch.equal(shuffled.float().sum(1), clips.tokens.float().sum(1)) and not torch.equal(shuffled, clips.tokens)
    assert torch.equal(shuffled, seen(clips, SHUFFLED, still=False))
    two = visual_vectors(model, 1, seen(pictures, WHOLE, still=True))
    four = visual_vectors(model, 1, pictures.tokens.expand(-1, 4, -1, -1))
    torch.testing.assert_close(two, four, atol=0.02, rtol=0)
    assert not torch.allclose(two, visual_vectors(model, 1, pictures.tokens), atol=0.05)


def test_scores_are_written_as_they_are_read() -> None:
    for items in ([0.0, 1.0, 1.0], [0.0, 0.5, 1.0], [1.0], [0.5]):
        assert scores(as_text(items)).tolist() == items
    assert as_text([0.0, 1.0]) == "01"


def test_floors_are_those_of_the_two_studies(tmp_path: Path) -> None:
    def row(dataset: str, split: str, metric: str, value: float, **settings: Any) -> dict[str, Any]:
        return {"dataset": dataset, "split": split, "metric": metric, "value": value, "settings": settings}

    said = "copied name of the nearest drawing by "
    floors = {
        "mini_floors": [
            row("mini_emoji_groups", "unseen_hand", "top1", 0.3, features="16x16 pixels", frames=1),
            row("mini_flare_actions", "test", "top1", 0.1, features="16x16 pixels", frames=1),
            row("mini_flare_actions", "test", "top1", 0.2, features="16x16 pixels", frames=8),
            row("mini_flare_actions", "test", "top1", 0.4, features="number of distinct frames", frames=8),
        ],
        "encoders": [
            row("mini/stamps_transfer", "test", "i2t_r5", 0.5, model=said + "16x16 pixels"),
            row("mini/stamps_transfer", "test", "i2t_r5", 0.6, model=said + "frozen tokens"),
            row("mini/stamps_transfer", "test", "i2t_r5", 0.9, model="real encoders, seed 0"),
        ],
    }
    for name, results in floors.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"results": results}))
    assert Floors(tmp_path).found == {
        ("emoji_unseen_hand", "top1"): {"pixels": 0.3},
        ("flare_test", "top1"): {"pixels": 0.2, "other": 0.4},
        ("stamps_transfer", "i2t_r5"): {"pixels": 0.5, "other": 0.6},
    }
    assert Floors(tmp_path / "nothing").found == {} and BY_PICTURE.parts == (
        Key("emoji_unseen_hand", "i2t_r1", "image"),
    )


# --- the command -----------------------------------------------------------------------------------------------------


def rows_of(folder: Path, name: str, ending: str, count: int) -> str:
    """A manifest of three captions, and its files."""
    draw, rows = moving_gif if ending == "gif" else picture, []
    for i in range(count):
        path, said = folder / f"{name}-{i}.{ending}", i * 3 // count
        draw(path, said)
        label = ("warm", "cold")[i % 2]
        rows.append(
            {"media": path.name, "caption": NAMES[said], "label": label, "id": f"star/{said}-{i % (count // 3)}"}
        )
        rows.append({"media": path.name, "question": "is it warm or cold?", "answer": label})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Encoders, features and data as the study of encoders writes them, of random weights."""
    root = tmp_path_factory.mktemp("sources")
    vision = replace(MINI.vision, layers=CUT + 2)
    model, tokenizer = mini_model(config=replace(MINI, vision=vision, text=replace(MINI.text, layers=6, dropout=0)))
    save_folder(model, tokenizer, root / "converted")
    for name, kind, count in (
        ("emoji_train", "png", 6), ("flare_train", "gif", 42), ("emoji_unseen_hand", "png", 3),
        ("emoji_unseen_concepts", "png", 6), ("flare_test", "gif", 24),
    ):  # fmt: skip
        (root / f"{name}.jsonl").write_text(rows_of(root, name, kind, count))
    (root / "emoji_words.json").write_text("{}")
    short, _ = start(root, random=False)
    made = passes(short, root)
    for name in ("emoji_train_0", "flare_train"):
        save_file({"tokens": made[name]()}, root / f"{name}.safetensors", metadata={"cpu_seconds": "1.0"})
    return [str(root)] * 3


def without_time(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "cpu_seconds"}


def test_the_command_makes_what_is_missing_and_the_same_numbers_again(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    words = [*sources, "--results", str(results), "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    assert mini.main(words, TINY) == 2 and "run this command with --cost first" in capsys.readouterr().err
    (results / "mini").mkdir(parents=True)
    (results / "mini" / "cost.json").write_text('{"clip_pass": 1.5}')
    assert mini.main([*words, "--cost"], TINY) == 2 and "delete it first" in capsys.readouterr().err
    words += ["--names", OURS, "video_only", "image_only_exposure"]
    assert mini.main(words, TINY) == 0
    files = {path.stem: path for path in (results / "mini").glob("*_seed0.json")}
    assert set(files) == {f"{OURS}_seed0", "video_only_seed0", "image_only_exposure_seed0"}
    first = without_time(files[f"{OURS}_seed0"])
    assert first["seen"] == {"image": 16, "video": 8} and first["weighted_steps"] == 7
    assert {row["task"] for row in first["results"]} == {
        "emoji_unseen_hand", "emoji_unseen_concepts", "flare_test", "some_emoji_unseen_hand", "some_flare_test",
    }  # fmt: skip
    assert without_time(files["video_only_seed0"])["seen"] == {"image": 0, "video": 20}
    page = " ".join((tmp_path / "results.md").read_text().split())
    assert "x1 is 2 steps on drawings and 2 on both" in page and "not shown against video only" in page
    assert f"**Not run yet**: {OURS} (seed 1); image_only (seed 0); image_only (seed 1);" in page
    untouched = files["video_only_seed0"].stat().st_mtime_ns
    files[f"{OURS}_seed0"].unlink()
    assert mini.main(words, TINY) == 0
    assert without_time(files[f"{OURS}_seed0"]) == first
    assert files["video_only_seed0"].stat().st_mtime_ns == untouched
    assert mini.main([*words[:-3], "nothing"], TINY) == 2
    assert "there is no run 'nothing': choose decoupled_joint, " in capsys.readouterr().err
    assert mini.main(words, replace(TINY, both=3)) == 2
    assert "is of a study of another size" in capsys.readouterr().err


def test_the_cost_of_a_clip_pass_is_that_of_steps_alone(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0

    def pretrain(model: object, tokenizer: object, stages: list[mini.Stage], *_: object) -> None:
        nonlocal clock
        for stage in stages:  # clips cost three times as much a step, drawings more once a stage
            clock += stage.steps * (3.0 if stage.clips else 1.0) + (1.0 if stage.clips else 50.0)

    monkeypatch.setattr(mini, "pretrain", pretrain)
    monkeypatch.setattr("studies.paradigms.make.time.process_time", lambda: clock)
    root = Path(sources[0])
    mini.measure_cost(root, mini.Material.read(root, root, root, tmp_path / "tokens"), tmp_path, TINY)
    told = json.loads((tmp_path / "cost.json").read_text())
    assert (told["drawing_step_seconds"], told["clip_step_seconds"], told["clip_pass"]) == (1, 3, 3)


def test_only_the_upper_part_learns_and_pictures_stay_what_they_were(sources: list[str], tmp_path: Path) -> None:
    root = Path(sources[0])
    material = mini.Material.read(root, root, root, tmp_path)
    model, tokenizer = start(root, random=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mini.pretrain(model, tokenizer, runs(TINY, 1.5)["image_only"], material, seed=0)
    assert model.visual.is_silent(), "it saw no clips: each frame is a picture"
    mini.pretrain(model, tokenizer, runs(TINY, 1.5)["video_only"], material, seed=0)
    assert not model.visual.is_silent()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith(f"visual.blocks.{CUT}.") for name in changed)
    assert not {name for name in changed if name.startswith(tuple(f"visual.blocks.{i}." for i in range(CUT)))}
