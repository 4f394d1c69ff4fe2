"""Searching a super-net for widths in a folder that can be continued, and picking a network of its front."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from secateur.cost import Budget
from secateur.cost.budget import is_share
from secateur.errors import ArtifactError, BudgetError, UsageError
from secateur.methods import AutoSlim
from secateur.recipe.job import Job
from secateur.recipe.latency import with_table_fingerprint
from secateur.recipe.lock import locked, refuse_busy
from secateur.recipe.reading import recipe_from
from secateur.recipe.rundir import MARK, RunDirectory
from secateur.recipe.settings import Recipe
from secateur.recipe.subject import fingerprinted
from secateur.recipe.width_default import beside_default
from secateur.record import WidthSearch, read_width_search
from secateur.report import write_front
from secateur.slimmable import kept_units
from secateur.training import Progress, Quiet, Store, join_processes


@dataclass(frozen=True)
class WidthSearchResult:
    """What a search leaves.

    Attributes:
        folder: the run directory, with ``front.json``, ``front.md`` and the figures.
        search: what was found.
        was_complete: whether the search was finished before, so that nothing was computed.
    """

    folder: Path
    search: WidthSearch
    was_complete: bool = False


_FURTHER = "search on from there with --further, which trains no super-net again, or pick a larger one"


def search_widths(
    recipe: Recipe,
    out: Path | str,
    *,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> WidthSearchResult:
    """Train the super-net of a recipe and search it down to the recipe's budgets; what was killed goes on.

    The folder is the recipe's run directory: :func:`compress` with the same recipe goes on in it, and trains what was
    found.

    Args:
        recipe: with the method ``autoslim``.
        out: the run directory; new, empty, or of the same run.
        force: start over if it is of another run.
        command: the words that started this, for the log.
        progress: where to show how it goes.

    Raises:
        SecateurError: anything wrong with the recipe, the model, the data or the folder, before work starts where it
            can be known; a budget that cannot be met; a loss that is not finite.
        Interrupted: Ctrl-C; the same call continues.
    """
    method = _searching(recipe)
    model, data = fingerprinted(recipe.model, recipe.data, recipe.machine)
    recipe = with_table_fingerprint(replace(recipe, model=model, data=data))
    place = RunDirectory(Path(out))
    refuse_busy(place.folder)
    place.enter(recipe, force=force)
    finished = None if force else _finished(place)
    if finished is not None:
        return WidthSearchResult(place.folder, finished, was_complete=True)
    job = Job.prepare(recipe, place, progress or Quiet())
    first = join_processes().first
    with locked(place.folder) if first else contextlib.nullcontext():
        place.enter(recipe, force=force)  # another process may have been faster
        place.begin(recipe, force=force)
        with job.logged(command):
            store = Store(place.checkpoint)
            job.dense(store)
            found = method.search(job.subject.model, job.tuning_task(), job.limits, store=store, progress=job.tell)
            found = beside_default(recipe, job.data, found) or found
            if first:
                write_front(place.folder, found)
    return WidthSearchResult(place.folder, found)


def picked_recipe(
    folder: Path | str,
    budget: Budget,
    *,
    train: bool = False,
    latency_table: Path | str | None = None,
    further: bool = False,
    allow_code: bool = False,
) -> Recipe:
    """Return the recipe that cuts a searched super-net to the first network of its front within a budget.

    ``compress(recipe, out, begun_in=folder)`` runs it: a run of its own, proved, exported and measured as any other,
    which takes super-net and search from ``folder``.

    Args:
        folder: where :func:`search_widths` searched.
        budget: shares are of the super-net, as in the recipe.
        train: train the network from random weights, as the recipe of the search says; otherwise it has the super-net's
            weights, and batch norm measured anew.
        latency_table: of the super-net, for a budget in milliseconds; None takes that of the search. Latency follows
            from the widths, so that any search will do. Such a budget is checked on an ONNX file, so there is one then.
        further: whether to search on from the end of the front where that is above the budget. The folder of the run
            then has the longer front.
        allow_code: whether the recipe may name the user's code.

    Raises:
        UsageError: there is no finished search, or it trains nothing.
        BudgetError: the search did not go down so far, or there is a budget in milliseconds and no table. How far it
            went in milliseconds shows when the run begins, before anything is written.
    """
    place = RunDirectory(Path(folder))
    recipe = _begun_with(place, allow_code=allow_code)
    method = _searching(recipe)
    search = _finished(place)
    if search is None:
        raise UsageError(
            f"the search in {place.folder} is not finished; continue it with the command that began it, and pick then"
        )
    if not further:
        _require_on_front(search, budget)
    if train and not method.finetune_epochs:
        raise UsageError(
            "the recipe trains nothing that is found (method.finetune_epochs is 0); search with more, or pick without "
            "--train"
        )
    epochs = method.finetune_epochs if train else 0
    method = replace(method, joint=(), finetune_epochs=epochs)
    timed, table, fingerprint = budget.latency_ms is not None, latency_table, None
    if timed and table is None:
        table, fingerprint = recipe.latency_table, recipe.latency_table_fingerprint
    return replace(
        recipe,
        budget=budget,
        latency_table=None if table is None else str(table),
        latency_table_fingerprint=fingerprint,
        method=method,
        export=("onnx",) if timed else recipe.export,
    )


def _searching(recipe: Recipe) -> AutoSlim:
    if not isinstance(recipe.method, AutoSlim):
        raise UsageError(
            f"the recipe's method is {recipe.method.name}, which searches for no widths; give a recipe with the method "
            "autoslim, such as autoslim_resnet20_cifar10"
        )
    if recipe.control is not None:
        raise UsageError("a search has no control; take control out of the recipe")
    return recipe.method


def _begun_with(place: RunDirectory, *, allow_code: bool) -> Recipe:
    path = place.path("recipe")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    values: Any = None
    if text.startswith(MARK.split(",")[0]):
        with contextlib.suppress(yaml.YAMLError):
            values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise UsageError(f"{place.folder} holds no search; make one with `secateur search RECIPE --out {place.folder}`")
    return recipe_from(values, origin=str(path), allow_code=allow_code)


def _finished(place: RunDirectory) -> WidthSearch | None:
    if not place.path("front").exists():
        return None
    with contextlib.suppress(ArtifactError):
        return read_width_search(place.path("front"))
    return None


def require_on_front(job: Job, folder: Path) -> None:
    """Refuse a budget in milliseconds that no network of a search holds, before anything is written.

    Args:
        job: which goes on from that search.
        folder: of the search; without a finished one in it there is nothing to refuse.

    Raises:
        BudgetError: the search did not go down so far.
    """
    search, limits = _finished(RunDirectory(folder)), job.limits
    table = None if limits is None else limits.latency_model
    if search is None or limits is None or limits.latency_ms is None or table is None:
        return
    times = [table.latency_ms(job.graph, kept_units(job.graph, point.widths)) for point in search.front]
    points = zip(search.front, times, strict=True)
    timed = replace(search, front=tuple(replace(point, latency_ms=time) for point, time in points))
    if timed.meeting(limits.limits(job.graph)) is None:
        raise BudgetError(
            f"no network of the front holds {limits.describe()}: the fastest would take {min(times):.3g} ms "
            f"({100 * min(times) / times[0]:.1f} % of the super-net's {times[0]:.3g} ms); {_FURTHER}"
        )


def _require_on_front(search: WidthSearch, budget: Budget) -> None:
    """Refuse a budget below the front, before anything is written; milliseconds need the network's graph."""
    widest, last = search.front[0], search.front[-1]
    limits: dict[str, float] = {}
    for name, amount in budget.given().items():
        if name != "latency_ms":
            whole = getattr(widest, "params" if name == "nonzeros" else name)
            limits[name] = amount * whole if is_share(name, amount) else float(amount)
    if search.meeting(limits) is None:
        raise BudgetError(
            f"no network of the front holds {budget.describe()}: the smallest has {last.macs:,} MACs "
            f"({100 * last.macs / widest.macs:.1f} % of the super-net's) and {last.params:,} parameters; {_FURTHER}"
        )
