"""Networks of torchvision at several widths: narrowed equals cut, in both modes, with gradients."""

from collections.abc import Iterator

import pytest
import torch
from slimmable_networks import labels, photos
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.graph import ChannelGraph, Plan, apply, narrowed, trace
from secateur.slimmable import plan_of, width_space
from secateur.torchvision_shim import import_torchvision

NETWORKS = ("mobilenet_v2", "resnet50", "densenet121", "shufflenet_v2_x1_0")
TOLERANCE = 1e-5  # of the largest entry


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(import_torchvision().models, name)(num_classes=4)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # it would draw for other shapes
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.double()


def plans(graph: ChannelGraph) -> Iterator[Plan]:
    space = width_space(graph)
    for widths in (space.smallest(), space.uniform(0.6), space.sample(torch.Generator().manual_seed(4))):
        yield plan_of(graph, widths)


def assert_near(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), what


@pytest.mark.parametrize("name", NETWORKS)
def test_narrowed_equals_the_cut_network(name: str) -> None:
    model = network(name)
    images, target = photos(4, 32).double(), labels(4)
    graph = trace(model, images)
    for plan in plans(graph):
        small = apply(model, plan, verify_with=None)
        assert 0 < sum(p.numel() for p in small.parameters()) < graph.params()
        with torch.no_grad(), narrowed(model.eval(), plan):
            assert_near(model(images), small.eval()(images), "eval mode")
        model.zero_grad()
        with narrowed(model.train(), plan):
            loss = F.cross_entropy(model(images), target)
        loss.backward()
        expected = F.cross_entropy(small.train()(images), target)
        expected.backward()
        assert_near(loss, expected, "loss in training mode")
        for tensor_name, parameter in small.named_parameters():
            gradient = model.get_parameter(tensor_name).grad
            for cut in plan.cuts_of.get(tensor_name, ()):
                gradient = gradient.index_select(cut.dim, torch.from_numpy(cut.kept))
            assert_near(gradient, parameter.grad, tensor_name)
