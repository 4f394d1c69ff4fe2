"""The layers of a simulation as repairs see them: operators with a weight, and which parameters are theirs alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from secateur.errors import DataError, QuantizationError
from secateur.quantization.calibrating import CalibrationBatch
from secateur.quantization.insertion import IntegerOperator
from secateur.quantization.quantizer import Quantizer
from secateur.quantization.rewriting import operator_of
from secateur.quantization.simulation import Simulation


@dataclass(frozen=True)
class LayerParameters:
    """Where a layer keeps its numbers.

    Attributes:
        operator: the layer.
        node: its node in the graph.
        weight: name of its weight.
        bias: name of its bias, or "".
        shape: of its weight.
        groups: of a convolution; 1 of a linear layer.
        shared: whether another layer, or another call of this one, reads one of them too.
    """

    operator: IntegerOperator
    node: fx.Node
    weight: str
    bias: str
    shape: tuple[int, ...]
    groups: int
    shared: bool


def layers_of(simulation: Simulation) -> dict[str, LayerParameters]:
    """Return the operators with a stored weight by name, in the order of the graph."""
    nodes = {node.name: node for node in simulation.module.graph.nodes}
    found: list[tuple[IntegerOperator, fx.Node, str, str]] = []
    for operator in simulation.operators.values():
        if operator.weight:
            node = nodes[operator.node]
            bias = stored_name(node.args[2]) if len(node.args) > 2 else ""
            found.append((operator, node, stored_name(node.args[1]), bias))
    readers = Counter(_read_names(simulation.module.graph))
    return {
        operator.name: LayerParameters(
            operator,
            node,
            weight,
            bias,
            tuple(tensor_of(simulation, weight).shape),
            _groups(node),
            shared=readers[weight] > 1 or readers[bias] > 1,
        )
        for operator, node, weight, bias in found
    }


def _groups(node: fx.Node) -> int:
    """Return the groups of a convolution (x, weight, bias, stride, padding, dilation, groups)."""
    groups = node.args[6] if operator_of(node).startswith("conv") and len(node.args) > 6 else 1
    return groups if isinstance(groups, int) else 1


def channel_axis(node: fx.Node) -> int:
    """Return which dimension of a layer's output counts channels."""
    return -1 if operator_of(node) == "linear" else 1


def stored_name(node: object) -> str:
    """Return the name of the tensor that a node hands on, through a site or not; "" where it is computed."""
    if isinstance(node, fx.Node) and node.op == "call_module" and node.args:
        node = node.args[0]
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else ""


def _read_names(graph: fx.Graph) -> Iterable[str]:
    """Yield the name of a stored tensor once per operator that reads it."""
    for node in graph.nodes:
        if node.op == "call_function":
            for entry in node.all_input_nodes:
                if name := stored_name(entry):
                    yield name


def tensor_of(simulation: Simulation, name: str) -> Tensor:
    """Return the parameter or buffer of that name."""
    owner, _, attribute = name.rpartition(".")
    found: Tensor = getattr(simulation.module.get_submodule(owner), attribute)
    return found


def site_of(simulation: Simulation, layer: LayerParameters) -> Quantizer:
    """Return the site of a layer's weight."""
    return simulation.sites[layer.operator.weight]


def rounding(simulation: Simulation) -> dict[str, LayerParameters]:
    """Return the layers whose weight is rounded now."""
    return {
        name: layer for name, layer in layers_of(simulation).items() if site_of(simulation, layer).mode == "quantize"
    }


def write(simulation: Simulation, values: Mapping[str, Tensor]) -> None:
    """Give stored tensors new values, in place."""
    with torch.no_grad():
        for name, value in values.items():
            tensor_of(simulation, name).copy_(value)


def require_rounding(simulation: Simulation) -> None:
    """Refuse a simulation that has no ranges yet.

    Raises:
        QuantizationError: it rounds nowhere.
    """
    if not simulation.rounds:
        raise QuantizationError("the simulation rounds nowhere; calibrate it and set its ranges before repairing it")


def collected(module: nn.Module, batches: Iterable[CalibrationBatch], limit: int | None = None) -> list[Tensor]:
    """Return the inputs of ``batches`` on the module's device, ``limit`` images at most.

    Raises:
        DataError: there are none.
    """
    device = next((entry.device for entry in module.parameters()), torch.device("cpu"))
    found: list[Tensor] = []
    left = limit
    for batch in batches:
        inputs = (batch if isinstance(batch, Tensor) else batch[0]).to(device)
        found.append(inputs if left is None else inputs[:left])
        if left is not None:
            left -= len(found[-1])
            if left <= 0:
                break
    if not sum(len(entry) for entry in found):
        raise DataError("there are no images to repair the network with; give at least one batch of training images")
    return found
