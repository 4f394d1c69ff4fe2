"""Phases that an earlier version began: settings of training that are new since then have their defaults."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.data import LabelledImages, MemorySource
from secateur.errors import TrainingError
from secateur.training import Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=16, learning_rate=0.05, augment=False)


@pytest.fixture(scope="module")
def task() -> SupervisedTask:
    draws = torch.Generator().manual_seed(0)

    def images(count: int) -> LabelledImages:
        return LabelledImages(torch.rand(count, 1, 4, 4, generator=draws), torch.arange(count) % 2)

    source = MemorySource(name="noise", train=images(60), test=images(10), peak=1.0, validation_share=0.2)
    return SupervisedTask(source, settings=SETTINGS, seed=0, device="cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def rewritten(store: Store, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the phase says that it was asked for, as an earlier version would have written it."""
    saved = store.phase("finetune").load()
    assert saved is not None
    made_for: dict[str, Any] = dict(saved.state.made_for)
    change(made_for)
    store.phase("finetune").save(replace(saved, state=replace(saved.state, made_for=made_for)))


def test_a_phase_without_a_new_setting_goes_on(task: SupervisedTask, tmp_path: Path) -> None:
    store, first, again = Store(tmp_path), network(), network()
    store.train("finetune", task, first, epochs=1)
    rewritten(store, lambda asked: asked.pop("pixel_auxiliary_weight"))
    store.train("finetune", task, again, epochs=1)
    torch.testing.assert_close(dict(again.state_dict()), dict(first.state_dict()), rtol=0, atol=0)
    other = replace(SETTINGS, pixel_auxiliary_weight=0.25)
    with pytest.raises(TrainingError, match=r"begun with pixel_auxiliary_weight = 0\.5 but is asked for 0\.25"):
        store.train("finetune", task, network(), epochs=1, settings=other)


def test_what_differs_is_still_refused(task: SupervisedTask, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.train("finetune", task, network(), epochs=1)
    rewritten(store, lambda asked: asked.pop("pixel_auxiliary_weight"))
    with pytest.raises(TrainingError, match="begun with epochs = 1 but is asked for 2"):
        store.train("finetune", task, network(), epochs=2)
    with pytest.raises(TrainingError, match=r"begun with learning_rate = 0\.05 but is asked for 0\.1"):
        store.train("finetune", task, network(), epochs=1, settings=replace(SETTINGS, learning_rate=0.1))
    rewritten(store, lambda asked: asked.update(gone_since=3))
    with pytest.raises(TrainingError, match="begun with gone_since = 3 but is asked for None"):
        store.train("finetune", task, network(), epochs=1)
