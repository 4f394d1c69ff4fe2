"""The float network and the rounded one side by side, operator after operator, on all images at once.

Repairs go from the first layer to the last, each on what the repaired layers before it give. Running the images
through the network anew for every layer would take as many passes as there are layers; here each operator runs once,
and what it gave is kept until its last reader has run. That needs memory for the widest place of the network times
the number of images, twice: for ResNet-50 at 224², about 20 MB per image.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import QuantizationError
from secateur.quantization.profiles import clip_bounds
from secateur.quantization.repairs.layers import LayerParameters, tensor_of
from secateur.quantization.simulation import Simulation


class SweptLayer:
    """One layer when the sweep has reached it: change its parameters before asking for the next one.

    Attributes:
        parameters: which layer it is.
        exact: what it gives in the float network, per batch.
        inputs: what it reads in the rounded network, per batch.
    """

    def __init__(
        self, parameters: LayerParameters, exact: list[Tensor], inputs: list[Tensor], call: Callable[..., Tensor]
    ) -> None:
        """Hold a layer; made by :func:`swept_layers`."""
        self.parameters, self.exact, self.inputs = parameters, exact, inputs
        self._call = call

    def outputs(self, inputs: Iterable[Tensor], weight: Tensor | None = None) -> Iterator[Tensor]:
        """Yield what the layer gives for ``inputs`` with its rounded weight, or with ``weight``, and rounded bias."""
        for x in inputs:
            yield self._call(x, weight)

    def activation(self, x: Tensor) -> Tensor:
        """Return ``x`` behind the ReLU or clip that alone reads the layer, or as it is where there is none."""
        users = list(self.parameters.node.users)
        bounds = clip_bounds(users[0]) if len(users) == 1 else None
        return x if bounds is None else x.clamp(*bounds)


def swept_layers(
    simulation: Simulation,
    images: Sequence[Tensor],
    layers: Mapping[str, LayerParameters],
    originals: Mapping[str, Tensor],
) -> Iterator[SweptLayer]:
    """Yield ``layers`` in the order of the graph; between two of them the sweep runs what lies between.

    Args:
        simulation: rounds as it does now.
        images: inputs, per batch.
        layers: those to stop at.
        originals: name → values of parameters that an earlier repair changed: the float network has these.

    Raises:
        QuantizationError: the model has more than one input.
    """
    graph = simulation.module.graph
    if len([node for node in graph.nodes if node.op == "placeholder"]) != 1:
        raise QuantizationError("repairs run images layer by layer, and need a model with one input, not several")
    stops = {layer.node: layer for layer in layers.values()}
    last = _last_readers(graph)

    def stored(name: str) -> Tensor:
        return tensor_of(simulation, name).detach()

    exact = _Network(simulation, images, lambda name: originals.get(name, stored(name)), rounds=False)
    rounded = _Network(simulation, images, stored, rounds=True)
    for node in graph.nodes:
        if node.op == "output":
            continue
        with torch.no_grad():
            exact.compute(node)
        if node in stops:
            inputs = rounded.values[node.args[0]]
            yield SweptLayer(stops[node], exact.values[node], inputs, _caller(rounded, node))
        with torch.no_grad():
            rounded.refresh(node)
            rounded.compute(node)
        for gone in last.get(node, ()):
            exact.forget(gone)
            rounded.forget(gone)


class _Network:
    """Values of one of the two networks: a list with one per batch, or a constant."""

    def __init__(
        self, simulation: Simulation, images: Sequence[Tensor], stored: Callable[[str], Tensor], *, rounds: bool
    ) -> None:
        self.module, self.images, self.stored, self.rounds = simulation.module, images, stored, rounds
        self.values: dict[Any, list[Any]] = {}
        self.constants: dict[Any, Any] = {}

    def compute(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = list(self.images)
        elif node.op == "get_attr":
            self.constants[node] = self.stored(str(node.target))
        elif any(entry in self.values for entry in node.all_input_nodes):
            self.values[node] = [self._call(node, place) for place in range(len(self.images))]
        else:
            self.constants[node] = self._call(node, 0)

    def refresh(self, node: fx.Node) -> None:
        """Compute what ``node`` reads of stored tensors again: they may have changed since."""
        for entry in node.all_input_nodes:
            if entry in self.constants:
                for source in entry.all_input_nodes:
                    self.compute(source)
                self.compute(entry)

    def forget(self, node: fx.Node) -> None:
        self.values.pop(node, None)

    def arguments(self, node: fx.Node, place: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def read(entry: fx.Node) -> Any:
            return self.values[entry][place] if entry in self.values else self.constants[entry]

        found: tuple[tuple[Any, ...], dict[str, Any]] = fx.map_arg((node.args, node.kwargs), read)
        return found

    def _call(self, node: fx.Node, place: int) -> Any:
        arguments, keywords = self.arguments(node, place)
        if node.op == "call_module":
            return self.module.get_submodule(str(node.target))(*arguments) if self.rounds else arguments[0]
        return node.target(*arguments, **keywords)  # type: ignore[operator]


def _caller(network: _Network, node: fx.Node) -> Callable[..., Tensor]:
    def call(x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:  # its own, which may have changed since
            with torch.no_grad():
                network.refresh(node)
        (_, own, *rest), keywords = network.arguments(node, 0)
        found: Tensor = node.target(x, own if weight is None else weight, *rest, **keywords)  # type: ignore[operator]
        return found

    return call


def _last_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return node → the nodes whose values nothing behind it reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for entry in node.all_input_nodes:
            last[entry] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for node, reader in last.items():
        found.setdefault(reader, []).append(node)
    return found
