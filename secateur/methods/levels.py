"""What a method may cut: channels, whole residual blocks, or both; and what it may cut only approximately."""

import fnmatch
from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from secateur.cost import LatencyModel, dropped_header_bytes
from secateur.cost.budget import meter
from secateur.criteria import BlockScores, score_blocks
from secateur.criteria.scoring import Combine
from secateur.errors import BudgetError, UsageError
from secateur.graph import ChannelGraph, Plan
from secateur.names import unknown_name
from secateur.wording import counted

Level = Literal["channel", "block", "both"]
"""``channel`` cuts units of groups, ``block`` drops whole residual blocks, ``both`` drops blocks as long as the model
stays above the budget and lets channels do the rest."""

NAMED = 5  # blocks or groups in a sentence


def check_level(level: str) -> None:
    """Refuse what is no level.

    Raises:
        UsageError: it is none; the nearest is suggested.
    """
    if level not in get_args(Level):
        raise UsageError(unknown_name("level", level, get_args(Level)))


def blocks_to_drop(
    level: Level, graph: ChannelGraph, model: nn.Module, criterion: str, *, combine: Combine, seed: int = 0
) -> BlockScores | None:
    """Return the scores of the blocks that may be dropped, or None where the level is that of channels.

    Raises:
        BudgetError: no block can be dropped.
    """
    if level == "channel":
        return None
    require_blocks(graph)
    return score_blocks(graph, model, criterion, combine=combine, seed=seed)


def require_blocks(graph: ChannelGraph, *, otherwise: str = "with level: channel (--level channel)") -> None:
    """Refuse a model without a block that can be dropped.

    Args:
        graph: of the model.
        otherwise: how channels are cut instead, for the sentence.

    Raises:
        BudgetError: no block can be dropped.
    """
    if _droppable(graph):
        return
    locked = [f"{block.name} ({block.locked})" for block in graph.blocks]
    found = "it has no residual blocks" if not locked else f"all are locked: {_named(locked)}"
    raise BudgetError(f"no block of {graph.model_class} can be dropped, because {found}; cut channels, {otherwise}")


def names_blocks(graph: ChannelGraph, pattern: str, level: Level) -> bool:
    """Say whether ``pattern`` matches a block and blocks may be dropped, so that it says something."""
    return level != "channel" and any(fnmatch.fnmatchcase(block.name, pattern) for block in graph.blocks)


def least_cost(graph: ChannelGraph, method: object, name: str, table: LatencyModel | None = None) -> float:
    """Return the least ``name`` that a cut by ``method`` can leave: one unit in every group, no block, or both.

    A method without the settings ``level`` and ``allow_approximate`` cuts channels, and none approximately.
    """
    level = getattr(method, "level", "channel")
    left = graph if level == "channel" else graph.without(_droppable(graph))
    least = left.least_sizes(allow_approximate=getattr(method, "allow_approximate", False))
    return meter(name, left, table)(left.sizes if level == "block" else least)


def cost_after(graph: ChannelGraph, plan: Plan, name: str, table: LatencyModel | None = None) -> float:
    """Return the ``name`` that the model costs after ``plan``."""
    if not plan.drops:
        return meter(name, graph, table)(graph.kept_sizes(plan))
    left = graph.without(plan.dropped_blocks)
    header = dropped_header_bytes(graph, plan.dropped_blocks) if name == "size_bytes" else 0
    rest = left.plan(plan.kept, allow_approximate=bool(plan.approximate))
    return meter(name, left, table)(left.kept_sizes(rest)) + header


def notes_on(graph: ChannelGraph, plan: Plan) -> list[str]:
    """Say which blocks went, and which groups are cut only approximately."""
    notes = []
    if plan.drops:
        notes.append(
            f"{len(plan.drops)} of {counted(len(graph.blocks), 'residual block')} "
            f"{'is' if len(plan.drops) == 1 else 'are'} dropped whole: {_named(plan.dropped_blocks)}"
        )
    if plan.approximate:
        notes.append(
            f"{counted(len(plan.approximate), 'group is', 'groups are')} cut approximately, because a norm or a "
            f"mean runs across channels (allow_approximate): {_named(plan.approximate)}"
        )
    return notes


def _droppable(graph: ChannelGraph) -> list[str]:
    return [block.name for block in graph.blocks if block.locked is None]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
