"""Why a model can be cut as far as it can: what is locked and where, what no run reaches, which blocks may go."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from secateur.graph import Block, ChannelGraph, Group
from secateur.report.values import count, share
from secateur.wording import counted

T = TypeVar("T")

WIDTH = 100  # columns of a line of names
SHOWN = 4  # groups of one reason, blocks and names that are shown before the rest is counted
_REASON = re.compile(r"(?P<kind>.*?)(?: (?:in|of) module '(?P<module>[^']*)')?(?: \((?P<line>[^()\s]+:\d+)\))?", re.S)


@dataclass(frozen=True)
class Limit:
    """One kind of reason for which groups are not cut.

    Attributes:
        reason: the reason, without its place.
        groups: names of the groups that it holds, in the order of the model.
        gain: share of all multiply-adds that could go besides, if these groups could be cut to one unit.
        macs: multiply-adds per sample of the operators that the groups take part in.
        approximate: whether a cut would be possible, but not the same as zeroing.
    """

    reason: str
    groups: tuple[str, ...]
    gain: float
    macs: int
    approximate: bool


def limits(graph: ChannelGraph) -> tuple[Limit, ...]:
    """Return what keeps groups of ``graph`` from being cut, by what could be gained without it."""
    found: dict[tuple[str, bool], list[Group]] = {}
    for group in graph.groups:
        reason = group.locked or group.approximate
        if reason is not None:
            found.setdefault((placed(reason)[0], group.locked is None), []).append(group)
    least = np.asarray([1 if group.prunable else group.size for group in graph.groups], dtype=np.int64)
    total, floor = graph.macs(), graph.costs.macs(least)
    number = {group.name: place for place, group in enumerate(graph.groups)}
    result = []
    for (kind, approximate), groups in found.items():
        places = [number[group.name] for group in groups]
        freed = least.copy()
        freed[places] = 1
        gain = (floor - graph.costs.macs(freed)) / total if total else 0.0
        macs = graph.costs.macs_of_any(graph.sizes, places)
        result.append(Limit(kind, tuple(group.name for group in groups), gain, macs, approximate))
    return tuple(sorted(result, key=lambda limit: (limit.approximate, -limit.gain, -limit.macs)))


def placed(reason: str) -> tuple[str, str, str]:
    """Split why a group is locked into the reason itself, the module and the source line, each empty if not known."""
    match = _REASON.fullmatch(reason)
    assert match is not None  # every part but the first may be absent
    return match["kind"], match["module"] or "", match["line"] or ""


def why_text(graph: ChannelGraph, *, whole: bool = False, locked: bool = False) -> str:
    """Return what holds a model back, in sections.

    Args:
        graph: of the model.
        whole: name everything, instead of a few of each kind and the number of the others.
        locked: leave out blocks that may go and integers that change.
    """
    found = limits(graph)
    parts = [
        _limit_section("Cannot be cut", graph, [limit for limit in found if not limit.approximate], whole=whole),
        _limit_section(
            "Left alone, because a cut would only be approximate",
            graph,
            [limit for limit in found if limit.approximate],
            whole=whole,
        ),
        _unknown_section(graph),
        _unreached_section(graph, whole=whole),
        _block_section(graph, whole=whole, locked=locked),
        [] if locked else _attribute_section(graph, whole=whole),
        _summary(graph, found),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def why_json(graph: ChannelGraph) -> dict[str, Any]:
    """Return what :func:`why_text` and the table of groups are made of."""
    macs, total = graph.macs_of_groups(), graph.macs()
    return {
        "macs": total,
        "prunable_share_of_macs": graph.prunable_share_of_macs(),
        "limits": [
            {
                "reason": limit.reason,
                "approximate": limit.approximate,
                "groups": list(limit.groups),
                "gain": limit.gain,
                "share_of_macs": limit.macs / total if total else 0.0,
            }
            for limit in limits(graph)
        ],
        "share_of_macs": {name: part / total if total else 0.0 for name, part in macs.items()},
        "blocks": [
            {"name": block.name, "macs": None if block.locked else _macs_of_block(graph, block)}
            for block in graph.blocks
        ],
    }


def _macs_of_block(graph: ChannelGraph, block: Block) -> int:
    """Return the multiply-adds per sample that go with a block; a locked one says none."""
    return int(graph.costs.macs_by_operator(graph.sizes)[list(block.costs.compute)].sum())


def _limit_section(title: str, graph: ChannelGraph, found: Sequence[Limit], *, whole: bool) -> list[str]:
    if not found:
        return []
    macs, total = graph.macs_of_groups(), max(graph.macs(), 1)
    number = sum(len(limit.groups) for limit in found)
    lines = [f"{title} ({counted(number, 'group')})"]
    for limit in found:
        lines += ["", f"  {limit.reason}"]
        shown, rest = _some(limit.groups, whole=whole)
        rows = []
        for name in shown:
            group = graph.group(name)
            rows.append((name, counted(group.size, "unit"), share(macs[name] / total, 1), _place(group)))
        lines += _columns(rows)
        if rest:
            lines += _listed(f"… {len(rest)} more of the same reason:", rest)
    return lines


def _unknown_section(graph: ChannelGraph) -> list[str]:
    if not graph.unknown_ops:
        return []
    rows = [(name, f"{times}×") for name, times in graph.unknown_ops.items()]
    return ["Operators without a rule for what they were given; they lock what they touch", "", *_columns(rows)]


def _unreached_section(graph: ChannelGraph, *, whole: bool) -> list[str]:
    if not graph.unreached:
        return []
    names = graph.unreached if whole else graph.unreached[: 2 * SHOWN]
    more = len(graph.unreached) - len(names)
    return [
        f"Not reached: {counted(len(graph.unreached), 'parameter')} that no run reads, left as they are",
        "",
        *_listed("", names, more),
    ]


def _block_section(graph: ChannelGraph, *, whole: bool, locked: bool) -> list[str]:
    free = [block for block in graph.blocks if block.locked is None]
    by_reason: dict[str, list[str]] = {}
    for block in graph.blocks:
        if block.locked is not None:
            by_reason.setdefault(block.locked, []).append(block.name)
    lines = []
    if free and not locked:
        total = max(graph.macs(), 1)
        shown, rest = _some(free, whole=whole)
        lines += [f"Can be dropped whole ({counted(len(free), 'block')})", ""]
        lines += _columns(
            [(block.name, f"{share(_macs_of_block(graph, block) / total, 1)} of MACs") for block in shown]
        )
        lines += _listed(f"… {len(rest)} more:", [block.name for block in rest]) if rest else []
    if by_reason:
        number = len(graph.blocks) - len(free)
        lines += [*([""] if lines else []), f"Cannot be dropped whole ({counted(number, 'block')})"]
    for reason, names in by_reason.items():
        some, others = _some(names, whole=whole)
        lines += ["", f"  {reason}", *_listed("", some, len(others))]
    return lines


def _attribute_section(graph: ChannelGraph, *, whole: bool) -> list[str]:
    found: dict[str, list[str]] = {}
    for entry in graph.attributes:
        found.setdefault(entry.attribute, []).append(entry.module or "(model)")
    if not found:
        return []
    lines = ["Integers that change with the cut", ""]
    for attribute, modules in sorted(found.items()):
        names = list(dict.fromkeys(modules))
        some, others = _some(names, whole=whole)
        lines += _listed(f"{attribute} of", some, len(others))
    return lines


def _summary(graph: ChannelGraph, found: Sequence[Limit]) -> list[str]:
    most = share(graph.prunable_share_of_macs(), 1)
    lines = [f"At most {most} of {count(graph.macs())} MACs can be cut, with one unit left in every group"]
    rows = [
        (limit.reason, f"{counted(len(limit.groups), 'group')}", f"+ {share(limit.gain, 1)}")
        for limit in sorted(found, key=lambda limit: -limit.gain)
        if limit.gain >= 0.0005
    ]
    if rows:
        lines += ["", "What could go besides if these could be cut", *_columns(rows[:5])]
    return lines


def _place(group: Group) -> str:
    _, module, line = placed(group.locked or group.approximate or "")
    if not module or module == group.name:
        return line
    return f"{line} in {module}" if line else f"in {module}"


def _some(names: Sequence[T], *, whole: bool) -> tuple[Sequence[T], Sequence[T]]:
    """Split a list into what is shown and what is counted; a rest of one is shown too."""
    if whole or len(names) <= SHOWN + 1:
        return names, ()
    return names[:SHOWN], names[SHOWN:]


def _listed(before: str, names: Sequence[str], more: int = 0) -> list[str]:
    """Return names as a paragraph, and the number of those that are not named."""
    text = f"{before} {', '.join(names)}".strip() + (f" and {more} more" if more else "")
    return textwrap.wrap(
        text, WIDTH, initial_indent="    ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return rows in columns; the first and the last hold words, those between numbers."""
    table = list(rows)
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))] if table else []
    lines = []
    for row in table:
        last = len(row) - 1
        cells = [
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"    {'  '.join(cells)}".rstrip())
    return lines
