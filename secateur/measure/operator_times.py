"""What each operator of an exported network takes by itself, over a grid of widths."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.cost import OperatorTimes
from secateur.cost.weight_sizes import weight_sizes
from secateur.errors import ExportError
from secateur.export.onnx_operators import ExportedOperator, Width, input_shape, marked_number, operator_model
from secateur.export.onnx_profile import kernel_times
from secateur.graph import ChannelGraph

LEVELS = 7
"""Sizes of one dimension that are measured at most."""

NARROW = 64
"""Up to this size multiples that are smaller than a block are measured too, of which the kernels take less."""

SESSION_BYTES = 2**27
"""Of weights and outputs that are measured in one session."""

PADDED = 0.9
"""Share of the time of 32 channels that 24 take where they are padded to 32."""


@dataclass(frozen=True)
class WidthGrid:
    """The widths of one operator that are measured.

    Attributes:
        operator: which.
        out_sizes: of the weight's dimension 0, rising.
        in_sizes: of dimension 1, rising.
        regrouped: whether groups go with its channels, as in a depthwise convolution.
    """

    operator: ExportedOperator
    out_sizes: tuple[int, ...]
    in_sizes: tuple[int, ...]
    regrouped: bool

    @property
    def widths(self) -> tuple[Width, ...]:
        """Every pair of sizes, row by row."""
        operator, whole = self.operator, self.operator.weight_shape[0]
        return tuple(
            Width(outputs, inputs, operator.group * outputs // whole if self.regrouped else operator.group)
            for outputs in self.out_sizes
            for inputs in self.in_sizes
        )

    @property
    def key(self) -> str:
        """What two grids have in common that take the same time, as text."""
        return repr((self.operator.signature, self.out_sizes, self.in_sizes, self.regrouped))

    def times(self, ms: Sequence[float], block: int) -> OperatorTimes:
        """Return what was measured, one time per width."""
        columns = len(self.in_sizes)
        rows = tuple(tuple(ms[row * columns : (row + 1) * columns]) for row in range(len(self.out_sizes)))
        return OperatorTimes(
            path=self.operator.path,
            weight=self.operator.weight,
            out_sizes=self.out_sizes,
            in_sizes=self.in_sizes,
            ms=rows,
            block=block if self.operator.kind == "Conv" else 1,
        )


def width_grid(graph: ChannelGraph, operator: ExportedOperator, *, multiple: int, block: int) -> WidthGrid:
    """Return the widths to measure: multiples of ``multiple`` and the whole size, of what a plan can change.

    Args:
        graph: tells what belongs to a group.
        operator: of the exported network.
        multiple: of channels.
        block: channels that the kernel computes together.
    """
    sizes = weight_sizes(graph, operator.weight)
    free = [group.cuttable(allow_approximate=True) for group in graph.groups]
    varies = (False, False) if sizes is None else sizes.vary_with(free)
    regrouped = operator.weight in graph.regrouped
    group = 1 if regrouped else operator.group  # which has to divide the outputs
    outputs, inputs = operator.weight_shape[:2]
    large = math.prod(operator.weight_shape) * 4 > SESSION_BYTES // 8
    most = 3 if large else LEVELS
    return WidthGrid(
        operator,
        _levels(outputs, math.lcm(multiple, group), block, most) if varies[0] else (outputs,),
        _levels(inputs, multiple, block, most) if varies[1] else (inputs,),
        regrouped,
    )


def _levels(size: int, multiple: int, block: int, most: int) -> tuple[int, ...]:
    step = math.lcm(multiple, block)
    first = list(range(multiple, min(step, size), multiple))[: most - 3] if size <= NARROW else []
    below, most = list(range(step, size, step)), most - 1 - len(first)
    if len(below) > most:
        below = [below[round(place * (len(below) - 1) / max(1, most - 1))] for place in range(most)]
    return (*first, *below, size)


def kernel_block(operators: Sequence[ExportedOperator], *, threads: int, rounds: int) -> int:
    """Return how many channels the runtime's convolutions compute together: 16, or 1 where it was not seen.

    Where 24 channels take as long as 32, kernels work on blocks of 16. Blocks of 8 do not show, and need not, because
    widths are multiples of 8 anyway.
    """
    plain = [one for one in operators if one.kind == "Conv" and one.group == 1 and one.weight_shape[1] >= 16]
    if not plain:
        return 1
    model, inputs = operator_model(plain[0], [Width(24, 32, 1), Width(32, 32, 1)])
    times = {marked_number(name): min(ms) for name, ms in _kernels(model, inputs, threads, rounds).items()}
    if 0 not in times or 1 not in times:
        return 1
    return 16 if times[0] >= PADDED * times[1] else 1


def timed_widths(grid: WidthGrid, *, threads: int, rounds: int) -> list[float]:
    """Return the milliseconds of each width: the least of all rounds, in which the widths take turns.

    Raises:
        ExportError: a width is missing in the runtime's profile.
        ArtifactError: the runtime refuses a width.
    """
    found: list[float] = []
    for part in _parts(grid):
        model, inputs = operator_model(grid.operator, part)
        kernels = _kernels(model, inputs, threads, rounds)
        by_number: dict[int | None, float] = {}
        for name, ms in kernels.items():
            number = marked_number(name)
            # An activation that was not fused runs as a kernel of its own, under a name of its own.
            by_number[number] = by_number.get(number, 0.0) + min(ms)
        missing = [width for number, width in enumerate(part) if number not in by_number]
        if missing:
            raise ExportError(
                f"ONNX Runtime's profile has no kernel for {grid.operator.path} at {missing[0]}; this version of the "
                "runtime names its kernels otherwise, so that no latency table can be measured with it"
            )
        found += [by_number[number] for number in range(len(part))]
    return found


def _kernels(model: bytes, inputs: dict[str, Any], threads: int, rounds: int) -> dict[str, list[float]]:
    return kernel_times(model, inputs, threads=threads, rounds=rounds)


def _parts(grid: WidthGrid) -> Iterator[list[Width]]:
    """Yield the widths in parts whose weights and outputs are not too much for one session."""
    part: list[Width] = []
    held = 0
    kernel = math.prod(grid.operator.weight_shape[2:])
    for width in grid.widths:
        shape = input_shape(grid.operator, width)
        size = 4 * (width.outputs * width.inputs * kernel + width.outputs * math.prod(shape) // max(1, shape[1]))
        if part and held + size > SESSION_BYTES:
            yield part
            part, held = [], 0
        part.append(width)
        held += size
    yield part
