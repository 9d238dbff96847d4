"""CIFAR-10 and CIFAR-100, from their binary version, or from their Python version without unpickling anything.

The Python version is pickled, and loading a pickle may run code. `plain_pickle` therefore only walks its instructions
(pickletools decodes them and executes none) and builds dicts, lists, texts and numbers; an array is kept as the bytes
that it holds. Any other instruction is refused. Pictures become PPM files in memory: 32 x 32, no file of their own.
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omnivl.data.annotations.items import Item, Notes, Row, reader
from omnivl.data.annotations.tables import text_lines
from omnivl.data.files import resolve

SIDE = 32
PIXELS = 3 * SIDE * SIDE
HEADER = b"P6 %d %d 255\n" % (SIDE, SIDE)
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}

# what the pickled arrays name; nothing of it is called
ARRAYS = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


@reader()
def read_cifar10(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """cifar-10-batches-bin/ (data_batch_1.bin, ..., test_batch.bin, batches.meta.txt) or cifar-10-batches-py/ (the same
    names, pickled). `root` means nothing."""
    if resolve(path / "test_batch.bin").is_file():
        names = [line for _, line in text_lines(path / "batches.meta.txt")]
        for batch in BATCHES[split]:
            yield from pictures(path / f"{batch}.bin", names, *binary(path / f"{batch}.bin", 1))
    else:
        names = unpickled(path / "batches.meta")["label_names"]
        for batch in BATCHES[split]:
            held = unpickled(path / batch)
            yield from pictures(path / batch, names, held["labels"], held["data"])


@reader()
def read_cifar100(path: Path, root: Path | None, split: str, notes: Notes) -> Iterator[Row]:
    """cifar-100-binary/ (train.bin, test.bin, fine_label_names.txt) or cifar-100-python/ (train, test, meta, pickled);
    labels are the 100 fine ones. `root` means nothing."""
    if resolve(path / "test.bin").is_file():
        names = [line for _, line in text_lines(path / "fine_label_names.txt")]
        yield from pictures(path / f"{split}.bin", names, *binary(path / f"{split}.bin", 2))
    else:
        held = unpickled(path / split)
        yield from pictures(
            path / split, unpickled(path / "meta")["fine_label_names"], held["fine_labels"], held["data"]
        )


def pictures(path: Path, names: list[str], labels: list[int], data: bytes) -> Iterator[Row]:
    """`data` holds 1024 red, 1024 green and 1024 blue values a picture, row by row."""
    if len(data) != len(labels) * PIXELS:
        raise ValueError(f"{path} holds {len(data):,} bytes of pixels, wanted {PIXELS:,} for each of {len(labels):,}")
    planes = np.frombuffer(data, np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    for number, (label, pixels) in enumerate(zip(labels, planes, strict=True)):
        key = f"{path.name}/{number}"
        content = HEADER + pixels.tobytes()
        yield (
            f"{path}, picture {number}",
            Item(path / f"{number}.ppm", label=names[label].replace("_", " "), id=key, content=content),
        )


def binary(path: Path, width: int) -> tuple[list[int], bytes]:
    """Labels and pixels of records of `width` label bytes, of which the last counts, and 3072 pixels."""
    data = file_bytes(path)
    if len(data) % (width + PIXELS):
        raise ValueError(f"{path} is cut short: {len(data):,} bytes are not whole records of {width + PIXELS:,}")
    records = np.frombuffer(data, np.uint8).reshape(-1, width + PIXELS)
    return records[:, width - 1].tolist(), records[:, width:].tobytes()


def file_bytes(path: Path) -> bytes:
    try:
        return resolve(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


# --- the Python version ----------------------------------------------------------------------------------------------


def unpickled(path: Path) -> dict[str, Any]:
    """The dict in a pickled batch. Raises ValueError where the file holds anything but plain values and arrays."""
    data = file_bytes(path)
    try:
        held = plain_pickle(data).items()
        return {text(key): bytes_of(value) if isinstance(value, Made) else value for key, value in held}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a batch of plain values ({error}); the binary version is read too") from None


class Made:
    """An object that the pickle would have made: the name of its class or function, and its state."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None


def bytes_of(array: Made) -> bytes:
    """The values of an array of bytes, of state (version, shape, dtype, column order, values)."""
    _, _, _, column_order, values = array.state
    if array.name.rpartition(" ")[2] != "_reconstruct" or column_order:
        raise ValueError("its data are no array of bytes, row by row")
    return values if isinstance(values, bytes) else values.encode("latin-1")


def text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def plain_pickle(data: bytes) -> Any:
    """The value of a pickle of dicts, lists, tuples, texts, numbers and arrays. Nothing is imported or called."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        values = stack[at:]
        del stack[at:]
        return values

    value: Any
    for code, value, _ in pickletools.genops(data):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack[-1]
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[code.name])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "SHORT_BINSTRING" | "BINSTRING" | "BINUNICODE"
                | "SHORT_BINBYTES" | "BINBYTES"
            ):  # fmt: skip
                stack.append(value)
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                pairs = since_mark() if code.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
            case "GLOBAL" if value in ARRAYS:
                stack.append(Made(value))
            case "REDUCE" if isinstance(stack[-2], Made):  # the arguments say nothing that the state does not
                stack.pop()
            case "BUILD" if isinstance(stack[-2], Made):
                state = stack.pop()
                stack[-1].state = state
            case _:
                raise ValueError(f"the instruction {code.name} {value if value is not None else ''} is not read")
    raise ValueError("it is cut short")
