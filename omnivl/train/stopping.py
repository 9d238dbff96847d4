"""How training ends before its end: the errors it raises, and the signals that ask for it."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
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
        self.reading = self.child_ended = False
        self.told_of_children: Callable[[int, Any], Any] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are noted, and training ends after the step in hand; a second Ctrl-C ends it at once."""
        home = os.getpid()  # a loader's workers inherit `note`

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
            if self.told_of_children:
                earlier[signal.SIGCHLD] = self.told_of_children
            for signum, handler in earlier.items():
                signal.signal(signum, handler)

    def mind_workers(self) -> None:
        """From now on a loader's workers that die raise within `reading_batches` alone.

        A signal often goes to all processes of a run, and torch would raise for a worker that died of it wherever we
        are: in the middle of a step, its state unsaved.
        """
        handler = signal.getsignal(signal.SIGCHLD)  # torch's, once a loader has workers
        if self.told_of_children or not callable(handler) or threading.current_thread() is not threading.main_thread():
            return

        def note_child(signum: int, frame: Any) -> None:
            self.child_ended = True
            if self.reading:
                self.tell_of_children()

        self.told_of_children = handler
        signal.signal(signal.SIGCHLD, note_child)

    def tell_of_children(self) -> None:
        """Raises RuntimeError where a loader's worker has failed since it was asked last."""
        if self.child_ended and self.told_of_children:
            self.child_ended = False
            self.told_of_children(signal.SIGCHLD, None)

    @contextmanager
    def reading_batches(self) -> Iterator[None]:
        self.reading = True
        try:
            self.tell_of_children()
            yield
        finally:
            self.reading = False


def reason(error: Exception) -> str:
    """An error as half a sentence. One that a loader's worker handed on ends with what was raised there; one that came
    up while an OSError was dealt with (torch closing a file on a full disk) has that as its reason."""
    if isinstance(error.__context__, OSError):
        error = error.__context__
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return re.sub(r"^[\w.]+(Error|Sample): ", "", lines[-1]) if lines else type(error).__name__
