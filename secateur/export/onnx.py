"""``export_onnx``: an ONNX file with a free batch size, checked by running it in ONNX Runtime against torch."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateur.errors import ArtifactError, ExportError
from secateur.export.header import Preprocessing
from secateur.export.onnx_check import largest_differences, resized
from secateur.export.onnx_program import clean, exported_program, quiet, translated, write_program
from secateur.export.onnx_runtime import OnnxModel, require_onnx
from secateur.files import whole_file
from secateur.graph import inputs
from secateur.graph.inputs import ExampleInputs
from secateur.graph.slots import mode_of, refuse_wrappers

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
    with mode_of(model, training=False), quiet(), torch.inference_mode(mode=False), torch.no_grad():
        exported = exported_program(model, call, batch if dynamic_batch else None)
        program = translated(exported, type(model).__name__, opset)
    clean(program.model, preprocessing)
    with whole_file(path) as temporary:
        write_program(program, temporary, type(model).__name__)
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
