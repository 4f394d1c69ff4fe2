"""Why ONNX Runtime leaves an operator in float, told from the pairs around it in the file.

The rules were found by running small graphs, one per case, in ONNX Runtime 1.32 on x86-64; each is one of the tests.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from secateur.export.int8.onnx_graph import OnnxGraph, Quantized, attribute_of, is_kept_in_float

WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
INTEGER_KINDS = frozenset(
    [
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Concat",
        "Sigmoid",
        "LeakyRelu",
        "Softmax",
        "Resize",
        "Split",
    ]
)
"""What ONNX Runtime computes in integers on CPUs."""

_NEED_NO_PAIR_AFTER = frozenset(("Gemm", "MatMul", "MaxPool", "Split"))
_FOLLOWED = frozenset(("MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Slice"))  # pairs move through them
_STOPS = frozenset(
    ["DepthToSpace", "Flatten", "Gather", "Pad", "Resize", "SpaceToDepth", "Split"]
)  # and not through these


def reason_for_float(graph: OnnxGraph, node: Any) -> str:
    """Return why an operator that runs in float does, in a few words."""
    if node.op_type in ("Relu", "Clip"):
        return _of_clipping(graph, node)
    if node.op_type not in INTEGER_KINDS:
        return f"ONNX Runtime has no integer form of {node.op_type} on CPUs"
    if node.op_type == "Resize" and attribute_of(node, "mode", "nearest") != "nearest":
        return f"ONNX Runtime resizes integers only by the nearest neighbour, not {attribute_of(node, 'mode')}"
    for rule in (_on_purpose, _before, _weight, _bias, _twice, _after, _steps_differ):
        reason = rule(graph, node)
        if reason:
            return reason
    return "ONNX Runtime chose to; none of the known reasons applies"


def _data_inputs(graph: OnnxGraph, node: Any) -> Iterator[str]:
    """Yield what an operator computes with, less weights, biases, shapes and limits."""
    count = 1
    if node.op_type in ("Add", "Mul", "MatMul"):
        count = 2
    elif node.op_type == "Concat":
        count = len(node.input)
    for name in node.input[:count]:
        if not (node.op_type == "MatMul" and graph.is_constant(name)):
            yield name


def _before(graph: OnnxGraph, node: Any) -> str | None:
    for name in _data_inputs(graph, node):
        behind, passed = name, ""
        while graph.quantized(behind) is None:
            before = graph.node_before(behind)
            if before is None:
                what = "a constant that it reads" if behind in graph.constants else "the network's input"
                return f"{what} is not quantized"
            passed = passed or (before.op_type if before.op_type in _STOPS else "")
            if before.op_type not in _FOLLOWED | _STOPS:
                return f"what {before.op_type} gives it is not quantized"
            behind = before.input[0]
        if passed:
            return (
                f"{passed} stands between it and a quantized tensor; quantize again behind {passed}, by the same step"
            )
    return None


def _on_purpose(graph: OnnxGraph, node: Any) -> str | None:
    if node.op_type in WEIGHTED and any(is_kept_in_float(reader) for reader in graph.nodes_after(node.output[0])):
        return "its weight is not quantized, which keeps it there"
    return None


def _weight(graph: OnnxGraph, node: Any) -> str | None:
    if node.op_type not in ("Gemm", "MatMul") or not graph.is_constant(node.input[1]):
        return None
    before = graph.node_before(node.input[1])
    if before is None or before.op_type != "DequantizeLinear":
        return "its weight is not quantized"
    if len(before.input) < 3:
        return "the pair of its weight has no zero point, which ONNX Runtime wants of matrix products"
    return None


def _bias(graph: OnnxGraph, node: Any) -> str | None:
    if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or not node.input[2]:
        return None
    bias, given, weight = (graph.quantized(node.input[slot]) for slot in (2, 0, 1))
    if bias is None and not graph.is_constant(node.input[2]):
        return "its bias is computed"
    if bias is None:
        # Behind the layer a pair lets ONNX Runtime round the bias by itself.
        open_end = node.op_type == "Gemm" and not list(_quantizers_after(graph, node))
        return "its bias is in float, and its result is not quantized" if open_end else None
    if given is None or weight is None or any(part.step is None for part in (bias, given, weight)):
        return None
    wanted = np.asarray(given.step, np.float64) * np.asarray(weight.step, np.float64)
    if not np.allclose(np.asarray(bias.step), wanted, rtol=1e-2, atol=0):
        return "the step of its bias is not the step of its input times that of its weights"
    return None


def _twice(graph: OnnxGraph, node: Any) -> str | None:
    """Signed activations are made unsigned only where one operator reads them."""
    near = [graph.quantized(name) for name in _data_inputs(graph, node)]
    near += [graph.how(after) for after in _quantizers_after(graph, node)]
    for tensor in near:
        if tensor is None or not tensor.signed:
            continue
        users = graph.users(tensor.integers)
        while len(users) == 1 and users[0].op_type in _FOLLOWED:
            users = graph.nodes_after(users[0].output[0])
        if len(users) > 1:
            kinds = _listed(sorted(user.op_type for user in users))
            return f"signed activations are read more than once, by {kinds}; unsigned ones may be"
    return None


def _quantizers_after(graph: OnnxGraph, node: Any) -> Iterator[Any]:
    name = node.output[0]
    while True:
        readers = graph.nodes_after(name)
        if len(readers) == 1 and readers[0].op_type in _FOLLOWED | {"Relu", "Clip"}:
            name = readers[0].output[0]
            continue
        yield from (reader for reader in readers if reader.op_type == "QuantizeLinear")
        return


def _after(graph: OnnxGraph, node: Any) -> str | None:
    if node.op_type in _NEED_NO_PAIR_AFTER:
        return None
    name, clipping = node.output[0], None
    while True:
        if name in graph.outputs:
            return "its result leaves the network and is not quantized"
        readers = graph.nodes_after(name)
        if len(readers) != 1:
            return _read_by_several(readers)
        reader = readers[0]
        if reader.op_type == "QuantizeLinear":
            return None if clipping is None else _not_absorbed(graph, clipping, graph.how(reader))
        if reader.op_type in ("Relu", "Clip") and clipping is None:
            clipping = reader
        elif reader.op_type not in _FOLLOWED:
            return f"{reader.op_type} reads its result before it is quantized; quantize between the two"
        name = reader.output[0]


def _read_by_several(readers: list[Any]) -> str:
    kinds = sorted(reader.op_type for reader in readers)
    if kinds == ["Mul", "Sigmoid"]:
        return "SiLU (Sigmoid, then Mul) reads its result before it is quantized; quantize it, and what Sigmoid gives"
    if set(kinds) == {"QuantizeLinear"}:
        return f"its result is quantized {len(kinds)} times; quantize it once and let all read that"
    return f"{_listed(kinds)} read its result before it is quantized; quantize it once and let all read that"


def _not_absorbed(graph: OnnxGraph, clipping: Any, how: Quantized) -> str | None:
    """ReLU and Clip go where rounding to integers clips as much as they do."""
    if how.step is None or how.zero_point is None:
        return None
    step, zero = float(how.step.reshape(-1)[0]), int(how.zero_point.reshape(-1)[0])
    low, high = 0.0, float("inf")
    if clipping.op_type == "Relu":
        if zero == how.lowest:
            return None
        return (
            f"the zero point behind ReLU is {zero}, not {how.lowest}; a range that starts at 0 lets ReLU be part of "
            "the rounding"
        )
    ends = [graph.values(name) if name else None for name in clipping.input[1:3]]
    low = float(ends[0]) if len(ends) > 0 and ends[0] is not None else float("-inf")
    high = float(ends[1]) if len(ends) > 1 and ends[1] is not None else float("inf")
    bottom, top = (how.lowest - zero) * step, (how.highest - zero) * step
    if bottom >= low - 1e-6 * step and top <= high * (1 + 1e-6):
        return None
    return (
        f"the integers behind Clip reach from {bottom:.4g} to {top:.4g}, beyond its {low:.4g} to {high:.4g}; a range "
        "within these lets Clip be part of the rounding"
    )


def _of_clipping(graph: OnnxGraph, node: Any) -> str:
    readers = graph.nodes_after(node.output[0])
    if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
        reason = _not_absorbed(graph, node, graph.how(readers[0]))
        return reason or "the operator before it runs in float"
    return "its result is read before it is quantized, so that it cannot be part of the rounding"


def _steps_differ(graph: OnnxGraph, node: Any) -> str | None:
    if node.op_type not in ("MaxPool", "Resize", "Split"):
        return None
    given = graph.quantized(node.input[0])
    for name in node.output:
        for reader in graph.nodes_after(name):
            if given is None or reader.op_type != "QuantizeLinear":
                continue
            after = graph.how(reader)
            if not given.equals(after):
                return "steps or zero points before and behind it differ; it only moves integers"
    return None


def _listed(kinds: list[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
