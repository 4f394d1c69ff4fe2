"""A trained network that is cut and restored without training: accuracy comes back, step by step."""

import copy
import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from secateur.compensation import RestoreSettings, restore
from secateur.compensation.images import first_images, held
from secateur.criteria import score
from secateur.data import load_data
from secateur.errors import UsageError
from secateur.graph import ChannelGraph, Plan, apply, trace
from secateur.training import Batch, SupervisedTask, TrainSettings


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    settings = TrainSettings(batch_size=64, learning_rate=0.05, schedule="cosine", augment=False)
    return SupervisedTask(load_data("digits"), settings=settings, device="cpu")


def convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for given, made in ((1, 16), (16, 16), (16, 24)):
        layers += [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return layers


@pytest.fixture(scope="module")
def trained(task: SupervisedTask) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*convolutions(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10))
    task.train(model, epochs=3)
    return model.eval()


@pytest.fixture
def cut(task: SupervisedTask, trained: nn.Module) -> tuple[nn.Module, Plan, ChannelGraph]:
    graph = trace(trained, task.example_inputs)
    kept = {name: values.topk(len(values) // 2).indices.tolist() for name, values in score(graph, trained).items()}
    plan = graph.plan(kept)
    return apply(trained, plan, verify_with=None), plan, graph


@pytest.mark.parametrize(("how", "words"), [("scale", "least squares"), ("both", "least squares and mean")])
def test_accuracy_comes_back_step_by_step(
    how: str, words: str, task: SupervisedTask, trained: nn.Module, cut: tuple[nn.Module, Plan, ChannelGraph]
) -> None:
    small, plan, graph = cut
    told: list[str] = []
    settings = RestoreSettings(compensate=how, images=200, batch_norm_images=300)  # type: ignore[arg-type]
    found = restore(trained, small, plan, task, settings, graph=graph, progress=told.append)
    assert [(step.what, step.images) for step in found.steps] == [("cut", 0), (words, 200), ("batch norm", 300)]
    accuracies = [step.validation.top1 for step in found.steps if step.validation is not None]
    assert accuracies[1] > accuracies[0] + 0.1
    assert accuracies[2] == task.evaluate(small).top1
    assert found.batch_norms == 3
    assert set(found.errors) == {"3", "6", "11"}
    assert not found.left
    assert any("fitting 3 (1 of 3" in text for text in told)
    assert any("measured anew" in text for text in told)


def test_running_statistics_alone_bring_accuracy_back(
    task: SupervisedTask, trained: nn.Module, cut: tuple[nn.Module, Plan, ChannelGraph]
) -> None:
    small, plan, graph = cut
    found = restore(trained, small, plan, task, RestoreSettings(batch_norm_images=300), graph=graph)
    assert [step.what for step in found.steps] == ["cut", "batch norm"]
    accuracies = [step.validation.top1 for step in found.steps if step.validation is not None]
    assert accuracies[1] > accuracies[0] + 0.05
    assert found.batch_norms == 3


def test_the_same_again_gives_the_same_bytes(
    task: SupervisedTask, trained: nn.Module, cut: tuple[nn.Module, Plan, ChannelGraph]
) -> None:
    small, plan, graph = cut
    other = copy.deepcopy(small)
    settings = RestoreSettings(compensate="both", images=100, batch_norm_images=64)
    for one in (small, other):
        found = restore(trained, one, plan, task, settings, graph=graph, measured=False)
        assert all(step.validation is None for step in found.steps)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_nothing_is_restored_by_default(
    task: SupervisedTask, trained: nn.Module, cut: tuple[nn.Module, Plan, ChannelGraph]
) -> None:
    small, plan, _ = cut
    before = copy.deepcopy(small.state_dict())
    found = restore(trained, small, plan, task, RestoreSettings())
    assert [step.what for step in found.steps] == ["cut"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_the_first_images_are_as_many_as_asked_for(task: SupervisedTask) -> None:
    sizes = [len(labels) for _, labels in first_images(task, 150)]
    assert sizes == [64, 64, 22]
    assert [len(labels) for _, labels in first_images(task, 3)] == [3]
    everything = sum(len(labels) for _, labels in first_images(task, 10**6))
    assert everything == task.data.size("train")
    once, again = (torch.cat([inputs for inputs, _ in first_images(task, 70)]) for _ in range(2))
    assert torch.equal(once, again)


def test_few_images_are_read_once_and_many_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def batches() -> Iterator[Batch]:
        reads.append(1)
        yield torch.ones(4, 3), torch.zeros(4)

    few = held(batches, 4)
    before = len(reads)
    assert [len(list(few())) for _ in range(3)] == [1, 1, 1]
    assert len(reads) == before
    monkeypatch.setattr("secateur.compensation.images.HELD_BYTES", 47)
    many = held(batches, 4)
    before = len(reads)
    list(many())
    list(many())
    assert len(reads) == before + 2


@pytest.mark.parametrize("name", ["images", "batch_norm_images"])
@pytest.mark.parametrize("count", ["a", "8", 2.5, 8.0, True, None, [8], float("nan")])
def test_what_is_no_whole_number_is_refused(name: str, count: object) -> None:
    with pytest.raises(UsageError, match=rf"restore\.{name} is {re.escape(repr(count))}, but must be a whole number"):
        RestoreSettings(**{name: count})  # type: ignore[arg-type]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'scale'"):
        RestoreSettings(compensate="scales")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"restore\.images is 0"):
        RestoreSettings(images=0)
