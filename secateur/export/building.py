"""``load_built``: load a model file without being given the dense model, by the builder that it names."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from secateur.errors import ArtifactError, SecateurError
from secateur.export.artifact import ArtifactInfo, inspect, load
from secateur.export.fitting import refitted
from secateur.export.header import Builder
from secateur.graph.slots import stored_tensors
from secateur.models import build_model
from secateur.tensor_file import shown

ARGUMENT_LIMITS: Mapping[str, int] = {"num_classes": 1_000_000, "in_channels": 4096}


def load_built(path: Path | str, *, code: str | None = None) -> nn.Module:
    """Return the model in a file, building the dense one that it names; random state stays as it was.

    Args:
        path: what ``save`` wrote with a ``builder``.
        code: ``file.py:function`` that builds the dense model instead. A file never makes code run by itself, so a
            model that was built by such a function needs it here.

    Raises:
        ArtifactError: the file names no builder, one that needs ``code``, or one of another model; or as ``load``.
        UsageError: no such model, or its package is not installed.
        ModelError: the model cannot be built.
    """
    path = Path(path)
    info = inspect(path)
    builder = _builder(info, path, code)
    with torch.random.fork_rng(devices=[]):
        if code is None:
            _check_without_memory(builder, info, path)
        dense = build_model(
            builder.name,
            num_classes=builder.arguments.get("num_classes"),
            in_channels=builder.arguments.get("in_channels"),
            allow_code=code is not None,
        )
    return load(dense, path)


def _builder(info: ArtifactInfo, path: Path, code: str | None) -> Builder:
    noted = info.builder
    for key, value in (noted.arguments if noted is not None else {}).items():
        if key not in ARGUMENT_LIMITS or not 1 <= value <= ARGUMENT_LIMITS[key]:
            allowed = ", ".join(f"{name} (1 to {most:,})" for name, most in ARGUMENT_LIMITS.items())
            raise ArtifactError(f"{path} builds its model with {shown(key)}={shown(value)}; allowed are {allowed}")
    if code is not None:
        return Builder(name=code, arguments=noted.arguments if noted is not None else {})
    if noted is None:
        raise ArtifactError(
            f"{path} does not say what builds its {shown(info.model_class)}; "
            "pass code='file.py:function', or build it and use load"
        )
    if noted.is_user_code or (
        ":" in noted.name and noted.name.partition(":")[0] not in ("secateur", "torchvision", "timm")
    ):
        raise ArtifactError(
            f"{path} was built by {shown(noted.name)!r}, which is code of its author and is not run by itself; "
            "if you trust it, name it again as code='file.py:function'"
        )
    return noted


def _check_without_memory(builder: Builder, info: ArtifactInfo, path: Path) -> None:
    """Refuse a builder whose model is another one before memory is taken for it."""
    try:
        with torch.device("meta"):
            model = build_model(builder.name, **builder.arguments, allow_code=False)
    except SecateurError as error:
        raise type(error)(f"{path} cannot be built: {error}") from error
    except Exception:  # a constructor that computes with values cannot run there; `load` compares shapes too
        return
    model = refitted(model, info.spec, info.dense_shapes, path)
    for name, entry in stored_tensors(model).items():
        expected, found = info.dense_shapes.get(name), tuple(entry.tensor.shape)
        if expected != found:
            raise ArtifactError(
                f"{path} names the builder {shown(builder.name)}, whose {name} has shape {found} where the file has "
                f"{expected}; save the model with its own builder and arguments"
            )
