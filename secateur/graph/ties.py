"""Which operators hold a group together, and what is told of one group. Names and numbers only."""

import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from secateur.graph.units import Group, Member, SizeAttribute

if TYPE_CHECKING:
    from secateur.graph.channel_graph import ChannelGraph

T = TypeVar("T", bound=Hashable)

TiedDim = tuple[str, int]
"""A parameter or buffer and one of its dimensions."""

CONSTANTS: TiedDim = ("", -1)
"""Channels that belong to no parameter, as those that a pad adds."""


@dataclass(frozen=True)
class Tie:
    """An operator that joined dimensions of a group that were apart before.

    Attributes:
        group: name of the group.
        operator: name of the operator, empty if no operator did it.
        module: path of the module whose forward called it, empty for the model itself.
        line: ``file.py:line`` of the model's own code that called it, or empty.
        members: the dimensions that it joined, in the order in which it met them. A single one has slices that the
            operator ties to each other, as a view ties the channels of an attention head.
    """

    group: str
    operator: str
    module: str
    line: str
    members: tuple[TiedDim, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "group": self.group,
            "operator": self.operator,
            "module": self.module,
            "line": self.line,
            "members": [list(member) for member in self.members],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tie":
        """Read what :meth:`to_json` wrote."""
        members = tuple((str(name), int(dim)) for name, dim in data["members"])
        return cls(data["group"], data["operator"], data["module"], data["line"], members)

    def sentence(self, roles: Mapping[TiedDim, str]) -> str:
        """Return it in words; ``roles`` says what each dimension does (``produces``, ``consumes``, ``carries``)."""
        first, *others = (_in_words(member, roles) for member in _folded(self.members, roles))
        module = f" in {self.module}" if self.module else ""
        line = f" ({self.line})" if self.line else ""
        what = f"with {', '.join(others)}" if others else "to itself: several slices to each unit"
        return f"{self.operator or 'the module'}{module}{line} ties {first} {what}"


def _folded(members: Iterable[TiedDim], roles: Mapping[TiedDim, str]) -> list[tuple[str, tuple[TiedDim, ...]]]:
    """Bring together what one module only carries, as the four vectors of a batch norm."""
    found: dict[tuple[str, int], list[TiedDim]] = {}
    for number, member in enumerate(members):
        carried = roles.get(member, "carries") == "carries" and member[1] == 0
        found.setdefault((member[0].rpartition(".")[0], -1 if carried else number), []).append(member)
    return [(module, tuple(together)) for (module, _), together in found.items()]


def _in_words(folded: tuple[str, tuple[TiedDim, ...]], roles: Mapping[TiedDim, str]) -> str:
    module, members = folded
    if len(members) == 1:
        return dimension_in_words(members[0], roles.get(members[0], "carries"))
    names = ", ".join(name.rpartition(".")[2] for name, _ in members)
    return f"{module}.{{{names}}}" if module else f"{{{names}}}"


def dimension_in_words(member: TiedDim, role: str) -> str:
    """Return a dimension as people say it: ``conv1.weight out``, ``conv2.weight in``, ``bn1.bias``, ``x dim 2``."""
    name, dim = member
    if member == CONSTANTS:
        return "constant channels"
    if role == "carries":
        return f"{name} dim {dim}" if dim else name
    return f"{name} {'out' if role == 'produces' else 'in'}"


class Ties(Sequence[Tie]):
    """Ties that are worked out when they are first looked at."""

    def __init__(self, make: Callable[[], tuple[Tie, ...]]) -> None:
        self._make = make

    @cached_property
    def _all(self) -> tuple[Tie, ...]:
        return self._make()

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, place: int) -> Tie: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Tie, ...]: ...

    def __getitem__(self, place: int | slice) -> Tie | tuple[Tie, ...]:
        return self._all[place]


class Joined(Generic[T]):
    """Sets that grow together."""

    def __init__(self) -> None:
        self._set_of: dict[T, list[T]] = {}

    def together(self, member: T) -> list[T]:
        """Return all that is joined with ``member``, itself included."""
        return self._set_of.get(member) or [member]

    def join(self, first: T, second: T) -> bool:
        """Join two; False if they were together."""
        one, other = self._set_of.get(first), self._set_of.get(second)
        if one is None:
            one = self._set_of[first] = [first]
        if other is None:
            if first == second:
                return False
            one.append(second)
            self._set_of[second] = one
            return True
        if one is other:
            return False
        if len(one) < len(other):
            one, other = other, one
        one.extend(other)
        for member in other:
            self._set_of[member] = one
        return True


def ties_without(ties: Sequence[Tie], gone: Collection[str]) -> Sequence[Tie]:
    """Return what holds the groups together without the parameters and buffers ``gone``.

    What was tied to one of them is tied to what that was tied to before.
    """
    return Ties(partial(_healed, ties, gone))


def _healed(ties: Iterable[Tie], gone: Collection[str]) -> tuple[Tie, ...]:
    joined: dict[str, Joined[TiedDim]] = {}
    left = []
    for tie in ties:
        sets = joined.setdefault(tie.group, Joined())
        members = []
        for member in tie.members:
            stays = [other for other in (member, *sets.together(member)) if other[0] not in gone]
            members += stays[:1]
        for member in tie.members[1:]:
            sets.join(tie.members[0], member)
        kept = tuple(dict.fromkeys(members))
        if len(kept) > 1 or kept == tie.members:
            left.append(Tie(tie.group, tie.operator, tie.module, tie.line, kept))
    return tuple(left)


@dataclass(frozen=True)
class Why:
    """Why the channels of one group go together, and whether they may be cut. ``str`` of it is made for reading.

    Attributes:
        group: the group.
        ties: the operators that hold it together, in the order in which they ran.
        attributes: integers of modules that change with it.
        macs: multiply-adds per sample of the operators that it takes part in.
        share_of_macs: the same, as a share of the model's.
    """

    group: Group
    ties: tuple[Tie, ...]
    attributes: tuple[SizeAttribute, ...]
    macs: int
    share_of_macs: float

    def __str__(self) -> str:
        """Return the whole account as text, in lines of at most 100 columns."""
        group = self.group
        state = "may be cut"
        if group.locked is not None:
            state = f"cannot be cut: {group.locked}"
        elif group.approximate is not None:
            state = f"is left alone, because a cut would only be approximate: {group.approximate}"
        elif group.size == 1:
            state = "has nothing to cut: its one unit has to stay"
        roles = {(member.parameter, member.dim): member.role for member in group.members}
        rows = [(_member_in_words(member), member.role, str(slices_per_unit(member))) for member in group.members]
        width = max((len(row[0]) for row in rows), default=0)
        lines = [
            f"{group.name}: {group.size} units, in operators with {100 * self.share_of_macs:.1f} % of all MACs",
            f"It {state}",
            "",
            "Each unit takes, of",
            *(f"  {name.ljust(width)}  {slices} slice{'s' * (slices != '1')}, {role}" for name, role, slices in rows),
            "",
            "Held together by" if self.ties else "No operator ties it to another layer",
        ]
        for tie in self.ties:
            lines += _wrapped(tie.sentence(roles))
        if self.attributes:
            lines += ["", "Integers that change with it"]
            lines += [f"  {entry.module or '(model)'}.{entry.attribute}" for entry in self.attributes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        group = self.group
        return {
            "name": group.name,
            "units": group.size,
            "locked": group.locked,
            "approximate": group.approximate,
            "is_stream": group.is_stream,
            "macs": self.macs,
            "share_of_macs": self.share_of_macs,
            "members": [
                {
                    "parameter": member.parameter,
                    "dim": member.dim,
                    "role": member.role,
                    "slices_per_unit": slices_per_unit(member),
                }
                for member in group.members
            ],
            "ties": [tie.to_json() for tie in self.ties],
            "attributes": [{"module": entry.module, "attribute": entry.attribute} for entry in self.attributes],
        }


def why(graph: "ChannelGraph", group: Group) -> Why:
    """Return the account of one group of ``graph``; see :meth:`ChannelGraph.why`."""
    macs, total = graph.macs_of_groups()[group.name], graph.macs()
    mine = range(group.offset, group.offset + group.size)
    return Why(
        group=group,
        ties=tuple(tie for tie in graph.ties if tie.group == group.name),
        attributes=tuple(entry for entry in graph.attributes if np.isin(entry.units, mine).any()),
        macs=macs,
        share_of_macs=macs / total if total else 0.0,
    )


def slices_per_unit(member: Member) -> int:
    """Return how many slices of the dimension one unit takes; it is the same for all units."""
    return max(Counter(member.units[member.units >= 0].tolist()).values(), default=0)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _member_in_words(member: Member) -> str:
    return f"{member.parameter} dim {member.dim}"
