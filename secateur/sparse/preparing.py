"""What of a state is coded, what is stored as it is, and the settings of each weight."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur.errors import ArtifactError, UsageError
from secateur.names import unknown_name
from secateur.sparse.codebook import WIDEST
from secateur.sparse.coding import Width
from secateur.sparse.layout import CODED_TYPES
from secateur.sparse.prunable import prunable_weights
from secateur.sparse.relative import check_width
from secateur.tensor_file import DTYPES

MATRIX_BITS, OTHER_BITS = 5, 8  # of an index and of a code: fully connected layers and convolutions in the papers
_CODED = {DTYPES[name] for name in CODED_TYPES}
_Setting = TypeVar("_Setting", int, Width)


def plain(tensor: Tensor, taken: set[int]) -> Tensor:
    """Return a tensor that shares no memory with another of the file, as the container asks.

    Args:
        tensor: that is stored.
        taken: where the memory of those before it begins; its own is added.
    """
    plain = tensor.detach().to("cpu").contiguous()
    if plain.untyped_storage().nbytes() != plain.nbytes or plain.untyped_storage().data_ptr() in taken:
        plain = plain.clone()
    taken.add(plain.untyped_storage().data_ptr())
    return plain


def to_code(model_or_state: object, state: Mapping[str, Tensor], patterns: Iterable[str] | None) -> list[str]:
    """Return the names of the weights to code, in the order of the state.

    Raises:
        UsageError: a pattern matches no floating tensor.
    """
    floating = [name for name, tensor in state.items() if tensor.dtype in _CODED and tensor.dim() >= 1]
    if patterns is not None:
        chosen: set[str] = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = fnmatch.filter(floating, pattern)
            if not found:
                raise UsageError(unknown_name("weight", pattern, floating))
            chosen.update(found)
        return [name for name in floating if name in chosen]
    if isinstance(model_or_state, nn.Module):
        prunable = set(prunable_weights(model_or_state))
        return [name for name in floating if name in prunable]
    return [name for name in floating if state[name].dim() >= 2]


def usual_bits(tensor: Tensor) -> int:
    """Return the width of an index, or of a code, that the papers take."""
    return MATRIX_BITS if tensor.dim() == 2 else OTHER_BITS


def per_weight(
    setting: "_Setting | Mapping[str, _Setting] | None", names: list[str], what: str, usual: Mapping[str, int]
) -> "dict[str, _Setting | int]":
    """Return the setting of each weight; of several patterns that match, the first holds."""
    if not isinstance(setting, Mapping):
        return {name: usual[name] if setting is None else setting for name in names}
    for pattern in setting:
        if not fnmatch.filter(names, pattern):
            raise UsageError(unknown_name(f"weight in {what}", pattern, names))
    return {
        name: next((value for pattern, value in setting.items() if fnmatch.fnmatchcase(name, pattern)), usual[name])
        for name in names
    }


def check_widths(widths: "Mapping[str, Width]", code_widths: Mapping[str, int]) -> None:
    """Refuse widths that no index or code has.

    Raises:
        UsageError: one is out of range; it says whose.
    """
    for name, width in widths.items():
        if isinstance(width, str) and width != "best":
            raise UsageError(f"bits of {name} is {width!r}; give a number of bits, or best")
        if not isinstance(width, str):
            check_width(width, f"bits of {name}")
    for name, width in code_widths.items():
        if type(width) is not int or not 1 <= width <= WIDEST:
            raise UsageError(f"codebook_bits of {name} is {width!r}; give 1 to {WIDEST} bits, as a whole number")


def aliases_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return other name → first name of tensors that the state holds several times."""
    first: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        if tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            if first.setdefault(place, name) != name:
                aliases[name] = first[place]
    return aliases


def refuse_unsaveable(state: Mapping[str, Any]) -> None:
    """Refuse what a file cannot hold.

    Raises:
        ArtifactError: an entry is no tensor, or is sparse, quantized or without values.
    """
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ArtifactError(f"{name!r} names a tensor, but names are texts; rename it")
        if not isinstance(tensor, Tensor):
            raise ArtifactError(
                f"{name} is a {type(tensor).__name__}, but a file holds tensors; register it as a buffer"
            )
        if nn.parameter.is_lazy(tensor):
            raise ArtifactError(f"{name} has no shape yet; run the model once on a batch before saving it")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in DTYPES.values():
            raise ArtifactError(
                f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}, which a file cannot hold; make it dense"
            )
        if tensor.is_meta:
            raise ArtifactError(f"{name} is on the meta device and has no values; load weights before saving")
