"""``write_int8``: the ONNX file of a simulation, run in ONNX Runtime and compared with the simulation."""

import ast
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.errors import ArtifactError, ExportError, QuantizationError
from secateur.export.header import Preprocessing
from secateur.export.int8.executed import CONVOLUTIONS, Execution, executed
from secateur.export.int8.parity import Parity, compare
from secateur.export.int8.patterns import fit_for_integers
from secateur.export.int8.processor import has_vnni
from secateur.export.int8.twin import twin_of
from secateur.export.onnx_program import clean, exported_program, quiet, translated
from secateur.export.onnx_runtime import OnnxModel, require_onnx
from secateur.files import whole_file
from secateur.graph.slots import mode_of
from secateur.quantization.simulation import Simulation
from secateur.wording import counted

OPSET = 20
"""Of the file: QuantizeLinear for 8 bits needs 13, and ONNX Runtime finds its patterns in all later ones."""

INT8_KEY = "secateur.int8"
"""In the file's metadata: what the simulation was made with, as JSON."""

MODULE_KEY = "secateur.module"
"""In an operator's metadata: path of the module of the model that it belongs to."""


MARGIN_DB = 6.0
"""A file may be this much further from the simulation than that is from the model without rounding."""

ENOUGH_DB = 30.0
"""A file that is this near to the simulation passes whatever the simulation is worth."""


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What was written and how it runs.

    Attributes:
        size_bytes: of the file.
        opset: of the file.
        parity: how far ONNX Runtime's results are from the simulation's.
        execution: which operators ran in integers, and why the others did not.
        notes: what the user should know, one line each.
        providers: what ran it, as ONNX Runtime names it.
    """

    size_bytes: int
    opset: int
    parity: Parity
    execution: Execution
    notes: tuple[str, ...]
    providers: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain data for a record."""
        return {
            "size_bytes": self.size_bytes,
            "opset": self.opset,
            "parity": asdict(self.parity),
            "execution": self.execution.to_json(),
            "notes": list(self.notes),
            "providers": list(self.providers),
        }


def write_int8(
    simulation: Simulation,
    path: Path | str,
    *,
    images: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Int8Report:
    """Write what ``simulation`` simulates as one ONNX file with a free batch size, run it, and compare the two.

    Weights are int8 and biases int32 in the file; every site that rounds is a QuantizeLinear/DequantizeLinear pair, and
    what is off stays in float.

    Args:
        simulation: calibrated, with its ranges set; it stays as it was.
        path: where to; written whole or not at all.
        images: batches that both are run on, (inputs, labels) or inputs; prepared as for evaluation. Without any,
            random values within the range of the input: enough to find a broken file, not to tell a share of
            predictions.
        preprocessing: how an image becomes an input; goes into the file's metadata.

    Returns:
        How far the results are apart, and what ran in integers.

    Raises:
        ExportError: the packages are not installed, an operator has no ONNX form, activations have not 8 bits, or the
            file does not compute what the simulation computes.
        QuantizationError: the simulation does not round.
        UsageError: the file cannot be written.
    """
    onnx, _ = require_onnx()
    if not simulation.rounds:
        raise QuantizationError("the simulation rounds nothing yet; calibrate it and call set_ranges first")
    name = type(simulation.module).__name__
    model = _model_of(simulation, preprocessing)
    with whole_file(path) as temporary:
        _save(onnx, model, temporary, name)
        try:
            runnable = OnnxModel(temporary, threads=torch.get_num_threads())
            parity = compare(simulation, runnable, images)
            execution = executed(temporary)
        except ArtifactError as error:
            reason = str(error).replace(str(temporary), "the file")
            raise ExportError(f"{name} was written as INT8, but {reason}; nothing is kept") from error
        _refuse_different(name, parity)
        size_bytes = temporary.stat().st_size
    return Int8Report(
        size_bytes=size_bytes,
        opset=OPSET,
        parity=parity,
        execution=execution,
        notes=tuple(_notes(simulation, execution)),
        providers=runnable.providers,
    )


def check_int8(simulation: Simulation) -> None:
    """See that the file of ``simulation`` can be written and that ONNX Runtime loads it, whatever the ranges will be.

    For work that ends in the file and takes long before it does; takes as long as writing it. Nothing is kept.

    Args:
        simulation: as :func:`simulate` makes it; it stays as it was.

    Raises:
        ExportError: the packages are not installed, an operator has no ONNX form, or ONNX Runtime does not load it.
    """
    onnx, _ = require_onnx()
    name, rounded = type(simulation.module).__name__, simulation.rounds
    try:
        simulation.round_()
        model = _model_of(simulation, None)
    finally:
        simulation.round_(rounded)
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        path = Path(folder, "model.onnx")
        _save(onnx, model, path, name)
        try:
            OnnxModel(path)
        except ArtifactError as error:
            reason = str(error).replace(str(path), "the file")
            raise ExportError(f"{name} can be written as INT8, but {reason}") from error


def _model_of(simulation: Simulation, preprocessing: Preprocessing | None) -> Any:
    """Return the ``ModelProto`` of what ``simulation`` computes now."""
    with mode_of(simulation.module, training=False), quiet(), torch.no_grad():
        twin = twin_of(simulation)
        call, batch = _example(twin)
        exported = exported_program(twin, call, batch)
        _tell_modules(twin, exported)
        program = translated(exported, type(simulation.module).__name__, OPSET)
    model = _named(program, preprocessing, simulation)
    fit_for_integers(model.graph)
    del model.graph.value_info[:]  # shapes that changed; every runtime infers its own
    return model


def _save(onnx: ModuleType, model: Any, path: Path, name: str) -> None:
    try:
        onnx.save(model, str(path))
    except ValueError as error:
        raise ExportError(f"the INT8 file of {name} cannot be written: one ONNX file holds up to 2 GB") from error


def _example(twin: fx.GraphModule) -> tuple[Any, int]:
    """Return a call of the twin with zeros, and its batch size, which no fixed size is equal to."""
    placeholders = [node for node in twin.graph.nodes if node.op == "placeholder"]
    shapes = [node.meta["shape"] for node in placeholders]
    fixed = {shape[0] for shape in shapes if shape and shape[0] is not None}
    batch = next(size for size in (2, 3, 5, 7, 11, 13, 17) if size not in fixed)
    tensors = [
        torch.zeros([batch if size is None else size for size in shape], dtype=node.meta["dtype"])
        for node, shape in zip(placeholders, shapes, strict=True)
    ]
    layout = getattr(twin.graph._codegen, "pytree_info", None)
    if layout is None or layout.in_spec is None:
        return (tuple(tensors), {}), batch
    arguments, keywords = pytree.tree_unflatten(tensors, layout.in_spec)
    return (tuple(arguments), keywords), batch


def _tell_modules(twin: fx.GraphModule, exported: torch.export.ExportedProgram) -> None:
    """Write on each exported operator which module of the model it is of: the exporter hands that on to ONNX.

    The exported program has the twin's operators in the twin's order; where that should not hold, nothing is told.
    """

    def operators(graph: fx.Graph) -> list[fx.Node]:
        return [node for node in graph.nodes if str(node.target).startswith("aten.") and "sym_" not in str(node.target)]

    ours, theirs = operators(twin.graph), operators(exported.graph)
    if [str(node.target) for node in ours] != [str(node.target) for node in theirs]:
        return
    for own, node in zip(ours, theirs, strict=True):
        node.meta["nn_module_stack"] = {"of": (own.meta.get("module_path", ""), "torch.nn.Module")}


def _named(program: Any, preprocessing: Preprocessing | None, simulation: Simulation) -> Any:
    """Return the program as a ``ModelProto`` whose operators and tensors have the names of the model's modules."""
    ir_model = program.model
    modules = {}
    for node in ir_model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        found = ast.literal_eval(scopes) if scopes else []
        modules[id(node)] = str(found[0]) if len(found) > 1 else ""
    clean(ir_model, preprocessing)
    settings = simulation.settings
    ir_model.metadata_props[INT8_KEY] = json.dumps(asdict(settings), sort_keys=True)
    taken: set[str] = set()
    for node in ir_model.graph:
        module = modules[id(node)] if node.op_type not in ("QuantizeLinear", "DequantizeLinear") else ""
        if module:
            node.metadata_props[MODULE_KEY] = module
        wanted = name = f"{module or node.outputs[0].name}/{node.op_type}".lstrip("/")
        number = 0
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name)
        node.name = name
    initializers = ir_model.graph.initializers
    known = set(initializers) | {value.name for node in ir_model.graph for value in node.outputs}
    for old in list(initializers):
        new = old.removeprefix("quantizers.")
        if new != old and new not in known:
            initializers[old].name = new
    return program.model_proto


def _refuse_different(name: str, parity: Parity) -> None:
    """A file that is further from the simulation than that is from the unrounded model is broken.

    Some distance is there with any file: simulation and runtime sum in other orders, a value next to a tie is rounded
    the other way, and in a deep network with random weights that grows. The simulation differs from itself as much
    when its inputs lie in memory in another order.
    """
    limit = min(parity.rounding_sqnr_db - MARGIN_DB, ENOUGH_DB)
    if parity.sqnr_db >= limit:
        return
    raise ExportError(
        f"the INT8 file of {name} is {parity.sqnr_db:.1f} dB from the simulation (limit {limit:.1f} dB), while "
        f"rounding takes that {parity.rounding_sqnr_db:.1f} dB from the model; it was removed; leave operators in "
        "float, or use another target"
    )


def _notes(simulation: Simulation, execution: Execution) -> Iterable[str]:
    settings = simulation.settings
    done, total = execution.counts(CONVOLUTIONS)
    if done < total:
        yield f"{total - done} of {counted(total, 'convolution')} run in float in {execution.runtime}"
    if settings.profile == "tensorrt":
        yield (
            "signed activations around 0 are for TensorRT; ONNX Runtime runs the file correctly, but much of it in "
            "float and slower; below −127 steps the file saturates at −128, as TensorRT does"
        )
    if settings.profile == "cpu" and has_vnni() is False:
        yield (
            "this processor has no VNNI: sums of two 8-bit products saturate, and results differ from the simulation; "
            "use the target cpu-no-vnni"
        )
    if settings.weight_bits < 8:
        yield f"weights of {settings.weight_bits} bits are stored as int8: the file is as large and fast as at 8 bits"


def settings_of(model: OnnxModel) -> Mapping[str, Any] | None:
    """Return what the simulation of an INT8 file was made with; None of any other file."""
    text = model.metadata.get(INT8_KEY)
    return None if text is None else dict(json.loads(text))
