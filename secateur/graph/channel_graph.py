"""The channel graph: which channels hang together, what they cost, what is locked and why. Numbers and names only."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from secateur.errors import PlanError
from secateur.graph.blocks import Block
from secateur.graph.costs import Costs
from secateur.graph.cuts import fingerprint_of
from secateur.graph.graph_json import content_of, fields_from
from secateur.graph.plan import Plan, kept_after
from secateur.graph.planning import blocks_to_drop, narrowed_graph, planned, sizes_after
from secateur.graph.selections import Selection
from secateur.graph.shortening import without_blocks
from secateur.graph.ties import Tie, Why, why
from secateur.graph.units import DimsByGroup, Group, ParameterDim, SizeAttribute, TensorSpec, UnitArray
from secateur.names import unknown_name


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What :func:`secateur.trace` found. Holds no tensors and no modules; equal content means equal graphs.

    Attributes:
        model_class: qualified name of the model's class.
        tensors: every parameter and buffer.
        groups: every group, locked ones included.
        dims: every dimension that belongs to a group.
        attributes: integers of modules that count channels.
        regrouped: weights whose convolution loses whole groups with its channels.
        costs: cost terms as functions of kept sizes.
        unreached: parameters that no run has read.
        unknown_ops: operators without a rule and how often they locked their inputs.
        train_mode: whether a run in training mode was needed to reach all parameters.
        outputs: modules whose outputs count in place of the model's own; empty for the model's own.
        blocks: residual branches that may go whole, in the order in which they end, locked ones included.
        selections: lists of indices by which readers of a normalised stream leave channels out, in the order of the
            run.
        ties: which operators hold each group together. An account of the trace, not part of what two graphs are
            compared by.
    """

    model_class: str
    tensors: tuple[TensorSpec, ...]
    groups: tuple[Group, ...]
    dims: tuple[ParameterDim, ...]
    attributes: tuple[SizeAttribute, ...]
    regrouped: frozenset[str]
    costs: Costs
    unreached: tuple[str, ...]
    unknown_ops: Mapping[str, int]
    train_mode: bool
    outputs: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    selections: tuple[Selection, ...] = ()
    ties: Sequence[Tie] = ()

    def __post_init__(self) -> None:
        dims = self.groups[0].dims if self.groups else None
        if dims is None or not dims.is_of(self.dims, self.sizes):
            dims = DimsByGroup(self.dims, self.sizes)
        # Groups of an earlier graph with the same dimensions are kept with what they have found out.
        groups = tuple(group if group.dims is dims else replace(group, dims=dims) for group in self.groups)
        object.__setattr__(self, "groups", groups)

    def __eq__(self, other: object) -> bool:
        """Compare content, but for ``ties``."""
        return isinstance(other, ChannelGraph) and content_of(self) == content_of(other)

    def __hash__(self) -> int:
        """Hash what identifies the model."""
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model's class and of the names and shapes of its tensors; plans carry it."""
        return fingerprint_of(self.model_class, {spec.name: spec.shape for spec in self.tensors})

    @cached_property
    def by_name(self) -> dict[str, Group]:
        """Groups by name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def sizes(self) -> UnitArray:
        """Number of units of each group, shape (groups,)."""
        return np.asarray([group.size for group in self.groups], dtype=np.int64)

    def group(self, name: str) -> Group:
        """Return a group by its name.

        Raises:
            PlanError: there is none; the nearest name is suggested.
        """
        if name not in self.by_name:
            raise PlanError(unknown_name("group", name, self.by_name))
        return self.by_name[name]

    def groups_of(self, units: UnitArray) -> tuple[Group, ...]:
        """Return the groups that the given units (numbers over all groups, -1 for none) belong to."""
        ends = np.cumsum(self.sizes)
        numbers = np.unique(np.searchsorted(ends, units[units >= 0], side="right"))
        return tuple(self.groups[number] for number in numbers.tolist())

    def block(self, name: str) -> Block:
        """Return a block by its name.

        Raises:
            PlanError: there is none; the nearest name is suggested.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        raise PlanError(unknown_name("block", name, [block.name for block in self.blocks]))

    def without(self, blocks: Iterable[str]) -> "ChannelGraph":
        """Return the graph of the model without the named blocks and what lies inside them, by arithmetic.

        Raises:
            PlanError: an unknown or locked block.
        """
        chosen = blocks_to_drop(self, blocks)
        return without_blocks(self, chosen) if chosen else self

    # Cost ----------------------------------------------------------------------------------------------------

    def kept_sizes(self, plan: Plan | None) -> UnitArray:
        """Return the units that each group keeps under ``plan`` (all without one, 0 if it is gone), shape (groups,).

        Raises:
            PlanError: the plan was made for another model.
        """
        if plan is None:
            return self.sizes
        self.check(plan)
        return sizes_after(self, plan)

    def kept_entries(self, plan: Plan | None) -> UnitArray | None:
        """Return how many entries each selection of channels keeps under ``plan``, shape (selections,); None without.

        Raises:
            PlanError: the plan was made for another model.
        """
        if plan is None:
            return None
        self.check(plan)
        return np.asarray([plan.shapes_after[entry.buffer][0] for entry in self.selections], dtype=np.int64)

    def macs(self, plan: Plan | None = None) -> int:
        """Return multiply-adds of convolutions and matrix products per sample, before or after a plan."""
        if plan is not None and plan.drops:
            return self.after(plan).macs()
        return self.costs.macs(self.kept_sizes(plan), self.kept_entries(plan))

    def params(self, plan: Plan | None = None) -> int:
        """Return the number of parameters, tied ones once, before or after a plan."""
        if plan is not None and plan.drops:
            return self.after(plan).params()
        elements = self.costs.elements(self.kept_sizes(plan), self.kept_entries(plan))
        return int(elements[np.asarray([spec.is_parameter for spec in self.tensors], dtype=bool)].sum())

    def tensor_bytes(self, plan: Plan | None = None) -> int:
        """Return the bytes of all saved tensors (parameters and persistent buffers, tied ones once)."""
        if plan is not None and plan.drops:
            return self.after(plan).tensor_bytes()
        width = np.asarray([spec.element_bytes * spec.is_persistent for spec in self.tensors], dtype=np.int64)
        return int((self.costs.elements(self.kept_sizes(plan), self.kept_entries(plan)) * width).sum())

    def activation_bytes(self, plan: Plan | None = None) -> int:
        """Return the peak over operators of activation bytes alive, per sample.

        A selection of channels counts as a copy, which it makes as soon as it leaves a channel out. One that selects
        all of them returns its input itself, so where the peak lies at such a one the count is that much too high.
        """
        if plan is not None and plan.drops:
            return self.after(plan).activation_bytes()
        return self.costs.activation_bytes(self.kept_sizes(plan), self.kept_entries(plan))

    # Plans ---------------------------------------------------------------------------------------------------

    def check(self, plan: Plan) -> None:
        """Refuse a plan that was made for another model.

        Raises:
            PlanError: the fingerprints differ.
        """
        if plan.fingerprint != self.fingerprint:
            raise PlanError(
                f"the plan was made for {plan.model_class} with fingerprint {plan.fingerprint}, but this is "
                f"{self.model_class} with {self.fingerprint}; make a plan from this model's own graph"
            )

    def plan(
        self,
        kept: Mapping[str, Iterable[int]],
        *,
        selected: Mapping[str, Iterable[int]] | None = None,
        blocks: Iterable[str] = (),
        allow_approximate: bool = False,
    ) -> Plan:
        """Return the plan that keeps the given units of the named groups and all units of the others.

        Args:
            kept: group name → numbers of the units to keep, each in [0, size). Groups that lie in a dropped block go
                with it, whatever is said of them here.
            selected: path of a selection of channels → numbers of the entries of its index buffer to keep, each in
                [0, size): which channels its reader still gets. Entries whose channel goes by ``kept`` go with it,
                whatever is said of them here.
            blocks: names of blocks to drop whole; those inside another one go with it.
            allow_approximate: also cut groups where cutting is not the same as zeroing, because a norm or a mean runs
                across their channels; the plan lists them, and a proof reports the drift.

        Raises:
            PlanError: an unknown or locked group, selection or block, a unit out of range, or a group or selection left
                empty.
        """
        return planned(self, kept, selected or {}, blocks, allow_approximate=allow_approximate)

    def drop_blocks(self, blocks: Iterable[str]) -> Plan:
        """Return the plan that drops the named blocks and keeps all else.

        Raises:
            PlanError: an unknown or locked block.
        """
        return self.plan({}, blocks=blocks)

    def after(self, plan: Plan) -> "ChannelGraph":
        """Return the graph of the cut model, by arithmetic. Law: tracing the cut model gives the same.

        Raises:
            PlanError: the plan was made for another model.
        """
        self.check(plan)
        return narrowed_graph(self.without(plan.dropped_blocks), plan)

    def compose(self, first: Plan, second: Plan) -> Plan:
        """Return ``first.then(second)`` as a plan of this graph, with units checked against it."""
        return self.plan(
            kept_after(first, second),
            selected=first.then(second).selected,
            blocks=(*first.dropped_blocks, *second.dropped_blocks),
            allow_approximate=bool(first.approximate or second.approximate),
        )

    # Reports -------------------------------------------------------------------------------------------------

    def least_sizes(self, *, allow_approximate: bool = False) -> UnitArray:
        """Return the units of each group with one left wherever units may be cut, shape (groups,)."""
        open_ = [group.cuttable(allow_approximate=allow_approximate) for group in self.groups]
        return np.where(open_, np.minimum(self.sizes, 1), self.sizes)

    def prunable_share_of_macs(self, *, allow_approximate: bool = False) -> float:
        """Return the largest share of multiply-adds that can be cut, with one unit left in every group."""
        least = self.least_sizes(allow_approximate=allow_approximate)
        total = self.costs.macs(self.sizes)
        return 1.0 - self.costs.macs(least) / total if total else 0.0

    def macs_of_groups(self) -> dict[str, int]:
        """Return by name the multiply-adds per sample of the operators that each group takes part in.

        An operator counts for every group that it reads or makes, so the numbers of several groups overlap.
        """
        return {
            group.name: macs
            for group, macs in zip(self.groups, self.costs.macs_by_group(self.sizes).tolist(), strict=True)
        }

    def why(self, name: str) -> Why:
        """Return why the channels of a group go together, and what locks it; ``print`` it to read it.

        Raises:
            PlanError: there is no such group; the nearest name is suggested.
        """
        return why(self, self.group(name))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries; :meth:`from_json` reads them back."""
        return {**content_of(self), "ties": [tie.to_json() for tie in self.ties]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ChannelGraph":
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: a key is missing.
        """
        return cls(**fields_from(data))

    def digest(self) -> str:
        """Return a hash of the content, but for ``ties``, for comparing graphs across processes."""
        text = json.dumps(content_of(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
