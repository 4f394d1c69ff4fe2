"""From what operators and whole networks take to the numbers of a latency table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from secateur.cost import LatencyTable, NetworkTime, OperatorTimes
from secateur.cost.weight_sizes import weight_sizes
from secateur.graph import ChannelGraph
from secateur.measure.network_times import MeasuredNetwork


def fitted(
    table: LatencyTable, graph: ChannelGraph, seen: Sequence[MeasuredNetwork], held_out: Sequence[MeasuredNetwork]
) -> LatencyTable:
    """Return ``table`` fitted to whole networks, and how well it predicts others.

    Each operator gets the factor by which it is slower inside the networks. Everything else is a line over the bytes of
    activations, of which only the slope is taken: these kernels are short, and noting one costs as much. Scale and
    overhead then make the sums meet the forward passes; no coefficient is below 0.

    Args:
        table: with times of operators by themselves.
        graph: of the whole network.
        seen: networks to fit to, the whole one first.
        held_out: networks to try the fit on.
    """
    dense = [one.dense_ms for one in (*seen, *held_out)]
    speed = median(dense)
    seen, held_out = ([_at_speed(one, speed) for one in networks] for networks in (seen, held_out))
    operators = _with_factors(table.operators, graph, seen)
    stored = [graph.costs.storages.values(graph.costs.forms.sizes(_kept(one))).sum() for one in seen]
    _, per_byte = _line([float(size) * table.batch_size for size in stored], [one.rest_ms for one in seen])
    parts = replace(table, operators=operators, rest_ms_per_byte=per_byte, scale=1.0, overhead_ms=0.0)
    sums = [parts.latency_ms(graph, _kept(one)) for one in seen]
    overhead_ms, scale = _line(sums, [one.whole_ms for one in seen])
    whole = replace(parts, scale=scale, overhead_ms=overhead_ms, dense_ms=speed)
    return replace(
        whole,
        networks=tuple(
            NetworkTime(
                macs=one.macs,
                measured_ms=one.whole_ms,
                predicted_ms=whole.latency_ms(graph, _kept(one)),
                held_out=number >= len(seen),
            )
            for number, one in enumerate((*seen, *held_out))
        ),
        drift=max(dense) / min(dense) - 1,
    )


def _at_speed(network: MeasuredNetwork, dense_ms: float) -> MeasuredNetwork:
    """Return the times that a network would have had on a machine on which the whole one takes ``dense_ms``."""
    faster = dense_ms / network.dense_ms
    return replace(
        network,
        operators={name: ms * faster for name, ms in network.operators.items()},
        rest_ms=network.rest_ms * faster,
        whole_ms=network.whole_ms * faster,
        dense_ms=dense_ms,
    )


def _with_factors(
    operators: Sequence[OperatorTimes], graph: ChannelGraph, seen: Sequence[MeasuredNetwork]
) -> tuple[OperatorTimes, ...]:
    """Give each operator the factor of its sums over all networks; one that was not found there gets that of all."""
    alone: dict[str, float] = {}
    inside: Mapping[str, float] = {
        one.weight: sum(network.operators.get(one.weight, 0.0) for network in seen) for one in operators
    }
    for operator in operators:
        sizes = weight_sizes(graph, operator.weight)
        assert sizes is not None  # it is a weight of this graph
        alone[operator.weight] = sum(
            operator.alone_ms(*sizes.at(_kept(network))) for network in seen if operator.weight in network.operators
        )
    known = [name for name in alone if alone[name] > 0 and inside[name] > 0]
    common = sum(inside[name] for name in known) / sum(alone[name] for name in known) if known else 1.0
    return tuple(
        replace(one, factor=inside[one.weight] / alone[one.weight] if one.weight in known else common)
        for one in operators
    )


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return constant and slope, neither below 0, of the line with the least sum of squared relative errors."""
    ones, values, weights = np.ones(len(x)), np.asarray(x, dtype=float), 1 / np.maximum(np.asarray(y), 1e-9)
    target = np.ones(len(x))
    unit = max(values.max(initial=0.0), 1e-30)
    both = np.stack([ones * weights, values / unit * weights], axis=1)
    candidates = []
    if np.ptp(values) > 1e-6 * unit:
        candidates.append(np.linalg.lstsq(both, target, rcond=None)[0])
    for column in (0, 1):
        single = both[:, column]
        alone = np.zeros(2)
        alone[column] = single @ target / max(single @ single, 1e-30)
        candidates.append(alone)
    allowed = [one for one in candidates if (one >= 0).all()]
    best = min(allowed, key=lambda one: float(((both @ one - target) ** 2).sum()))
    return float(best[0]), float(best[1] / unit)


def _kept(network: MeasuredNetwork) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(network.kept, dtype=np.int64)
