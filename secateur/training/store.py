"""Named phases and data of a run on disk: how a killed run continues inside a method."""

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from pydantic import JsonValue, TypeAdapter
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.record import TrainResult, environment, with_defaults
from secateur.training.checkpoint import (
    Checkpoint,
    Entry,
    PhaseState,
    corrupt,
    load_weights,
    read_entry,
    weights_of,
    write_entry,
)
from secateur.training.devices import Processes, join_processes, wait_for_all
from secateur.training.hooks import accumulated_by, give_back_accumulated
from secateur.training.settings import TrainSettings
from secateur.training.task import PhasedTask, Step, Subset, Task


class Phase:
    """One stretch of training with a name: not begun, begun, or done."""

    def __init__(self, name: str, path: Path, processes: Processes) -> None:
        self.name = name
        self._path = path
        self._processes = processes

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, or ``None`` where there is none.

        Raises:
            TrainingError: it is corrupt.
        """
        entry = _read(self._path, self._processes)
        # Nobody trains on before all have read, because training writes the next checkpoint.
        wait_for_all(self._processes)
        if entry is None:
            return None
        try:
            return Checkpoint.from_entry(entry)
        except ValueError as error:
            raise corrupt(self._path, error) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last checkpoint. Under several processes only the first one writes.

        Raises:
            UsageError: the file cannot be written.
        """
        if self._processes.first:
            write_entry(self._path, checkpoint.to_entry())


class Store:
    """A folder with the phases and the data of one run.

    A method names each stretch of training and each decision. When the same command is run again, finished
    phases give their weights back, the interrupted one continues, and decisions are recalled. Under several
    processes all of them make the same calls; the first writes and all read the same.
    """

    def __init__(self, folder: Path | str) -> None:
        """Use ``folder``, which is made by the first write."""
        self.folder = Path(folder)
        self._processes = join_processes()

    @classmethod
    def temporary(cls) -> "Store":
        """Return a store whose folder vanishes with it, for runs that nobody wants to continue."""
        store = cls(tempfile.mkdtemp(prefix="secateur-"))
        weakref.finalize(store, shutil.rmtree, store.folder, ignore_errors=True)
        return store

    def phase(self, name: str) -> Phase:
        """Return the phase of this name, for ``task.in_phase``; most callers want :meth:`train`.

        Args:
            name: letters, digits, ``.``, ``_`` and ``-``; phases that are repeated carry a number.
        """
        return Phase(name, self._path("phases", name), self._processes)

    def train(
        self,
        name: str,
        task: Task,
        model: nn.Module,
        *,
        epochs: int,
        settings: TrainSettings | None = None,
        subset: Subset | None = None,
        frozen: Iterable[str] = (),
        step: Step | None = None,
        hooks: Sequence[object] = (),
    ) -> TrainResult:
        """Train ``model`` as the phase ``name``, once: what is done already is taken from the store.

        Args:
            name: of the phase, different for each call in a run.
            task: one that knows phases continues inside an interrupted one; any other begins it again.
            model: with the shapes and, where the phase has not begun, the weights that it starts from.
            epochs: as in :meth:`Task.train`, like all that follow.
            settings: see there.
            subset: see there.
            frozen: see there.
            step: see there.
            hooks: see there.

        Raises:
            TrainingError: the phase was begun by a run that asked for something else, or training fails.
        """
        phase = self.phase(name)
        if isinstance(task, PhasedTask):
            task = task.in_phase(phase)
        else:
            saved = phase.load()
            if saved is not None:
                require_same_work(phase.name, saved, {"epochs": epochs})
                load_weights(model, saved.weights, phase=name)
                give_back_accumulated(saved.accumulated, hooks, step, next(model.parameters()).device)
                return saved.state.result
        result = task.train(
            model, epochs=epochs, settings=settings, subset=subset, frozen=frozen, step=step, hooks=hooks
        )
        if not isinstance(task, PhasedTask):
            place = environment(next(model.parameters()).device, world_size=self._processes.world_size)
            state = PhaseState(made_for={"epochs": epochs}, environment=place, result=result, done=True)
            accumulated = accumulated_by(hooks, step)
            phase.save(Checkpoint(state=state, weights=weights_of(model), accumulated=accumulated))
            wait_for_all(self._processes)
        return result

    def keep(self, name: str, values: JsonValue = None, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write JSON and tensors under ``name``: a plan, masks, scores; whole or not at all.

        Raises:
            UsageError: the folder cannot be written.
        """
        if self._processes.first:
            write_entry(self._path("data", name), Entry(values, dict(tensors or {})))
        wait_for_all(self._processes)

    def recall(self, name: str) -> Entry | None:
        """Return what was kept under ``name``, tensors on the CPU, or ``None``.

        Raises:
            TrainingError: the file is corrupt.
        """
        entry = _read(self._path("data", name), self._processes)
        wait_for_all(self._processes)
        return entry

    def _path(self, kind: str, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise UsageError(f"{name!r} cannot name a phase; use letters, digits, '.', '_' and '-'")
        return self.folder / kind / f"{name}.safetensors"


def _read(path: Path, processes: Processes) -> Entry | None:
    """Return what is in a file of the store; the first process also removes what unfinished writes of it left."""
    if processes.first:
        # A kill in the middle of a write leaves its unfinished file behind.
        for unfinished in path.parent.glob(f".{path.name}.*.part"):
            unfinished.unlink(missing_ok=True)
    return read_entry(path)


def require_same_work(phase: str, saved: Checkpoint, asked: dict[str, JsonValue]) -> None:
    """Refuse to continue a phase that was begun by a run with other settings.

    Raises:
        TrainingError: they differ; both values are named.
    """
    begun = _with_new_settings(saved.state.made_for, asked)
    for key in sorted({*begun, *asked}):
        if begun.get(key) != asked.get(key):
            raise TrainingError(
                f"phase {phase!r} was begun with {key} = {begun.get(key)} but is asked for {asked.get(key)}; "
                f"continue with the settings that began it, or start in another folder"
            )


def _with_new_settings(begun: dict[str, JsonValue], asked: Iterable[str]) -> dict[str, JsonValue]:
    """Return what a phase was asked for as this version writes it: a setting that is new has its default.

    Args:
        begun: what was written when the phase began; settings of training among other things.
        asked: names of what is asked for now; nothing else is added.
    """
    names = {entry.name for entry in fields(TrainSettings)}
    known = {name: value for name, value in begun.items() if name in names}
    filled = with_defaults(known, _SETTINGS)
    return {**{name: filled[name] for name in asked if name in filled}, **begun, **{n: filled[n] for n in known}}


_SETTINGS: TypeAdapter[TrainSettings] = TypeAdapter(TrainSettings)
