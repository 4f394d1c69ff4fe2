"""What of a model goes into its file, and what its spec says."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.errors import ArtifactError
from secateur.export.header import Spec
from secateur.graph import Plan
from secateur.graph.folded_layers import folded_layers
from secateur.graph.slots import StoredTensor
from secateur.graph.surgery import integer_attributes
from secateur.graph.written_sizes import read_size
from secateur.tensor_file import DTYPES

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The channels-last order of tensors by their number of dimensions."""


def is_saved(entry: StoredTensor, plan: Plan | None) -> bool:
    """Say whether a file holds this tensor: all that ``state_dict`` has, and what else was cut."""
    if entry.is_parameter or (plan is not None and entry.name in plan.cuts_of):
        return True
    return _is_persistent(entry)


def _is_persistent(entry: StoredTensor) -> bool:
    return any(slot.attribute not in slot.module._non_persistent_buffers_set for slot in entry.slots)


def spec_of(model: nn.Module, stored: dict[str, StoredTensor], chosen: Mapping[str, Tensor], plan: Plan | None) -> Spec:
    """Return what the header says of the cut ``model``, of which ``chosen`` tensors are saved."""
    changed = {} if plan is None else integer_attributes(model, plan, stored)
    return Spec(
        model_class=type(model).__qualname__,
        shapes={name: tuple(entry.tensor.shape) for name, entry in stored.items()},
        buffers=tuple(name for name, entry in stored.items() if not entry.is_parameter),
        non_persistent=tuple(
            name for name in chosen if not stored[name].is_parameter and not _is_persistent(stored[name])
        ),
        aliases={name: entry.aliases for name, entry in stored.items() if entry.aliases},
        # Of the names only: the model is cut already, so the values are those it has.
        attributes={
            module: {name: read_size(model.get_submodule(module), name) for name in names}
            for module, names in changed.items()
        },
        channels_last=tuple(name for name, tensor in chosen.items() if _is_channels_last(tensor)),
        folded=folded_layers(model),
    )


def _is_channels_last(tensor: Tensor) -> bool:
    """Say whether the strides are those of channels-last memory; 1 × 1 kernels are contiguous in both orders."""
    layout = LAYOUTS.get(tensor.dim())
    if layout is None:
        return False
    orders = (torch.contiguous_format, layout)
    plain, last = (torch.empty(tensor.shape, device="meta", memory_format=order).stride() for order in orders)
    return plain != last and tensor.stride() == last


def refuse_unsaveable(model: nn.Module, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse a model with something that a file cannot hold.

    Raises:
        ArtifactError: a tensor is sparse, quantized or without values, or a module has extra state.
    """
    for name, entry in stored.items():
        tensor = entry.tensor
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in DTYPES.values():
            raise ArtifactError(
                f"{name} is a {tensor.dtype} tensor of layout {tensor.layout}, which a file cannot hold; make it dense"
            )
        if tensor.is_meta:
            raise ArtifactError(f"{name} is on the meta device and has no values; load weights before saving")
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ArtifactError(
                f"module {path!r} ({type(module).__name__}) keeps extra state outside its tensors, which a file "
                "cannot hold; register it as a buffer"
            )


def check_plan_of(model: nn.Module, stored: Mapping[str, StoredTensor], plan: Plan | None) -> None:
    """Refuse a plan that does not lead to ``model``.

    Raises:
        ArtifactError: the class or a shape differs.
    """
    if plan is None:
        return
    if plan.model_class != type(model).__qualname__:
        raise ArtifactError(
            f"the plan is for {plan.model_class}, but the model is a {type(model).__qualname__}; give its own plan"
        )
    for name in (*plan.shapes_after, *stored):
        expected = plan.shapes_after.get(name)
        found = tuple(stored[name].tensor.shape) if name in stored else None
        if expected != found:
            raise ArtifactError(
                f"the plan leaves {name} with shape {expected}, but the model's is {found}; give the model after "
                "apply(model, plan), and several plans composed with Plan.then"
            )
