"""What a pipeline is given: paths, PIL images and numpy arrays become frames of the model's size. This room knows no
model but the sizes in its config.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omnivl.config import ModelConfig
from omnivl.data.media import BadSample, kind, read_image, read_video, shown
from omnivl.data.transforms import prepare


@dataclass(frozen=True)
class Loaded:
    """A picture or clip as read: frames (T, H, W, 3) uint8 of the model's size, times in seconds (None for a
    picture)."""

    frames: np.ndarray
    times: tuple[float, ...] | None

    @property
    def medium(self) -> str:
        return "image" if self.times is None else "video"


Media = str | Path | Image.Image | np.ndarray | Loaded


def read_media(media: Media, config: ModelConfig, start: float | None = None, end: float | None = None) -> Loaded:
    """One picture or clip at the model's size; of a video file [start, end] in seconds. Raises BadSample for a file,
    ValueError for an array of another shape or a picture without pixels."""
    num_frames = config.vision.num_frames
    times: tuple[float, ...] | None = None
    if isinstance(media, Loaded):
        return media
    if isinstance(media, (str, Path)):
        if kind(media) == "image":
            if (start, end) != (None, None):
                raise BadSample(f"{media}: is a picture, and has no part from one time to another")
            frames = np.asarray(read_image(media))[None]
        else:
            clip = read_video(media, num_frames, start, end)
            frames, times = clip.frames, tuple(round(seconds, 6) for seconds in clip.times)
    elif isinstance(media, Image.Image):
        if 0 in media.size:
            raise ValueError(f"a picture must have pixels, got one of {media.width} x {media.height}")
        frames = np.asarray(shown(media))[None]
    elif isinstance(media, np.ndarray):
        frames = media[..., None] if media.ndim == 2 else media
        if (
            media.dtype != np.uint8
            or frames.ndim not in (3, 4)
            or frames.shape[-1] not in (1, 3, 4)
            or 0 in media.shape
        ):
            raise ValueError(
                "an array must be uint8 of shape (H, W, 3) or (T, H, W, 3), or with 1 (grey) or 4 (RGBA) for the "
                f"3, got {media.dtype} of shape {media.shape}"
            )
        times = None if frames.ndim == 3 else ()
        frames = coloured(frames[None] if frames.ndim == 3 else frames[spread(len(frames), num_frames)])
    else:
        raise ValueError(f"a picture or clip must be a path, a PIL image or a numpy array, got {type(media).__name__}")
    return Loaded(prepare(frames, config.vision.image_size, config.interpolation), times)


def coloured(frames: np.ndarray) -> np.ndarray:
    """(..., 1), (..., 3) or (..., 4) uint8 as (..., 3): what is transparent lies on white."""
    if frames.shape[-1] == 1:
        return frames.repeat(3, -1)
    if frames.shape[-1] == 4:
        cover = frames[..., 3:].astype(np.uint16)
        return ((frames[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    return frames


def is_many(media: object) -> bool:
    return isinstance(media, (list, tuple))


def spread(length: int, count: int) -> list[int]:
    """The frames at the centres of `count` equal spans; each repeated in order where there are too few."""
    return [int((i + 0.5) * length / count) for i in range(count)]
