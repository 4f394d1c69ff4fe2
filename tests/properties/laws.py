"""The laws that every network and every plan must obey, each a function that raises when it is broken."""

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import Description
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur.export import load, save
from secateur.graph import ChannelGraph, Plan, apply, apply_, inputs, narrowed, trace, verify


@dataclass
class Case:
    """A network and what is cut of it; the rest is made when a law asks for it."""

    description: Description
    seed: int = 0

    @cached_property
    def given(self) -> Any:
        return self.description.example_inputs()

    @cached_property
    def model(self) -> nn.Module:
        return self.description.build()

    @cached_property
    def graph(self) -> ChannelGraph:
        return trace(self.model, self.given)

    @cached_property
    def plan(self) -> Plan:
        return random_plan(self.graph, self.seed)

    @cached_property
    def small(self) -> nn.Module:
        return apply(self.model, self.plan, verify_with=None)


def random_plan(graph: ChannelGraph, seed: int) -> Plan:
    """Cut a random number of random units in some of the groups that may be cut, and keep at least one in each."""
    rng = np.random.default_rng(seed)
    able = [group for group in graph.groups if group.prunable and group.size > 1]
    chosen = [group for group in able if rng.random() < 0.6] or able[:1]
    kept = {}
    for group in chosen:
        stay = int(rng.integers(1, group.size))
        kept[group.name] = sorted(rng.permutation(group.size)[:stay].tolist())
    return graph.plan(kept)


def outputs(model: nn.Module, given: Any) -> list[Tensor]:
    """Run a model and return the tensors that it returns."""
    return inputs.tensors_of(inputs.run(model, inputs.as_call(given)))


def assert_same_bits(first: Any, second: Any) -> None:
    """Compare nested tensors bit by bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def cut_equals_masked(case: Case) -> None:
    """The cut model computes what the original computes with the removed channels zeroed.

    One channel between two layers can be dead under redrawn weights; other weights are drawn while a proof cannot tell.
    """
    if case.plan.is_empty:
        return
    for seed in range(3):
        proof = verify(case.model, case.small, case.plan, case.given, seed=seed)
        if proof.verdict != "cannot tell":
            break
    assert proof.verdict == "exact", proof.sentence()


def two_cuts_are_one(case: Case) -> None:
    """``apply(apply(m, a), b)`` equals ``apply(m, a.then(b))``, where b is a plan of the graph after a."""
    after = case.graph.after(case.plan)
    second = random_plan(after, case.seed + 1)
    both = case.plan.then(second)
    assert case.graph.compose(case.plan, second) == both
    twice = apply(case.small, second, verify_with=None)
    once = apply(case.model, both, verify_with=None)
    assert_same_bits(once.state_dict(), twice.state_dict())
    assert repr(once) == repr(twice)
    assert_same_bits(outputs(once, case.given), outputs(twice, case.given))


def cut_graph_costs_the_same(case: Case) -> None:
    """Tracing the cut model finds the costs and the tensors that the graph foretold."""
    foretold, found = case.graph.after(case.plan), trace(case.small, case.given)
    assert foretold.fingerprint == found.fingerprint == case.plan.fingerprint_after
    assert foretold.tensors == found.tensors
    for cost in ("macs", "params", "tensor_bytes", "activation_bytes"):
        assert getattr(case.graph, cost)(case.plan) == getattr(foretold, cost)() == getattr(found, cost)(), cost


def costs_equal_a_count(case: Case) -> None:
    """Arithmetic on kept sizes equals torch's own counter and the tensors of the cut model."""
    assert case.graph.macs() == counted_macs(case.model, case.given)
    assert case.graph.macs(case.plan) == counted_macs(case.small, case.given)
    assert case.graph.params(case.plan) == sum(parameter.numel() for parameter in case.small.parameters())
    distinct = {value.data_ptr(): value.nbytes for value in case.small.state_dict().values()}
    assert case.graph.tensor_bytes(case.plan) == sum(distinct.values())


def json_round_trip(case: Case) -> None:
    """What is written is read back as the same graph and the same plan."""
    graph = ChannelGraph.from_json(json.loads(json.dumps(case.graph.to_json())))
    plan = Plan.from_json(json.loads(json.dumps(case.plan.to_json())))
    assert graph == case.graph
    assert graph.digest() == case.graph.digest()
    assert plan == case.plan
    assert plan.digest == case.plan.digest
    assert random_plan(graph, case.seed) == case.plan
    assert_same_bits(apply(case.model, plan, verify_with=None).state_dict(), case.small.state_dict())


def saved_equals_loaded(case: Case) -> None:
    """A file gives back the cut model bit for bit, from the description of the dense one alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(case.small, path, plan=case.plan)
        loaded = load(case.description.build(), path)
    assert_same_bits(loaded.state_dict(), case.small.state_dict())
    assert repr(loaded) == repr(case.small)
    assert_same_bits(outputs(loaded, case.given), outputs(case.small, case.given))


def tracing_changes_nothing(case: Case) -> None:
    """Weights, flags and random state stay; a second trace, and one of a copy, find the same."""
    model = case.description.build()
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    needs, state = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    first = trace(model, case.given)
    assert_same_bits(model.state_dict(), before)
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == needs
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
    assert_same_bits(torch.get_rng_state(), state)
    assert first.digest() == trace(model, case.given).digest() == trace(copy.deepcopy(model), case.given).digest()


def three_ways_to_cut_agree(case: Case) -> None:
    """A copy, a cut in place and a run on slices of the original give the same outputs; the original is spared."""
    before = copy.deepcopy(case.model.state_dict())
    with narrowed(case.model, case.plan) as model:
        sliced = [tensor.detach() for tensor in outputs(model, case.given)]
    assert_same_bits(case.model.state_dict(), before)
    in_place = apply_(case.description.build(), case.plan)
    assert_same_bits(in_place.state_dict(), case.small.state_dict())
    expected = outputs(case.small, case.given)
    assert_same_bits(outputs(in_place, case.given), expected)
    torch.testing.assert_close(sliced, expected, rtol=1e-4, atol=1e-5)


def counted_macs(model: nn.Module, given: Any) -> int:
    """Count multiply-adds per sample with torch's own counter of floating-point operations, two to each.

    Attention runs as the products that it is, because the counter does not know the fused kernels of every device.
    """
    call, fast_path = inputs.as_call(given), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            inputs.run(model, call)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    macs, rest = divmod(counter.get_total_flops(), 2 * inputs.batch_size_of(call))
    assert rest == 0
    return macs


LAWS: dict[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        cut_equals_masked,
        two_cuts_are_one,
        cut_graph_costs_the_same,
        costs_equal_a_count,
        json_round_trip,
        saved_equals_loaded,
        tracing_changes_nothing,
        three_ways_to_cut_agree,
    )
}
