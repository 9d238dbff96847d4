"""How training ends before its end: the errors it raises, and the signals that ask for it."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Stopped(Exception):
    """Training was asked to stop by a signal and has saved its state."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; its state is saved")
        self.signum = signum


class TrainingError(RuntimeError):
    """Training cannot go on: the message is one sentence."""


class StopRequest:
    """`signum` is the signal that asked to stop, 0 while none did."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are noted, and training ends after the step in hand; a second Ctrl-C ends it at once."""
        home = os.getpid()  # a loader's workers inherit `note`: they ignore the signals and end with their parent

        def note(signum: int, frame: Any) -> None:
            if self.signum and signum == signal.SIGINT:
                raise KeyboardInterrupt
            if signum == signal.SIGINT and os.getpid() == home:
                with suppress(OSError):  # not print, which may be what was interrupted
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once and saves nothing\n")
            self.signum = signum

        try:
            earlier = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            earlier = {}
        try:
            yield
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)


def reason(error: Exception) -> str:
    """An error as half a sentence. One that a loader's worker handed on ends with what was raised there."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return re.sub(r"^[\w.]+(Error|Sample): ", "", lines[-1]) if lines else type(error).__name__
