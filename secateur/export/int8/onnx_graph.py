"""An ONNX graph with what leads where: producers, readers, constants, and pairs that quantize a tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR = ("QuantizeLinear", "DequantizeLinear")

KEPT_IN_FLOAT = 1.0
"""Slope of a LeakyRelu that computes nothing: it keeps the layer before it in float."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """How a tensor was rounded to integers: what one DequantizeLinear says.

    Attributes:
        integers: name of the integer tensor.
        step: real size of an integer step, one number or one per channel; None where it is computed.
        zero_point: the integer that stands for 0, of the type of the integers; None where it is computed.
    """

    integers: str
    step: NDArray[Any] | None
    zero_point: NDArray[Any] | None

    @property
    def signed(self) -> bool:
        """Whether the integers have a sign."""
        return self.zero_point is not None and bool(np.issubdtype(self.zero_point.dtype, np.signedinteger))

    def equals(self, other: "Quantized") -> bool:
        """Tell whether both are known and the same, so that integers of one are those of the other."""
        if self.step is None or other.step is None or self.zero_point is None or other.zero_point is None:
            return False
        return np.array_equal(self.step, other.step) and np.array_equal(self.zero_point, other.zero_point)

    @property
    def lowest(self) -> int:
        """The lowest integer of the type."""
        return 0 if self.zero_point is None else int(np.iinfo(self.zero_point.dtype).min)

    @property
    def highest(self) -> int:
        """The highest integer of the type."""
        return 255 if self.zero_point is None else int(np.iinfo(self.zero_point.dtype).max)


class OnnxGraph:
    """A graph of ONNX operators by position.

    Attributes:
        nodes: in the order of the file.
        producers: position of the operator that gives a tensor.
        readers: positions of the operators that read a tensor, each once.
        constants: the tensors whose values the file holds.
        outputs: names of what the graph returns.
    """

    def __init__(self, graph: Any) -> None:
        """Index a ``GraphProto``."""
        self.nodes: list[Any] = list(graph.node)
        self.producers: dict[str, int] = {}
        self.readers: dict[str, list[int]] = {}
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs: frozenset[str] = frozenset(value.name for value in graph.output)
        for place, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self.producers[name] = place
            for name in dict.fromkeys(node.input):
                if name:
                    self.readers.setdefault(name, []).append(place)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t

    def node_before(self, name: str) -> Any | None:
        """Return the operator that gives a tensor; None for inputs and constants."""
        place = self.producers.get(name)
        node = None if place is None else self.nodes[place]
        return None if node is None or node.op_type == "Constant" else node

    def nodes_after(self, name: str) -> list[Any]:
        """Return the operators that read a tensor."""
        return [self.nodes[place] for place in self.readers.get(name, ())]

    def values(self, name: str) -> NDArray[Any] | None:
        """Return the values of a constant; None of what is computed."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        """Tell whether a tensor is a constant, quantized or not."""
        node = self.node_before(name)
        while node is not None and node.op_type in PAIR:
            name = node.input[0]
            node = self.node_before(name)
        return name in self.constants

    def how(self, node: Any) -> Quantized:
        """Return what a QuantizeLinear or a DequantizeLinear says; without a zero point that is 0, unsigned."""
        integers = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
        zero_point: NDArray[Any] | None = np.zeros((), np.uint8)
        if len(node.input) > 2 and node.input[2]:
            zero_point = self.values(node.input[2])
        return Quantized(integers, self.values(node.input[1]), zero_point)

    def quantized(self, name: str) -> Quantized | None:
        """Return how a tensor was quantized; None where its producer is no DequantizeLinear."""
        node = self.node_before(name)
        return self.how(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def users(self, integers: str) -> list[Any]:
        """Return the operators that compute with an integer tensor, whichever DequantizeLinear they read."""
        return list(self._users(integers))

    def _users(self, integers: str) -> Iterator[Any]:
        for node in self.nodes_after(integers):
            if node.op_type == "DequantizeLinear":
                yield from self.nodes_after(node.output[0])
            else:
                yield node


def attribute_of(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of an operator's attribute."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            value = onnx.helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def is_kept_in_float(node: Any) -> bool:
    """Tell whether an operator computes nothing and keeps the layer before it in float."""
    return node.op_type == "LeakyRelu" and bool(attribute_of(node, "alpha", 0.01) == KEPT_IN_FLOAT)
