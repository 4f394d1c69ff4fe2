"""Which layers are cut: the paper's view of a network (layers, stages, shortcuts) on the channel graph."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence, Set
from fractions import Fraction
from typing import Literal

from secateur.errors import PlanError
from secateur.graph import ChannelGraph, Group
from secateur.graph.units import names_to_cut
from secateur.names import unknown_name

Residual = Literal["spare", "inner", "shortcut", "group"]


def cuttable_layers(
    graph: ChannelGraph, *, streams: bool, skip: Sequence[str] = (), allow_approximate: bool = False
) -> list[Group]:
    """Return the groups that may be cut, in the graph's order.

    Args:
        graph: of the model.
        streams: whether residual streams may be cut too.
        skip: patterns of group names to leave alone.
        allow_approximate: whether layers whose channels are normalised together may be cut too.

    Raises:
        PlanError: a pattern in ``skip`` matches no group.
    """
    for pattern in skip:
        if not any(fnmatch.fnmatchcase(group.name, pattern) for group in graph.groups):
            raise PlanError(unknown_name("layer to skip", pattern, graph.by_name, rather=names_to_cut(graph.groups)))
    return [
        group
        for group in graph.groups
        if group.cuttable(allow_approximate=allow_approximate)
        and (streams or not group.is_stream)
        and not any(fnmatch.fnmatchcase(group.name, pattern) for pattern in skip)
    ]


def shares_for(
    graph: ChannelGraph, layers: Iterable[Group], ratios: Mapping[str, float], *, streams: bool
) -> dict[str, Fraction]:
    """Return the share of its filters that each layer loses: that of the first pattern which matches its name.

    Args:
        graph: of the model.
        layers: that may be cut.
        ratios: pattern → share in [0, 1).
        streams: for the reason why a layer that is named may not be cut.

    Raises:
        PlanError: a pattern matches no layer that may be cut.
    """
    open_names = [group.name for group in layers]
    for pattern in ratios:
        if any(fnmatch.fnmatchcase(name, pattern) for name in open_names):
            continue
        matched = [group for group in graph.groups if fnmatch.fnmatchcase(group.name, pattern)]
        if not matched:
            raise PlanError(unknown_name("layer to cut", pattern, graph.by_name, rather=open_names))
        raise PlanError(f"the ratio for {pattern!r} reaches no layer that may be cut: {_reason(matched[0], streams)}")
    shares: dict[str, Fraction] = {}
    for name in open_names:
        for pattern, share in ratios.items():
            if fnmatch.fnmatchcase(name, pattern):
                # By way of its decimal digits, because 0.1 as a binary fraction is a little more than a tenth.
                shares[name] = Fraction(str(share))
                break
    return shares


def _reason(group: Group, streams: bool) -> str:
    if group.locked or group.approximate:
        return f"{group.name} cannot be cut: {group.locked or group.approximate}"
    if not streams and group.is_stream:
        return f"{group.name} is a residual stream that several layers produce; set residual to 'shortcut' or 'group'"
    return f"{group.name} is skipped"


def shortcut_weights(graph: ChannelGraph) -> dict[str, str]:
    """Return, for every residual stream that begins with a projection shortcut, the weight of that projection.

    A projection shortcut is a 1×1 convolution that produces the stream, whose input also reaches the stream by another
    way: through the layers of the block.
    """
    consumed, produced = _edges(graph)
    streams = {group.name for group in graph.groups if group.is_stream}
    kernels = {spec.name: spec.shape[2:] for spec in graph.tensors}
    found: dict[str, str] = {}
    for group in graph.groups:
        if not group.is_stream:
            continue
        for member in group.members:
            kernel = kernels.get(member.parameter, ())
            if member.role != "produces" or not kernel or any(size != 1 for size in kernel):
                continue
            inputs = consumed.get(member.parameter, set())
            if any(_reaches(start, group.name, member.parameter, consumed, produced, streams) for start in inputs):
                found[group.name] = member.parameter
                break
    return found


def _edges(graph: ChannelGraph) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return weight → groups that it consumes, and weight → groups that it produces."""
    consumed: dict[str, set[str]] = {}
    produced: dict[str, set[str]] = {}
    for group in graph.groups:
        for member in group.members:
            if member.role == "consumes":
                consumed.setdefault(member.parameter, set()).add(group.name)
            elif member.role == "produces":
                produced.setdefault(member.parameter, set()).add(group.name)
    return consumed, produced


def _reaches(
    start: str,
    target: str,
    without: str,
    consumed: Mapping[str, set[str]],
    produced: Mapping[str, set[str]],
    streams: Set[str],
) -> bool:
    """Say whether channels of ``start`` become channels of ``target`` by another way than the weight ``without``.

    That way stays inside one block: it does not pass through another stream.
    """
    seen, frontier = {start}, [start]
    while frontier:
        group = frontier.pop()
        for parameter, inputs in consumed.items():
            if parameter == without or group not in inputs:
                continue
            for made in produced.get(parameter, ()):
                if made == target:
                    return True
                if made not in seen and made not in streams:
                    seen.add(made)
                    frontier.append(made)
    return False
