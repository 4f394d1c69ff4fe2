"""What can be done with a saved file: evaluate it, export it, look into it."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch

from secateur.data import DataSource, Framing, Resizing, normalization_named
from secateur.errors import SecateurError, UsageError
from secateur.export import ArtifactInfo, OnnxModel, OnnxReport, Preprocessing, export_onnx, load_built
from secateur.export import inspect as inspect_file
from secateur.measure import evaluate_artifact
from secateur.recipe.plans import is_model_file, read_plan
from secateur.recipe.settings import DataChoice, Machine
from secateur.recipe.subject import parse_shape, read_data, settle
from secateur.record import Evaluation, read_record
from secateur.tensor_file import shown
from secateur.training import Split
from secateur.user_code import names_user_code


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

    The share of the training data counts for the train split alone.

    Raises:
        ArtifactError: the file cannot be read.
        DataError: the data does not fit the model.
    """
    device = settle(machine)
    path = Path(path)
    preprocessing = _preprocessing(path)
    if path.suffix != ".onnx":
        require_code(path, inspect_file(path), code)
    if split != "train":
        choice = dataclasses.replace(choice, train_share=1.0)
    data = data_for(path, choice, preprocessing, machine)
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
    require_code(Path(path), info, code)
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
        UsageError: it is another file of Secateur, or an ONNX file.
    """
    path = Path(path)
    if path.is_file() and not is_model_file(path) and path.suffix != ".safetensors":
        raise UsageError(f"{path} is no .safetensors file but {_kind(path)}")
    return inspect_file(path)


def artifact_json(path: Path | str) -> dict[str, Any]:
    """Return what a model file says about itself, as JSON.

    Raises:
        ArtifactError: it is no model file, or damaged.
        UsageError: it is another file of Secateur, or an ONNX file.
    """
    info = artifact_info(path)
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


def _kind(path: Path) -> str:
    """Say what kind of file it is that is no model file, and what reads it."""
    with contextlib.suppress(SecateurError):
        read_plan(path)
        return "a plan; read it as text, or prove it with `secateur verify`"
    with contextlib.suppress(SecateurError):
        read_record(path)
        return "the record of a run; read it as text, and give the model.safetensors beside it"
    with contextlib.suppress(SecateurError):
        OnnxModel(path)
        return "an ONNX file; `secateur evaluate` measures it, and the model.safetensors beside it can be inspected"
    return "of another kind; give a model file that `secateur prune` or `apply` wrote"


def require_code(path: Path, info: ArtifactInfo, code: str | None) -> None:
    """Refuse a file whose model only the user's code builds, where the user did not name that code.

    Raises:
        UsageError: with the option that names it.
    """
    if code is not None:
        return
    if info.builder is None:
        raise UsageError(
            f"{path} does not say what builds its {shown(info.model_class)}; give the function that does with "
            "--model file.py:function"
        )
    if info.builder.is_user_code:
        name = shown(info.builder.name)
        raise UsageError(
            f"{path} was built by {name!r}, which is code and is not run by itself; if you trust it, name it with the "
            f"path of its file: --model FOLDER/{name}"
        )


def data_for(path: Path, choice: DataChoice, preprocessing: Preprocessing | None, machine: Machine) -> DataSource:
    """Load the data, normalised as the file says; only a file that does not say leaves it to ``choice``."""
    if preprocessing is None:
        return read_data(choice, machine)
    choice = _at_the_size_of(preprocessing, choice, machine)
    wanted = preprocessing.normalization
    if choice.normalize is not None:
        asked = normalization_named(choice.normalize)
        if len(asked.mean) in (1, len(wanted.mean)) and asked.for_channels(len(wanted.mean)) != wanted:
            raise UsageError(
                f"{path} says that its images are normalised with {wanted}, not {asked}; leave --normalize out"
            )
    if names_user_code(choice.spec):
        data = read_data(dataclasses.replace(choice, normalize=None), machine)
        if data.normalization.for_channels(data.sample_shape[0]) == wanted:
            return data
    return read_data(dataclasses.replace(choice, normalize=str(wanted)), machine)


def _at_the_size_of(preprocessing: Preprocessing, choice: DataChoice, machine: Machine) -> DataChoice:
    """Return ``choice`` with images made as large as the file says, where the data makes them of one size at all."""
    height, width = preprocessing.size
    if choice.augmentation is None and height == width:
        data = read_data(dataclasses.replace(choice, normalize=None), machine)
        found = getattr(data, "augmentation", None)
        if isinstance(found, Framing):
            return dataclasses.replace(choice, augmentation=f"segmentation:{height}")
        if isinstance(found, Resizing):
            return dataclasses.replace(choice, augmentation=f"imagenet:{height}")
    return choice


def _preprocessing(path: Path) -> Preprocessing | None:
    return OnnxModel(path).preprocessing if path.suffix == ".onnx" else inspect_file(path).preprocessing
