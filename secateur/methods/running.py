"""One run of a method: decisions that are kept, cuts that are proved, phases that continue, and its record."""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from pydantic import JsonValue, TypeAdapter
from torch import nn

from secateur.cost import Budget, MinimumWarning
from secateur.criteria.scoring import Scores
from secateur.errors import BudgetError, TrainingError, VerificationError
from secateur.graph import ChannelGraph, Plan, Proof, apply, trace, verify
from secateur.graph.inputs import ExampleInputs, map_tensors
from secateur.methods.contract import Compressed, MethodRecord, Progress
from secateur.methods.levels import notes_on
from secateur.record import Evaluation, PruningStep, TrainResult
from secateur.training import Store, Subset, Task, TrainSettings, weights_digest

_EVALUATION: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


def silent(message: str) -> None:
    """Tell nobody."""
    del message


@dataclass(kw_only=True)
class MethodRun:
    """What was done so far, and the store that makes it continue.

    Attributes:
        method: name of the method.
        settings: all of its settings, as JSON.
        undecisive: names of settings that do not touch what is cut, so that they may change when a run continues.
        model: the dense model, which stays as it is.
        task: trains and evaluates.
        store: keeps decisions and phases.
        budget: what was asked for, if a budget was.
        finetune: how to train; None for the task's own settings.
        tell: told what is being done.
    """

    method: str
    settings: dict[str, JsonValue]
    undecisive: frozenset[str] = frozenset({"finetune", "finetune_epochs"})
    model: nn.Module
    task: Task
    store: Store
    budget: Budget | None
    finetune: TrainSettings | None
    tell: Progress
    phases: list[TrainResult] = field(default_factory=list)
    steps: list[PruningStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trained_between_cuts: bool = False
    graph: ChannelGraph = field(init=False)
    weights: str = field(init=False)  # digest of the dense model's

    def __post_init__(self) -> None:
        self.graph = trace(self.model, self._inputs(self.model))
        self.weights = weights_digest(self.model)

    def cut(
        self,
        small: nn.Module,
        earlier: Plan,
        number: int,
        of: int | None,
        target: Budget | None,
        decide: Callable[[], Plan],
        *,
        graph: ChannelGraph | None = None,
    ) -> tuple[nn.Module, Plan]:
        """Decide (or recall) the next cut, and do it; return the smaller model and the plan of all cuts so far.

        Every cut is decided on the original's graph, so that minima, rounding and bytes are those of the whole plan.

        Args:
            small: what earlier cuts left.
            earlier: the plan of all of them, in the original's numbering.
            number: of this cut, from 1.
            of: how many there are; None where only the scores will tell.
            target: what this cut has to meet, if it is a budget.
            decide: returns the plan of all cuts so far and this one; not called where the store knows it.
            graph: of the model that is cut, before any cut, where that is not the dense one but has its groups, such
                as the dense model with gates.
        """
        name = f"plan-{number}"
        made_for = self._made_for(target, earlier)
        known = self._recalled(name, made_for)
        if known is None:
            with self.noting_minima():
                total = decide()
            self.store.keep(name, {"made_for": made_for, "plan": total.to_json(), "notes": list(self.notes)})
        else:
            total = Plan.from_json(known["plan"])
            self.notes = [str(note) for note in known["notes"]]  # type: ignore[union-attr]
        step = self.step(earlier, total, graph=graph)
        dropped = f", {len(step.drops)} blocks are dropped whole" if step.drops else ""
        place = f"cut {number}" if of is None else f"cut {number} of {of}"
        selected = f", {len(step.selected)} selections lose channels" if step.selected else ""
        self.tell(f"{place}: {len(step.kept)} groups lose units{selected}{dropped}")
        return apply(small, step, verify_with=None if known is not None else self._inputs(small)), total

    @contextlib.contextmanager
    def noting_minima(self) -> Iterator[None]:
        """Turn the warnings about groups that fell to their minimum, inside the block, into notes of the record."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MinimumWarning)
            yield
        self.notes += [str(warning.message) for warning in caught if warning.category is MinimumWarning]

    def train(
        self,
        name: str,
        model: nn.Module,
        epochs: int,
        *,
        settings: TrainSettings | None = None,
        subset: Subset | None = None,
        frozen: Iterable[str] = (),
        hooks: Sequence[object] = (),
        between_cuts: bool = False,
    ) -> TrainResult | None:
        """Train as a phase of the store: skipped if done, continued if begun; None if there is nothing to do.

        Args:
            name: of the phase, different for each call in a run.
            model: trained in place.
            epochs: passes over the data.
            settings: of this phase; None takes those of the fine-tuning.
            subset: see :meth:`secateur.training.Task.train`, like all that follow.
            frozen: see there.
            hooks: see there.
            between_cuts: whether another cut follows.
        """
        if not epochs:
            return None
        begun = self.store.phase(name).load()
        if begun is None or not begun.state.done:
            self.tell(f"{name}: {epochs} epoch(s)")
        result = self.store.train(
            name,
            self.task,
            model,
            epochs=epochs,
            settings=settings or self.finetune,
            subset=subset,
            frozen=frozen,
            hooks=hooks,
        )
        self.phases.append(result)
        self.trained_between_cuts |= between_cuts
        return result

    def finished(self, small: nn.Module, plan: Plan, finetune_epochs: int) -> Compressed:
        """Prove the whole cut, fine-tune, and return the result with its record.

        Raises:
            BudgetError: nothing was cut.
            VerificationError: the cut could not be proved.
        """
        if plan.is_empty:
            raise BudgetError(nothing_to_cut(self.budget))
        self.notes += notes_on(self.graph, plan)
        after_cut = self.evaluated("after-cut", small, plan)
        proof = self.proved(plan)
        self.train("finetune", small, finetune_epochs)
        record = MethodRecord(
            method=self.method,
            settings=self.settings,
            phases=tuple(self.phases),
            proof=proof,
            steps=tuple(self.steps),
            after_cut=after_cut,
            trained_between_cuts=self.trained_between_cuts,
            notes=tuple(self.notes),
        )
        return Compressed(model=small, plan=plan, record=record)

    def evaluated(self, name: str, model: nn.Module, plan: Plan) -> Evaluation:
        """Evaluate on the validation split, once."""
        made_for: dict[str, JsonValue] = {"plan": plan.digest, "weights": self.weights}
        known = self._recalled(name, made_for)
        if known is not None:
            return _EVALUATION.validate_python(known["result"])
        result = self.task.evaluate(model)
        self.store.keep(name, {"made_for": made_for, "result": asdict(result)})
        return result

    def proved(self, plan: Plan) -> Proof:
        """Prove the whole cut on the dense model's own weights and on redrawn ones.

        Raises:
            VerificationError: it could not be proved.
        """
        small = apply(self.model, plan, verify_with=None)
        proof = verify(self.model, small, plan, self._inputs(self.model))
        if not proof.passed:
            raise VerificationError(proof.sentence())
        self.tell(proof.sentence())
        return proof

    def traced(self, model: nn.Module) -> ChannelGraph:
        """Return the graph of another form of the dense model."""
        return trace(model, self._inputs(model))

    def step(self, earlier: Plan, total: Plan, *, graph: ChannelGraph | None = None) -> Plan:
        """Return the plan of the model that ``earlier`` leaves which leads to what ``total`` leaves.

        Args:
            earlier: the plan of the cuts before, in the original's numbering.
            total: the plan of these and of the next one.
            graph: as in :meth:`cut`.
        """
        graph = graph or self.graph
        kept = {
            name: _places(units, earlier.kept.get(name, range(graph.group(name).size)))
            for name, units in total.kept.items()
        }
        sizes = {entry.module: entry.size for entry in graph.selections}
        selected = {
            path: _places(entries, earlier.selected.get(path, range(sizes[path])))
            for path, entries in total.selected.items()
        }
        blocks = [name for name in total.dropped_blocks if name not in earlier.dropped_blocks]
        if graph is not self.graph:
            earlier = graph.plan(
                earlier.kept,
                selected=earlier.selected,
                blocks=earlier.dropped_blocks,
                allow_approximate=bool(earlier.approximate),
            )
        return graph.after(earlier).plan(
            kept, selected=selected, blocks=blocks, allow_approximate=bool(total.approximate)
        )

    def _made_for(self, target: Budget | None, earlier: Plan) -> dict[str, JsonValue]:
        return {
            **{name: value for name, value in self.settings.items() if name not in self.undecisive},
            "model": self.graph.fingerprint,
            "weights": self.weights,
            "budget": None if target is None else dict(target.given()),
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
            # As text, because the order of ratios decides, and mappings are equal in any order.
            if json.dumps(begun.get(key)) != json.dumps(value):
                raise TrainingError(
                    f"the store {self.store.folder} belongs to another run: {name} was decided for {key} = "
                    f"{begun.get(key)}, not {value}; continue with the settings that began it, or use another folder"
                )
        return known

    def _inputs(self, model: nn.Module) -> ExampleInputs:
        device = next(model.parameters()).device
        inputs: ExampleInputs = map_tensors(lambda tensor: tensor.to(device), self.task.example_inputs)
        return inputs


def _places(units: Iterable[int], before: Iterable[int]) -> list[int]:
    """Return the positions of ``units`` among those that there were."""
    place = {unit: position for position, unit in enumerate(before)}
    return [place[unit] for unit in units]


def in_original_numbers(graph: ChannelGraph, earlier: Plan, scores: Scores) -> Scores:
    """Return the scores of what ``earlier`` leaves in the original's numbering; what is gone scores -inf."""
    whole = dict(scores)
    for name, kept in earlier.kept.items():
        values = torch.full((graph.group(name).size,), -torch.inf, dtype=torch.float64)
        values[list(kept)] = scores[name]
        whole[name] = values
    return whole


def nothing_to_cut(budget: Budget | None) -> str:
    """Say why a plan is empty."""
    if budget is None:
        return "the method's settings leave every unit where it is: there is nothing to cut; give larger ratios"
    return f"the model already holds {budget.describe()}: there is nothing to cut"


def require_budget(method: str, budget: Budget | None) -> Budget:
    """Return the budget that a method cannot do without.

    Raises:
        BudgetError: there is none.
    """
    if budget is None:
        raise BudgetError(f"the method {method} needs a budget, such as macs: 0.5 (--macs 0.5), and there is none")
    return budget
