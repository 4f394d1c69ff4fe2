"""The budget "smallest within x points": the deepest cut whose validation accuracy stays near the dense model's."""

import math
from dataclasses import fields, replace
from fractions import Fraction

from torch import nn

from secateur.cost import Budget
from secateur.cost.budget import is_share, meter
from secateur.errors import BudgetError, UsageError
from secateur.graph import ChannelGraph, trace
from secateur.methods.contract import Method, Progress
from secateur.methods.levels import least_cost
from secateur.methods.running import silent
from secateur.methods.search_words import curve_notes, noise_notes, nothing_found, standard_error_points, told
from secateur.methods.trials import Candidate as Candidate
from secateur.methods.trials import NothingNearError as NothingNearError
from secateur.methods.trials import Search as Search
from secateur.methods.trials import Trials, budget_of
from secateur.methods.trials import read_search as read_search
from secateur.methods.trials import write_search as write_search
from secateur.names import unknown_name
from secateur.record import Evaluation
from secateur.training import Store, Task
from secateur.wording import counted


def smallest_within(
    method: Method,
    model: nn.Module,
    task: Task,
    *,
    max_drop_points: float,
    amount: str = "macs",
    recovery_epochs: int = 1,
    tolerance: float = 0.02,
    least: float | None = None,
    also: Budget | None = None,
    store: Store,
    progress: Progress | None = None,
) -> Search:
    """Find the smallest budget whose cut model stays within ``max_drop_points`` of the dense one's validation score.

    Bisection over shares of the original's ``amount``, on a grid of steps of at most ``tolerance``. Every candidate is
    cut from the dense model by ``method``, trained for ``recovery_epochs`` and measured on the validation split; the
    test split is never read. A method that trains between its cuts does so only in the caller's own run, at the budget
    found: a candidate gets its cuts one after the other, and the recovery after the last.

    A result is kept as soon as it is known and the weights behind it are removed, so the store holds those of one
    candidate at most; the same call over it continues a killed search. Bisection takes accuracy to rise with the
    budget: below a candidate that fell short it does not look.

    Args:
        method: how to cut; all of its settings hold for the candidates but ``finetune_epochs``, which is replaced, and
            ``layer_epochs`` or ``step_epochs``, which are 0.
        model: the trained dense model; stays as it was.
        task: trains and evaluates.
        max_drop_points: percentage points of validation top-1 (or mean IoU) that may be lost, in [0, 100].
        amount: the quantity to make small, a name of Budget's.
        recovery_epochs: passes over the training data that each candidate gets after its cut.
        tolerance: distance of neighbouring shares at most: so near below the answer a share fell short.
        least: the smallest share to try; None for what one unit in every group needs.
        also: other limits, which every candidate holds too.
        store: keeps what is measured.
        progress: told what each candidate gave.

    Raises:
        NothingNearError: no candidate is within the drop; it holds what was measured.
        BudgetError: the other limits cannot be met.
        UsageError: a setting is out of range.
        TrainingError: a loss is not finite, or the store belongs to another search.
    """
    refuse_search_around(method)
    check_search(
        max_drop_points=max_drop_points,
        amount=amount,
        recovery_epochs=recovery_epochs,
        tolerance=tolerance,
        least=least,
    )
    tell: Progress = progress or silent
    graph = trace(model, task.example_inputs.to(next(model.parameters()).device))
    ends = _ends(graph, method, amount, tolerance, least, also)
    trials = Trials(
        method=method,
        model=model,
        graph=graph,
        task=task,
        store=store,
        amount=amount,
        also=also,
        recovery_epochs=recovery_epochs,
        tell=tell,
    )
    dense = trials.dense()
    tell(
        f"searching the smallest share of {amount} within {counted(max_drop_points, 'point')} of the dense model's "
        f"{100 * dense.score:.2f} %: at most {counted(len(ends).bit_length(), 'candidate')}, "
        f"{counted(recovery_epochs, 'epoch')} each"
    )
    curve = _bisected(trials, dense, ends, _steps(tolerance), max_drop_points)
    chosen = next((candidate for candidate in curve if candidate.within), None)
    error_points = standard_error_points(dense)
    search = Search(
        amount=amount,
        max_drop_points=max_drop_points,
        recovery_epochs=recovery_epochs,
        dense=dense,
        standard_error_points=error_points,
        curve=tuple(curve),
        notes=(*noise_notes(dense, max_drop_points, error_points), *curve_notes(curve)),
    )
    if chosen is None:
        asked = f"{counted(max_drop_points, 'point')} after {counted(recovery_epochs, 'epoch')} of recovery"
        raise NothingNearError(nothing_found(curve, amount, dense, asked), search)
    tell(f"found: {chosen.share:g} of {amount} is the smallest share within {counted(max_drop_points, 'point')}")
    search = replace(search, budget=trials.budget(chosen.share), share=chosen.share)
    if chosen.share != ends[0] / _steps(tolerance):
        return search
    note = f"{chosen.share:g} of {amount} is the smallest share allowed, and near enough; less was not tried"
    return replace(search, notes=(*search.notes, note))


def easiest_budget(
    graph: ChannelGraph,
    method: Method | None = None,
    *,
    amount: str = "macs",
    tolerance: float = 0.02,
    least: float | None = None,
    also: Budget | None = None,
) -> Budget:
    """Return the largest budget that a search may try; what cannot be met there, no candidate can meet.

    For looking ahead: whether there is anything to search is known before the dense model is trained.

    Args:
        graph: of the dense model.
        method: how to cut; None cuts channels alone.
        amount: as in :func:`smallest_within`, like all that follow.
        tolerance: see there.
        least: see there.
        also: see there.

    Raises:
        BudgetError: the other limits cannot be met, or nothing can be cut.
        UsageError: the settings leave no share to try.
    """
    check_search(max_drop_points=0, amount=amount, recovery_epochs=0, tolerance=tolerance, least=least)
    share = _ends(graph, method, amount, tolerance, least, also)[-1] / _steps(tolerance)
    return budget_of(amount, share, also)


def refuse_search_around(method: Method) -> None:
    """Refuse a method that trains before it decides what goes, which every candidate would do again.

    Raises:
        UsageError: it is one.
    """
    if method.trains_to_decide:
        raise UsageError(
            f"the method {method.name} trains before it decides, and a search would do so for every budget that it "
            "tries; give a budget, or search with magnitude, l1 or global"
        )


def check_search(
    *, max_drop_points: float, amount: str, recovery_epochs: int, tolerance: float, least: float | None
) -> None:
    """Refuse settings that no search can have.

    Raises:
        UsageError: an amount that a budget does not know, or a number out of range.
    """
    amounts = [entry.name for entry in fields(Budget)]
    if amount not in amounts:
        raise UsageError(unknown_name("amount", amount, amounts))
    if not 0 <= max_drop_points <= 100:
        raise UsageError(
            f"max_drop is {max_drop_points}, but must be in [0, 100], in percentage points of validation accuracy"
        )
    if isinstance(recovery_epochs, bool) or not isinstance(recovery_epochs, int) or recovery_epochs < 0:
        raise UsageError(f"recovery_epochs is {recovery_epochs}, but must be a whole number of at least 0")
    if not 0.001 <= tolerance <= 0.5:
        raise UsageError(f"tolerance is {tolerance}, but must be a share in [0.001, 0.5]")
    if least is not None and not 0 < least < 1:
        raise UsageError(f"least is {least}, but must be a share in (0, 1)")


def _bisected(trials: Trials, dense: Evaluation, ends: range, steps: int, max_drop_points: float) -> list[Candidate]:
    """Return what was measured on the way to the smallest candidate within the drop, smallest share first."""
    curve: list[Candidate] = []
    # Of the two, low fell short and high holds, or else they lie just outside and are not tried.
    low, high = ends.start - 1, ends.stop
    while high - low > 1:
        middle = (low + high) // 2
        candidate = _judged(trials.measured(Fraction(middle, steps)), dense, max_drop_points)
        low, high = (low, middle) if candidate.within else (middle, high)
        curve.append(candidate)
        trials.tell(f"candidate {len(curve)}, {trials.amount} {candidate.share:g}: {told(candidate)}")
    return sorted(curve, key=lambda candidate: candidate.share)


def _exact(value: float) -> Fraction:
    """Return the number that was written: 0.02 is 1/50, which the nearest float is not."""
    return Fraction(str(value))


def _steps(tolerance: float) -> int:
    """Return into how many parts the original's amount is divided: no part is more than ``tolerance``."""
    return math.ceil(1 / _exact(tolerance))


def _ends(
    graph: ChannelGraph, method: Method | None, amount: str, tolerance: float, least: float | None, also: Budget | None
) -> range:
    """Return the shares that may be tried, as numerators over the steps; all of the original is none of them.

    Raises:
        BudgetError: even the deepest cut does not hold a limit, or there is no table for a latency.
        UsageError: there is no such share.
    """
    steps = _steps(tolerance)
    table = None if also is None else also.latency_model
    limits = {} if also is None else also.limits(graph)
    for name, limit in limits.items():
        needed = least_cost(graph, method, name, table)
        if needed > limit:
            raise BudgetError(
                f"cannot hold {name} ≤ {limit:,.0f} in any candidate: the deepest cut needs {needed:,.0f}; "
                f"allow at least {needed:,.0f}"
            )
    whole, possible = (
        Fraction(meter(amount, graph, table)(graph.sizes)),
        Fraction(least_cost(graph, method, amount, table)),
    )
    if possible >= whole:
        raise BudgetError(f"nothing of the model may be cut so that {amount} falls below {int(whole):,}")
    first = max(1, math.ceil(possible / whole * steps), math.ceil(_exact(least or 0) * steps))
    bound = None if also is None else also.given().get(amount)
    top = Fraction(1) if bound is None else _exact(bound) if is_share(amount, bound) else Fraction(bound) / whole
    last = min(steps - 1, math.floor(top * steps))
    if first > last:
        raise UsageError(
            f"there is no share of {amount} to try: the smallest allowed is {first / steps:g} and the largest "
            f"{last / steps:g}; lower least, raise the limit on {amount}, or give a finer tolerance"
        )
    return range(first, last + 1)


def _judged(candidate: Candidate, dense: Evaluation, max_drop_points: float) -> Candidate:
    if candidate.validation is None:
        return candidate
    # Rounded, because 0.95 − 0.945 in float64 is a little more than half a point.
    lost = round(100 * (dense.score - candidate.validation.score), 9)
    return replace(candidate, drop_points=lost, within=lost <= max_drop_points)
