"""torch's exporter: a model as an ONNX program, cleaned of the exporting machine; its failures in one sentence."""

import contextlib
import io
import logging
import site
import sysconfig
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import ExportError
from secateur.export.header import Preprocessing, preprocessing_to_json
from secateur.export.onnx_runtime import ONNX_FORMAT, ONNX_VERSION, PREPROCESSING_KEY
from secateur.record import environment
from secateur.tensor_file import shown


def exported_program(model: nn.Module, call: Any, free_batch: int | None) -> torch.export.ExportedProgram:
    """Return the model as torch.export's program; dimension 0 of size ``free_batch`` is free.

    Raises:
        ExportError: the model cannot be exported, with the line of its own code where that is known.
    """
    name = type(model).__name__

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
                f"{name} cannot be exported with a free batch size, because its code fixes it{place}; "
                "use dynamic_batch=False, or compute sizes from x.shape[0] in the model"
            ) from error
        raise ExportError(
            f"{name} cannot be exported by torch.export{place}: {_first_line(error)}; "
            "rewrite that line without values that are only known at run time"
        ) from error


def translated(exported: torch.export.ExportedProgram, name: str, opset: int) -> Any:
    """Return an exported program as torch's ``ONNXProgram``; ``name`` is what errors call the model.

    Raises:
        ExportError: ONNX lacks an operator, or the opset was not possible.
    """
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
            f"{name} cannot be translated to ONNX: {shown(reason, 160)}; replace that operator in the model"
        ) from error
    found = int(program.model.opset_imports[""])
    if found != opset:
        raise ExportError(
            f"{name} was exported with opset {found}, because {opset} was not possible; ask for opset={found}"
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


def clean(ir_model: Any, preprocessing: Preprocessing | None) -> None:
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


def write_program(program: Any, path: Path, name: str) -> None:
    """Write the program with its weights inside.

    Raises:
        ExportError: it is beyond what one file can hold.
    """
    try:
        with quiet():
            program.save(str(path), external_data=False)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"the ONNX file of {name} cannot be written: {_first_line(error)}; one ONNX file holds up to 2 GB"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
