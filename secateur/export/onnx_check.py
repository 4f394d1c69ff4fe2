"""Compare an ONNX file with the torch model that it was exported from, on random batches."""

from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import ExportError
from secateur.export.onnx_runtime import OnnxModel
from secateur.graph import inputs
from secateur.graph.slots import mode_of
from secateur.randomness import generator_for


def largest_differences(
    model: nn.Module, runnable: OnnxModel, call: Any, batch: int, sizes: tuple[int, ...]
) -> tuple[float, float]:
    """Return max|torch − ONNX Runtime| on random batches, in the outputs' unit and relative to the output.

    Args:
        model: what was exported.
        runnable: the exported file.
        call: example arguments, of ``batch`` samples.
        batch: size of the dimensions that are the batch.
        sizes: batch sizes to draw.

    Raises:
        ArtifactError: ONNX Runtime cannot run the file.
        ExportError: the outputs have other shapes.
    """
    absolute = relative = 0.0
    for number, size in enumerate(sizes):
        given = _random(call, batch, size, number)
        with mode_of(model, training=False):
            wanted = [tensor.cpu() for tensor in inputs.tensors_of(inputs.run(model, given))]
        found = runnable.run(*inputs.tensors_of(given))
        if [tuple(tensor.shape) for tensor in wanted] != [tuple(tensor.shape) for tensor in found]:
            raise ExportError(
                f"the ONNX file of {type(model).__name__} returns shapes {[tuple(t.shape) for t in found]} for a "
                f"batch of {size}, but torch {[tuple(t.shape) for t in wanted]}; it was removed"
            )
        for first, second in zip(wanted, found, strict=True):
            difference = float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
            scale = float(first.double().abs().max()) if first.numel() else 0.0
            share = 0.0 if difference == 0 else difference / scale if scale > 0 else float("inf")
            # NaN must not pass: max() would drop it.
            absolute = difference if not difference <= absolute else absolute
            relative = share if not share <= relative else relative
    return absolute, relative


def _random(call: Any, batch: int, size: int, number: int) -> Any:
    def drawn(tensor: Tensor) -> Tensor:
        samples = resized(tensor, batch, size)
        if not tensor.is_floating_point():
            return samples
        generator = generator_for(0, "onnx check", number, *samples.shape)
        return torch.randn(samples.shape, generator=generator).to(tensor)

    return inputs.map_tensors(drawn, call)


def resized(tensor: Tensor, batch: int, size: int) -> Tensor:
    """Return the samples of ``tensor`` repeated to ``size``; a tensor that has no batch as it is."""
    if tensor.dim() == 0 or tensor.shape[0] != batch:
        return tensor
    return tensor.index_select(0, torch.arange(size, device=tensor.device) % batch)
