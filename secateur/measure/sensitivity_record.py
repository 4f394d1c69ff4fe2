"""What a sensitivity scan measured: one curve per group, written as JSON; and which groups it shows to be sensitive."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter

from secateur.errors import UsageError
from secateur.record import Environment, Evaluation
from secateur.record.measurements import STRICT
from secateur.record.strict_json import read_json, write_json

FORMAT = 1  # of sensitivity.json; another number is refused
FLAT = 0.01
"""Loss of score (top-1 or mean IoU, in [0, 1]) up to which a curve counts as flat: one point."""


@dataclass(frozen=True, kw_only=True)
class SensitivityPoint:
    """One group cut to one size, the rest of the model whole, without retraining."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    share: float  # of the group's units that was to be removed, in (0, 1)
    kept: int  # units that stay
    macs_left: float  # multiply-adds of the cut model as a share of the dense one's
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class GroupSensitivity:
    """The curve of one group, by rising share."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    size: int  # units before the cut
    tied: bool  # whether it is a residual stream, which several layers produce; else it is an inner layer
    proof_error: float  # max|masked − cut| / max|original − masked| of its deepest cut
    points: tuple[SensitivityPoint, ...]

    def at(self, share: float) -> SensitivityPoint:
        """Return the point of a share.

        Raises:
            UsageError: it was not measured.
        """
        for point in self.points:
            if point.share == share:
                return point
        shares = ", ".join(f"{point.share:g}" for point in self.points)
        raise UsageError(f"the share {share:g} was not measured; choose one of {shares}, or scan it too")


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """A whole scan.

    Attributes:
        model_class: of the dense model.
        macs: multiply-adds of the dense model per sample.
        criterion: by which units were chosen.
        split: which samples decided.
        shares: of units that were removed, rising.
        dense: the model before any cut.
        groups: one curve each, in the order of the model.
        left_out: group → why it has no curve: it is locked, or its cut could not be proved.
        made_for: fingerprints of what decides the result.
        settings: of the job that scanned.
        command: the words that started it.
        environment: where it ran, None where it is not known.
        notes: anything else that a reader must know.
        format: of this record.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model_class: str
    macs: int
    criterion: str
    split: str
    shares: tuple[float, ...]
    dense: Evaluation
    groups: tuple[GroupSensitivity, ...]
    left_out: dict[str, str]
    made_for: dict[str, JsonValue] = field(default_factory=dict)
    settings: dict[str, JsonValue] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    environment: Environment | None = None
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain lists and dictionaries; an infinite loss is a string, because JSON has no infinity."""
        values: dict[str, JsonValue] = json.loads(_ADAPTER.dump_json(self))
        return values


_ADAPTER = TypeAdapter(Sensitivity)


def write_sensitivity(path: Path | str, sensitivity: Sensitivity) -> None:
    """Write a scan as indented JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _ADAPTER, sensitivity, indent=1)


def read_sensitivity(path: Path | str) -> Sensitivity:
    """Return the scan in a file that :func:`write_sensitivity` wrote.

    Raises:
        ArtifactError: the file is missing, is no scan, or has keys or a format that are not known.
    """
    return read_json(path, _ADAPTER, "sensitivity scan", format=FORMAT)


@dataclass(frozen=True, kw_only=True)
class RankedGroup:
    """How sensitive a group is.

    Attributes:
        group: its curve.
        drop: score lost at the share asked for, in [0, 1]; negative where the cut gains.
        mean_drop: mean of the score lost over all shares measured: 0 for a flat curve.
        flat_until: largest share up to which the score never loses more than the tolerance; 0 if it already does at the
            smallest share.
    """

    group: GroupSensitivity
    drop: float
    mean_drop: float
    flat_until: float


def sensitive_groups(
    sensitivity: Sensitivity, *, share: float = 0.5, drop: float | None = None, tolerance: float = FLAT
) -> tuple[RankedGroup, ...]:
    """Rank groups by the score (top-1 or mIoU) that they lose, most sensitive first; equal ones by their loss function.

    Args:
        sensitivity: a scan.
        share: at which to compare; one of those measured.
        drop: only groups that lose at least so much of it, in [0, 1]; None for all groups.
        tolerance: loss of score up to which a curve counts as flat.

    Raises:
        UsageError: the share was not measured.
    """
    dense = sensitivity.dense.score
    ranked = []
    for group in sensitivity.groups:
        drops = [dense - point.evaluation.score for point in group.points]
        flat = [number for number, lost in enumerate(drops) if lost > tolerance]
        first_fall = flat[0] if flat else len(drops)
        ranked.append(
            RankedGroup(
                group=group,
                drop=dense - group.at(share).evaluation.score,
                mean_drop=sum(drops) / len(drops),
                flat_until=group.points[first_fall - 1].share if first_fall else 0.0,
            )
        )
    ranked.sort(key=lambda entry: (-entry.drop, -entry.group.at(share).evaluation.loss))
    return tuple(entry for entry in ranked if drop is None or entry.drop >= drop)
