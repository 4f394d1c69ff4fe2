"""The folder of a sensitivity scan: which files it has, whose scan it holds, and how to start over."""

import contextlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, TypeAdapter

from secateur.errors import ArtifactError, TrainingError, UsageError
from secateur.measure import Sensitivity, read_sensitivity
from secateur.recipe.differences import first_difference
from secateur.recipe.lock import LOCK
from secateur.recipe.rundir import CHANGED, CHECKPOINT, refuse_file_above
from secateur.record import with_defaults
from secateur.report import write_curves
from secateur.training import Store

RESULT, FIGURES = "sensitivity.json", ("sensitivity.svg", "sensitivity.png")
SETTINGS = "settings"  # of the scan, in its store: what a folder is recognised by


@dataclass(frozen=True)
class ScanFolder:
    """The folder of one scan: ``sensitivity.json``, the figure, and ``checkpoint/``.

    Attributes:
        folder: of the scan.
        kind: reads settings of scans, those of earlier versions too.
    """

    folder: Path
    kind: TypeAdapter[Any]

    def enter(self, settings: Mapping[str, JsonValue], *, force: bool = False) -> Sensitivity | None:
        """Take the folder for a scan; nothing is written yet.

        Args:
            settings: of the scan, as JSON.
            force: start over where the folder holds a scan; :meth:`begin` then removes it.

        Returns:
            The result of the same scan if it is complete already, otherwise None.

        Raises:
            UsageError: the folder holds something else, or a scan with other settings.
            TrainingError: its checkpoint is damaged, and it is not to start over.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; give --out a folder")
        refuse_file_above(self.folder)
        try:
            found = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        except OSError as error:
            raise UsageError(f"cannot read {self.folder}: {error.strerror or error}; choose another folder") from error
        # What a kill leaves.
        found = [name for name in found if name != LOCK and not (name.startswith(".") and name.endswith(".part"))]
        if not found or (found == [CHECKPOINT] and not any(self.folder.glob(f"{CHECKPOINT}/*/*.safetensors"))):
            return None
        before = self._settings(force=force)
        if before is None:
            shown = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
            raise UsageError(
                f"{self.folder} is not empty and holds no sensitivity scan ({shown}); choose an empty or a new folder"
            )
        if force:
            return None
        self._refuse_other(before, settings)
        with contextlib.suppress(ArtifactError):
            return read_sensitivity(self.folder / RESULT)
        return None

    def begin(self, settings: Mapping[str, JsonValue], *, force: bool = False) -> Store:
        """Return the store, which from now on is this scan's.

        Args:
            settings: of the scan, as JSON.
            force: first remove the files of the scan that is there.

        Raises:
            UsageError: the folder cannot be written.
        """
        data = self.folder / CHECKPOINT / "data"
        for path in (*data.glob(".*.part"), *self.folder.glob(".sensitivity.*.part")):
            path.unlink()
        if force:
            for path in (*(self.folder / name for name in (RESULT, *FIGURES)), *data.glob("*.safetensors")):
                path.unlink(missing_ok=True)
        store = Store(self.folder / CHECKPOINT)
        if store.recall(SETTINGS) is None:
            store.keep(SETTINGS, dict(settings))
        return store

    def draw(self, sensitivity: Sensitivity) -> bool:
        """Write the figure where it is not there yet, and say whether it is there: False without matplotlib."""
        paths = [self.folder / name for name in FIGURES]
        if all(path.exists() for path in paths):
            return True
        if importlib.util.find_spec("matplotlib") is None:
            return False
        return write_curves(paths, sensitivity)

    def _settings(self, *, force: bool) -> dict[str, Any] | None:
        """Return the settings of the scan in the folder, or None where there is none.

        Of one that is damaged and starts over nothing is returned but that it is a scan: no settings.
        """
        try:
            entry = Store(self.folder / CHECKPOINT).recall(SETTINGS)
        except TrainingError:
            if not force:
                raise
            return {}
        if entry is not None and isinstance(entry.values, dict):
            return entry.values
        with contextlib.suppress(ArtifactError):
            return read_sensitivity(self.folder / RESULT).settings
        return None

    def _refuse_other(self, begun_with: Mapping[str, Any], settings: Mapping[str, JsonValue]) -> None:
        difference = first_difference(with_defaults(begun_with, self.kind), settings)
        if difference is None:
            return
        name, before, now = difference
        what = f"{CHANGED[name]} changed since it began" if name in CHANGED else f"it has {name} = {before}"
        values = f" (fingerprint {before} then, {now} now)" if name in CHANGED else f", but this one has {now}"
        raise UsageError(
            f"{self.folder} holds another scan: {what}{values}; choose another --out, or start over in it with --force"
        )
