"""Settings: what is typed wrong is an error that says so, and what is written is read back the same."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from omnivl.config import (
    FORMAT_VERSION,
    MODELS,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StageConfig,
    VisionConfig,
    fields_of,
    from_dict,
    override,
    parse,
    read_json,
    to_dict,
    unknown_key,
)

RUN = RunConfig(
    recipe="two",
    stages=(
        StageConfig(name="first", data=DataConfig(sources=("world:",), weights=(1.0,))),
        StageConfig(name="second", optim=OptimConfig(betas=(0.9, 0.98))),
    ),
)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_survives_json(name: str) -> None:
    text = json.dumps(to_dict(MODELS[name]), allow_nan=False)
    assert from_dict(ModelConfig, json.loads(text)) == MODELS[name]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_can_be_built(name: str) -> None:
    config = MODELS[name]
    for part in (config.vision, config.text):
        assert part.width % part.heads == 0
        assert part.mlp_width == 4 * part.width
    assert config.vision.image_size % config.vision.patch_size == 0
    assert config.vision.num_frames % config.vision.tubelet_size == 0


def test_a_run_survives_json_with_its_tuples() -> None:
    again = from_dict(RunConfig, json.loads(json.dumps(to_dict(RUN))))
    assert again == RUN
    assert hash(again) == hash(RUN)  # lists would not hash


def test_every_default_has_its_declared_type() -> None:
    for kind in (RunConfig, StageConfig, ModelConfig):
        assert from_dict(kind, to_dict(kind())) == kind()


def test_what_is_left_out_is_the_default() -> None:
    assert from_dict(RunConfig, {"model": {"vision": {"width": 64}}}).model == ModelConfig(
        vision=VisionConfig(width=64)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "there is no setting 'modle'; did you mean 'model'?"),
        ({"model": {"vision": {"widht": 1}}}, "no setting 'model.vision.widht'; did you mean 'model.vision.width'?"),
        ({"stages": [{}, {"optim": {"learning": 1}}]}, "there is no setting 'stages.1.optim.learning'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"recipe": 3}, "recipe must be a text, got 3"),
        ({"model": {"temperature": "0.07"}}, "model.temperature must be a number, got '0.07'"),
        ({"model": {"temperature": float("nan")}}, "model.temperature must be a number, got nan"),
        ({"model": {"sharing": "all"}}, "model.sharing must be one of blip, none, got 'all'"),
        ({"model": {"mean": [0.5, 0.5]}}, "model.mean must have 3 values, got 2"),
        ({"model": {"mean": [0.5, 0.5, "x"]}}, "model.mean.2 must be a number, got 'x'"),
        ({"model": 5}, "model must be a table of settings, got 5"),
        ({"stages": {"optim": {}}}, "stages must be a list, got {'optim': {}}"),
        ({"stages": [{"data": {"sources": "world:"}}]}, "stages.0.data.sources must be a list, got 'world:'"),
        ({"stages": [{"data": {"flip": 1}}]}, "stages.0.data.flip must be true or false, got 1"),
        ({"format_version": FORMAT_VERSION + 1, "new": 1}, f"has the format {FORMAT_VERSION + 1}"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(RunConfig, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_table_is_refused_and_quoted_short() -> None:
    with pytest.raises(ConfigError, match="a config must be a table") as error:
        from_dict(RunConfig, [0] * 1000)  # type: ignore[arg-type]
    assert len(str(error.value)) < 120


def test_whole_numbers_pass_for_numbers_and_become_them() -> None:
    value = from_dict(OptimConfig, {"lr": 1, "betas": [0, 1]})
    assert (value.lr, value.betas) == (1.0, (0.0, 1.0))
    assert all(type(number) is float for number in (value.lr, *value.betas))


def test_a_wrong_name_suggests_where_it_stands_and_nothing_far_fetched() -> None:
    known = ["optim.lr", "optim.min_lr", "train.steps", "data.batch_size", "seed"]
    for name, near in [("lr", "optim.lr"), ("data.steps", "train.steps"), ("data.batchsize", "data.batch_size")]:
        assert f"did you mean {near!r}?" in str(unknown_key(name, known))
    assert "did you mean" not in str(unknown_key("optim.zzz", known))


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (int, ["12"], 12),
        (float, ["1e-3"], 0.001),
        (float, ["2"], 2.0),
        (str, ["7"], "7"),
        (str, [""], ""),
        (bool, ["True"], True),
        (bool, ["false"], False),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, ...], [], ()),
        (tuple[float, float], ["0.9", "1"], (0.9, 1.0)),
    ],
)
def test_words_become_values(kind: Any, words: list[str], value: Any) -> None:
    got = parse(kind, words, "x")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (int, ["1e3"], "x must be a whole number, got '1e3'"),
        (int, [], "x takes one value, got 0"),
        (float, ["1", "2"], "x takes one value, got 2: '1 2'"),
        (float, ["nan"], "x must be a number, got nan"),
        (float, ["fast"], "x must be a number, got 'fast'"),
        (bool, ["yes"], "x must be true or false, got 'yes'"),
        (tuple[float, float], ["0.9"], "x must have 2 values, got 1"),
        (tuple[float, ...], ["0.9", "a"], "x must be a number, got 'a'"),
    ],
)
def test_words_that_mean_nothing_are_named(kind: Any, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(kind, words, "x")
    assert message in str(error.value)


def test_choices_are_parsed_as_their_words() -> None:
    kind = fields_of(StageConfig)["train.precision"]
    assert parse(kind, ["bf16"], "x") == "bf16"
    with pytest.raises(ConfigError, match="one of auto, fp32, bf16, fp16"):
        parse(kind, ["int8"], "x")


def test_the_fields_are_all_that_can_be_set_and_lists_of_sections_are_not_among_them() -> None:
    fields = fields_of(RunConfig)
    assert {"seed", "model.vision.width", "model.mean"} <= set(fields)
    assert not {"model", "stages", "evaluation"} & set(fields)


def test_an_override_changes_one_field_of_one_stage_and_leaves_the_original() -> None:
    changed = override(RUN, "stages.1.optim.lr", 0.5)
    assert changed.stages[1].optim == dataclasses.replace(RUN.stages[1].optim, lr=0.5)
    assert changed.stages[0] == RUN.stages[0]
    assert dataclasses.replace(changed, stages=RUN.stages) == RUN
    assert override(RUN, "model.vision.width", 64).model.vision.width == 64
    assert override(RUN, "stages.0.data.sources", ["a:", "b:"]).stages[0].data.sources == ("a:", "b:")
    assert override(RUN, "stages", ()).stages == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stages.2.optim.lr", 1.0, "there is no stages.2: this run has 2 stages, named by number from 0"),
        ("stages.optim.lr", 1.0, "there is no stages.optim: this run has 2 stages"),
        ("stages.-1.optim.lr", 1.0, "there is no stages.-1"),
        ("stages.1.optim.lrr", 1.0, "no setting 'stages.1.optim.lrr'; did you mean 'stages.1.optim.lr'?"),
        ("stages.1.optim.lr.x", 1.0, "no setting 'stages.1.optim.lr.x'"),
        ("sed", 1, "no setting 'sed'; did you mean 'seed'?"),
        ("stages.1.optim.lr", "fast", "stages.1.optim.lr must be a number, got 'fast'"),
    ],
)
def test_an_override_that_fits_nothing_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(RUN, name, value)
    assert message in str(error.value)


def test_configs_never_change_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.seed = 1  # type: ignore[misc]


def test_files_that_hold_no_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        read_json(path)
    with pytest.raises(ConfigError, match="is a folder, wanted a JSON file"):
        read_json(tmp_path)
    path.write_text("{'a': 1}")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"seed": 3}\r\n')
    assert from_dict(RunConfig, read_json(path)).seed == 3
