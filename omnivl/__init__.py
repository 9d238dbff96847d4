"""omnivl: one foundation model for images, videos and text (OmniVL, Wang et al., NeurIPS 2022).

import omnivl
model = omnivl.load("runs/demo/model")
model.caption(["cat.jpg", "clip.mp4"])
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MediaIndex", "Pipeline", "__version__", "load"]

if TYPE_CHECKING:
    from omnivl.inference.media_index import MediaIndex
    from omnivl.inference.pipeline import Pipeline, load


def __getattr__(name: str) -> Any:  # torch is imported when it is needed, so that `omnivl --help` answers at once
    if name in ("Pipeline", "load"):
        from omnivl.inference import pipeline

        return getattr(pipeline, name)
    if name == "MediaIndex":
        from omnivl.inference.media_index import MediaIndex

        return MediaIndex
    raise AttributeError(f"module 'omnivl' has no attribute {name!r}")
