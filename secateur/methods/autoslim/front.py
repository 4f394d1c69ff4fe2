"""The front of a search: every configuration on the way down, with its accuracy and what it costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from secateur.cost import Budget, LatencyModel
from secateur.cost.budget import is_share
from secateur.errors import BudgetError, PlanError
from secateur.graph import ChannelGraph
from secateur.slimmable import kept_units

_FORMAT = 1

Way = Literal["full", "bound", "shortlist"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One group made smaller, on trial.

    Attributes:
        group: which.
        units: that it would keep.
        right: samples that were classified rightly, of those looked at.
        samples: that were looked at; fewer than all where a bound showed that it cannot be the best, none where the
            shortlist left it out.
    """

    group: str
    units: int
    right: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One network on the way down.

    Attributes:
        widths: units that each group of the space keeps.
        removed: the group that shrank last; None for the largest network.
        right: validation samples that it classifies rightly, with the weights of the large network.
        samples: validation samples.
        macs: multiply-adds per sample.
        params: parameters.
        size_bytes: of the saved file, an upper bound.
        activation_bytes: peak per sample.
        latency_ms: by a latency table; None without one.
        candidates: what was tried in the step that led here, in the order of the groups.
    """

    widths: Mapping[str, int]
    removed: str | None
    right: int
    samples: int
    macs: int
    params: int
    size_bytes: int
    activation_bytes: int
    latency_ms: float | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of samples classified rightly, in [0, 1]."""
        return self.right / self.samples if self.samples else math.nan


@dataclass(frozen=True, kw_only=True)
class Front:
    """Every configuration of one greedy search, from the largest on.

    Attributes:
        fingerprint: of the large network.
        configurations: each a step below the one before.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    fingerprint: str
    configurations: tuple[Configuration, ...]

    def meeting(self, limits: Mapping[str, float]) -> Configuration | None:
        """Return the first configuration within limits, which are absolute; None if there is none yet.

        Args:
            limits: what :meth:`secateur.Budget.limits` gives: cost → the most there may be.
        """
        return next((one for one in self.configurations if costs_of(one, limits) is None), None)

    def timed(self, graph: ChannelGraph, table: LatencyModel | None) -> "Front":
        """Return the same networks with the latency that another table gives them, with none where there is no table.

        Args:
            graph: of the large network.
            table: predicts latency.
        """
        times = [
            None if table is None else table.latency_ms(graph, kept_units(graph, one.widths))
            for one in self.configurations
        ]
        networks = zip(self.configurations, times, strict=True)
        return replace(self, configurations=tuple(replace(one, latency_ms=time) for one, time in networks))

    def picked(self, budget: Budget, original: Mapping[str, float]) -> Configuration:
        """Return the first configuration that holds a budget.

        Args:
            budget: what it may cost.
            original: costs of the network that shares refer to, by name.

        Raises:
            BudgetError: the search did not go down so far.
        """
        limits = {
            name: amount * original[name] if is_share(name, amount) else float(amount)
            for name, amount in budget.given().items()
            if name in original or not is_share(name, amount)
        }
        if len(limits) < len(budget.given()):
            raise BudgetError("the front knows no latency, since it was searched without a latency table")
        found = self.meeting(limits)
        if found is None:
            last = self.configurations[-1]
            raise BudgetError(
                f"no configuration of the front holds {budget.describe()}: the smallest has {last.macs:,} MACs and "
                f"{last.params:,} parameters; search again with this budget among those asked for"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries; :meth:`from_json` reads them back."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> "Front":
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(f"this is no front of a search: its format is {found!r}, but this version reads {_FORMAT}")
        try:
            front = _FRONT.validate_python({key: value for key, value in data.items() if key != "format"})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise PlanError(f"this is no front of a search: {place}: {first['msg']}") from error
        if not front.configurations:
            raise PlanError("this is no front of a search: it has no configuration")
        return front


_FRONT: TypeAdapter[Front] = TypeAdapter(Front)


def costs_of(configuration: Configuration, limits: Mapping[str, float]) -> str | None:
    """Return the first cost of a configuration that is over its limit, or None.

    Raises:
        BudgetError: a limit on latency, and the configuration has none.
    """
    for name, limit in limits.items():
        # All of a network of whole channels is stored.
        cost = getattr(configuration, "params" if name == "nonzeros" else name)
        if cost is None:
            raise BudgetError("the front knows no latency, since it was searched without a latency table")
        if cost > limit:
            return name
    return None


def best_of(candidates: Sequence[Candidate], samples: int) -> Candidate:
    """Return the candidate with the most right answers of those that saw all samples; of equal ones the first."""
    whole = [candidate for candidate in candidates if candidate.samples == samples]
    return max(whole, key=lambda candidate: candidate.right)  # max keeps the first of equals
