"""Where a model keeps its tensors, and how to put others there for a while."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.wrappers import refuse_wrappers as refuse_wrappers


@dataclass(frozen=True)
class Slot:
    """One place in a module that holds a parameter or buffer."""

    module: nn.Module
    attribute: str
    is_parameter: bool

    @property
    def tensor(self) -> Tensor:
        """What it holds now."""
        tensor: Tensor = getattr(self.module, self.attribute)
        return tensor

    def put(self, tensor: Tensor | None) -> None:
        """Put ``tensor`` here, past the checks of ``nn.Module.__setattr__``."""
        (self.module._parameters if self.is_parameter else self.module._buffers)[self.attribute] = tensor  # type: ignore[assignment]


@dataclass(frozen=True)
class StoredTensor:
    """A parameter or buffer of a model under its first name, with all places that hold it."""

    name: str
    tensor: Tensor
    is_parameter: bool
    is_persistent: bool
    slots: tuple[Slot, ...]
    aliases: tuple[str, ...]


def stored_tensors(model: nn.Module) -> dict[str, StoredTensor]:
    """Return the parameters and buffers of ``model`` by first name, in the order of its modules.

    Raises:
        TraceError: a lazy module has not seen its first batch yet.
    """
    found: dict[int, tuple[str, Tensor, bool, bool, list[Slot], list[str]]] = {}
    for path, module in model.named_modules():
        for is_parameter, registered in ((True, module._parameters), (False, module._buffers)):
            for attribute, tensor in registered.items():
                if tensor is None:
                    continue
                name = f"{path}.{attribute}" if path else attribute
                if nn.parameter.is_lazy(tensor):
                    raise TraceError(f"{name} has no shape yet; run the model once on a batch before tracing it")
                slot = Slot(module, attribute, is_parameter)
                if id(tensor) in found:
                    found[id(tensor)][4].append(slot)
                    found[id(tensor)][5].append(name)
                else:
                    persistent = is_parameter or attribute not in module._non_persistent_buffers_set
                    found[id(tensor)] = (name, tensor, is_parameter, persistent, [slot], [])
    return {
        name: StoredTensor(name, tensor, is_parameter, persistent, tuple(slots), tuple(aliases))
        for name, tensor, is_parameter, persistent, slots, aliases in found.values()
    }


@contextlib.contextmanager
def swapped(stored: dict[str, StoredTensor], replace: Callable[[StoredTensor], Tensor | None]) -> Iterator[None]:
    """Put other tensors in the place of a model's own, and its own back whatever happens.

    Args:
        stored: what :func:`stored_tensors` found.
        replace: called once per tensor; None leaves it in place.
    """
    changed: list[tuple[Slot, Tensor]] = []
    try:
        for entry in stored.values():
            other = replace(entry)
            if other is None:
                continue
            for slot in entry.slots:
                changed.append((slot, entry.tensor))
                slot.put(other)
        yield
    finally:
        for slot, tensor in changed:
            slot.put(tensor)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put everything back that a forward may leave on its modules: caches, counters, re-assigned buffers."""
    tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    collections: list[tuple[Any, Any]] = []
    empty: list[Any] = []
    plain: list[tuple[dict[str, Any], dict[str, Any]]] = []
    tensors: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        values = vars(module)
        if type(module).__module__.startswith("torch.nn.modules."):
            # Its own forward leaves nothing on it; a parent may write there, and only what is written is looked at.
            plain.append((values, values.copy()))
            continue
        tables.append((values, values.copy()))
        for value in values.values():
            if isinstance(value, dict | list | set):
                if not value:
                    empty.append(value)
                elif isinstance(value, dict):
                    tables.append((value, dict(value)))
                else:
                    collections.append((value, value.copy()))
            elif isinstance(value, Tensor):
                tensors.append((value, value.detach().clone()))
    try:
        yield
    finally:
        for values, before in plain:
            if len(values) != len(before) or any(values[name] is not before[name] for name in before):
                values.clear()
                values.update(before)
        for table, before in tables:
            if list(table) != list(before) or list(map(id, table.values())) != list(map(id, before.values())):
                table.clear()
                table.update(before)
        for holder in empty:
            holder.clear()
        for holder, items in collections:
            holder.clear()
            (holder.update if isinstance(holder, set) else holder.extend)(items)
        with torch.no_grad():
            for tensor, contents in tensors:
                if not torch.equal(tensor, contents):
                    tensor.copy_(contents)


@contextlib.contextmanager
def randomness_preserved(stored: dict[str, StoredTensor]) -> Iterator[None]:
    """Put the random states of torch, NumPy and Python back to what they were."""
    devices = {entry.tensor.device for entry in stored.values() if entry.tensor.device.type == "cuda"}
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


@contextlib.contextmanager
def mode_of(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set every module's ``training`` flag, and set each back to what it was."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = training
        yield
    finally:
        for module, flag in before:
            module.training = flag


def module_names(model: nn.Module) -> dict[int, str]:
    """Return the first path of every module by its identity."""
    return {id(module): path for path, module in model.named_modules()}


def alike(tensor: Tensor, data: Tensor) -> Tensor:
    """Return ``data`` as a parameter of the same kind if ``tensor`` is one, else as it is."""
    if isinstance(tensor, nn.Parameter):
        trainable = tensor.requires_grad and data.is_floating_point() and not data.is_inference()
        return nn.Parameter(data, requires_grad=trainable)
    return data
