"""Training with rounding, and where the rounding hurts: on a network that has learned something small."""

from dataclasses import replace

import pytest
import torch
from captured_networks import sqnr_db
from torch import nn

from secateur.data import LabelledImages, MemorySource
from secateur.errors import DataError, QuantizationError
from secateur.quantization import Simulation, noise, one_at_a_time, qat_settings, simulate, train_quantized
from secateur.sparse import KeepMasks, Masks
from secateur.training import Distillation, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=32, learning_rate=0.1, augment=False, weight_decay=1e-4, evaluate_every=0)


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    """Two classes that differ in the sign of a pattern under noise."""
    draws = torch.Generator().manual_seed(0)
    pattern = torch.randn(2, 8, 8, generator=draws)

    def images(count: int) -> LabelledImages:
        labels = torch.arange(count) % 2
        signs = (labels * 2 - 1).view(-1, 1, 1, 1)
        return LabelledImages(torch.randn(count, 2, 8, 8, generator=draws) + 0.3 * signs * pattern, labels)

    source = MemorySource(name="signs", train=images(320), test=images(64), peak=1.0, validation_share=0.2)
    return SupervisedTask(source, settings=SETTINGS, seed=0, device="cpu")


@pytest.fixture(scope="module")
def model(task: SupervisedTask) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    task.train(model, epochs=4)
    return model.eval()


def quantized(task: SupervisedTask, model: nn.Module, bits: int = 8) -> Simulation:
    simulation = simulate(model, task.example_inputs, weight_bits=bits, activation_bits=bits)
    simulation.calibrate(task.batches(4))
    simulation.set_ranges("max")
    return simulation


def test_the_task_evaluates_a_simulation_like_a_model(task: SupervisedTask, model: nn.Module) -> None:
    dense, simulated = task.evaluate(model), task.evaluate(quantized(task, model).module)
    assert dense.top1 > 0.8
    assert abs(dense.top1 - simulated.top1) <= 2 / 64
    assert abs(dense.loss - simulated.loss) < 0.01


@pytest.mark.parametrize("learned", ["none", "all"])
def test_training_recovers_what_few_bits_cost(task: SupervisedTask, model: nn.Module, learned: str) -> None:
    simulation = quantized(task, model, bits=3)
    before = task.evaluate(simulation.module, "train").loss
    steps = {name: site.step.detach().clone() for name, site in simulation.sites.items()}
    settings = replace(qat_settings(SETTINGS), learning_rate=0.02)
    train_quantized(simulation, task, epochs=3, settings=settings, learned_steps=learned)
    assert task.evaluate(simulation.module, "train").loss < before * 0.97
    moved = [name for name, site in simulation.sites.items() if not torch.equal(site.current_step(), steps[name])]
    assert moved == ([] if learned == "none" else list(simulation.sites))
    for name in simulation.placement.weights:
        integers = simulation.affine(name).quantize(simulation.module.get_parameter(name))
        assert -3 <= int(integers.min()) < 0 < int(integers.max()) <= 3


def test_masks_hold_in_training_and_stay_zero_in_integers(task: SupervisedTask, model: nn.Module) -> None:
    masks = Masks({"3.weight": torch.rand(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5})
    simulation = quantized(task, model)
    train_quantized(simulation, task, epochs=1, settings=qat_settings(SETTINGS), hooks=[KeepMasks(masks)])
    integers = simulation.affine("3.weight").quantize(simulation.module.get_parameter("3.weight"))
    assert int(integers[~masks["3.weight"]].abs().max()) == 0


def test_a_learned_step_has_the_gradient_of_the_paper(task: SupervisedTask, model: nn.Module) -> None:
    simulation = quantized(task, model, bits=4)
    site = simulation.sites["inputs.input"]
    site.learn()
    x = task.example_inputs
    site(x).sum().backward()
    affine = site.affine
    low, high = affine.range
    # Esser et al. 2020, Eq. 3: what rounding added inside, the end of the range outside; §2.2: 1/√(n · highest).
    inside = (x >= low) & (x <= high)
    rounded = affine.fake(x) / affine.step
    slope = torch.where(inside, rounded - x / affine.step, rounded)
    wanted = slope.sum() / (x[0].numel() * site.spec.highest) ** 0.5
    torch.testing.assert_close(site.step.grad, wanted, rtol=1e-3, atol=1e-3)


def test_settings_follow_the_published_schedule() -> None:
    found = qat_settings(SETTINGS)
    assert (found.learning_rate, found.learning_rate_min) == (pytest.approx(1e-3), pytest.approx(1e-5))
    assert (found.schedule, found.precision, found.decay_norms_and_biases) == ("cosine", "fp32", False)


def test_refused_training(task: SupervisedTask, model: nn.Module) -> None:
    simulation = simulate(model, task.example_inputs)
    with pytest.raises(QuantizationError, match="rounds nowhere; calibrate it"):
        train_quantized(simulation, task, epochs=1, settings=SETTINGS)
    with pytest.raises(QuantizationError, match=r"'weigths'.*weights"):
        train_quantized(simulation, task, epochs=1, settings=SETTINGS, learned_steps="weigths")
    simulation.calibrate(task.batches(1))
    simulation.set_ranges()
    with pytest.raises(QuantizationError, match="precision is bf16, which rounds before the integers do"):
        train_quantized(simulation, task, epochs=1, settings=replace(SETTINGS, precision="bf16"))


def test_noise_falls_by_six_db_per_bit_and_adds_up(task: SupervisedTask, model: nn.Module) -> None:
    found = {bits: noise(quantized(task, model, bits), task.batches(2)) for bits in (8, 6)}
    sites = [entry.site for entry in found[8]]
    simulation = quantized(task, model)
    assert sites == list(simulation.sites)
    for eight, six in zip(found[8], found[6], strict=True):
        assert 9 < eight.own_db - six.own_db < 15, eight.site
    activations = [entry for entry in found[8] if entry.kind == "activation"]
    # At the input nothing has been lost before; later each site adds to what came.
    assert activations[0].total_db == pytest.approx(activations[0].own_db)
    assert all(entry.total_db < entry.own_db for entry in activations[1:])
    assert all(entry.clipped == 0 for entry in activations[:1])
    logits = simulation.placement.activations[-1]
    with torch.no_grad():
        x = torch.cat([inputs for inputs, _ in task.batches(2)])
        with simulation.unrounded():
            exact = simulation.module(x)
        by_hand = sqnr_db(exact.double(), simulation.module(x).double())
    assert next(entry.total_db for entry in found[8] if entry.site == logits) == pytest.approx(by_hand, abs=1e-3)
    with pytest.raises(DataError, match="no images to measure noise on"):
        noise(simulation, [])


def test_one_operator_at_a_time(task: SupervisedTask, model: nn.Module) -> None:
    simulation = quantized(task, model, bits=3)
    x = torch.cat([inputs for inputs, _ in task.batches(2)])
    with torch.no_grad(), simulation.unrounded():
        exact = simulation.module(x)

    def error(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(x) - exact).square().mean())

    full, told = error(simulation.module), []
    effects = one_at_a_time(simulation, error, progress=lambda done, of: told.append((done, of)))
    assert [entry.operator for entry in effects] == ["0", "3", "7"]
    assert all(0 < entry.alone < full for entry in effects)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert error(simulation.module) == full


def test_the_float_model_teaches_the_rounded_one(task: SupervisedTask, model: nn.Module) -> None:
    taught = SupervisedTask(task.data, settings=SETTINGS, seed=0, device="cpu", teacher=model)
    simulation = quantized(task, model, bits=3)
    images = torch.cat([inputs for inputs, _ in task.batches(8)])

    def distance() -> float:
        with torch.no_grad():
            exact, rounded = model(images).log_softmax(1), simulation.module(images).log_softmax(1)
        return float(torch.nn.functional.kl_div(rounded, exact, log_target=True, reduction="batchmean"))

    before = distance()
    settings = replace(qat_settings(SETTINGS), learning_rate=0.02, distillation=Distillation(temperature=1, weight=1))
    train_quantized(simulation, taught, epochs=3, settings=settings)
    assert distance() < 0.6 * before
