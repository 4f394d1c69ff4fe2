"""The plain layers that stand for folded ones, what a file says of them, and how a fresh model gets them."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from secateur.errors import ModelError

FOLDED = "_secateur_folded"
"""Attribute of a layer that stands for a folded one; holds its :class:`FoldedLayer`."""

Function = Literal[
    "norms", "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
]

_LAYERS: Mapping[str, type[nn.modules.conv._ConvNd]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}


@dataclass(frozen=True, kw_only=True)
class FoldedLayer:
    """How to build the plain layer that stands for a folded one, given its weight.

    Attributes:
        function: which operator it runs; ``norms`` where only torch's own norms of its weight were taken off it.
        stride: of a convolution, one number per dimension.
        padding: of a convolution, one number per dimension, or a word that torch knows.
        dilation: of a convolution.
        output_padding: of a transposed convolution.
        groups: of a convolution.
        padding_mode: of a convolution.
        bias: whether it has one.
        same: whether it pads its input by TensorFlow's rule, which follows the input's size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    function: Function
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    bias: bool = False
    same: bool = False


class SamePaddedConv2d(nn.Conv2d):
    """A convolution that pads its input so that its output has ⌈size / stride⌉ positions, as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        """Pad ``input`` (N, C, H, W), more at the end where it is uneven, and convolve."""
        pads: list[int] = []
        sizes = zip(input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        for size, kernel, stride, dilation in reversed(list(sizes)):
            missing = max(0, (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(input, pads))


def layer_of(function: Any, settings: Mapping[str, Any], *, has_bias: bool) -> FoldedLayer:
    """Return the description of one call of a function of ``torch.nn.functional``.

    Args:
        function: its name.
        settings: its arguments beside input, weight and bias, by name; absent ones have torch's defaults.
        has_bias: whether it was given one.
    """
    if function == "linear":
        return FoldedLayer(function="linear", bias=has_bias)
    ranks = int(str(function)[-2])

    def numbers(name: str, default: int) -> tuple[int, ...]:
        value = settings.get(name, default)
        return (value,) * ranks if isinstance(value, int) else tuple(value) * (ranks if len(value) == 1 else 1)

    padding = settings.get("padding", 0)
    return FoldedLayer(
        function=function,
        stride=numbers("stride", 1),
        padding=padding if isinstance(padding, str) else numbers("padding", 0),
        dilation=numbers("dilation", 1),
        output_padding=numbers("output_padding", 0) if "transpose" in function else (),
        groups=settings.get("groups", 1),
        bias=has_bias,
    )


def plain_layer(description: FoldedLayer, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a layer of torch that holds copies of ``weight`` and ``bias``."""
    layer: Any = _empty_layer(description, tuple(weight.shape))
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.is_floating_point())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    setattr(layer, FOLDED, description)
    plain: nn.Module = layer
    return plain


def _empty_layer(description: FoldedLayer, shape: tuple[int, ...]) -> Any:
    if description.function == "linear":
        return nn.Linear(shape[1], shape[0], bias=description.bias, device="meta")
    kind = SamePaddedConv2d if description.same else _LAYERS[description.function]
    outside = description.groups
    settings: dict[str, Any] = {
        "kernel_size": shape[2:],
        "stride": description.stride,
        "padding": description.padding,
        "dilation": description.dilation,
        "groups": outside,
        "bias": description.bias,
        "padding_mode": description.padding_mode,
        "device": "meta",
    }
    if issubclass(kind, nn.modules.conv._ConvTransposeNd):
        return kind(shape[0], shape[1] * outside, output_padding=description.output_padding, **settings)
    return kind(shape[1] * outside, shape[0], **settings)


def replaced(model: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    """Put ``layer`` in the place of the module at ``path``, wherever it is registered, and return the model."""
    old = model.get_submodule(path)
    if old is model:
        return layer
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = layer
    return model


def copied(model: nn.Module) -> nn.Module:
    """Copy a model, past computed tensors that old hooks leave on modules and deepcopy refuses."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def without_norms(module: nn.Module) -> bool:
    """Replace what torch's own mechanisms compute before a forward by its value; False if there is none.

    Taken off are parametrisations, the older weight and spectral norm, and the masks of ``torch.nn.utils.prune``.
    """
    hooks = list(module._forward_pre_hooks.values())
    if parametrize.is_parametrized(module):
        _without_parametrizations(module)
    elif not any(isinstance(hook, WeightNorm | SpectralNorm | BasePruningMethod) for hook in hooks):
        return False
    for hook in hooks:
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    setattr(module, FOLDED, FoldedLayer(function="norms"))
    return True


def _without_parametrizations(module: nn.Module) -> None:
    # torch's own function edits the class, which a copy shares with its original.
    parametrizations: Any = module.parametrizations
    found = {name: getattr(module, name).detach().clone() for name in parametrizations}
    trains = {name: any(p.requires_grad for p in entry.parameters()) for name, entry in parametrizations.items()}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in found.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=trains[name]))


def folded_layers(model: nn.Module) -> dict[str, FoldedLayer]:
    """Return the layers of ``model`` that stand for folded ones, by path."""
    found = {path: getattr(module, FOLDED, None) for path, module in model.named_modules()}
    return {path: description for path, description in found.items() if description is not None}


def refit(model: nn.Module, layers: Mapping[str, FoldedLayer], shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Give a fresh ``model``, in place, the plain layers of a folded one, with weights still to be filled.

    Args:
        model: freshly built; layers that are folded already stay.
        layers: what :func:`folded_layers` said of the folded model.
        shapes: shapes of its parameters by name.

    Raises:
        ModelError: a layer is not there, or nothing in it has the shape of the folded weight.
    """
    modules = dict(model.named_modules())
    for path, description in layers.items():
        module = modules.get(path)
        if module is None:
            raise ModelError(f"there is no layer {path!r} to fold; build the model with the same settings")
        if getattr(module, FOLDED, None) == description:
            continue
        if description.function == "norms":
            with torch.no_grad():
                without_norms(module)
            continue
        shape = shapes.get(f"{path}.weight" if path else "weight")
        like = next((entry for entry in module.parameters() if tuple(entry.shape) == shape), None)
        if shape is None or like is None or len(shape) < 2:
            raise ModelError(
                f"the layer {path!r} holds no weight of shape {shape}, which was folded; build the model with the same "
                "settings"
            )
        try:
            layer = plain_layer(
                description, like, like.new_zeros(_outputs(description, shape)) if description.bias else None
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelError(f"the layer {path!r} cannot be folded as written: {error}") from error
        layer.train(module.training)
        model = replaced(model, path, layer)
    return model


def _outputs(description: FoldedLayer, shape: tuple[int, ...]) -> int:
    return shape[1] * description.groups if "transpose" in description.function else shape[0]
