"""AdaRound: weights lie on one of their two neighbouring integers, and layers are no worse than rounded to nearest."""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.quantization import Simulation, adaround, simulate
from secateur.quantization.repairs import AdaRoundSettings, Judge
from secateur.quantization.repairs.learned_rounding import beta_at, inverse_rectified_sigmoid, rectified_sigmoid

Simulated = Callable[..., Simulation]
QUICK = AdaRoundSettings(steps=80, learning_rate=0.05)


def test_weights_go_up_or_down_and_no_layer_gets_worse(simulated: Simulated, images: Tensor, others: Tensor) -> None:
    simulation, nearest = simulated(weight_bits=3), simulated(weight_bits=3)
    judge = Judge(simulation, [others])
    before = judge.sqnr_db()
    told: list[tuple[str, int, int]] = []
    found = adaround(simulation, [images], settings=QUICK, progress=lambda *entry: told.append(entry))
    assert judge.sqnr_db() > before + 1
    assert told == [("AdaRound", done, len(found.layers)) for done in range(1, len(found.layers) + 1)]
    assert any(layer.moved > 0.01 for layer in found.layers.values())
    for layer in found.layers.values():
        assert layer.error <= layer.nearest_error
    for site, name in simulation.placement.weights.items():
        affine, original = nearest.affine(site), nearest.module.get_parameter(name).detach()
        torch.testing.assert_close(simulation.affine(site).step, affine.step, rtol=0, atol=0)
        torch.testing.assert_close(found.originals[name], original, rtol=0, atol=0)
        weight = simulation.module.get_parameter(name).detach()
        integers = affine.quantize(weight).float()
        torch.testing.assert_close(affine.fake(weight), weight, rtol=0, atol=0)  # they lie on their integers
        shape = (-1, *[1] * (weight.dim() - 1))
        assert float((integers - original / affine.step.view(shape)).abs().max()) < 1 + 1e-5
        assert -3 <= int(integers.min()) <= int(integers.max()) <= 3


def test_the_same_seed_gives_the_same_weights(simulated: Simulated, images: Tensor) -> None:
    def weights(seed: int) -> list[Tensor]:
        simulation = simulated(weight_bits=3)
        adaround(simulation, [images], settings=AdaRoundSettings(steps=12, learning_rate=0.1, seed=seed))
        return [simulation.module.get_parameter(name).detach() for name in simulation.placement.weights.values()]

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_what_nearest_gets_wrong_by_hand() -> None:
    # y = 0.45 a + 0.35 b with a = b: rounded to nearest both are 0 and y is lost; 1 and 0 give a instead of 0.8 a.
    model = nn.Linear(3, 1, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.45, 0.35]]))
    same = torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    x = torch.cat([torch.zeros(64, 1), same, same], 1)
    simulation = simulate(model, x[:2], weight_bits=2)
    simulation.calibrate([x])
    simulation.set_ranges()
    found = adaround(simulation, [x], settings=AdaRoundSettings(steps=200, learning_rate=0.05))
    weight = simulation.module.get_parameter("weight").detach()
    assert weight.tolist() == [[1, 1, 0]]
    (layer,) = found.layers.values()
    assert layer.moved == pytest.approx(1 / 3)
    # Nearest loses (0.8 a)², this one (0.2 a)², sixteen times less but for the rounding of x.
    assert layer.nearest_error == pytest.approx(0.64 * float(same.square().mean()), rel=0.02)
    assert layer.error == pytest.approx(layer.nearest_error / 16, rel=0.1)


def test_zeros_of_a_mask_stay_zero(simulated: Simulated, model: nn.Module, images: Tensor) -> None:
    masked = copy.deepcopy(model)
    weight = masked.branch[0].weight
    gone = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    with torch.no_grad():
        weight[gone] = 0
    simulation = simulate(masked, images[:2], weight_bits=3)
    simulation.calibrate([images])
    simulation.set_ranges()
    adaround(simulation, [images], settings=QUICK)
    assert float(simulation.module.get_parameter("branch.0.weight").detach()[gone].abs().max()) == 0


def test_the_rectified_sigmoid_and_the_annealing() -> None:
    h = torch.linspace(0, 1, 11)
    torch.testing.assert_close(rectified_sigmoid(inverse_rectified_sigmoid(h)), h)
    assert rectified_sigmoid(torch.tensor([-10.0, 0.0, 10.0])).tolist() == pytest.approx([0, 0.5, 1])
    settings = AdaRoundSettings(steps=101, warm_up=0.0)
    betas = [beta_at(step, settings) for step in range(101)]
    assert betas[0] == 20
    assert betas[50] == pytest.approx(11)
    assert betas[100] == 2
    assert all(before > after for before, after in pairwise(betas))
    with pytest.raises(UsageError, match="steps of AdaRound is 0"):
        AdaRoundSettings(steps=0)
    with pytest.raises(UsageError, match=r"warm_up 1\.0"):
        AdaRoundSettings(warm_up=1.0)
