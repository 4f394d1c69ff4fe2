"""Normalisations of activations and of weights: exact per channel and per group, approximate across channels."""

import importlib
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, images, prove, reason
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from secateur.graph import apply, trace
from secateur.torchvision_shim import import_torchvision

# By hand (means and variances of a weight) it is approximate, by an operator of its own it is locked and can be folded.
WHY = re.compile("reduced across channels|normalised over its inputs")


def through(m: Any, x: Tensor) -> Tensor:
    return m.layers[0](x)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_of_a_group_norm_are_cut_whole(groups: int, affine: bool) -> None:
    model = Between(through, nn.GroupNorm(groups, 8, affine=affine))
    graph = prove(model, "a")
    assert graph.group("a").size == groups
    small = apply(model, graph.plan({"a": range(groups - 1)}), verify_with=images())
    layer = small.layers[0]
    assert (layer.num_groups, layer.num_channels) == (groups - 1, 8 // groups * (groups - 1))
    if groups > 2:  # the last group of all cannot be cut
        assert trace(small, images()).group("a").size == groups - 1


def test_one_group_norm_for_two_streams_ties_them() -> None:
    def twice(m: Any, x: Tensor) -> Tensor:
        return torch.cat([m.layers[0](x), m.layers[0](m.layers[1](x))], 1)

    graph = prove(Between(twice, nn.GroupNorm(4, 8, affine=False), nn.Conv2d(8, 8, 1)), "a")
    assert {member.parameter for member in graph.group("a").members} >= {"a.weight", "layers.1.weight"}


def test_a_group_norm_over_a_residual_stream() -> None:
    prove(
        Between(lambda m, x: x + m.layers[1](torch.relu(m.layers[0](x))), nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 1)), "a"
    )


def test_a_single_group_is_approximate_and_a_number_in_the_code_locks() -> None:
    assert "normalised across channels in 1 groups" in reason(Between(through, nn.GroupNorm(1, 8)))
    assert "a number that no GroupNorm module holds" in reason(Between(lambda m, x: F.group_norm(x, 2)))


def test_frozen_batch_norm() -> None:
    import_torchvision()
    from torchvision.ops import FrozenBatchNorm2d

    layer = FrozenBatchNorm2d(8)
    layer.running_mean.uniform_()
    prove(Between(through, layer), "a")


@pytest.mark.parametrize(
    "layer",
    [
        nn.SyncBatchNorm(8),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    ],
    ids=str,
)
def test_per_channel(layer: nn.Module) -> None:
    prove(Between(through, layer), "a")


def test_instance_norm_on_a_line() -> None:
    prove(Between(lambda m, x: m.layers[0](x.flatten(2)).unsqueeze(-1), nn.InstanceNorm1d(8, affine=True)), "a")


def test_layers_of_timm() -> None:
    layers = pytest.importorskip("timm.layers")
    evolved = layers.EvoNorm2dS0(8, groups=4)
    for layer in (layers.BatchNormAct2d(8), layers.FilterResponseNormTlu2d(8), layers.GroupNormAct(8, 4), evolved):
        prove(Between(through, layer), "a")
    response = importlib.import_module("timm.layers.grn").GlobalResponseNorm(8, channels_last=False)
    for layer in (layers.LayerNorm2d(8), response):
        assert "across channels" in reason(Between(through, layer))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: nn.LocalResponseNorm(3)(x), "used as a dimension of space"),
        (lambda m, x: F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2), "across channels"),
        (lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2), "across channels"),
        (lambda m, x: F.normalize(x, dim=1), "across channels"),
        (lambda m, x: x.softmax(1), "by a softmax"),
        (lambda m, x: x * F.cosine_similarity(x, x.flip(2), dim=1).unsqueeze(1), "across channels"),
    ],
    ids=["local response", "rms", "layer", "unit length", "softmax", "cosine"],
)
def test_across_channels(function: Any, expected: str) -> None:
    assert expected in reason(Between(function))


class Standardised(nn.Conv2d):
    """Weight standardisation by a batch norm over the flattened weight."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1, groups=self.groups)


class StandardisedByMoments(nn.Conv2d):
    """The same by mean and variance."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = (self.weight.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        return F.conv2d(x, (self.weight - mean) / deviation, self.bias, padding=1)


@pytest.mark.parametrize(
    "build",
    [
        Standardised,
        StandardisedByMoments,
        lambda *shape, **settings: parametrizations.weight_norm(nn.Conv2d(*shape, **settings)),
    ],
    ids=["by batch norm", "by moments", "weight norm"],
)
def test_weights_normalised_for_each_output_channel(build: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.layers[1](torch.relu(m.layers[0](x)))

    model = Between(forward, build(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    graph = prove(model, "layers.1")
    normalised = next(group for group in graph.groups if "layers.0.bias" in {m.parameter for m in group.members})
    assert normalised.prunable
    assert WHY.search(str(graph.group("a").locked or graph.group("a").approximate))


def test_a_standardised_depthwise_convolution_is_exact() -> None:
    prove(Between(through, Standardised(8, 8, 3, padding=1, groups=8)), "a")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_as_a_hook() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.layers[1](torch.relu(m.layers[0](x)))

    model = Between(forward, nn.utils.weight_norm(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 4, 1))
    assert WHY.search(reason(model))
    assert {"layers.0", "layers.1"} <= {group.name for group in trace(model, images()).groups if group.prunable}


@pytest.mark.parametrize("normed", [parametrizations.spectral_norm, nn.utils.spectral_norm], ids=["new", "hook"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_spectral_norm_divides_every_channel(normed: Any) -> None:
    model = Between(lambda m, x: m.layers[1](m.layers[0](x)), normed(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 4, 1))
    assert "spectral norm of the whole weight" in reason(model)
    found = trace(model, images())
    assert found.group("layers.1").prunable
    assert not found.unknown_ops
