"""What ONNX Runtime makes of a file: the operators of its optimised session, and which of the file's they compute."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError
from secateur.export.onnx_runtime import require_onnx
from secateur.tensor_file import shown

# Operators that only move entries: what they give is of the type of what they read.
MOVES = frozenset(
    [
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "NhwcMaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Upsample",
    ]
)
_PAIR = frozenset(("QuantizeLinear", "DequantizeLinear"))
_INTEGER_KINDS = frozenset(("QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"))
_FLOAT_RESULTS = frozenset(("DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"))
_NUMBER = re.compile(r"(?:op|val)(\d+)x")


@dataclass(frozen=True)
class Executed:
    """One operator of the optimised session.

    Attributes:
        kind: as ONNX Runtime names it, such as ``QLinearConv`` or ``FusedConv``.
        integer: whether it computes on 8-bit integers.
        sources: positions in the file of operators that its name or outputs come from.
    """

    kind: str
    integer: bool
    sources: frozenset[int]


def optimised_session(model: Any, threads: int = 1) -> list[Executed]:
    """Return what ONNX Runtime runs for a model that is read, on the CPU, in the order of the session.

    Names of fused operators are made of those of their parts, differently by fusion; so the session is that of a copy
    whose operators and tensors are numbered.

    Raises:
        ArtifactError: ONNX Runtime cannot run it.
        ExportError: the packages are not installed.
    """
    onnx, onnxruntime = require_onnx()
    numbered = type(model)()
    numbered.CopyFrom(model)
    _number(numbered.graph)
    with tempfile.TemporaryDirectory() as folder:
        given, optimised = Path(folder, "given.onnx"), Path(folder, "optimised.onnx")
        onnx.save(numbered, str(given))
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
            graph = onnx.load(str(optimised)).graph
        except Exception as error:
            reason = str(error).replace(str(given), "the file")
            raise ArtifactError(
                f"ONNX Runtime {onnxruntime.__version__} cannot run it: {shown(reason, 200)}"
            ) from error
    return list(_read(graph, onnx.TensorProto))


def _number(graph: Any) -> None:
    """Give every operator and every tensor that an operator gives its number for a name."""
    names: dict[str, str] = {}
    for place, node in enumerate(graph.node):
        node.name = f"op{place}x"
        for slot, name in enumerate(node.output):
            if name:
                names[name] = f"val{place}x{slot}"
    for node in graph.node:
        for values in (node.input, node.output):
            for slot, name in enumerate(values):
                values[slot] = names.get(name, name)
        for inner in _inner_graphs(node):  # control flow reads tensors around it
            _rename(inner, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    del graph.value_info[:]


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _rename(graph: Any, names: dict[str, str]) -> None:
    own = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    outer = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = outer.get(name, name)
        for inner in _inner_graphs(node):
            _rename(inner, outer)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)
    del graph.value_info[:]


def _read(graph: Any, types: Any) -> list[Executed]:
    small = (types.INT8, types.UINT8)
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type in small}
    integers |= {value.name for value in graph.input if value.type.tensor_type.elem_type in small}
    found = []
    for node in graph.node:
        kind = node.op_type
        quantized_kind = kind.startswith("QLinear") or kind in _INTEGER_KINDS
        reads = bool(node.input) and node.input[0] in integers
        if kind == "QuantizeLinear" or (quantized_kind and _gives_integers(node)) or (kind in MOVES and reads):
            integers.update(name for name in node.output if name)
        sources = {int(number) for text in (node.name, *node.output) for number in _NUMBER.findall(text)}
        integer = quantized_kind or (reads and kind not in _PAIR)
        found.append(Executed(kind, integer, frozenset(sources)))
    return found


def _gives_integers(node: Any) -> bool:
    if node.op_type == "QGemm":
        return len(node.input) > 7 and bool(node.input[7])  # the step of the result; without it that is float
    return node.op_type not in _FLOAT_RESULTS and node.op_type not in ("ConvInteger", "MatMulInteger")
