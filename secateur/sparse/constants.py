"""What layers read that is the same for every image and at every position, and whether it can be folded into them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.criteria.reconstruction.folding import NormsBehind
from secateur.criteria.reconstruction.listening import Listener, left_at_rest
from secateur.graph import ChannelGraph, inputs
from secateur.graph.inputs import ExampleInputs
from secateur.sparse.liveness import BoolArray

SAME = 1e-9  # of its size, in float64: how much a constant may vary over images and positions


@dataclass(frozen=True, eq=False)
class Read:
    """What one layer reads, by index of its weight's input dimension.

    Attributes:
        layer: that reads.
        low: least value over images and positions, shape (inputs,); of a grouped convolution over its groups too.
        high: greatest value, shape (inputs,).
        norm: path of the batch norm right behind it, or None.
        shared: another name of its weight, or None.
    """

    layer: nn.Module
    low: Tensor
    high: Tensor
    norm: str | None
    shared: str | None

    @cached_property
    def constant(self) -> BoolArray:
        """Whether each input is constant, shape (inputs,)."""
        same: BoolArray = (self.high - self.low <= SAME * (1 + self.high.abs())).numpy()
        return same

    @cached_property
    def values(self) -> Tensor:
        """The constant in each input, 0 where it is none, shape (inputs,)."""
        return torch.where(torch.from_numpy(self.constant), (self.low + self.high) / 2, torch.zeros_like(self.low))

    def obstacle(self, indices: BoolArray) -> str | None:
        """Return why what lies in the inputs at ``indices`` cannot be folded exactly, or None where it can be.

        A constant of 0 needs no folding, whatever the layer.
        """
        if not self.constant[indices].all():
            return "what it passes on is not constant"
        if not bool(self.values[torch.from_numpy(indices)].any()):
            return None
        layer = self.layer
        if self.shared is not None:
            return f"a constant of it is read through a weight that {self.shared} shares"
        if isinstance(layer, _ConvTransposeNd) or (isinstance(layer, _ConvNd) and layer.groups > 1):
            return f"a constant of it is read by a {type(layer).__name__} that is transposed or grouped"
        if isinstance(layer, _ConvNd) and _pads_with_zeros(layer):
            return "a constant of it is read by a convolution that pads with zeros, so that its border differs"
        if layer._parameters.get("bias") is None and self.norm is None:
            return "a constant of it is read by a layer with neither a bias nor a batch norm right behind it"
        return None

    def shift(self, indices: BoolArray) -> Tensor:
        """Return what the constants at ``indices`` give in every output of the layer, shape (outputs,), float64."""
        weight = self.layer.get_parameter("weight").detach().double().cpu()
        if isinstance(self.layer, _ConvTransposeNd):  # takes none but 0
            return torch.zeros(weight.shape[1] * self.layer.groups, dtype=torch.float64)
        each = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        return each @ (self.values * torch.from_numpy(indices))


def observe(graph: ChannelGraph, model: nn.Module, example_inputs: ExampleInputs, *, seed: int = 0) -> dict[str, Read]:
    """Run ``model`` on the example inputs and on noise, and return what each layer reads, by the name of its weight.

    Layers that are no plain convolution or linear layer, or that never run, are not in the result.

    Args:
        graph: of ``model``.
        model: in float64, with removed weights at zero; it is left as it was.
        example_inputs: that it takes.
        seed: of the noise.
    """
    modules = dict(model.named_modules())
    layers: dict[str, str] = {}
    for name in dict.fromkeys(dim.parameter for dim in graph.dims if dim.role == "consumes"):
        path, _, attribute = name.rpartition(".")
        if attribute == "weight" and isinstance(modules.get(path), _ConvNd | nn.Linear):
            layers[path] = name
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def hear(path: str, _number: int, data: Tensor) -> None:
        low, high = _range_of(modules[path], data)
        if path in ranges:
            low, high = torch.minimum(low, ranges[path][0]), torch.maximum(high, ranges[path][1])
        ranges[path] = low, high

    call = _in_double(inputs.as_call(example_inputs))
    noise = inputs.map_tensors(lambda tensor: inputs.noise_like(tensor, seed), call)
    with left_at_rest(model):
        with NormsBehind(model, layers) as norms:
            inputs.run(model, call)
        with Listener(model, layers, hear) as listener:
            listener.run(call)
            listener.run(noise)
    behind = norms.found()
    aliases = {spec.name: spec.aliases for spec in graph.tensors}
    return {
        layers[path]: Read(modules[path], low, high, behind.get(path), next(iter(aliases[layers[path]]), None))
        for path, (low, high) in ranges.items()
    }


def _in_double(value: object) -> tuple[tuple[object, ...], dict[str, object]]:
    made: tuple[tuple[object, ...], dict[str, object]] = inputs.map_tensors(
        lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, value
    )
    return made


def _range_of(layer: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
    axis = 1 if isinstance(layer, _ConvNd) else data.dim() - 1
    rows = data.movedim(axis, 0).flatten(1)
    low, high = rows.amin(1).double().cpu(), rows.amax(1).double().cpu()
    if isinstance(layer, _ConvNd) and layer.groups > 1 and not isinstance(layer, _ConvTransposeNd):
        low, high = low.reshape(layer.groups, -1).amin(0), high.reshape(layer.groups, -1).amax(0)
    return low, high


def _pads_with_zeros(layer: _ConvNd) -> bool:
    if layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(size > 0 for size in layer.padding)
