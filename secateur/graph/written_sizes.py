"""Integers that modules keep as attributes for their own code to read: ``num_heads``, ``split_sizes[1]``."""

import re
from typing import Any

from torch import nn

Size = int | tuple[int, ...]
"""What a size attribute holds: a count, or a shape such as ``normalized_shape``."""

_ENTRY = re.compile(r"(?P<name>\w+)\[(?P<index>\d+)\]")

# Attributes that every module has, and switches that happen to be integers.
_NOT_SIZES = frozenset({"training", "dim", "axis", "stride", "padding", "dilation", "kernel_size", "call_super_init"})


def written_sizes(module: nn.Module) -> dict[str, int]:
    """Return the integers above 1 that a module keeps as plain attributes or as entries of lists and tuples.

    Entries are named with their index, as in ``split_sizes[1]``.
    """
    found: dict[str, int] = {}
    for name, value in vars(module).items():
        if name in _NOT_SIZES or name.startswith("_"):
            continue
        if _is_size(value):
            found[name] = value
        elif isinstance(value, list | tuple) and 0 < len(value) <= 16 and all(_is_size(entry) for entry in value):
            found.update({f"{name}[{index}]": entry for index, entry in enumerate(value)})
    return found


def read_size(module: nn.Module, attribute: str) -> Any:
    """Return what ``attribute`` of a module holds; ``split_sizes[1]`` is an entry of a list or tuple.

    Raises:
        AttributeError: there is no such attribute or entry.
    """
    entry = _ENTRY.fullmatch(attribute)
    if entry is None:
        return getattr(module, attribute)
    values = getattr(module, entry["name"])
    if not isinstance(values, list | tuple) or int(entry["index"]) >= len(values):
        raise AttributeError(f"{type(module).__name__} has no {attribute}")
    return values[int(entry["index"])]


def write_size(module: nn.Module, attribute: str, value: Size) -> None:
    """Set what ``attribute`` of a module holds; a list or tuple is replaced, so that others who hold it keep theirs.

    Raises:
        AttributeError: there is no such list or tuple.
    """
    entry = _ENTRY.fullmatch(attribute)
    if entry is None:
        setattr(module, attribute, value)
        return
    read_size(module, attribute)
    values = getattr(module, entry["name"])
    changed = list(values)
    changed[int(entry["index"])] = value
    setattr(module, entry["name"], _like(values, changed))


def _like(values: list[Any] | tuple[Any, ...], changed: list[Any]) -> Any:
    if hasattr(values, "_make"):
        return type(values)._make(changed)
    return type(values)(changed)


def _is_size(value: object) -> bool:
    return type(value) is int and value > 1
