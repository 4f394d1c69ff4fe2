"""Training what the search found: alone, together with networks of further budgets, and the uniform network beside."""

from typing import TYPE_CHECKING

from torch import nn

from secateur.graph import apply
from secateur.methods.autoslim.redrawing import redrawn
from secateur.methods.autoslim.stages import Searched
from secateur.methods.running import MethodRun
from secateur.randomness import derive_seed
from secateur.record import Evaluation
from secateur.slimmable import Sandwich, SwitchableNorms, plan_of, post_statistics
from secateur.wording import counted

if TYPE_CHECKING:
    from secateur.methods.autoslim.method import AutoSlim

ALONE, JOINTLY, BASELINE = "finetune", "joint", "uniform"
"""Names of the phases."""


def trained_alone(run: MethodRun, method: "AutoSlim", small: nn.Module) -> None:
    """Train the found network in place, from random weights or from those that it has."""
    if method.start == "scratch":
        _begin_anew(run, method, small, ALONE)
    run.train(ALONE, small, method.finetune_epochs)


def trained_jointly(run: MethodRun, method: "AutoSlim", found: Searched) -> tuple[nn.Module, list[Evaluation]]:
    """Train the networks of all budgets as one with norms of each one's own.

    Each step trains all of them; the largest learns the labels, the others learn from it.

    Returns:
        The network of the budget, and how well those of the further budgets do on the validation split.
    """
    wide = apply(run.model, run.graph.plan({}), verify_with=None)
    _begin_anew(run, method, wide, JOINTLY)
    chosen = (found.chosen, *found.others)
    norms = SwitchableNorms(
        wide, run.graph, [dict(one.widths) for one in chosen], allow_approximate=method.allow_approximate
    )
    step = Sandwich(
        run.graph,
        fixed=norms.widths,
        loss=run.task.loss,
        distil=method.distil,
        seed=method.seed,
        allow_approximate=method.allow_approximate,
    )
    run.train(JOINTLY, norms, method.finetune_epochs, step=step)
    results = []
    for number, one in enumerate(chosen[1:], start=1):
        plan = plan_of(run.graph, one.widths, allow_approximate=method.allow_approximate)
        result = run.evaluated(f"joint-{number}", norms.cut(number), plan)
        results.append(result)
        run.notes.append(
            f"trained together with it: the network of {one.macs:,} MACs (macs {method.joint[number - 1]:g}), "
            f"validation {result.score_name} {100 * result.score:.2f} %"
        )
    return norms.cut(0), results


def trained_uniform(run: MethodRun, method: "AutoSlim", supernet: nn.Module, found: Searched) -> Evaluation:
    """Train the network of one width multiplier just as the found one, alone, and return how well it does."""
    plan = plan_of(run.graph, found.uniform.widths, allow_approximate=method.allow_approximate)
    small = apply(supernet, plan, verify_with=None)
    if method.start == "scratch":
        _begin_anew(run, method, small, ALONE)  # by the same draws
    elif method.post_batches:
        statistics = post_statistics(supernet, plan, run.task.batches(method.post_batches))
        small.load_state_dict(statistics, strict=False)
    run.train(BASELINE, small, method.finetune_epochs)
    result = run.evaluated("uniform-trained", small, plan)
    run.notes.append(
        f"the uniform width multiplier {found.multiplier:.3f}, trained alone for "
        f"{counted(method.finetune_epochs, 'epoch')} with the same settings: {found.uniform.macs:,} MACs, validation "
        f"{result.score_name} {100 * result.score:.2f} %"
    )
    return result


def _begin_anew(run: MethodRun, method: "AutoSlim", model: nn.Module, name: str) -> None:
    """Give a network random weights, and note what could not have any."""
    kept = redrawn(model, derive_seed(method.seed, "autoslim", name))
    note = f"no class says how these parameters begin, so they kept the super-net's values: {', '.join(kept[:5])}"
    if kept and note not in run.notes:
        run.notes.append(note)
