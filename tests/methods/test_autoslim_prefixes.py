"""Shared prefixes: what they hold, and code that must not be shared blindly."""

import pytest
import torch
from autoslim_networks import batches, mobile, tiny_resnet
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.cost import Budget
from secateur.graph import narrowed, trace
from secateur.graph.first_readers import module_calls
from secateur.methods.autoslim import Speed, greedy_slimming
from secateur.methods.autoslim.prefixes import OtherCallsError, Prefixes
from secateur.slimmable import batch_statistics, plan_of, width_space

IMAGES = batches(1)[0][0]


def prefixes_of(model: nn.Module) -> Prefixes:
    with torch.no_grad(), batch_statistics(model):
        return Prefixes(model.eval(), trace(model, IMAGES[:2]), IMAGES[:2])


def test_a_group_is_read_where_its_channels_are_first_mixed() -> None:
    model = mobile().eval()
    graph = trace(model, IMAGES[:2])
    seen = module_calls(model, graph, IMAGES[:2])
    calls, operators = seen.operations.calls, seen.operations.operators

    def reader(group: str) -> str:
        place = seen.first_readers[group]
        assert operators[place].name == "convolution"
        return max((call for call in calls if call.first <= place < call.end), key=lambda call: call.first).path

    # The stem is read by the first expansion; depthwise layers keep channels apart, so projections read what is inside.
    assert {group.name: reader(group.name) for group in graph.groups if group.prunable} == {
        "stem.0": "expand.0",
        "expand.0": "project.0",
        "expand.1": "project.1",
    }


def test_outermost_modules_are_given_back_and_only_those_that_are_read_are_kept() -> None:
    prefixes = prefixes_of(tiny_resnet())
    model = tiny_resnet().eval()
    graph = trace(model, IMAGES[:2])
    space = width_space(graph, steps=4)
    widest = space.largest()
    inner = next(name for name in space.choices if name.startswith("layer3"))
    plan = plan_of(graph, {**widest, inner: space.choices[inner][0]})
    ran: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, args, path=path: ran.append(path))
    prefixes = Prefixes(model, graph, IMAGES[:2])
    ran.clear()
    with torch.no_grad(), batch_statistics(model):
        recorded = prefixes.record([inner], widest, lambda: model(IMAGES))
        with narrowed(model, plan):
            plain = model(IMAGES)
            ran.clear()
            with prefixes.given_back(inner, space.choices[inner][0], recorded):
                shared = model(IMAGES)
    torch.testing.assert_close(shared, plain)
    assert "layer1" in ran  # its hooks run, what is inside it does not
    assert not any(path.startswith("layer1.") for path in ran)
    assert len(recorded.outputs) == len(prefixes.of(inner).needed) == 2  # the stream, and the norm inside the block
    assert prefixes.of(inner).saved > 0.5


def test_the_bound_on_memory_makes_stretches() -> None:
    model = tiny_resnet()
    graph = trace(model, IMAGES[:2])
    space = width_space(graph, steps=4)
    prefixes = prefixes_of(model)
    names = list(space.choices)
    (whole,) = prefixes.stretches(names, space.largest(), 24, 2**30)
    shared = [name for name in names if prefixes.of(name).skipped]
    assert set(whole) == set(shared)
    several = prefixes.stretches(names, space.largest(), 24, 24 * 4 * 16 * 8 * 8 * 2)
    for stretch in several:
        held = frozenset().union(*(prefixes.of(name).needed for name in stretch))
        with torch.no_grad(), batch_statistics(model):
            recorded = prefixes.record(stretch, space.largest(), lambda: model(IMAGES[:24]))
        assert recorded.outputs.keys() == held
        assert sum(tensor.nbytes for tensor in recorded.outputs.values()) <= 24 * 4 * 16 * 8 * 8 * 2
    assert prefixes.stretches(names, space.largest(), 24, 0) == []


class Awkward(nn.Module):
    """What is written in place is read under its older name, and a module leaves a tensor behind."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(1 if n == 0 else 16, 16, 3, padding=1) for n in range(3))
        self.norm, self.act, self.aside = nn.BatchNorm2d(16), nn.ReLU(inplace=True), Aside()
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x) + 0.1
        self.act(x)  # the result is x itself
        y = self.aside(self.norm(x))
        z = self.two(y)
        F.relu_(y)
        z = z + y + self.aside.kept
        return self.head(self.three(z).mean((2, 3)))


class Aside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        return x - 1


def test_tensors_that_are_written_or_left_behind_are_not_mistaken() -> None:
    torch.manual_seed(0)
    model, data = Awkward(), batches()
    space = width_space(trace(model, IMAGES[:2]), steps=4)
    speeds = (Speed(share_prefixes=False, bounds=False), Speed(bounds=False))
    plain, shared = (greedy_slimming(model, space, data, [Budget(macs=0.3)], speed=speed) for speed in speeds)
    assert plain == shared


def test_other_calls_than_those_looked_at_are_refused_and_run_in_full() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
            self.twice, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            x = x + self.twice(x)
            x = x if len(x) < 5 else x + self.twice(x)  # the look is at two samples
            return self.head(self.two(x).mean((2, 3)))

    torch.manual_seed(0)
    model, data = Moody(), batches()
    space = width_space(trace(model, IMAGES[:2]), steps=4)
    prefixes = prefixes_of(model)
    with torch.no_grad(), pytest.raises(OtherCallsError, match="twice was called"):
        prefixes.record(list(space.choices), space.largest(), lambda: model(IMAGES))
    assert all("forward" not in vars(module) for module in model.modules())
    speeds = (Speed(share_prefixes=False, bounds=False), Speed(bounds=False))
    plain, shared = (greedy_slimming(model, space, data, [Budget(macs=0.5)], speed=speed) for speed in speeds)
    assert plain == shared
