"""Every form of convolution: grouped both ways, transposed, one to three dimensions, kernels kept in buffers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, images, prove, reason
from torch import Tensor, nn

from secateur.graph import trace


def through(m: Any, x: Tensor) -> Tensor:
    return m.layers[0](x)


def line(m: Any, x: Tensor) -> Tensor:
    return m.layers[0](x.flatten(2)).unsqueeze(-1)


def volume(m: Any, x: Tensor) -> Tensor:
    return m.layers[0](x.unsqueeze(2)).squeeze(2)


PLANE = {
    "dilated": (nn.Conv2d(8, 6, 3, dilation=2), {"a", "layers.0"}),
    "narrower groups": (nn.Conv2d(8, 8, 3, groups=2), {"a", "layers.0"}),
    "fewer groups": (nn.Conv2d(8, 8, 3, groups=4), {"a"}),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, stride=2), {"a"}),
    "depthwise with multiplier": (nn.Conv2d(8, 24, 3, groups=8), {"a"}),
    "transposed": (nn.ConvTranspose2d(8, 6, 3, stride=2), {"a", "layers.0"}),
    "transposed, narrower groups": (nn.ConvTranspose2d(8, 6, 3, groups=2), {"a", "layers.0"}),
    "transposed, fewer groups": (nn.ConvTranspose2d(8, 8, 3, groups=4), {"a"}),
    "transposed depthwise": (nn.ConvTranspose2d(8, 8, 3, groups=8), {"a"}),
    "transposed depthwise with multiplier": (nn.ConvTranspose2d(8, 16, 3, groups=8), {"a"}),
}


@pytest.mark.parametrize("name", PLANE)
def test_on_a_plane(name: str) -> None:
    layer, cut = PLANE[name]
    prove(Between(through, layer), *cut)


def test_fewer_groups_where_they_are_many_and_small() -> None:
    graph = prove(Between(through, nn.Conv2d(12, 12, 3, groups=6), width=12), "a")
    assert graph.group("a").size == 6


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_on_a_line_and_in_a_volume(groups: int, transposed: bool) -> None:
    flat, deep = (nn.ConvTranspose1d, nn.ConvTranspose3d) if transposed else (nn.Conv1d, nn.Conv3d)
    prove(Between(line, flat(8, 8, 3, groups=groups)), "a")
    prove(Between(volume, deep(8, 8, (1, 3, 3), groups=groups)), "a")


def test_a_blur_kernel_for_every_channel_in_a_buffer_is_cut_along() -> None:
    graph = prove(Between(lambda m, x: F.conv2d(x, m.kernels, groups=x.shape[1])), "a")
    assert {member.parameter for member in graph.group("a").members} >= {"kernels", "out.weight"}


def test_one_blur_kernel_expanded_over_the_channels() -> None:
    prove(Between(lambda m, x: F.conv2d(x, m.kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])), "a")


def test_one_blur_kernel_repeated_ties_all_channels_to_it() -> None:
    model = Between(lambda m, x: F.conv2d(x, m.kernel.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1]))
    assert all(group.size == 1 for group in trace(model.eval(), images()).groups if group.prunable)


def test_a_number_of_groups_written_in_the_code_locks() -> None:
    assert "written in the code" in reason(Between(lambda m, x: F.conv2d(x, m.kernels, groups=8)))


class Blur(nn.Module):
    """As in anti-aliased networks: the kernel is a buffer, the number of channels an attribute."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", torch.rand(1, 1, 3, 3).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.filt, stride=2, groups=self.channels)


def test_a_blur_that_holds_its_number_of_channels() -> None:
    prove(Between(through, Blur(8)), "a")


def test_a_kernel_mixed_from_a_bank_per_sample_locks_what_reads_it() -> None:
    def mixed(m: Any, x: Tensor) -> Tensor:
        batch = x.shape[0]
        routing = m.layers[0](x.mean((2, 3))).sigmoid()
        weight = (routing @ m.layers[1].weight).view(batch * 6, x.shape[1], 1, 1)
        return F.conv2d(x.reshape(1, -1, 8, 8), weight, groups=batch).view(batch, 6, 8, 8)

    model = Between(mixed, nn.Linear(8, 4), nn.Embedding(4, 48))
    assert "grouped convolution whose weight is not a parameter" in reason(model)
