"""A plan as plain lists and dictionaries, and back; what is read is checked to be consistent."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.errors import PlanError
from secateur.graph.blocks import Drop, outermost
from secateur.graph.cuts import DimensionCut, Renumbering, fingerprint_of

if TYPE_CHECKING:
    from secateur.graph.plan import Plan

FORMAT = "secateur-plan-1"
FORMAT_WITH_DROPS = "secateur-plan-2"
"""Of plans that drop blocks: a reader of the first format would keep these, so it is to refuse them."""
FORMAT_WITH_SELECTIONS = "secateur-plan-3"
"""Of plans that touch selections of channels, whether they drop blocks or not: other readers would not renumber."""
_NUMBERS = "numbers"
"""In the place of a dimension: what is removed from the channels that the numbers in a buffer name."""
_FORMATS = (FORMAT, FORMAT_WITH_DROPS, FORMAT_WITH_SELECTIONS)


def content_of(plan: "Plan") -> dict[str, Any]:
    """Return a plan as plain lists and dictionaries."""
    selects = bool(plan.selected or plan.renumbered)
    chosen = {
        "selected": sorted(plan.selected),  # which entries stay is told by the cut of the buffer
        "renumbered": {entry.parameter: entry.size for entry in plan.renumbered},
    }
    removed: dict[str, dict[str, list[int]]] = {
        name: {str(dim): indices for dim, indices in dims.items()} for name, dims in plan.removed().items()
    }
    for entry in plan.renumbered:
        removed.setdefault(entry.parameter, {})[_NUMBERS] = entry.removed.tolist()
    return {
        "format": FORMAT_WITH_SELECTIONS if selects else FORMAT_WITH_DROPS if plan.drops else FORMAT,
        "fingerprint": plan.fingerprint,
        "model_class": plan.model_class,
        "shapes": {name: list(shape) for name, shape in plan.shapes.items()},
        "kept": {name: list(plan.kept[name]) for name in sorted(plan.kept)},
        "sizes": {name: plan.sizes[name] for name in sorted(plan.sizes)},
        "removed": removed,
        "attributes": sorted(list(entry) for entry in plan.attributes),
        "regrouped": sorted(plan.regrouped),
        "train_mode": plan.train_mode,
        **({"outputs": list(plan.outputs)} if plan.outputs else {}),
        **({"drops": [d.to_json() for d in plan.drops], "gone": list(plan.gone)} if plan.drops else {}),
        **({"approximate": list(plan.approximate)} if plan.approximate else {}),
        **(chosen if selects else {}),
    }


def fields_from(data: Any) -> dict[str, Any]:
    """Return the fields of the plan that ``data`` was written from.

    Raises:
        PlanError: not a plan, of another format, or malformed.
    """
    if not isinstance(data, dict) or data.get("format") not in _FORMATS:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise PlanError(
            f"expected a plan of format {FORMAT!r}, {FORMAT_WITH_DROPS!r} or {FORMAT_WITH_SELECTIONS!r}, got "
            f"{found!r}; write one with `secateur plan`"
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
            if dim != _NUMBERS
        ]
        for name, units in data["kept"].items():
            _check_kept(name, units, data["sizes"][name])
        return {
            "fingerprint": data["fingerprint"],
            "model_class": data["model_class"],
            "shapes": shapes,
            "kept": {name: tuple(int(u) for u in units) for name, units in data["kept"].items()},
            "sizes": {name: int(size) for name, size in data["sizes"].items()},
            "cuts": tuple(cuts),
            "attributes": tuple((str(m), str(a), int(v)) for m, a, v in data["attributes"]),
            "regrouped": frozenset(data["regrouped"]),
            "train_mode": bool(data["train_mode"]),
            "outputs": _names(data, "outputs", "module"),
            "drops": _drops_from(data),
            "gone": _names(data, "gone", "group"),
            "approximate": _names(data, "approximate", "group"),
            **_selections_from(data, shapes, cuts),
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise PlanError(f"the plan is malformed: {type(error).__name__}: {error}") from error


def check(plan: "Plan") -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        PlanError: it was edited or damaged.
    """
    if fingerprint_of(plan.model_class, plan.shapes) != plan.fingerprint:
        raise PlanError("the plan's fingerprint does not match the shapes it lists; it was edited or damaged")
    _check_drops(plan)
    if list(plan.approximate) != sorted(set(plan.approximate) & set(plan.kept)):
        raise PlanError(f"the plan lists {plan.approximate} as groups that it cuts approximately; it was edited")


def _selections_from(
    data: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], cuts: list[DimensionCut]
) -> dict[str, Any]:
    paths = _names(data, "selected", "module")
    entries = data.get("renumbered", {})
    if not isinstance(entries, dict):
        raise TypeError(f"renumbered is {entries!r} instead of sizes by the name of a buffer")
    if (data["format"] == FORMAT_WITH_SELECTIONS) != bool(paths or entries):
        raise PlanError(f"the plan is of format {data['format']!r}, but selects in {len(paths)} modules; it was edited")
    cut_of = {(cut.parameter, cut.dim): cut for cut in cuts}
    selected = {}
    for path in paths:
        cut = cut_of.get((f"{path}.indices" if path else "indices", 0))
        if cut is None or len(shapes[cut.parameter]) != 1:
            raise PlanError(f"the plan selects channels in {path!r}, but cuts no index buffer there; it was edited")
        selected[path] = tuple(cut.kept.tolist())
    if list(paths) != sorted(selected):
        raise PlanError("the plan lists selections unsorted or twice; it was edited")
    listed = [name for name, dims in data["removed"].items() if _NUMBERS in dims]
    if set(listed) != set(entries):
        raise PlanError(f"the plan renumbers {sorted(entries)}, but removes numbers of {sorted(listed)}; it was edited")
    renumbered = []
    for name, size in entries.items():
        removed = data["removed"][name][_NUMBERS]
        sound = type(size) is int and removed and len(removed) < size and _rising(removed, size)
        if not sound or len(shapes[name]) != 1:
            raise PlanError(f"the plan removes channels that {name} numbers, but not some of them; it was edited")
        renumbered.append(Renumbering(name, size, np.asarray(removed, dtype=np.int64)))
    return {"selected": selected, "renumbered": tuple(renumbered)}


def _drops_from(data: dict[str, Any]) -> tuple[Drop, ...]:
    drops = tuple(Drop.from_json(drop) for drop in data.get("drops", ()))
    if data["format"] != FORMAT_WITH_SELECTIONS and bool(drops) != (data["format"] == FORMAT_WITH_DROPS):
        raise PlanError(f"the plan is of format {data['format']!r}, but drops {len(drops)} blocks; it was edited")
    if drops != outermost(drops):
        raise PlanError("the plan drops blocks unsorted, twice, or inside one another; it was edited")
    return drops


def _check_drops(plan: "Plan") -> None:
    for drop in plan.drops:
        bare = next((path for path, _ in drop.replaced if not any(n.startswith(f"{path}.") for n in plan.shapes)), None)
        if bare is not None:
            raise PlanError(f"the plan drops the block {drop.block!r} by its module {bare!r}, which has no parameters")
    if plan.drops and len(plan.dropped_tensors) == len(plan.shapes):
        raise PlanError("the plan drops every tensor of the model; it was edited")
    cut = next((name for name in plan.changed if name in plan.dropped_tensors), None)
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
