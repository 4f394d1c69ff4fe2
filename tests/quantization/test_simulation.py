import copy
import math
from pathlib import Path

import pytest
import torch
from captured_networks import Neck, images, lively, sqnr_db
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.errors import ArtifactError, DataError, QuantizationError
from secateur.graph import apply, trace
from secateur.models.cifar_resnet import CifarResNet
from secateur.quantization import Simulation, capture, fold_batch_norm, simulate
from secateur.sparse import Masks

SHAPE = (2, 3, 16, 16)


def network(shortcut: str = "B") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(CifarResNet(8, shortcut=shortcut))


def calibrated(model: nn.Module, *, calibrator: str = "max", **settings: object) -> Simulation:
    simulation = simulate(model, images(*SHAPE), **settings)
    assert simulation.calibrate([images(8, *SHAPE[1:], seed=1), images(4, *SHAPE[1:], seed=2)]) == 12
    simulation.set_ranges(calibrator)
    return simulation


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return calibrated(network())


@pytest.fixture
def x() -> Tensor:
    return images(5, *SHAPE[1:], seed=3)


def test_without_rounding_it_is_the_folded_model_bitwise(simulation: Simulation, x: Tensor) -> None:
    graph_module = capture(network(), images(*SHAPE))
    fold_batch_norm(graph_module)
    with torch.no_grad():
        wanted = graph_module(x)
        with simulation.unrounded():
            torch.testing.assert_close(simulation.module(x), wanted, rtol=0, atol=0)
        with simulation.observing():
            torch.testing.assert_close(simulation.module(x), wanted, rtol=0, atol=0)
        assert not torch.equal(simulation.module(x), wanted)
        for batch in (1, 3):
            torch.testing.assert_close(simulation.module(x[:batch]), simulation.module(x)[:batch])


def test_eight_bits_cost_little_and_fewer_cost_more(x: Tensor) -> None:
    model = network()
    with torch.no_grad():
        exact = model(x)
        found = {
            bits: sqnr_db(exact, calibrated(model, weight_bits=bits, activation_bits=bits).module(x))
            for bits in (8, 6, 4)
        }
    # About 6 dB per bit; 8 bits of random weights over 8 layers leave 34 dB.
    assert found[8] > 30
    assert found[8] > found[6] + 8 > found[4] + 16


@pytest.mark.parametrize("profile", ["cpu-no-vnni", "tensorrt"])
def test_other_targets_are_near_too(profile: str, x: Tensor) -> None:
    model = network("A")
    simulation = calibrated(model, profile=profile)
    with torch.no_grad():
        assert sqnr_db(model(x), simulation.module(x)) > 24
    if profile == "cpu-no-vnni":
        weight = simulation.module.get_parameter("conv1.weight")
        assert int(simulation.affine("conv1.weight").quantize(weight).abs().max()) == 63
    else:
        assert all(int(site.zero_point.abs().max()) == 0 for site in simulation.sites.values())


def test_a_convolution_is_what_integers_give() -> None:
    # The accumulator Σ (x − zero) · w + bias in int64, requantised, is the simulation's output to the integer.
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    simulation = calibrated(lively(model))
    x = images(4, *SHAPE[1:], seed=4)
    inputs, weight, output = (simulation.affine(name) for name in ("inputs.input", "0.weight", "0.output"))
    x_int = inputs.quantize(x).double() - inputs.zero_point
    w_int = weight.quantize(simulation.module.get_parameter("0.weight")).double()
    bias_site = simulation.bias_sites["0.bias"]
    b_int = bias_site.quantize(simulation.module.get_parameter("0.bias")).double()
    total = torch.nn.functional.conv2d(x_int, w_int, b_int, padding=1)
    assert float(total.abs().max()) < 2**31
    factor = inputs.step.double() * weight.step.double() / output.step.double()
    wanted = (total * factor.view(-1, 1, 1)).round().clamp(0, 255)
    with torch.no_grad():
        found = output.quantize(simulation.module(x)).double()
    assert float((wanted - found).abs().max()) <= 1  # a tie, where float32 falls to the other side
    assert float((wanted != found).double().mean()) < 1e-3


def test_a_bias_beyond_int32_widens_the_steps_of_its_weights() -> None:
    model = nn.Conv2d(3, 2, 1).eval()
    with torch.no_grad():
        model.weight[0], model.bias[0] = 1e-6, 3000.0
        model.weight[1], model.bias[1] = 0.0, 0.7  # a removed filter: its bias stays precise
    simulation = calibrated(model)
    site = simulation.bias_sites["bias"]
    integers = site.quantize(model.bias)
    assert 2**30 < int(integers[0]) <= 2**31 - 1
    torch.testing.assert_close(integers.double() * site.step, model.bias.detach().double(), rtol=1e-6, atol=1e-6)


def test_masked_weights_stay_zero() -> None:
    model = network()
    masks = Masks({n: torch.rand(p.shape) > 0.6 for n, p in model.named_parameters() if p.dim() == 4})
    masks.apply_(model)
    simulation = calibrated(model)
    for name in masks:
        integers = simulation.affine(name).quantize(simulation.module.get_parameter(name))
        assert int(integers[~masks[name]].abs().max()) == 0
        assert int(integers.abs().max()) == 127


def test_a_cut_network_is_simulated_like_any_other(x: Tensor) -> None:
    model = network()
    graph = trace(model, images(*SHAPE))
    plan = graph.plan({group.name: range(0, group.size, 2) for group in graph.groups if group.prunable})
    small = apply(model, plan, verify_with=images(*SHAPE)).eval()
    simulation = calibrated(small)
    with torch.no_grad():
        assert sqnr_db(small(x), simulation.module(x)) > 28
    assert simulation.placement.float_operators == ()


def test_partial_quantization(simulation: Simulation, x: Tensor) -> None:
    names = list(simulation.operators)
    with torch.no_grad():
        full = simulation.module(x)
        with simulation.unrounded():
            exact = simulation.module(x)
        simulation.float_operators(names)
        assert not simulation.rounds
        torch.testing.assert_close(simulation.module(x), exact, rtol=0, atol=0)
        simulation.round_()
        torch.testing.assert_close(simulation.module(x), exact, rtol=0, atol=0)
        simulation.float_operators(["conv1"])
        simulation.round_()
        # What the next operator reads is still in integers; the input and the weight are not.
        assert simulation.left_in_float == {"inputs.x", "conv1.weight"}
        assert not simulation.bias_sites["conv1.bias"].rounds
        assert not torch.equal(simulation.module(x), full)
        simulation.float_sites([])
        simulation.round_()
        torch.testing.assert_close(simulation.module(x), full, rtol=0, atol=0)
        with simulation.only(["conv1"]):
            rounded = {name for name, site in simulation.sites.items() if site.mode == "quantize"}
            assert rounded == {"inputs.x", "conv1.weight", "conv1.output"}
        with simulation.all_but(names[1:]):
            assert rounded == {name for name, site in simulation.sites.items() if site.mode == "quantize"}
    with pytest.raises(QuantizationError, match=r"'conv1.weigh'.*conv1.weight"):
        simulation.float_sites(["conv1.weigh"])
    with pytest.raises(QuantizationError, match=r"'layer1.0.con1'.*layer1.0.conv1"):
        simulation.float_operators(["layer1.0.con1"])


def test_the_state_comes_back_from_a_file(simulation: Simulation, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    simulation.float_sites(["linear.weight"])
    simulation.sites["conv1.output"].learn()
    simulation.save(path)
    other = simulate(lively(CifarResNet(8, shortcut="B")), images(*SHAPE))
    other.load(path)
    with torch.no_grad():
        torch.testing.assert_close(other.module(x), simulation.module(x), rtol=0, atol=0)
    assert other.left_in_float == {"linear.weight"}
    assert other.sites["conv1.output"].learned
    assert other.images == 12
    simulation.sites["conv1.output"].freeze()
    simulation.float_sites([])

    fewer = simulate(network(), images(*SHAPE), weight_bits=4)
    with pytest.raises(ArtifactError, match=r"'weight_bits': 8.*'weight_bits': 4"):
        fewer.load(path)
    with pytest.raises(ArtifactError, match=r"does not fit this model"):
        simulate(network("A"), images(*SHAPE)).load(path)
    tensors = load_file(path)
    save_file(tensors, tmp_path / "plain.safetensors")
    before = copy.deepcopy(other.module.state_dict())
    with pytest.raises(ArtifactError, match="is no simulation"):
        other.load(tmp_path / "plain.safetensors")
    torch.testing.assert_close(other.module.state_dict(), before, rtol=0, atol=0)


def test_a_deep_copy_of_the_module_stands_alone(simulation: Simulation, x: Tensor) -> None:
    copied = copy.deepcopy(simulation.module)
    with torch.no_grad():
        wanted = simulation.module(x)
        torch.testing.assert_close(copied(x), wanted, rtol=0, atol=0)
        copied.get_submodule("quantizers.inputs.x").step.mul_(3)
        site = copied.get_submodule("quantizers.conv1.bias")
        assert site.input_site is copied.get_submodule("quantizers.inputs.x")
        assert not torch.equal(copied(x), wanted)
        torch.testing.assert_close(simulation.module(x), wanted, rtol=0, atol=0)


def test_dictionaries_come_out_as_the_model_gives_them() -> None:
    model = lively(Neck())
    simulation = simulate(model, images(2, 3, 32, 32))
    simulation.calibrate([images(4, 3, 32, 32)])
    simulation.set_ranges()
    y = images(3, 3, 32, 32, seed=5)
    with torch.no_grad():
        wanted, found = model(y), simulation.module(y)
    assert list(found) == ["fine", "coarse"]
    assert all(sqnr_db(wanted[key], found[key]) > 25 for key in wanted)


def test_refused_calibration(simulation: Simulation) -> None:
    fresh = simulate(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), images(*SHAPE))
    with pytest.raises(QuantizationError, match=r"inputs.input saw no values"):
        fresh.set_ranges()
    with pytest.raises(DataError, match="there are no calibration images"):
        fresh.calibrate([])
    with pytest.raises(DataError, match=r"\(3, 8, 8\), but the model was captured for \(3, 16, 16\)"):
        fresh.calibrate([images(2, 3, 8, 8)])
    broken = images(*SHAPE)
    broken[0, 0, 0, 0] = math.nan
    with pytest.raises(QuantizationError, match=r"inputs.input gives NaN on a calibration image"):
        fresh.calibrate([images(*SHAPE), broken])
    assert fresh.images == 0
    assert fresh.sites["inputs.input"].histogram.count == 0
    assert {site.mode for site in fresh.sites.values()} == {"off"}
    fresh.calibrate([(images(*SHAPE) * 60 + 120, torch.zeros(2))])
    assert "looks unnormalised" in fresh.set_ranges()["inputs.input"]


def test_every_value_is_counted_once(simulation: Simulation) -> None:
    counted = {name: simulation.sites[name].histogram.count for name in simulation.placement.activations}
    seen = counted["linear.output"] // 10
    assert seen >= 12
    assert counted["inputs.x"] == seen * 3 * 16 * 16
    assert counted["layer2.0.add.output"] == seen * 32 * 8 * 8
