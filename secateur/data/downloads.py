"""Fetching a data set so that an interrupted download leaves nothing behind that looks like data."""

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import DataError

if sys.platform != "win32":
    import fcntl

HIDDEN = ".download-"  # how the names of folders begin into which files arrive
STALL_SECONDS = 60.0  # without a byte before a connection is given up


def fetch(title: str, read: Callable[[Path], Any], files: Sequence[str], root: Path) -> None:
    """Download ``files`` into ``root``.

    They arrive in a hidden folder beside their place, are checked there, and are moved when all are whole. Ctrl-C
    removes that folder; one that a killed download left is removed by the next download.

    Args:
        title: what messages call the data set.
        read: downloads into the folder it is given, checks what came and reads it, as torchvision's readers do.
        files: what must have come, relative to ``root``.
        root: where the files belong.

    Raises:
        DataError: the download failed, what came is not what was published, or ``root`` cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _own_folder(root) as folder:
            _download(title, read, files, folder, root)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(root / name)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {title} to {root}: {reason}; free space or choose another root") from error


@contextlib.contextmanager
def _own_folder(root: Path) -> Iterator[Path]:
    """Yield a new folder in ``root``, which goes at the end, and remove those of downloads that were killed.

    A download holds a lock on its folder, which the system takes back however the process ends. The lock on ``root``
    keeps others from looking at a folder between its making and its locking.
    """
    with contextlib.ExitStack() as held:
        with _locked(root):
            for left in root.glob(f"{HIDDEN}*"):
                with _locked(left, wait=False) as free:
                    if free:
                        shutil.rmtree(left, ignore_errors=True)
            folder = held.enter_context(tempfile.TemporaryDirectory(dir=root, prefix=HIDDEN))
            held.enter_context(_locked(Path(folder)))
        yield Path(folder)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on ``folder`` inside the block, and say whether that was possible."""
    if sys.platform == "win32":
        yield False
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            free = True
        except OSError:  # held by another download, or a file system without locks
            free = False
        yield free
    finally:
        os.close(handle)


def _download(title: str, read: Callable[[Path], Any], files: Sequence[str], folder: Path, root: Path) -> None:
    by_hand = f"try again, or put {', '.join(files)} under {root} by hand"
    try:
        with _no_endless_waiting():
            read(folder)
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            raise  # of the disk, not of the connection
        raise DataError(f"{title} cannot be downloaded: {_one_line(error)}; {by_hand}") from error
    except Exception as error:
        # Checks and archives fail in many ways when half of a file came; torchvision lets them all through.
        raise DataError(
            f"{title} cannot be downloaded, or what came is truncated or not what was published: {_one_line(error)}; "
            f"{by_hand}"
        ) from error
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise DataError(f"the download of {title} brought no {', '.join(missing)}; {by_hand}")


@contextlib.contextmanager
def _no_endless_waiting() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
