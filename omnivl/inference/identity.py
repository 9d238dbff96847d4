"""Whose index it is: where it lies, which model and which windows it is of, and what is said where those are others."""

import hashlib
import json
import math
import os
import shlex
from dataclasses import replace
from pathlib import Path

from omnivl.config import to_dict
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.store import Description, Settings

SHORTEST = 0.05  # seconds of a window or a stride: below the time of a frame there is nothing more to see


def default_folder() -> Path:
    """OMNIVL_INDEX, else omnivl/index where the user's data live."""
    if named := os.environ.get("OMNIVL_INDEX"):
        return Path(os.path.expanduser(named))
    return data_folder() / "index"


def data_folder() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "omnivl"


def describe(
    pipeline: Pipeline,
    known: Settings | None,
    seconds: float | None = None,
    stride: float | None = None,
    backend: str | None = None,
    scenes: bool | None = None,
) -> Description:
    """What an index of this model is like; what is not given is as `known`, or the default."""
    if backend not in (None, "exact", "faiss"):
        raise ValueError(f"a back end is exact or faiss, got {backend!r}")
    frames = pipeline.config.vision.num_frames
    settings = known or Settings(frames)
    if seconds is not None:
        settings = replace(settings, seconds=float(seconds), stride=max(seconds / 2, SHORTEST))
    if stride is not None:
        settings = replace(settings, stride=float(stride))
    check_windows(settings.seconds, settings.stride)
    scenes = settings.scenes if scenes is None else scenes
    settings = replace(settings, num_frames=frames, backend=backend or settings.backend, scenes=scenes)
    name = pipeline.name or "a model without a name"
    name = str(Path(name).absolute()) if Path(name).is_dir() else name  # else it is one of a hub
    return Description(name, fingerprint(pipeline), pipeline.config.embed_dim, settings)


def check_windows(seconds: float, stride: float) -> None:
    """Raises ValueError for windows that make no sense, or would be too many."""
    if not SHORTEST <= stride <= seconds < math.inf:
        raise ValueError(
            f"windows of {seconds:g} s every {stride:g} s: a stride is at least {SHORTEST:g} s and at most the length "
            "of a window"
        )


def fingerprint(pipeline: Pipeline) -> str:
    """Of all that vectors depend on: the weights of both encoders and their projections, and the preprocessing."""
    digest = hashlib.blake2b(json.dumps(to_dict(pipeline.config), sort_keys=True).encode(), digest_size=16)
    for name, weights in sorted(pipeline.model.state_dict().items()):
        if name.startswith(("visual.", "visual_projection.", "text.", "text_projection.")):
            digest.update(name.encode())
            digest.update(weights.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def refuse_another(folder: Path | str, known: Description, wanted: Description) -> None:
    """Raises ValueError where an index cannot be gone on with, naming both and the command that makes it anew."""
    command = f"omnivl index --rebuild --index {shlex.quote(str(folder))} --model {shlex.quote(wanted.model)}"
    if known.fingerprint != wanted.fingerprint:
        names = [f"{d.model} ({d.fingerprint[:8]})" for d in (known, wanted)]
        raise ValueError(
            f"the index in {folder} was made by {names[0]}, not by {names[1]}: use that model, or make it anew with "
            f"`{command}`"
        )
    old, new = known.settings, wanted.settings
    if known.key != wanted.key:
        told = [
            f"{s.num_frames} frames over {s.seconds:g} s every {s.stride:g} s{' of each scene' * s.scenes}"
            for s in (old, new)
        ]
        raise ValueError(
            f"the index in {folder} has windows of {told[0]}, not {told[1]}: make it anew with "
            f"`{command} --window {new.seconds:g} --stride {new.stride:g} --{'' if new.scenes else 'no-'}scenes`"
        )
