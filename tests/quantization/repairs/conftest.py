"""A small network that has learned the digits, and simulations of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.data import load_data
from secateur.quantization import Simulation, simulate
from secateur.training import SupervisedTask, TrainSettings


class Net(nn.Module):
    """Plain, depthwise, pointwise and residual convolutions, and a classifier that reads a flattened map."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, kernel: int, groups: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
            return [conv, nn.BatchNorm2d(outputs)]

        self.stem = nn.Sequential(*block(1, 8, 3), act(), *block(8, 8, 3, groups=8), act(), nn.MaxPool2d(2))
        self.wide = nn.Sequential(*block(8, 16, 1), act())
        self.branch = nn.Sequential(*block(16, 16, 3), act(), *block(16, 16, 3))
        self.neck = nn.Sequential(nn.Conv2d(16, 12, 1), act(), nn.AvgPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.stem(x))
        return self.head(self.neck(torch.relu(x + self.branch(x))))


@pytest.fixture(scope="session")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    settings = TrainSettings(batch_size=64, learning_rate=0.1, augment=False, evaluate_every=0)
    return SupervisedTask(load_data("digits", validation_share=0.2), settings=settings, seed=0, device="cpu")


@pytest.fixture(scope="session")
def model(task: SupervisedTask) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    task.train(model, epochs=4)
    return model.eval()


@pytest.fixture(scope="session")
def images(task: SupervisedTask) -> Tensor:
    return torch.cat([inputs for inputs, _ in task.batches(2)])


@pytest.fixture(scope="session")
def others(task: SupervisedTask) -> Tensor:
    """Images that nothing is fitted to."""
    return torch.cat([inputs for inputs, _ in task.batches(3, "validation")])


@pytest.fixture
def simulated(task: SupervisedTask, model: nn.Module, images: Tensor) -> Callable[..., Simulation]:
    def simulated(**settings: object) -> Simulation:
        simulation = simulate(model, task.example_inputs, **settings)
        simulation.calibrate([images])
        simulation.set_ranges("max")
        return simulation

    return simulated
