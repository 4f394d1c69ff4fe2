"""From what a run recorded to groups: solve the unions, collect units of equal signature, express costs by them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.costs import Costs, Forms, Terms
from secateur.graph.labels import IntArray
from secateur.graph.recorded import Record
from secateur.graph.rules.convolution import NOT_A_CHANNEL
from secateur.graph.selection_finding import with_selections
from secateur.graph.units import Group, ParameterDim, SizeAttribute, TensorSpec

_PRODUCES, _CONSUMES, _CARRIES = "produces", "consumes", "carries"


@dataclass
class _Units:
    """Units numbered through, group by group."""

    of_atom: IntArray  # unit of every atom, -1 for none
    group: IntArray  # group of every unit
    leads: IntArray  # leading atom of every unit
    locked: list[str | None]  # per group
    approximate: list[str | None]  # per group


def build(record: Record) -> tuple[ChannelGraph, IntArray]:
    """Turn a record into a graph, and say which unit each atom belongs to (-1 for none), shape (atoms,)."""
    dims = [(name, axis) for name, labels in record.atoms_of.items() for axis in range(len(labels))]
    roots = record.atoms.solve()
    forms = _FormTable()
    # Dimensions of tensors come first: most activations carry exactly the labels of one of them.
    tensors = [(1, [forms.number(atoms) for atoms in record.atoms_of[name]]) for name in record.stored]
    of_tensors = len(forms.arrays)
    compute = [(constant, [forms.number(atoms) for atoms in shape]) for _, _, constant, shape in record.compute]
    stores = [
        (storage.constant, [forms.number(atoms) for atoms in storage.dims], storage)
        for storage in record.storages
        if storage.dies >= 0
    ]
    selected = [forms.number(source) for _, source, _ in record.atoms.selections]
    units = _number_units(record, roots, dims, forms.arrays[of_tensors:])
    parameter_dims = _parameter_dims(record, dims, units)
    sizes = np.bincount(units.group, minlength=len(units.locked)) if units.group.size else np.zeros(0, np.int64)
    groups = _named_groups(record, dims, units, sizes)
    costs = Costs(
        forms=forms.solved(units, sizes),
        compute=Terms.of(compute, record.batch_size),
        compute_names=tuple((path, function) for path, function, _, _ in record.compute),
        tensors=Terms.of(tensors),
        storages=Terms.of([(constant, numbers) for constant, numbers, _ in stores], record.batch_size),
        born=np.asarray([storage.born for _, _, storage in stores], dtype=np.int64),
        dies=np.asarray([storage.dies for _, _, storage in stores], dtype=np.int64),
    )
    specs = tuple(
        TensorSpec(
            name=name,
            shape=tuple(entry.tensor.shape),
            element_bytes=entry.tensor.element_size(),
            is_parameter=entry.is_parameter,
            is_persistent=entry.is_persistent,
            aliases=entry.aliases,
        )
        for name, entry in record.stored.items()
    )
    attributes = tuple(
        SizeAttribute(module=path, attribute=attribute, units=units.of_atom[atoms])
        for (path, attribute), atoms in record.attributes.items()
    )
    graph = ChannelGraph(
        model_class=record.model_class,
        tensors=specs,
        groups=groups,
        dims=parameter_dims,
        attributes=attributes,
        regrouped=frozenset(record.regrouped),
        costs=costs,
        unreached=tuple(record.unreached()),
        unknown_ops=dict(sorted(record.unknown_ops.items())),
        train_mode=record.train_mode,
        outputs=record.outputs,
    )
    return with_selections(record, graph, units.of_atom, selected)


class _FormTable:
    """Gives equal label arrays one number."""

    def __init__(self) -> None:
        self.arrays: list[IntArray] = []
        self._by_identity: dict[int, int] = {}
        self._by_content: dict[bytes, int] = {}

    def number(self, atoms: IntArray) -> int:
        """Return the number of the form that ``atoms`` stands for."""
        known = self._by_identity.get(id(atoms))
        if known is None:
            known = self._by_content.setdefault(atoms.tobytes(), len(self.arrays))
            if known == len(self.arrays):
                self.arrays.append(atoms)
            self._by_identity[id(atoms)] = known
        return known

    def solved(self, units: _Units, sizes: NDArray[np.int64]) -> Forms:
        """Express every form by groups: how many positions each unit of a group takes, and what is left constant."""
        if not self.arrays:
            empty = np.zeros(0, dtype=np.int64)
            return Forms(empty, empty, empty, empty)
        lengths = np.asarray([atoms.size for atoms in self.arrays], dtype=np.int64)
        unit = units.of_atom[np.concatenate(self.arrays)]
        form = np.repeat(np.arange(lengths.size), lengths)
        form, unit = form[unit >= 0], unit[unit >= 0]
        count = max(sizes.size, 1)
        pairs, positions = _counted(form * count + units.group[unit], lengths.size * count)
        form_of, group_of = np.divmod(pairs, count)
        coefficient, rest = np.divmod(positions, sizes[group_of])
        assert not rest.any(), "units of one group take different numbers of positions"
        constants = lengths - np.bincount(form_of, weights=positions, minlength=lengths.size).astype(np.int64)
        return Forms(constants, form_of, group_of, coefficient)


def _counted(values: IntArray, bound: int) -> tuple[IntArray, IntArray]:
    """Return the distinct values below ``bound``, sorted, and how often each occurs."""
    if bound > max(1 << 22, 8 * values.size):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values, minlength=bound)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _number_units(record: Record, roots: IntArray, dims: list[tuple[str, int]], forms: list[IntArray]) -> _Units:
    sizes = np.asarray([record.stored[name].tensor.shape[axis] for name, axis in dims], dtype=np.int64)
    total = int(sizes.sum())  # atoms of tensors come first and lie in the order of dims
    slot = np.repeat(np.arange(len(dims)), sizes)
    reached = np.asarray([name in record.reached or not record.stored[name].is_parameter for name, _ in dims], bool)
    is_root = roots == np.arange(roots.size)
    component = np.flatnonzero(is_root)
    of_atom = (np.cumsum(is_root) - 1)[roots]
    reasons = _Reasons(component.size, of_atom)
    locked = reasons.first(record.atoms.locks)
    approximate = reasons.first(record.atoms.approximations)
    usable = np.zeros(component.size, dtype=bool)
    usable[of_atom[:total][np.repeat(reached, sizes)]] = True
    ignored = reasons.number.get(NOT_A_CHANNEL)
    if ignored is not None:
        usable &= locked != ignored
    usable[_of_buffers_alone(record, dims, sizes, of_atom, component.size)] = False

    # Which atom leads a unit: the first that a weight produces, else the first of all.
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    produces = np.asarray([record.roles.get(int(start)) == _PRODUCES for start in starts[:-1]], dtype=bool)
    rank = np.arange(total) + np.where(np.repeat(produces, sizes), 0, total)
    lead = np.full(component.size, 2 * total, dtype=np.int64)
    np.minimum.at(lead, of_atom[:total], rank)

    signature = _signatures(component.size, of_atom, slot, total, len(dims), forms)
    signature ^= _mix(locked + 1, np.int64(7)) ^ _mix(approximate + 1, np.int64(13))
    chosen = np.flatnonzero(usable)
    _, group = np.unique(signature[chosen], return_inverse=True)
    group_lead = np.full(group.max(initial=-1) + 1, 4 * total + 1, dtype=np.int64)
    np.minimum.at(group_lead, group, lead[chosen] % max(total, 1))
    order = np.argsort(group_lead, kind="stable")
    renumber = np.empty_like(order)
    renumber[order] = np.arange(order.size)
    group = renumber[group]
    by_unit = np.lexsort((lead[chosen], group))
    unit_of_component = np.full(component.size, -1, dtype=np.int64)
    unit_of_component[chosen[by_unit]] = np.arange(chosen.size)
    first = np.searchsorted(group[by_unit], np.arange(order.size)) if order.size else np.zeros(0, np.int64)
    leaders = chosen[by_unit][first]
    return _Units(
        of_atom=unit_of_component[of_atom],
        group=group[by_unit],
        leads=lead[chosen[by_unit]] % max(total, 1),
        locked=[reasons.text(int(locked[c])) for c in leaders],
        approximate=[reasons.text(int(approximate[c])) for c in leaders],
    )


def _of_buffers_alone(
    record: Record, dims: list[tuple[str, int]], sizes: IntArray, of_atom: IntArray, count: int
) -> NDArray[np.bool_]:
    """Components without any parameter: constants that a model keeps, not channels."""
    parameter = np.repeat(np.asarray([record.stored[name].is_parameter for name, _ in dims], dtype=bool), sizes)
    with_parameter = np.zeros(count, dtype=bool)
    with_parameter[of_atom[: parameter.size][parameter]] = True
    return ~with_parameter


class _Reasons:
    """Numbers the texts of locks, and finds the first that applies to each component."""

    def __init__(self, components: int, of_atom: IntArray) -> None:
        self.number: dict[str, int] = {}
        self._components = components
        self._of_atom = of_atom

    def first(self, entries: list[tuple[IntArray, str]]) -> IntArray:
        """Return the number of the first reason for each component, -1 for none."""
        none = np.iinfo(np.int64).max
        found = np.full(self._components, none, dtype=np.int64)
        for atoms, text in reversed(entries):
            # A real reason says more than that a kernel position is none.
            number = self.number.setdefault(text, len(self.number))
            found[self._of_atom[atoms]] = number
        return np.where(found == none, -1, found)

    def text(self, number: int) -> str | None:
        """Return the text of a reason, None for -1."""
        return None if number < 0 else list(self.number)[number]


def _mix(first: Any, second: Any) -> NDArray[np.uint64]:
    """Hash pairs of integers to 64 bits (the finaliser of splitmix64)."""
    value = np.asarray(first, dtype=np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    value = value ^ (np.asarray(second, dtype=np.int64).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def _signatures(
    components: int, of_atom: IntArray, slot: IntArray, total: int, slots: int, forms: list[IntArray]
) -> NDArray[np.uint64]:
    """Hash {(dimension, positions taken)} of every component.

    Dimensions of activations that enter a cost count too, so that each cost is linear in a group's size.
    """
    # A sum of one random number per occurrence is a hash of the multiset.
    numbers = _mix(np.arange(slots + len(forms)) + 1, np.int64(5))
    signature = np.zeros(components, dtype=np.uint64)
    np.add.at(signature, of_atom[:total], numbers[slot])
    for number, atoms in enumerate(forms):
        np.add.at(signature, of_atom[atoms], numbers[slots + number])
    return signature


def _parameter_dims(record: Record, dims: list[tuple[str, int]], units: _Units) -> tuple[ParameterDim, ...]:
    found = []
    for name, axis in dims:
        atoms = record.atoms_of[name][axis]
        if not atoms.size:
            continue
        of_index = units.of_atom[atoms]
        if (of_index < 0).all():
            continue
        role = record.roles.get(int(atoms[0]), _CARRIES)
        found.append(ParameterDim(name, axis, role, of_index))
    return tuple(found)


def _named_groups(
    record: Record, dims: list[tuple[str, int]], units: _Units, sizes: NDArray[np.int64]
) -> tuple[Group, ...]:
    starts = []
    position = 0
    for name, axis in dims:
        starts.append(position)
        position += record.stored[name].tensor.shape[axis]
    bases, produced = [], []
    first_units = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    for offset in first_units[:-1].tolist():
        atom = int(units.leads[offset])
        # Dimensions of size zero share a start; the one that holds the atom is the last.
        place = int(np.searchsorted(starts, atom, side="right")) - 1
        parameter = dims[place][0]
        bases.append(parameter.rsplit(".", 1)[0] if "." in parameter else parameter)
        produced.append(record.roles.get(starts[place]) == _PRODUCES)
    # A module's plain name goes to the group that it produces; what else it leads is numbered.
    used: Counter[str] = Counter()
    names = [""] * len(bases)
    for number in sorted(range(len(bases)), key=lambda number: (not produced[number], number)):
        base = bases[number]
        used[base] += 1
        names[number] = base if used[base] == 1 else f"{base}#{used[base]}"
    summed = np.zeros(len(bases), dtype=bool)
    for atoms in record.atoms.sums:
        of_atom = units.of_atom[atoms]
        summed[units.group[of_atom[of_atom >= 0]]] = True
    groups = [
        Group(
            names[number],
            size,
            int(first_units[number]),
            units.locked[number],
            units.approximate[number],
            bool(summed[number]),
        )
        for number, size in enumerate(sizes.tolist())
    ]
    return tuple(groups)
