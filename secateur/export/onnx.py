"""``export_onnx``: an ONNX file with a free batch size, checked by running it in ONNX Runtime against torch."""

import contextlib
import io
import logging
import site
import sysconfig
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import ArtifactError, ExportError
from secateur.export.header import Preprocessing, preprocessing_to_json
from secateur.export.onnx_check import largest_differences, resized
from secateur.export.onnx_runtime import ONNX_FORMAT, ONNX_VERSION, PREPROCESSING_KEY, OnnxModel, require_onnx
from secateur.files import whole_file
from secateur.graph import inputs
from secateur.graph.inputs import ExampleInputs
from secateur.graph.slots import mode_of, refuse_wrappers
from secateur.record import environment
from secateur.tensor_file import shown

OPSET = 20
"""What torch 2.13 writes by default. Measured: opsets 18 to 24 run equally fast in ONNX Runtime 1.32."""

TOLERANCE = 1e-4
"""Largest max|torch − ONNX Runtime| / max|torch| of an output that passes."""

BATCHES = (1, 2, 5)
"""Batch sizes that a file with a free batch size is checked on."""


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What the check of an exported file found.

    Attributes:
        max_difference: max|torch − ONNX Runtime| over all outputs and batches, in the outputs' own unit (logits).
        relative_difference: the largest of these divided by max|torch| of the same output.
        opset: of the file.
        size_bytes: of the file.
        batch_sizes: that it was run on.
        providers: what ran it, as ONNX Runtime names it.
    """

    max_difference: float
    relative_difference: float
    opset: int
    size_bytes: int
    batch_sizes: tuple[int, ...]
    providers: tuple[str, ...]


def export_onnx(
    model: nn.Module,
    path: Path | str,
    example_inputs: ExampleInputs,
    *,
    preprocessing: Preprocessing | None = None,
    dynamic_batch: bool = True,
    opset: int = OPSET,
) -> OnnxReport:
    """Write ``model`` in evaluation mode to one ONNX file and run the file; a file that differs is not kept.

    Args:
        model: what to export, on any device; it stays as it was.
        path: where to; written whole or not at all.
        example_inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments; the first
            dimension of every tensor is the batch.
        preprocessing: how an image becomes an input; goes into the file's metadata.
        dynamic_batch: whether the file takes batches of any size, otherwise only of the example's.
        opset: version of ONNX's operators.

    Returns:
        The largest difference from torch on random batches, and what the file is.

    Raises:
        ExportError: the packages are not installed, the model cannot be exported (with operator or source line where
            they are known), or the file does not compute what the model computes.
        TraceError: ``model`` is a wrapper, or ``example_inputs`` hold no tensor.
        UsageError: the file cannot be written.
    """
    require_onnx()
    refuse_wrappers(model)
    call = inputs.map_tensors(lambda tensor: tensor.detach(), inputs.as_call(example_inputs))
    batch = inputs.batch_size_of(call)
    if dynamic_batch:
        # torch.export takes a size of 1 for a constant.
        call, batch = inputs.map_tensors(lambda tensor: resized(tensor, batch, max(batch, 2)), call), max(batch, 2)
    with mode_of(model, training=False), _quiet(), torch.inference_mode(mode=False), torch.no_grad():
        exported = _exported(model, call, batch if dynamic_batch else None)
        program = _translated(model, exported, opset)
    _clean(program.model, preprocessing)
    with whole_file(path) as temporary:
        _write(program, temporary, model)
        sizes = BATCHES if dynamic_batch else (batch,) * len(BATCHES)
        try:
            runnable = OnnxModel(temporary, threads=torch.get_num_threads())
            absolute, relative = largest_differences(model, runnable, call, batch, sizes)
        except ArtifactError as error:
            reason = str(error).replace(str(temporary), "the file")
            raise ExportError(f"{type(model).__name__} was exported to ONNX, but {reason}; nothing is kept") from error
        if not relative <= TOLERANCE:
            raise ExportError(
                f"the ONNX file of {type(model).__name__} differs from torch by up to {absolute:.3e}, which is "
                f"{relative:.1e} of the output (limit {TOLERANCE:g}); it was removed; draw no random numbers in "
                f"the model, or try another opset than {opset}"
            )
        size_bytes = temporary.stat().st_size
    return OnnxReport(
        max_difference=absolute,
        relative_difference=relative,
        opset=int(program.model.opset_imports[""]),
        size_bytes=size_bytes,
        batch_sizes=sizes,
        providers=runnable.providers,
    )


def _exported(model: nn.Module, call: Any, free_batch: int | None) -> torch.export.ExportedProgram:
    """Return the model as torch.export's program; dimension 0 of size ``free_batch`` is free."""

    def free_dims(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor):
            return None
        return {0: torch.export.Dim.DYNAMIC} if leaf.dim() and leaf.shape[0] == free_batch else {}

    positional, keywords = pytree.tree_map(free_dims, call)
    names = signature(model.forward).parameters
    shapes = {**dict(zip(names, positional, strict=False)), **keywords} if keywords else positional
    try:
        return torch.export.export(model, call[0], call[1], dynamic_shapes=shapes, strict=False)
    except Exception as error:
        place = _source_line(error)
        if "marked" in str(error) and "specialized" in str(error):
            raise ExportError(
                f"{type(model).__name__} cannot be exported with a free batch size, because its code fixes it{place}; "
                "use dynamic_batch=False, or compute sizes from x.shape[0] in the model"
            ) from error
        raise ExportError(
            f"{type(model).__name__} cannot be exported by torch.export{place}: {_first_line(error)}; "
            "rewrite that line without values that are only known at run time"
        ) from error


def _translated(model: nn.Module, exported: torch.export.ExportedProgram, opset: int) -> Any:
    try:
        program: Any = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=opset,
            output_names=_output_names(exported),
            external_data=False,
            verbose=False,
            optimize=True,
        )
    except Exception as error:
        causes = "; ".join(str(cause) for cause in _chain(error))
        missing = [part.split("'")[1] for part in causes.split("No ONNX function found for ")[1:] if "'" in part]
        reason = f"ONNX has no operator for {missing[0]}" if missing else _first_line(list(_chain(error))[-1])
        raise ExportError(
            f"{type(model).__name__} cannot be translated to ONNX: {shown(reason, 160)}; "
            "replace that operator in the model"
        ) from error
    found = int(program.model.opset_imports[""])
    if found != opset:
        raise ExportError(
            f"{type(model).__name__} was exported with opset {found}, because {opset} was not possible; "
            f"ask for opset={found}"
        )
    return program


def _output_names(exported: torch.export.ExportedProgram) -> list[str] | None:
    """Return the keys of a model that returns a dict of tensors, such as ``out`` and ``aux``; otherwise None."""
    spec = exported.call_spec.out_spec
    if spec is None or spec.type not in (dict, OrderedDict):
        return None
    keys, sides = list(spec.context), exported.graph_signature
    if len(sides.user_outputs) != len(keys) or not all(isinstance(name, str) for name in sides.user_outputs):
        return None  # something nested, or no tensor
    free = all(isinstance(key, str) and key.isidentifier() and key not in sides.user_inputs for key in keys)
    return keys if free else None


def _clean(ir_model: Any, preprocessing: Preprocessing | None) -> None:
    """Leave nothing of the exporting machine in the model, and put our metadata in."""
    for holder in (ir_model, ir_model.graph, *ir_model.functions.values()):
        holder.metadata_props.clear()
        holder.doc_string = None
    graphs = (ir_model.graph, *ir_model.functions.values())
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    values = [value for node in nodes for value in node.outputs]
    for entry in (*nodes, *values, *ir_model.graph.inputs, *ir_model.graph.initializers.values()):
        entry.metadata_props.clear()
        entry.doc_string = None
    ir_model.producer_name, ir_model.producer_version = "secateur", environment().secateur
    ir_model.metadata_props["secateur.format"] = ONNX_FORMAT
    ir_model.metadata_props["secateur.version"] = ONNX_VERSION
    if preprocessing is not None:
        ir_model.metadata_props[PREPROCESSING_KEY] = preprocessing_to_json(preprocessing)


def _write(program: Any, path: Path, model: nn.Module) -> None:
    try:
        with _quiet():
            program.save(str(path), external_data=False)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"the ONNX file of {type(model).__name__} cannot be written: {_first_line(error)}; "
            "one ONNX file holds up to 2 GB"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, logs and deprecation warnings of its own code off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logging.disable(before)


def _source_line(error: BaseException) -> str:
    """Return " (file.py, line n)" of the innermost frame of the user's own code, or nothing."""
    libraries = {Path(folder) for folder in (*site.getsitepackages(), *sysconfig.get_paths().values())}
    libraries |= {Path(torch.__file__).parent, Path(__file__).parents[1] / "export"}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not libraries & set(file.parents):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0].rstrip(".;:"), 160) if lines else type(error).__name__
