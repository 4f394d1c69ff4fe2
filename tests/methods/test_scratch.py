"""The control: the same architecture, other weights, the same number of epochs."""

from pathlib import Path

import pytest
import torch
from quick import QUICK, budget_for
from torch import nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.methods import METHODS
from secateur.methods.scratch import from_scratch
from secateur.models import build_model
from secateur.training import Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=256, learning_rate=0.05, schedule="constant")


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return SupervisedTask(load_data("digits"), settings=SETTINGS, seed=1, device="cpu")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("digits-resnet")


@pytest.mark.parametrize("name", METHODS)
def test_only_the_architecture_is_the_methods(name: str, task: SupervisedTask, tmp_path: Path) -> None:
    method = METHODS[name](**{**QUICK[name], "finetune_epochs": 0})
    cut = method.compress(network(0), task, budget_for(name, 0.5), store=Store(tmp_path))
    fresh = network(7)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    control = from_scratch(cut, fresh, task, epochs=2, settings=SETTINGS, store=Store(tmp_path))
    assert control.plan == cut.plan
    shapes = {key: value.shape for key, value in control.model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in cut.model.state_dict().items()}
    before_it = [phase.phase for phase in cut.record.phases]  # what a method trains to decide what goes
    assert [phase.phase for phase in control.record.phases] == [*before_it, "scratch"]
    assert len(control.record.phases[-1].epochs) == 2
    if control.masks is not None:
        for entry, mask in control.masks.items():
            assert torch.equal(control.model.get_parameter(entry) != 0, mask)
    torch.testing.assert_close(dict(fresh.state_dict()), before, rtol=0, atol=0)


def test_the_methods_own_weights_leave_no_trace(task: SupervisedTask) -> None:
    controls = []
    for seed in (0, 1):
        cut = METHODS["l1"](finetune_epochs=0).compress(network(0), task, Budget(macs=0.5), store=Store.temporary())
        with torch.no_grad():
            for parameter in cut.model.parameters():
                parameter.fill_(float(seed))  # whatever the method left
        controls.append(from_scratch(cut, network(7), task, epochs=1, settings=SETTINGS, store=Store.temporary()))
    first, second = (dict(control.model.state_dict()) for control in controls)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
