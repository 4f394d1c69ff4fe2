"""Outputs by module: what a network computes before code that decides (decoding, top-k, non-maximum suppression).

Decisions fall otherwise where two scores tie within rounding, so a detector's final boxes prove little. The outputs of
its heads are what the network computes; they can be named, are locked, and are what a proof compares.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import inputs
from secateur.names import unknown_name

_RCNN = ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "roi_heads.keypoint_predictor")

RAW_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "torchvision.models.detection.generalized_rcnn.GeneralizedRCNN": _RCNN,
    "torchvision.models.detection.retinanet.RetinaNet": ("head",),
    "torchvision.models.detection.fcos.FCOS": ("head",),
    "torchvision.models.detection.ssd.SSD": ("head",),
}
"""Class of a detector (subclasses included) → modules whose outputs are its raw ones, those of them that it has."""


def raw_outputs(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules whose outputs are the raw outputs of a detector; () for other networks.

    A detector is also found inside a wrapper that has no parameters of its own.
    """
    owners = [
        (path, names)
        for path, module in model.named_modules()
        if (names := _names_by_class(module)) and not _has_more(model, module)
    ]
    if not owners:
        return ()
    path, names = owners[0]
    return tuple(f"{path}.{name}" if path else name for name in names)


def _names_by_class(module: nn.Module) -> tuple[str, ...]:
    for kind in type(module).__mro__:
        known = RAW_OUTPUTS.get(f"{kind.__module__}.{kind.__qualname__}")
        if known is not None:
            present = dict(module.named_modules())
            return tuple(name for name in known if name in present)
    return ()


def _has_more(model: nn.Module, part: nn.Module) -> bool:
    own = {id(parameter) for parameter in part.parameters()}
    return any(id(parameter) not in own for parameter in model.parameters())


def chosen_outputs(model: nn.Module, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """Return the modules whose outputs count: those asked for, or a known detector's raw ones.

    Args:
        model: any module.
        outputs: paths of modules; None takes :func:`raw_outputs`, an empty list the model's own outputs.

    Raises:
        TraceError: the model has no module of such a name; the nearest is suggested.
    """
    if outputs is None:
        return raw_outputs(model)
    if isinstance(outputs, str):
        raise TraceError(f"outputs is the text {outputs!r}; give a list of module names, such as [{outputs!r}]")
    names = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    for name in outputs:
        if name not in names:
            raise TraceError(unknown_name("module to take outputs from", name, names))
    return tuple(dict.fromkeys(outputs))


@dataclass(frozen=True)
class Output:
    """One output tensor, and the path of the module that returned it (empty for the model itself)."""

    module: str
    tensor: Tensor


def outputs_of(
    model: nn.Module, names: Sequence[str], run: Callable[[], Any], scales: list[float] | None = None
) -> list[Output]:
    """Call ``run``, which runs ``model``, and return the outputs that count: those of the named modules, if any.

    Raises:
        TraceError: a named module was not called, or returned no tensor.
    """
    with Captured(model, names, scales=scales) as captured:
        result = run()
    return captured.of(result)


class Captured:
    """Collects, while it is entered, what named modules return; without names, nothing.

    Args:
        model: whose modules.
        names: their paths.
        see: called with each tensor at the moment it is returned.
        scales: where given, code behind the named modules gets their outputs times these numbers, one per tensor in
            the order of calls; an empty list is filled so that each largest value becomes 1. Under redrawn weights a
            detector's boxes would otherwise all be thrown away, and what works on boxes would go unproved.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        see: Callable[[Tensor], None] | None = None,
        scales: list[float] | None = None,
    ) -> None:
        self._found: list[Output] = []
        self._names = tuple(names)
        self._modules = {name: model.get_submodule(name) for name in names}
        self._see = see
        self._scales = scales
        self._fills = not scales
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        """Start to watch modules, behind their own hooks, which may change what they return."""
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(functools.partial(self._returned, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def of(self, result: Any) -> list[Output]:
        """Return the outputs that count: what was captured, or the tensors in the model's own ``result``.

        Raises:
            TraceError: a named module was not called, or returned no tensor.
        """
        if not self._names:
            return [Output("", tensor) for tensor in inputs.tensors_of(result)]
        called = {output.module for output in self._found}
        absent = next((name for name in self._names if name not in called), None)
        if absent is not None:
            raise TraceError(
                f"the module {absent!r}, named in outputs, returned no tensor while the model ran; name modules that "
                "are called by the forward"
            )
        return self._found

    def _returned(self, path: str, module: nn.Module, args: Any, result: Any) -> Any:
        del module, args
        first = len(self._found)
        for tensor in inputs.tensors_of(result):
            if self._see is not None:
                self._see(tensor)
            # A copy, because code behind may write into it.
            self._found.append(Output(path, tensor if self._see is not None else tensor.detach().clone()))
        if self._scales is None:
            return None
        if self._fills:
            self._scales.extend(_to_one(output.tensor) for output in self._found[first:])
        factors = iter(self._scales[first:])
        return inputs.map_tensors(
            lambda tensor: tensor * factor if (factor := next(factors, 1.0)) != 1 else tensor, result
        )


def _to_one(tensor: Tensor) -> float:
    largest = float(tensor.abs().max()) if tensor.is_floating_point() and tensor.numel() else 0.0
    return 1.0 / largest if 0 < largest < math.inf else 1.0
