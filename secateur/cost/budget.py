"""A budget: what the smaller model may cost at most, in one or several quantities."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from secateur.cost.latency_table import LatencyTable
from secateur.cost.size import size_bytes
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray

Amount = int | float
"""An int is absolute; a float in (0, 1] is a share of the original."""

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits; all that are given must hold.

    An ``int`` is an absolute amount, a ``float`` in (0, 1] a share of the original model's. ``latency_ms`` alone may
    be an absolute float: it is a share if it is at most 1.

    Attributes:
        macs: multiply-adds of convolutions and matrix products per sample.
        params: parameters, tied ones once.
        nonzeros: weights that are stored; for a plan of whole channels all that stay.
        size_bytes: bytes of the saved ``.safetensors`` file.
        activation_bytes: peak bytes of activations alive, per sample.
        latency_ms: milliseconds per forward pass, by a latency table.
    """

    macs: Amount | None = None
    params: Amount | None = None
    nonzeros: Amount | None = None
    size_bytes: Amount | None = None
    activation_bytes: Amount | None = None
    latency_ms: Amount | None = None

    def __post_init__(self) -> None:
        if not self.given():
            names = ", ".join(entry.name for entry in fields(self))
            raise BudgetError(f"the budget is empty; give at least one of: {names}")
        for name, amount in self.given().items():
            _check(name, amount)

    def given(self) -> dict[str, Amount]:
        """Return the limits that are set."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) is not None}

    def limits(self, graph: ChannelGraph, table: LatencyTable | None = None) -> dict[str, float]:
        """Return every limit as an absolute number.

        Raises:
            BudgetError: a latency limit without a latency table.
        """
        return {
            name: amount * meter(name, graph, table)(graph.sizes) if _is_share(name, amount) else float(amount)
            for name, amount in self.given().items()
        }

    def met_by(self, graph: ChannelGraph, original: ChannelGraph, table: LatencyTable | None = None) -> bool:
        """Return whether the model that ``graph`` was made from holds every limit, as shares of ``original``."""
        limits = self.limits(original, table)
        return all(meter(name, graph, table)(graph.sizes) <= limit for name, limit in limits.items())

    def describe(self) -> str:
        """Return the limits as one phrase."""
        parts = [
            f"{name} ≤ {amount:.4g} of the original" if _is_share(name, amount) else f"{name} ≤ {amount:,}"
            for name, amount in self.given().items()
        ]
        return " and ".join(parts)


def meter(name: str, graph: ChannelGraph, table: LatencyTable | None = None) -> Callable[[UnitArray], float]:
    """Return the function from kept units per group to the cost ``name`` of the model.

    Raises:
        BudgetError: ``latency_ms`` without a latency table.
    """
    if name == "macs":
        return lambda kept: float(graph.costs.macs(kept))
    if name in ("params", "nonzeros"):
        is_parameter = np.asarray([spec.is_parameter for spec in graph.tensors], dtype=bool)
        return lambda kept: float(graph.costs.elements(kept)[is_parameter].sum())
    if name == "size_bytes":
        return lambda kept: float(size_bytes(graph, kept))
    if name == "activation_bytes":
        return lambda kept: float(graph.costs.activation_bytes(kept))
    if table is None:
        raise BudgetError(
            "a latency budget needs a latency table measured on the target (`allocate(…, table=…)`); the command "
            "cannot make one yet: use a budget in macs"
        )
    return lambda kept: table.latency_ms(graph, kept)


def parse_amount(name: str, text: str) -> Amount:
    """Read an amount as a user writes it: ``0.5``, ``50%``, ``60M``, ``1_000_000``.

    Raises:
        BudgetError: it is no number, or out of range.
    """
    plain = text.strip().lower().replace("_", "").replace(",", "")
    try:
        if plain.endswith("%"):
            amount: Amount = float(plain[:-1]) / 100
        elif plain and plain[-1] in _SUFFIXES and name != "latency_ms":
            amount = round(float(plain[:-1]) * _SUFFIXES[plain[-1]])
        elif plain.isdigit() and name != "latency_ms":
            amount = int(plain)
        else:
            amount = float(plain)
            if amount > 1 and "e" in plain and amount.is_integer() and name != "latency_ms":
                amount = int(amount)
    except ValueError:
        raise BudgetError(f"{name} is {text!r}; give a share such as 0.5 or 50%, or an amount such as 60M") from None
    _check(name, amount)
    return amount


def _is_share(name: str, amount: Amount) -> bool:
    return isinstance(amount, float) and (name != "latency_ms" or amount <= 1)


def _check(name: str, amount: Amount) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount != amount:
        raise BudgetError(f"{name} is {amount!r}; give a share in (0, 1] or a whole amount")
    if amount <= 0:
        raise BudgetError(f"{name} is {amount!r}, but must be above 0; give a share in (0, 1] or a whole amount")
    if isinstance(amount, float) and amount > 1 and name != "latency_ms":
        raise BudgetError(
            f"{name} is {amount!r}, a share outside (0, 1]; write an absolute amount as a whole number, such as 60M"
        )
