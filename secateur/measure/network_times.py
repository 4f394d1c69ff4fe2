"""What whole networks take: one plan at a time, exported as it would be shipped, kernel by kernel and in all."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.errors import ExportError
from secateur.export import OnnxModel, export_onnx
from secateur.export.onnx_operators import ExportedOperator, exported_operators, marked, marked_number
from secateur.export.onnx_profile import kernel_times
from secateur.graph import ChannelGraph, Plan, apply
from secateur.measure.latency import compare_latency, steady_clock
from secateur.randomness import generator_for
from secateur.record.measurements import STRICT

SHARES = (0.2, 0.9)
"""Of their units that groups keep on average, in the narrowest and the widest of the networks."""

SPREAD = 0.3
"""How far the share of one group may lie from the average of its network."""


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """One network.

    Attributes:
        kept: units of each group.
        macs: per sample.
        operators: weight → milliseconds of its kernel inside the network.
        rest_ms: of all other kernels together.
        whole_ms: of a forward pass, without a profile; of one thread in processor time (:func:`steady_clock`).
        dense_ms: of the whole network, taken in turn with that.
    """

    __pydantic_config__: ClassVar = STRICT

    kept: tuple[int, ...]
    macs: int
    operators: dict[str, float] = field(default_factory=dict)
    rest_ms: float
    whole_ms: float
    dense_ms: float


def random_plans(graph: ChannelGraph, count: int, *, multiple: int, seed: int) -> list[Plan]:
    """Return plans of all depths, each group by itself, whose sizes are multiples of ``multiple``.

    Args:
        graph: of the whole network.
        count: of plans.
        multiple: of kept sizes.
        seed: of the shares.
    """
    plans = []
    for number in range(count):
        generator = generator_for(seed, "latency", number)
        middle = SHARES[1] - (SHARES[1] - SHARES[0]) * (number + 0.5) / count
        kept = {}
        for group in graph.groups:
            share = middle + SPREAD * (2 * float(torch.rand((), generator=generator)) - 1)
            size = min(group.size, max(1, round(share * group.size / multiple)) * multiple)
            if group.prunable and size < group.size:
                kept[group.name] = range(size)
        plans.append(graph.plan(kept))
    return plans


@dataclass(frozen=True)
class WholeNetwork:
    """The exported network that others are compared with.

    Attributes:
        model: in torch.
        graph: of it.
        example: input of the batch size that is measured.
        threads: that one operator may use.
        rounds: of every measurement.
        operators: of the exported file.
        onnx: the file, loaded.
        path: of the file.
    """

    model: nn.Module
    graph: ChannelGraph
    example: Tensor
    threads: int
    rounds: int
    operators: tuple[ExportedOperator, ...]
    onnx: OnnxModel
    path: Path

    def measured(self, plan: Plan | None) -> MeasuredNetwork:
        """Measure the network that a plan leaves, in turn with the whole one; None measures the whole one.

        Raises:
            ExportError: it cannot be exported.
            ArtifactError: ONNX Runtime refuses it.
        """
        if plan is None or plan.is_empty:
            return self._measured(self.graph.kept_sizes(None).tolist(), self.graph, self.path)
        small, after = apply(self.model, plan, verify_with=None), self.graph.after(plan)
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            path = Path(folder, "network.onnx")
            export_onnx(small, path, self.example, dynamic_batch=False)
            return self._measured(self.graph.kept_sizes(plan).tolist(), after, path)

    def _measured(self, kept: list[int], graph: ChannelGraph, path: Path) -> MeasuredNetwork:
        found = exported_operators(path, graph)
        name = self.onnx.input_names[0]
        feed = {name: self.example.cpu().numpy()}
        kernels = kernel_times(marked(path, found), feed, threads=self.threads, rounds=self.rounds)
        operators: dict[str, float] = {}
        rest = [0.0] * self.rounds
        for kernel, times in kernels.items():
            number = marked_number(kernel)
            if number is None:
                rest = [before + now for before, now in zip(rest, times, strict=True)]
            else:
                weight = found[number].weight
                operators[weight] = operators.get(weight, 0.0) + min(times)
        pair = compare_latency(
            self.onnx,
            OnnxModel(path, threads=self.threads),
            self.example,
            threads=self.threads,
            repeats=4 * self.rounds,
            warmup=self.rounds,
            clock_ns=steady_clock(self.threads),
        )
        return MeasuredNetwork(
            kept=tuple(kept),
            macs=graph.macs(),
            operators=operators,
            rest_ms=min(rest),
            whole_ms=pair.second.least_ms,
            dense_ms=pair.first.least_ms,
        )


@contextmanager
def whole_network(
    model: nn.Module, graph: ChannelGraph, example: Tensor, *, threads: int, rounds: int
) -> Iterator[WholeNetwork]:
    """Export a network for the time of this block.

    Raises:
        ExportError: it cannot be exported, or none of its operators is found in the file.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        path = Path(folder, "dense.onnx")
        export_onnx(model, path, example, dynamic_batch=False)
        operators = exported_operators(path, graph)
        held = sum(math.prod(operator.weight_shape) for operator in operators)
        if not held:
            raise ExportError(
                f"no convolution or matrix product of {type(model).__name__} was found in its ONNX file, so no latency "
                "table can be measured for it; use a budget in macs"
            )
        yield WholeNetwork(model, graph, example, threads, rounds, operators, OnnxModel(path, threads=threads), path)
