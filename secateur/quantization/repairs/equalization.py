"""Cross-layer equalisation: the ranges of the channels between two layers made equal, without changing the network.

Source: Nagel et al. 2019, arXiv:1906.04721, §4.1. f(s · x) = s · f(x) for s > 0 and ReLU, so a layer's output channel
may be divided by s_i and the next layer's input channel multiplied by it. With s_i = √(r1_i · r2_i) / r2_i both have
the range √(r1_i · r2_i). Pairs are gone over until nothing changes. It helps weights with one step for all channels
most; with a step per channel only activations and the input channels of weights are left to gain.

The paper's bias absorption (§4.1.3) is not done: ranges of activations are measured afterwards, not assumed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.quantization.profiles import clip_bounds
from secateur.quantization.repairs.layers import LayerParameters, layers_of, tensor_of, write
from secateur.quantization.rewriting import aten, operator_of
from secateur.quantization.simulation import Simulation

PASSES = 100
SETTLED = 1e-3  # largest |ln s| of a pass after which nothing is worth changing
DEAD = 1e-5  # a channel whose range is below this share of the layer's largest is left as it is

_EVERYWHERE = frozenset(("relu", "clamp_min", "leaky_relu"))
_SCALING = _EVERYWHERE | {f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg") for dims in (1, 2)}
"""Operators f with f(s · x) = s · f(x) for s > 0: of each value by itself, and of each channel of a map."""


@dataclass(frozen=True)
class EqualizedPair:
    """Two layers whose common channels were scaled.

    Attributes:
        first: the layer whose output channels were divided.
        second: the layer whose input channels were multiplied.
        channels: how many there are.
        spread_before: largest range of an output channel of ``first`` over the geometric mean of all.
        spread_after: the same afterwards.
    """

    first: str
    second: str
    channels: int
    spread_before: float
    spread_after: float


@dataclass(frozen=True)
class Equalization:
    """What was equalised.

    Attributes:
        pairs: in the order of the graph.
        skipped: layer → why what follows it was not equalised with it.
        passes: how often all pairs were gone over.
        replaced: names of the nodes of ReLU6 that became ReLU.
    """

    pairs: tuple[EqualizedPair, ...]
    skipped: Mapping[str, str]
    passes: int
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Pair:
    first: LayerParameters
    second: LayerParameters
    places: int  # inputs of the second per channel: more than 1 behind a flattened map
    clips: tuple[fx.Node, ...]  # ReLU6 between them


def equalize(simulation: Simulation, *, replace_relu6: bool = False) -> Equalization:
    """Equalise the ranges of weights across layers, in place; calibrate and set ranges afterwards.

    Pairs are layers with nothing but ReLU, leaky ReLU, pooling and flattening between them, read by nothing else, with
    parameters of their own. The histograms are emptied and rounding is turned off where something changed, because
    activations have other ranges then.

    Args:
        simulation: any.
        replace_relu6: turn ReLU6 (and other clips at a height) between two layers into ReLU first, as the paper does
            for MobileNetV2 (§5.1.1). That changes the network; without it such pairs are left out.
    """
    layers = layers_of(simulation)
    pairs, skipped = _pairs(layers, replace_relu6=replace_relu6)
    replaced = _replace_clips(simulation, pairs)
    weights = {
        layer.weight: _Magnitudes(layer, tensor_of(simulation, layer.weight))
        for pair in pairs
        for layer in (pair.first, pair.second)
    }
    factors = [torch.ones(pair.first.shape[0], dtype=torch.float64) for pair in pairs]
    before = [_spread(weights[pair.first.weight].of_outputs()) for pair in pairs]
    passes, largest = 0, math.inf if pairs else 0.0
    while passes < PASSES and largest >= SETTLED:
        largest = max([_scale(pair, weights, total) for pair, total in zip(pairs, factors, strict=True)])
        passes += 1
    after = [_spread(weights[pair.first.weight].of_outputs()) for pair in pairs]
    if pairs:
        for pair, total in zip(pairs, factors, strict=True):
            _apply(simulation, pair, total)
        simulation.forget()
        simulation.round_(on=False)
        simulation.module.recompile()
    found = tuple(
        EqualizedPair(pair.first.operator.name, pair.second.operator.name, pair.first.shape[0], *spreads)
        for pair, *spreads in zip(pairs, before, after, strict=True)
    )
    return Equalization(found, skipped, passes, replaced)


def _pairs(layers: Mapping[str, LayerParameters], *, replace_relu6: bool) -> tuple[list[_Pair], dict[str, str]]:
    by_node = {layer.node: layer for layer in layers.values()}
    pairs, skipped = [], {}
    for name, layer in layers.items():
        found = _follow(layer, by_node, replace_relu6=replace_relu6)
        if isinstance(found, _Pair):
            pairs.append(found)
        else:
            skipped[name] = found
    return pairs, skipped


def _follow(first: LayerParameters, by_node: Mapping[fx.Node, LayerParameters], *, replace_relu6: bool) -> _Pair | str:
    """Return the pair that begins with a layer, or why there is none."""
    if reason := _unfit(first):
        return reason
    node, clips, flat = first.node, [], False
    linear = operator_of(first.node) == "linear"
    while True:
        if len(node.users) != 1:
            return "several operators read what it gives" if node.users else "nothing reads what it gives"
        (node,) = node.users
        if node in by_node:
            break
        bounds = clip_bounds(node)
        if bounds is not None and bounds[1] != math.inf:
            if not replace_relu6:
                return f"a clip at {bounds[1]:g} follows it, which scaling would move"
            clips.append(node)
        elif not linear and (_flattens(node) or _averages_maps(node)):
            flat = True
        elif node.op != "call_module" and operator_of(node) not in (_EVERYWHERE if flat or linear else _SCALING):
            return "it gives the result" if node.op == "output" else f"aten.{operator_of(node)} follows it"
    second = by_node[node]
    if reason := _unfit(second):
        return f"{second.operator.name} follows it, and {reason}"
    if (operator_of(second.node) == "linear") != (linear or flat):
        return f"{second.operator.name} follows it, which reads another dimension than its channels"
    outputs, inputs = first.shape[0], second.shape[1] * second.groups
    if inputs % outputs:
        return f"{second.operator.name} follows it, which reads {inputs} inputs, not a multiple of {outputs}"
    return _Pair(first, second, inputs // outputs, tuple(clips))


def _unfit(layer: LayerParameters) -> str:
    if operator_of(layer.node).startswith("conv_transpose"):
        return "transposed convolutions are left as they are"
    if layer.shared:
        return "its parameters serve several calls"
    if not layer.weight or (len(layer.node.args) > 2 and layer.node.args[2] is not None and not layer.bias):
        return "its parameters are computed"
    return ""


def _flattens(node: fx.Node) -> bool:
    """Return whether a map (N, C, …) becomes (N, C · …)."""
    if operator_of(node) not in ("flatten", "reshape", "view"):
        return False
    source, shape = node.args[0].meta.get("shape"), node.meta.get("shape")  # type: ignore[union-attr]
    return source is not None and shape is not None and len(source) > 2 == len(shape) and shape[0] == source[0]


def _averages_maps(node: fx.Node) -> bool:
    """Return whether a mean over all places of a map gives one number per channel, (N, C)."""
    if operator_of(node) != "mean":
        return False
    source, shape = node.args[0].meta.get("shape"), node.meta.get("shape")  # type: ignore[union-attr]
    dims = node.args[1] if len(node.args) > 1 else None
    if source is None or shape is None or len(shape) != 2 or not isinstance(dims, list):
        return False
    return sorted(dim % len(source) for dim in dims) == list(range(2, len(source)))


class _Magnitudes:
    """The largest |weight| between each input and each output channel: all that ranges depend on, and much less."""

    def __init__(self, layer: LayerParameters, weight: Tensor) -> None:
        largest = weight.detach().abs().flatten(2).amax(2) if weight.dim() > 2 else weight.detach().abs()
        # (groups, outputs of a group, inputs of a group)
        self.values = largest.double().cpu().view(layer.groups, -1, weight.shape[1]).clone()

    def of_outputs(self) -> Tensor:
        """Return the range of each output channel, (outputs,)."""
        return self.values.amax(2).flatten()

    def of_inputs(self) -> Tensor:
        """Return the range of each input, (inputs,)."""
        return self.values.amax(1).flatten()

    def scale(self, *, outputs: Tensor | None = None, inputs: Tensor | None = None) -> None:
        groups, rows, columns = self.values.shape
        if outputs is not None:
            self.values *= outputs.view(groups, rows, 1)
        if inputs is not None:
            self.values *= inputs.view(groups, 1, columns)


def _scale(pair: _Pair, weights: Mapping[str, _Magnitudes], total: Tensor) -> float:
    """Equalise one pair, multiply ``total`` by its s, and return the largest |ln s|."""
    first, second = weights[pair.first.weight], weights[pair.second.weight]
    r1, r2 = first.of_outputs(), second.of_inputs().view(-1, pair.places).amax(1)
    alive = (r1 > DEAD * r1.max()) & (r2 > DEAD * r2.max())
    s = torch.where(alive, (r1 / r2.clamp(min=1e-300)).sqrt(), torch.ones_like(r1))
    first.scale(outputs=1 / s)
    second.scale(inputs=s.repeat_interleave(pair.places))
    total *= s
    return float(s.log().abs().max())


def _apply(simulation: Simulation, pair: _Pair, s: Tensor) -> None:
    """Divide the first layer's output channels by s, and multiply the second's input channels by it."""
    first, second = (tensor_of(simulation, layer.weight).detach() for layer in (pair.first, pair.second))
    s = s.to(device=first.device, dtype=first.dtype)
    changed = {pair.first.weight: first / s.view(-1, *[1] * (first.dim() - 1))}
    if pair.first.bias:
        changed[pair.first.bias] = tensor_of(simulation, pair.first.bias).detach() / s
    inputs = second.reshape(pair.second.groups, -1, second.shape[1], second[0, 0].numel())
    inputs = inputs * s.repeat_interleave(pair.places).view(pair.second.groups, 1, -1, 1)
    changed[pair.second.weight] = inputs.view(second.shape)
    write(simulation, changed)


def _spread(ranges: Tensor) -> float:
    alive = ranges[ranges > DEAD * ranges.max()]
    return float(alive.max() / alive.log().mean().exp()) if len(alive) else 1.0


def _replace_clips(simulation: Simulation, pairs: list[_Pair]) -> tuple[str, ...]:
    """Turn clips at a height into ReLU, and let the sites behind them know."""
    clips = [node for pair in pairs for node in pair.clips]
    for node in clips:
        node.target, node.args, node.kwargs = aten.relu.default, node.args[:1], {}
        for user in node.users:
            if user.op == "call_module" and user.meta["site"] in simulation.sites:
                simulation.sites[user.meta["site"]].bounds = (0.0, math.inf)
    return tuple(node.name for node in clips)
