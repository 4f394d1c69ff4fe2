"""Fetching a data set so that an interrupted download leaves nothing behind that looks like data."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import DataError

STALL_SECONDS = 60.0  # without a byte before a connection is given up


def fetch(title: str, read: Callable[[Path], Any], files: Sequence[str], root: Path) -> None:
    """Download ``files`` into ``root``.

    They arrive in a hidden folder beside their place, are checked there, and are moved when all are whole. Ctrl-C
    removes that folder.

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
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            _download(title, read, files, Path(folder), root)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).replace(root / name)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {title} to {root}: {reason}; free space or choose another root") from error


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
