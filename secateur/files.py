"""Files are written whole or not at all: to a temporary name beside the target, then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from secateur.errors import UsageError


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it becomes ``path``, otherwise it is removed.

    Raises:
        UsageError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {target}: {reason}; choose a folder that can be written") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; a result is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {target}: {reason}; free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all.

    Raises:
        UsageError: the folder cannot be written, or the disk is full.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
