"""A recipe's run in a folder that can be continued: whose folder it is, and that one process at a time works in it."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from secateur.errors import UsageError
from secateur.recipe.job import Job
from secateur.recipe.latency import with_table_fingerprint
from secateur.recipe.lock import locked, refuse_busy
from secateur.recipe.rundir import RunDirectory, RunResult, take_over
from secateur.recipe.settings import Recipe
from secateur.recipe.subject import fingerprinted
from secateur.recipe.width_search import require_on_front
from secateur.training import Progress, Quiet, join_processes
from secateur.training.devices import wait_for_all


def compress(
    recipe: Recipe,
    out: Path | str,
    *,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    begun_in: Path | None = None,
    further: bool = False,
) -> RunResult:
    """Train where asked for, cut, fine-tune, prove, export and measure; a run that was killed goes on.

    Args:
        recipe: what to do.
        out: the run directory; new, empty, or of the same run.
        force: start over if it is of another run.
        command: the words that started this, for the record.
        progress: where to show how it goes.
        begun_in: another run directory, whose training of the dense model or super-net, and whose search, count as
            done here.
        further: whether that search may go on where it did not go down to the budget.

    Raises:
        SecateurError: anything wrong with the recipe, the model, the data or the folder, before work starts where it
            can be known; a proof that fails; a loss that is not finite.
        Interrupted: Ctrl-C; the same call continues.
    """
    model, data = fingerprinted(recipe.model, recipe.data, recipe.machine)
    recipe = with_table_fingerprint(replace(recipe, model=model, data=data))
    place = RunDirectory(Path(out))
    if begun_in is not None and place.folder.resolve() == begun_in.resolve():
        raise UsageError(f"{out} is the folder of the search; give the picked network one of its own with --out")
    refuse_busy(place.folder)
    finished = place.enter(recipe, force=force)
    if finished is not None:
        return RunResult(place.folder, finished, was_complete=True)
    job = Job.prepare(recipe, place, progress or Quiet())
    if begun_in is not None and not further:
        require_on_front(job, begun_in)
    # Of several processes that train together the first one stands for all.
    with locked(place.folder) if join_processes().first else contextlib.nullcontext():
        finished = place.enter(recipe, force=force)  # another process may have been faster
        if finished is not None:
            return RunResult(place.folder, finished, was_complete=True)
        place.begin(recipe, force=force)
        if begun_in is not None and join_processes().first:
            take_over(place.checkpoint, RunDirectory(begun_in).checkpoint)
        wait_for_all(join_processes())
        with job.logged(command):
            record = job.run(tuple(command))
        return RunResult(place.folder, record)
