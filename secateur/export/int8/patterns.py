"""Changes of an exported graph that compute the same, so that ONNX Runtime finds what it runs in integers."""

from collections.abc import Iterator
from typing import Any

from secateur.export.int8.onnx_graph import KEPT_IN_FLOAT, OnnxGraph, attribute_of

# ONNX Runtime moves a pair through these by itself; behind the others it must stand again.
_PASSED = frozenset(("MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Slice"))
_STOPPING = frozenset(("DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Resize", "SpaceToDepth", "Split", "Tile"))


def fit_for_integers(graph: Any) -> None:
    """Change a ``GraphProto`` in place; the numbers that it computes stay the same, but for the order of a sum."""
    drop_windows_of_one(graph)
    repeat_pairs(graph)
    pool_instead_of_mean(graph)
    keep_in_float(graph)


def drop_windows_of_one(graph: Any) -> None:
    """Take out average pools of single places, which adaptive ones become where there is nothing to pool."""
    for node in list(graph.node):
        if node.op_type == "AveragePool" and _all_ones(node) and node.output[0] not in _outputs(graph):
            _read_instead(graph, node.output[0], node.input[0])
            graph.node.remove(node)


def pool_instead_of_mean(graph: Any) -> None:
    """Write means over all places of a map as GlobalAveragePool, which has an integer form; means have none."""
    import onnx

    index = OnnxGraph(graph)
    for node in [entry for entry in graph.node if entry.op_type == "ReduceMean"]:
        axes = index.values(node.input[1]) if len(node.input) > 1 else None
        if axes is None or sorted(axes.tolist()) not in ([2, 3], [-2, -1]) or index.quantized(node.input[0]) is None:
            continue
        # A mean over the last two of three dimensions would be [-2, -1] as well; this one is of maps (N, C, H, W).
        rank = _rank(graph, node.input[0])
        if rank != 4:
            continue
        keeps = attribute_of(node, "keepdims", 1)
        result = node.output[0]
        pooled = result if keeps else f"{result}_pooled"
        replacement = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not keeps:
            replacement.append(
                onnx.helper.make_node("Squeeze", [pooled, node.input[1]], [result], name=f"{node.name}/squeezed")
            )
        for entry in replacement:
            entry.metadata_props.extend(node.metadata_props)
        place = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, entry in enumerate(replacement):
            graph.node.insert(place + offset, entry)


def keep_in_float(graph: Any) -> None:
    """Put LeakyRelu of slope 1, which changes nothing, behind layers whose weights are in float.

    Between two pairs ONNX Runtime would round such weights by itself and compute in integers, whatever was asked for.
    An activation that is no part of rounding keeps it from that, and becomes part of the layer's own float operator.
    """
    import onnx

    index = OnnxGraph(graph)
    for node in [entry for entry in graph.node if entry.op_type in ("Conv", "ConvTranspose", "Gemm")]:
        if node.input[1] not in index.constants or node.output[0] in _outputs(graph):
            continue
        result = node.output[0]
        node.output[0] = f"{result}_in_float"
        kept = onnx.helper.make_node(
            "LeakyRelu", [node.output[0]], [result], name=f"{node.name}/in_float", alpha=KEPT_IN_FLOAT
        )
        kept.metadata_props.extend(node.metadata_props)
        graph.node.insert(list(graph.node).index(node) + 1, kept)


def repeat_pairs(graph: Any) -> None:
    """Quantize again, by the same step, behind what only moves entries: no number changes, they are rounded already."""
    import onnx

    index = OnnxGraph(graph)
    on_grid: dict[str, Any] = {}  # tensor → the DequantizeLinear whose step it lies on
    nodes: list[Any] = []
    outputs = _outputs(graph)
    for node in list(graph.node):
        nodes.append(node)
        if node.op_type == "DequantizeLinear":
            on_grid[node.output[0]] = node
            continue
        pair = on_grid.get(node.input[0]) if node.input else None
        if pair is None or not _only_moves(index, node, on_grid):
            continue
        for place, name in enumerate(node.output):
            readers = index.nodes_after(name)
            if name in outputs or not readers or not _needs_one(index, node, readers, pair):
                on_grid[name] = pair
                continue
            moved, integers = f"{name}_moved", f"{name}_integers"
            node.output[place] = moved
            first = onnx.helper.make_node(
                "QuantizeLinear", [moved, *pair.input[1:]], [integers], name=f"{node.name}/{place}/quantized"
            )
            second = onnx.helper.make_node(
                "DequantizeLinear", [integers, *pair.input[1:]], [name], name=f"{node.name}/{place}/dequantized"
            )
            nodes += [first, second]
            on_grid[name] = second
    del graph.node[:]
    graph.node.extend(nodes)


def _only_moves(index: OnnxGraph, node: Any, on_grid: dict[str, Any]) -> bool:
    """Tell whether what a node gives lies on the integers that its first input lies on."""
    if node.op_type == "Concat":
        pairs = [on_grid.get(name) for name in node.input]
        return all(pair is not None and _same_step(index, pair, pairs[0]) for pair in pairs)
    return node.op_type in _PASSED | _STOPPING


def _needs_one(index: OnnxGraph, node: Any, readers: list[Any], pair: Any) -> bool:
    """Tell whether ONNX Runtime must be told again that a moved tensor is quantized."""
    quantizers = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
    if len(quantizers) == len(readers) and all(_same_step(index, pair, reader) for reader in quantizers):
        return False
    if node.op_type in _PASSED:
        return bool(quantizers)  # to another step: that is not what it can move through
    if node.op_type == "Pad" and attribute_of(node, "mode", "constant") == "constant":
        # Zeros around a map become the padding of the convolution that reads it, unless something stands between.
        return any(reader.op_type != "Conv" for reader in readers)
    return True


def _same_step(index: OnnxGraph, first: Any, second: Any) -> bool:
    return index.how(first).equals(index.how(second))


def _all_ones(node: Any) -> bool:
    sizes = [*attribute_of(node, "kernel_shape", []), *attribute_of(node, "strides", [1])]
    return all(size == 1 for size in sizes) and not any(attribute_of(node, "pads", []))


def _outputs(graph: Any) -> set[str]:
    return {value.name for value in graph.output}


def _rank(graph: Any, name: str) -> int | None:
    for value in _values(graph):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.value_info
    yield from graph.input


def _read_instead(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
