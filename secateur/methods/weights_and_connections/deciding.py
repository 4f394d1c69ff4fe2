"""Which goal a round has, on the way to what was asked for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from secateur.methods.weights_and_connections.goals import Goal, shares_by_name
from secateur.methods.weights_and_connections.rounds import Rounds
from secateur.methods.weights_and_connections.sensitivity import Tolerances, scan_layer
from secateur.record import WeightScan
from secateur.sparse import Masks, nonzeros

if TYPE_CHECKING:
    from secateur.methods.weights_and_connections.method import WeightsAndConnections


def goal_of_round(method: "WeightsAndConnections", rounds: Rounds, number: int) -> Goal:
    """Return how much is to be left after round ``number``.

    On the way the density falls by the same factor in each round, so that the last round takes as large a part of what
    is left as the first.
    """
    part = number / method.iterations
    if method.quality:
        growth = method.quality_growth ** (number - 1)
        return Goal(quality={pattern: q * growth for pattern, q in method.quality.items()})
    if method.ratios:
        shares = shares_by_name(rounds.model, method.ratios, rounds.names)
        return Goal(shares={name: 1 - (1 - share) ** part for name, share in shares.items()})
    return _allocated(method, rounds, number, _allowed_weights(rounds, part))


def goal_after_surgery(method: "WeightsAndConnections", rounds: Rounds) -> Goal:
    """Return how much is to be left when masks no longer change."""
    return goal_of_round(method, rounds, method.iterations)


def goal_on_the_way(goal: Goal, rounds: Rounds) -> Callable[[float], Goal]:
    """Return the function from a share of the way in [0, 1] to the goal there: what goes, goes in proportion."""
    total = nonzeros(rounds.model)

    def at(way: float) -> Goal:
        if goal.quality:
            return Goal(quality={pattern: way * q for pattern, q in goal.quality.items()})
        allowed = None if goal.allowed is None else total - round(way * (total - goal.allowed))
        return Goal(shares={name: way * share for name, share in goal.shares.items()}, allowed=allowed)

    return at


def _allowed_weights(rounds: Rounds, part: float) -> int | None:
    """Return how many of the weights that are pruned may stay after a part of the way, where a budget says so."""
    if rounds.allowed is None:
        return None
    whole = sum(rounds.masks.size(name) for name in rounds.names)
    rest = nonzeros(rounds.model) - whole
    last = rounds.allowed - rest
    return last if part == 1 else max(last, int(whole * (last / whole) ** part))


def _allocated(method: "WeightsAndConnections", rounds: Rounds, number: int, allowed: int | None) -> Goal:
    """Share what may stay out over the layers."""
    whole = sum(rounds.masks.size(name) for name in rounds.names)
    stored = None if allowed is None else nonzeros(rounds.model) - whole + allowed
    if method.allocation == "global" and stored is not None:
        return Goal(allowed=stored)
    if method.allocation == "uniform" and allowed is not None:
        sizes = {name: rounds.masks.size(name) for name in rounds.names}
        kept = {name: max(1, int(size * allowed / whole)) for name, size in sizes.items()}
        return Goal(shares={name: 1 - kept[name] / size for name, size in sizes.items()}, allowed=stored)
    sizes = {name: rounds.masks.size(name) for name in rounds.names}
    gone = {name: 1 - rounds.masks.density(name) for name in rounds.names}
    tolerances = Tolerances.of(_scans(method, rounds, number), sizes, gone)
    wanted = method.tolerance_points
    if allowed is None:
        assert wanted is not None
        return Goal(shares=tolerances.shares(wanted / 100))
    shares, tolerance = tolerances.to_budget(allowed)
    rounds.run.tell(f"pruning {number}: each layer alone costs up to {100 * tolerance:.2f} points before retraining")
    if wanted is not None and 100 * tolerance > wanted:
        rounds.run.notes.append(
            f"pruning {number}: the budget needs layers to lose up to {100 * tolerance:.2f} points each before "
            f"retraining, more than tolerance_points ({wanted:g})"
        )
    return Goal(shares=shares, allowed=stored)


def _scans(method: "WeightsAndConnections", rounds: Rounds, number: int) -> list[WeightScan]:
    """Scan every layer alone, at shares of what is left of it."""
    dense = rounds.evaluated(f"scanned-{number}")
    rule, earlier = method.rule(rounds.names), rounds.masks
    found: list[WeightScan] = []
    for place, name in enumerate(rounds.names):
        rounds.run.tell(f"scanning layer {place + 1} of {len(rounds.names)}: {name}")
        gone = 1 - earlier.density(name)

        def scan(name: str = name, gone: float = gone) -> WeightScan:
            candidates: dict[float, Masks] = {}
            for share in method.scan_shares:
                total = gone + (1 - gone) * share
                goal = Goal(shares={name: total})
                candidates[total] = goal.masks(rule.only(name), rounds.model, earlier, stds=rounds.stds, draw=number)
            return scan_layer(rounds.run.task, rounds.model, candidates, name=name, number=number, dense=dense)

        found.append(rounds.scanned(number, place, scan))
    return found
