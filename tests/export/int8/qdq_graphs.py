"""Small ONNX graphs with QuantizeLinear/DequantizeLinear pairs, built operator by operator."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16


class Graph:
    """A graph under construction; every call adds one operator and returns the name of what it gives."""

    def __init__(self, *, signed: bool = False) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.activation = np.int8 if signed else np.uint8
        self.random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        result = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=name or "", **attributes))
        return result

    def constant(self, values: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def quantized(self, x: str, *, step: float = 0.02, zero_point: int = 0) -> str:
        """Put a pair of QuantizeLinear and DequantizeLinear on a tensor."""
        how = (self.constant(np.float32(step)), self.constant(self.activation(zero_point)))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *how), *how)

    def weight(self, *shape: int, name: str) -> str:
        """Add int8 weights with a step per channel, and what they stand for."""
        integers = self.constant(self.random.integers(-127, 128, shape).astype(np.int8), f"{name}.weight")
        steps = self.constant(self.random.uniform(0.001, 0.01, shape[0]).astype(np.float32))
        zeros = self.constant(np.zeros(shape[0], np.int8))
        return self.op("DequantizeLinear", integers, steps, zeros, axis=0)

    def conv(self, x: str, name: str, *, inputs: int = CHANNELS, size: int = 3, weight: str | None = None) -> str:
        weight = weight or self.weight(CHANNELS, inputs, size, size, name=name)
        return self.op("Conv", x, weight, kernel_shape=[size, size], pads=[size // 2] * 4)

    def save(self, path: Path, output: str) -> Path:
        """Write the graph with input ``x`` (N, 16, 8, 8)."""
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, 8, 8])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [given], [result], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(path))
        return path
