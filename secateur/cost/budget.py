"""A budget: what the smaller model may cost at most, in one or several quantities."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from secateur.cost.latency_table import LatencyModel, LatencyTable, multiple_of
from secateur.cost.milliseconds import Milliseconds
from secateur.cost.size import size_bytes
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray

Amount = int | float
"""An int is absolute; a float in (0, 1] is a share of the original."""

Meter = Callable[[UnitArray], float]
"""From the kept units per group, shape (groups,), to a cost."""

NO_TABLE = (
    "a latency budget needs a latency table of this network: measure one with `secateur measure` and give it with "
    "--latency-table (latency_table in a recipe, `Budget(…).with_table(…)` in code)"
)
"""What is said where there is none."""

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits; all that are given must hold.

    An ``int`` is an absolute amount, a ``float`` in (0, 1] a share of the original model's. ``latency_ms`` alone may
    be an absolute float: it is a share if it is at most 1; ``Milliseconds(0.4)`` is always absolute.

    Attributes:
        macs: multiply-adds of convolutions and matrix products per sample.
        params: parameters, tied ones once.
        nonzeros: weights that are stored; for a plan of whole channels all that stay.
        size_bytes: bytes of the saved ``.safetensors`` file.
        activation_bytes: peak bytes of activations alive, per sample.
        latency_ms: milliseconds per forward pass, by a latency table (:meth:`with_table`).
    """

    macs: Amount | None = None
    params: Amount | None = None
    nonzeros: Amount | None = None
    size_bytes: Amount | None = None
    activation_bytes: Amount | None = None
    latency_ms: Milliseconds | int | float | None = None

    def __post_init__(self) -> None:
        if not self.given():
            names = ", ".join(AMOUNTS)
            raise BudgetError(f"the budget is empty; give at least one of: {names}")
        for name, amount in self.given().items():
            _check(name, amount)

    def given(self) -> dict[str, Amount]:
        """Return the limits that are set."""
        return {name: value for name in AMOUNTS if (value := getattr(self, name)) is not None}

    @property
    def latency_model(self) -> LatencyModel | None:
        """What predicts latency for this budget; None where nothing was given."""
        return None

    def with_table(self, table: LatencyModel) -> "Budget":
        """Return the same limits with what predicts latency; all that :func:`meter` needs then is the budget."""
        return _TimedBudget(**self.given(), model=table)

    def with_limits(self, amounts: Mapping[str, Amount]) -> "Budget":
        """Return other limits by the same latency table."""
        other = Budget(**amounts)
        return other if self.latency_model is None else other.with_table(self.latency_model)

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON; a latency table is told by its digest."""
        given: dict[str, Any] = dict(self.given())
        if isinstance(self.latency_ms, Milliseconds):
            given["latency_ms"] = str(self.latency_ms)
        if isinstance(self.latency_model, LatencyTable) and self.latency_ms is not None:
            given["latency_table"] = self.latency_model.digest
        return given

    def meter(self, name: str, graph: ChannelGraph, table: LatencyModel | None = None) -> Meter:
        """Return :func:`meter` by this budget's latency table, or by another one."""
        return meter(name, graph, table or self.latency_model)

    def limits(self, graph: ChannelGraph, table: LatencyModel | None = None) -> dict[str, float]:
        """Return every limit as an absolute number.

        Args:
            graph: of the whole model, which shares refer to.
            table: predicts latency; None for the budget's own.

        Raises:
            BudgetError: a latency limit without a latency table, or with that of another model.
        """
        table = table or self.latency_model
        if self.latency_ms is not None and isinstance(table, LatencyTable):
            table.check(graph)
        return {
            name: amount * meter(name, graph, table)(graph.sizes) if is_share(name, amount) else float(amount)
            for name, amount in self.given().items()
        }

    def met_by(self, graph: ChannelGraph, original: ChannelGraph, table: LatencyModel | None = None) -> bool:
        """Return whether the model that ``graph`` was made from holds every limit, as shares of ``original``."""
        limits = self.limits(original, table)
        return all(self.meter(name, graph, table)(graph.sizes) <= limit for name, limit in limits.items())

    def rounding(self, round_to: int, table: LatencyModel | None = None) -> int:
        """Return what kept sizes are rounded to: under a latency limit also to what the table was measured for.

        Args:
            round_to: what was asked for.
            table: predicts latency; None for the budget's own.
        """
        if self.latency_ms is None:
            return round_to
        return math.lcm(round_to, multiple_of(table or self.latency_model))

    def describe(self) -> str:
        """Return the limits as one phrase."""
        parts = [
            f"{name} ≤ {amount:.4g} of the original"
            if is_share(name, amount)
            else f"{name} ≤ {float(amount):,g}"
            if name == "latency_ms"
            else f"{name} ≤ {amount:,}"
            for name, amount in self.given().items()
        ]
        return " and ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _TimedBudget(Budget):
    """A budget and what predicts latency for it."""

    model: LatencyModel = field(repr=False)

    @property
    def latency_model(self) -> LatencyModel:
        """What predicts latency."""
        return self.model


AMOUNTS = tuple(entry.name for entry in fields(Budget))
"""What a budget can limit."""


def meter(name: str, graph: ChannelGraph, table: LatencyModel | None = None) -> Meter:
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
        raise BudgetError(NO_TABLE)
    return lambda kept: table.latency_ms(graph, kept)


def parse_amount(name: str, text: str) -> Amount:
    """Read an amount as a user writes it: ``0.5``, ``0.5x``, ``50%``, ``60M``, ``1_000_000``, ``3.2ms``.

    Raises:
        BudgetError: it is no number, or out of range.
    """
    plain = text.strip().lower().replace("_", "").replace(",", "")
    try:
        if name == "latency_ms" and plain.endswith("ms"):
            amount: Amount = Milliseconds(plain[:-2])
        elif plain.endswith(("x", "×")):
            share = float(plain[:-1])
            if share > 1:
                raise BudgetError(f"{name} is {text!r}, more than the original; give at most 1x")
            amount = share
        elif plain.endswith("%"):
            amount = float(plain[:-1]) / 100
        elif plain and plain[-1] in _SUFFIXES and name != "latency_ms":
            amount = round(float(plain[:-1]) * _SUFFIXES[plain[-1]])
        elif plain.isdigit() and name != "latency_ms":
            amount = int(plain)
        else:
            amount = float(plain)
            if amount > 1 and "e" in plain and amount.is_integer() and name != "latency_ms":
                amount = int(amount)
    except ValueError:
        example = "3.2ms" if name == "latency_ms" else "60M"
        raise BudgetError(
            f"{name} is {text!r}; give a share such as 0.5 or 50%, or an amount such as {example}"
        ) from None
    _check(name, amount)
    return amount


def is_share(name: str, amount: Amount) -> bool:
    """Say whether a limit is a share of the original's cost, and not an absolute one."""
    if not isinstance(amount, float) or isinstance(amount, Milliseconds):
        return False
    return name != "latency_ms" or amount <= 1


def amount_text(name: str, amount: float) -> str:
    """Return an absolute amount as a user reads it: ``1,234``, or ``3.21 ms``."""
    return f"{amount:,.3g} ms" if name == "latency_ms" else f"{amount:,.0f}"


def _check(name: str, amount: Amount) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount != amount:
        raise BudgetError(f"{name} is {amount!r}; give a share in (0, 1] or a whole amount")
    if amount <= 0:
        raise BudgetError(f"{name} is {amount!r}, but must be above 0; give a share in (0, 1] or a whole amount")
    if isinstance(amount, float) and amount > 1 and name != "latency_ms":
        raise BudgetError(
            f"{name} is {amount!r}, a share outside (0, 1]; write an absolute amount as a whole number, such as 60M"
        )
