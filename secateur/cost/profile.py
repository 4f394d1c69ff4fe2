"""``profile``: what a model costs, by arithmetic on its traced graph."""

from dataclasses import dataclass

from torch import nn

from secateur.cost.size import size_bytes
from secateur.graph import ChannelGraph, trace
from secateur.graph.inputs import ExampleInputs


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """Multiply-adds and parameters of one module."""

    module: str
    operator: str
    macs: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a model costs.

    Attributes:
        macs: multiply-adds of convolutions and matrix products per sample (1 MAC = one multiply-add).
        params: parameters, tied ones once.
        size_bytes: bytes of the file that it would be saved as, an upper bound within some kilobytes.
        activation_bytes: peak bytes of activations alive, per sample.
        modules: compute operators in the order in which they run.
    """

    macs: int
    params: int
    size_bytes: int
    activation_bytes: int
    modules: tuple[ModuleCost, ...] = ()


def profile(model: nn.Module, example_inputs: ExampleInputs) -> Profile:
    """Count what ``model`` costs per sample.

    Raises:
        TraceError: the model does not run on ``example_inputs``.
    """
    return profile_graph(trace(model, example_inputs))


def profile_graph(graph: ChannelGraph) -> Profile:
    """Return the costs that a graph already knows."""
    by_operator = graph.costs.macs_by_operator(graph.sizes)
    return Profile(
        macs=graph.macs(),
        params=graph.params(),
        size_bytes=size_bytes(graph, graph.sizes),
        activation_bytes=graph.activation_bytes(),
        modules=tuple(
            ModuleCost(module=path, operator=operator, macs=int(macs))
            for (path, operator), macs in zip(graph.costs.compute_names, by_operator, strict=True)
        ),
    )
