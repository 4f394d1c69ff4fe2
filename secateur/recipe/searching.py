"""The budget of a recipe: given, or found as the smallest within an accuracy."""

from pathlib import Path

from torch import nn

from secateur.cost import Budget
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph
from secateur.methods.contract import Progress
from secateur.methods.smallest import NothingNearError, Search, easiest_budget, smallest_within, write_search
from secateur.recipe.rundir import FILES
from secateur.recipe.settings import Recipe
from secateur.report import write_tradeoff
from secateur.training import Store, Task


def first_budget(recipe: Recipe, graph: ChannelGraph, limits: Budget | None) -> Budget | None:
    """Return the budget that tells before any work whether the recipe can be done.

    Args:
        recipe: what is asked for.
        graph: of the dense model.
        limits: the recipe's budget, with its latency table where it has one.

    Raises:
        BudgetError: the limits beside an accuracy cannot be met.
    """
    if recipe.max_drop is None:
        return limits
    wanted = recipe.max_drop
    return easiest_budget(graph, recipe.method, amount=wanted.amount, tolerance=wanted.tolerance, also=limits)


def search_budget(
    recipe: Recipe,
    model: nn.Module,
    task: Task,
    folder: Path,
    *,
    limits: Budget | None,
    store: Store,
    tell: Progress,
) -> Search | None:
    """Find the smallest budget within the accuracy that the recipe asks for, and write the curve into ``folder``.

    Returns:
        What was found; None where the recipe asks for no accuracy.

    Raises:
        BudgetError: no candidate came within the accuracy; the curve is written all the same.
        Interrupted: Ctrl-C; the same call continues.
    """
    wanted = recipe.max_drop
    if wanted is None:
        return None
    try:
        search = smallest_within(
            recipe.method,
            model,
            task,
            max_drop_points=wanted.points,
            amount=wanted.amount,
            recovery_epochs=wanted.recovery_epochs,
            tolerance=wanted.tolerance,
            also=limits,
            store=store,
            progress=tell,
        )
    except NothingNearError as error:
        _write(folder, error.search)
        raise BudgetError(f"{error}; {folder / FILES['tradeoff']} has what each candidate gave") from error
    _write(folder, search)
    return search


def _write(folder: Path, search: Search) -> None:
    write_search(folder / FILES["search"], search)
    write_tradeoff(folder, search)
