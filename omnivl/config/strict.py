"""Configs to JSON and back, and single settings changed by name. An unknown key, a wrong type or a value outside its
choices is a `ConfigError` whose one sentence names the key and the nearest known one.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

FORMAT_VERSION = 1  # of model folders and run configs; raised when old ones need converting

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used: the message is one sentence for the user."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `kind` from JSON values; every key must exist and every value have its field's type.

    Raises ConfigError, naming the dotted key and the nearest known one.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'a config'} must be a table of settings, got {shown(values)}")
    hints = typing.get_type_hints(kind)
    version = values.get("format_version")
    if "format_version" in hints and type(version) is int and version > FORMAT_VERSION:
        raise ConfigError(
            f"this config has the format {version}, but this omnivl reads up to {FORMAT_VERSION}: update omnivl"
        )
    for key in values:
        if key not in hints:
            raise unknown_key(join(where, key), [join(where, name) for name in hints])
    return kind(**{key: check(hints[key], value, join(where, key)) for key, value in values.items()})


def check(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or ConfigError. Integers pass for floats, lists for tuples; no more."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where=where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(str, args))}, got {shown(value)}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, got {shown(value)}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise ConfigError(f"{where} must have {len(kinds)} values, got {len(value)}")
        return tuple(check(k, v, f"{where}.{i}") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    assert not isinstance(kind, types.UnionType), f"{where}: no unions in configs"
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ConfigError(f"{where} must be {NAMES[kind]}, got {shown(value)}")
    return value


NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def shown(value: Any) -> str:
    """A value as a message quotes it: on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse(kind: Any, words: list[str], where: str) -> Any:
    """Words of the command line as the annotated type `kind` (a field that is not itself a dataclass)."""
    if typing.get_origin(kind) is tuple:
        args = typing.get_args(kind)
        return check(kind, [parse(args[0], [word], where) for word in words], where)
    if len(words) != 1:
        raise ConfigError(f"{where} takes one value, got {len(words)}: {shown(' '.join(words))}")
    word = words[0]
    value: Any = word
    try:
        if kind is bool:
            value = {"true": True, "false": False}[word.lower()]
        elif kind in (int, float):
            value = kind(word)
    except (ValueError, KeyError):
        raise ConfigError(f"{where} must be {NAMES[kind]}, got {shown(word)}") from None
    return check(kind, value, where)


def fields_of(kind: type, where: str = "") -> dict[str, Any]:
    """Dotted name -> annotated type of every field that is not itself a dataclass or a list of them."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= fields_of(typing.cast(type, hint), join(where, name))
        elif not holds_settings(hint):
            found[join(where, name)] = hint
    return found


def override(config: T, name: str, value: Any, *, where: str = "") -> T:
    """A copy of `config` with the dotted field `name` (stages by number: "stages.1.optim.lr") set to `value`.

    Raises ConfigError for a name that does not exist or a value that is not of the field's type.
    """
    head, _, rest = name.partition(".")
    here = join(where, head)
    if isinstance(config, tuple):
        if not head.isdecimal() or int(head) >= len(config):
            raise ConfigError(f"there is no {here}: this run has {len(config)} {where}, named by number from 0")
        changed = override(config[int(head)], rest, value, where=here)
        return typing.cast(T, (*config[: int(head)], changed, *config[int(head) + 1 :]))
    hints = typing.get_type_hints(type(config)) if dataclasses.is_dataclass(config) else {}
    if head not in hints:
        raise unknown_key(here, [join(where, known) for known in hints])
    if rest and holds_settings(hints[head]):
        value = override(getattr(config, head), rest, value, where=here)
    elif rest:
        raise unknown_key(join(here, rest), [here])
    elif not holds_settings(hints[head]):
        value = check(hints[head], value, here)
    return dataclasses.replace(typing.cast(Any, config), **{head: value})


def holds_settings(kind: Any) -> bool:
    """Whether a field's type is a dataclass or a list of them."""
    return dataclasses.is_dataclass(kind) or any(dataclasses.is_dataclass(arg) for arg in typing.get_args(kind))


def unknown_key(name: str, known: list[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest one that does: the same last word in another section,
    a word like it in the same section, or any like the whole."""
    section, _, last = name.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == last]
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    near = [beside[word] for word in difflib.get_close_matches(last, beside, 1)]
    guess = [*elsewhere, *near, *difflib.get_close_matches(name, known, 1, 0.75)]
    return ConfigError(f"there is no setting {name!r}" + (f"; did you mean {guess[0]!r}?" if guess else ""))


def read_json(path: Path | str) -> Any:
    """The JSON value in a file. Raises ConfigError naming the file where it is absent or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, wanted a JSON file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
