"""Which layers are cut, in which order, to how many filters, and where is trained in between."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph, Group
from secateur.graph.units import names_to_cut
from secateur.names import unknown_name


def check_keep(keep: Mapping[str, float]) -> None:
    """Refuse shares that leave nothing or more than there is.

    Raises:
        UsageError: one is not in (0, 1].
    """
    for pattern, share in keep.items():
        if isinstance(share, bool) or not 0 < share <= 1:
            raise UsageError(
                f"keep for {pattern!r} is {share!r}; it is the share of filters that stays, above 0 up to 1"
            )


def kept_counts(
    graph: ChannelGraph, layers: Iterable[Group], keep: Mapping[str, float], *, streams: bool, min_units: int = 1
) -> dict[str, int]:
    """Return how many filters each layer keeps, of those that lose any: int(C·r), as the authors' code has it.

    Args:
        graph: of the model.
        layers: that may be cut.
        keep: pattern of layers → r, the share that stays; the first pattern that matches decides. It counts as the
            decimal number that it is written as, so that of 100 filters 0.29 keeps 29.
        streams: whether residual streams may be cut, for the reason why a layer that is named may not be.
        min_units: filters that stay at least.

    Raises:
        PlanError: a pattern matches no layer that may be cut.
    """
    sizes = {group.name: group.size for group in layers}
    for pattern in keep:
        if not fnmatch.filter(sizes, pattern):
            matched = fnmatch.filter(graph.by_name, pattern)
            if not matched:
                raise PlanError(unknown_name("layer to cut", pattern, graph.by_name, rather=sizes))
            raise PlanError(
                f"keep for {pattern!r} reaches no layer that may be cut: "
                f"{_reason(graph.group(matched[0]), streams=streams)}"
            )
    counts = {}
    for name, size in sizes.items():
        share = next((share for pattern, share in keep.items() if fnmatch.fnmatchcase(name, pattern)), 1.0)
        count = min(size, max(min_units, math.floor(size * Fraction(str(share)))))
        if count < size:
            counts[name] = count
    return counts


def _reason(group: Group, *, streams: bool) -> str:
    if group.locked or group.approximate:
        return f"{group.name} cannot be cut: {group.locked or group.approximate}"
    if not streams and group.is_stream:
        return f"{group.name} is a residual stream that several layers produce; set residual to 'group'"
    return f"{group.name} is skipped"


def in_forward_order(graph: ChannelGraph, names: Iterable[str]) -> list[str]:
    """Return layers in the order in which the model runs those that make their channels; a stream by its first one."""
    runs: dict[str, int] = {}
    for place, (path, _) in enumerate(graph.costs.compute_names):
        runs.setdefault(path, place)
    last = len(runs)

    def place_of(name: str) -> int:
        makers = [member.parameter.rpartition(".")[0] for member in graph.group(name).members if _produces(member.role)]
        return min((runs.get(maker, last) for maker in makers), default=last)

    return sorted(names, key=place_of)  # stable: what the order of running does not tell keeps the graph's


def _produces(role: str) -> bool:
    return role == "produces"


def stretches(graph: ChannelGraph, layers: Sequence[str], *, by_block: bool) -> list[list[str]]:
    """Return the layers in stretches with training in between.

    Args:
        graph: of the model.
        layers: in the order in which they are cut.
        by_block: neighbours that lie in one residual block form a stretch, as in the code of ThiNet's journal version
            for ResNet-50; otherwise every layer stands alone. The block of a layer is the module right around it, if a
            layer in that module produces a residual stream.
    """
    found: list[list[str]] = []
    producers = {
        member.parameter
        for group in graph.groups
        if group.is_stream
        for member in group.members
        if _produces(member.role)
    }
    before: str | None = None
    for name in layers:
        around = name.rpartition(".")[0]
        in_block = bool(around) and any(producer.startswith(f"{around}.") for producer in producers)
        block = around if by_block and in_block and not graph.group(name).is_stream else None
        if block is not None and block == before:
            found[-1].append(name)
        else:
            found.append([name])
        before = block
    return found


def check_longer(graph: ChannelGraph, longer: Iterable[str]) -> None:
    """Refuse patterns of layers to train longer after that match nothing.

    Raises:
        PlanError: there is no such layer; the nearest is suggested.
    """
    for pattern in longer:
        if not fnmatch.filter(graph.by_name, pattern):
            raise PlanError(unknown_name("layer in longer", pattern, graph.by_name, rather=names_to_cut(graph.groups)))


def epochs_after(stretch: Sequence[str], layer_epochs: float, longer: Mapping[str, float]) -> float:
    """Return how long is trained after a stretch: as its layer that asks for most; 0 where ``layer_epochs`` is."""
    if not layer_epochs:
        return 0
    return max(
        next((epochs for pattern, epochs in longer.items() if fnmatch.fnmatchcase(name, pattern)), layer_epochs)
        for name in stretch
    )
