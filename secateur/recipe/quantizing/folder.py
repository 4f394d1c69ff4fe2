"""The folder of one quantization: which files it has, whose they are, and how they come there all at once."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError, UsageError
from secateur.recipe.differences import first_difference
from secateur.recipe.lock import LOCK
from secateur.recipe.rundir import CHANGED, refuse_file_above
from secateur.record import RunRecord, read_record
from secateur.report import INT8_FILES

FILES = {
    "int8": "model.int8.onnx",
    "simulation": "simulation.safetensors",
    "report": "report.md",
    "record": "record.json",
}
"""What the folder holds, in the order in which files come there: with the record it is complete."""

PART = ".part"
"""How folders end in which files are made; one that was killed may leave its own."""


@dataclass(frozen=True)
class Int8Folder:
    """The folder of one quantization."""

    folder: Path

    def enter(self, settings: Mapping[str, Any], *, force: bool) -> RunRecord | None:
        """Take the folder; nothing is written yet.

        Args:
            settings: of this work, as JSON.
            force: replace the files of another one.

        Returns:
            The record of the same work if it is complete already, otherwise None.

        Raises:
            UsageError: the folder holds something else, or the result of other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; give --out a folder")
        refuse_file_above(self.folder)
        try:
            found = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        except OSError as error:
            raise UsageError(f"cannot read {self.folder}: {error.strerror or error}; choose another folder") from error
        found = [name for name in found if name != LOCK and not (name.startswith(".") and name.endswith(PART))]
        if not found:
            return None
        if (FILES["int8"] not in found and FILES["record"] not in found) or "recipe.yaml" in found:
            shown = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
            raise UsageError(
                f"{self.folder} is not empty and holds no INT8 file of secateur ({shown}); choose an empty or a new "
                "folder"
            )
        if force:
            return None
        record = self._complete()
        if record is None:
            raise UsageError(
                f"{self.folder} holds an INT8 file whose record is missing or damaged; choose another --out, or "
                "replace it with --force"
            )
        difference = first_difference(record.settings, settings)
        if difference is None:
            return record
        name, before, now = difference
        what = f"{CHANGED[name]} changed since" if name in CHANGED else f"it was made with {name} = {before}, not {now}"
        raise UsageError(
            f"{self.folder} holds another INT8 file: {what}; choose another --out, or replace it with --force"
        )

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Yield a folder beside this one; its files come here when the block ends well, otherwise they are removed.

        Raises:
            UsageError: files cannot be written there.
        """
        try:
            place = self._beside()
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=f".{self.folder.name}.", suffix=PART) as staging:
                yield Path(staging)
                self.folder.mkdir(exist_ok=True)
                (self.folder / FILES["record"]).unlink(missing_ok=True)
                for name in INT8_FILES.values():  # of a diagnosis, which not every work makes
                    if Path(staging, name).exists():
                        Path(staging, name).replace(self.folder / name)
                    else:
                        (self.folder / name).unlink(missing_ok=True)
                for name in FILES.values():
                    Path(staging, name).replace(self.folder / name)
        except OSError as error:
            raise UsageError(
                f"cannot write {self.folder}: {error.strerror or error}; free space or choose another folder"
            ) from error

    def _beside(self) -> Path:
        """Return where files are made first: beside the folder, or in it where they could not come from there."""
        folder = self.folder.resolve()  # what a link leads to may be on another disk
        if folder.is_dir() and (folder.is_mount() or not os.access(folder.parent, os.W_OK)):
            return folder
        return folder.parent

    def _complete(self) -> RunRecord | None:
        with contextlib.suppress(ArtifactError):
            record = read_record(self.folder / FILES["record"])
            if all((self.folder / name).exists() for name in record.files.values()):
                return record
        return None
