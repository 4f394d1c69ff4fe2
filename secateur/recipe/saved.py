"""What can be done with a saved file: evaluate it, export it, look into it."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from secateur.errors import UsageError
from secateur.export import ArtifactInfo, OnnxModel, OnnxReport, Preprocessing, export_onnx, load_built
from secateur.export import inspect as inspect_file
from secateur.measure import evaluate_artifact
from secateur.recipe.settings import DataChoice, Machine
from secateur.recipe.subject import parse_shape, read_data, settle
from secateur.record import Evaluation
from secateur.training import Split


def evaluate_file(
    path: Path | str,
    choice: DataChoice,
    *,
    split: Split = "test",
    batch_size: int = 256,
    code: str | None = None,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
) -> Evaluation:
    """Return the accuracy of a ``.safetensors`` or ``.onnx`` file, its images normalised as the file says.

    Raises:
        ArtifactError: the file cannot be read.
        DataError: the data does not fit the model.
    """
    device = settle(machine)
    path = Path(path)
    preprocessing = _preprocessing(path)
    if choice.normalize is None and preprocessing is not None:
        choice = dataclasses.replace(choice, normalize=str(preprocessing.normalization))
    data = read_data(choice, machine)
    return evaluate_artifact(path, data, split=split, batch_size=batch_size, device=device, code=code)


def export_file(
    path: Path | str,
    out: Path | str,
    *,
    shape: str | None = None,
    code: str | None = None,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
) -> OnnxReport:
    """Write a model file as ONNX, checked by running it.

    Raises:
        ArtifactError: the file cannot be read.
        ExportError: the model cannot be exported, or the ONNX file computes something else.
        UsageError: nobody says which inputs the model takes.
    """
    settle(machine)
    info = inspect_file(path)
    if shape is not None:
        sizes = parse_shape(shape)
    elif info.preprocessing is not None:
        sizes = info.preprocessing.input_shape
    else:
        raise UsageError(f"{path} does not say which inputs its model takes; give --input such as 3x224x224")
    model = load_built(path, code=code).eval()
    return export_onnx(model, out, torch.zeros(2, *sizes), preprocessing=info.preprocessing)


def artifact_info(path: Path | str) -> ArtifactInfo:
    """Return what a model file says about itself.

    Raises:
        ArtifactError: it is no model file, or damaged.
    """
    return inspect_file(path)


def artifact_json(path: Path | str) -> dict[str, Any]:
    """Return what a model file says about itself, as JSON.

    Raises:
        ArtifactError: it is no model file, or damaged.
    """
    info = inspect_file(path)
    return {
        "size_bytes": info.size_bytes,
        "params": info.params,
        "tensors": {
            name: {"dtype": str(stored.dtype).removeprefix("torch."), "shape": list(stored.shape)}
            for name, stored in info.tensors.items()
        },
        "spec": dataclasses.asdict(info.spec),
        "plan": None if info.plan is None else info.plan.to_json(),
        "preprocessing": None if info.preprocessing is None else dataclasses.asdict(info.preprocessing),
        "builder": None if info.builder is None else dataclasses.asdict(info.builder),
        "provenance": dict(info.provenance),
    }


def _preprocessing(path: Path) -> Preprocessing | None:
    return OnnxModel(path).preprocessing if path.suffix == ".onnx" else inspect_file(path).preprocessing
