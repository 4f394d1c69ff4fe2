"""Dead units, those without live inputs or without live outputs, cut for good, with their constants folded onwards.

Source: Han et al. 2015, arXiv:1506.02626, §3.5, who wait for the regulariser to remove them. A unit without live
outputs counts for nothing. One without live inputs gives a constant, from its bias through norm, activation and
pooling; it may go where every layer that reads it can take the constant into its bias, or into the mean of the norm
right behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction.folding import add_constant
from secateur.errors import VerificationError
from secateur.graph import ChannelGraph, Group, Plan, apply, inputs
from secateur.graph.comparison import distance, size
from secateur.graph.inputs import ExampleInputs
from secateur.graph.slots import mode_of
from secateur.sparse.constants import Read, observe
from secateur.sparse.liveness import BoolArray, Liveness
from secateur.sparse.masks import Masks
from secateur.wording import counted

EXACT = 1e-6  # of the largest output, in float64: rounding of folded constants to the model's own precision
LAST = "its group needs one unit"


@dataclass(frozen=True, eq=False)
class DeadUnits:
    """The units of a masked model that can go without any effect.

    Attributes:
        plan: what removes them.
        without_inputs: group → units without live inputs that go, their constants folded.
        without_outputs: group → units without live outputs that go.
        staying: group → unit → why it stays although it has no live inputs or no live outputs.
        shifts: weight → what the constants of removed units give in each output of its layer, float64, (outputs,).
        norms: weight → path of the batch norm right behind its layer.
    """

    plan: Plan
    without_inputs: Mapping[str, tuple[int, ...]]
    without_outputs: Mapping[str, tuple[int, ...]]
    staying: Mapping[str, Mapping[int, str]]
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Units that go."""
        return sum(len(units) for found in (self.without_inputs, self.without_outputs) for units in found.values())

    def by_group(self) -> dict[str, int]:
        """Return how many units of each group go."""
        names = dict.fromkeys([*self.without_inputs, *self.without_outputs])
        return {
            name: len(self.without_inputs.get(name, ())) + len(self.without_outputs.get(name, ())) for name in names
        }

    def sentence(self) -> str:
        """Return it as one sentence."""
        if not self.count:
            text = "no unit can go as dead"
        else:
            parts = ", ".join(f"{count} of {name}" for name, count in self.by_group().items())
            text = f"{counted(self.count, 'dead unit')} {'goes' if self.count == 1 else 'go'} ({parts})"
        reasons: dict[str, int] = {}
        for units in self.staying.values():
            for reason in units.values():
                reasons[reason] = reasons.get(reason, 0) + 1
        stays = (
            f"{count} more {'stays' if count == 1 else 'stay'}, because {reason}" for reason, count in reasons.items()
        )
        return "; ".join([text, *stays])


@dataclass(frozen=True, eq=False)
class WithoutDead:
    """A masked model after its dead units were cut.

    Attributes:
        model: the smaller copy, with folded constants.
        masks: of its weights.
        dead: what was cut, and what stays.
        difference: max |masked − cut| / max |masked| over outputs, in float64 in eval mode, on inputs and noise.
    """

    model: nn.Module
    masks: Masks
    dead: DeadUnits
    difference: float


def dead_units(graph: ChannelGraph, model: nn.Module, masks: Masks, example_inputs: ExampleInputs) -> DeadUnits:
    """Find the dead units of ``model`` under ``masks``, and those that die with them, until nothing more dies.

    A unit goes for good if it has no live outputs: all weights that read it are removed or go with dead units. Without
    live inputs it goes if what it gives is constant in a run and can be folded exactly into all that read it live.
    Residual streams have several inputs, which must all be dead. Locked and approximate groups are left alone, and
    every group keeps one unit.

    Args:
        graph: of ``model``.
        model: whose weights count as zero where ``masks`` remove them; it is not changed.
        masks: which weights are live; weights without a mask are.
        example_inputs: that ``model`` takes, at least two samples.

    Raises:
        UsageError: the masks do not fit the model.
        PlanError: the graph does not.
    """
    return _find(graph, _masked_copy(graph, model, masks), masks, example_inputs)


def without_dead(graph: ChannelGraph, model: nn.Module, masks: Masks, example_inputs: ExampleInputs) -> WithoutDead:
    """Return ``model`` with ``masks`` applied and without its dead units, proved equal in eval mode to the masked one.

    Where a constant was folded into the mean of a batch norm, training mode computes the same as well: there the norm
    takes any constant away.

    Args:
        graph: of ``model``.
        model: see :func:`dead_units`; it is not changed.
        masks: see there.
        example_inputs: see there.

    Raises:
        UsageError: the masks do not fit the model.
        PlanError: the graph does not.
        VerificationError: the cut model does not compute what the masked one computes.
    """
    wide = _masked_copy(graph, model, masks)
    dead = _find(graph, wide, masks, example_inputs)
    small = apply(model, dead.plan, verify_with=None)
    cut = _after(masks, graph, dead.plan)
    cut.apply_(small)
    modules = dict(small.named_modules())
    for name, shift in dead.shifts.items():
        kept = next((entry.kept for entry in dead.plan.cuts_of.get(name, ()) if entry.dim == 0), None)
        rows = shift if kept is None else shift[torch.from_numpy(kept)]
        norm = modules[dead.norms[name]] if name in dead.norms else None
        add_constant(modules[name.rpartition(".")[0]], rows, norm)
    narrow = apply(small, graph.after(dead.plan).plan({}), verify_with=None).double()
    difference = _difference(wide, narrow, example_inputs)
    if not difference <= EXACT:
        raise VerificationError(
            f"without its dead units the model differs from the masked one by {difference:.1e} of its output, more "
            f"than {EXACT:g}: a unit counts where no weight shows it; keep the masked model"
        )
    return WithoutDead(small, cut, dead, difference)


def _after(masks: Masks, graph: ChannelGraph, plan: Plan) -> Masks:
    """Return the masks of the cut model; a plan knows a shared weight by another name than its layer may have."""
    known = {other: spec.name for spec in graph.tensors for other in (spec.name, *spec.aliases)}
    if all(known.get(name, name) == name for name in masks):
        return masks.after(plan)
    cut = Masks({known.get(name, name): masks[name] for name in masks}).after(plan)
    return Masks({name: cut[found] for name in masks if (found := known.get(name, name)) in cut})


def _masked_copy(graph: ChannelGraph, model: nn.Module, masks: Masks) -> nn.Module:
    masks.parameters_of(model)
    wide = apply(model, graph.plan({}), verify_with=None).double().eval()
    masks.apply_(wide)
    return wide


def _find(graph: ChannelGraph, wide: nn.Module, masks: Masks, example_inputs: ExampleInputs) -> DeadUnits:
    reads = observe(graph, wide, example_inputs)
    state = Liveness.of(graph, masks)
    ways: dict[str, dict[str, BoolArray]] = {"inputs": {}, "outputs": {}}
    staying: dict[str, dict[int, str]] = {}
    changed = True
    while changed:
        changed = False
        for group in state.groups:
            by_outputs = state.without_outputs(group) & ~state.dead[group.name]
            by_inputs = state.without_inputs(group) & ~state.dead[group.name] & ~by_outputs
            reasons = _obstacles(group, by_inputs, state, reads)
            by_inputs[list(reasons)] = False
            if (state.dead[group.name] | by_outputs | by_inputs).all():
                last = int(np.flatnonzero(~state.dead[group.name])[0])
                by_outputs[last] = by_inputs[last] = False
                reasons[last] = LAST
            staying[group.name] = reasons
            for way, found in (("inputs", by_inputs), ("outputs", by_outputs)):
                if found.any():
                    ways[way][group.name] = ways[way].get(group.name, np.zeros(group.size, dtype=bool)) | found
                    state.bury(group, found)
                    changed = True
    plan = graph.plan({group.name: np.flatnonzero(~state.dead[group.name]).tolist() for group in state.groups})
    constants = _removed_inputs(graph, ways["inputs"], reads)
    return DeadUnits(
        plan=plan,
        without_inputs=_numbers(ways["inputs"]),
        without_outputs=_numbers(ways["outputs"]),
        staying={name: reasons for name, reasons in staying.items() if reasons},
        shifts={
            name: shift for name, indices in constants.items() if bool((shift := reads[name].shift(indices)).any())
        },
        norms={name: norm for name in constants if (norm := reads[name].norm) is not None},
    )


def _obstacles(group: Group, units: BoolArray, state: Liveness, reads: Mapping[str, Read]) -> dict[int, str]:
    """Return why each of ``units`` that has no live inputs cannot go, for those that cannot."""
    found: dict[int, str] = {}
    readers = [member for member in group.members if member.role == "consumes"]
    alive = {number: state.reads(member) for number, member in enumerate(readers)}
    for unit in np.flatnonzero(units).tolist():
        if not readers:
            found[unit] = "no layer reads it by a weight of its own"
        for number, member in enumerate(readers):
            indices = (member.units == unit) & alive[number]
            if not indices.any():
                continue
            read = reads.get(member.parameter)
            if read is None:
                found[unit] = f"{member.parameter} reads it, which is the weight of no plain layer that runs"
                break
            reason = read.obstacle(indices)
            if reason is not None:
                found[unit] = reason
                break
    return found


def _removed_inputs(
    graph: ChannelGraph, gone: Mapping[str, BoolArray], reads: Mapping[str, Read]
) -> dict[str, BoolArray]:
    """Return for each weight which of its inputs were constants of units that go, shape (inputs,)."""
    found: dict[str, BoolArray] = {}
    for name, units in gone.items():
        marks = np.append(units, False)
        for member in graph.group(name).members:
            if member.role == "consumes" and member.parameter in reads:
                before = found.get(member.parameter, np.zeros(member.units.size, dtype=bool))
                found[member.parameter] = before | marks[member.units]
    return found


def _numbers(found: Mapping[str, BoolArray]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(np.flatnonzero(units).tolist()) for name, units in found.items()}


def _difference(wide: nn.Module, narrow: nn.Module, example_inputs: ExampleInputs) -> float:
    """Return max |wide − narrow| / max |wide| over all outputs, of two models in float64, in eval mode."""
    given = inputs.map_tensors(
        lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, inputs.as_call(example_inputs)
    )
    noise = inputs.map_tensors(lambda tensor: inputs.noise_like(tensor, 1), given)
    found = 0.0
    for call in (given, noise):
        with mode_of(wide, training=False), mode_of(narrow, training=False):
            pairs = list(
                zip(inputs.tensors_of(inputs.run(wide, call)), inputs.tensors_of(inputs.run(narrow, call)), strict=True)
            )
        scale = max((size(first) for first, _ in pairs if first.is_floating_point()), default=0.0)
        for first, second in pairs:
            if first.is_floating_point() and first.numel():
                found = max(found, distance(first, second) / max(scale, 1e-30))
    return found
