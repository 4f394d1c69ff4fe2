"""Ctrl-C ends a phase at the next step, after its checkpoint is written."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The user stopped a run whose state is saved; the same command continues it.

    It is a ``KeyboardInterrupt`` and no error: nothing that handles errors may swallow it.
    """

    def __init__(self, phase: str, epoch: int, step: int) -> None:
        super().__init__(f"stopped in phase {phase!r}, epoch {epoch + 1}, after step {step}; the checkpoint is saved")
        self.phase = phase
        self.epoch = epoch
        self.step = step


class StopRequest:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.made = False


@contextlib.contextmanager
def stop_requests(*, active: bool = True) -> Iterator[StopRequest]:
    """Yield a request that the first Ctrl-C or SIGTERM makes; a second Ctrl-C stops at once.

    Args:
        active: ``False`` leaves the signals alone, for training that has nowhere to save its state. They are
            left alone too outside the main thread, where Python allows no handlers.
    """
    request = StopRequest()
    if not active or threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if request.made:
            raise KeyboardInterrupt
        request.made = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
