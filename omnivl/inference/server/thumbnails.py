"""Small pictures of files and of moments in films, made when they are asked for and kept up to a size."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from omnivl.data.media import BadSample, kind, read_image, read_video

CACHE = 64 * 2**20  # bytes
QUALITY = 82  # of JPEG


class Thumbnails:
    """Safe between threads."""

    def __init__(self, cache: int = CACHE) -> None:
        self.limit, self.size = cache, 0
        self.kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self.lock = threading.Lock()

    def jpeg(self, path: Path, side: int, at: float | None) -> bytes:
        """A JPEG no larger than `side` pixels square; of a video at `at` seconds, else at its middle. Raises
        BadSample, OSError."""
        facts = path.stat()
        key = (path, facts.st_size, facts.st_mtime_ns, side, at)
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        image = picture(path, at)
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=QUALITY)
        with self.lock:
            if key not in self.kept:
                self.kept[key] = out.getvalue()
                self.size += len(self.kept[key])
            while self.size > self.limit:
                self.size -= len(self.kept.popitem(last=False)[1])
        return out.getvalue()


def picture(path: Path, at: float | None) -> Image.Image:
    if kind(path) == "image":
        return read_image(path)
    if at is not None:
        try:
            return Image.fromarray(read_video(path, 1, max(at - 0.5, 0), at + 0.5).frames[0])
        except BadSample:  # past its end
            pass
    return Image.fromarray(read_video(path, 1).frames[0])
