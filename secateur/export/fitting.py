"""Whether a file and the dense model that it is loaded into belong together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import ArtifactError, ModelError
from secateur.export.header import Spec
from secateur.graph import Plan
from secateur.graph.folded_layers import copied, refit
from secateur.graph.slots import StoredTensor
from secateur.graph.written_sizes import read_size
from secateur.tensor_file import StoredShape, shown


def refitted(model: nn.Module, spec: Spec, shapes: Mapping[str, tuple[int, ...]], path: Path) -> nn.Module:
    """Return ``model`` with the layers folded that the saved one had folded: a copy, or itself where there are none.

    Args:
        model: freshly built.
        spec: of the file.
        shapes: of the dense model's tensors, folded.
        path: of the file.

    Raises:
        ArtifactError: a folded layer is not there or is another one, or the model cannot be copied.
    """
    if not spec.folded:
        return model
    try:
        return refit(copied(model), spec.folded, shapes)
    except ModelError as error:
        raise ArtifactError(f"{path} does not fit this {type(model).__name__}: {error}") from error


def check_fits(model: nn.Module, stored: Mapping[str, StoredTensor], spec: Spec, plan: Plan | None, path: Path) -> None:
    """Refuse a model of another class, with other tensors or other tied names.

    Raises:
        ArtifactError: saying which, with both shapes or classes.
    """
    own = type(model).__qualname__
    if spec.model_class != own:
        raise ArtifactError(
            f"{path} is a {shown(spec.model_class)}, but the model is a {own}; build a {shown(spec.model_class)}"
        )
    shapes = spec.shapes if plan is None else plan.shapes
    for name in (*shapes, *stored):
        if name not in stored:
            raise ArtifactError(
                f"{path} was saved from a {own} with a tensor {shown(name)}, which this one lacks; "
                "build it with the same settings"
            )
        if name not in shapes:
            raise ArtifactError(
                f"{path} was saved from a {own} without the tensor {name}; build it with the same settings"
            )
        tensor = stored[name].tensor
        if tuple(tensor.shape) != shapes[name]:
            raise ArtifactError(
                f"{path} was saved from a dense {own} with {name} of shape {shapes[name]}, but this model's is "
                f"{tuple(tensor.shape)}; build the dense model with the same settings"
            )
        if tensor.is_meta:
            raise ArtifactError(f"{name} of the model is on the meta device; build the model on a real one")
    for name, entry in stored.items():
        if plan is not None and name in plan.dropped_tensors:
            continue
        if entry.aliases != spec.aliases.get(name, ()):
            raise ArtifactError(
                f"in {path} {name} is tied to {shown(spec.aliases.get(name) or 'nothing')}, but in this model to "
                f"{entry.aliases or 'nothing'}; tie the same weights before loading"
            )
    unknown = [name for name in spec.aliases if name not in stored]
    if unknown:
        raise ArtifactError(f"{path} ties {shown(unknown[0])}, which {own} does not have; save the model again")


def check_attribute_values(small: nn.Module, spec: Spec, path: Path) -> None:
    """Refuse a file whose listed attributes are not those that the cut gave.

    Raises:
        ArtifactError: an attribute has another value.
    """
    modules = dict(small.named_modules())
    for module, values in spec.attributes.items():
        for attribute, value in values.items():
            found = _size(modules.get(module), attribute)
            if found != value:
                raise ArtifactError(
                    f"{path} says that {shown(module)}.{shown(attribute)} is {shown(value)} after the cut, but the cut "
                    f"gives {shown(found)}; the file was edited"
                )


def _size(module: nn.Module | None, attribute: str) -> Any:
    try:
        return None if module is None else read_size(module, attribute)
    except AttributeError:
        return None


def check_kind(entry: StoredTensor, stored: StoredShape, path: Path) -> None:
    """Refuse another kind of number; another precision is fine.

    Raises:
        ArtifactError: the kinds differ, such as integer and floating point.
    """
    own, other = entry.tensor.dtype, stored.dtype
    if own == other or (own.is_floating_point and other.is_floating_point) or (own.is_complex and other.is_complex):
        return
    raise ArtifactError(f"{path} holds {entry.name} as {other}, but the model's is {own}; save it from the same class")
