"""Batch norm of slimmable networks: by the batch, by statistics of a width's own, by norms of a width's own."""

import copy
from pathlib import Path

import pytest
import torch
from slimmable_networks import photos, source, tiny_residual
from torch import nn

from secateur.compensation import reestimate_batch_norm
from secateur.errors import DataError, PlanError, UsageError
from secateur.graph import ChannelGraph, Plan, apply, narrowed, trace
from secateur.slimmable import Sandwich, SwitchableNorms, batch_statistics, plan_of, post_statistics, width_space
from secateur.training import Store, SupervisedTask, TrainSettings

NARROW, MIDDLE = {"stem": 8, "expand": 8}, {"stem": 12, "expand": 16}


@pytest.fixture
def model() -> nn.Module:
    model = tiny_residual().train()
    model(photos(seed=9))  # running statistics of its own
    return model


@pytest.fixture
def graph(model: nn.Module) -> ChannelGraph:
    return trace(model, photos())


@pytest.fixture
def plan(graph: ChannelGraph) -> Plan:
    return plan_of(graph, NARROW)


def assert_same(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_batch_statistics_normalise_by_the_batch_and_write_nothing(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model).train()(photos())
    for training in (True, False):
        model.train(training)
        flags = [module.training for module in model.modules()]
        with batch_statistics(model) as inside:
            assert inside is model
            assert torch.equal(model(photos()), expected)
        assert [module.training for module in model.modules()] == flags
        assert all(norm.track_running_stats for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
        assert_same(model, before)
    assert not torch.equal(model.eval()(photos()), expected)


def test_they_may_lie_within_a_narrow_block_or_around_it(model: nn.Module, plan: Plan) -> None:
    before = copy.deepcopy(model.state_dict())
    expected = apply(model, plan, verify_with=None).train()(photos())
    model.eval()
    with narrowed(model, plan), batch_statistics(model):
        within = model(photos())
    with batch_statistics(model), narrowed(model, plan):
        around = model(photos())
    torch.testing.assert_close(within, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(within, around)
    assert_same(model, before)


def test_flags_come_back_after_an_exception(model: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), batch_statistics(model.eval()):
        _ = 1 / 0
    assert not any(module.training for module in model.modules())


def test_post_statistics_are_those_of_the_cut_network(model: nn.Module, plan: Plan) -> None:
    before = copy.deepcopy(model.state_dict())
    batches = [photos(seed=1), photos(seed=2), photos(seed=3)]
    statistics = post_statistics(model, plan, batches)
    assert_same(model, before)
    small = apply(model, plan, verify_with=None)
    reestimate_batch_norm(small, batches)
    assert set(statistics) == {name for name, _ in small.named_buffers()}
    for name, buffer in small.named_buffers():
        assert torch.equal(statistics[name], buffer), name
    model.eval()
    with narrowed(model, plan, statistics=statistics):
        found = model(photos())
    torch.testing.assert_close(found, small.eval()(photos()), rtol=1e-5, atol=1e-6)
    fresh = apply(model, plan, verify_with=None)
    fresh.load_state_dict(statistics, strict=False)
    assert torch.equal(fresh.eval()(photos()), small(photos()))


def test_the_mean_over_batches_is_cumulative(model: nn.Module, graph: ChannelGraph) -> None:
    first, second = photos(seed=1), photos(seed=2)
    statistics = post_statistics(model, plan_of(graph, {"stem": 8}), [first, second])
    means = [model.stem(images)[:, :8].mean((0, 2, 3)) for images in (first, second)]
    torch.testing.assert_close(statistics["stem_bn.running_mean"], (means[0] + means[1]) / 2)


def test_statistics_need_batches_and_the_right_plan(model: nn.Module, plan: Plan) -> None:
    with pytest.raises(DataError, match="without batches"):
        post_statistics(model, plan, [])
    with pytest.raises(PlanError, match="the plan was made for"):
        post_statistics(nn.Linear(2, 2), plan, [photos()])


def test_switchable_norms_begin_as_the_cut_networks(model: nn.Module, graph: ChannelGraph) -> None:
    switch = SwitchableNorms(copy.deepcopy(model), graph, [MIDDLE, NARROW]).eval()
    for number, widths in enumerate((MIDDLE, NARROW)):
        small = apply(model, plan_of(graph, widths), verify_with=None).eval()
        switch.selected = number
        torch.testing.assert_close(switch(photos()), small(photos()), rtol=1e-5, atol=1e-6)
        assert_same(switch.cut(number), small.state_dict())


def test_each_width_trains_norms_of_its_own_and_shares_all_else(model: nn.Module, graph: ChannelGraph) -> None:
    switch = SwitchableNorms(model, graph, [MIDDLE, NARROW]).train()
    before = copy.deepcopy(switch.state_dict())
    switch.selected = 1
    switch(photos()).square().sum().backward()
    changed = {name for name, tensor in switch.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    norms = ("stem_bn", "expand_bn", "depthwise_bn", "project_bn")
    assert changed == {f"private.1.{norm}.{name}" for norm in norms for name in statistics}
    with_gradient = {name for name, parameter in switch.named_parameters() if parameter.grad is not None}
    own = {f"private.1.{norm}.{name}" for norm in norms for name in ("weight", "bias")}
    layers = {"stem.weight", "expand.weight", "depthwise.weight", "project.weight", "head.weight", "head.bias"}
    assert with_gradient == own | {f"model.{name}" for name in layers}
    # The same numbers as in the network that is cut to this width.
    small = apply(tiny_trained_as(before, model), plan_of(graph, NARROW), verify_with=None).train()
    small(photos()).square().sum().backward()
    for norm in norms:
        ours = switch.private[1].get_submodule(norm)
        theirs = small.get_submodule(norm)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def tiny_trained_as(state: dict[str, torch.Tensor], like: nn.Module) -> nn.Module:
    model = copy.deepcopy(like)
    model.load_state_dict({name.removeprefix("model."): t for name, t in state.items() if name.startswith("model.")})
    return model


def test_joint_training_keeps_norms_in_its_checkpoints(model: nn.Module, graph: ChannelGraph, tmp_path: Path) -> None:
    settings = TrainSettings(batch_size=8, learning_rate=0.05, augment=False)
    task = SupervisedTask(source(), settings=settings, device="cpu")

    def trained() -> nn.Module:
        switch = SwitchableNorms(copy.deepcopy(model), graph, [NARROW, MIDDLE])
        step = Sandwich(graph, fixed=switch.widths, loss=task.loss)
        Store(tmp_path / "run").train("joint", task, switch, epochs=1, hooks=[], step=step)
        return switch

    first, second = trained(), trained()  # the second one takes all from the finished phase
    assert_same(second, first.state_dict())
    assert first.private[0].stem_bn.num_batches_tracked == model.stem_bn.num_batches_tracked + 3
    assert not torch.equal(first.private[0].stem_bn.weight, first.private[1].stem_bn.weight[:8])
    assert torch.equal(first.model.stem_bn.weight, model.stem_bn.weight)  # lies idle
    small = first.cut(1)
    first.selected = 1
    assert task.evaluate(small).loss == pytest.approx(task.evaluate(first).loss, rel=1e-5)


def test_switchable_norms_refuse_what_does_not_fit(model: nn.Module, graph: ChannelGraph) -> None:
    with pytest.raises(PlanError, match="there are no widths"):
        SwitchableNorms(model, graph, [])
    switch = SwitchableNorms(model, graph, [NARROW])
    with pytest.raises(PlanError, match="no width number 1; there are 1"):
        switch.cut(1)
    step = Sandwich(graph, width_space(graph))
    with pytest.raises(UsageError, match=r"fixed=norms\.widths"):
        step(switch, (photos(), torch.zeros(6, dtype=torch.long)), torch.optim.SGD(switch.parameters(), lr=0.1))
