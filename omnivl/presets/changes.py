"""How recipes are written: as a difference from another one, or from a stage of it."""

from dataclasses import replace
from typing import Any


def changed(config: Any, **changes: Any) -> Any:
    """A copy with fields changed; a dict changes the fields of a section: changed(stage, optim={"lr": 1e-3})."""
    return replace(
        config,
        **{
            name: changed(getattr(config, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        },
    )
