"""What each step of an iterative method saw and left: scores through the store, and the records of a run."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.criteria import BlockScores, Scores
from secateur.errors import TrainingError
from secateur.graph import Plan
from secateur.methods.running import MethodRun
from secateur.record import PruningStep

DENSE = "dense"
"""The phase before the first step: the training of the model that the method was given."""


def settled(run: MethodRun, number: int, scores: Mapping[str, Tensor]) -> Scores:
    """Keep the scores of a step, and return them as the store has them.

    Read back, they are the same in every process of a run, whatever part of each batch a process saw; and a run that
    continues after the decision reports what it was decided by.

    Args:
        run: of the method.
        number: of the step, from 1.
        scores: group → scores of the units that are still there, shape (units,).
    """
    run.store.keep(_name(number), None, {name: values.detach().double().cpu() for name, values in scores.items()})
    return _kept(run, _name(number), list(scores))


def settled_blocks(run: MethodRun, number: int, scores: BlockScores, *, alone: bool = True) -> BlockScores:
    """Do the same for scores of blocks.

    Args:
        run: of the method.
        number: of the step, from 1.
        scores: block → its score.
        alone: whether blocks are all that the step may take, so that the record shows their scores.
    """
    name = _name(number) if alone else f"block-{_name(number)}"
    tensors = {block: torch.tensor([value], dtype=torch.float64) for block, value in scores.items()}
    run.store.keep(name, None, tensors)
    return {block: float(value) for block, value in _kept(run, name, list(scores)).items()}


def recorded(
    run: MethodRun,
    number: int,
    *,
    after: str,
    earlier: Plan,
    plan: Plan,
    small: nn.Module | None,
    blocks: bool = False,
) -> None:
    """Add the record of a step to those of the run.

    Args:
        run: of the method.
        number: of the step, from 1; its scores are in the store.
        after: the phase of training that came before it.
        earlier: the plan of all steps before.
        plan: the plan of all steps and this one.
        small: the model that the step left, to be evaluated on the validation split; None to leave that out.
        blocks: whether the scores are those of blocks, which have one each and are then kept (1) or not (0).
    """
    graph = run.graph
    scores = _kept(run, _name(number))
    if blocks:
        kept = {block.name: int(not _is_gone(plan, block.name)) for block in graph.blocks if block.name in scores}
        removed = sum(_is_gone(plan, b.name) and not _is_gone(earlier, b.name) for b in graph.blocks)
    else:
        before, now = graph.kept_sizes(earlier), graph.kept_sizes(plan)
        kept = {group.name: int(left) for group, left in zip(graph.groups, now, strict=True) if group.name in scores}
        removed = int((before - now).sum())
    accuracy = None if small is None else run.evaluated(f"step-{number}", small, plan).score
    run.steps.append(
        PruningStep(
            number=number,
            phase=after,
            scores={name: tuple(map(_rounded, scores[name].tolist())) for name in kept},
            kept=kept,
            macs=graph.macs(plan),
            params=graph.params(plan),
            removed=removed,
            accuracy=None if accuracy is None or math.isnan(accuracy) else accuracy,
            level="block" if blocks else "channel",
        )
    )


def _name(number: int) -> str:
    return f"scores-{number}"


def _kept(run: MethodRun, name: str, order: Sequence[str] | None = None) -> Scores:
    entry = run.store.recall(name)
    if entry is None:
        raise TrainingError(
            f"{run.store.folder} holds decisions but not {name}, by which one was made; start over in another folder"
        )
    return {key: entry.tensors[key] for key in (order or entry.tensors)}


def _is_gone(plan: Plan, block: str) -> bool:
    return any(drop.block == block or drop.covers(block) for drop in plan.drops)


def _rounded(score: float) -> float:
    """Six digits tell scores apart, and make the file of 150 steps half as long."""
    return float(f"{score:.6g}")
