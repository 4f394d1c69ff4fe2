"""A plan: which units stay, decided and printable, before anything is touched."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.graph.blocks import Drop, outermost

FORMAT = "secateur-plan-1"
FORMAT_WITH_DROPS = "secateur-plan-2"
"""Of plans that drop blocks: a reader of the first format would keep these, so it is to refuse them."""


def fingerprint_of(model_class: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a short hash of a model's class and of the names and shapes of its parameters and buffers."""
    digest = hashlib.blake2b(model_class.encode(), digest_size=8)
    for name in sorted(shapes):
        digest.update(f"\n{name}:{','.join(map(str, shapes[name]))}".encode())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DimensionCut:
    """What goes from one dimension of one parameter or buffer: sorted indices of ``size``."""

    parameter: str
    dim: int
    size: int
    removed: NDArray[np.int64]

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """The sorted indices that stay."""
        stays = np.ones(self.size, dtype=bool)
        stays[self.removed] = False
        return np.flatnonzero(stays)


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
        return "\n".join(["Plan:", *lines])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cut."""
        return not self.kept and not self.drops

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
        )

    # Files ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries; :meth:`from_json` reads them back."""
        return {
            "format": FORMAT_WITH_DROPS if self.drops else FORMAT,
            "fingerprint": self.fingerprint,
            "model_class": self.model_class,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "kept": {name: list(self.kept[name]) for name in sorted(self.kept)},
            "sizes": {name: self.sizes[name] for name in sorted(self.sizes)},
            "removed": {
                name: {str(dim): indices for dim, indices in dims.items()} for name, dims in self.removed().items()
            },
            "attributes": sorted(list(entry) for entry in self.attributes),
            "regrouped": sorted(self.regrouped),
            "train_mode": self.train_mode,
            **({"outputs": list(self.outputs)} if self.outputs else {}),
            **({"drops": [d.to_json() for d in self.drops], "gone": list(self.gone)} if self.drops else {}),
            **({"approximate": list(self.approximate)} if self.approximate else {}),
        }

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """Read what :meth:`to_json` wrote, checking that it is consistent.

        Raises:
            PlanError: not a plan, of another format, or inconsistent in itself.
        """
        if not isinstance(data, dict) or data.get("format") not in (FORMAT, FORMAT_WITH_DROPS):
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(
                f"expected a plan of format {FORMAT!r} or {FORMAT_WITH_DROPS!r}, got {found!r}; write one with "
                "`secateur plan`"
            )
        try:
            for key, kind in (("fingerprint", str), ("model_class", str), ("regrouped", list), ("train_mode", bool)):
                if type(data[key]) is not kind:
                    raise TypeError(f"{key!r} is {data[key]!r}, not a {kind.__name__}")
            shapes = {name: tuple(int(n) for n in shape) for name, shape in data["shapes"].items()}
            cuts = [
                _cut_from(name, dim, indices, shapes[name])
                for name, dims in data["removed"].items()
                for dim, indices in dims.items()
            ]
            for name, units in data["kept"].items():
                _check_kept(name, units, data["sizes"][name])
            plan = cls(
                fingerprint=data["fingerprint"],
                model_class=data["model_class"],
                shapes=shapes,
                kept={name: tuple(int(u) for u in units) for name, units in data["kept"].items()},
                sizes={name: int(size) for name, size in data["sizes"].items()},
                cuts=tuple(cuts),
                attributes=tuple((str(m), str(a), int(v)) for m, a, v in data["attributes"]),
                regrouped=frozenset(data["regrouped"]),
                train_mode=bool(data["train_mode"]),
                outputs=_names(data, "outputs", "module"),
                drops=_drops_from(data),
                gone=_names(data, "gone", "group"),
                approximate=_names(data, "approximate", "group"),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise PlanError(f"the plan is malformed: {type(error).__name__}: {error}") from error
        if fingerprint_of(plan.model_class, plan.shapes) != plan.fingerprint:
            raise PlanError("the plan's fingerprint does not match the shapes it lists; it was edited or damaged")
        _check_drops(plan)
        if list(plan.approximate) != sorted(set(plan.approximate) & set(plan.kept)):
            raise PlanError(f"the plan lists {plan.approximate} as groups that it cuts approximately; it was edited")
        return plan

    @cached_property
    def digest(self) -> str:
        """Hash of the content, the same on every machine."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _drops_from(data: dict[str, Any]) -> tuple[Drop, ...]:
    drops = tuple(Drop.from_json(drop) for drop in data.get("drops", ()))
    if bool(drops) != (data["format"] == FORMAT_WITH_DROPS):
        raise PlanError(f"the plan is of format {data['format']!r}, but drops {len(drops)} blocks; it was edited")
    if drops != outermost(drops):
        raise PlanError("the plan drops blocks unsorted, twice, or inside one another; it was edited")
    return drops


def _check_drops(plan: Plan) -> None:
    for drop in plan.drops:
        bare = next((path for path, _ in drop.replaced if not any(n.startswith(f"{path}.") for n in plan.shapes)), None)
        if bare is not None:
            raise PlanError(f"the plan drops the block {drop.block!r} by its module {bare!r}, which has no parameters")
    if plan.drops and len(plan.dropped_tensors) == len(plan.shapes):
        raise PlanError("the plan drops every tensor of the model; it was edited")
    cut = next((cut.parameter for cut in plan.cuts if cut.parameter in plan.dropped_tensors), None)
    if cut is not None:
        raise PlanError(f"the plan cuts {cut}, which goes with a dropped block; it was edited")
    if list(plan.gone) != sorted(set(plan.gone) - set(plan.kept)) or (plan.gone and not plan.drops):
        raise PlanError(f"the plan lists {plan.gone} as groups that go with dropped blocks; it was edited")


def _names(data: dict[str, Any], key: str, kind: str) -> tuple[str, ...]:
    names = data.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{key} is {names!r} instead of a list of {kind} names")
    return tuple(names)


def _cut_from(name: str, dim: str, indices: list[int], shape: tuple[int, ...]) -> DimensionCut:
    axis = int(dim)
    if not 0 <= axis < len(shape):
        raise PlanError(f"the plan cuts dimension {axis} of {name}, which has {len(shape)}")
    size = shape[axis]
    if not indices or not _rising(indices, size):
        raise PlanError(f"the plan removes indices of {name} that are unsorted or outside 0..{size - 1}")
    if len(indices) == size:
        raise PlanError(f"the plan removes all {size} indices of dimension {axis} of {name}")
    return DimensionCut(name, axis, size, np.asarray(indices, dtype=np.int64))


def _check_kept(name: str, units: list[int], size: int) -> None:
    if not units or len(units) >= size or not _rising(units, size):
        raise PlanError(f"the plan keeps units of {name} that are unsorted, too many, or outside 0..{size - 1}")


def _rising(numbers: list[int], size: int) -> bool:
    found = np.asarray(numbers)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        return False
    return bool((np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < size)


def kept_after(first: Plan, second: Plan) -> dict[str, tuple[int, ...]]:
    """Return the units that stay after both plans, numbered as before the first."""
    kept = dict(first.kept)
    for name, units in second.kept.items():
        earlier = first.kept.get(name)
        kept[name] = units if earlier is None else tuple(earlier[unit] for unit in units)
    return kept
