"""What a module's class tells before its operators run: kernels are no channels, some layers cannot be cut."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from secateur.graph.labels import IntArray, Labels, attach, labels_of
from secateur.graph.rules.convolution import NOT_A_CHANNEL
from secateur.models.selection import ChannelSelection

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def entered(flow: "Flow", module: nn.Module) -> None:
    """See a module whose forward is about to run."""
    if isinstance(module, nn.modules.conv._ConvNd):
        _forget_kernel_positions(flow, module)
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        _lock(flow, module, f"recurrent layer {type(module).__name__}")
    elif isinstance(module, nn.MultiheadAttention):
        _multi_head_attention(flow, module)
    elif isinstance(module, _SpectralNorm):
        _spectral(flow, [module._buffers.get("_u"), module._buffers.get("_v")])
    elif isinstance(module, ChannelSelection):
        module.copies_when_dense = True  # else its input would come out, under labels that others read
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            _spectral(flow, [module._buffers.get(f"{hook.name}_u"), module._buffers.get(f"{hook.name}_v")])


def left(module: nn.Module) -> None:
    """See a module whose forward has ended."""
    if isinstance(module, ChannelSelection):
        vars(module).pop("copies_when_dense", None)


def _forget_kernel_positions(flow: "Flow", module: nn.modules.conv._ConvNd) -> None:
    """Weights are standardised, normalised and flattened before they are used; kernel positions are never channels."""
    owners = [module]
    parametrizations = module._modules.get("parametrizations")
    if parametrizations is not None:
        owners.extend(parametrizations.children())  # type: ignore[arg-type]
    for owner in owners:
        for tensor in owner._parameters.values():
            labels = labels_of(tensor) if tensor is not None and tensor.dim() == len(module.kernel_size) + 2 else None
            if labels is None or tensor is None or all(atoms is None for atoms in labels.dims[2:]):
                continue
            for atoms in labels.dims[2:]:
                if atoms is not None:
                    flow.books.lock(atoms, NOT_A_CHANNEL)
            dims = (*labels.dims[:2], *(None,) * len(module.kernel_size))
            attach(
                tensor,
                Labels(dims, from_weights=labels.from_weights, storage=labels.storage, parameter=labels.parameter),
            )


def _lock(flow: "Flow", module: nn.Module, reason: str) -> None:
    for tensor in module._parameters.values():
        for atoms in flow.dims(tensor) if tensor is not None else ():
            flow.lock(atoms, reason)


def _multi_head_attention(flow: "Flow", module: nn.MultiheadAttention) -> None:
    """Its function compares embed_dim with the input and splits by it; only keys' and values' own inputs are free."""
    free = {("k_proj_weight", 1), ("v_proj_weight", 1)}
    for name, tensor in module._parameters.items():
        for axis, atoms in enumerate(flow.dims(tensor)) if tensor is not None else ():
            if (name, axis) not in free:
                flow.lock(atoms, "embed_dim of a MultiheadAttention")
    flow.lock(_axis(flow, module.out_proj.weight, 1), "embed_dim of a MultiheadAttention")


def _axis(flow: "Flow", tensor: Tensor, axis: int) -> IntArray | None:
    return flow.dims(tensor)[axis]


def _spectral(flow: "Flow", vectors: list[Tensor | None]) -> None:
    for vector in vectors:
        for atoms in flow.dims(vector) if vector is not None else ():
            flow.approximate(atoms, "the spectral norm of the whole weight divides every channel")
