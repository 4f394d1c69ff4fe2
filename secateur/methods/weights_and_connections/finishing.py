"""The end of a run: dead units cut, zeros checked, the table of layers, the record."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, VerificationError
from secateur.graph import Plan, Proof
from secateur.methods.contract import Compressed, MethodRecord
from secateur.methods.weights_and_connections.measuring import layer_table
from secateur.methods.weights_and_connections.picturing import image_layer, spread, spread_before
from secateur.methods.weights_and_connections.rounds import Rounds
from secateur.record import PrunedWeights
from secateur.sparse import Masks, WithoutDead, measure_sparse, nonzeros, without_dead
from secateur.training import Task

if TYPE_CHECKING:
    from secateur.methods.weights_and_connections.method import WeightsAndConnections


def finished(method: "WeightsAndConnections", rounds: Rounds) -> Compressed:
    """Return the result with its record.

    Raises:
        BudgetError: the budget does not hold, or nothing was removed.
        VerificationError: a weight that masks remove is not 0, or the cut of dead units could not be proved.
    """
    run = rounds.run
    _require_something_gone(rounds)
    require_zeros(rounds.model, rounds.masks)
    cut = _without_dead(rounds) if method.cut_dead else None
    model, masks = (rounds.model, rounds.masks) if cut is None else (cut.model, cut.masks)
    plan: Plan = run.graph.plan({}) if cut is None else cut.dead.plan
    proof: Proof | None = None if plan.is_empty else run.proved(plan)
    require_zeros(model, masks)
    left = nonzeros(model, masks)
    if rounds.allowed is not None and left > rounds.allowed:
        raise BudgetError(
            f"{left:,} non-zeros are left, but {rounds.allowed:,} are allowed: groups of the granularity "
            f"{method.granularity} stay whole; allow more, or give a finer granularity"
        )
    table, energies = layer_table(run.model, model, masks, run.task, method.activation_batches)
    weights = PrunedWeights(
        granularity=method.granularity,
        parameters=nonzeros(run.model),
        nonzeros=left,
        zeros=masks.size() - masks.kept(),
        layers=table,
        rounds=tuple(rounds.done),
        scans=tuple(rounds.scans),
        histograms=spread(rounds.spread, model, masks),
        image_layer=image_layer(model, rounds.names, _one(run.task.example_inputs, model)),
        dead="" if cut is None else cut.dead.sentence(),
        dead_units={} if cut is None else cut.dead.by_group(),
        dead_difference=None if cut is None or plan.is_empty else cut.difference,
        dense_energy_pj=None if energies is None else energies[0],
        energy_pj=None if energies is None else energies[1],
        speed=measure_sparse(model, masks, _one(run.task.example_inputs, model)).sentence(),
    )
    run.tell(weights.sentence())
    record = MethodRecord(
        method=run.method,
        settings=run.settings,
        phases=tuple(run.phases),
        proof=proof,
        weights=weights,
        after_cut=rounds.done[-1].after_cut,
        trained_between_cuts=run.trained_between_cuts,
        notes=(*run.notes, *_departures(method, rounds)),
    )
    return Compressed(model=model, plan=plan, record=record, masks=masks)


def of_other_weights(
    found: PrunedWeights, dense: nn.Module, model: nn.Module, masks: Masks, task: Task, *, batches: int = 8
) -> PrunedWeights:
    """Return what was found with the tables of ``model``, which has the same masks and other weights.

    Args:
        found: of the run that made the masks.
        dense: whose weights ``model`` began with.
        model: trained with the masks.
        masks: of it.
        task: has validation images, to count the zeros that layers read.
        batches: of these.
    """
    table, energies = layer_table(dense, model, masks, task, batches)
    return replace(
        found,
        layers=table,
        histograms=spread(spread_before(dense, tuple(masks)), model, masks),
        dense_energy_pj=None if energies is None else energies[0],
        energy_pj=None if energies is None else energies[1],
        speed=measure_sparse(model, masks, _one(task.example_inputs, model)).sentence(),
    )


def require_zeros(model: nn.Module, masks: Masks) -> None:
    """Refuse a model in which a weight that masks remove is anything but 0.

    Raises:
        VerificationError: names the first weight, and how many of its entries are not 0.
    """
    for name, parameter in masks.parameters_of(model).items():
        alive = int(torch.count_nonzero(parameter.detach().cpu()[~masks[name]]))
        if alive:
            raise VerificationError(
                f"{alive:,} of the weights of {name} that its mask removes are not 0; a hook or a step of training "
                "changed them after the masks were applied"
            )


def _require_something_gone(rounds: Rounds) -> None:
    if rounds.masks.kept() == rounds.masks.size():
        raise BudgetError(
            "every weight stays: there is nothing to prune; give a smaller budget, larger ratios or thresholds, or "
            "more tolerance_points"
        )


def _without_dead(rounds: Rounds) -> WithoutDead | None:
    """Cut the dead units; a cut that cannot be proved is left, with a note."""
    run = rounds.run
    try:
        found = without_dead(run.graph, rounds.model, rounds.masks, _like(run.task.example_inputs, rounds.model))
    except VerificationError as error:
        run.notes.append(f"dead units were not cut: {error}")
        return None
    run.tell(found.dead.sentence())
    return found


def _departures(method: "WeightsAndConnections", rounds: Rounds) -> list[str]:
    notes = []
    if method.regrow is not None:
        notes.append(
            "weights came back while training, beneath masks that changed (Dynamic Network Surgery, arXiv:1608.04493), "
            "which the paper of weights and connections does not do"
        )
    if method.selection == "probabilistic":
        notes.append("control: weights were drawn by magnitude; a threshold is the method")
    if method.finetune is None and rounds.run.finetune is None and rounds.run.phases:
        notes.append(
            "the task does not say how it trains, so retraining took its own settings as they are; the paper divides "
            "the learning rate by 10"
        )
    if method.granularity != "weight":
        notes.append(f"weights went in groups ({method.granularity}), where the paper prunes single weights")
    return notes


def _like(example_inputs: Tensor, model: nn.Module) -> Tensor:
    return example_inputs.to(next(model.parameters()).device)


def _one(example_inputs: Tensor, model: nn.Module) -> Tensor:
    return _like(example_inputs, model)[:1]
