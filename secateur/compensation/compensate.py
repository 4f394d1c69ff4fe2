"""Re-fit the layers that read a cut one, so that they give what they gave before the cut as nearly as they can."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from secateur.compensation.images import Batches, Counted
from secateur.compensation.settings import How
from secateur.compensation.survey import Survey, kept_filters, survey
from secateur.criteria.batch_runs import call_of
from secateur.criteria.reconstruction import (
    Reader,
    Statistics,
    Target,
    add_constant,
    best_bias,
    collect,
    fold,
    least_squares,
    relative_error,
)
from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph, Plan, trace
from secateur.graph.inputs import ExampleInputs
from secateur.graph.sliced_weights import shape_problem
from secateur.graph.slots import stored_tensors
from secateur.graph.surgery import check_fits
from secateur.names import unknown_name
from secateur.training import Batch
from secateur.wording import counted

NOWHERE = "it has neither a bias nor a batch norm right behind it that could hold a constant"

NAMED = 5  # layers in a sentence

Told = Callable[[str], None]


@dataclass(frozen=True)
class Refit:
    """One layer that was fitted anew.

    Attributes:
        how: what it got: ``mean``, ``scale`` or ``both``.
        before: Σ(y − ŷ)² / Σy² of its output on the images, with y of the model before the cut, both without bias;
            0 where y is.
        after: the same with what it got.
        least: the least factor of an input channel.
        most: the greatest.
    """

    how: How
    before: float
    after: float
    least: float = 1.0
    most: float = 1.0


@dataclass(frozen=True)
class Compensation:
    """What was fitted anew.

    Attributes:
        how: what was asked for.
        images: how many the fit looked at, over all processes.
        layers: path of a layer → how it was fitted, in the order in which they were.
        left: weight or group → why it was left as it was.
    """

    how: How
    images: int = 0
    layers: Mapping[str, Refit] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """The relative squared error of each layer's output before and after, by its path."""
        return {path: (refit.before, refit.after) for path, refit in self.layers.items()}

    def note(self) -> str:
        """Return it as one sentence."""
        if not self.layers:
            return "compensation: no layer was fitted anew" + (f"; left: {_listed(self.left)}" if self.left else "")
        before, after = (max(pair[place] for pair in self.errors.values()) for place in (0, 1))
        parts = [
            f"compensation ({self.how}): {counted(len(self.layers), 'layer')} fitted anew on "
            f"{counted(self.images, 'image')}; the largest relative error of a layer was "
            f"{before:.3g} before and {after:.3g} after"
        ]
        bare = [path for path, refit in self.layers.items() if refit.how != self.how]
        if bare:
            parts.append(f"{len(bare)} got factors alone, having no place for a constant ({', '.join(bare[:3])})")
        if self.left:
            parts.append(f"left: {_listed(self.left)}")
        return "; ".join(parts)


def compensate(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    batches: Batches | Iterable[Batch],
    how: How,
    *,
    graph: ChannelGraph | None = None,
    seed: int = 0,
    progress: Told | None = None,
) -> Compensation:
    """Fit the layers of ``small`` that lost input channels to what they gave in ``model``, in place.

    Layers are taken in the order in which they run. Each is given what the layers before, fitted already, make of the
    images, and fitted to what its original gave on the same images: an error that an earlier layer has left is then
    made good by a later one as far as that can be. Layers that read the very same tensor are fitted in one pass over
    the images; every other layer takes one pass of both models up to it.

    * ``mean``: a constant for each output filter, so that all means are those of the model before the cut. It goes into
      the layer's bias, or into the running mean of the batch norm right behind it.
    * ``scale``: one factor for each unit that is read, by least squares, multiplied into the layer's weights. A layer
      that reads several groups (concatenation), or a residual stream, gets its own.
    * ``both``: factors and constants, fitted together.

    No layer gives a larger squared error on the images than it would have without its own fit. The layers' shapes stay
    as they are, and so does what they cost. Where an error or Ctrl-C ends it early, the layers fitted so far stay
    fitted; begin again with a new ``apply``.

    Source: Luo, Wu, Lin 2017, "ThiNet", arXiv:1707.06342, §3.3, for factors of a layer by itself; He, Zhang, Sun 2017,
    "Channel Pruning", arXiv:1707.06168, §3.2, for y of the original model beside the inputs of the cut one.

    Args:
        model: as it was right before the cut; stays as it is, bitwise.
        small: what ``plan`` left of it, with the weights that it was left with.
        plan: from ``model`` to ``small``.
        batches: (inputs, labels), or inputs alone, on the models' device; or a function that gives the same ones on
            every call, once for each pass, where they are too many to hold.
        how: ``none``, ``mean``, ``scale`` or ``both``.
        graph: of ``model``; traced on the first batch if None.
        seed: for models that draw random numbers even in eval mode.
        progress: told which layer is fitted, before each pass.

    Returns:
        What was fitted, how well, and what was left and why.

    Raises:
        UsageError: there is no such ``how``, or data and models are on different devices.
        PlanError: the plan is not of ``model``, or ``small`` is not what it leaves.
        DataError: there are no batches, one is empty, or the models do not run on one.
        TraceError: ``graph`` is None, and ``model`` does not run on the first batch.
        TrainingError: memory ran out.
    """
    if how not in get_args(How):
        raise UsageError(unknown_name("way to compensate", str(how), get_args(How)))
    if how == "none":
        return Compensation(how)
    looked_at = Counted(batches)
    first = looked_at.first()
    graph = graph or trace(model, _inputs_of(first))
    _check(model, small, graph, plan)
    known = survey(small, graph, plan, first)
    tell = progress or (lambda _message: None)
    found: dict[str, Refit] = {}
    total = sum(map(len, known.waves))
    for wave in known.waves:
        names = ", ".join(reader.path for reader in wave)
        tell(f"fitting {names} ({len(found) + len(wave)} of {counted(total, 'layer')} that lost inputs)")
        statistics = _statistics(model, small, plan, wave, known, looked_at, seed)
        for reader in wave:
            refit = _fitted(small, reader, statistics[reader.path], how, known)
            if refit is None:
                known.left[reader.weight] = NOWHERE
            else:
                found[reader.path] = refit
    return Compensation(how, looked_at.images(next(small.parameters()).device) if found else 0, found, known.left)


def _fitted(small: nn.Module, reader: Reader, statistics: Statistics, how: How, known: Survey) -> Refit | None:
    """Fit one layer; None where it has no place for what it should get."""
    module = small.get_submodule(reader.path)
    behind = known.norm_behind.get(reader.path)
    norm = None if behind is None else small.get_submodule(behind)
    has_place = module._parameters.get("bias") is not None or norm is not None
    units = range(reader.size)
    before = relative_error(statistics, units)
    if how == "mean":
        if not has_place:
            return None
        add_constant(module, best_bias(statistics, units), norm)
        return Refit("mean", before, relative_error(statistics, units, free_bias=True))
    fit = least_squares(statistics, units, free_bias=how == "both" and has_place)
    fold(module, reader.units, fit.weights)
    if fit.bias is not None:
        add_constant(module, fit.bias, norm)
    given: How = "scale" if fit.bias is None else "both"
    return Refit(given, before, fit.error, float(fit.weights.min()), float(fit.weights.max()))


def _statistics(
    model: nn.Module, small: nn.Module, plan: Plan, wave: list[Reader], known: Survey, batches: Batches, seed: int
) -> dict[str, Statistics]:
    """Return the statistics of some layers of the cut model, with what they gave before the cut for a target."""
    targets = {}
    for reader in wave:
        filters = kept_filters(plan, reader.weight)
        behind = known.norm_behind.get(reader.path)
        had = _constant(model, reader.path, behind)[torch.as_tensor(filters)]
        targets[reader.path] = Target(None, filters, had - _constant(small, reader.path, behind))
    found = collect(small, {"": wave}, batches(), target_model=model, targets=targets, seed=seed)
    return found[""]


def _constant(model: nn.Module, path: str, norm: str | None) -> Tensor:
    """Return what a layer and the norm behind add to each filter, float64: a cut model may hold constants already."""
    module = model.get_submodule(path)
    bias = module._parameters.get("bias")
    if bias is not None:
        return bias.detach().to("cpu", torch.float64)
    if norm is not None:
        return -model.get_submodule(norm).get_buffer("running_mean").to("cpu", torch.float64)
    return torch.zeros(module.get_parameter("weight").shape[0], dtype=torch.float64)


def _inputs_of(batch: Batch) -> ExampleInputs:
    """Return the inputs of a mini-batch as a model is traced with them."""
    args, kwargs = call_of(batch)
    return kwargs or args


def _check(model: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan) -> None:
    """Refuse models that the plan does not lead from and to.

    Raises:
        PlanError: says what differs.
    """
    graph.check(plan)
    check_fits(stored_tensors(model), type(model).__qualname__, plan)
    problem = shape_problem(small, plan)
    if problem is not None:
        raise PlanError(f"{problem}; give what secateur.apply(model, plan) returned")


def _listed(left: Mapping[str, str]) -> str:
    reasons = [f"{name} ({reason})" for name, reason in left.items()]
    more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return "; ".join(reasons[:NAMED]) + more
