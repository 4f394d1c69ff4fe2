import copy

import pytest
import torch
import torch.nn.functional as F
from captured_networks import Neck, images, lively, torchvision_model
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph import trace
from secateur.models.cifar_resnet import CifarResNet
from secateur.models.densenet import DenseNet
from secateur.quantization import capture, fold_batch_norm, module_paths
from secateur.quantization.rewriting import operator_of


def operators(graph_module: torch.fx.GraphModule) -> list[str]:
    return [operator_of(node) for node in graph_module.graph.nodes if node.op == "call_function"]


def test_the_graph_is_the_model_for_any_batch_and_shares_nothing_with_it() -> None:
    model = lively(CifarResNet(8, shortcut="A"))
    before = copy.deepcopy(model.state_dict())
    graph_module = capture(model, images(1, 3, 16, 16))
    for batch in (1, 2, 5):
        x = images(batch, 3, 16, 16, seed=batch)
        torch.testing.assert_close(graph_module(x), model(x), rtol=0, atol=0)
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in graph_module.named_parameters()} == names
    with torch.no_grad():
        for entry in graph_module.parameters():
            entry.zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.training


def test_training_mode_changes_nothing_in_the_graph() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True))
    graph_module = capture(lively(model), images(2, 3, 8, 8))
    x = images(3, 3, 8, 8)
    torch.testing.assert_close(graph_module.train()(x), model.eval()(x), rtol=0, atol=0)
    assert "dropout" not in operators(graph_module)


def test_paths_are_those_of_the_channel_graph() -> None:
    model, x = lively(CifarResNet(8, shortcut="B")), images(2, 3, 16, 16)
    graph_module = capture(model, x)
    paths = module_paths(graph_module)
    found = {paths[node.name] for node in graph_module.graph.nodes if operator_of(node) in ("conv2d", "linear")}
    assert found == {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    layers = {tensor.name.rpartition(".")[0] for tensor in trace(model, x).tensors}
    assert found <= layers


def test_lines_of_the_models_own_code_are_kept() -> None:
    graph_module = capture(Neck().eval(), images(2, 3, 32, 32))
    cat = next(node for node in graph_module.graph.nodes if operator_of(node) == "cat")
    assert cat.meta["source"].startswith("captured_networks.py:")
    assert cat.meta["shape"] == (None, 16, 16, 16)
    assert cat.meta["dtype"] == torch.float32


class InPlace(nn.Module):
    """Operators in place whose result is read by the old name, by a chain of names, and through a view."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "old name":
            F.relu_(y)
            return y + 1
        if self.kind == "chain":
            z = y.mul_(2).add_(x[:, :1])
            y.relu_()
            return y + z
        if self.kind == "view":
            part = y[:, :2]
            part.mul_(3)
            return y
        if self.kind == "view read later":
            part = y[:, :2]
            y.mul_(3)
            return y[:, :2] + part
        y[:, 0] = 7.0
        return y


@pytest.mark.parametrize("kind", ["old name", "chain", "view", "view read later", "assignment"])
def test_in_place_operators_become_ordinary_ones(kind: str) -> None:
    model = InPlace(kind).eval()
    graph_module = capture(model, images(2, 3, 4, 4))
    x = images(3, 3, 4, 4, seed=1)
    torch.testing.assert_close(graph_module(x), model(x))
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_function"]
    assert not any(isinstance(entry, torch._ops.OpOverload) and entry._schema.is_mutable for entry in targets)


def test_silu_and_hardswish_are_taken_apart() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.Hardswish(inplace=True), nn.ReLU6())
    graph_module = capture(model, images(2, 3, 4, 4))
    assert operators(graph_module) == ["conv2d", "sigmoid", "mul", "conv2d", "hardsigmoid", "mul", "hardtanh"]
    x = images(2, 3, 4, 4)
    torch.testing.assert_close(graph_module(x), model(x))


def test_weights_computed_from_parameters_are_computed_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    graph_module = capture(model.eval(), images(2, 3, 8, 8))
    assert operators(graph_module) == ["conv2d", "conv2d"]
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(graph_module(x), model(x))
    assert int((graph_module.get_parameter("0.weight") == 0).sum()) == 54


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "value":
            return y if y.sum() > 0 else -y
        if self.kind == "batch":
            return y.view(2, -1)
        if self.kind == "breaks":
            raise RuntimeError("it broke")
        self.seen.add_(1)
        return y


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("value", r"Refused cannot be captured by torch.export.* \(test_capture.py, line \d+\): .*; rewrite that line"),
        ("batch", r"Refused fixes its batch size in its code.*; compute sizes from x.shape\[0\]"),
        ("breaks", r"Refused does not run on the example inputs \(test_capture.py, line \d+\): it broke; give inputs"),
        ("buffer", r"aten.add_ writes into seen, which the model keeps \(test_capture.py:\d+\)"),
    ],
)
def test_what_cannot_be_captured_is_one_sentence(kind: str, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        capture(Refused(kind).eval(), images(2, 3, 4, 4))
    assert "\n" not in str(caught.value)


SMALL = {"resnet18": 32, "mobilenet_v2": 32, "efficientnet_b0": 32, "vgg11_bn": 32}


@pytest.mark.parametrize("name", SMALL)
def test_folded_torchvision_networks_compute_what_the_model_does(name: str) -> None:
    _check_folded(torchvision_model(name), images(2, 3, SMALL[name], SMALL[name]), left=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "left"), [("densenet121", 32, 62), ("inception_v3", 96, 0)])
def test_folded_deep_networks_compute_what_the_model_does(name: str, size: int, left: int) -> None:
    _check_folded(torchvision_model(name), images(2, 3, size, size), left=left)


@pytest.mark.parametrize("kind", ["A", "B", "dense", "neck"])
def test_folded_networks_of_ours_and_users_compute_what_the_model_does(kind: str) -> None:
    # The dense network has six norms before ReLU (4 layers, 2 transitions) and one at its end.
    models = {"dense": (DenseNet(10), 9), "neck": (Neck(), 0)}
    model, left = models[kind] if kind in models else (CifarResNet(14, shortcut=kind), 0)
    _check_folded(lively(model), images(2, 3, 32, 32), left=left)


def _check_folded(model: nn.Module, x: Tensor, *, left: int) -> None:
    graph_module = capture(model, x)
    fold_batch_norm(graph_module)
    fresh = torch.cat([x, x.flip(3) * 0.5])
    with torch.no_grad():
        wanted, found = model(fresh), graph_module(fresh)
    for key in wanted if isinstance(wanted, dict) else [None]:
        a, b = (wanted, found) if key is None else (wanted[key], found[key])
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())
    assert operators(graph_module).count("batch_norm") == left
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    assert read == {*dict(graph_module.named_parameters()), *dict(graph_module.named_buffers())}
