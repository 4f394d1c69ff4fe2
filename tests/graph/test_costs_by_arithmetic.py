"""Costs are arithmetic: against a counter of hooks for random plans, and by hand for activations."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import written_modules as w
from cutting import Residual, count_macs, images, random_plan
from torch import Tensor, nn

from secateur.graph import apply, trace

NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, images()),
    "unet": (w.UNet, images()),
    "transposed": (w.Transposed, images()),
    "grouped-inside": (lambda: w.Grouped(2), images()),
    "grouped-whole": (lambda: w.Grouped(8), images()),
    "line": (w.Line, torch.randn(2, 2, 12)),
    "linear": (w.Mlp, torch.randn(4, 6)),
}


@pytest.mark.parametrize("name", NETS)
def test_macs_and_parameters_of_random_plans(name: str) -> None:
    build, given = NETS[name]
    model = build().eval()
    graph = trace(model, given)
    for seed, share in enumerate((0.1, 0.4, 0.6, 0.9)):
        plan = random_plan(graph, share, seed)
        small = apply(model, plan, verify_with=None)
        assert graph.macs(plan) == count_macs(small, given)
        assert graph.params(plan) == sum(parameter.numel() for parameter in small.parameters())
        assert graph.tensor_bytes(plan) == sum(value.nbytes for value in small.state_dict().values())
        assert graph.activation_bytes(plan) == trace(small, given).activation_bytes()
        assert graph.costs.macs_by_operator(graph.kept_sizes(plan)).sum() == graph.macs(plan)
    assert graph.macs() == count_macs(model, given)
    assert {path for path, _ in graph.costs.compute_names} <= {path for path, _ in model.named_modules()}


@pytest.mark.parametrize("name", NETS)
def test_numbers_are_per_sample(name: str) -> None:
    build, given = NETS[name]
    model = build().eval()
    graph = trace(model, given)
    plan = random_plan(graph)
    for batch in (1, 3, 4):
        other = trace(model, given[:1].repeat(batch, *(1,) * (given.dim() - 1)))
        assert other.macs(plan) == graph.macs(plan)
        assert other.activation_bytes(plan) == graph.activation_bytes(plan)


def test_samples_merged_with_channels_are_still_shared_out() -> None:
    for build in (w.PerChannelFilter, lambda: w.InstanceNorm(True)):
        model = build().eval()
        graphs = [trace(model, torch.randn(batch, 3, 5, 5)) for batch in (1, 2, 3, 5)]
        assert len({graph.macs() for graph in graphs}) == 1
        assert len({graph.activation_bytes() for graph in graphs}) == 1
    # 3 inputs × 6 filters of 3×3 on 3×3 positions, 9 multiply-adds on each of 6 × 9 values, 6 × 2 on 9 positions.
    assert trace(w.PerChannelFilter(), torch.randn(3, 3, 5, 5)).macs() == 162 * 9 + 9 * 54 + 12 * 9


def test_products_of_weights_alone_are_counted_once_per_run() -> None:
    class Made(nn.Module):
        """The weight is a product of two matrices."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.left @ self.right)

    for batch in (1, 2, 3, 4):
        assert trace(Made(), torch.randn(batch, 4)).macs() == 6 * 2 * 4 + 6 * 4


def test_an_operator_by_hand() -> None:
    for layer, given, macs in (
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (1, 3, 8, 8), 3 * 8 * 9 * 16),
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 5, 5), 2 * 8 * 9 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 4 * 6 * 4 * 25),
        (nn.Conv1d(2, 3, 5), (1, 2, 9), 2 * 3 * 5 * 5),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 2 * 3 * 8 * 8),
        (nn.Linear(7, 5), (1, 7), 35),
        (nn.Linear(7, 5), (2, 3, 7), 3 * 35),
        (nn.Bilinear(3, 4, 2), None, 0),
    ):
        if given is not None:
            assert trace(layer, torch.randn(given)).macs() == macs
    attention = w.Attention(0.5)
    # Embedding 4→10, q k v and out 10→10 on 5 tokens; 5×5 scores of 10 values, and 5×5 weights on 10 values.
    assert trace(attention, torch.randn(2, 5, 4)).macs() == 5 * 40 + 4 * 5 * 100 + 2 * 25 * 10


class ByHand(nn.Module):
    def __init__(self, *, in_place: bool, residual: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.residual = nn.ReLU(in_place), residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        y = self.b(x)
        y = y + x if self.residual else y
        return y.flatten(2).transpose(1, 2)


def test_peak_activation_bytes_by_hand() -> None:
    given = torch.randn(3, 2, 4, 4)
    plane = 4 * 4 * 4  # bytes of one channel of one sample: 16 values of 4 bytes
    # conv a: 2 in + 8 out = 10 planes; ReLU: 8 in + 8 out = 16; conv b: 8 + 8 = 16; views are free.
    graph = trace(ByHand(in_place=False, residual=False).eval(), given)
    assert graph.activation_bytes() == 16 * plane
    # ReLU in place is free; conv b still holds input and output.
    assert trace(ByHand(in_place=True, residual=False).eval(), given).activation_bytes() == 16 * plane
    # Residual: at the addition x, b(x) and the sum live together.
    graph = trace(ByHand(in_place=False, residual=True).eval(), given)
    assert graph.activation_bytes() == 24 * plane
    assert trace(ByHand(in_place=True, residual=True).eval(), given).activation_bytes() == 24 * plane


def test_in_place_and_views_are_free_and_the_last_use_ends_a_life() -> None:
    class Chain(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.a, self.out, self.relu = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1), nn.ReLU(in_place)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.a(x))
            x = x.view(x.shape[0], 8, 4, 4).permute(0, 1, 3, 2)[:, :, :, :]
            return self.out(x)

    plane = 4 * 4 * 4
    given = torch.randn(1, 1, 4, 4)
    # a: 1 + 8; ReLU with a copy: 8 + 8; out: 8 + 1.
    assert trace(Chain(False), given).activation_bytes() == 16 * plane
    # In place: never more than 9 planes alive.
    graph = trace(Chain(True), given)
    assert graph.activation_bytes() == 9 * plane

    class Cut(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.relu(self.a(x)))

    graph = trace(Cut(False), given)
    plan = graph.plan({"a": [0, 1, 2]})
    assert graph.activation_bytes(plan) == 6 * plane
    # Three kept channels: 1 + 3 at a, 3 + 3 at ReLU, 3 + 1 at out.


def test_bytes_follow_the_dtype_and_tied_weights_count_once() -> None:
    graph = trace(w.Tied().to(torch.bfloat16), images().to(torch.bfloat16))
    tensors = {id(value): value for value in w.Tied().to(torch.bfloat16).state_dict(keep_vars=True).values()}
    assert graph.tensor_bytes() == sum(value.nbytes for value in tensors.values())
    assert graph.params() == sum(parameter.numel() for parameter in w.Tied().parameters())
    blur = trace(w.BlurPool(), images())  # a buffer that is not saved costs no bytes in the file
    assert blur.tensor_bytes() == sum(value.nbytes for value in w.BlurPool().state_dict().values())
