"""``steps.json``: what each step of a method that scores and cuts again and again saw, took and left."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from secateur.record.measurements import STRICT
from secateur.record.strict_json import read_json, write_json

FORMAT = 1  # of steps.json; another number is refused


@dataclass(frozen=True, kw_only=True)
class PruningStep:
    """One step: the scores that it decided by, and the model that it left."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    number: int  # from 1
    phase: str  # the phase of training that gave the scores, or that preceded them
    scores: dict[str, tuple[float, ...]]  # group → of the units still there before the cut, in their order
    kept: dict[str, int]  # group → units after the cut; groups without scores are left out
    macs: int  # multiply-adds per sample after the cut
    params: int  # after the cut
    removed: int  # units that this step took, or blocks
    accuracy: float | None = None  # validation top-1 right after the cut, in [0, 1]; None where it was not measured
    level: Literal["channel", "block"] = "channel"  # block: scores and kept are of whole blocks: one score, 1 or 0


@dataclass(frozen=True, kw_only=True)
class _PruningSteps:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    steps: tuple[PruningStep, ...]
    format: int = FORMAT


_ADAPTER = TypeAdapter(_PruningSteps)


def write_steps(path: Path | str, steps: Iterable[PruningStep]) -> None:
    """Write the steps of one run as JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _ADAPTER, _PruningSteps(steps=tuple(steps)))


def read_steps(path: Path | str) -> tuple[PruningStep, ...]:
    """Return the steps in a file that :func:`write_steps` wrote.

    Raises:
        ArtifactError: the file is missing, holds no steps, or has keys or a format that are not known.
    """
    return read_json(path, _ADAPTER, "list of pruning steps", format=FORMAT).steps
