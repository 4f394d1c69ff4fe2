import math

import pytest
import torch
import torch.nn.functional as F
from captured_networks import Neck, images, lively, torchvision_model
from torch import Tensor, fx, nn

from secateur.errors import QuantizationError
from secateur.models.cifar_resnet import CifarResNet
from secateur.models.densenet import DenseNet
from secateur.quantization import PROFILES, Quantizer, Simulation, simulate
from secateur.quantization.rewriting import operator_of


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def made(model: nn.Module, *shape: int, profile: str = "cpu") -> Simulation:
    return simulate(lively(model), images(*(shape or (2, 3, 8, 8))), profile=profile)


def nodes(simulation: Simulation, operator: str) -> list[fx.Node]:
    return [node for node in simulation.module.graph.nodes if operator_of(node) == operator]


def calls(simulation: Simulation) -> list[str]:
    return [str(node.target) for node in simulation.module.graph.nodes if node.op == "call_module"]


class Residual(nn.Module):
    """Convolution, pool, a residual branch, ReLU, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv(3, 4), conv(4, 4), conv(4, 4)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x).relu(), 2)
        x = (x + self.second(self.first(x).relu())).relu()
        return self.head(x.flatten(1))


def test_a_residual_network_by_hand() -> None:
    simulation = made(Residual())
    placement = simulation.placement
    assert placement.float_operators == ()
    assert placement.activations == (
        "inputs.x",
        "stem.0.output",
        "first.0.output",
        "second.0.output",
        "add.output",
        "head.output",
    )
    assert list(placement.weights) == ["stem.0.weight", "first.0.weight", "second.0.weight", "head.weight"]
    assert list(placement.biases) == ["stem.0.bias", "first.0.bias", "second.0.bias", "head.bias"]
    found = {name: (entry.reads, entry.writes) for name, entry in placement.operators.items()}
    assert found == {
        "stem.0": (("inputs.x",), "stem.0.output"),
        "first.0": (("stem.0.output",), "first.0.output"),
        "second.0": (("first.0.output",), "second.0.output"),
        "add": (("stem.0.output", "second.0.output"), "add.output"),
        "head": (("add.output",), "head.output"),
    }
    # The pool and the flatten stay on the integers of what they read: no call behind them.
    assert len(calls(simulation)) == 6 + 4 + 4
    (pool,), (flat,) = nodes(simulation, "max_pool2d"), nodes(simulation, "flatten")
    assert (pool.meta["site"], flat.meta["site"]) == ("stem.0.output", "add.output")
    assert "site" not in nodes(simulation, "add")[0].meta  # a sum before its ReLU is on no integers


@pytest.mark.parametrize("profile", PROFILES)
def test_the_form_of_the_graph(profile: str) -> None:
    simulation = made(Residual(), profile=profile)
    module = simulation.module
    for node in nodes(simulation, "conv2d") + nodes(simulation, "linear"):
        x, weight = node.args[:2]
        assert isinstance(module.get_submodule(weight.target), Quantizer)
        assert weight.args[0].op == "get_attr"
        assert weight.meta["site"] in simulation.placement.weights
        assert x.meta["site"] in simulation.placement.activations
        bias = node.args[2]
        assert bias.op == ("call_module" if PROFILES[profile].rounds_bias else "get_attr")
    for name, site in simulation.sites.items():
        assert module.get_submodule(f"quantizers.{name}") is site
        assert site.site == name
    for name, site in simulation.bias_sites.items():
        assert site.input_site in simulation.sites.values(), name
        assert "step" not in dict(site.named_buffers())


def test_the_zero_point_behind_a_relu_is_zero() -> None:
    simulation = made(CifarResNet(14, shortcut="A"), 2, 3, 16, 16)
    simulation.calibrate([images(4, 3, 16, 16)])
    simulation.set_ranges("percentile-99.9")
    behind = [name for name, site in simulation.sites.items() if site.bounds == (0.0, math.inf)]
    relus = len(nodes(simulation, "relu"))
    assert relus == len(behind) == 13
    assert all(int(simulation.sites[name].zero_point) == 0 for name in behind)
    assert any(int(simulation.sites[name].zero_point) > 0 for name in simulation.placement.activations)


def test_padding_shortcuts_share_the_site_of_what_they_pad() -> None:
    simulation = made(CifarResNet(8, shortcut="A"), 2, 3, 16, 16)
    assert simulation.placement.float_operators == ()
    for node in nodes(simulation, "pad"):
        assert node.meta["site"].endswith("add.output")
    assert [entry.reads for name, entry in simulation.operators.items() if name == "layer2.0.add"] == [
        ("layer2.0.conv2.output", "layer1.0.add.output")
    ]


def test_relu6_is_taken_in_and_never_exceeds_its_bound() -> None:
    simulation = made(nn.Sequential(conv(3, 4), nn.ReLU6(), conv(4, 4, 1)))
    simulation.calibrate([images(4, 3, 8, 8) * 100])
    simulation.set_ranges("max")
    site = simulation.sites["0.0.output"]
    assert site.bounds == (0.0, 6.0)
    assert float(site.step) <= 6 / 255 + 1e-9
    assert int(site.zero_point) == 0


def test_silu_and_hardswish_have_inner_sites() -> None:
    simulation = made(nn.Sequential(conv(3, 4), nn.SiLU(), conv(4, 4), nn.Hardswish(), conv(4, 2)))
    operators = simulation.operators
    assert (operators["1.sigmoid"].reads, operators["1.sigmoid"].writes) == (("0.0.output",), "1.sigmoid.output")
    assert operators["1.mul"].reads == ("0.0.output", "1.sigmoid.output")
    assert operators["3.mul"].reads == ("2.0.output", "3.hardsigmoid.output")
    assert simulation.sites["1.sigmoid.output"].bounds == (0.0, 1.0)
    (only,) = simulation.placement.float_operators
    assert (only.operator, only.module_path) == ("aten.hardsigmoid", "3")
    assert "no integer kernel" in only.reason


class Joined(nn.Module):
    """Two branches and a concatenation; ``kind`` says what lies behind the branches."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.first, self.second, self.last = conv(3, 4), conv(4, 4), conv(4, 4), conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        first, second = self.first(x), self.second(x)
        if self.kind != "signed":
            first = first.relu()
        if self.kind == "both clipped":
            second = second.relu()
        if self.kind == "read elsewhere":
            first = first.relu()
            second = second.relu()
            return self.last(torch.cat([first, second], 1)) + first.mean((2, 3), keepdim=True)[:, :2]
        return self.last(torch.cat([first, second], 1))


def test_operands_of_a_concatenation_share_one_site() -> None:
    for kind in ("signed", "both clipped"):
        simulation = made(Joined(kind))
        operator = simulation.operators["cat"]
        assert operator.reads == ("first.0.output", "first.0.output")
        assert operator.writes == "first.0.output"
        assert nodes(simulation, "cat")[0].meta["site"] == "first.0.output"
        assert "second.0.output" not in simulation.sites
        assert simulation.sites["first.0.output"].bounds[0] == (0.0 if kind == "both clipped" else -math.inf)


def test_an_operand_behind_a_relu_keeps_its_zero_point() -> None:
    simulation = made(Joined("one clipped"))
    cat = nodes(simulation, "cat")[0]
    assert simulation.operators["first.0"].writes == "first.0.output"
    assert simulation.sites["first.0.output"].bounds == (0.0, math.inf)
    # It is brought to the shared site before it is joined, so that joining is a copy.
    assert [entry.meta["site"] for entry in cat.args[0]] == ["second.0.output", "second.0.output"]
    assert cat.args[0][0].args[0].meta["site"] == "first.0.output"
    assert cat.meta["site"] == "second.0.output"


def test_an_operand_that_others_read_keeps_its_own_site() -> None:
    simulation = made(Joined("read elsewhere"))
    assert simulation.operators["first.0"].writes == "first.0.output"
    assert simulation.operators["second.0"].writes == "second.0.output"
    assert simulation.operators["cat"].writes == "second.0.output"


def test_dense_blocks_run_their_concatenations_in_integers() -> None:
    simulation = made(DenseNet(10), 2, 3, 16, 16)
    reasons = {(entry.operator, entry.reason) for entry in simulation.placement.float_operators}
    assert ("aten.batch_norm", "no convolution before it to be folded into") in reasons
    assert all(entry.source.startswith("densenet.py:") for entry in simulation.placement.float_operators)
    convolutions = [name for name, entry in simulation.operators.items() if entry.operator == "aten.conv2d"]
    assert len(convolutions) == len(nodes(simulation, "conv2d")) == 9
    assert len([entry for entry in simulation.operators.values() if entry.kind == "cat"]) == 6


def test_a_neck_runs_in_integers_but_for_nothing() -> None:
    simulation = made(Neck(), 2, 3, 32, 32)
    assert simulation.placement.float_operators == ()
    (up,) = nodes(simulation, "upsample_nearest2d")
    assert "site" in up.meta


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_networks_run_in_integers_throughout(name: str) -> None:
    simulation = simulate(torchvision_model(name), images(2, 3, 64, 64))
    assert simulation.placement.float_operators == ()
    assert set(simulation.placement.weights) == {
        node.target
        for node in simulation.module.graph.nodes
        if node.op == "get_attr" and simulation.module.get_parameter(node.target).dim() > 1
    }


def test_every_operator_is_either_in_integers_or_listed_or_moves_integers() -> None:
    for model, shape in ((Neck(nn.Hardswish), (2, 3, 32, 32)), (DenseNet(7), (2, 3, 8, 8)), (Mixed(), (2, 3, 8, 8))):
        simulation = made(model, *shape)
        listed = {entry.node for entry in simulation.placement.float_operators}
        integer = {entry.node for entry in simulation.operators.values()}
        assert not listed & integer
        for node in simulation.module.graph.nodes:
            if node.op == "call_function" and node.meta["dtype"] == torch.float32:
                vanishes = operator_of(node) in ("relu", "hardtanh")
                assert node.name in listed | integer or "site" in node.meta or vanishes, node


class Mixed(nn.Module):
    """Operators that no target has in integers, each between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = conv(3, 4), conv(4, 4), nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.register_buffer("shift", torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = self.up(self.second(x * 2 + self.shift))
        return F.pad(x, (1, 1), value=0.5) - 1


def test_reasons_of_operators_in_float() -> None:
    simulation = made(Mixed())
    found = {entry.operator: entry.reason for entry in simulation.placement.float_operators}
    assert found == {
        "aten.group_norm": "the target cpu has no integer form of aten.group_norm",
        "aten.mul": "one operand is a number",
        "aten.add": "one operand is a stored tensor",
        "aten.conv_transpose2d": "ONNX Runtime has no integer kernel for transposed convolutions",
        "aten.pad": "it pads with 0.5, which need not have an integer",
        "aten.sub": "the target cpu has no integer form of aten.sub",
    }


def test_tensorrt_rounds_what_is_read_and_leaves_one_operand_of_a_sum() -> None:
    simulation = made(Residual(), profile="tensorrt")
    assert simulation.operators["add"].reads == ("stem.0.output", "")
    assert simulation.operators["second.0"].writes == ""
    assert simulation.operators["head"].writes == ""
    assert simulation.bias_sites == {}
    transposed = made(nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 6, 2)), profile="tensorrt")
    assert transposed.sites["1.weight"].spec.axis == 1
    assert transposed.sites["1.weight"].step.shape == (6,)


def test_what_cannot_be_simulated_is_one_sentence() -> None:
    with pytest.raises(QuantizationError, match=r"unknown target 'cpus'.*cpu"):
        simulate(nn.Conv2d(3, 4, 1), images(2, 3, 4, 4), profile="cpus")
    with pytest.raises(QuantizationError, match="integers of 9 bits"):
        simulate(nn.Conv2d(3, 4, 1), images(2, 3, 4, 4), weight_bits=9)
    with pytest.raises(QuantizationError, match="ReLU has no operator that the target cpu executes in integers"):
        simulate(nn.ReLU(), images(2, 3, 4, 4))
