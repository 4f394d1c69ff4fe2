"""Reading processes: what they hand over, and one sentence where one of them dies.

Torch learns of a dead worker in a signal handler, and raises there: in the middle of whatever the main process is
doing, be it a training step or the writing of a file. Here the handler is told which workers are ours. Their death
is raised where a batch is asked for, at once if one is waited for, and otherwise when the next one is.
"""

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils.data import DataLoader, get_worker_info

from secateur.errors import DataError, UsageError

_PID = re.compile(r"\(pid (\d+)\)")
_SHARED_MEMORY_SIGNS = ("shared memory", "no space left", "/torch_")
GRACE_SECONDS = 1.0  # for a process to be gone after its connection broke


class _Watch:
    """What is known of the workers of one pass."""

    def __init__(self) -> None:
        self.waiting = False
        self.failure: RuntimeError | None = None


_WATCHED: dict[int, _Watch] = {}  # by process id


def read_batches(loader: "DataLoader[Any]", name: str) -> Iterator[Any]:
    """Yield what ``loader`` yields.

    Raises:
        DataError: a reading process could not be started, was killed, or could not hand over what it read.
    """
    if loader.num_workers == 0:
        yield from loader
        return
    try:
        with _interrupts_held_back():
            batches = iter(loader)
    except (OSError, RuntimeError, MemoryError) as error:
        raise DataError(
            f"cannot start {loader.num_workers} reading process(es) for {name}: {_last_line(error)}; use fewer workers"
        ) from error
    watch = _Watch()
    workers = list(getattr(batches, "_workers", ()))
    pids = [worker.pid for worker in workers]
    _WATCHED.update(dict.fromkeys(pids, watch))
    _defer_failures()
    try:
        while True:
            try:
                batch = _next(batches, watch)
            except StopIteration:
                return
            except (OSError, EOFError, RuntimeError, MemoryError) as error:
                raise DataError(_explanation(error, name, _ended(workers))) from error
            yield batch
    finally:
        # Ended here and not whenever the iterator is collected, as the handler may speak of them until then.
        getattr(batches, "_shutdown_workers", lambda: None)()
        for pid in pids:
            _WATCHED.pop(pid, None)


def stacked(samples: list[Tensor]) -> Tensor:
    """Return the samples as one tensor; in a reading process, in memory that the main process sees as well.

    To allocate that memory here makes its lack an ordinary error. Left to torch it would happen in a thread that can
    only print a traceback, and the batch would be waited for without end.
    """
    if get_worker_info() is None:
        return torch.stack(samples)
    first = samples[0]
    size_bytes = len(samples) * first.numel() * first.element_size()
    shared = UntypedStorage._new_shared(size_bytes, device="cpu")  # type: ignore[no-untyped-call]
    batch = torch.empty(0, dtype=first.dtype)
    batch.set_(shared)
    return torch.stack(samples, out=batch.view(len(samples), *first.shape))


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C wait while workers start: half a loader cannot be ended.

    Workers are born with it held back and stay so. A terminal sends it to them as well, and the main process is the
    one to decide what it means.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _next(batches: Iterator[Any], watch: _Watch) -> Any:
    # The failure is looked at after `waiting` is set, so that none falls between.
    watch.waiting = True
    try:
        if watch.failure is not None:
            raise watch.failure
        return next(batches)
    finally:
        watch.waiting = False


def _defer_failures() -> None:
    """Put a handler before torch's own that keeps the failures of watched workers until they are asked for."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    present = signal.getsignal(signal.SIGCHLD)
    if callable(present) and not isinstance(present, _Deferring):
        signal.signal(signal.SIGCHLD, _Deferring(present))


class _Deferring:
    """A signal handler round another one."""

    def __init__(self, inner: Callable[[int, FrameType | None], Any]) -> None:
        self._inner = inner

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._inner(number, frame)
        except RuntimeError as error:
            found = _PID.search(str(error))
            watch = _WATCHED.get(int(found[1])) if found else None
            if watch is None or watch.waiting:
                raise
            watch.failure = error


def _ended(workers: Sequence[Any]) -> tuple[int, int] | None:
    """Return process id and exit code of a worker that failed, if one did.

    The first sign of it may be a broken connection, a moment before the process is gone.
    """
    limit = time.monotonic() + GRACE_SECONDS
    while True:
        for worker in workers:
            if worker.exitcode:
                return worker.pid, worker.exitcode
        if time.monotonic() > limit:
            return None
        time.sleep(0.01)


def _explanation(error: Exception, name: str, ended: tuple[int, int] | None) -> str:
    """Say what became of a worker.

    Args:
        error: what torch raised.
        name: of the data set.
        ended: process id and exit code of the worker, where one failed; minus a signal's number if that was why.
    """
    text = " ".join(str(error).split())
    who = f"a reading process of {name}" + (f" (pid {ended[0]})" if ended else "")
    signal_name = signal.Signals(-ended[1]).name if ended and ended[1] < 0 else ""
    if signal_name == "SIGBUS" or any(sign in text.lower() for sign in _SHARED_MEMORY_SIGNS):
        return (
            f"{who} ran out of shared memory (/dev/shm); give it more (in a container, --shm-size), use fewer workers, "
            f"or 0 workers, which need none"
        )
    if isinstance(error, MemoryError) or signal_name == "SIGKILL":
        return f"{who} was killed, as happens where memory runs out; free memory, use fewer workers or smaller batches"
    if "open files" in text.lower() or "ancdata" in text:
        return f"{who} ran out of open files; raise the limit with ulimit -n, or use fewer workers"
    if ended:
        how = f"was ended by {signal_name}" if signal_name else f"ended with exit code {ended[1]}"
        return f"{who} {how}; start again, and if it happens again use 0 workers to see why"
    return f"{who} failed: {_last_line(error)}; use 0 workers to see where"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_workers(workers: int) -> None:
    """Refuse a number of reading processes that cannot be.

    Raises:
        UsageError: fewer than none.
    """
    if workers < 0:
        raise UsageError(f"workers is {workers}; give 0 or more")
