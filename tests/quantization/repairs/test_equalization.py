"""Cross-layer equalisation: ranges meet in the middle, and the network computes what it computed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.quantization import Simulation, equalize, simulate
from secateur.quantization.repairs import Judge
from secateur.torchvision_shim import import_torchvision

Simulated = Callable[..., Simulation]


def unevened(model: nn.Module) -> nn.Module:
    """Make the channels of every convolution unequal, so that there is something to do."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                factors = torch.rand(len(module.weight), generator=draws) * 3 + 0.05
                module.weight *= factors.view(-1, *[1] * (module.weight.dim() - 1))
    return model.eval()


def outputs(simulation: Simulation, x: Tensor) -> Tensor:
    with torch.no_grad(), simulation.unrounded():
        return simulation.module(x)


def layer(name: str, simulation: Simulation) -> Tensor:
    return simulation.module.get_parameter(f"{name}.weight").detach()


def test_two_layers_by_hand() -> None:
    # r1 = (4, 1), r2 = (1, 9): s = √(r1 r2) / r2 = (2, 1/3), and both ranges become √(r1 r2) = (2, 3).
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([2.0, 1.0]))
        model[2].weight.copy_(torch.tensor([[-1.0, 9.0]]))
    simulation = simulate(model.eval(), torch.randn(2, 1))
    found = equalize(simulation)
    torch.testing.assert_close(layer("0", simulation), torch.tensor([[2.0], [-3.0]]))
    torch.testing.assert_close(simulation.module.get_parameter("0.bias").detach(), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(layer("2", simulation), torch.tensor([[-2.0, 3.0]]))
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.channels) == ("0", "2", 2)
    assert pair.spread_before == pytest.approx(2)  # 4 / √(4 · 1)
    assert pair.spread_after == pytest.approx(3 / 6**0.5)
    assert found.skipped == {"2": "it gives the result"}


def test_the_network_stays_the_same_and_ranges_are_equal(task: object, images: Tensor, model: nn.Module) -> None:
    net = unevened(type(model)())
    simulation = simulate(net, images[:2])
    before = outputs(simulation, images)
    found = equalize(simulation)
    torch.testing.assert_close(outputs(simulation, images), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    # Depthwise (8 groups), through max pooling, inside the branch, behind the flattened map (4 places per channel).
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("stem.0", "stem.3"),
        ("stem.3", "wide.0"),
        ("branch.0", "branch.3"),
        ("neck.0", "head.0"),
        ("head.0", "head.2"),
    ]
    for first, second, inputs in (
        ("stem.0", "stem.3", lambda w: w.flatten(1).abs().amax(1)),
        ("stem.3", "wide.0", lambda w: w.abs().amax((0, 2, 3))),
        ("neck.0", "head.0", lambda w: w.view(20, 12, 4).abs().amax((0, 2))),
        ("head.0", "head.2", lambda w: w.abs().amax(0)),
    ):
        out = layer(first, simulation).flatten(1).abs().amax(1)
        torch.testing.assert_close(out, inputs(layer(second, simulation)), rtol=5e-3, atol=0)
    assert found.skipped["wide.0"] == "several operators read what it gives"
    assert found.skipped["branch.3"] == "aten.add follows it"


def test_it_helps_weights_with_one_step(simulated: Simulated, images: Tensor, others: Tensor, model: nn.Module) -> None:
    uneven = copy.deepcopy(model)
    with torch.no_grad():
        # The same function with unequal channels: what training may leave, and what one step per weight cannot hold.
        factors = torch.logspace(-1, 1, 12)
        uneven.neck[0].weight *= factors.view(-1, 1, 1, 1)
        uneven.neck[0].bias *= factors
        uneven.head[0].weight /= factors.repeat_interleave(4)
    simulation = simulate(uneven, images[:2], per_tensor_weights=True)
    simulation.calibrate([images])
    simulation.set_ranges()
    judge = Judge(simulation, [others])
    before = judge.sqnr_db()
    equalize(simulation)
    assert not simulation.rounds
    assert simulation.images == 0
    simulation.calibrate([images])
    simulation.set_ranges()
    assert judge.sqnr_db() > before + 3


def test_relu6_is_left_out_or_replaced(images: Tensor, model: nn.Module) -> None:
    net = unevened(type(model)(nn.ReLU6))
    simulation = simulate(net, images[:2])
    found = equalize(simulation)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("head.0", "head.2")]
    assert found.skipped["stem.0"] == "a clip at 6 follows it, which scaling would move"
    assert simulation.sites["stem.0.output"].bounds == (0, 6)

    plain = type(model)(nn.ReLU).eval()
    plain.load_state_dict(net.state_dict())
    simulation = simulate(net, images[:2])
    found = equalize(simulation, replace_relu6=True)
    assert len(found.pairs) == 5
    assert len(found.replaced) == 4
    with torch.no_grad():
        torch.testing.assert_close(outputs(simulation, images), plain(images), rtol=1e-4, atol=1e-4)
    assert simulation.sites["stem.0.output"].bounds == (0, float("inf"))
    assert simulation.sites["wide.0.output"].bounds == (0, 6)


def test_dead_channels_and_flattened_sequences_stay() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)
            self.wide, self.last = nn.Linear(9, 5), nn.Linear(15, 2)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.second(torch.relu(self.first(x)))
            return self.last(torch.relu(self.wide(maps.flatten(2))).flatten(1))

    model = Odd().eval()
    with torch.no_grad():
        model.first.weight[1] = 1e-12
        model.first.bias[1] = 3.0
        model.second.weight[:, 2] = 0
    x = torch.randn(8, 2, 3, 3)
    simulation = simulate(model, x[:2])
    before = outputs(simulation, x)
    found = equalize(simulation)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("first", "second")]
    torch.testing.assert_close(outputs(simulation, x), before, rtol=1e-5, atol=1e-5)
    assert float(simulation.module.get_parameter("first.bias").detach()[1]) == 3.0
    assert "flatten" in found.skipped["second"]
    assert "flatten" in found.skipped["wide"]


@pytest.mark.parametrize(("name", "pairs"), [("mobilenet_v2", 2), ("resnet18", 8)])
def test_published_networks(name: str, pairs: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(import_torchvision().models, name)(weights=None).eval()
    x = torch.randn(2, 3, 32, 32)
    simulation = simulate(model, x)
    before = outputs(simulation, x)
    found = equalize(simulation)
    torch.testing.assert_close(outputs(simulation, x), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    assert len(found.pairs) == pairs
    assert found.passes < 100
