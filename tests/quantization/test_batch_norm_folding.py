import pytest
import torch
from captured_networks import images, lively
from torch import Tensor, nn

from secateur.quantization import capture, fold_batch_norm
from secateur.quantization.rewriting import operator_of


def folded(model: nn.Module, x: Tensor) -> torch.fx.GraphModule:
    graph_module = capture(model, x)
    fold_batch_norm(graph_module)
    return graph_module


def test_one_channel_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    with torch.no_grad():
        model[0].weight.fill_(3.0)
        model[0].bias.fill_(1.0)
        model[1].running_mean.fill_(2.0)
        model[1].running_var.fill_(4.0)
        model[1].weight.fill_(6.0)
        model[1].bias.fill_(0.5)
    graph_module = folded(model, images(2, 1, 2, 2))
    # 6 / √4 = 3: weight 3 · 3, bias (1 − 2) · 3 + 0.5
    assert graph_module.get_parameter("0.weight").item() == 9.0
    assert graph_module.get_parameter("0.bias").item() == -2.5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda bias: nn.Conv1d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm1d, (2, 4, 9)),
        (lambda bias: nn.Conv3d(2, 6, 2, bias=bias), nn.BatchNorm3d, (2, 2, 4, 4, 4)),
        (lambda bias: nn.Conv2d(4, 6, 3, padding="same", bias=bias), nn.BatchNorm2d, (2, 4, 5, 5)),
        (lambda bias: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=bias), nn.BatchNorm2d, (2, 4, 5, 5)),
        (lambda bias: nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, (2, 4)),
    ],
)
def test_every_kind_of_layer_folds(layer, norm, shape, bias: bool, affine: bool) -> None:
    model = lively(nn.Sequential(layer(bias), norm(6, affine=affine)))
    graph_module = folded(model, images(*shape))
    assert [node for node in graph_module.graph.nodes if operator_of(node) == "batch_norm"] == []
    x = images(*shape, seed=3)
    torch.testing.assert_close(graph_module(x), model(x), rtol=1e-5, atol=1e-5)
    assert sorted(name for name, _ in graph_module.named_parameters()) == ["0.bias", "0.weight"]


class Shared(nn.Module):
    """One convolution called twice: before the same norm, or before different ones, or once without any."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(4, 4, 1, bias=False), kind
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv(x)).relu()
        if self.kind == "same":
            return self.first(self.conv(x))
        return self.second(self.conv(x)) if self.kind == "different" else self.conv(x)


@pytest.mark.parametrize(("kind", "weights"), [("same", 1), ("different", 2), ("bare", 2)])
def test_shared_weights_fold_once_per_norm(kind: str, weights: int) -> None:
    model = lively(Shared(kind))
    graph_module = folded(model, images(2, 4, 3, 3))
    x = images(3, 4, 3, 3, seed=1)
    torch.testing.assert_close(graph_module(x), model(x), rtol=1e-5, atol=1e-5)
    found = [name for name, entry in graph_module.named_parameters() if entry.dim() == 4]
    assert len(found) == weights
    assert "batch_norm" not in [operator_of(node) for node in graph_module.graph.nodes]


class Beside(nn.Module):
    """A convolution whose result is read by a norm and by something else: the norm must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_a_norm_beside_another_reader_stays() -> None:
    model = lively(Beside())
    graph_module = folded(model, images(2, 3, 3, 3))
    assert "batch_norm" in [operator_of(node) for node in graph_module.graph.nodes]
    x = images(2, 3, 3, 3)
    torch.testing.assert_close(graph_module(x), model(x), rtol=0, atol=0)
