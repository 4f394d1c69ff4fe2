"""What of the settings cannot work, in one sentence each."""

from collections.abc import Sequence
from typing import get_args

from secateur.cost import Budget
from secateur.criteria.scoring import Combine
from secateur.errors import BudgetError, UsageError
from secateur.graph import ChannelGraph
from secateur.methods.network_slimming.compensation import Compensation
from secateur.methods.network_slimming.gating import GateChoice
from secateur.methods.network_slimming.scales import Layer
from secateur.methods.stepping import Residual
from secateur.names import unknown_name

CHOICES = {
    "scope": ("global", "local"),
    "start": ("weights", "scratch"),
    "gates": get_args(GateChoice),
    "residual": get_args(Residual),
    "combine": get_args(Combine),
    "compensation": get_args(Compensation),
}
LEAST = {
    "sparse_epochs": 0,
    "passes": 1,
    "min_units": 1,
    "round_to": 1,
    "finetune_epochs": 0,
    "penalty": 0,
    "scale_init": 0,
}


def check_settings(settings: object) -> None:
    """Refuse settings that cannot work.

    Args:
        settings: the method, which has all that are asked for here.

    Raises:
        UsageError: one is out of range, or two contradict each other.
    """
    values = {name: getattr(settings, name) for name in (*CHOICES, *LEAST, "ratio", "max_layer_ratio", "min_share")}
    for name, known in CHOICES.items():
        if values[name] not in known:
            raise UsageError(unknown_name(f"setting of {name}", values[name], known))
    for name in ("ratio", "max_layer_ratio"):
        if values[name] is not None and not 0 < values[name] < 1:
            raise UsageError(f"{name} is {values[name]:g}; it is the share of channels that goes, above 0 and below 1")
    for name, least in LEAST.items():
        if not least <= values[name] < float("inf"):
            raise UsageError(f"{name} is {values[name]}, but must be at least {least} and finite")
    if not 0 <= values["min_share"] <= 1:
        raise UsageError(f"min_share is {values['min_share']}, but must be a share in [0, 1]")
    if values["start"] == "scratch" and values["sparse_epochs"] == 0:
        raise UsageError(
            "start is scratch and sparse_epochs is 0, so that untrained weights would be cut; give sparse_epochs, or "
            "start: weights"
        )


def check_amount(ratio: float | None, max_layer_ratio: float | None, budget: Budget | None) -> None:
    """Refuse what does not say how much goes, or says it twice.

    Raises:
        BudgetError: neither a ratio nor a budget is given, or both, or a limit that belongs to the other.
    """
    if ratio is None and budget is None:
        raise BudgetError(
            "the method network_slimming needs to know how much to cut: give ratio, the share of all channels that "
            "goes, or a budget, such as macs: 0.5 (--macs 0.5)"
        )
    if ratio is not None and budget is not None:
        raise BudgetError(
            f"there are a ratio ({ratio:g}) and a budget ({budget.describe()}), and only one of them can decide how "
            "much is cut; leave one out"
        )
    if budget is not None and max_layer_ratio is not None:
        raise BudgetError(
            f"max_layer_ratio ({max_layer_ratio:g}) limits what a ratio takes from a layer, but here a budget "
            f"({budget.describe()}) decides; give min_share, or a ratio in place of the budget"
        )


def require_layers(layers: Sequence[Layer], graph: ChannelGraph) -> None:
    """Refuse a model without anything to cut.

    Raises:
        BudgetError: there are no layers; says why.
    """
    if not layers:
        raise BudgetError(
            f"no layer of {graph.model_class} may be cut that has a batch norm or a gate; give fewer patterns in "
            "lock, residual: group for residual streams, or gates: auto for layers without a norm"
        )
