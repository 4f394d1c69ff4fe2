"""What an INT8 file holds: the integers of its weights."""

from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.export.onnx_runtime import require_onnx

_ENDING = ".integers"


def stored_weights(path: Path | str) -> dict[str, Tensor]:
    """Return the integers of every weight in a file of :func:`write_int8`, by its site: ``layer1.0.conv1.weight``.

    Biases, which are int32, are left out.

    Raises:
        ArtifactError: the file cannot be read.
        ExportError: the packages are not installed.
    """
    onnx, _ = require_onnx()
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:
        raise ArtifactError(f"{path} is missing, truncated or not an ONNX file; write it again") from error
    return {
        tensor.name.removesuffix(_ENDING): torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
        if tensor.name.endswith(_ENDING) and tensor.data_type == onnx.TensorProto.INT8
    }
