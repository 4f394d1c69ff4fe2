"""``log.jsonl``: one line of JSON per event, appended while a run goes on."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from secateur.errors import UsageError


class RunLog:
    """Appends events to a file; a run that is continued goes on in the same file."""

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        """Open nothing yet: the file is made by the first event.

        Args:
            path: the file to append to.
            clock: seconds since 1970, written with each event.
        """
        self.path = Path(path)
        self._clock = clock

    def append(self, event: str, **values: JsonValue) -> None:
        """Add one line with the event's name, its time and ``values``.

        Raises:
            UsageError: the file cannot be written.
        """
        line = json.dumps({"event": event, "time": self._clock(), **values}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                # A killed run may have left half a line; the next event must not be glued to it.
                if file.tell() > 0:
                    file.seek(-1, 2)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise UsageError(
                f"cannot write {self.path}: {error.strerror or error}; free space or choose another folder"
            ) from error


def read_log(path: Path | str) -> tuple[dict[str, JsonValue], ...]:
    """Return the events of a log in order; half lines that a killed run left are skipped.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return tuple(events)
