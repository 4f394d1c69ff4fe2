"""One file holds a whole state: tensors as safetensors, the rest as JSON in its header; never a pickle.

A single file that is written aside and renamed cannot be half of one state and half of another, whenever the
run is killed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import safetensors
import safetensors.torch
import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from torch import Tensor, nn

from secateur.errors import TrainingError
from secateur.files import whole_file
from secateur.record import Environment, TrainResult
from secateur.training.optimizers import Moments

FORMAT = 1  # of the JSON in the header; a checkpoint of another format is refused
_KEY = "secateur"


@dataclass(frozen=True)
class Entry:
    """Tensors and JSON that belong together."""

    values: JsonValue = None
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where in a phase the next step is, and what the begun epoch has measured so far."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: int = 0
    step: int = 0  # steps of this epoch that are done
    loss_sum: float = 0.0
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PhaseState:
    """The part of a checkpoint that is not tensors."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    made_for: dict[str, JsonValue]  # what the phase was asked to do; a phase asked otherwise is refused
    environment: Environment
    result: TrainResult  # of the finished epochs
    cursor: Cursor = Cursor()
    scaler: dict[str, int | float] = field(default_factory=dict)  # torch refuses a float where it had an int
    done: bool = False
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that continues a phase: in the middle of an epoch, or after its end."""

    state: PhaseState
    weights: dict[str, Tensor]  # parameters and all buffers by name; a tied parameter once
    moments: Moments = field(default_factory=dict)
    accumulated: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # hook → name → tensor

    def to_entry(self) -> Entry:
        """Return the checkpoint as one flat entry."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"moments/{key}/{name}": t for name, state in self.moments.items() for key, t in state.items()}
        tensors |= {f"hooks/{hook}/{name}": t for hook, state in self.accumulated.items() for name, t in state.items()}
        return Entry(json.loads(_STATE.dump_json(self.state)), tensors)

    @classmethod
    def from_entry(cls, entry: Entry) -> "Checkpoint":
        """Return the checkpoint that :meth:`to_entry` flattened.

        Raises:
            ValueError: the entry is not a checkpoint.
        """
        state = _STATE.validate_python(entry.values)
        if state.format != FORMAT:
            raise ValueError(f"it has format {state.format}, but this version reads format {FORMAT}")
        checkpoint = cls(state=state, weights={})
        for path, tensor in entry.tensors.items():
            kind, _, rest = path.partition("/")
            if kind == "weights":
                checkpoint.weights[rest] = tensor
                continue
            first, _, name = rest.partition("/")
            if kind == "moments":
                checkpoint.moments.setdefault(name, {})[first] = tensor
            else:
                checkpoint.accumulated.setdefault(first, {})[name] = tensor
        return checkpoint


_STATE = TypeAdapter(PhaseState)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those outside ``state_dict`` too; nothing is copied."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, phase: str) -> None:
    """Copy ``weights`` into ``model``, which must have exactly these names and shapes.

    Raises:
        TrainingError: they do not fit; nothing was changed.
    """
    own = weights_of(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in (*shapes, *saved):
        if shapes.get(name) != saved.get(name):
            raise TrainingError(
                f"the checkpoint of phase {phase!r} does not fit the model: {name} is "
                f"{saved.get(name, 'absent')} there but {shapes.get(name, 'absent')} in the model; "
                f"continue with the model and settings that began it"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def write_entry(path: Path, entry: Entry) -> None:
    """Write ``entry`` to one file, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in entry.tensors.items():
        stored = tensor.detach().to("cpu").contiguous()
        # The format holds no two tensors in one storage.
        if stored.untyped_storage().data_ptr() in storages:
            stored = stored.clone()
        storages.add(stored.untyped_storage().data_ptr())
        plain[name] = stored
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata={_KEY: json.dumps(entry.values)})
        except safetensors.SafetensorError as error:  # a full disk, which it does not report as an OSError
            raise OSError(str(error)) from error


def read_entry(path: Path) -> Entry | None:
    """Return what :func:`write_entry` wrote, on the CPU, or ``None`` where there is no file.

    Raises:
        TrainingError: the file cannot be read or is corrupt.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            # Copied, so that nothing depends on the mapped file, which the next checkpoint replaces.
            names = list(file.keys())
            return Entry(values, {name: file.get_tensor(name).clone() for name in names})
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise corrupt(path, error) from error


def corrupt(path: Path, error: Exception) -> TrainingError:
    """Return the error for a file that is not what it should be."""
    reason = f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}" if isinstance(error, ValidationError) else error
    return TrainingError(f"the checkpoint {path} is corrupt ({reason}); delete it to start that phase again")
