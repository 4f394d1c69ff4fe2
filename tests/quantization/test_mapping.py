"""Reals to integers and back: examples worked by hand, ONNX Runtime beside it, and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import QuantizationError
from secateur.quantization import Spec, affine_of, fake_quantize, range_of
from secateur.quantization.mapping import TINY
from secateur.randomness import generator_for

WEIGHTS = Spec(signed=True, symmetric=True)
PER_CHANNEL = Spec(signed=True, symmetric=True, axis=0)
ACTIVATIONS = Spec(signed=False, symmetric=False)
SIGNED = Spec(signed=True, symmetric=False)
SPECS = [
    Spec(bits=bits, signed=signed, symmetric=symmetric)
    for bits in range(2, 9)
    for signed, symmetric in ((True, True), (True, False), (False, False))
]


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator_for("mapping", name))


def test_integers_of_each_spec() -> None:
    limits = {(spec.bits, spec.signed, spec.symmetric): (spec.lowest, spec.highest) for spec in SPECS}
    assert limits[8, True, True] == (-127, 127)
    assert limits[8, True, False] == (-128, 127)
    assert limits[8, False, False] == (0, 255)
    assert limits[7, True, True] == (-63, 63)
    assert limits[4, False, False] == (0, 15)
    assert limits[2, True, True] == (-1, 1)
    assert Spec(signed=False, symmetric=True).highest == 255


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(QuantizationError, match=f"integers of {bits} bits: choose from 2 to 8"):
        Spec(bits=bits, signed=True, symmetric=True)


def test_symmetric_by_hand() -> None:
    mapping = affine_of((-2.0, 12.7), WEIGHTS)
    assert (float(mapping.step), int(mapping.zero_point)) == (pytest.approx(0.1), 0)
    x = torch.tensor([0.0, 0.1, -0.24, 12.7, 99.0, -99.0])
    assert mapping.quantize(x).tolist() == [0, 1, -2, 127, 127, -127]
    assert mapping.fake(x).tolist() == pytest.approx([0, 0.1, -0.2, 12.7, 12.7, -12.7])


def test_affine_by_hand() -> None:
    # 2.55 in 255 steps of 0.01; −0.51 is 51 of them below zero.
    mapping = affine_of((-0.51, 2.04), ACTIVATIONS)
    assert (float(mapping.step), int(mapping.zero_point)) == (pytest.approx(0.01), 51)
    x = torch.tensor([0.0, -0.51, 2.04, 1.0, 9.0, -9.0])
    assert mapping.quantize(x).tolist() == [51, 0, 255, 151, 255, 0]
    assert mapping.fake(x).tolist() == pytest.approx([0, -0.51, 2.04, 1.0, 2.04, -0.51])
    signed = affine_of((-0.51, 2.04), SIGNED)
    assert int(signed.zero_point) == 51 - 128
    assert signed.quantize(x).tolist() == [51 - 128, -128, 127, 151 - 128, 127, -128]
    low, high = signed.range
    assert (float(low), float(high)) == (pytest.approx(-0.51), pytest.approx(2.04))


def test_a_relus_range_starts_at_the_lowest_integer() -> None:
    assert int(affine_of((0.0, 5.0), ACTIVATIONS).zero_point) == 0
    assert int(affine_of((0.0, 5.0), SIGNED).zero_point) == -128


@pytest.mark.parametrize("reach", [1.0, 0.1, 3.3, 1e-3, 7e5])
def test_a_zero_point_between_two_integers_is_the_even_one(reach: float) -> None:
    assert int(affine_of((-reach, reach), ACTIVATIONS).zero_point) == 128  # of 127.5
    assert int(affine_of((-reach, reach), SIGNED).zero_point) == 0  # of −0.5


@pytest.mark.parametrize("ends", [(3.0, 5.0), (0.0, 5.0)])
def test_a_range_is_widened_to_hold_zero(ends: tuple[float, float]) -> None:
    mapping = affine_of(ends, ACTIVATIONS)
    assert (float(mapping.step), int(mapping.zero_point)) == (pytest.approx(5 / 255), 0)


def test_half_goes_to_the_even_integer() -> None:
    mapping = affine_of((-127.0, 127.0), WEIGHTS)
    halves = torch.tensor([0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 126.5])
    assert mapping.quantize(halves).tolist() == [0, 2, 2, 4, 0, -2, -2, 126]


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=25, deadline=None)
@given(
    ends=st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
)
def test_laws_of_every_mapping(spec: Spec, ends: tuple[float, float], values: list[float]) -> None:
    low, high = sorted(ends)
    mapping = affine_of((low, high), spec)
    x = torch.tensor([0.0, low, high, *values])
    integers = mapping.quantize(x)
    assert integers.dtype == (torch.int8 if spec.signed else torch.uint8)
    assert spec.lowest <= int(integers.min())
    assert int(integers.max()) <= spec.highest
    if spec.symmetric:
        assert int(integers.min()) >= -(2 ** (spec.bits - 1)) + 1  # −128 at 8 bit is never emitted
    real = mapping.dequantize(integers)
    assert real[0] == 0
    assert torch.equal(mapping.fake(x), real)
    assert torch.equal(mapping.quantize(real), integers)
    inside = (x >= low) & (x <= high)
    # Within the range half a step, and as much again where rounding the zero point moved the range.
    assert ((x - real).abs()[inside] <= mapping.step * 1.001 + 1e-6 * x.abs()[inside]).all()


@pytest.mark.parametrize("value", [0.0, TINY, -TINY / 2])
@pytest.mark.parametrize("spec", [WEIGHTS, ACTIVATIONS, SIGNED])
def test_tiny_ranges_give_zeros(value: float, spec: Spec) -> None:
    mapping = affine_of((min(value, 0.0), max(value, 0.0)), spec)
    x = torch.tensor([value, 0.0, value / 3])
    assert mapping.fake(x).tolist() == [0, 0, 0]
    assert 0 < float(mapping.step) < 1


def test_each_channel_has_its_step() -> None:
    weight = torch.tensor([[1.27, -0.5], [0.0, 0.0], [-2.54, 1.0]])
    mapping = affine_of(range_of(weight, PER_CHANNEL), PER_CHANNEL)
    # The channel of zeros takes the largest step, and none that would leave no room for its bias.
    assert mapping.step.tolist() == pytest.approx([0.01, 0.02, 0.02])
    assert mapping.quantize(weight).tolist() == [[127, -50], [0, 0], [-127, 50]]
    assert torch.equal(mapping.fake(weight), mapping.dequantize(mapping.quantize(weight)))


def test_channels_of_a_transposed_convolution_lie_along_dimension_1() -> None:
    weight = normal(4, 3, 2, 2)
    spec = Spec(signed=True, symmetric=True, axis=1)
    mapping = affine_of(range_of(weight, spec), spec)
    turned = affine_of(range_of(weight.transpose(0, 1), PER_CHANNEL), PER_CHANNEL)
    assert mapping.step.shape == (3,)
    assert torch.equal(mapping.fake(weight), turned.fake(weight.transpose(0, 1)).transpose(0, 1))


def test_refusals_say_what_was_given() -> None:
    with pytest.raises(QuantizationError, match="a range from 2 to 1; give finite numbers, the lowest first"):
        affine_of((2.0, 1.0), WEIGHTS)
    with pytest.raises(QuantizationError, match="a range from 0 to nan"):
        affine_of((0.0, float("nan")), WEIGHTS)
    with pytest.raises(QuantizationError, match="a range from -inf to 0"):
        affine_of((-float("inf"), 0.0), WEIGHTS)
    with pytest.raises(QuantizationError, match="give one number per index of dimension 0"):
        affine_of((0.0, 1.0), PER_CHANNEL)
    with pytest.raises(QuantizationError, match="no number below 0"):
        affine_of((-1.0, 1.0), Spec(signed=False, symmetric=True))
    with pytest.raises(QuantizationError, match=r"a tensor of shape \(0, 3\) has no range"):
        range_of(torch.zeros(0, 3), WEIGHTS)


# The same numbers in a real runtime.


def quantized_by_onnx_runtime(x: Tensor, step: Tensor, zero_point: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    kind = kinds.INT8 if spec.signed else kinds.UINT8
    axis = {} if spec.axis is None else {"axis": spec.axis}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], **axis),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"], **axis),
        ],
        "both",
        [helper.make_tensor_value_info("x", kinds.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(name, of, list(x.shape)) for name, of in (("q", kind), ("y", kinds.FLOAT))],
        [
            helper.make_tensor("step", kinds.FLOAT, list(step.shape), step.reshape(-1).tolist()),
            helper.make_tensor("zero", kind, list(zero_point.shape), zero_point.reshape(-1).tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    q, y = session.run(None, {"x": np.ascontiguousarray(x.numpy())})
    return torch.from_numpy(q), torch.from_numpy(y)


@pytest.mark.parametrize("spec", [WEIGHTS, ACTIVATIONS, SIGNED, PER_CHANNEL], ids=str)
def test_onnx_runtime_gives_the_same_integers_and_reals(spec: Spec) -> None:
    x = 3 * normal(8, 50_000)
    mapping = affine_of(range_of(x * 0.7, spec), spec)  # so that some is clipped
    if spec.symmetric:
        # ONNX knows int8 only, so −128 is kept out by the mapping: the runtime may saturate one step further.
        low, high = (end if spec.axis is None else end[:, None] for end in mapping.range)
        x = torch.minimum(torch.maximum(x, low), high)
    q, y = quantized_by_onnx_runtime(x, mapping.step, mapping.zero_point, spec)
    assert torch.equal(mapping.quantize(x), q)
    assert torch.equal(mapping.fake(x), y)


@pytest.mark.parametrize("step", [0.25, 1.0, 2.0**-7])
def test_ties_fall_alike_here_in_torch_and_in_onnx_runtime(step: float) -> None:
    halves = (torch.arange(-400, 400).float() / 2) * step
    size, zero = torch.tensor(step), torch.tensor(100, dtype=torch.int32)
    ours = fake_quantize(halves, size, zero, ACTIVATIONS)
    torchs = torch.fake_quantize_per_tensor_affine(halves, step, 100, 0, 255)
    _, runtimes = quantized_by_onnx_runtime(halves, size, zero, ACTIVATIONS)
    assert torch.equal(ours, torchs)
    assert torch.equal(ours, runtimes)


@pytest.mark.parametrize("spec", [WEIGHTS, ACTIVATIONS, SIGNED], ids=str)
def test_torchs_operator_differs_at_ties_only(spec: Spec) -> None:
    x = 3 * normal(200_000)
    mapping = affine_of(range_of(x * 0.7, spec), spec)
    limits = (spec.lowest, spec.highest)
    torchs = torch.fake_quantize_per_tensor_affine(x, mapping.step, mapping.zero_point, *limits)
    apart = mapping.fake(x) != torchs
    # torch multiplies by 1 / step, where ONNX divides.
    from_tie = ((x / mapping.step).remainder(1) - 0.5).abs()
    assert int(apart.sum()) <= 4
    assert (from_tie[apart] < 1e-4).all()


def test_gradients_are_those_of_torch() -> None:
    x = 3 * normal(1000)
    mapping = affine_of((-2.0, 3.0), ACTIVATIONS)
    sent = normal(1000, name="sent")
    ours, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mapping.fake(ours).backward(sent)
    torch.fake_quantize_per_tensor_affine(torchs, mapping.step, mapping.zero_point, 0, 255).backward(sent)
    assert torch.equal(ours.grad, torchs.grad)
    assert 0 < int((ours.grad == 0).sum()) < 1000


@pytest.mark.parametrize("axis", [None, 1])
def test_a_learned_step_gets_the_published_gradient(axis: int | None) -> None:
    spec = Spec(bits=3, signed=True, symmetric=True, axis=axis)
    x = torch.tensor([[0.26, 1.4], [5.0, -9.0]])
    step = (torch.tensor(0.5) if axis is None else torch.tensor([0.5, 1.0])).requires_grad_()
    fake_quantize(x, step, torch.zeros(step.shape, dtype=torch.int32), spec).sum().backward()
    # round(x/s) − x/s inside; −3 or 3 where clipped.
    if axis is None:
        assert float(step.grad) == pytest.approx((1 - 0.52) + (3 - 2.8) + 3 - 3)
    else:
        assert step.grad.tolist() == pytest.approx([(1 - 0.52) + 3, (1 - 1.4) - 3])
