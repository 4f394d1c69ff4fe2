"""What ONNX Runtime runs in float, and the reason in words: small graphs, one per case, in real sessions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from qdq_graphs import CHANNELS, Graph

from secateur.errors import ArtifactError
from secateur.export.int8.executed import executed

Build = Callable[[Graph, int], str]


def conv(g: Graph, z: int, name: str = "a") -> str:
    return g.conv(g.quantized("x", zero_point=z), name)


def conv_relu(g: Graph, z: int) -> str:
    return g.quantized(g.op("Relu", conv(g, z)), zero_point=z)


def clipped(g: Graph, z: int, step: float) -> str:
    return g.quantized(
        g.op("Clip", conv(g, z), g.constant(np.float32(0)), g.constant(np.float32(6))), zero_point=z, step=step
    )


def silu(g: Graph, z: int, *, inner: bool) -> str:
    result = conv(g, z)
    result = g.quantized(result, zero_point=z + 100) if inner else result
    sigmoid = g.op("Sigmoid", result)
    sigmoid = g.quantized(sigmoid, zero_point=z) if inner else sigmoid
    return g.quantized(g.op("Mul", result, sigmoid), zero_point=z + 5)


def residual(g: Graph, z: int) -> str:
    first = conv_relu(g, z)
    second = g.quantized(g.conv(first, "b"), zero_point=z + 128)
    return g.quantized(g.op("Relu", g.op("Add", first, second)), zero_point=z)


def pooled(g: Graph, z: int) -> str:
    return g.quantized(g.op("GlobalAveragePool", g.quantized("x", zero_point=z)), zero_point=z)


def head(g: Graph, z: int, flat: str) -> str:
    return g.quantized(g.op("Gemm", flat, g.weight(10, CHANNELS, name="fc"), transB=1), zero_point=z + 128)


def with_bias(g: Graph, z: int, factor: float) -> str:
    weight = g.weight(CHANNELS, CHANNELS, 3, 3, name="a")
    steps = np.frombuffer(g.constants[1].raw_data, np.float32) * np.float32(0.02 * factor)
    how = (g.constant(steps), g.constant(np.zeros(CHANNELS, np.int32)))
    bias = g.op("DequantizeLinear", g.constant(np.arange(CHANNELS, dtype=np.int32)), *how, axis=0)
    return g.quantized(g.op("Conv", g.quantized("x", zero_point=z), weight, bias, kernel_shape=[3, 3]), zero_point=z)


def split(g: Graph, z: int, *, again: bool) -> str:
    halves = ["half0", "half1"]
    g.nodes.append(helper.make_node("Split", [conv_relu(g, z)], halves, axis=1, num_outputs=2))
    first, second = [g.quantized(half, zero_point=z) if again else half for half in halves]
    return g.quantized(g.op("Concat", second, first, axis=1), zero_point=z)


def pool(g: Graph, z: int, step: float) -> str:
    return g.quantized(g.op("MaxPool", g.quantized("x", zero_point=z), kernel_shape=[2, 2]), zero_point=z, step=step)


def resized(g: Graph, z: int, mode: str) -> str:
    sizes = g.constant(np.array([1, 1, 2, 2], np.float32))
    return g.quantized(g.op("Resize", g.quantized("x", zero_point=z), "", sizes, mode=mode), zero_point=z)


def floats(g: Graph) -> str:
    return g.constant(g.random.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32), "a.weight")


INTEGER: dict[str, Build] = {
    "a float weight, which the runtime rounds by itself": lambda g, z: g.quantized(
        g.conv(g.quantized("x"), "a", weight=floats(g))
    ),
    "relu": conv_relu,
    "clip": lambda g, z: clipped(g, z, 6 / 255),
    "clip narrow": lambda g, z: clipped(g, z, 4 / 255),
    "silu with inner pairs": lambda g, z: silu(g, z, inner=True),
    "residual": residual,
    "pool, reshape, gemm": lambda g, z: head(g, z, g.op("Reshape", pooled(g, z), g.constant(np.array([0, -1])))),
    "flatten, again": lambda g, z: head(g, z, g.quantized(g.op("Flatten", pooled(g, z)), zero_point=z)),
    "split, again": lambda g, z: split(g, z, again=True),
    "bias": lambda g, z: with_bias(g, z, 1),
    "max pool": lambda g, z: pool(g, z, 0.02),
    "max pool before its pair": lambda g, z: g.quantized(
        g.op("MaxPool", conv(g, z), kernel_shape=[2, 2]), zero_point=z
    ),
    "resize": lambda g, z: resized(g, z, "nearest"),
}

FLOAT: dict[str, tuple[Build, str, str]] = {
    "relu's zero point": (
        lambda g, z: g.quantized(g.op("Relu", conv(g, z)), zero_point=z + 10),
        "Conv",
        "the zero point behind ReLU is 10, not 0",
    ),
    "no pair after": (conv, "Conv", "its result leaves the network and is not quantized"),
    "no pair before": (lambda g, z: g.quantized(g.conv("x", "a")), "Conv", "the network's input is not quantized"),
    "clip's range": (lambda g, z: clipped(g, z, 8 / 255), "Conv", "reach from 0 to 8, beyond its 0 to 6"),
    "silu": (lambda g, z: silu(g, z, inner=False), "Conv", "SiLU"),
    "leaky": (
        lambda g, z: g.quantized(g.op("LeakyRelu", conv(g, z), alpha=0.1)),
        "Conv",
        "LeakyRelu reads its result before it is quantized",
    ),
    "read twice": (
        lambda g, z: g.op("Add", *(g.quantized(c, zero_point=n) for c in [conv(g, z)] for n in (1, 2))),
        "Conv",
        "quantized 2 times",
    ),
    "flatten": (lambda g, z: head(g, z, g.op("Flatten", pooled(g, z))), "Gemm", "Flatten stands between"),
    "split": (lambda g, z: split(g, z, again=False), "Concat", "Split stands between"),
    "bias": (lambda g, z: with_bias(g, z, 3), "Conv", "the step of its bias"),
    "max pool": (lambda g, z: pool(g, z, 0.03), "MaxPool", "steps or zero points before and behind it differ"),
    "resize": (lambda g, z: resized(g, z, "linear"), "Resize", "only by the nearest neighbour, not linear"),
    "float constant": (
        lambda g, z: g.quantized(g.op("Mul", g.quantized("x"), g.constant(np.float32(2)))),
        "Mul",
        "a constant that it reads is not quantized",
    ),
    "bias in float": (
        lambda g, z: g.op(
            "Gemm",
            g.op("Reshape", pooled(g, z), g.constant(np.array([0, -1]))),
            g.weight(10, CHANNELS, name="fc"),
            g.constant(np.ones(10, np.float32)),
            transB=1,
        ),
        "Gemm",
        "its bias is in float, and its result is not quantized",
    ),
    "float weight kept": (
        lambda g, z: g.quantized(g.op("LeakyRelu", g.conv(g.quantized("x"), "a", weight=floats(g)), alpha=1.0)),
        "Conv",
        "its weight is not quantized, which keeps it there",
    ),
    "no kernel": (
        lambda g, z: g.quantized(g.op("HardSigmoid", g.quantized("x"))),
        "HardSigmoid",
        "no integer form of HardSigmoid",
    ),
    "before": (
        lambda g, z: g.quantized(g.op("Sigmoid", g.op("Tanh", g.quantized("x")))),
        "Sigmoid",
        "what Tanh gives it is not quantized",
    ),
}


@pytest.mark.parametrize("case", INTEGER)
def test_these_run_in_integers(case: str, tmp_path: Path) -> None:
    graph = Graph()
    found = executed(graph.save(tmp_path / "net.onnx", INTEGER[case](graph, 0)))
    assert found.operators
    assert found.in_float == (), found.lines()


@pytest.mark.parametrize("case", FLOAT)
def test_these_run_in_float_and_the_reason_is_told(case: str, tmp_path: Path) -> None:
    build, kind, reason = FLOAT[case]
    graph = Graph()
    found = executed(graph.save(tmp_path / "net.onnx", build(graph, 0)))
    told = [operator for operator in found.in_float if operator.kind == kind]
    assert len(told) == 1, found.lines()
    assert reason in str(told[0].reason), told
    assert "none of the known" not in "".join(found.lines())


@pytest.mark.parametrize("build", [residual, lambda g, z: silu(g, z, inner=True)])
def test_signed_activations_that_are_read_twice_run_in_float(build: Build, tmp_path: Path) -> None:
    graph = Graph(signed=True)
    found = executed(graph.save(tmp_path / "net.onnx", build(graph, -128)))
    assert found.counts(("Conv",))[0] == 0
    for operator in found.in_float:
        assert "signed activations are read more than once" in str(operator.reason), operator


def test_signed_activations_that_are_read_once_run_in_integers(tmp_path: Path) -> None:
    graph = Graph(signed=True)
    found = executed(graph.save(tmp_path / "net.onnx", conv_relu(graph, -128)))
    assert (found.counts(), found.in_float) == ((1, 1), ())


def test_modules_are_named_and_fusions_are_seen_through(tmp_path: Path) -> None:
    graph = Graph()
    first = graph.op("Relu", graph.conv("x", "stem.conv"))  # in float, one FusedConv
    second = graph.quantized(graph.conv(graph.quantized(first), "layer.0"), zero_point=9)
    found = executed(graph.save(tmp_path / "net.onnx", graph.op("Tanh", second)))
    assert [(o.kind, o.module, o.precision) for o in found.operators] == [
        ("Conv", "stem.conv", "float"),
        ("Conv", "layer.0", "int8"),
        ("Tanh", "layer.0", "float"),
    ]
    assert found.lines()[0] == "in integers: 1 of 2 Conv, 0 of 1 Tanh"
    assert found.lines()[1] == "Conv stem.conv runs in float: the network's input is not quantized"


def test_a_file_without_pairs_is_all_float(tmp_path: Path) -> None:
    graph = Graph()
    weight = graph.constant(np.ones((CHANNELS, CHANNELS, 3, 3), np.float32), "a.weight")
    total = graph.op("Add", graph.conv("x", "a", weight=weight), "x")
    found = executed(graph.save(tmp_path / "net.onnx", total))
    assert [(o.kind, o.precision) for o in found.operators] == [("Conv", "float"), ("Add", "float")]


@pytest.mark.parametrize("content", [b"", b"not a file of onnx at all"])
def test_what_is_no_onnx_file_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ArtifactError, match="does not exist"):
        executed(path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"net\.onnx"):
        executed(path)


def test_an_operator_that_the_runtime_does_not_have(tmp_path: Path) -> None:
    graph = Graph()
    with pytest.raises(ArtifactError, match=r"ONNX Runtime [\d.]+ cannot run it: .*Unheard"):
        executed(graph.save(tmp_path / "net.onnx", graph.op("Unheard", "x")))
