"""What a run with a budget in milliseconds was asked for, what was predicted, and what the file that ships takes."""

from dataclasses import dataclass
from typing import ClassVar

from secateur.record.measurements import STRICT


@dataclass(frozen=True, kw_only=True)
class LatencyBudget:
    """A budget in milliseconds, and what became of it.

    Shares tell more than milliseconds: both models are timed in turn, so that a machine that is slower than when the
    table was measured slows both.
    """

    __pydantic_config__: ClassVar = STRICT

    asked_ms: float  # at most
    asked_share: float  # of the dense model, by the table
    predicted_ms: float  # of the cut model, by the table
    table_dense_ms: float  # of the dense model, as measured for the table
    measured_ms: float | None = None  # of the delivered file, the shortest of all runs; None without such a file
    measured_median_ms: float | None = None
    dense_ms: float | None = None  # of the dense model, in turn with it, the shortest of all runs
    dense_median_ms: float | None = None
    processor_share: float | None = None  # of processor time, which is steadier under load; None with several threads
    runs: int = 0  # of each
    threads: int
    batch_size: int
    runtime: str
    machine: str  # where the file was timed
    table: str  # digest of the table
    table_machine: str  # where the table was measured
    table_error: float | None = None  # the largest error of the table on networks that it was not fitted to, as a share

    @property
    def measured_share(self) -> float | None:
        """What the delivered file takes, as a share of the dense model; None where it was not timed."""
        return None if self.measured_ms is None or not self.dense_ms else self.measured_ms / self.dense_ms

    @property
    def off(self) -> float | None:
        """How far the share lies above the one asked for, relative to that; of processor time where it is known."""
        share = self.measured_share if self.processor_share is None else self.processor_share
        return None if share is None else share / self.asked_share - 1
