"""Selections of channels: what one reader of a stream leaves out, alone and beside cuts of the stream itself."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cutting import count_macs, images
from torch import Tensor, nn

from secateur.errors import ModelError, PlanError, VerificationError
from secateur.export import export_onnx, inspect, load, save
from secateur.graph import (
    ChannelGraph,
    Plan,
    apply,
    apply_,
    apply_to_optimizer,
    masked,
    narrowed,
    trace,
    verify,
)
from secateur.models import ChannelSelection, DenseNet, PreActivationResNet


def residual() -> nn.Module:
    """Return a pre-activation network with two blocks to a stage, so that one of each is a droppable branch."""
    torch.manual_seed(1)
    return PreActivationResNet(20, stem_width=5, widths=(2, 3, 2), num_classes=4).eval()


def dense() -> nn.Module:
    """Return a dense network with three layers to a stage."""
    torch.manual_seed(2)
    return DenseNet(13, growth=3, stem_width=4, num_classes=4).eval()


NETWORKS = {"residual": residual, "dense": dense}
GIVEN = images(8)


def random_choice(graph: ChannelGraph, seed: int, *, streams: bool, selections: bool) -> Plan:
    """Cut at random units of groups, entries of selections, or both, with something left everywhere."""
    rng = np.random.default_rng(seed)

    def some(size: int) -> list[int]:
        return sorted(rng.permutation(size)[: int(rng.integers((size + 1) // 2, size + 1))].tolist())

    kept = {g.name: some(g.size) for g in graph.groups if g.prunable and g.size > 1} if streams else {}
    left = graph.plan(kept)
    selected = {}
    for entry in graph.selections if selections else ():
        stays = left.selected.get(entry.module, tuple(range(entry.size)))
        chosen = [stays[place] for place in some(len(stays))]
        gone = [place for place in range(entry.size) if place not in stays and rng.random() < 0.5]
        selected[entry.module] = [*chosen, *gone]  # what the stream takes anyhow may be named
    return graph.plan(kept, selected=selected)


KINDS = {"selected": (False, True), "streams": (True, False), "both": (True, True)}


@pytest.fixture(params=[(name, kind) for name in NETWORKS for kind in KINDS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, ChannelGraph, Plan, nn.Module]:
    name, kind = request.param
    model = NETWORKS[name]()
    graph = trace(model, GIVEN)
    streams, selections = KINDS[kind]
    plan = random_choice(graph, 5, streams=streams, selections=selections)
    return model, graph, plan, apply(model, plan, verify_with=None)


Case = tuple[nn.Module, ChannelGraph, Plan, nn.Module]


def test_every_norm_of_the_stream_has_a_selection_and_groups_are_those_without() -> None:
    model = residual()
    graph = trace(model, GIVEN)
    paths = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    assert [(s.module, s.norm, s.size) for s in graph.selections] == [
        *((f"{path}.select", f"{path}.bn1", model.get_submodule(path).bn1.num_features) for path in paths),
        ("select", "bn", 8),
    ]
    assert all(selection.is_dense and selection.locked is None for selection in graph.selections)
    plain = copy.deepcopy(model)
    for path, module in list(plain.named_modules()):
        if isinstance(module, ChannelSelection):
            plain.set_submodule(path, nn.Identity())
    without = trace(plain, GIVEN)
    assert [(g.name, g.size, g.locked) for g in graph.groups] == [(g.name, g.size, g.locked) for g in without.groups]
    for group in graph.groups:
        members = {(m.parameter, m.dim, m.role) for m in group.members if not m.parameter.endswith(".indices")}
        expected = {(m.parameter, m.dim, m.role) for m in without.group(group.name).members}
        assert members - {("select.indices", 0, "carries")} == expected
    assert (graph.macs(), graph.params()) == (without.macs(), without.params())
    assert "layer1.0.conv3" in str(graph.why("layer1.0.conv3"))


def test_the_dense_selection_returns_its_input_itself_and_others_select() -> None:
    x = torch.randn(2, 4, 3, 3)
    whole = ChannelSelection(range(4))
    assert whole(x) is x
    assert ChannelSelection([0, 3])(x).equal(x[:, [0, 3]])
    before = dict(vars(whole))
    trace(nn.Sequential(nn.Conv2d(3, 4, 1), whole, nn.Conv2d(4, 2, 1)), images(4))
    assert vars(whole) == before


def test_the_cut_is_exact(case: Case) -> None:
    model, _, plan, small = case
    proof = verify(model, small, plan, GIVEN)
    assert proof.verdict == "exact", proof.sentence()


def test_costs_and_the_graph_of_the_cut_model_are_foretold(case: Case) -> None:
    _, graph, plan, small = case
    again = trace(small, GIVEN)
    foretold = graph.after(plan)
    assert foretold == again
    assert foretold.digest() == again.digest()
    assert graph.macs(plan) == foretold.macs() == again.macs() == count_macs(small, GIVEN)
    assert graph.params(plan) == foretold.params() == sum(p.numel() for p in small.parameters())
    assert graph.tensor_bytes(plan) == again.tensor_bytes() == sum(t.nbytes for t in small.state_dict().values())
    assert graph.activation_bytes(plan) == again.activation_bytes()


def test_json_brings_back_graph_and_plan(case: Case) -> None:
    model, graph, plan, small = case
    assert ChannelGraph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert read == plan
    assert (read.digest, read.selected, str(read)) == (plan.digest, plan.selected, str(plan))
    assert same(apply(model, read, verify_with=None), small)


@pytest.mark.parametrize("kind", KINDS)
def test_two_cuts_are_one(case: Case, kind: str) -> None:
    model, graph, plan, small = case
    streams, selections = KINDS[kind]
    second = random_choice(graph.after(plan), 11, streams=streams, selections=selections)
    both = plan.then(second)
    assert graph.compose(plan, second) == both
    twice = apply(small, second, verify_with=None)
    assert same(apply(model, both, verify_with=None), twice)
    assert verify(model, twice, both, GIVEN).verdict == "exact"
    assert verify(small, twice, second, GIVEN).verdict == "exact"  # of a model whose selections are not dense
    assert graph.after(plan).after(second) == graph.after(both) == trace(twice, GIVEN)


def test_three_ways_to_cut_agree(case: Case) -> None:
    model, _, plan, small = case
    before = copy.deepcopy(model.state_dict())
    with narrowed(model, plan) as slices:
        out = slices(GIVEN)
        out.sum().backward()
    assert same_state(model.state_dict(), before)
    torch.testing.assert_close(out, small(GIVEN), rtol=1e-4, atol=1e-5)
    assert model.get_parameter("linear.weight").grad is not None
    in_place = apply_(copy.deepcopy(model), plan)
    assert same(in_place, small)
    assert in_place(GIVEN).equal(small(GIVEN))


def test_the_mask_zeroes_at_the_reader_what_the_selection_leaves_out() -> None:
    model = residual()
    plan = trace(model, GIVEN).plan({}, selected={"layer2.1.select": [0, 3, 7], "select": range(1, 8)})
    assert plan.kept == {}
    assert plan.selected == {"layer2.1.select": (0, 3, 7), "select": (1, 2, 3, 4, 5, 6, 7)}
    by_hand = copy.deepcopy(model)
    gone = [channel for channel in range(12) if channel not in (0, 3, 7)]
    with torch.no_grad():
        by_hand.get_parameter("layer2.1.conv1.weight")[:, gone] = 0
        by_hand.get_parameter("linear.weight")[:, 0] = 0
    with masked(model, plan) as zeroed, torch.no_grad():
        torch.testing.assert_close(zeroed(GIVEN), by_hand(GIVEN))
    small = apply(model, plan, verify_with=GIVEN)
    torch.testing.assert_close(small(GIVEN), by_hand(GIVEN))
    assert small.get_submodule("layer2.1").bn1.num_features == 12  # the norm in front keeps its width
    assert small.get_submodule("layer2.1").conv1.in_channels == 3
    assert small.get_buffer("layer2.1.select.indices").tolist() == [0, 3, 7]


def test_a_cut_of_the_stream_takes_entries_along_and_renumbers_the_others() -> None:
    model = residual()
    graph = trace(model, GIVEN)
    first = graph.plan({}, selected={"layer1.1.select": [1, 2, 4, 7]})
    after = graph.after(first)
    assert next(s for s in after.selections if s.module == "layer1.1.select").indices == (1, 2, 4, 7)
    stream = next(group.name for group in after.groups if group.is_stream and group.size == 8)
    second = after.plan({stream: [0, 2, 3, 4, 5, 7]})
    assert second.selected["layer1.1.select"] == (1, 2, 3)  # the entry that named channel 1 goes
    twice = apply(apply(model, first, verify_with=GIVEN), second, verify_with=GIVEN)
    assert twice.get_buffer("layer1.1.select.indices").tolist() == [1, 3, 5]  # 2, 4 and 7 of the old channels
    assert twice.get_submodule("layer1.1").bn1.num_features == 6
    unselected = after.plan({stream: [1, 2, 3, 4, 5, 6, 7]})  # channel 0, which this selection leaves out
    assert "layer1.1.select" not in unselected.selected
    third = apply(apply(model, first, verify_with=None), unselected, verify_with=GIVEN)
    assert third.get_buffer("layer1.1.select.indices").tolist() == [0, 1, 3, 6]


def test_blocks_go_with_their_selections() -> None:
    model = residual()
    graph = trace(model, GIVEN)
    chosen = {"layer1.1.select": [0, 1], "layer3.0.select": [1, 4], "select": [0, 2, 5]}
    plan = graph.plan({"layer2.0.conv1": [0, 2]}, selected=chosen, blocks=["layer1.1"])
    assert sorted(plan.selected) == ["layer3.0.select", "select"]
    small = apply(model, plan, verify_with=GIVEN)
    again = trace(small, GIVEN)
    assert graph.macs(plan) == again.macs() == count_macs(small, GIVEN)
    assert graph.params(plan) == sum(p.numel() for p in small.parameters())
    after = graph.after(plan)
    assert [(s.module, s.indices) for s in after.selections] == [(s.module, s.indices) for s in again.selections]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    left = after.plan({}, selected={"layer3.0.select": [0]}, blocks=["layer3.1"])
    assert graph.compose(plan, left) == plan.then(left)
    assert same(apply(model, plan.then(left), verify_with=None), apply(small, left, verify_with=GIVEN))


def test_an_optimiser_goes_on_after_the_cut() -> None:
    model = residual().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(GIVEN).square().mean().backward()
    optimizer.step()
    plan = random_choice(trace(model, GIVEN), 3, streams=True, selections=True)
    before = optimizer.state[model.get_parameter("layer2.0.conv1.weight")]["momentum_buffer"].clone()
    small = apply(model, plan, verify_with=GIVEN)
    apply_to_optimizer(optimizer, before=model, after=small, plan=plan)
    weight = small.get_parameter("layer2.0.conv1.weight")
    cut = {cut.dim: cut.kept for cut in plan.cuts_of["layer2.0.conv1.weight"]}
    expected = before[cut.get(0, range(before.shape[0]))][:, cut[1]]
    assert optimizer.state[weight]["momentum_buffer"].equal(expected)
    optimizer.zero_grad()
    small(GIVEN).square().mean().backward()
    optimizer.step()


def test_a_file_brings_the_cut_model_back(case: Case, tmp_path: Path) -> None:
    model, _, plan, small = case
    path = tmp_path / "model.safetensors"
    save(small, path, plan=plan)
    fresh = residual() if isinstance(model, PreActivationResNet) else dense()
    loaded = load(fresh, path)
    assert same(loaded, small)
    assert repr(loaded) == repr(small)
    assert loaded(GIVEN).equal(small(GIVEN))
    assert inspect(path).plan == plan


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    model = DenseNet(7, growth=3, stem_width=4, num_classes=4).eval()
    plan = random_choice(trace(model, GIVEN), 9, streams=True, selections=True)
    export_onnx(apply(model, plan, verify_with=None), tmp_path / "model.onnx", GIVEN)  # compares with torch itself


def test_what_cannot_be_planned_is_said() -> None:
    graph = trace(residual(), GIVEN)
    with pytest.raises(PlanError, match=r"unknown channel selection 'layer1.0.selct'.*'layer1.0.select'"):
        graph.plan({}, selected={"layer1.0.selct": [0]})
    with pytest.raises(PlanError, match="selection 'select' has entries 0 to 7, but the plan keeps entry 8"):
        graph.plan({}, selected={"select": [0, 8]})
    with pytest.raises(PlanError, match="selection 'select' would keep none of its 8 channels"):
        graph.plan({}, selected={"select": []})
    with pytest.raises(PlanError, match="units to keep of selection 'select' must be whole numbers"):
        graph.plan({}, selected={"select": [0.5]})
    stem = graph.selections[0]
    assert stem.size == 5
    with pytest.raises(PlanError, match=r"'layer1.0.select' would keep none of its 5 channels, of which the cut of "):
        graph.plan({"conv1": [3, 4]}, selected={stem.module: [0, 1, 2]})
    assert graph.plan({}, selected={"select": range(8)}).is_empty


def test_a_plan_for_other_indices_is_refused_not_applied() -> None:
    model = residual()
    graph = trace(model, GIVEN)
    first = graph.plan({}, selected={"layer1.1.select": [1, 2, 4, 7]})
    other = graph.plan({}, selected={"layer1.1.select": [0, 2, 3, 7]})
    stream = next(group.name for group in graph.groups if group.is_stream and group.size == 8)
    second = graph.after(first).plan({stream: [1, 2, 4, 5, 6, 7]})
    with pytest.raises(PlanError, match=r"removes channels that layer1.1.select.indices of this model selects"):
        apply(apply(model, other, verify_with=None), second, verify_with=None)
    wrong = apply(model, other, verify_with=None)
    wrong.get_buffer("layer1.1.select.indices")[0] = 1
    proof = verify(model, wrong, other, GIVEN)
    assert not proof.passed
    assert "layer1.1.select.indices of the cut model is not the slice" in proof.sentence()


def test_a_mask_that_passes_on_a_removed_channel_is_caught() -> None:
    model = residual()
    graph = trace(model, GIVEN)
    stream = next(group.name for group in graph.groups if group.is_stream and group.size == 8)
    plan = graph.plan({stream: range(1, 8)})
    kept_there = {("layer1.1.select.indices", 0), ("layer1.1.conv1.weight", 1)}
    wrong = replace(plan, cuts=tuple(cut for cut in plan.cuts if (cut.parameter, cut.dim) not in kept_there))
    with (
        masked(model, wrong) as zeroed,
        pytest.raises(VerificationError, match=r"removes a channel that the selection 'layer1.1.select' passes on"),
    ):
        zeroed(GIVEN)


def test_without_a_plan_for_selections_a_cut_of_streams_costs_what_the_groups_say() -> None:
    graph = trace(residual(), GIVEN)
    plan = random_choice(graph, 6, streams=True, selections=False)
    kept = graph.kept_sizes(plan)
    assert graph.costs.macs(kept) == graph.macs(plan)  # as budgets count, which know of groups alone
    assert graph.costs.activation_bytes(kept) == graph.activation_bytes(plan)
    left = graph.after(random_choice(graph, 6, streams=False, selections=True))
    second = random_choice(left, 7, streams=True, selections=False)
    assert left.costs.macs(left.kept_sizes(second)) >= left.macs(second)  # never less where they are not dense
    assert left.macs_of_groups().keys() == graph.macs_of_groups().keys()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(format="secateur-plan-1"), "of format 'secateur-plan-1', but selects in"),
        (lambda data: data.update(selected=["layer1.0"]), "cuts no index buffer there"),
        (lambda data: data.update(selected=[*data["selected"][::-1]]), "unsorted or twice"),
        (lambda data: data["removed"]["select.indices"].update(numbers=[9]), "but not some of them"),
        (lambda data: data["removed"]["select.indices"].update(numbers=[3, 1]), "but not some of them"),
        (lambda data: data["renumbered"].update({"select.indices": 1}), "but not some of them"),
        (lambda data: data["renumbered"].pop("select.indices"), "but removes numbers of"),
        (lambda data: data["renumbered"].update({"ghost": 8}), "but removes numbers of"),
        (lambda data: data.update(renumbered=[1]), "malformed"),
    ],
)
def test_an_edited_plan_is_refused(edit: Any, message: str) -> None:
    graph = trace(residual(), GIVEN)
    data = random_choice(graph, 4, streams=True, selections=True).to_json()
    assert data["format"] == "secateur-plan-3"
    assert len(data["selected"]) > 1
    edit(data)
    with pytest.raises(PlanError, match=message):
        Plan.from_json(data)


class Odd(nn.Module):
    """Two layers with a selection between them, used in ways that networks of the papers do not have."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.select = ChannelSelection([0, 2, 3, 5])
        self.inner, self.depthwise = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.again = ChannelSelection([0, 1, 3])
        self.second, self.third, self.fourth = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(3, 5, 1)
        self.other = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Any:
        made = self.first(x)
        if self.use == "no norm":
            return self.second(torch.relu(self.select(made * 1.5)))
        if self.use == "input":
            return self.second(self.select(torch.cat([x, x], 1)))
        chosen = self.select(self.norm(made))
        if self.use == "norm behind":
            return self.second(torch.relu(self.inner(chosen)))
        if self.use == "output":
            return self.second(chosen), chosen
        if self.use == "depthwise":
            return self.second(self.depthwise(chosen))
        if self.use == "nested":
            return self.fourth(self.again(self.inner(chosen)))
        if self.use == "twice":
            return self.second(chosen) + self.third(self.select(self.other(x)))
        if self.use == "pooled away":
            return chosen.mean((1, 2, 3))
        raise ValueError(self.use)


@pytest.mark.parametrize("use", ["no norm", "norm behind", "twice"])
def test_other_uses_are_cut_exactly(use: str) -> None:
    model = Odd(use).eval()
    graph = trace(model, GIVEN)
    (selection,) = graph.selections
    assert selection.norm == ("" if use == "no norm" else "norm")
    assert not selection.is_dense
    assert selection.indices == (0, 2, 3, 5)
    for kept, selected in (({}, [0, 3]), ({"first": [1, 2, 5]}, None), ({"first": [0, 1, 2, 5]}, [1, 2, 3])):
        plan = graph.plan(kept, selected={} if selected is None else {"select": selected})
        small = apply(model, plan, verify_with=GIVEN)
        again = trace(small, GIVEN)
        assert graph.after(plan) == again
        assert graph.macs(plan) == again.macs() == count_macs(small, GIVEN)
    assert graph.plan({"first": [1, 2, 5]}).selected == {"select": (1, 3)}


def test_a_selection_of_what_is_never_cut_may_still_lose_entries() -> None:
    model = Odd("input").eval()
    graph = trace(model, GIVEN)
    plan = graph.plan({}, selected={"select": [0, 2]})
    small = apply(model, plan, verify_with=GIVEN)
    assert small.get_parameter("second.weight").shape == (5, 2, 1, 1)
    assert graph.after(plan) == trace(small, GIVEN)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ("output", "output of the model"),
        ("depthwise", "'select', whose channels are those of groups of the convolution of depthwise.weight"),
        ("nested", "'again', whose channels are selected already"),
        ("pooled away", ""),
    ],
)
def test_where_entries_cannot_go_alone_their_channels_stay(use: str, reason: str) -> None:
    model = Odd(use).eval()
    graph = trace(model, GIVEN)
    locked = graph.group("first").locked
    assert locked is not None
    assert reason in locked
    for selection in graph.selections:
        if selection.locked is not None:
            with pytest.raises(PlanError, match="cannot be cut"):
                graph.plan({}, selected={selection.module: [0]})
    kept = {group.name: range(1, group.size) for group in graph.groups if group.prunable and group.size > 1}
    assert not kept or apply(model, graph.plan(kept), verify_with=GIVEN) is not None


def test_indices_that_do_not_rise_are_refused() -> None:
    for indices in ([], [1, 1], [2, 0], [-1, 0]):
        with pytest.raises(ModelError, match="rising indices from 0 on"):
            ChannelSelection(indices)
    with pytest.raises(RuntimeError, match="indices are not rising channel numbers"):
        ChannelSelection(range(3)).load_state_dict({"indices": torch.tensor([2, 1, 0])})


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models hold the same bits."""
    return same_state(first.state_dict(), second.state_dict())


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same bits."""
    return list(first) == list(second) and all(tensor.equal(second[name]) for name, tensor in first.items())


def test_what_to_keep_is_named_once_and_by_a_known_name() -> None:
    graph = trace(residual(), GIVEN)
    stream = next(group.name for group in graph.groups if group.is_stream)
    with pytest.raises(PlanError, match=r"of selection 'layer1.1.select' name 2 3 times; give each number once"):
        graph.plan({}, selected={"layer1.1.select": [0, 2, 2, 2]})
    with pytest.raises(PlanError, match=f"of group '{stream}' name 1 2 times; give each number once"):
        graph.plan({stream: [1, 0, 1]})
    with pytest.raises(
        PlanError, match=r"unknown channel selection 'layer1.1.selct'; did you mean 'layer1.1.select'\?"
    ):
        graph.plan({}, selected={"layer1.1.selct": [0]})
