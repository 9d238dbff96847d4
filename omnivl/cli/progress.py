"""How far a long command is, on standard error: one line that is written over in a terminal, else a plain line now and
then."""

import sys
import time


class Progress:
    """Called with files done, of, and bytes done, of. Time left goes by bytes: films take longer than pictures."""

    def __init__(self, unit: str = "files") -> None:
        self.unit = unit
        self.terminal = sys.stderr.isatty()
        self.pause = 0.2 if self.terminal else 10.0  # seconds between lines
        self.started = self.told = time.monotonic()

    def __call__(self, done: int, total: int, read: int, size: int) -> None:
        now = time.monotonic()
        if not total or (now - self.told < self.pause and done < total):
            return
        self.told, seconds = now, max(now - self.started, 1e-6)
        line = f"{done}/{total} {self.unit}, {done / seconds:.1f} a second"
        if 0 < read < size:
            line += f", {duration(seconds * (size - read) / read)} left"
        end = "\n" if done >= total or not self.terminal else ""
        print(f"\r\x1b[K{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)


def moment(seconds: float) -> str:
    """As `duration`, with tenths where there are some: "1:05.3"."""
    whole, tenths = divmod(round(10 * seconds), 10)
    return duration(whole) + (f".{tenths}" if tenths else "")


def duration(seconds: float) -> str:
    """ "1:05" or "2:03:20"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
