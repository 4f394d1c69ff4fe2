"""``executed``: which operators of an ONNX file run in integers, which in float and why, from the optimised session."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.errors import ArtifactError
from secateur.export.int8.onnx_graph import PAIR, OnnxGraph, is_kept_in_float
from secateur.export.int8.optimised import MOVES, Executed, optimised_session
from secateur.export.int8.reasons import WEIGHTED, reason_for_float
from secateur.export.onnx_runtime import require_onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")

# What computes nothing worth a line: constants, shapes, and moves that cost next to nothing.
_SILENT = (
    (MOVES - {"Concat", "MaxPool", "Pad", "Resize"})
    | set(PAIR)
    | {"Cast", "Constant", "ConstantOfShape", "Range", "Shape", "Size"}
)
_MAY_BE_ABSORBED = frozenset(
    ["Add", "BatchNormalization", "Clip", "LeakyRelu", "Mul", "Relu", "Sigmoid", "HardSigmoid", "Tanh"]
)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the file.

    Attributes:
        kind: its ONNX type, such as ``Conv``.
        module: path of the module that it belongs to, or the nearest one known before it; empty where none is.
        precision: ``int8`` or ``float``: how ONNX Runtime runs it.
        runs_as: the runtime's own operator; empty where another one does its work.
        reason: why it runs in float; None where it does not.
    """

    kind: str
    module: str
    precision: Literal["int8", "float"]
    runs_as: str
    reason: str | None = None

    def __str__(self) -> str:
        """Return one line."""
        where = f"{self.kind} {self.module}".rstrip()
        return where if self.reason is None else f"{where} runs in float: {self.reason}"


@dataclass(frozen=True)
class Execution:
    """How ONNX Runtime runs a file on the CPU.

    Attributes:
        operators: of the file, in its order, less those that only move entries.
        runtime: name and version.
        copies: QuantizeLinear and DequantizeLinear that are left to run, beside one for each input and output.
    """

    operators: tuple[Operator, ...]
    runtime: str
    copies: int

    @property
    def in_float(self) -> tuple[Operator, ...]:
        """The operators that run in float."""
        return tuple(operator for operator in self.operators if operator.precision == "float")

    def counts(self, kinds: Sequence[str] = ()) -> tuple[int, int]:
        """Return how many operators, of these kinds or of all, run in integers, and how many there are."""
        chosen = [operator for operator in self.operators if not kinds or operator.kind in kinds]
        return sum(operator.precision == "int8" for operator in chosen), len(chosen)

    def lines(self) -> list[str]:
        """Return a summary by kind, then a line for each operator in float."""
        total, whole = Counter[str](), Counter[str]()
        for operator in self.operators:
            total[operator.kind] += 1
            whole[operator.kind] += operator.precision == "int8"
        summary = ", ".join(f"{whole[kind]} of {count} {kind}" for kind, count in total.items())
        return [f"in integers: {summary}", *map(str, self.in_float)]

    def to_json(self) -> dict[str, object]:
        """Return plain data for a record."""
        return {"runtime": self.runtime, "copies": self.copies, "operators": [dict(vars(o)) for o in self.operators]}


def executed(path: Path | str) -> Execution:
    """Load an ONNX file, ours or any other with QuantizeLinear/DequantizeLinear, and tell how it runs on this CPU.

    Raises:
        ArtifactError: the file is missing or corrupt, or ONNX Runtime cannot run it.
        ExportError: the packages are not installed.
    """
    onnx, onnxruntime = require_onnx()
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"the ONNX file {path} does not exist; give the path of a .onnx file")
    try:
        model = onnx.load(str(path))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise ArtifactError(f"{path} is truncated or not an ONNX file; export it again") from error
    try:
        session = optimised_session(model)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return _execution(OnnxGraph(model.graph), session, f"ONNX Runtime {onnxruntime.__version__}", model.graph)


def _execution(graph: OnnxGraph, session: list[Executed], runtime: str, proto: Any) -> Execution:
    runs: dict[int, Executed] = {}
    for operator in session:
        for place in operator.sources:
            # An operator may have left a copy or a piece behind; what computes is what it runs as.
            if place not in runs or runs[place].kind in (*PAIR, *_SILENT):
                runs[place] = operator
    live = _reached(graph, {value.name for value in proto.input})
    found, module = [], ""
    for place, node in enumerate(graph.nodes):
        module = module_of(graph, node) or module
        if node.op_type in _SILENT or place not in live or is_kept_in_float(node):
            continue
        own = _own(graph, place, runs)
        if node.op_type in ("Relu", "Clip") and own is not None and own.kind != node.op_type:
            continue  # part of the operator before it
        if own is None:
            own_precision: Literal["int8", "float"] | None = _of_absorbed(graph, place, runs)
            if own_precision is None:
                continue
            reason = reason_for_float(graph, node) if own_precision == "float" else None
            found.append(Operator(kind=node.op_type, module=module, precision=own_precision, runs_as="", reason=reason))
            continue
        reason = None if own.integer else reason_for_float(graph, node)
        precision: Literal["int8", "float"] = "int8" if own.integer else "float"
        found.append(Operator(kind=node.op_type, module=module, precision=precision, runs_as=own.kind, reason=reason))
    pairs = sum(operator.kind in PAIR for operator in session)
    return Execution(tuple(found), runtime, max(0, pairs - len(proto.input) - len(proto.output)))


def _own(graph: OnnxGraph, place: int, runs: dict[int, Executed]) -> Executed | None:
    """Return what computes an operator: what has its name, or, for a fusion named after its end, that."""
    node = graph.nodes[place]
    own = runs.get(place)
    if own is not None and own.kind not in PAIR:
        return own
    if node.op_type not in WEIGHTED:
        return None
    name = node.output[0]
    for _ in range(4):  # as far as fusions reach: Add, activation
        readers = graph.readers.get(name, [])
        if len(readers) != 1 or graph.nodes[readers[0]].op_type not in _MAY_BE_ABSORBED:
            return None
        later = runs.get(readers[0])
        if later is not None and any(kind in later.kind for kind in ("Conv", "Gemm", "MatMul")):
            return later
        name = graph.nodes[readers[0]].output[0]
    return None


def _of_absorbed(graph: OnnxGraph, place: int, runs: dict[int, Executed]) -> Literal["int8", "float"] | None:
    """Return how an operator runs that has gone into another one; None for clipping, which needs no line."""
    node = graph.nodes[place]
    if node.op_type in ("Relu", "Clip"):
        return None
    for name in node.input:
        while (before := graph.node_before(name)) is not None and before.op_type in (*PAIR, "Relu", "Clip"):
            name = before.input[0]
        if name in graph.producers:
            own = _own(graph, graph.producers[name], runs)
            if own is not None:
                return "int8" if own.integer else "float"
    return "float"


def _reached(graph: OnnxGraph, inputs: set[str]) -> set[int]:
    """Return the operators whose result depends on the inputs; the others are computed once, when loading."""
    known, found = set(inputs), set()
    for place, node in enumerate(graph.nodes):
        if known.intersection(node.input) or any(attribute.HasField("g") for attribute in node.attribute):
            known.update(node.output)
            found.add(place)
    return found


_ENDINGS = re.compile(r"(_quantized|_QuantizeLinear\w*|_DequantizeLinear\w*)$")
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def module_of(graph: OnnxGraph, node: Any) -> str:
    """Return the path of the module that an operator comes from, as its name or that of its weight tells; or ""."""
    for entry in node.metadata_props:
        if entry.key == "secateur.module":
            return str(entry.value)
    if node.op_type in WEIGHTED and len(node.input) > 1:
        name = node.input[1]
        while (before := graph.node_before(name)) is not None and before.op_type in (*PAIR, "Transpose"):
            name = before.input[0]
        name = _ENDINGS.sub("", name)
        if name.endswith(".weight"):
            return name.removesuffix(".weight")
    if node.name.startswith("/"):  # torch's older exporter: /layer1/layer1.0/conv1/Conv
        path = ""
        for part in node.name.split("/")[1:-1]:
            path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
        return path if _PATH.fullmatch(path) else ""
    return ""
