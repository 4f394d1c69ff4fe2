"""Latency tables made up by arithmetic, for laws that no clock may decide."""

from collections.abc import Callable, Sequence

from secateur.cost import LatencyTable, OperatorTimes
from secateur.cost.weight_sizes import weight_sizes
from secateur.graph import ChannelGraph


def synthetic_table(
    graph: ChannelGraph,
    weights: Sequence[str],
    ms: Callable[[int, int], float] = lambda outputs, inputs: outputs * inputs / 1000,
    *,
    step: int = 1,
    multiple: int = 1,
    block: int = 1,
    input_shape: tuple[int, ...] = (3, 8, 8),
    overhead_ms: float = 0.0,
) -> LatencyTable:
    """Return a table in which each named weight takes ``ms(outputs, inputs)`` at every ``step``-th size."""
    operators = []
    for weight in weights:
        sizes = weight_sizes(graph, weight)
        assert sizes is not None
        whole = sizes.at(graph.sizes)
        grids = [tuple(sorted({*range(step, size, step), size})) for size in whole]
        operators.append(
            OperatorTimes(
                path=weight.rpartition(".")[0],
                weight=weight,
                out_sizes=grids[0],
                in_sizes=grids[1],
                ms=tuple(tuple(ms(outputs, inputs) for inputs in grids[1]) for outputs in grids[0]),
                block=block,
            )
        )
    return LatencyTable(
        model_class=graph.model_class,
        fingerprint=graph.fingerprint,
        macs=graph.macs(),
        input_shape=input_shape,
        batch_size=1,
        threads=1,
        runtime_version="1.0",
        machine="made up",
        secateur="0",
        multiple=multiple,
        operators=tuple(operators),
        rest_ms_per_byte=0.0,
        scale=1.0,
        overhead_ms=overhead_ms,
        dense_ms=1.0,
    )
