"""Accuracy that comes back right after a cut, in every method, and the same in a run that was stopped."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import QUICK
from test_network_slimming_runs import blobs_task, chain
from torch import Tensor, nn

from secateur.compensation import RestoreSettings
from secateur.cost import Budget
from secateur.data import LabelledImages, MemorySource
from secateur.errors import TrainingError, UsageError
from secateur.methods import METHODS, Compressed, Magnitude, NetworkSlimming
from secateur.methods.smallest import smallest_within
from secateur.training import Store, SupervisedTask, TrainSettings

RESTORE = RestoreSettings(compensate="both", images=48, batch_norm_images=64)
HALF = Budget(macs=0.5)
TWO_CUTS: dict[str, Any] = {"steps": 2, "step_epochs": 1, "finetune_epochs": 0}
TRAINING = TrainSettings(batch_size=32, learning_rate=0.05, schedule="constant", augment=False)
FEW_TICKS: dict[str, dict[str, Any]] = {
    "gate_decorator": {"share": 0.3, "tick": TRAINING, "tick_subset": 64, "tock": TRAINING, "tock_first": False},
    "thinet": {"images": 32},
}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def network() -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    return nn.Sequential(
        *stem, Block(12), Block(12), Block(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    )


def columns() -> MemorySource:
    """Noise with a bright column, whose place is the class."""
    draws = torch.Generator().manual_seed(0)

    def images(count: int) -> LabelledImages:
        labels = torch.arange(count) % 4
        pixels = torch.rand(count, 1, 8, 8, generator=draws)
        pixels[torch.arange(count), 0, :, 2 * labels] += 0.5
        return LabelledImages(pixels, labels)

    return MemorySource(name="columns", train=images(200), test=images(20), peak=1.0, validation_share=0.5)


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    return SupervisedTask(columns(), settings=TRAINING, seed=1, device="cpu")


@pytest.fixture(scope="module")
def trained(task: SupervisedTask) -> nn.Module:
    model = network()
    task.train(model, epochs=6)
    return model.eval()


def same_weights(one: Compressed, other: Compressed) -> None:
    wanted = dict(one.model.state_dict())
    torch.testing.assert_close(dict(other.model.state_dict()), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.reduces == "channels"])
def test_every_method_restores_after_every_cut_and_again_the_same(
    name: str, task: SupervisedTask, trained: nn.Module, tmp_path: Path
) -> None:
    before = copy.deepcopy(trained.state_dict())
    method = METHODS[name](**{**QUICK[name], **FEW_TICKS.get(name, {}), "finetune_epochs": 0, "restore": RESTORE})
    first = method.compress(trained, task, HALF, store=Store(tmp_path))
    again = method.compress(trained, task, HALF, store=Store(tmp_path))
    same_weights(first, again)
    assert again.record.restored == first.record.restored
    restored = first.record.restored
    assert [one.cut for one in restored] == list(range(1, len(restored) + 1))
    assert restored
    for one in restored:
        assert [step.what for step in one.steps] == ["cut", "least squares and mean", "batch norm"]
        assert all(step.validation is not None for step in one.steps)
        assert one.steps[2].images == 64
        assert all(after <= before + 1e-9 for before, after in one.errors.values())
        assert bool(one.errors) == (name != "blocks")  # a dropped block leaves no layer with fewer inputs
    torch.testing.assert_close(dict(trained.state_dict()), dict(before), rtol=0, atol=0)


def test_what_is_reported_is_what_the_models_do(task: SupervisedTask, trained: nn.Module) -> None:
    bare = Magnitude(finetune_epochs=0).compress(trained, task, HALF, store=Store.temporary())
    done = Magnitude(finetune_epochs=0, restore=RESTORE).compress(trained, task, HALF, store=Store.temporary())
    assert done.plan == bare.plan
    (found,) = done.record.restored
    assert found.right_after_cut == bare.record.after_cut == done.record.right_after_cut
    assert found.steps[-1].validation == done.record.after_cut == task.evaluate(done.model)
    assert not done.record.trained_between_cuts
    lost, left = (record.after_cut for record in (bare.record, done.record))
    assert lost is not None
    assert left is not None
    assert left.loss < lost.loss
    assert found.steps[1].images == 48
    assert all(after < before for before, after in found.errors.values() if before > 0.01)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (RestoreSettings(compensate="mean", images=32), {"running_mean"}),  # of the norms right behind
        (RestoreSettings(compensate="scale", images=32), {"weight"}),
        (RestoreSettings(batch_norm_images=64), {"running_mean", "running_var"}),
    ],
)
def test_each_way_changes_what_it_says_and_nothing_else(
    settings: RestoreSettings, changed: set[str], task: SupervisedTask, trained: nn.Module
) -> None:
    bare = Magnitude(finetune_epochs=0).compress(trained, task, HALF, store=Store.temporary())
    done = Magnitude(finetune_epochs=0, restore=settings).compress(trained, task, HALF, store=Store.temporary())
    weights = bare.model.state_dict()
    differ = {name for name, tensor in done.model.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert {name.rpartition(".")[2] for name in differ} == changed


@pytest.fixture(scope="module")
def unbroken(task: SupervisedTask, trained: nn.Module) -> Compressed:
    return Magnitude(**TWO_CUTS, restore=RESTORE).compress(trained, task, HALF, store=Store.temporary())


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("said", ["fitting 4.conv2", "running statistics", "cut 1: top-1", "recover-1"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    said: str, task: SupervisedTask, trained: nn.Module, unbroken: Compressed, tmp_path: Path
) -> None:
    def stop(message: str) -> None:
        if message.startswith(said):
            raise _StoppedError

    method = Magnitude(**TWO_CUTS, restore=RESTORE)
    with pytest.raises(_StoppedError):
        method.compress(trained, task, HALF, store=Store(tmp_path), progress=stop)
    assert unbroken.record.trained_between_cuts
    same_weights(unbroken, method.compress(trained, task, HALF, store=Store(tmp_path)))


def test_another_restoration_is_another_run(task: SupervisedTask, trained: nn.Module, tmp_path: Path) -> None:
    Magnitude(finetune_epochs=0, restore=RESTORE).compress(trained, task, HALF, store=Store(tmp_path))
    for other in (RestoreSettings(), replace(RESTORE, images=65)):
        with pytest.raises(TrainingError, match=r"another run: plan-1 was decided for restore = "):
            Magnitude(finetune_epochs=0, restore=other).compress(trained, task, HALF, store=Store(tmp_path))


def test_a_store_of_an_earlier_version_goes_on_with_nothing_restored(
    task: SupervisedTask, trained: nn.Module, tmp_path: Path
) -> None:
    method = Magnitude(finetune_epochs=0)
    first = method.compress(trained, task, HALF, store=Store(tmp_path))
    entry = Store(tmp_path).recall("plan-1")
    assert entry is not None
    values: Any = copy.deepcopy(entry.values)
    for name in ("restore", "allow_approximate"):  # which an earlier version did not have
        del values["made_for"][name]
    Store(tmp_path).keep("plan-1", values)
    same_weights(first, method.compress(trained, task, HALF, store=Store(tmp_path)))
    with pytest.raises(TrainingError, match=r"decided for restore = .*'none'.*, not .*'both'"):
        replace(method, restore=RESTORE).compress(trained, task, HALF, store=Store(tmp_path))
    with pytest.raises(TrainingError, match=r"decided for criterion = l1, not l2"):
        replace(method, criterion="l2").compress(trained, task, HALF, store=Store(tmp_path))


def test_a_search_of_an_earlier_version_knows_its_candidates(
    task: SupervisedTask, trained: nn.Module, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"max_drop_points": 100, "recovery_epochs": 0, "tolerance": 0.5}
    first = smallest_within(Magnitude(), trained, task, **asked, store=Store(tmp_path))
    (path,) = (tmp_path / "data").glob("smallest-*-of-*")
    entry = Store(tmp_path).recall(path.stem)
    assert entry is not None
    values: Any = copy.deepcopy(entry.values)
    del values["made_for"]["settings"]["restore"]
    Store(tmp_path).keep(path.stem, values)
    before = path.read_bytes()
    assert smallest_within(Magnitude(), trained, task, **asked, store=Store(tmp_path)) == first
    assert path.read_bytes() == before
    with pytest.raises(TrainingError, match="belongs to another search"):
        smallest_within(Magnitude(restore=RESTORE), trained, task, **asked, store=Store(tmp_path))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compensate": "bth"}, "did you mean 'both'"),
        ({"images": 0}, "restore.images is 0, but must be at least 1"),
        ({"batch_norm_images": -1}, r"restore.batch_norm_images is -1, but must be 0 \(off\) or at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        RestoreSettings(**settings)


def test_constants_that_slimming_has_folded_already_are_not_folded_twice() -> None:
    task, model = blobs_task(), chain(padding=1)
    settings: dict[str, Any] = {"ratio": 0.5, "sparse_epochs": 0, "finetune_epochs": 0}
    restore = RestoreSettings(compensate="mean", images=64)
    folded, both, fitted = (
        NetworkSlimming(**settings, compensation=compensation, restore=how).compress(
            model, task, None, store=Store.temporary()
        )
        for compensation, how in (("everywhere", RestoreSettings()), ("everywhere", restore), ("none", restore))
    )
    assert both.plan == folded.plan == fitted.plan
    assert any("folded into 2 layers" in note for note in both.record.notes)
    # The mean of the images decides in the end, whatever constant was there before.
    for name, tensor in fitted.model.state_dict().items():
        torch.testing.assert_close(both.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.equal(both.model.state_dict()["4.bias"], folded.model.state_dict()["4.bias"])
