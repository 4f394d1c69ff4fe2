"""Find the residual branches of a traced run: what lies between a value x and a sum x + f(x).

All of f is computed from x alone and is used in the sum alone. A projection in the shortcut makes it another value than
x, so such a sum is none of these.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from secateur.graph.operations import Operations


@dataclass(frozen=True)
class Branch:
    """A sum of x and f(x): numbers of operators and values of the run."""

    shortcut: int  # the value x
    result: int  # the value x + f(x)
    end: int  # the value f(x)
    operators: frozenset[int]  # f
    sum: int  # the operator that adds
    operand: int
    weights: frozenset[str]


class Residuals:
    """The residual branches of one run."""

    def __init__(self, operations: Operations) -> None:
        self._run = operations
        self._users = operations.users()

    def branches(self) -> tuple[Branch, ...]:
        """Return the branches in the order in which they end."""
        return tuple(branch for number in range(len(self._run.operators)) for branch in self._branches(number))

    def _branches(self, number: int) -> Iterator[Branch]:
        operator = self._run.operators[number]
        if operator.summed is None or not operator.shapes_agree or min(operator.summed[2:]) < 0:
            return
        operands = operator.summed[2:]
        for place in (1, 0) if operator.name == "add" else (1,):
            branch = self._between(operands[1 - place], operands[place], number, place)
            if branch is not None:
                yield branch
                return

    def _between(self, shortcut: int, end: int, total: int, operand: int) -> Branch | None:
        """Return the branch from ``shortcut`` to ``end``, None if ``end`` is computed from anything else."""
        values, operators = self._run.values, self._run.operators
        if values[shortcut].from_weights or not values[shortcut].is_labelled:
            return None
        inside: set[int] = set()
        waiting, met = [end], False
        while waiting:
            value = waiting.pop()
            if value == shortcut:
                met = True
            elif not values[value].from_weights:
                if value < shortcut or values[value].producer < 0:
                    return None
                producer = values[value].producer
                if producer not in inside:
                    inside.add(producer)
                    waiting.extend(operators[producer].reads)
        weights = frozenset().union(*(self._run.weights_of(number) for number in inside))
        if not met or not weights or not self._is_closed(inside, total):
            return None
        written = {operators[number].writes for number in range(values[shortcut].producer + 1, total)}
        if values[shortcut].storage in written:
            return None
        return Branch(shortcut, operators[total].makes[0], end, frozenset(inside), total, operand, weights)

    def _is_closed(self, inside: set[int], total: int) -> bool:
        """Whether nothing outside reads what is computed inside, but the sum."""
        for number in inside:
            for value in self._run.operators[number].makes:
                if value in self._run.outputs:
                    return False
                outside = set(self._users.get(value, ())) - inside - {total}
                if not all(self._run.is_dead(user, self._users) for user in outside):
                    return False
        return True
