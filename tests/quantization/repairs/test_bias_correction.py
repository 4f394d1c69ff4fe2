"""Bias correction: afterwards no channel has a mean error."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import DataError, QuantizationError
from secateur.quantization import Simulation, correct_biases, simulate
from secateur.quantization.repairs import Judge

Simulated = Callable[..., Simulation]


def layer_means(simulation: Simulation, images: Tensor, name: str, *, rounded: bool) -> Tensor:
    """Return the mean of each channel of a layer's output, read by running the graph up to it."""
    node = next(one for one in simulation.module.graph.nodes if one.name == simulation.operators[name].node)
    graph = torch.fx.Graph()
    copied: dict[torch.fx.Node, torch.fx.Node] = {}
    for one in simulation.module.graph.nodes:
        copied[one] = graph.node_copy(one, lambda entry: copied[entry])
        if one is node:
            graph.output(copied[one])
            break
    shortened = torch.fx.GraphModule(simulation.module, graph)
    with torch.no_grad():
        if rounded:
            found = shortened(images)
        else:
            with simulation.unrounded():
                found = shortened(images)
    return found.double().mean([dim for dim in range(found.dim()) if dim != 1])


def test_no_layer_has_a_mean_error_afterwards(simulated: Simulated, images: Tensor, model: nn.Module) -> None:
    simulation, untouched = simulated(weight_bits=4), simulated(weight_bits=4)
    found = correct_biases(simulation, [images])
    layers = [name for name, entry in simulation.operators.items() if entry.weight]
    assert list(found.shifts) == layers
    assert found.skipped == {}
    for name in layers:
        exact = layer_means(untouched, images, name, rounded=False)
        before = (exact - layer_means(untouched, images, name, rounded=True)).abs().max()
        after = (exact - layer_means(simulation, images, name, rounded=True)).abs().max()
        # What is left: the bias is rounded to int32, and sums of float32 differ in the last bits.
        half = float(simulation.bias_sites[simulation.operators[name].bias].step.max()) / 2
        assert float(after) < 1.01 * half + 1e-5
        assert float(before) > 4 * float(after)
    assert set(found.originals) == set(simulation.placement.biases.values())
    for name, value in found.originals.items():
        torch.testing.assert_close(value, untouched.module.get_parameter(name).detach(), rtol=0, atol=0)


def test_the_first_shift_by_hand() -> None:
    # One weight of 0.3 beside one of 1, rounded to 2 bits (−1, 0, 1): 0.3 becomes 0, and 0.3 · mean(x) is missing.
    model = nn.Conv2d(2, 1, 1).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, 0.3]).view(1, 2, 1, 1))
        model.bias.fill_(0.5)
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(16, 2, 4, 4, generator=draws)
    simulation = simulate(model, x[:2], weight_bits=2)
    simulation.calibrate([x])
    simulation.set_ranges()
    simulation.float_sites(["inputs.input"])  # only the weight rounds
    found = correct_biases(simulation, [x[:5], x[5:]])
    wanted = 0.3 * float(x[:, 1].mean())
    assert found.shifts == {"conv2d": pytest.approx(wanted, abs=1e-5)}
    assert float(simulation.module.get_parameter("bias").detach()) == pytest.approx(0.5 + wanted, abs=1e-5)


def test_it_brings_signal_on_other_images(simulated: Simulated, images: Tensor, others: Tensor) -> None:
    simulation = simulated(weight_bits=4, per_tensor_weights=True)
    judge = Judge(simulation, [others])
    before = judge.quality()
    correct_biases(simulation, [images[:40], images[40:]])
    assert judge.quality().sqnr_db > before.sqnr_db + 0.5


def test_layers_in_float_stay_as_they_are(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated(weight_bits=4)
    simulation.float_operators(["wide.0"])
    before = copy.deepcopy(simulation.module.state_dict())
    found = correct_biases(simulation, [images])
    assert "wide.0" not in found.shifts
    changed = {name for name, value in simulation.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{name}.bias" for name in found.shifts}


def test_layers_without_a_bias_and_shared_ones_are_named(images: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.relu(self.again(self.first(x))))

    simulation = simulate(Twice().eval(), images[:2])
    simulation.calibrate([images])
    simulation.set_ranges()
    found = correct_biases(simulation, [images])
    assert found.shifts == {}
    assert found.skipped == {
        "first": "it has no bias",
        "again": "its parameters serve several calls",
        "again_1": "its parameters serve several calls",
    }


def test_bad_input_is_one_sentence(simulated: Simulated, images: Tensor) -> None:
    simulation = simulated()
    with pytest.raises(DataError, match="no images to repair"):
        correct_biases(simulation, [])
    simulation.round_(on=False)
    with pytest.raises(QuantizationError, match="rounds nowhere"):
        correct_biases(simulation, [images])
