"""Laws of decorated models: same function, same groups, and masked, melted and cut agree."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import PlanError, UsageError
from secateur.gates import GatedConv, GatedNorm, Gates, decorate, melt
from secateur.graph import ChannelGraph, Plan, apply, masked, trace
from secateur.models import build_model


class PreActivation(nn.Module):
    """The stream is normalised by each of its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3, padding=1)
        self.norm3, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))


class Dense(nn.Module):
    """What one layer produces is normalised twice, the second time together with the channels of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x, self.second(torch.relu(self.norm1(x)))], 1)
        return self.head(torch.relu(self.norm2(x)).mean((2, 3)))


def plain() -> nn.Module:
    """No norms; the flattened maps give each channel four inputs of the linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten()),
        *(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4)),
    )


def separable() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 1), nn.GroupNorm(5, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    )


IMAGES = (2, 3, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: build_model("digits-resnet"), (2, 1, 8, 8)),
    "pre-activation": (PreActivation, IMAGES),
    "dense": (Dense, IMAGES),
    "plain": (plain, IMAGES),
    "separable": (separable, IMAGES),
    "perceptron": (lambda: build_model("lenet-300-100"), (2, 1, 28, 28)),
}


def subject(name: str) -> tuple[nn.Module, Tensor, ChannelGraph]:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build().eval()
    with torch.no_grad():  # norms that a take-over can be wrong about
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5).mul_(torch.randint(0, 2, module.weight.shape) * 2 - 1)
                module.bias.uniform_(-1, 1)
    images = torch.randn(shape)
    return model, images, trace(model, images)


def half(graph: ChannelGraph, gates: Gates, on: ChannelGraph | None = None) -> Plan:
    """Keep every other unit of each group with gates."""
    open_ = [name for name in gates.by_group if graph.group(name).prunable]
    return (on or graph).plan({name: range(0, graph.group(name).size, 2) for name in open_})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_decorated_model_is_the_same_function_with_the_same_groups(name: str) -> None:
    model, images, graph = subject(name)
    before, classes = model(images), [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    gates = decorate(model, graph)
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
    again = trace(model, images)
    assert {(g.name, g.size) for g in again.groups if g.prunable} == {
        (g.name, g.size) for g in graph.groups if g.prunable
    }
    assert not again.unreached
    assert not gates.ungated
    assert set(gates.by_group) >= {group.name for group in graph.groups if group.prunable}
    for group, parameters in gates.by_group.items():
        assert {member.parameter for member in again.group(group).members} >= set(parameters)
    melt(model)
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_melted_and_cut_agree(name: str) -> None:
    model, images, graph = subject(name)
    gates = decorate(model, graph)
    gated = trace(model, images)
    with torch.no_grad():
        for gate in gates.parameters(model):
            gate.uniform_(0.5, 2.0)
    plan = half(graph, gates)
    cut_with_gates = apply(model, half(graph, gates, gated), verify_with=images)
    with masked(model, half(graph, gates, gated)):
        by_the_engine = model(images)
    gates.set_masks(model, plan)
    by_masks = model(images)
    torch.testing.assert_close(by_masks, by_the_engine)
    torch.testing.assert_close(cut_with_gates(images), by_masks)
    after = gates.after(plan)
    assert [gate.numel() for gate in after.parameters(cut_with_gates)] == [gate.units.size for gate in after.gates]
    for before, now in zip(gates.parameters(model), after.parameters(cut_with_gates), strict=True):
        assert set(now.tolist()) <= set(before.tolist())
    melt(model)
    torch.testing.assert_close(model(images), by_masks)
    torch.testing.assert_close(apply(model, plan, verify_with=images)(images), by_masks)
    torch.testing.assert_close(melt(cut_with_gates)(images), by_masks)


def test_members_of_a_group_are_the_layers_that_are_summed() -> None:
    model, _, graph = subject("residual")
    gates = decorate(model, graph)
    # Each stage has two blocks; the stream of the first is made by the stem, those of the others by a shortcut too.
    assert gates.members == {
        **{"conv1": 3, "layer2.0.conv2": 3, "layer3.0.conv2": 3},
        **{f"layer{stage}.{block}.conv1": 1 for stage in (1, 2, 3) for block in (0, 1)},
    }
    assert gates.by_group["layer2.0.conv2"] == (
        "layer2.0.bn2.gate",
        "layer2.0.shortcut.1.gate",
        "layer2.1.bn2.gate",
    )


def test_scores_combine_over_members_and_over_a_units_channels() -> None:
    model, _, graph = subject("pre-activation")
    gates = decorate(model, graph)
    assert gates.by_group["stem"] == ("norm1.gate", "norm3.gate")
    values = torch.cat([torch.full((6,), 1.0), torch.full((5,), 7.0), torch.arange(6.0)])
    found = {how: gates.scores(values, combine=how)["stem"] for how in ("sum", "mean", "max", "l2")}
    torch.testing.assert_close(found["sum"], torch.arange(6.0).double() + 1)
    torch.testing.assert_close(found["mean"], (torch.arange(6.0).double() + 1) / 2)
    torch.testing.assert_close(found["max"], torch.arange(6.0).double().clamp(min=1))
    torch.testing.assert_close(found["l2"], (torch.arange(6.0).double() ** 2 + 1).sqrt())
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        gates.scores(values, combine="meen")  # type: ignore[arg-type]


def test_a_starting_value_scales_the_function_and_one_does_not() -> None:
    model, images, graph = subject("plain")
    before = model(images)
    one = copy.deepcopy(model)
    decorate(one, graph, init="one")
    torch.testing.assert_close(one(images), before)
    gates = decorate(model, graph, init=0.5)
    assert all((gate == 0.5).all() for gate in gates.parameters(model))
    assert not torch.allclose(model(images), before)


def test_what_no_gate_can_sit_on_is_named_with_the_reason() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.two.weight = self.one.weight
            self.norm = nn.Linear(6, 5)
            self.bare = nn.BatchNorm1d(5, affine=False)
            self.out = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.two(torch.relu(self.one(x))))) + self.out(self.bare(self.norm(x)))

    model = Tied().eval()
    graph = trace(model, torch.randn(2, 6))
    gates = decorate(model, graph)
    assert gates.ungated.get("bare") == "it normalises without a scale of its own to put a gate in"
    assert all("shared" in reason for path, reason in gates.ungated.items() if path in ("one", "two"))
    assert not any(isinstance(module, GatedConv | GatedNorm) for module in model.norm.modules())


def test_misuse_is_refused() -> None:
    model, images, graph = subject("residual")
    with pytest.raises(UsageError, match="did you mean 'take-over'"):
        decorate(model, graph, init="take-ovr")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="clamped"):
        decorate(model, graph, clamped="kep")  # type: ignore[arg-type]
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(PlanError, match="not that of this model"):
        decorate(other, graph)
    decorate(model, graph)
    with pytest.raises(UsageError, match="has gates already; melt it first"):
        decorate(model, trace(model, images))
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(UsageError, match="normalises without a scale or statistics"):
        decorate(bare, trace(bare, torch.randn(IMAGES)))


def test_a_module_used_in_two_places_gets_one_gate() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.same = self.norm
            self.head = nn.Conv2d(4, 4, 1)
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.same(self.head(self.norm(self.first(x)))).mean((2, 3)))

    model = Twice().eval()
    images = torch.randn(IMAGES)
    gates = decorate(model, trace(model, images))
    assert isinstance(model.norm, GatedNorm)
    assert model.same is model.norm
    assert [gate.module for gate in gates.gates] == ["norm"]
    melt(model)
    assert type(model.norm) is nn.BatchNorm2d
    assert model.same is model.norm
