"""How a residual branch goes without rewriting a forward: which modules are replaced, and what goes with them.

Where a module takes x and returns the sum (or its ReLU, when x is never negative), the whole module is skipped. Else
the modules of the branch that hold its parameters are replaced, the first on every path by zeros, provided that all
code between them turns zeros into zeros.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.graph.blocks import BlockCosts
from secateur.graph.operations import ModuleCall, Operations, Operator
from secateur.graph.residuals import Branch
from secateur.graph.slots import StoredTensor

# Operators of one activation that turn zeros into zeros, whatever their other operands (weights, sizes) are.
_ZEROS_TO_ZEROS = """
relu hardtanh gelu silu mish hardswish tanh leaky_relu elu selu celu _prelu_kernel prelu abs neg sqrt square sign
view _unsafe_view _reshape_alias reshape unflatten permute transpose t squeeze unsqueeze expand repeat flip slice select
split split_with_sizes unbind index_select clone detach alias contiguous _to_copy to native_dropout dropout
avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
max_pool2d max_pool2d_with_indices mean sum pixel_shuffle pixel_unshuffle roll upsample_nearest2d upsample_bilinear2d
"""

_KEEP_ZEROS = frozenset(_ZEROS_TO_ZEROS.split())

# Operators whose results are never negative, and those whose results are not where none of their activations is.
_NEVER_NEGATIVE = frozenset(["relu", "sigmoid", "_softmax", "abs", "square", "hardsigmoid", "exp"])
_SIGN_TO_SIGN = """
max_pool2d max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d view permute transpose clone detach alias contiguous
native_dropout dropout slice cat
"""
_KEEP_SIGN = frozenset(_SIGN_TO_SIGN.split())


@dataclass(frozen=True)
class Recipe:
    """How a branch is dropped: replaced calls, and the operators that go with them."""

    replaced: tuple[tuple[ModuleCall, str], ...]
    gone: frozenset[int]
    result: int  # the value whose readers then read the shortcut, -1 if the sum stays


class Replacing:
    """Finds the recipes for the branches of one run.

    Attributes:
        held: path of a module → parameters and buffers in it, or in what it holds.
    """

    def __init__(self, operations: Operations, stored: Mapping[str, StoredTensor]) -> None:
        self._run = operations
        self._stored = stored
        self._users = operations.users()
        self.held: dict[str, list[str]] = {}
        for name in stored:
            path = name.rpartition(".")[0]
            while path:
                self.held.setdefault(path, []).append(name)
                path = path.rpartition(".")[0]
        self._called = Counter(call.path for call in operations.calls)
        self._readers: dict[str, set[int]] = {}
        for number in range(len(operations.operators)):
            if not operations.is_from_weights(number):
                for name in operations.weights_of(number):
                    self._readers.setdefault(name, set()).add(number)

    def recipe(self, branch: Branch) -> Recipe | str:
        """Return how ``branch`` can be dropped, or why it cannot."""
        shared = next((name for name in sorted(branch.weights) if not self._readers[name] <= branch.operators), None)
        if shared is not None:
            return f"{shared} is also read outside of it"
        return self._skipped(branch) or self._emptied(branch)

    def _skipped(self, branch: Branch) -> Recipe | None:
        """Return the recipe that skips one module whole, the innermost that will do."""
        rectifier = self._idle_rectifier(branch)
        allowed = branch.operators | {branch.sum} | ({rectifier} if rectifier is not None else set())
        results = [branch.result] + ([self._run.operators[rectifier].makes[0]] if rectifier is not None else [])
        calls = [
            call
            for call in self._run.calls
            if call.takes == branch.shortcut
            and call.gives in results
            and self._is_replaceable(call, allowed, branch)
            and branch.operators <= set(range(call.first, call.end))
            and not self._is_written_while_shared(branch.shortcut, call)
        ]
        if not calls:
            return None
        call = min(calls, key=lambda call: (call.end - call.first, -len(call.path)))
        return Recipe(((call, "skip"),), frozenset(range(call.first, call.end)), call.gives)

    def _idle_rectifier(self, branch: Branch) -> int | None:
        """Return the ReLU that alone reads the sum and changes nothing once the sum is x."""
        users = self._users.get(branch.result, [])
        if len(users) != 1 or branch.result in self._run.outputs:
            return None
        is_relu = self._run.operators[users[0]].name == "relu"
        return users[0] if is_relu and self._is_never_negative(branch.shortcut) else None

    def _is_never_negative(self, value: int) -> bool:
        waiting, seen = [value], set()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            producer = self._run.values[value].producer
            if producer < 0:
                return False
            operator = self._run.operators[producer]
            if operator.name in _NEVER_NEGATIVE:
                continue
            is_plain_sum = operator.name == "add" and operator.shapes_agree and min((operator.summed or (-1,))[2:]) >= 0
            if operator.weights or not (operator.name in _KEEP_SIGN or is_plain_sum):
                return False
            waiting.extend(operator.reads)
        return True

    def _is_written_while_shared(self, shortcut: int, call: ModuleCall) -> bool:
        """Whether code behind writes into the result of ``call`` while x, which it then is, is still read."""
        storage = self._run.values[call.gives].storage
        writes = [
            number
            for number in range(call.end, len(self._run.operators))
            if self._run.operators[number].writes == storage
        ]
        if not writes or storage == self._run.values[shortcut].storage:
            return False
        last = max(self._users.get(shortcut, [-1]))
        is_input = self._run.values[shortcut].producer < 0
        return is_input or shortcut in self._run.outputs or last > writes[0]

    def _is_replaceable(self, call: ModuleCall, allowed: frozenset[int] | set[int], branch: Branch) -> bool:
        """Whether a module runs once, does nothing but ``allowed``, and keeps its tensors to itself."""
        if not call.path or self._called[call.path] != 1 or call.end < 0 or call.gives < 0 or call.takes < 0:
            return False
        if not all(number in allowed or self._only_serves(number, allowed) for number in range(call.first, call.end)):
            return False
        held = [self._stored[name] for name in self.held.get(call.path, ())]
        return bool(held) and all(
            self._readers.get(entry.name, set()) <= branch.operators
            and all(lies_in(alias, call.path) for alias in entry.aliases)
            for entry in held
        )

    def _only_serves(self, number: int, allowed: frozenset[int] | set[int]) -> bool:
        """Whether nobody reads what an operator makes, or, of weights alone, only ``allowed`` ones do in the end."""
        if self._run.is_dead(number, self._users):
            return True
        made = self._run.operators[number].makes
        return self._run.is_from_weights(number) and all(
            value not in self._run.outputs
            and all(user in allowed or self._only_serves(user, allowed) for user in self._users.get(value, ()))
            for value in made
        )

    def _emptied(self, branch: Branch) -> Recipe | str:
        """Return the recipe that replaces the modules of the branch one by one, or why that cannot be done."""
        values = self._values_of(branch)
        chosen: list[int] = []
        for number, call in enumerate(self._run.calls):  # a module comes before those that it calls
            if any(_is_below(self._run.calls, number, other) for other in chosen):
                continue
            inside = call.takes in values and call.gives in values and call.gives != call.takes
            if inside and call.tensors == 1 and self._is_replaceable(call, branch.operators, branch):
                chosen.append(number)
        calls = [self._run.calls[number] for number in chosen]
        gone = frozenset(number for call in calls for number in range(call.first, call.end))
        left = sorted(name for name in branch.weights if not any(lies_in(name, call.path) for call in calls))
        if left:
            return f"{left[0]} lies in no module of the branch that takes one tensor and returns one"
        if any(self._run.operators[number].terms for number in branch.operators - gone):
            return "a product is computed by code that lies in no module of the branch"
        return self._zeroed(branch, calls, gone)

    def _zeroed(self, branch: Branch, calls: list[ModuleCall], gone: frozenset[int]) -> Recipe | str:
        """Follow the zeros from the replaced modules to the sum."""
        zero: set[int] = set()
        kinds: list[tuple[ModuleCall, str]] = []
        steps: list[tuple[int, ModuleCall | None]] = [(call.first, call) for call in calls]
        steps += [(number, None) for number in branch.operators - gone]
        for number, call in sorted(steps, key=lambda step: step[0]):
            if call is None:
                operator = self._run.operators[number]
                if self._keeps_zeros(operator, zero):
                    zero.update(operator.makes)
                continue
            if call.takes not in zero and self._run.values[call.gives].storage not in self._born(call):
                return f"the module {call.path!r} writes into its input"
            kinds.append((call, "identity" if call.takes in zero else "zeros"))
            zero.add(call.gives)
        if branch.end not in zero:
            return "zeros in its branch would not stay zeros up to the sum"
        return Recipe(tuple(kinds), gone, -1)

    def _keeps_zeros(self, operator: Operator, zero: set[int]) -> bool:
        activations = [value for value in operator.reads if not self._run.values[value].from_weights]
        if operator.name == "mul":
            return any(value in zero for value in activations)
        if operator.summed is not None:
            return all(value in zero for value in operator.summed[2:])
        return operator.name in _KEEP_ZEROS and bool(activations) and all(value in zero for value in activations)

    def _values_of(self, branch: Branch) -> set[int]:
        made = {value for number in branch.operators for value in self._run.operators[number].makes}
        return made | {branch.shortcut}

    def _born(self, call: ModuleCall) -> set[int]:
        operators = self._run.operators[call.first : call.end]
        return {storage for operator in operators for storage in operator.storages}

    def costs(self, branch: Branch, recipe: Recipe) -> BlockCosts:
        """Return the cost terms that go with ``branch``, numbered as they were recorded."""
        operators, values = self._run.operators, self._run.values
        compute = sorted(term for number in recipe.gone for term in operators[number].terms)
        storages = {storage for number in recipe.gone for storage in operators[number].storages}
        shortcut = values[branch.shortcut].storage
        merged, resized = [], []
        if recipe.result >= 0:
            merged = [(values[recipe.result].storage, shortcut)]
        else:
            for call, kind in recipe.replaced:
                storage = values[call.gives].storage
                if kind == "identity":
                    merged.append((storage, values[call.takes].storage))
                else:
                    storages.discard(storage)
                    resized.append((storage, operators[call.first].number))
            for number in sorted(branch.operators - recipe.gone):
                resized.extend((storage, operators[number].number) for storage in operators[number].storages)
        return BlockCosts(
            compute=tuple(compute),
            storages=tuple(sorted(storages)),
            merged=tuple((gone, read) for gone, read in merged if gone in storages and gone != read),
            resized=tuple(resized),
            shortcut=shortcut,
        )


def lies_in(name: str, path: str) -> bool:
    """Whether a tensor lies in the module at ``path`` or below."""
    return name.startswith(f"{path}.")


def _is_below(calls: list[ModuleCall], number: int, other: int) -> bool:
    while number >= 0 and number != other:
        number = calls[number].parent
    return number == other
