"""``PROFILES``: what a target executes in integers, and in which.

The table of ``cpu`` is what ONNX Runtime 1.2x and OpenVINO make of QuantizeLinear/DequantizeLinear pairs on x86, read
from optimised sessions of one operator each: a convolution is executed in integers only if its output is quantized
too; a ReLU vanishes if that output's zero point is 0; an addition needs pairs on both inputs and its output;
transposed convolutions, subtraction, HardSigmoid, batch norm and layer norm have no integer kernel.
"""

import operator
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from secateur.errors import QuantizationError
from secateur.names import unknown_name
from secateur.quantization.folding import CONTRACTIONS
from secateur.quantization.mapping import Spec
from secateur.quantization.rewriting import operator_of

Kind = Literal["contraction", "pointwise", "unary", "cat", "clip", "moving", "float", "none"]

MOVING = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "flatten",
        "reshape",
        "view",
        "_unsafe_view",
        "unflatten",
        "slice",
        "select",
        "narrow",
        "pad",
        "constant_pad_nd",
        "permute",
        "transpose",
        "t",
        "movedim",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "repeat",
        "index_select",
        "index",
        "chunk",
        "split",
        "split_with_sizes",
        "unbind",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "flip",
        "roll",
    ]
)
"""Operators that choose, move or repeat values of their first argument: the result is on the same integers."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A target.

    Attributes:
        name: what it is called.
        summary: one line for ``--help``.
        weights: integers of weights; ``axis`` is set for each operator.
        activations: integers of everything else.
        closed: whether an operator runs in integers only if its output is quantized as well.
        rounds_bias: whether the bias is int32 with the step of input times weight.
        contractions: (x, weight, bias, …) operators that run in integers.
        pointwise: operators of two tensors that do.
        unary: operators of one tensor that do, with a step of their own for the result.
    """

    name: str
    summary: str
    weights: Spec
    activations: Spec
    closed: bool
    rounds_bias: bool
    contractions: frozenset[str]
    pointwise: frozenset[str]
    unary: frozenset[str]

    def with_bits(self, *, weight_bits: int, activation_bits: int) -> "Profile":
        """Return the profile with fewer bits; what it has already fewer of stays.

        Raises:
            QuantizationError: bits are not within 2..8.
        """

        def fewer(spec: Spec, bits: int) -> Spec:
            wanted = replace(spec, bits=bits)  # refuses bits that there are not
            return wanted if bits < spec.bits else spec

        return replace(
            self,
            weights=fewer(self.weights, weight_bits),
            activations=fewer(self.activations, activation_bits),
        )


_POOLS = ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean")
_CPU = Profile(
    name="cpu",
    summary="x86 with VNNI: weights int8 per channel, activations uint8, bias int32 (ONNX Runtime, OpenVINO)",
    weights=Spec(bits=8, signed=True, symmetric=True),
    activations=Spec(bits=8, signed=False, symmetric=False),
    closed=True,
    rounds_bias=True,
    contractions=frozenset(("conv1d", "conv2d", "conv3d", "linear")),
    pointwise=frozenset(("add", "mul")),
    unary=frozenset((*_POOLS, "sigmoid", "leaky_relu")),
)

PROFILES: dict[str, Profile] = {
    "cpu": _CPU,
    "cpu-no-vnni": replace(
        _CPU,
        name="cpu-no-vnni",
        summary="x86 without VNNI: as cpu with 7-bit weights, because sums of two 8-bit products saturate",
        weights=Spec(bits=7, signed=True, symmetric=True),
    ),
    "tensorrt": Profile(
        name="tensorrt",
        summary="TensorRT: weights and activations int8 around zero point 0, bias in float",
        weights=Spec(bits=8, signed=True, symmetric=True),
        activations=Spec(bits=8, signed=True, symmetric=True),
        closed=False,
        rounds_bias=False,
        contractions=frozenset(CONTRACTIONS),
        pointwise=frozenset(("add",)),
        unary=frozenset(_POOLS),
    ),
}
"""Target → what it executes; ``secateur quantize --target`` names one."""


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        QuantizationError: there is none of this name.
    """
    if name not in PROFILES:
        raise QuantizationError(unknown_name("target", name, tuple(PROFILES)))
    return PROFILES[name]


def kind_of(node: fx.Node, profile: Profile) -> tuple[Kind, str]:
    """Return how a profile executes an operator by itself, and the reason where it is ``"float"``.

    ``"none"`` is what has no real numbers for a result: sizes, indices, booleans.
    """
    if node.op != "call_function":
        return "none", ""
    if node.target is operator.getitem:
        source = node.args[0]
        return ("moving", "") if isinstance(source, fx.Node) and operator_of(source) in MOVING else ("none", "")
    name, shape = operator_of(node), node.meta.get("shape")
    if name in MOVING and isinstance(node.args[0], fx.Node):
        return _moving(node, name)
    if not name or (node.meta.get("dtype") is not None and not node.meta["dtype"].is_floating_point):
        return "none", ""
    if name in profile.contractions:
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            return "contraction", ""
        return "float", "its weight is computed from the input"
    if name in profile.pointwise:
        return _pointwise(node)
    if name in profile.unary:
        return _unary(node, name, shape)
    if name in ("cat", "concat"):
        parts = node.args[0]
        if isinstance(parts, list | tuple) and all(
            isinstance(part, fx.Node) and part.op != "get_attr" for part in parts
        ):
            return "cat", ""
        return "float", "it joins a stored tensor"
    if clip_bounds(node) is not None:
        return "clip", ""
    return "float", _REASONS.get(name, f"the target {profile.name} has no integer form of aten.{name}")


def clip_bounds(node: fx.Node) -> tuple[float, float] | None:
    """Return (0, highest) of ReLU, ReLU6 and other clipping from 0 on, or None for another operator."""
    name = operator_of(node)
    if name == "relu":
        return 0.0, float("inf")
    if name in ("hardtanh", "clamp", "clip"):
        defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low, high = (*node.args[1:], *defaults[len(node.args) - 1 :])[:2]
        low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
        if low == 0 and (high is None or isinstance(high, int | float)):
            return 0.0, float("inf") if high is None else float(high)
    if name == "clamp_min" and node.args[1] == 0:
        return 0.0, float("inf")
    return None


def value_bounds(node: fx.Node) -> tuple[float, float]:
    """Return between which numbers an operator's results lie whatever it reads."""
    if operator_of(node) in ("sigmoid", "hardsigmoid", "softmax", "_softmax"):
        return 0.0, 1.0
    return clip_bounds(node) or (-float("inf"), float("inf"))


def _moving(node: fx.Node, name: str) -> tuple[Kind, str]:
    if name in ("pad", "constant_pad_nd"):
        mode = node.args[2] if name == "pad" and len(node.args) > 2 else "constant"
        value = node.args[3 if name == "pad" else 2] if len(node.args) > (3 if name == "pad" else 2) else 0
        if mode == "constant" and value not in (0, None):
            return "float", f"it pads with {value}, which need not have an integer"
    return "moving", ""


def _pointwise(node: fx.Node) -> tuple[Kind, str]:
    if not all(isinstance(entry, fx.Node) and entry.meta.get("shape") is not None for entry in node.args[:2]):
        return "float", "one operand is a number"
    if any(entry.op == "get_attr" for entry in node.all_input_nodes):
        return "float", "one operand is a stored tensor"
    if node.kwargs.get("alpha", 1) != 1:
        return "float", f"it multiplies one operand by {node.kwargs['alpha']}"
    return "pointwise", ""


def _unary(node: fx.Node, name: str, shape: tuple[int | None, ...] | None) -> tuple[Kind, str]:
    source = node.args[0].meta.get("shape") if isinstance(node.args[0], fx.Node) else None
    if source is None or shape is None:
        return "float", "the shape of what it reads is not known"
    if name.startswith("adaptive"):
        places = len(shape) - (2 if name.endswith("2d") else 1)
        pairs = zip(source[places:], shape[places:], strict=False)
        if any(whole is None or part is None or whole % part for whole, part in pairs):
            return "float", "its windows are of unequal size"
    if name == "mean":
        dims = node.args[1] if len(node.args) > 1 else None
        rank = len(source)
        if rank < 3 or not isinstance(dims, list) or sorted(d % rank for d in dims) != list(range(2, rank)):
            return "float", "only a mean over all places of a map has an integer kernel"
    return "unary", ""


_REASONS = {
    "batch_norm": "no convolution before it to be folded into",
    "conv_transpose2d": "ONNX Runtime has no integer kernel for transposed convolutions",
    "hardsigmoid": "ONNX Runtime has no integer kernel for HardSigmoid",
    "scaled_dot_product_attention": "attention stays in float",
    "matmul": "products of two computed tensors stay in float",
    "bmm": "products of two computed tensors stay in float",
}
