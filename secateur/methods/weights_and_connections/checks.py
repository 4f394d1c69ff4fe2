"""Which settings of weights and connections cannot work."""

from typing import TYPE_CHECKING

from secateur.cost import Budget
from secateur.errors import BudgetError, UsageError
from secateur.sparse import Granularity

if TYPE_CHECKING:
    from secateur.methods.weights_and_connections.method import WeightsAndConnections

_LEAST = {
    "iterations": 1,
    "connect_epochs": 0,
    "retrain_epochs": 0,
    "finetune_epochs": 0,
    "activation_batches": 1,
}


def check_settings(method: "WeightsAndConnections") -> None:
    """Refuse settings that are out of range or contradict each other.

    Raises:
        UsageError: names the setting, its value and what it may be.
    """
    Granularity.parse(method.granularity)
    for name, least in _LEAST.items():
        if getattr(method, name) < least:
            raise UsageError(f"{name} is {getattr(method, name)}, but must be at least {least}")
    for name in ("connect_l1", "retrain_l1", "quality_growth", "learning_rate_factor"):
        value = getattr(method, name)
        if not 0 <= value < float("inf"):
            raise UsageError(f"{name} is {value}, but must be a finite number of at least 0")
    for pattern, share in method.ratios.items():
        if not 0 <= share < 1:
            raise UsageError(
                f"the ratio for {pattern!r} is {share:g}; it is the share of weights that goes, from 0 up to but not "
                "including 1"
            )
    for pattern, q in method.quality.items():
        if not 0 <= q < float("inf"):
            raise UsageError(f"the quality of {pattern!r} is {q:g}; it is q of the threshold q·std, at least 0")
    if method.tolerance_points is not None and not 0 <= method.tolerance_points <= 100:
        raise UsageError(f"tolerance_points is {method.tolerance_points:g}, but must be from 0 to 100 percent points")
    shares = method.scan_shares
    if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
        raise UsageError(f"scan_shares is {shares}, but must be shares above 0 and below 1, each larger than the last")
    _check_combinations(method)


def _check_combinations(method: "WeightsAndConnections") -> None:
    if method.ratios and method.quality:
        raise UsageError("there are ratios and thresholds (quality), and only one can say how much goes; leave one out")
    if method.restore.compensate != "none":
        raise UsageError(
            f"restore.compensate is {method.restore.compensate}, but no layer loses inputs where single weights go; "
            "leave it out (batch_norm_images can be given)"
        )
    if method.quality and ":" in method.granularity:
        raise UsageError(
            f"quality gives thresholds, and the granularity {method.granularity} keeps so many of so many whatever "
            "their size; give ratios or a budget"
        )
    if method.regrow is None:
        return
    for unfit, what in (
        (method.iterations != 1, f"iterations is {method.iterations}"),
        (method.order != "together", f"order is {method.order}"),
        (method.selection != "threshold", f"selection is {method.selection}"),
        (method.norm != "l1", f"norm is {method.norm}"),
    ):
        if unfit:
            raise UsageError(
                f"{what}, but with regrow the masks of all layers change while they train, by magnitude; leave one out"
            )


def check_amount(method: "WeightsAndConnections", budget: Budget | None) -> None:
    """Refuse a run of which nothing, or too much, says how much goes.

    Raises:
        BudgetError: as above.
    """
    said = [what for what, given in (("ratios", method.ratios), ("quality", method.quality)) if given]
    if budget is not None and said:
        raise BudgetError(
            f"there are {said[0]} (method.{said[0]}) and a budget ({budget.describe()}), and only one of them can "
            "decide how much goes; leave one out"
        )
    if budget is None and not said and method.tolerance_points is None:
        raise BudgetError(
            "nothing says how much goes; give a budget such as nonzeros: 0.1 (--nonzeros 0.1), ratios or quality per "
            "layer, or tolerance_points"
        )
    if method.tolerance_points is not None and (said or method.allocation != "scan"):
        raise BudgetError(
            f"tolerance_points is {method.tolerance_points:g}, which is for what scans of the layers decide, but "
            f"{said[0] + ' decide' if said else f'allocation is {method.allocation}'}; leave one out"
        )
