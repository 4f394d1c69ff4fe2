"""What a search for widths found: every network on the way down, the uniform ones beside, what was trained of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from secateur.record.measurements import STRICT, Evaluation
from secateur.record.strict_json import read_json, write_json

FORMAT = 1  # of front.json; another number is refused


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One network on the way down from the widest."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    widths: dict[str, int]  # group → units that it keeps
    accuracy: float  # validation top-1 with the super-net's weights, batch norm by the batch, in [0, 1]
    macs: int  # multiply-adds per sample
    params: int
    size_bytes: int  # of the saved file, an upper bound
    activation_bytes: int  # peak, per sample
    latency_ms: float | None = None  # by a latency table; None without one
    removed: str | None = None  # the group that shrank last; None of the widest network


@dataclass(frozen=True, kw_only=True)
class UniformNetwork:
    """The network that keeps one share of every group, within the multiply-adds of a network of the front."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    beside: int  # which point of the front
    multiplier: float  # of the super-net's widths
    widths: dict[str, int]
    accuracy: float  # as of :class:`FrontPoint`
    macs: int
    params: int
    latency_ms: float | None = None  # as of :class:`FrontPoint`
    trained: Evaluation | None = None  # on the validation split, trained as the found one; None where it was not


@dataclass(frozen=True, kw_only=True)
class JointNetwork:
    """A network of a further budget, trained together with the one of the run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    budget: float  # share of the super-net's multiply-adds
    point: int  # which point of the front
    trained: Evaluation | None = None  # on the validation split


@dataclass(frozen=True, kw_only=True)
class WidthSearch:
    """One search.

    Attributes:
        fingerprint: of the super-net.
        samples: validation samples that decided.
        sizes: group → units in the super-net, of the groups that were searched.
        front: from the widest network down.
        chosen: the point of the run's budget.
        uniform: beside some points, by falling multiply-adds; always one beside ``chosen``.
        joint: networks of further budgets that were trained together with the chosen one.
        default: group → units of the network at its published width; empty where that is not known.
        default_macs: its multiply-adds per sample.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    fingerprint: str
    samples: int
    sizes: dict[str, int]
    front: tuple[FrontPoint, ...]
    chosen: int
    uniform: tuple[UniformNetwork, ...] = ()
    joint: tuple[JointNetwork, ...] = ()
    default: dict[str, int] = field(default_factory=dict)
    default_macs: int | None = None
    format: int = FORMAT

    def meeting(self, limits: Mapping[str, float]) -> int | None:
        """Return the number of the first point of the front within absolute limits, by name of the cost, or None."""
        for number, point in enumerate(self.front):
            costs = {name: getattr(point, "params" if name == "nonzeros" else name) for name in limits}
            if all(cost is not None and cost <= limits[name] for name, cost in costs.items()):
                return number
        return None

    def uniform_beside(self, point: int) -> UniformNetwork | None:
        """Return the uniform network at the multiply-adds of a point, if there is one."""
        return next((one for one in self.uniform if one.beside == point), None)


_ADAPTER = TypeAdapter(WidthSearch)


def write_width_search(path: Path | str, search: WidthSearch) -> None:
    """Write a search as JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _ADAPTER, search)


def read_width_search(path: Path | str) -> WidthSearch:
    """Return the search in a file that :func:`write_width_search` wrote.

    Raises:
        ArtifactError: the file is missing, holds no search, or has keys or a format that are not known.
    """
    return read_json(path, _ADAPTER, "search for widths", format=FORMAT)
