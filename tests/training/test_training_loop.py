import copy

import pytest
import torch
from synthetic_data import SyntheticData, perceptron, small_cnn
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import DataError, TrainingError, UsageError
from secateur.training import Store, SupervisedTask, Task, TrainSettings
from secateur.training.task import PhasedTask

QUICK = TrainSettings(batch_size=8, learning_rate=0.05, augment=False, evaluate_every=0)


def task_on(data: SyntheticData | None = None, settings: TrainSettings = QUICK, **options) -> SupervisedTask:
    return SupervisedTask(data or SyntheticData(), settings=settings, device="cpu", **options)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_task_keeps_the_protocol() -> None:
    assert isinstance(task_on(), Task)
    assert isinstance(task_on(), PhasedTask)
    assert task_on().example_inputs.shape == (2, 1, 6, 6)


def test_training_learns_and_reports_the_last_epoch() -> None:
    task, model = task_on(settings=TrainSettings(batch_size=8, learning_rate=0.05)), small_cnn()
    result = task.train(model, epochs=4)
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2, 3]
    assert result.last is not None
    assert result.last.validation == task.evaluate(model)
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss / 2
    assert result.last.validation.top1 > 0.8


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_equals_torch_by_hand(name: str) -> None:
    settings = TrainSettings(
        batch_size=50,
        optimizer=name,
        learning_rate=0.1,
        schedule="constant",
        weight_decay=0.01,
        decay_norms_and_biases=False,
        augment=False,
        evaluate_every=0,
    )
    model, data = perceptron(), SyntheticData(train=50)
    twin = copy.deepcopy(model)
    task_on(data, settings).train(model, epochs=3)
    weights = [p for p in twin.parameters() if p.ndim > 1]
    biases = [p for p in twin.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    options = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = kind(groups, lr=0.1, foreach=False, **options)
    inputs, labels = next(data.batches("train", batch_size=50))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twin(inputs), labels).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_no_epochs_change_nothing() -> None:
    model = small_cnn()
    before = state(model)
    assert task_on().train(model, epochs=0).epochs == ()
    assert equal(state(model), before)


def test_frozen_parameters_stay_bitwise_still_and_flags_come_back() -> None:
    settings = TrainSettings(batch_size=8, momentum=0.9, weight_decay=0.1, evaluate_every=0)
    model = small_cnn().eval()
    model[5].bias.requires_grad_(False)
    before = state(model)
    seen: list[bool] = []

    class Watch:
        def after_step(self, model: nn.Module) -> None:
            seen.append(model[0].weight.grad is None and model[5].weight.grad is not None)

    task_on(settings=settings).train(model, epochs=2, frozen=["0.weight", "1"], hooks=[Watch()])
    after = state(model)
    still = {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "5.bias"}
    assert {name for name in before if torch.equal(before[name], after[name])} == still
    assert all(seen)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert [name for name, wanted in flags.items() if not wanted] == ["5.bias"]
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_parameter_leaves_statistics_to_train() -> None:
    model = small_cnn()
    before = state(model)
    task_on().train(model, epochs=1, frozen=["1.weight", "1.bias"])
    assert torch.equal(model[1].weight, before["1.weight"])
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_what_cannot_be_frozen_is_refused_and_nothing_changes() -> None:
    model = small_cnn()
    before = state(model)
    with pytest.raises(UsageError, match=r"did you mean '0.weight'"):
        task_on().train(model, epochs=1, frozen=["1.weight", "0.wieght"])
    with pytest.raises(UsageError, match="nothing is left to train"):
        task_on().train(model, epochs=1, frozen=["0", "1", "5"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert equal(state(model), before)


def test_subsets_are_numbers_shares_or_indices() -> None:
    data = SyntheticData(train=50)
    for subset, samples in ((20, 20), (0.4, 20), ([3, 1, 4, 1], 4), (torch.arange(10), 10), (1.0, 50)):
        result = task_on(data).train(small_cnn(), epochs=2, subset=subset)
        assert result.epochs[0].samples == samples
        used = [read["indices"] for read in data.reads if read["split"] == "train"][-2:]
        assert torch.equal(used[0], used[1])  # the same samples in every epoch
    assert used[0].tolist() == list(range(50))


@pytest.mark.parametrize("subset", [0, 51, 0.0, 1.5, [], [50], [-1], [0.5]])
def test_subsets_out_of_range_are_refused(subset) -> None:
    with pytest.raises(UsageError, match="subset"):
        task_on(SyntheticData(train=50)).train(small_cnn(), epochs=1, subset=subset)


def test_a_last_batch_of_one_is_left_out() -> None:
    result = task_on(SyntheticData(train=17)).train(small_cnn(), epochs=1)  # 8 + 8 + 1
    assert result.epochs[0].samples == 16
    result = task_on(SyntheticData(train=18)).train(small_cnn(), epochs=1)
    assert result.epochs[0].samples == 18
    with pytest.raises(DataError, match="cannot train on 1 samples"):
        task_on(SyntheticData(train=1)).train(small_cnn(), epochs=1)


def test_hooks_are_called_in_order_with_the_model() -> None:
    calls: list[str] = []

    class Everything:
        def __init__(self, name: str) -> None:
            self.name = name

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], loss: Tensor) -> Tensor:
            calls.append(f"{self.name} loss")
            return loss

        def after_backward(self, model: nn.Module) -> None:
            assert model[0].weight.grad is not None
            calls.append(f"{self.name} after_backward")

        def after_step(self, model: nn.Module) -> None:
            calls.append(f"{self.name} after_step")

        def after_epoch(self, model: nn.Module, epoch: int) -> None:
            calls.append(f"{self.name} after_epoch {epoch}")

    task_on(SyntheticData(train=8)).train(small_cnn(), epochs=2, hooks=[Everything("a"), Everything("b")])
    moments = ["loss", "after_backward", "after_step"]
    steps = [f"{name} {moment}" for moment in moments for name in "ab"]
    assert calls == [*steps, "a after_epoch 0", "b after_epoch 0", *steps, "a after_epoch 1", "b after_epoch 1"]


def test_hooks_change_loss_and_gradients() -> None:
    class Double:
        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], loss: Tensor) -> Tensor:
            return 2 * loss

    class Halve:
        def after_backward(self, model: nn.Module) -> None:
            for parameter in model.parameters():
                # Assigned with strides of its own, which a fused optimiser would misread.
                parameter.grad = (parameter.grad / 2).T.contiguous().T if parameter.ndim == 2 else parameter.grad / 2

    plain, hooked = perceptron(), perceptron()
    first = task_on().train(plain, epochs=1)
    second = task_on().train(hooked, epochs=1, hooks=[Double(), Halve()])
    for one, other in zip(plain.parameters(), hooked.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert second.epochs[0].train_loss == pytest.approx(2 * first.epochs[0].train_loss, rel=1e-5)


def test_a_hook_that_does_nothing_is_a_misspelt_one() -> None:
    class AfterSteps:
        def after_steps(self, model: nn.Module) -> None: ...

    with pytest.raises(UsageError, match="AfterSteps does nothing"):
        task_on().train(small_cnn(), epochs=1, hooks=[AfterSteps()])


def test_a_replaced_step_does_the_same_as_the_ordinary_one() -> None:
    task = task_on()

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    ordinary, replaced = small_cnn(), small_cnn()
    first, second = task.train(ordinary, epochs=2), task.train(replaced, epochs=2, step=step)
    assert equal(state(ordinary), state(replaced))
    assert first.epochs[-1].train_loss == second.epochs[-1].train_loss


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.later = nn.Linear(36, 4), nn.Linear(36, 4)
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            flat = inputs.flatten(1)
            return self.always(flat) if self.calls < 4 else self.always(flat) + self.later(flat)

    for name in ("sgd", "adamw"):
        model = Late()
        before = model.later.weight.clone()
        task_on(settings=TrainSettings(batch_size=8, optimizer=name, evaluate_every=0)).train(model, epochs=1)
        assert not torch.equal(model.later.weight, before)


def test_the_seed_decides_everything_and_the_global_generator_is_spared() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        model = small_cnn()
        torch.set_rng_state(before if seed == 0 else torch.get_rng_state())
        task_on(settings=TrainSettings(batch_size=8), seed=seed).train(model, epochs=1)
        runs.append(state(model))
        if seed == 0:
            assert torch.equal(torch.get_rng_state(), before)
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_dropout_differs_from_step_to_step() -> None:
    masks = []

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        masks.append(F.dropout(torch.ones(64), 0.5))
        return torch.zeros(())

    task_on(SyntheticData(train=24)).train(small_cnn(), epochs=2, step=step)
    assert len({tuple(mask.tolist()) for mask in masks}) == 6


@pytest.mark.parametrize("when", [0, 3, 8])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, when: int) -> None:
    calls = 0

    class Poison:
        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], loss: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return loss * float("nan") if calls == when + 1 else loss

    task = task_on(SyntheticData(train=40), checkpoint_steps=2)  # 5 steps per epoch
    store, model = Store(tmp_path), small_cnn()
    where = f"phase 'tune', epoch {when // 5 + 1} of 2, batch {when % 5 + 1} of 5"
    with pytest.raises(TrainingError, match=f"loss is nan in {where}"):
        store.train("tune", task, model, epochs=2, hooks=[Poison()])
    saved = store.phase("tune").load()
    assert (saved is None) == (when < 2)
    if saved is not None:
        assert all(tensor.isfinite().all() for tensor in saved.weights.values())
    continued, unbroken = small_cnn(), small_cnn()
    store.train("tune", task, continued, epochs=2, hooks=[Poison()])
    Store(tmp_path / "other").train("tune", task, unbroken, epochs=2, hooks=[Poison()])
    assert equal(state(continued), state(unbroken))


def test_losses_that_are_read_late_give_the_same_and_name_the_same_batch(tmp_path, monkeypatch) -> None:
    class Poison:
        def __init__(self, when: int) -> None:
            self.left = when

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], loss: Tensor) -> Tensor:
            self.left -= 1
            return loss * float("nan") if self.left == 0 else loss

    task = task_on(SyntheticData(train=80), checkpoint_steps=7)  # 10 steps per epoch
    at_once = task.train(small_cnn(), epochs=2)
    monkeypatch.setattr("secateur.training.loop.steps_between_checks", lambda device: 4)  # as on a GPU
    late = task.train(small_cnn(), epochs=2)
    assert [epoch.train_loss for epoch in late.epochs] == [epoch.train_loss for epoch in at_once.epochs]
    for when in (1, 4, 9, 10, 12):
        store = Store(tmp_path / str(when))
        where = f"epoch {(when - 1) // 10 + 1} of 2, batch {(when - 1) % 10 + 1} of 10"
        with pytest.raises(TrainingError, match=where):
            store.train("tune", task, small_cnn(), epochs=2, hooks=[Poison(when)])
        saved = store.phase("tune").load()
        if saved is not None:
            assert all(tensor.isfinite().all() for tensor in saved.weights.values())


def test_running_out_of_memory_names_the_batch_size() -> None:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        return torch.empty(1 << 55).sum()

    with pytest.raises(TrainingError, match="batch size 8"):
        task_on().train(small_cnn(), epochs=1, step=step)


def test_a_source_that_gives_too_little_is_refused() -> None:
    class Short(SyntheticData):
        def size(self, split: str) -> int:
            return super().size(split) + (16 if split == "train" else 0)

    with pytest.raises(DataError, match="gave 7 batches instead of 9"):
        task_on(Short()).train(small_cnn(), epochs=1)


def test_channels_last_and_bf16_train_and_leave_the_layout() -> None:
    settings = TrainSettings(batch_size=8, channels_last=True, precision="bf16", gradient_clip=1.0)
    model = small_cnn()
    result = task_on(settings=settings).train(model, epochs=2)
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.is_contiguous()


def test_settings_that_the_device_cannot_do_are_refused() -> None:
    with pytest.raises(UsageError, match="fp16"):
        task_on(settings=TrainSettings(precision="fp16")).train(small_cnn(), epochs=1)
    with pytest.raises(UsageError, match="unknown device"):
        SupervisedTask(SyntheticData(), device="gpu")
    with pytest.raises(UsageError, match="epochs is -1"):
        task_on().train(small_cnn(), epochs=-1)


def test_batches_are_the_same_on_every_call() -> None:
    task = task_on()
    first, second = list(task.batches(3)), list(task.batches(3))
    assert len(first) == 3
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first, second, strict=True))
    assert len(list(task.batches(99, "validation"))) == 3
