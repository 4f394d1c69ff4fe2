"""The convolutions and matrix products of an exported ONNX file, and models of single ones in other widths."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import ExportError
from secateur.export.onnx_runtime import require_onnx
from secateur.graph import ChannelGraph

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of ONNX that multiply activations with a weight."""

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh")
"""Those that runtimes compute together with the operator before them."""

_MARK = re.compile(r"op(\d+)mark")


@dataclass(frozen=True)
class ExportedOperator:
    """One operator with a weight, as the file has it.

    Attributes:
        weight: name of the weight parameter in the model.
        path: of the module that it belongs to.
        kind: name of the operator in ONNX.
        attributes: of its node but for ``group``, as (name, value) pairs.
        group: groups of a convolution; 1 of others.
        weight_shape: in the model.
        transposed: whether the file holds the weight the other way round.
        input_shape: of what it is given.
        activation: the operator that is computed together with it, or None.
        node: place of its node in the file.
    """

    weight: str
    path: str
    kind: str
    attributes: tuple[tuple[str, Any], ...]
    group: int
    weight_shape: tuple[int, ...]
    transposed: bool
    input_shape: tuple[int, ...]
    activation: str | None
    node: int

    @property
    def signature(self) -> tuple[Any, ...]:
        """What two operators have in common that take the same time."""
        return (
            *(self.kind, self.attributes, self.group, self.weight_shape),
            *(self.transposed, self.input_shape, self.activation),
        )


def exported_operators(path: Path | str, graph: ChannelGraph) -> tuple[ExportedOperator, ...]:
    """Return the operators of an ONNX file whose weights are parameters of the model, in the order of the file.

    Args:
        path: of the file that the model of ``graph`` was exported to, with a fixed batch size.
        graph: names the parameters.

    Raises:
        ExportError: the shapes of the file's activations cannot be told.
    """
    onnx, _ = require_onnx()
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    nodes = list(proto.graph.node)
    found = [number for number, node in enumerate(nodes) if _weight_of(node, weights) is not None]
    names = _parameters(graph, [_weight_of(nodes[number], weights) or "" for number in found], weights)
    shapes = _shapes(proto)
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    specs = {name: spec.shape for spec in graph.tensors for name in (spec.name, *spec.aliases)}
    operators = []
    for number in found:
        node = nodes[number]
        held = _weight_of(node, weights) or ""
        if held not in names:
            continue
        shape = shapes.get(node.input[0])
        if shape is None:
            raise ExportError(
                f"the shape of {node.input[0]!r} in {path} cannot be told; export with a fixed batch size"
            )
        after = readers.get(node.output[0], [])
        activation = after[0].op_type if len(after) == 1 and after[0].op_type in ACTIVATIONS else None
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        group = int(attributes.pop("group", 1))
        own = names[held]
        operators.append(
            ExportedOperator(
                weight=own,
                path=own.rpartition(".")[0],
                kind=node.op_type,
                attributes=tuple(sorted((key, _plain(value)) for key, value in attributes.items())),
                group=group,
                weight_shape=specs[own],
                transposed=weights[held] != specs[own] or (node.op_type == "MatMul" and len(set(specs[own])) == 1),
                input_shape=shape,
                activation=activation,
                node=number,
            )
        )
    return tuple(operators)


def marked(path: Path | str, operators: Sequence[ExportedOperator]) -> bytes:
    """Return the file with the number of each operator in the names that a runtime may call it by after fusing."""
    onnx, _ = require_onnx()
    proto = onnx.load(str(path))
    nodes, outputs = list(proto.graph.node), {value.name for value in proto.graph.output}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    renamed: dict[str, str] = {}
    for number, operator in enumerate(operators):
        node = nodes[operator.node]
        node.name = f"op{number}mark"
        for step, name in enumerate(_followed(node, readers)):
            if name not in outputs:
                renamed[name] = f"op{number}mark{'n' * step}"
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    del proto.graph.value_info[:]  # which the old names are in
    content: bytes = proto.SerializeToString()
    return content


def marked_number(name: str) -> int | None:
    """Return the number of the operator that a runtime's name for a kernel holds, or None."""
    found = _MARK.search(name)
    return None if found is None else int(found.group(1))


@dataclass(frozen=True)
class Width:
    """One operator in one width: sizes of dimensions 0 and 1 of its weight, and its groups."""

    outputs: int
    inputs: int
    group: int


def operator_model(operator: ExportedOperator, widths: Sequence[Width]) -> tuple[bytes, dict[str, Any]]:
    """Return an ONNX model that computes an operator in several widths side by side, and inputs for it.

    The kernel of the n-th width has :func:`marked_number` n. Weights and inputs are random; each width reads one of
    its own number of channels.
    """
    onnx, _ = require_onnx()
    make, kinds = onnx.helper, onnx.TensorProto
    draw = np.random.default_rng(0)
    nodes, constants, inputs, outputs = [], [], {}, []
    for number, width in enumerate(widths):
        shape = input_shape(operator, width)
        source = f"x{shape[1] if len(shape) > 1 else 0}"
        inputs[source] = draw.standard_normal(shape, dtype=np.float32)
        weight = (width.outputs, width.inputs, *operator.weight_shape[2:])
        weight = (weight[1], weight[0]) if operator.transposed else weight
        constants.append(
            onnx.numpy_helper.from_array(0.1 * draw.standard_normal(weight, dtype=np.float32), f"w{number}")
        )
        attributes = dict(operator.attributes) | ({"group": width.group} if "Conv" in operator.kind else {})
        name = f"op{number}mark"
        nodes.append(make.make_node(operator.kind, [source, f"w{number}"], [name], name=name, **attributes))
        if operator.activation is not None:
            bounds = ["least", "most"] if operator.activation == "Clip" else []
            nodes.append(make.make_node(operator.activation, [name, *bounds], [name + "n"], name=f"after{number}"))
            name += "n"
        outputs.append(make.make_tensor_value_info(name, kinds.FLOAT, None))
    if operator.activation == "Clip":
        for bound, value in (("least", 0.0), ("most", 6.0)):
            constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), bound))
    given = [make.make_tensor_value_info(name, kinds.FLOAT, array.shape) for name, array in inputs.items()]
    body = make.make_graph(nodes, "widths", given, outputs, constants)
    model = make.make_model(body, opset_imports=[make.make_opsetid("", 20)])
    model.ir_version = 10
    content: bytes = model.SerializeToString()
    return content, inputs


def input_shape(operator: ExportedOperator, width: Width) -> tuple[int, ...]:
    """Return the shape of what an operator is given in one width."""
    if operator.kind == "Conv":
        return (operator.input_shape[0], width.inputs * width.group, *operator.input_shape[2:])
    if operator.kind == "ConvTranspose":
        return (operator.input_shape[0], width.outputs, *operator.input_shape[2:])
    return (*operator.input_shape[:-1], width.inputs)


def _weight_of(node: Any, weights: dict[str, tuple[int, ...]]) -> str | None:
    if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in weights:
        return None
    return node.input[1] if len(weights[node.input[1]]) >= 2 else None


def _parameters(graph: ChannelGraph, held: Sequence[str], weights: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return name in the file → name in the model; weights that the exporter turned round are told by their order."""
    known = {name for spec in graph.tensors for name in (spec.name, *spec.aliases)}
    shapes = {name: spec.shape for spec in graph.tensors for name in (spec.name, *spec.aliases)}
    names = {name: name for name in held if name in known}
    computed = [f"{path}.weight" if path else "weight" for path, _ in graph.costs.compute_names]
    left = [name for name in dict.fromkeys(computed) if name in known and name not in names]
    unknown = [name for name in dict.fromkeys(held) if name not in known]
    same = len(left) == len(unknown) and all(
        sorted(weights[one]) == sorted(shapes[other]) for one, other in zip(unknown, left, strict=True)
    )
    return names | (dict(zip(unknown, left, strict=True)) if same else {})


def _shapes(proto: Any) -> dict[str, tuple[int, ...]]:
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    sizes = {value.name: [entry.dim_value for entry in value.type.tensor_type.shape.dim] for value in values}
    return {name: tuple(shape) for name, shape in sizes.items() if shape and all(size > 0 for size in shape)}


def _followed(node: Any, readers: dict[str, list[Any]]) -> Iterator[str]:
    """Yield the names of a node's output and of what only activations and norms make of it."""
    name = node.output[0]
    yield name
    while len(readers.get(name, [])) == 1 and readers[name][0].op_type in (*ACTIVATIONS, "BatchNormalization"):
        name = readers[name][0].output[0]
        yield name


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list | tuple) else value
