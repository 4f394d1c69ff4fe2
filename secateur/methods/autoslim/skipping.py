"""Which module calls a candidate's run may skip, and which of their outputs it then needs."""

from dataclasses import dataclass

from secateur.graph.first_readers import ModuleCalls


@dataclass(frozen=True)
class Prefix:
    """What need not be computed again when one group shrinks.

    Attributes:
        skipped: numbers of the outermost calls that are over before the group's channels are mixed.
        needed: those of them whose outputs are read later; the others only stand where code expects a tensor.
        order: numbers of all calls that a candidate's run makes, skipped ones included, in the order of the run.
        saved: share of all numbers that operators make, which the skipped calls make.
    """

    skipped: frozenset[int]
    needed: frozenset[int]
    order: tuple[int, ...]
    saved: float


def is_written_from(seen: ModuleCalls, number: int) -> bool:
    """Whether something writes into what a call gives, after it has."""
    call = seen.operations.calls[number]
    storage = seen.operations.values[call.gives].storage
    return any(writer >= call.end for writer in seen.writers.get(storage, ()))


def prefix_before(seen: ModuleCalls, reader: int) -> Prefix:
    """Return what is over before operator ``reader``."""
    calls = seen.operations.calls
    refused: set[int] = set()
    while True:
        skipped: list[int] = []
        inside: set[int] = set()
        for number, call in enumerate(calls):
            if call.parent < 0:
                continue
            if call.parent in inside or call.parent in skipped:
                inside.add(number)
            elif _may_be_skipped(seen, number, reader) and number not in refused:
                skipped.append(number)
        needed, wrong = _needed(seen, skipped, reader)
        if not wrong:
            break
        refused |= wrong
    made = sum(sum(seen.elements[calls[number].first : calls[number].end]) for number in skipped)
    order = tuple(number for number, call in enumerate(calls) if call.parent >= 0 and number not in inside)
    return Prefix(frozenset(skipped), frozenset(needed), order, made / max(1, sum(seen.elements)))


def _may_be_skipped(seen: ModuleCalls, number: int, reader: int) -> bool:
    call = seen.operations.calls[number]
    return call.first < call.end <= reader and call.gives >= 0 and seen.given[number] is not None


def _needed(seen: ModuleCalls, skipped: list[int], reader: int) -> tuple[set[int], set[int]]:
    """Return the skipped calls whose outputs are read, and those that must not be skipped after all."""
    operations = seen.operations
    inside = {operator: number for number in skipped for operator in range(*_span(seen, number))}
    read: set[int] = set(operations.outputs)
    for place in range(len(operations.operators) - 1, -1, -1):  # what nobody reads need not be right
        operator = operations.operators[place]
        if place in inside:
            continue
        if place >= reader or operator.writes >= 0 or read.intersection(operator.makes):
            read.update(operator.reads)
    by_value = {operations.calls[number].gives: number for number in skipped}
    needed = {by_value[value] for value in read if value in by_value}
    wrong: set[int] = set()
    for value in read:
        maker = operations.values[value].producer
        if value not in by_value and maker in inside:  # it got out otherwise than by being returned
            wrong.add(inside[maker])
    wrong |= _written_beside(seen, skipped, read)
    return needed, wrong | _sharing(seen, needed)


def _written_beside(seen: ModuleCalls, skipped: list[int], read: set[int]) -> set[int]:
    """Return skipped calls that write into a tensor of others, which is read later under its older name."""
    values, operators = seen.operations.values, seen.operations.operators
    wrong = set()
    for number in skipped:
        first, end = _span(seen, number)
        written = {operators[place].writes for place in range(first, end)} - {-1}
        if any(values[value].storage in written and values[value].producer < first for value in read):
            wrong.add(number)
    return wrong


def _sharing(seen: ModuleCalls, needed: set[int]) -> set[int]:
    """Return calls whose outputs share memory that is written later: copies of them would not follow."""
    by_storage: dict[int, set[int]] = {}
    for number in needed:
        storage = seen.operations.values[seen.operations.calls[number].gives].storage
        by_storage.setdefault(storage, set()).add(number)
    return {
        number
        for together in by_storage.values()
        if len(together) > 1
        for number in together
        if is_written_from(seen, number)
    }


def _span(seen: ModuleCalls, number: int) -> tuple[int, int]:
    call = seen.operations.calls[number]
    return call.first, call.end
