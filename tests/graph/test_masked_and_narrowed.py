"""One plan without cutting: ``masked`` edits nothing, ``narrowed`` runs slices of the full model with gradients."""

import pytest
import torch
import written_modules as w
from cutting import Residual, assert_same_state, images, random_plan, state_of
from torch import Tensor, nn

from secateur.errors import PlanError, TraceError, VerificationError
from secateur.graph import ChannelGraph, Plan, apply, masked, narrowed, trace


@pytest.fixture
def model() -> nn.Module:
    model = Residual().train()
    for _ in range(3):
        model(images(batch=4))
    return model


@pytest.fixture
def graph(model: nn.Module) -> ChannelGraph:
    return trace(model, images())


def prefix_plan(graph: ChannelGraph) -> Plan:
    return graph.plan({group.name: range(group.size - 2) for group in graph.groups if group.prunable})


def test_masked_edits_nothing_even_in_training_mode(model: nn.Module, graph: ChannelGraph) -> None:
    before, versions = state_of(model), [parameter._version for parameter in model.parameters()]
    with masked(model, random_plan(graph)) as inside:
        assert inside is model
        assert inside.training
        result = inside(images())
    assert not result.requires_grad
    assert_same_state(model, before)
    assert [parameter._version for parameter in model.parameters()] == versions


def test_masked_zeroes_what_the_plan_removes_and_nothing_else(model: nn.Module, graph: ChannelGraph) -> None:
    model.eval()
    plan = graph.plan({"blocks.0.conv1": [0, 1, 2, 4, 5]})
    seen: dict[str, Tensor] = {}
    hook = model.blocks[0].conv2.register_forward_hook(lambda module, args, result: seen.update(out=result))
    with masked(model, plan):
        model(images())
    hook.remove()
    weight, inner = model.blocks[0].conv2.weight.detach().clone(), {}
    handle = model.blocks[0].conv2.register_forward_pre_hook(lambda module, args: inner.update(x=args[0]))
    with torch.no_grad():
        model(images())
    handle.remove()
    weight[:, 3] = 0
    torch.testing.assert_close(seen["out"], nn.functional.conv2d(inner["x"], weight, padding=1))


def test_masked_refuses_a_channel_that_meets_what_keeps_it(model: nn.Module, graph: ChannelGraph) -> None:
    plan = graph.plan({"stem": [0, 1, 2]})
    data = plan.to_json()
    del data["removed"]["bn.weight"]
    broken = Plan.from_json(data)
    tied = "removes a channel in one place and keeps it where it is tied"
    with pytest.raises(VerificationError, match=tied), masked(model, broken):
        model(images())
    data["removed"]["head.weight"]["0"] = [1]
    with pytest.raises(VerificationError, match="removes a channel"), masked(model, Plan.from_json(data)):
        model(images())


@pytest.mark.parametrize("training", [False, True])
def test_narrowed_computes_what_the_cut_model_computes(model: nn.Module, graph: ChannelGraph, training: bool) -> None:
    for plan in (random_plan(graph), prefix_plan(graph), random_plan(graph, 0.8)):
        model.train(training)
        small = apply(model, plan, verify_with=None)
        small_loss = small(images()).square().sum()
        small_loss.backward()
        model.zero_grad()
        before = state_of(model)
        with narrowed(model, plan) as inside:
            loss = inside(images()).square().sum()
        loss.backward()  # after the block
        torch.testing.assert_close(loss, small_loss, rtol=1e-6, atol=1e-6)
        assert_same_state(model, before)
        full, cut = dict(model.named_parameters()), dict(small.named_parameters())
        for name, parameter in full.items():
            gradient = parameter.grad
            assert gradient is not None
            outside = torch.ones_like(gradient, dtype=torch.bool)
            for one in plan.cuts_of.get(name, ()):
                gradient = gradient.index_select(one.dim, torch.from_numpy(one.kept))
                outside.index_fill_(one.dim, torch.from_numpy(one.kept), False)
                outside_here = torch.zeros_like(outside).index_fill_(one.dim, torch.from_numpy(one.removed), True)
                assert not parameter.grad[outside_here].any()
            torch.testing.assert_close(gradient, cut[name].grad, rtol=1e-5, atol=1e-6)


def test_prefixes_and_ranges_are_views_and_others_copies(model: nn.Module, graph: ChannelGraph) -> None:
    weight = model.blocks[0].conv1.weight
    for units, is_view in (((0, 1, 2), True), ((2, 3, 4, 5), True), ((0, 2, 4), False)):
        with narrowed(model, graph.plan({"blocks.0.conv1": units})):
            inside = model.blocks[0].conv1.weight
            assert inside.shape[0] == model.blocks[0].conv1.out_channels == len(units)
            assert (inside._base is weight) == is_view
            assert model.blocks[1].conv1.weight is dict(model.named_parameters())["blocks.1.conv1.weight"]
        assert model.blocks[0].conv1.weight is weight
        assert model.blocks[0].conv1.out_channels == 6


def test_integer_attributes_follow_and_come_back() -> None:
    model = w.Multiplier().eval()
    plan = random_plan(trace(model, images()))
    with narrowed(model, plan):
        assert model.wide.groups == model.wide.in_channels == model.bn.num_features // 2 == 3
        model(images())
    assert (model.wide.groups, model.wide.in_channels, model.wide.out_channels, model.bn.num_features) == (5, 5, 10, 10)


def test_buffers_are_left_alone_or_kept_per_plan(model: nn.Module, graph: ChannelGraph) -> None:
    model.train()
    wide, tight = prefix_plan(graph), random_plan(graph, 0.7)
    before = state_of(model)
    kept: dict[str, dict[str, Tensor]] = {"wide": {}, "tight": {}}
    for _ in range(2):
        for plan, name in ((wide, "wide"), (tight, "tight")):
            with narrowed(model, plan, statistics=kept[name]):
                model(images())
    assert_same_state(model, before)
    for plan, name in ((wide, "wide"), (tight, "tight")):
        small = apply(model, plan, verify_with=None)
        for _ in range(2):
            small(images())
        for buffer, value in small.named_buffers():
            torch.testing.assert_close(kept[name][buffer], value)
    assert kept["wide"]["bn.num_batches_tracked"] == model.bn.num_batches_tracked + 2


def test_a_buffer_assigned_anew_is_kept_too() -> None:
    class Counts(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.steps = self.steps + 1
            return super().forward(x)

    model = Counts()
    plan = random_plan(trace(model, images()))
    kept: dict[str, Tensor] = {}
    for _ in range(3):
        with narrowed(model, plan, statistics=kept):
            model(images())
    assert kept["steps"] == 3
    assert model.steps == 0


def test_everything_comes_back_after_an_exception(model: nn.Module, graph: ChannelGraph) -> None:
    before, parameters = state_of(model), [id(parameter) for parameter in model.parameters()]
    failing = model.head.register_forward_hook(lambda module, args, result: 1 / 0)
    with pytest.raises(ZeroDivisionError), narrowed(model, random_plan(graph)):
        model(images())
    failing.remove()
    assert_same_state(model, before)
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert model.blocks[0].conv2.in_channels == 6
    with narrowed(model, random_plan(graph)):
        model(images())
    assert_same_state(model, before)


def test_training_through_narrowed_moves_the_full_parameters(model: nn.Module, graph: ChannelGraph) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan, removed = graph.plan({"blocks.0.conv1": [0, 1]}), model.blocks[0].conv1.weight.detach()[2:].clone()
    kept = model.blocks[0].conv1.weight.detach()[:2].clone()
    with narrowed(model, plan):
        model(images()).sum().backward()
    optimizer.step()
    assert torch.equal(model.blocks[0].conv1.weight[2:], removed)
    assert not torch.equal(model.blocks[0].conv1.weight[:2], kept)


def test_tied_weights_and_wrappers() -> None:
    model = w.Tied().eval()
    plan = random_plan(trace(model, images()))
    small = apply(model, plan, verify_with=images())
    with narrowed(model, plan):
        assert model.a.weight is model.b.weight
        torch.testing.assert_close(model(images()), small(images()))
    compiled = w.Tied()
    compiled._compiled_call_impl = compiled._call_impl  # what Module.compile leaves behind
    with pytest.raises(TraceError, match=r"torch\.compile"), narrowed(compiled, plan):
        pass
    with pytest.raises(PlanError, match="the plan was made for"), narrowed(Residual(), plan):
        pass
    wrapped = nn.DataParallel(model)  # on this machine without devices: it calls the module itself
    with narrowed(wrapped.module, plan):
        torch.testing.assert_close(wrapped(images()), small(images()))
