"""One run per folder at a time: a lock that the system takes back when the process ends, however it ends."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from secateur.errors import UsageError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"

_held: set[int] = set()


def refuse_busy(folder: Path) -> None:
    """Refuse a folder in which a run is going on; nothing is written.

    Raises:
        UsageError: another process holds the lock.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder / LOCK, os.O_RDWR)
        try:
            _take(handle, folder)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made, inside the block.

    Raises:
        UsageError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {folder}: {reason}; choose a folder that can be written") from error
    _held.add(handle)
    try:
        _take(handle, folder)
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another process is running in {folder}{_holder(handle)}; wait until it has ended, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        return


def _holder(handle: int) -> str:
    """Return who holds the lock, as far as its file says."""
    with contextlib.suppress(OSError):
        number = os.read(handle, 20).decode(errors="replace")
        return f" (process {number})" if number.isdigit() else ""
    return ""


def _let_go() -> None:
    """Close a parent's locks in its forked children, which may live on for a moment when it is killed."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
