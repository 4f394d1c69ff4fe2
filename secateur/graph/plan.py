"""A plan: which units stay, decided and printable, before anything is touched."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from secateur.errors import PlanError
from secateur.graph import plan_json
from secateur.graph.blocks import Drop, outermost
from secateur.graph.cuts import DimensionCut as DimensionCut
from secateur.graph.cuts import Renumbering as Renumbering
from secateur.graph.cuts import fingerprint_of as fingerprint_of

SELECTION_BUFFER = "indices"
"""Name of the buffer of a :class:`~secateur.models.selection.ChannelSelection`."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Kept units per group, and all that follows from it for the tensors of the model it was made for.

    A plan is applied (:func:`secateur.apply`), simulated (:func:`secateur.masked`) or run on slices of the full model
    (:func:`secateur.narrowed`). Two plans are equal if they cut the same from the same model.

    Attributes:
        fingerprint: of the graph that it was made for.
        model_class: class of that model.
        shapes: shapes of that model's tensors.
        kept: group → sorted units that stay, for every group that loses any.
        sizes: group → its units before the cut, for the same groups.
        cuts: removed indices of every dimension that loses any.
        attributes: (module, attribute, new value) of integers that no tensor tells.
        regrouped: weights whose convolution loses whole groups.
        train_mode: whether training mode has parameters of its own, which the proof then covers too.
        outputs: modules whose outputs the proof compares in place of the model's own; empty for the model's own.
        drops: blocks that go whole, sorted by name. What else the plan says leaves their tensors out.
        gone: groups that go with these blocks, sorted.
        approximate: those groups of ``kept``, sorted, where cutting is not the same as zeroing, because a norm or a
            mean runs across their channels.
        selected: path of a selection of channels → sorted entries of its index buffer that stay, for every selection
            that loses any, also those whose channel goes.
        renumbered: buffers of selections whose norm loses channels, so that the numbers in them change.
    """

    fingerprint: str
    model_class: str
    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    cuts: tuple[DimensionCut, ...]
    attributes: tuple[tuple[str, str, int], ...]
    regrouped: frozenset[str]
    train_mode: bool = False
    outputs: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    gone: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    selected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renumbered: tuple[Renumbering, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Compare what is cut, and from which model."""
        return isinstance(other, Plan) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        """Hash the content."""
        return int(self.digest[:15], 16)

    def __str__(self) -> str:
        """Return one line per group that loses units."""
        if self.is_empty:
            return "Plan: nothing is cut"
        lines = [f"  {name}: dropped whole" for name in self.dropped_blocks]
        lines += [f"  {name}: {len(units)} of {self.sizes[name]} units stay" for name, units in self.kept.items()]
        lines += [
            f"  {path}: {len(entries)} of {self.shapes[selection_buffer(path)][0]} channels stay selected"
            for path, entries in self.selected.items()
        ]
        return "\n".join(["Plan:", *lines])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cut."""
        return not self.kept and not self.drops and not self.selected

    @property
    def dropped_blocks(self) -> tuple[str, ...]:
        """Names of the blocks that go whole, sorted."""
        return tuple(drop.block for drop in self.drops)

    @cached_property
    def dropped_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that go with dropped blocks."""
        return frozenset(name for name in self.shapes if any(drop.covers(name) for drop in self.drops))

    def removed(self) -> dict[str, dict[int, list[int]]]:
        """Return parameter → dimension → sorted removed indices, of what is not dropped whole."""
        found: dict[str, dict[int, list[int]]] = {}
        for cut in self.cuts:
            found.setdefault(cut.parameter, {})[cut.dim] = cut.removed.tolist()
        return found

    def kept_sizes(self) -> dict[str, int]:
        """Return group → number of units that stay, for the groups that lose any."""
        return {name: len(units) for name, units in self.kept.items()}

    @cached_property
    def cuts_of(self) -> dict[str, tuple[DimensionCut, ...]]:
        """The cuts of each parameter and buffer that loses anything."""
        found: dict[str, list[DimensionCut]] = {}
        for cut in self.cuts:
            found.setdefault(cut.parameter, []).append(cut)
        return {name: tuple(cuts) for name, cuts in found.items()}

    @cached_property
    def renumbering_of(self) -> dict[str, Renumbering]:
        """What goes from the channels that the numbers of each buffer name."""
        return {renumbering.parameter: renumbering for renumbering in self.renumbered}

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Names of the parameters and buffers that are cut or renumbered, in the order of the model."""
        return tuple(name for name in self.shapes if name in self.cuts_of or name in self.renumbering_of)

    @cached_property
    def shapes_after(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of the cut model."""
        after = {name: list(shape) for name, shape in self.shapes.items()}
        for cut in self.cuts:
            after[cut.parameter][cut.dim] -= cut.removed.size
        return {name: tuple(shape) for name, shape in after.items() if name not in self.dropped_tensors}

    @cached_property
    def fingerprint_after(self) -> str:
        """Fingerprint of the cut model."""
        return fingerprint_of(self.model_class, self.shapes_after)

    def then(self, second: "Plan") -> "Plan":
        """Return the one plan, in this plan's original indices, that does both cuts.

        Law: ``apply(apply(m, a), b)`` equals ``apply(m, a.then(b))``.

        Raises:
            PlanError: ``second`` was not made for the model that this plan leaves.
        """
        if second.fingerprint != self.fingerprint_after:
            raise PlanError(
                f"the second plan was made for fingerprint {second.fingerprint}, but the first leaves "
                f"{self.fingerprint_after}; make the second from graph.after(first)"
            )
        removed = {(cut.parameter, cut.dim): cut for cut in self.cuts}
        cuts = dict(removed)
        for cut in second.cuts:
            key = (cut.parameter, cut.dim)
            earlier = removed.get(key)
            if earlier is None:
                cuts[key] = cut
            else:
                both = np.union1d(earlier.removed, earlier.kept[cut.removed])
                cuts[key] = DimensionCut(cut.parameter, cut.dim, earlier.size, both)
        order = {name: number for number, name in enumerate(self.shapes)}
        attributes = {(m, a): value for m, a, value in self.attributes}
        attributes.update({(m, a): value for m, a, value in second.attributes})
        sizes = {**second.sizes, **self.sizes}
        drops = outermost((*self.drops, *second.drops))
        gone = {*self.gone, *second.gone}
        renumbered = self.renumbering_of
        for name, later in second.renumbering_of.items():
            renumbered = {**renumbered, name: renumbered[name].then(later) if name in renumbered else later}

        def stands(path: str) -> bool:
            return not any(drop.covers(path) for drop in drops)

        return Plan(
            fingerprint=self.fingerprint,
            model_class=self.model_class,
            shapes=self.shapes,
            kept={name: units for name, units in kept_after(self, second).items() if name not in gone},
            sizes={name: size for name, size in sizes.items() if name not in gone},
            cuts=tuple(
                sorted(
                    (cut for cut in cuts.values() if stands(cut.parameter)),
                    key=lambda cut: (order[cut.parameter], cut.dim),
                )
            ),
            attributes=tuple((m, a, value) for (m, a), value in attributes.items() if stands(m)),
            regrouped=frozenset(filter(stands, self.regrouped | second.regrouped)),
            train_mode=self.train_mode or second.train_mode,
            outputs=self.outputs or second.outputs,
            drops=drops,
            gone=tuple(sorted(gone)),
            approximate=tuple(sorted({*self.approximate, *second.approximate} - gone)),
            selected={
                path: tuple(cuts[selection_buffer(path), 0].kept.tolist())
                for path in sorted({*self.selected, *second.selected})
                if stands(path)
            },
            renumbered=tuple(renumbered[name] for name in sorted(renumbered, key=order.__getitem__) if stands(name)),
        )

    # Files ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries; :meth:`from_json` reads them back."""
        return plan_json.content_of(self)

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """Read what :meth:`to_json` wrote, checking that it is consistent.

        Raises:
            PlanError: not a plan, of another format, or inconsistent in itself.
        """
        plan = cls(**plan_json.fields_from(data))
        plan_json.check(plan)
        return plan

    @cached_property
    def digest(self) -> str:
        """Hash of the content, the same on every machine."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def kept_after(first: Plan, second: Plan) -> dict[str, tuple[int, ...]]:
    """Return the units that stay after both plans, numbered as before the first."""
    kept = dict(first.kept)
    for name, units in second.kept.items():
        earlier = first.kept.get(name)
        kept[name] = units if earlier is None else tuple(earlier[unit] for unit in units)
    return kept


def selection_buffer(path: str) -> str:
    """Return the name of the index buffer of the selection at ``path``."""
    return f"{path}.{SELECTION_BUFFER}" if path else SELECTION_BUFFER
