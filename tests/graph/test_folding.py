"""Folding: layers that compute their weights become plain ones, with equal outputs, exact cuts, and files that load."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cutting import Residual, assert_exact, assert_same_state, images, random_plan, state_of
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from secateur.cli.app import main
from secateur.errors import ArtifactError, ModelError, TraceError
from secateur.export import load, save
from secateur.export.header import Spec
from secateur.graph import apply, fold_weight_standardisation, trace
from secateur.graph.folded_layers import FoldedLayer, folded_layers, refit
from secateur.torchvision_shim import import_torchvision


class Standardised(nn.Conv2d):
    """Weight standardisation as people write it."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(
            x,
            (self.weight - mean) / (deviation + 1e-5),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class Through(Standardised):
    """Standardises and calls its parent's method, which knows of other paddings than zeros."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class Halved(nn.Linear):
    """A linear layer that scales its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, 0.5 * self.weight, bias=self.bias)


class Raised(nn.ConvTranspose2d):
    """A transposed convolution that computes its weight."""

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        return nn.functional.conv_transpose2d(x, self.weight.tanh(), self.bias, self.stride, groups=self.groups)


class Doubled(nn.Conv2d):
    """Does more than a plain layer can."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight.tanh(), self.bias).square()


class Dynamic(nn.Conv2d):
    """A weight that follows the input is no constant."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight * x.mean().tanh(), self.bias)


class Net(nn.Module):
    """One layer under test between two plain ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 8, 3, padding=1), layer
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.layer(x.movedim(1, -1)).movedim(-1, 1) if isinstance(self.layer, nn.Linear) else self.layer(x)
        return self.head(torch.relu(x).mean((2, 3)))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "hand-written": lambda: Standardised(8, 8, 3, stride=2, padding=1, bias=False),
    "grouped and dilated": lambda: Standardised(8, 8, 3, dilation=2, groups=2, padding="same"),
    "circular padding": lambda: Through(8, 8, 3, padding=1, padding_mode="circular"),
    "linear": lambda: Halved(8, 8),
    "transposed": lambda: Raised(8, 8, 2, stride=2, groups=2),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "both at once": lambda: parametrizations.spectral_norm(Standardised(8, 8, 3)),
    "old spectral norm": lambda: spectral_norm(nn.Conv2d(8, 8, 3)),
    "pruning mask": lambda: prune.l1_unstructured(nn.Conv2d(8, 8, 3), "weight", 0.5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folded_layers_compute_the_same_and_are_cut(name: str, tmp_path: Path) -> None:
    model = Net(LAYERS[name]()).double()
    before, given = state_of(model), images().double()
    folded = fold_weight_standardisation(model, given)
    assert model.training
    assert folded.training
    assert folded.layer.training
    model.eval()
    folded.eval()
    for batch in (given, images(size=11).double()):
        torch.testing.assert_close(folded(batch), model(batch), rtol=1e-12, atol=1e-12)
    assert_same_state(model, before)
    assert set(folded_layers(folded)) == {"layer"}
    assert sorted(dict(folded.layer.named_parameters())) in (["bias", "weight"], ["weight"])
    _, plan, small = assert_exact(folded, given)
    assert "layer" in plan.kept
    save(small, tmp_path / "small.safetensors", plan=plan)
    fresh = Net(LAYERS[name]()).double().eval()
    torch.testing.assert_close(load(fresh, tmp_path / "small.safetensors")(given), small(given), rtol=0, atol=0)
    assert not folded_layers(fresh)
    torch.testing.assert_close(load(folded, tmp_path / "small.safetensors")(given), small(given), rtol=0, atol=0)


def test_old_weight_norm_is_folded_though_it_cannot_be_copied() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        model = Net(weight_norm(nn.Conv2d(8, 8, 3))).double().eval()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    folded = fold_weight_standardisation(model, images().double())
    torch.testing.assert_close(folded(images().double()), model(images().double()), rtol=1e-12, atol=1e-12)
    assert "weight_g" in dict(model.layer.named_parameters())


def test_a_standardised_weight_by_hand() -> None:
    layer = Standardised(1, 1, (1, 3), bias=False)
    layer.weight.data = torch.tensor([[[[1.0, 2.0, 6.0]]]])  # mean 3, deviation √7
    folded = fold_weight_standardisation(nn.Sequential(layer).eval(), torch.randn(2, 1, 1, 4))
    expected = torch.tensor([-2.0, -1.0, 3.0]) / (math.sqrt(7) + 1e-5)
    torch.testing.assert_close(folded[0].weight.data.flatten(), expected)
    assert type(folded[0]) is nn.Conv2d
    alone = fold_weight_standardisation(layer, torch.randn(2, 1, 1, 4))  # the model itself is the layer
    torch.testing.assert_close(alone.weight.data.flatten(), expected)


def test_shared_layers_hooks_and_frozen_weights_stay_so() -> None:
    layer = Standardised(8, 8, 3, padding=1).requires_grad_(False)
    model = Net(nn.Sequential(layer, nn.ReLU(), layer))
    layer.register_forward_hook(count := CountCalls())
    folded = fold_weight_standardisation(model, images())
    assert folded.layer[0] is folded.layer[2]
    assert not any(parameter.requires_grad for parameter in folded.layer.parameters())
    seen = count.calls
    folded(images())
    assert len(folded.layer[0]._forward_hooks) == 1
    assert sum(hook.calls for hook in folded.layer[0]._forward_hooks.values()) > 0
    assert count.calls == seen


class CountCalls:
    """Counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize("model", [Residual(), Net(Dynamic(8, 8, 1))])
def test_nothing_to_fold_is_an_error(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="has no layer that computes its weight from its own parameters"):
        fold_weight_standardisation(model, images())


def test_a_layer_that_does_more_is_named() -> None:
    with pytest.raises(ModelError, match=r"module 'layer' \(Doubled\) computes its weight and does more"):
        fold_weight_standardisation(Net(Doubled(8, 8, 1)), images())
    with pytest.raises(TraceError, match="Net does not run on example inputs"):
        fold_weight_standardisation(Net(Standardised(8, 8, 1)), images(channels=4))


def test_a_file_of_a_folded_model_refuses_another_one(tmp_path: Path) -> None:
    folded = fold_weight_standardisation(Net(Standardised(8, 8, 3)), images())
    plan = random_plan(trace(folded, images()))
    save(apply(folded, plan, verify_with=images()), path := tmp_path / "small.safetensors", plan=plan)
    with pytest.raises(ArtifactError, match=r"layer 'layer' holds no weight of shape \(8, 8, 3, 3\), which was folded"):
        load(Net(Standardised(8, 8, 1)), path)
    other = Net(nn.Identity())
    del other.layer
    with pytest.raises(ArtifactError, match="there is no layer 'layer' to fold"):
        load(other, path)


@pytest.mark.parametrize("name", ["nf_resnet26", "dm_nfnet_f0", "resnetv2_50x1_bit"])
def test_timm_networks_with_standardised_weights(name: str) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=3).eval()
    given = torch.randn(1, 3, 33, 33)
    folded = fold_weight_standardisation(model, given)
    kinds = {type(module).__name__ for module in folded.modules() if isinstance(module, nn.Conv2d)}
    assert not any("Std" in kind for kind in kinds)
    for size in (33, 40):
        batch = torch.randn(1, 3, size, size)
        torch.testing.assert_close(folded(batch), model(batch), rtol=1e-4, atol=1e-4)
    graph = trace(folded, given)
    assert graph.prunable_share_of_macs() > 0.85
    assert trace(model, given).prunable_share_of_macs() < 0.2


@pytest.mark.parametrize(
    "layer",
    [
        FoldedLayer(function="conv2d", stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=0),
        FoldedLayer(function="conv2d", stride=(1, 1), padding="everywhere", dilation=(1, 1)),
        FoldedLayer(function="conv2d", stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=3),
        FoldedLayer(function="conv_transpose2d", stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=3),
    ],
)
def test_folded_layers_that_lie_are_refused(layer: FoldedLayer) -> None:
    with pytest.raises(ModelError, match="the layer 'layer' cannot be folded as written"):
        refit(Net(Standardised(8, 8, 3)), {"layer": layer}, {"layer.weight": (8, 8, 3, 3)})


def test_the_spec_of_a_file_takes_known_functions_only() -> None:
    content = {"model_class": "Net", "shapes": {}, "folded": {"layer": {"function": "linear"}}}
    reader = TypeAdapter(Spec)
    assert reader.validate_json(json.dumps(content)).folded == {"layer": FoldedLayer(function="linear")}
    for wrong in ({"function": "eval"}, {}, {"function": "linear", "hook": 1}, {"function": "conv2d", "groups": "2"}):
        with pytest.raises(ValidationError):
            reader.validate_json(json.dumps({**content, "folded": {"layer": wrong}}))


BUILDER = """
import torch
from torch import nn

class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, padding=1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = Standardised(1, 12, 3), Standardised(12, 12, 3), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))
"""


def test_commands_fold_where_they_are_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(BUILDER)
    model = ["--model", f"{tmp_path / 'net.py'}:Net", "--input", "1x8x8"]
    fold = "--fold-weight-standardisation"
    plan, file = str(tmp_path / "plan.json"), str(tmp_path / "small.safetensors")
    assert main(["groups", *model, "--json"]) == 0
    assert not any(g["locked"] is g["approximate"] is None for g in json.loads(capsys.readouterr().out)["groups"][:1])
    assert main(["plan", *model, fold, "--macs", "0.5", "--out", plan]) == 0
    assert main(["apply", plan, *model, fold, "--out", file]) == 0
    assert main(["verify", file, *model, fold]) == 0
    assert "the cut is exact" in capsys.readouterr().out
    assert main(["groups", "--model", "resnet20", fold]) == 2
    assert "there is nothing to fold" in capsys.readouterr().err
