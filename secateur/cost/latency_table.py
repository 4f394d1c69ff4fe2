"""A latency table: what each operator of one network takes on one runtime, as a function of the channels it keeps.

The time of a network is modelled as

    overhead + scale × (rest_per_byte × bytes of activations + Σ factor of operator × time of operator)

where an operator's time is interpolated in a grid over its kept output and input channels, measured by
:func:`secateur.measure.measure_latency_table`, which also fits the other numbers to whole networks.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from secateur.cost.weight_sizes import WeightSizes, weight_sizes
from secateur.errors import ArtifactError, BudgetError
from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray
from secateur.record.measurements import STRICT
from secateur.record.strict_json import read_json, write_json
from secateur.wording import counted

FORMAT = 1
"""Of the file; another number is refused."""

Grid = tuple[tuple[float, ...], ...]


class LatencyModel(Protocol):
    """Predicts latency from kept sizes."""

    def latency_ms(self, graph: ChannelGraph, kept: UnitArray) -> float:
        """Return milliseconds per forward pass when each group keeps ``kept`` units, shape (groups,)."""


@dataclass(frozen=True, kw_only=True)
class OperatorTimes:
    """What one convolution or matrix product takes.

    Attributes:
        path: of its module.
        weight: name of its weight parameter.
        out_sizes: sizes of the weight's dimension 0 that were measured, rising; the last is the whole network's.
        in_sizes: the same of dimension 1, which of a depthwise convolution is always 1.
        ms: milliseconds for each pair of them, one row per output size: the least of all rounds, by itself.
        factor: how much longer it takes inside the network than by itself.
        block: channels that the kernel computes together; a part of them costs as much as all.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    path: str
    weight: str
    out_sizes: tuple[int, ...]
    in_sizes: tuple[int, ...]
    ms: Grid
    factor: float = 1.0
    block: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        for sizes in (self.out_sizes, self.in_sizes):
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise ArtifactError(f"the sizes of {self.path} are {sizes}, but must be positive and rise")
        if [len(row) for row in self.ms] != [len(self.in_sizes)] * len(self.out_sizes):
            raise ArtifactError(
                f"{self.path} has times of {len(self.ms)} output sizes, not {len(self.out_sizes)} rows of "
                f"{len(self.in_sizes)}"
            )
        if not all(value >= 0 for row in self.ms for value in row) or not self.factor >= 0 or self.block < 1:
            raise ArtifactError(f"{self.path} has a time or a factor below 0, or a block below 1")

    @cached_property
    def _grid(self) -> NDArray[np.float64]:
        return np.asarray(self.ms, dtype=np.float64)

    def alone_ms(self, outputs: int, inputs: int) -> float:
        """Return the milliseconds by itself, by bilinear interpolation; below the smallest size that of the smallest.

        Args:
            outputs: size of the weight's dimension 0.
            inputs: size of its dimension 1.
        """
        row, low = _place(self.out_sizes, outputs, self.block)
        column, left = _place(self.in_sizes, inputs, self.block)
        near = self._grid[row : row + 2, column : column + 2]
        first = near[0] if len(near) == 1 else (1 - low) * near[0] + low * near[1]
        return float(first[0] if len(first) == 1 else (1 - left) * first[0] + left * first[1])


@dataclass(frozen=True, kw_only=True)
class NetworkTime:
    """One whole network that was measured to fit the table, or to see how well it predicts.

    Attributes:
        macs: of the network.
        measured_ms: the least of all rounds, brought to the speed that the machine had on average.
        predicted_ms: by the table.
        held_out: whether the fit has not seen it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    macs: int
    measured_ms: float
    predicted_ms: float
    held_out: bool

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Predicts the latency of a network at any plan; immutable, and a JSON file.

    Attributes:
        model_class: of the network that it was measured for.
        fingerprint: of that network's graph.
        macs: of that network, which differ with the size of the input.
        input_shape: of one sample.
        batch_size: samples in one forward pass.
        threads: that one operator may use.
        runtime: that computed.
        runtime_version: of it.
        precision: of weights and activations.
        machine: name of the processor.
        secateur: version that measured.
        multiple: what kept sizes should be multiples of: between these, kernels are slower than the table says.
        operators: convolutions and matrix products that have weights.
        rest_ms_per_byte: of everything else that grows with the activations, for each byte of them.
        scale: from the sum of the parts to the whole.
        overhead_ms: what a forward pass takes whatever the widths are.
        dense_ms: the whole network, measured.
        networks: whole networks, those of the fit and those held out.
        drift: how much slower the whole network was at its slowest than at its fastest while the table was measured.
        rounds: of each measurement.
        format: of the file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model_class: str
    fingerprint: str
    macs: int
    input_shape: tuple[int, ...]
    batch_size: int
    threads: int
    runtime: Literal["onnxruntime"] = "onnxruntime"
    runtime_version: str
    precision: Literal["fp32", "int8"] = "fp32"
    machine: str
    secateur: str
    multiple: int
    operators: tuple[OperatorTimes, ...]
    rest_ms_per_byte: float
    scale: float
    overhead_ms: float
    dense_ms: float
    networks: tuple[NetworkTime, ...] = ()
    drift: float = 0.0
    rounds: int = 1
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse what cannot be a table."""
        numbers = (self.rest_ms_per_byte, self.scale, self.overhead_ms, self.drift)
        if not all(0 <= value < float("inf") for value in numbers) or not 0 < self.dense_ms < float("inf"):
            raise ArtifactError("a time of the latency table is negative or not finite; measure it again")
        if self.multiple < 1 or self.threads < 1 or self.batch_size < 1:
            raise ArtifactError("multiple, threads or batch_size of the latency table is below 1; measure it again")

    @cached_property
    def _known(self) -> "WeakKeyDictionary[ChannelGraph, Callable[[UnitArray], float]]":
        return WeakKeyDictionary()

    @property
    def worst_error(self) -> float | None:
        """The largest prediction error on networks that the fit has not seen, as a share; None without such."""
        return max((abs(one.error) for one in self.networks if one.held_out), default=None)

    @property
    def digest(self) -> str:
        """Hash of the content, by which a run knows its table again."""
        return hashlib.blake2b(_TABLE.dump_json(self), digest_size=16).hexdigest()

    def latency_ms(self, graph: ChannelGraph, kept: UnitArray) -> float:
        """Return milliseconds per forward pass when each group keeps ``kept`` units, shape (groups,).

        Args:
            graph: of the network that the table was made for, or what is left of that network after a plan.
            kept: units per group of ``graph``.
        """
        if graph not in self._known:
            self._known[graph] = self._predictor(graph)
        return self._known[graph](kept)

    def _predictor(self, graph: ChannelGraph) -> Callable[[UnitArray], float]:
        present: list[tuple[OperatorTimes, WeightSizes]] = []
        for operator in self.operators:
            sizes = weight_sizes(graph, operator.weight)
            if sizes is not None:  # None: it went with a block
                present.append((operator, sizes))
        costs, batch = graph.costs, self.batch_size

        def predict(kept: UnitArray) -> float:
            stored = float(costs.storages.values(costs.forms.sizes(kept)).sum())
            parts = self.rest_ms_per_byte * stored * batch
            parts += sum(operator.factor * operator.alone_ms(*sizes.at(kept)) for operator, sizes in present)
            return self.overhead_ms + self.scale * parts

        return predict

    def check(
        self, graph: ChannelGraph, *, input_shape: tuple[int, ...] | None = None, threads: int | None = None
    ) -> None:
        """Refuse another network, another input or other threads than the table was measured with.

        Args:
            graph: of the whole network.
            input_shape: of one sample, where it is known.
            threads: that the network is to run with, where they are known.

        Raises:
            BudgetError: something differs; one sentence with both values.
        """
        again = "; measure another one with `secateur measure`"
        if self.fingerprint != graph.fingerprint:
            raise BudgetError(
                f"the latency table was measured for {self.model_class} with fingerprint {self.fingerprint}, but this "
                f"is {graph.model_class} with {graph.fingerprint}{again}"
            )
        if input_shape is not None and tuple(input_shape) != self.input_shape:
            raise BudgetError(
                f"the latency table was measured for inputs of {_shape(self.input_shape)}, but these are "
                f"{_shape(input_shape)}{again}"
            )
        if self.macs != graph.macs():
            raise BudgetError(
                f"the latency table was measured for {self.macs:,} MACs (inputs of {_shape(self.input_shape)}), but "
                f"the model has {graph.macs():,} with these inputs{again}"
            )
        if threads is not None and threads != self.threads:
            raise BudgetError(
                f"the latency table was measured with {counted(self.threads, 'thread')}, but the model is to run with "
                f"{threads}{again}, or give --threads {self.threads}"
            )


_TABLE: TypeAdapter[LatencyTable] = TypeAdapter(LatencyTable)


def write_latency_table(path: Path | str, table: LatencyTable) -> None:
    """Write a table as JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _TABLE, table, indent=1)


def read_latency_table(path: Path | str) -> LatencyTable:
    """Read a table that :func:`write_latency_table` wrote.

    Raises:
        ArtifactError: the file is missing, is no latency table, or has keys or a format that are not known.
    """
    return read_json(path, _TABLE, "latency table", format=FORMAT)


def multiple_of(model: Any) -> int:
    """Return what kept sizes should be multiples of, by a table; 1 for what does not say."""
    return int(getattr(model, "multiple", 1))


def _place(sizes: tuple[int, ...], size: int, block: int) -> tuple[int, float]:
    """Return the grid point below a size, and how far it is on the way to the next one, in [0, 1]."""
    if size > block:  # a part of a block costs as much as the block; the first one was measured in parts
        size = -(-size // block) * block
    size = min(max(size, sizes[0]), sizes[-1])
    row = min(int(np.searchsorted(sizes, size, side="right")) - 1, max(0, len(sizes) - 2))
    if len(sizes) == 1:
        return 0, 0.0
    return row, (size - sizes[row]) / (sizes[row + 1] - sizes[row])


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
