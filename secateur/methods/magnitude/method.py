"""Magnitude pruning: score units by their weights, cut to the budget once or in steps, fine-tune."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter
from torch import nn

from secateur.cost import Budget, MinimumWarning, Scope, allocate
from secateur.cost.budget import meter
from secateur.criteria import criterion_named, score
from secateur.criteria.scoring import Combine, Scores
from secateur.errors import BudgetError, TrainingError, UsageError, VerificationError
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
        targets = _targets(run.graph, budget, self.steps)
        small, plan = model, run.graph.plan({})
        for number, target in enumerate(targets, start=1):
            small, plan = run.cut(small, plan, target, number)
            if number < self.steps:
                run.train(f"recover-{number}", small, self.step_epochs)
        if plan.is_empty:
            raise BudgetError(f"the model already holds {budget.describe()}: there is nothing to cut")
        after_cut = run.evaluated("after-cut", small, plan)
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
    """Return the plan that ``settings`` make for ``budget`` in one step, without touching anything.

    Raises:
        BudgetError: the budget cannot be met.
        PlanError: the model is not the one of the graph, or a lock pattern matches nothing.
    """
    criterion = criterion_named(settings.criterion)
    scores = score(graph, model, criterion, combine=settings.combine, seed=settings.seed)
    return _allocated(graph, scores, budget, settings)


def _allocated(graph: ChannelGraph, scores: Scores, budget: Budget, settings: Magnitude) -> Plan:
    return allocate(
        graph,
        scores,
        budget,
        scope=settings.scope,
        normalize=settings.normalize and not criterion_named(settings.criterion).globally_comparable,
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
    graph: ChannelGraph = field(init=False)

    def __post_init__(self) -> None:
        self.graph = trace(self.model, self._inputs(self.model))

    def cut(self, small: nn.Module, earlier: Plan, target: Budget, number: int) -> tuple[nn.Module, Plan]:
        """Decide (or recall) the next cut, and do it; return the smaller model and the plan of all cuts so far.

        Every cut is decided on the original's graph, so that minima, rounding and bytes are those of the whole plan.
        """
        name = f"plan-{number}"
        made_for = self._made_for(target, earlier)
        known = self._recalled(name, made_for)
        if known is None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", MinimumWarning)
                total = _allocated(self.graph, self._scores(small, earlier), target, self.settings)
            self.notes += [str(warning.message) for warning in caught if warning.category is MinimumWarning]
            self.store.keep(name, {"made_for": made_for, "plan": total.to_json(), "notes": list(self.notes)})
        else:
            total = Plan.from_json(known["plan"])
            self.notes = [str(note) for note in known["notes"]]  # type: ignore[union-attr]
        step = self._step(earlier, total)
        self.tell(f"cut {number} of {self.settings.steps}: {len(step.kept)} groups lose units")
        return apply(small, step, verify_with=None if known is not None else self._inputs(small)), total

    def _scores(self, small: nn.Module, earlier: Plan) -> Scores:
        """Score what is left, in the original's numbering; what is gone scores -inf."""
        scores = score(
            self.graph.after(earlier),
            small,
            self.settings.criterion,
            combine=self.settings.combine,
            seed=self.settings.seed,
        )
        for name, kept in earlier.kept.items():
            whole = torch.full((self.graph.group(name).size,), -torch.inf, dtype=torch.float64)
            whole[list(kept)] = scores[name]
            scores[name] = whole
        return scores

    def _step(self, earlier: Plan, total: Plan) -> Plan:
        """Return the plan that leads from what ``earlier`` leaves to what ``total`` leaves."""
        kept = {}
        for name, units in total.kept.items():
            before = earlier.kept.get(name, range(self.graph.group(name).size))
            place = {unit: position for position, unit in enumerate(before)}
            kept[name] = [place[unit] for unit in units]
        return self.graph.after(earlier).plan(kept)

    def _made_for(self, target: Budget, earlier: Plan) -> dict[str, JsonValue]:
        settings = _SETTINGS.dump_python(self.settings, mode="json", exclude={"finetune", "finetune_epochs"})
        return {
            **settings,
            "model": self.graph.fingerprint,
            "budget": dict(target.given()),
            "earlier cuts": earlier.digest,
        }

    def _recalled(self, name: str, made_for: dict[str, JsonValue]) -> dict[str, JsonValue] | None:
        """Return a decision of an earlier run of the same job.

        Raises:
            TrainingError: the store belongs to another job; names what differs, with both values.
        """
        entry = self.store.recall(name)
        if entry is None:
            return None
        known = entry.values if isinstance(entry.values, dict) else {}
        begun = known.get("made_for")
        if not isinstance(begun, dict):
            raise TrainingError(f"{name} in {self.store.folder} is not a decision of this method; use another folder")
        for key, value in made_for.items():
            if begun.get(key) != value:
                raise TrainingError(
                    f"the store {self.store.folder} belongs to another run: {name} was decided for {key} = "
                    f"{begun.get(key)}, not {value}; continue with the settings that began it, or use another folder"
                )
        return known

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

    def evaluated(self, name: str, model: nn.Module, plan: Plan) -> Evaluation:
        """Evaluate on the validation split, once."""
        made_for: dict[str, JsonValue] = {"plan": plan.digest}
        known = self._recalled(name, made_for)
        if known is not None:
            return _EVALUATION.validate_python(known["result"])
        result = self.task.evaluate(model)
        self.store.keep(name, {"made_for": made_for, "result": asdict(result)})
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
