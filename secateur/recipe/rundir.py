"""The run directory: which files a job writes, whose run a folder holds, and how to start over."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import ArtifactError, UsageError
from secateur.files import whole_file, write_text
from secateur.recipe.differences import first_difference
from secateur.recipe.lock import LOCK
from secateur.recipe.settings import RECIPE, Recipe
from secateur.record import RunRecord, read_record, with_defaults
from secateur.report import FRONT_FILES, INT8_FILES, STEP_FILES, WEIGHT_FILES

MARK = "# secateur run, format 1. Written by secateur; the command that began the run continues or repeats it.\n"

FILES = {
    "recipe": "recipe.yaml",
    "record": "record.json",
    "log": "log.jsonl",
    "plan": "plan.json",
    "dense": "dense.safetensors",
    "search": "search.json",
    "tradeoff": "tradeoff.md",
    "tradeoff_png": "tradeoff.png",
    "tradeoff_svg": "tradeoff.svg",
    "model": "model.safetensors",
    "sparse": "model.sparse.safetensors",
    "masks": "masks.safetensors",
    "onnx": "model.onnx",
    "int8": "model.int8.onnx",
    "simulation": "simulation.safetensors",
    "report": "report.md",
    "figure": "report.png",
    **FRONT_FILES,
    **INT8_FILES,
    **STEP_FILES,
    **WEIGHT_FILES,
}
"""What a run writes beside ``checkpoint/``, by what it is."""

CURVE = ("search", "tradeoff", "tradeoff_png", "tradeoff_svg")
"""Those of :data:`FILES` that only the search for the smallest model writes."""

CHECKPOINT = "checkpoint"

SHARED = (("phases", "dense"), ("phases", "supernet"), ("data", "front"))
"""What runs with different budgets have in common in their stores: dense model, super-net, and the way down of it."""

CHANGED = {
    "model.weights_fingerprint": "the weight file",
    "model.code_fingerprint": "the code of the model",
    "data.fingerprint": "the data",
    "latency_table_fingerprint": "the latency table",
}
"""Fingerprints in the settings, by what they are of."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Attributes:
        folder: the run directory.
        record: everything that was measured.
        was_complete: whether the run was finished before, so that nothing was computed.
    """

    folder: Path
    record: RunRecord
    was_complete: bool = False


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    folder: Path

    def path(self, what: str) -> Path:
        """Return the path of one of :data:`FILES`."""
        return self.folder / FILES[what]

    @property
    def checkpoint(self) -> Path:
        """The folder of the phase store."""
        return self.folder / CHECKPOINT

    def enter(self, recipe: Recipe, *, force: bool = False) -> RunRecord | None:
        """Take the folder for ``recipe``; nothing is written yet.

        Args:
            recipe: of this run.
            force: start over where the folder holds a run; :meth:`begin` then removes it.

        Returns:
            The record of the same run if it is complete already, otherwise None: it starts, or continues.

        Raises:
            UsageError: the folder holds something else, or a run with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; give --out a folder")
        refuse_file_above(self.folder)
        try:
            found = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
            # What a kill leaves.
            found = [name for name in found if name != LOCK and not (name.startswith(".") and name.endswith(".part"))]
        except OSError as error:
            raise UsageError(f"cannot read {self.folder}: {error.strerror or error}; choose another folder") from error
        if not found:
            return None
        settings = self._settings(found)
        if force:
            return None
        if settings is None:
            raise UsageError(f"{self.path('recipe')} is damaged; choose another folder, or start over with --force")
        difference = first_difference(with_defaults(settings, RECIPE), recipe.to_json())
        if difference is not None:
            name, before, now = difference
            if name in CHANGED:
                raise UsageError(
                    f"{CHANGED[name]} changed since the run in {self.folder} began (fingerprint {_shown(before)} then, "
                    f"{_shown(now)} now); put it back, choose another --out, or start over in it with --force"
                )
            raise UsageError(
                f"{self.folder} holds a run with {name} = {_shown(before)}, but this one has {_shown(now)}; "
                "choose another --out, or start over in it with --force"
            )
        return self._finished()

    def begin(self, recipe: Recipe, *, force: bool = False) -> None:
        """Write the recipe: from now on the folder is this run's.

        Args:
            recipe: of this run.
            force: first remove the files of the run that is there.

        Raises:
            UsageError: the folder cannot be written.
        """
        if force:
            self.clear()
        if not self.path("recipe").exists():
            write_text(self.path("recipe"), MARK + recipe_yaml(recipe))

    def clear(self) -> None:
        """Remove the files that a run writes, and only those."""
        for name in FILES.values():
            (self.folder / name).unlink(missing_ok=True)
            for path in self.folder.glob(f".{name}.*.part"):
                path.unlink()
        candidates = self.checkpoint / "candidates"
        own = [folder / kind for folder in sorted(candidates.glob("*-of-*")) for kind in ("phases", "data")]
        for folder in (self.checkpoint / "phases", self.checkpoint / "data", *own):
            for path in folder.glob("*.safetensors"):
                path.unlink()
            for path in folder.glob(".*.part"):
                path.unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()
        for folder in (*candidates.glob("*-of-*"), candidates, self.checkpoint):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _settings(self, found: list[str]) -> dict[str, Any] | None:
        """Return the settings of the run in the folder, or None where they cannot be read."""
        try:
            text = self.path("recipe").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        if not text.startswith("# secateur run"):
            shown = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
            raise UsageError(
                f"{self.folder} is not empty and holds no run of secateur ({shown}); choose an empty or a new folder"
            )
        with contextlib.suppress(yaml.YAMLError):
            values = yaml.safe_load(text)
            return values if isinstance(values, dict) else None
        return None

    def _finished(self) -> RunRecord | None:
        if not self.path("record").exists():
            return None
        with contextlib.suppress(ArtifactError):
            record = read_record(self.path("record"))
            if all((self.folder / name).exists() for name in record.files.values()):
                return record
        return None


def take_over(checkpoint: Path, earlier: Path) -> None:
    """Copy what another run's store knows and this one's does not, of what does not depend on the budget.

    Args:
        checkpoint: folder of this run's store.
        earlier: of the other one.

    Raises:
        UsageError: the folder cannot be written.
    """
    for kind, name in SHARED:
        source, target = (folder / kind / f"{name}.safetensors" for folder in (earlier, checkpoint))
        if source.exists() and not target.exists():
            with whole_file(target) as temporary:
                shutil.copyfile(source, temporary)


def recipe_yaml(recipe: Recipe) -> str:
    """Return a recipe with all of its settings, as YAML."""
    text: str = yaml.safe_dump(recipe.to_json(), sort_keys=False, allow_unicode=True, width=120)
    return text


def refuse_file_above(path: Path) -> None:
    """Refuse to write below something that is a file.

    Raises:
        UsageError: it is one.
    """
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UsageError(f"cannot write {path}, because {parent} is a file; give --out another place")
            return


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
