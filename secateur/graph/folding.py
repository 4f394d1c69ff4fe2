"""Fold weights that a layer computes from its own parameters at every forward, such as standardised ones.

Weight standardisation (Qiao et al. 2019, arXiv:1903.10520; Brock et al. 2021, arXiv:2101.08692), weight norm and
spectral norm compute a layer's weight from all of its input channels, so a cut layer would compute another weight. The
weight itself is a constant in evaluation: computed once and put into a plain layer, it is cut like any other.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from secateur.errors import ModelError
from secateur.graph import inputs
from secateur.graph.folded_layers import FoldedLayer, copied, layer_of, plain_layer, replaced, without_norms
from secateur.graph.inputs import ExampleInputs
from secateur.graph.misfit import does_not_run
from secateur.graph.slots import mode_of, preserved, randomness_preserved, refuse_wrappers, stored_tensors

_CLOSE = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float32: 1e-4, torch.float64: 1e-10}
"""Share of the largest output up to which a plain layer's output may differ from the folded one's, by precision."""


def fold_weight_standardisation(model: nn.Module, example_inputs: ExampleInputs) -> nn.Module:
    """Return a copy of ``model`` whose convolutions and linear layers hold the weights that they computed.

    Folded is every convolution or linear layer that computes its weight from its own parameters alone: classes such as
    timm's ``StdConv2d`` and ``ScaledStdConv2dSame``, hand-written ones, layers under
    ``torch.nn.utils.parametrizations`` and under the older ``weight_norm`` and ``spectral_norm`` hooks. A layer that
    pads its input by its size, as in TensorFlow, keeps doing so. In evaluation the copy computes what ``model``
    computes, up to rounding; trained further, it trains the folded weights, which nothing standardises any more.

    Args:
        model: any module whose forward runs on ``example_inputs``; stays as it was.
        example_inputs: as in :func:`secateur.trace`.

    Raises:
        ModelError: no layer computes its weight, or one that does also does something that no plain layer does.
        TraceError: the model does not run on ``example_inputs``, or is wrapped.
    """
    refuse_wrappers(model)
    call = inputs.as_call(example_inputs)
    folded = copied(model)
    layers = [module for module in folded.modules() if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)]
    with torch.no_grad(), mode_of(folded, training=False):
        count = sum(without_norms(module) for module in layers)
    first = _watched(folded, call)
    second = _watched(folded, inputs.map_tensors(lambda tensor: inputs.noise_like(tensor, 0), call))
    for path, seen in first.items():
        other = second.get(path)
        # A weight that follows the input (dynamic convolution) is no constant.
        if other is None or not torch.equal(seen.weight, other.weight):
            continue
        if seen.layer is None:
            raise ModelError(
                f"module {path!r} ({seen.kind}) computes its weight and does more than a plain layer can; write it so "
                "that its forward is one convolution or matrix product, or leave it unfolded"
            )
        count += 1
        seen.layer.train(folded.get_submodule(path).training)
        folded = replaced(folded, path, seen.layer)
    if not count:
        raise ModelError(
            f"{type(model).__name__} has no layer that computes its weight from its own parameters, so there is "
            "nothing to fold; leave fold_weight_standardisation out"
        )
    return folded


@dataclass
class _Seen:
    """A layer that computed the weight of its convolution or matrix product."""

    kind: str
    weight: Tensor
    layer: nn.Module | None


@dataclass
class _Call:
    """One convolution or matrix product that ran inside a module."""

    function: str
    weight: Tensor
    bias: Tensor | None
    settings: Mapping[str, Any] = field(default_factory=dict)


class _Watcher(TorchFunctionMode):
    """Notes which weights reach convolutions and matrix products, by the module that runs them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, _Seen] = {}
        self._names = {id(module): path for path, module in model.named_modules()}
        self._stored = {entry.tensor.untyped_storage().data_ptr() for entry in stored_tensors(model).values()}
        self._stack: list[list[_Call]] = [[]]
        self._handles: list[Any] = []

    def __enter__(self) -> "_Watcher":
        """Start to watch."""
        self._handles = [
            register_module_forward_pre_hook(self._entered),
            register_module_forward_hook(self._left, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop watching."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a convolution or matrix product whose weight is no stored tensor nor a view of one."""
        del types
        kwargs = kwargs or {}
        settings = _settings(func, args, kwargs)
        if settings is not None:
            weight, bias = settings.pop("weight"), settings.pop("bias")
            if isinstance(weight, Tensor) and weight.untyped_storage().data_ptr() not in self._stored:
                self._stack[-1].append(_Call(func.__name__, weight, bias, settings))
        return func(*args, **kwargs)

    def _entered(self, module: nn.Module, args: Any) -> None:
        del module, args
        self._stack.append([])

    def _left(self, module: nn.Module, args: Any, result: Any) -> None:
        calls = self._stack.pop() if len(self._stack) > 1 else []
        path = self._names.get(id(module))
        if not calls or path is None or not _own_parameters(module) or not isinstance(result, Tensor):
            return
        if len(calls) > 1 or path in self.found:  # a module that is called twice computes the same again
            if len(calls) > 1:
                self.found[path] = _Seen(type(module).__name__, calls[0].weight.detach().clone(), None)
            return
        (call,) = calls
        given = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
        layer = None if given is None else _same_layer(module, call, given, result)
        self.found[path] = _Seen(type(module).__name__, call.weight.detach().clone(), layer)


def _settings(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments by name of a convolution or matrix product, None for any other function."""
    name = getattr(func, "__name__", "")
    order: tuple[str, ...] = ("input", "weight", "bias")
    if name == "linear":
        pass
    elif name in ("conv1d", "conv2d", "conv3d"):
        order += ("stride", "padding", "dilation", "groups")
    elif name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        order += ("stride", "padding", "output_padding", "groups", "dilation")
    else:
        return None
    found = {**dict(zip(order, args, strict=False)), **kwargs}
    found.pop("input", None)
    return {"bias": None, **found} if "weight" in found else None


def _own_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _same_layer(module: nn.Module, call: _Call, given: Tensor, result: Tensor) -> nn.Module | None:
    """Return the plain layer that does what ``module`` just did to ``given``, None if there is none."""
    with torch._C.DisableTorchFunction():
        for description in _candidates(module, call):
            layer = plain_layer(description, call.weight, call.bias)
            try:
                found = layer(given)
            except (RuntimeError, ValueError):
                continue
            if found.shape == result.shape and _close(found, result):
                _keep_marks(module, layer)
                return layer
    return None


def _candidates(module: nn.Module, call: _Call) -> Iterator[FoldedLayer]:
    description = layer_of(call.function, call.settings, has_bias=call.bias is not None)
    if getattr(module, "same_pad", False):  # timm's mark of padding that follows the size of the input
        yield replace(description, same=True)
    yield description
    if isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros":
        settings = {**call.settings, "padding": module.padding}
        padded = layer_of(call.function, settings, has_bias=call.bias is not None)
        yield replace(padded, padding_mode=module.padding_mode)


def _keep_marks(module: nn.Module, layer: nn.Module) -> None:
    """Carry over what the user put on the module: hooks, and which parameters train."""
    for table in (name for name in vars(module) if name.endswith("_hooks") or "_hooks_" in name):
        if isinstance(getattr(layer, table, None), dict):
            getattr(layer, table).update(getattr(module, table))
    trains = any(parameter.requires_grad for parameter in module.parameters())
    bias = module._parameters.get("bias")
    layer.weight.requires_grad_(trains)
    if layer.bias is not None:
        layer.bias.requires_grad_(trains if bias is None else bias.requires_grad)


def _close(found: Tensor, wanted: Tensor) -> bool:
    limit = _CLOSE.get(wanted.dtype, 1e-4) * float(wanted.abs().max()) if wanted.numel() else 0.0
    return bool(((found - wanted).abs() <= limit).all())


def _watched(model: nn.Module, call: Any) -> dict[str, _Seen]:
    stored = stored_tensors(model)
    try:
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            preserved(model),
            mode_of(model, training=False),
            randomness_preserved(stored),
            _Watcher(model) as watcher,
        ):
            model(*call[0], **call[1])
    except Exception as error:  # whatever a model's own code raises
        raise does_not_run(model, call, error) from error
    return watcher.found
