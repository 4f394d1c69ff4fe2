"""Sparing residual streams: they are cut only where a budget cannot reasonably be met without them."""

import contextlib
import warnings
from typing import Protocol

from secateur.cost import MinimumWarning
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph, Plan

LEAST_SHARE = 0.1
"""Of the units of inner layers: if less would stay without cutting streams, streams are cut too."""

SPARED = "the budget leaves too little of the inner layers (residual: spare), so residual streams are cut too"


class Attempt(Protocol):
    """Makes a plan with or without streams among what may be cut."""

    def __call__(self, *, streams: bool) -> Plan:
        """Return the plan; raises BudgetError where the budget cannot be met."""


def sparing_streams(attempt: Attempt) -> Plan:
    """Return the plan that leaves residual streams whole, or if need be the one that cuts them as well.

    Streams are by far the most sensitive layers of a residual network: see the sensitivity scan in the card of the L1
    method.

    Raises:
        BudgetError: the budget cannot be met either way.
    """
    plan: Plan | None = None
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(BudgetError):
        warnings.simplefilter("always", MinimumWarning)
        plan = attempt(streams=False)
    if plan is None or _share_left(plan) < LEAST_SHARE:
        return attempt(streams=True)
    for warning in caught:  # of the plan that counts
        warnings.warn(warning.message, stacklevel=2)
    return plan


def cuts_streams(graph: ChannelGraph, plan: Plan) -> bool:
    """Say whether ``plan`` cuts a residual stream."""
    return any(graph.group(name).is_stream for name in plan.kept)


def _share_left(plan: Plan) -> float:
    """Return the share of their units that the layers which the plan cuts keep."""
    whole = sum(plan.sizes[name] for name in plan.kept)
    return sum(map(len, plan.kept.values())) / whole if whole else 1.0
