"""Example inputs: one tensor, a tuple of positional arguments, or a mapping of keyword arguments."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import TraceError
from secateur.randomness import generator_for

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that ``example_inputs`` stands for.

    Raises:
        TraceError: it is something else, or holds no tensor.
    """
    if isinstance(example_inputs, Tensor):
        call: tuple[tuple[Any, ...], dict[str, Any]] = ((example_inputs,), {})
    elif isinstance(example_inputs, Mapping):
        call = ((), dict(example_inputs))
    elif isinstance(example_inputs, tuple | list):
        call = (tuple(example_inputs), {})
    else:
        raise TraceError(
            f"example_inputs is a {type(example_inputs).__name__}; pass a tensor, a tuple of positional arguments "
            "or a mapping of keyword arguments"
        )
    if not tensors_of(call):
        raise TraceError("example_inputs holds no tensor; pass what the model's forward takes")
    return call


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in nested containers, dataclasses and objects with attributes, in order."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found.extend(tensors_of([getattr(leaf, entry.name) for entry in dataclasses.fields(leaf)]))
    return found


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with ``function`` applied to every tensor in its nested containers."""
    return pytree.tree_map_only(Tensor, function, value)


def noise_like(tensor: Tensor, seed: int) -> Tensor:
    """Return normal noise of the shape and type of ``tensor``, or itself where it holds no floating-point numbers."""
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator_for(seed, "inputs", *tensor.shape), dtype=torch.float64)
    return drawn.to(tensor.dtype).to(tensor.device)


def batch_size_of(call: Any) -> int:
    """Return the size of the first dimension of the first tensor with dimensions; 1 if there is none.

    A list of images (C, H, W) as the first argument, as detectors take it, has one sample per image.
    """
    positional = call[0] if isinstance(call, tuple) and call and isinstance(call[0], tuple) else ()
    if positional and isinstance(positional[0], list) and all(_is_image(item) for item in positional[0]):
        return max(1, len(positional[0]))
    return next((tensor.shape[0] for tensor in tensors_of(call) if tensor.dim()), 1)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.shape[0] in (1, 3, 4)


def run(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Run a model on a call without gradients, out of inference mode."""
    with torch.inference_mode(mode=False), torch.no_grad():
        return model(*call[0], **call[1])
