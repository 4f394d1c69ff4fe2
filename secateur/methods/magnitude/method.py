"""Magnitude pruning: score units by their weights, cut to the budget once or in steps, fine-tune."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter
from torch import nn

from secateur.cost import Budget, MinimumWarning, Scope, allocate
from secateur.cost.budget import meter
from secateur.criteria import criterion_named, score
from secateur.criteria.scoring import Combine
from secateur.errors import BudgetError, PlanError, UsageError, VerificationError
from secateur.graph import ChannelGraph, Plan, Proof, apply, trace, verify
from secateur.graph.inputs import ExampleInputs, map_tensors
from secateur.methods.contract import Compressed, MethodRecord, Progress
from secateur.record import Evaluation, TrainResult
from secateur.training import Store, Task, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Cut the units of smallest magnitude to a budget, then fine-tune.

    Source: the filter norms of Li et al. 2017, arXiv:1608.08710, §3.1. Departures: a budget instead of ratios per
    stage, all layers compared on one scale (scores divided by their group's mean), whole groups instead of the first
    convolution of each block. With ``steps`` above 1 the budget is approached evenly, with ``step_epochs`` of training
    after each cut but the last.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    criterion: str = "l1"  # l1, l2 or random
    combine: Combine = "mean"  # of the members of a group
    scope: Scope = "global"  # global, local or isomorphic
    normalize: bool = True  # divide scores by their group's mean in global scope
    min_units: int = 1  # that every group keeps
    min_share: float = 0.0  # of its units that every group keeps
    round_to: int = 1  # kept sizes are multiples of this
    lock: tuple[str, ...] = ()  # patterns of groups to leave alone
    steps: int = 1  # cuts on the way to the budget
    step_epochs: int = 1  # passes over the training data after each cut but the last
    finetune_epochs: int = 20  # passes over the training data after the last cut
    finetune: TrainSettings | None = None  # None: the task's own settings
    seed: int = 0  # of the criterion random

    # Fields that only this method knows are declared above; what all methods share is the verb.
    name: ClassVar[str] = "magnitude"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        criterion_named(self.criterion)
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}, but must be at least 1")
        for name in ("step_epochs", "finetune_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 0")

    def compress(
        self, model: nn.Module, task: Task, budget: Budget, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        run = _Run(self, model, task, store, progress or _silent)
        original = run.traced(model)
        targets = _targets(original, budget, self.steps)
        small, plan = model, None
        for number, target in enumerate(targets, start=1):
            small, plan = run.cut(small, plan, target, number)
            if number < self.steps:
                run.train(f"recover-{number}", small, self.step_epochs)
        assert plan is not None
        if plan.is_empty:
            raise BudgetError(f"the model already holds {budget.describe()}: there is nothing to cut")
        after_cut = run.evaluated("after-cut", small)
        proof = run.proved(model, plan)
        run.train("finetune", small, self.finetune_epochs)
        record = MethodRecord(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            phases=tuple(run.phases),
            proof=proof,
            after_cut=after_cut,
            notes=tuple(run.notes),
        )
        return Compressed(model=small, plan=plan, record=record)


def _silent(message: str) -> None:
    del message


_SETTINGS: TypeAdapter[Magnitude] = TypeAdapter(Magnitude)


def decide(graph: ChannelGraph, model: nn.Module, budget: Budget, settings: Magnitude) -> Plan:
    """Return the plan that ``settings`` make for ``budget``, without touching anything.

    Raises:
        BudgetError: the budget cannot be met.
        PlanError: the model is not the one of the graph, or a lock pattern matches nothing.
    """
    criterion = criterion_named(settings.criterion)
    scores = score(graph, model, criterion, combine=settings.combine, seed=settings.seed)
    return allocate(
        graph,
        scores,
        budget,
        scope=settings.scope,
        normalize=settings.normalize and not criterion.globally_comparable,
        min_units=settings.min_units,
        min_share=settings.min_share,
        round_to=settings.round_to,
        lock=settings.lock,
    )


@dataclass
class _Run:
    """One run of the method: what was done so far, and the store that makes it continue."""

    settings: Magnitude
    model: nn.Module
    task: Task
    store: Store
    tell: Progress
    phases: list[TrainResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def traced(self, model: nn.Module) -> ChannelGraph:
        """Trace a model on the task's example inputs, on the model's own device."""
        return trace(model, self._inputs(model))

    def cut(self, model: nn.Module, earlier: Plan | None, target: Budget, number: int) -> tuple[nn.Module, Plan]:
        """Decide (or recall) the next cut, and do it; return the plan of all cuts so far."""
        name = f"plan-{number}"
        known = self.store.recall(name)
        if known is None:
            graph = self.traced(model)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", MinimumWarning)
                plan = decide(graph, model, target, self.settings)
            self.notes += [str(warning.message) for warning in caught if warning.category is MinimumWarning]
            self.store.keep(name, {"plan": plan.to_json(), "notes": list(self.notes)})
        else:
            if not isinstance(known.values, dict):
                raise PlanError(f"{name} of the store is not a plan; start in another folder")
            plan = Plan.from_json(known.values["plan"])
            self.notes = [str(note) for note in known.values["notes"]]  # type: ignore[union-attr]
        self.tell(f"cut {number} of {self.settings.steps}: {len(plan.kept)} groups lose units")
        small = apply(model, plan, verify_with=None if known is not None else self._inputs(model))
        return small, plan if earlier is None else earlier.then(plan)

    def proved(self, model: nn.Module, plan: Plan) -> Proof:
        """Prove the whole cut on the dense model's own weights and on redrawn ones."""
        small = apply(model, plan, verify_with=None)
        proof = verify(model, small, plan, self._inputs(model))
        if not proof.passed:
            raise VerificationError(proof.sentence())
        self.tell(proof.sentence())
        return proof

    def train(self, name: str, model: nn.Module, epochs: int) -> None:
        """Train as a phase of the store: skipped if done, continued if begun."""
        if epochs:
            self.tell(f"{name}: {epochs} epoch(s)")
            settings = self.settings.finetune
            self.phases.append(self.store.train(name, self.task, model, epochs=epochs, settings=settings))

    def evaluated(self, name: str, model: nn.Module) -> Evaluation:
        """Evaluate on the validation split, once."""
        known = self.store.recall(name)
        if known is not None and isinstance(known.values, dict):
            return _EVALUATION.validate_python(known.values)
        result = self.task.evaluate(model)
        self.store.keep(name, asdict(result))
        return result

    def _inputs(self, model: nn.Module) -> ExampleInputs:
        device = next(model.parameters()).device
        inputs: ExampleInputs = map_tensors(lambda tensor: tensor.to(device), self.task.example_inputs)
        return inputs


_EVALUATION: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


def _targets(graph: ChannelGraph, budget: Budget, steps: int) -> list[Budget]:
    """Return the budgets on the way: every limit is approached from the original's cost in even steps."""
    limits = budget.limits(graph)
    if steps == 1:
        return [budget]
    costs = {name: meter(name, graph)(graph.sizes) for name in limits}
    return [
        Budget(**{name: int(cost - (cost - min(cost, limits[name])) * step / steps) for name, cost in costs.items()})
        for step in range(1, steps + 1)
    ]


def settings_from(values: dict[str, JsonValue]) -> Magnitude:
    """Read settings from JSON or YAML; unknown keys are refused.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    try:
        return _SETTINGS.validate_python(values)
    except ValueError as error:
        raise UsageError(f"settings of method magnitude: {error}") from error
