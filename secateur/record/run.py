"""``record.json``: everything that a run measured, from which reports and tables are made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter

from secateur.record.environment import Environment
from secateur.record.int8 import Int8
from secateur.record.latency_budget import LatencyBudget
from secateur.record.measurements import STRICT, Agreement, Measurement, Proof, TrainResult
from secateur.record.pruned_weights import PrunedWeights
from secateur.record.restoration import Restoration
from secateur.record.strict_json import read_json, write_json
from secateur.record.width_search import WidthSearch

FORMAT = 1  # of record.json; another number is refused


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that one run did and measured."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    run_id: str
    command: tuple[str, ...]  # the words of the command line; the same words continue the run
    environment: Environment
    settings: dict[str, JsonValue] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    phases: tuple[TrainResult, ...] = ()
    measurements: dict[str, Measurement] = field(default_factory=dict)  # such as "dense", "cut", "tuned", "onnx"
    classes: int | None = None  # of the data
    restored: tuple[Restoration, ...] = ()  # after each cut, without training; none where that was not asked for
    proof: Proof | None = None
    weights: PrunedWeights | None = None  # of a method that prunes single weights
    width_search: WidthSearch | None = None  # of a method that searches for widths
    latency_budget: LatencyBudget | None = None  # of a run that had one in milliseconds
    agreement: Agreement | None = None  # of the ONNX file with torch, on the test split
    int8: Int8 | None = None  # of a run that ends in an INT8 file
    prunable_share_of_macs: float | None = None  # the most that could be cut, with one unit left in every group
    locked: dict[str, str] = field(default_factory=dict)  # group → why it could not be cut
    files: dict[str, str] = field(default_factory=dict)  # what → path inside the run directory
    notes: tuple[str, ...] = ()  # departures from the paper, and anything else that a reader must know
    format: int = FORMAT

    @property
    def resumed(self) -> bool:
        """Whether any phase was continued after an interruption."""
        return any(phase.resumed for phase in self.phases)

    @property
    def bit_for_bit(self) -> bool:
        """Whether the result is guaranteed to equal that of an unbroken run."""
        return all(phase.bit_for_bit for phase in self.phases)


_ADAPTER = TypeAdapter(RunRecord)


def write_record(path: Path | str, record: RunRecord) -> None:
    """Write ``record`` as indented JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _ADAPTER, record)


def read_record(path: Path | str) -> RunRecord:
    """Return the record in a file that :func:`write_record` wrote.

    Raises:
        ArtifactError: the file is missing, is not a record, or has keys or a format that are not known.
    """
    return read_json(path, _ADAPTER, "run record", format=FORMAT)
