"""An optimiser cut mid-training takes the step of one that had the cut shapes and moments all along."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import written_modules as w
from cutting import Residual, images, random_plan
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from secateur.errors import SurgeryError
from secateur.graph import Plan, apply, apply_, apply_to_optimizer, trace

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "sgd-momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "sgd-nesterov-decay": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd-foreach": lambda p: SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "sgd-fused": lambda p: SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adam-foreach": lambda p: Adam(p, lr=0.01, foreach=True),
    "adam-fused": lambda p: Adam(p, lr=0.01, fused=True),
    "adam-capturable-tensor-lr": lambda p: Adam(p, lr=torch.tensor(0.01), foreach=False),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-amsgrad-fused": lambda p: AdamW(p, lr=0.01, amsgrad=True, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    model.train()
    optimizer.zero_grad()
    given = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(given).square().mean().backward()
    optimizer.step()


def numpy_sliced(value: Any, plan: Plan, name: str) -> Any:
    """Slice with NumPy, by the removed indices that the plan prints."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value.clone() if isinstance(value, Tensor) else value
    array = value.detach().numpy()
    for dim, indices in plan.removed().get(name, {}).items():
        array = np.delete(array, indices, axis=dim)
    return torch.from_numpy(array.copy())


def reference(model: nn.Module, optimizer: Optimizer, build: Callable[[Any], Optimizer], plan: Plan) -> Any:
    """Return a cut model with a new optimiser that was given the moments by hand."""
    small = apply(model, plan, verify_with=None)
    fresh = build(list(small.parameters()))
    targets = dict(small.named_parameters())
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            fresh.state[targets[name]] = {key: numpy_sliced(value, plan, name) for key, value in state.items()}
    return small, fresh


def trained(build: Callable[[Any], Optimizer]) -> tuple[nn.Module, Optimizer, Plan]:
    model = Residual()
    optimizer = build(list(model.parameters()))
    for seed in range(3):
        step(model, optimizer, seed)
    return model, optimizer, random_plan(trace(model, images()))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["copy", "in-place", "together"])
def test_the_next_steps_are_those_of_a_run_that_was_small_all_along(name: str, way: str) -> None:
    build = OPTIMIZERS[name]
    model, optimizer, plan = trained(build)
    expected, fresh = reference(model, optimizer, build, plan)
    if way == "together":
        small = apply_(model, plan, optimizers=[optimizer])
    else:
        small = apply_(model, plan) if way == "in-place" else apply(model, plan, verify_with=None)
        apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    for seed in (10, 11):
        step(expected, fresh, seed)
        step(small, optimizer, seed)
        torch.testing.assert_close(small.state_dict(), expected.state_dict(), rtol=0, atol=0)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(one is other for one, other in zip(held, small.parameters(), strict=True))
    assert {id(parameter) for parameter in optimizer.state} <= {id(parameter) for parameter in small.parameters()}


def test_groups_schedulers_and_untouched_parameters() -> None:
    model = Residual()
    groups = [
        {"params": list(model.stem.parameters()), "lr": 0.2},
        {"params": [p for n, p in model.named_parameters() if not n.startswith("stem")], "weight_decay": 0.1},
    ]
    optimizer = SGD(groups, lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    step(model, optimizer, 0)
    scheduler.step()
    plan = trace(model, images()).plan({"blocks.0.conv1": [1, 3]})
    small = apply(model, plan, verify_with=images())
    apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.025]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, len(list(small.parameters())) - 2]
    before = small.stem.weight.detach().clone()
    step(small, optimizer, 1)
    scheduler.step()
    assert not torch.equal(before, small.stem.weight)
    assert optimizer.param_groups[0]["lr"] == 0.05
    restored = SGD([{"params": group["params"]} for group in optimizer.param_groups], lr=1.0, momentum=0.9)
    restored.load_state_dict(optimizer.state_dict())


def test_tied_weights_have_one_state() -> None:
    model = w.Tied()
    optimizer = Adam(model.parameters())
    step(model, optimizer, 0)
    plan = random_plan(trace(model, images()))
    small = apply(model, plan, verify_with=images())
    apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    assert optimizer.state[small.a.weight]["exp_avg"].shape == small.b.weight.shape
    step(small, optimizer, 1)


def test_an_optimizer_that_has_not_stepped_and_one_of_some_parameters() -> None:
    model = Residual()
    optimizer = Adam([model.head.weight, model.blocks[0].conv1.weight])
    plan = random_plan(trace(model, images()))
    small = apply(model, plan, verify_with=None)
    apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    assert not optimizer.state
    step(small, optimizer, 0)
    assert optimizer.state[small.head.weight]["exp_avg"].shape == small.head.weight.shape


def snapshot(optimizer: Optimizer) -> Any:
    return [
        [(id(p), {k: id(v) for k, v in optimizer.state.get(p, {}).items()}) for p in group["params"]]
        for group in optimizer.param_groups
    ]


class Factored(Optimizer):
    """Keeps row and column sums, as Adafactor does."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = torch.tensor(1.0)
                if parameter.dim() > 1:
                    state["row"] = parameter.grad.flatten(1).square().mean(1)
                else:
                    state["square"] = parameter.grad.square()


def test_state_of_another_shape_is_refused_by_name() -> None:
    model, optimizer, plan = trained(Factored)
    before = snapshot(optimizer)
    small = apply(model, plan, verify_with=None)
    with pytest.raises(
        SurgeryError, match=r"state 'row' of stem\.weight has shape \(8,\), the parameter \(8, 3, 3, 3\)"
    ):
        apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    assert snapshot(optimizer) == before
    # Where the factored parameter itself is not cut, its state stays.
    linear = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    assert linear is not None


def test_a_refused_optimizer_leaves_the_model_and_the_other_optimizers_whole() -> None:
    model, good, plan = trained(OPTIMIZERS["sgd-momentum"])
    refused = Factored(list(model.parameters()))
    step(model, refused, 5)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    widths = {path: vars(module).get("out_channels") for path, module in model.named_modules()}
    before = snapshot(good), snapshot(refused)
    with pytest.raises(SurgeryError, match=r"state 'row' of stem\.weight has shape \(8,\)"):
        apply_(model, plan, optimizers=[good, refused])
    assert (snapshot(good), snapshot(refused)) == before
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert {path: vars(module).get("out_channels") for path, module in model.named_modules()} == widths
    apply_(model, plan, optimizers=[good])
    step(model, good, 6)


def test_the_state_of_dropped_blocks_goes_with_a_model_cut_in_place() -> None:
    model = Residual()
    optimizer = OPTIMIZERS["adam"](list(model.parameters()))
    step(model, optimizer, 0)
    graph = trace(model, images())
    plan = graph.drop_blocks([block.name for block in graph.blocks if block.locked is None][:1])
    assert plan.dropped_tensors
    apply_(model, plan, optimizers=[optimizer])
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in model.parameters()]
    assert {id(parameter) for parameter in optimizer.state} <= {id(parameter) for parameter in held}


def test_lists_of_tensors_are_refused() -> None:
    model = Residual().train()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(images()).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    graph = trace(model, images())
    for plan in (random_plan(graph), graph.plan({"blocks.1.conv1": [0, 1]})):
        small = apply(model, plan, verify_with=None)
        with pytest.raises(SurgeryError, match="make a new optimiser"):
            apply_to_optimizer(optimizer, before=model, after=small, plan=plan)


def test_foreign_parameters_and_wrong_models_are_refused() -> None:
    model, optimizer, plan = trained(OPTIMIZERS["adam"])
    small = apply(model, plan, verify_with=None)
    foreign = SGD([nn.Parameter(torch.zeros(7))], lr=0.1)
    with pytest.raises(SurgeryError, match=r"holds a parameter of shape \(7,\) that the model lacks"):
        apply_to_optimizer(foreign, before=model, after=small, plan=plan)
    before = snapshot(optimizer)
    with pytest.raises(SurgeryError, match="of the cut model should have shape"):
        apply_to_optimizer(optimizer, before=model, after=model, plan=plan)
    other = trace(model, images()).plan({"blocks.0.conv1": [0]})
    with pytest.raises(SurgeryError, match="of the cut model should have shape"):
        apply_to_optimizer(optimizer, before=model, after=small, plan=other)
    with pytest.raises(SurgeryError, match="that the model lacks"):
        apply_to_optimizer(optimizer, before=Residual(), after=small, plan=plan)
    assert snapshot(optimizer) == before
