"""One run of a method: decisions that are kept, cuts that are proved, phases that continue, and its record."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import JsonValue, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, MinimumWarning
from secateur.errors import BudgetError, VerificationError
from secateur.graph import ChannelGraph, Plan, Proof, apply, trace, verify
from secateur.graph.inputs import ExampleInputs, map_tensors
from secateur.methods.contract import Compressed, MethodRecord, Progress
from secateur.methods.cut_words import nothing_to_cut, what_goes
from secateur.methods.decisions import Decisions
from secateur.methods.levels import notes_on
from secateur.methods.numbering import same_plan, step_between
from secateur.methods.restoring import RESTORATION, Cut, restored
from secateur.record import Evaluation, PruningStep, Restoration, TrainResult
from secateur.training import Step, Store, Subset, Task, TrainSettings, weights_digest
from secateur.training.checkpoint import load_weights, weights_of
from secateur.wording import counted

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
        kind: reads such settings, those of earlier versions too; None compares them as they were written.
        restore: what is restored right after every cut.
        measures_cuts: whether the accuracy is measured as each cut is restored; that of an only or last cut always is.
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
    kind: TypeAdapter[Any] | None = None
    restore: RestoreSettings = RESTORE_NOTHING
    measures_cuts: bool = True
    undecisive: frozenset[str] = frozenset({"finetune", "finetune_epochs"})
    model: nn.Module
    task: Task
    store: Store
    budget: Budget | None
    finetune: TrainSettings | None
    tell: Progress
    phases: list[TrainResult] = field(default_factory=list)
    steps: list[PruningStep] = field(default_factory=list)
    restored: list[Restoration] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trained_between_cuts: bool = False
    decisions: Decisions = field(init=False)
    graph: ChannelGraph = field(init=False)
    weights: str = field(init=False)  # digest of the dense model's

    def __post_init__(self) -> None:
        self.decisions = Decisions(store=self.store, settings=self.settings, undecisive=self.undecisive, kind=self.kind)
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
        amend: Callable[[nn.Module, Plan], None] | None = None,
    ) -> tuple[nn.Module, Plan]:
        """Decide (or recall) the next cut, do it, restore; return the smaller model and the plan of all cuts so far.

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
            amend: changes the cut model in place, before anything is restored; given it and the plan of all cuts.
        """
        name = f"plan-{number}"
        made_for = self.made_for(target, earlier)
        known = self.decisions.recalled(name, made_for)
        if known is None:
            with self.noting_minima():
                total = decide()
            self.store.keep(name, {"made_for": made_for, "plan": total.to_json(), "notes": list(self.notes)})
        else:
            total = Plan.from_json(known["plan"])
            self.notes = [str(note) for note in known["notes"]]  # type: ignore[union-attr]
        step = self.step(earlier, total, graph=graph)
        place = f"cut {number}" if of is None else f"cut {number} of {of}"
        self.tell(f"{place}: {what_goes(step)}")
        left = apply(small, step, verify_with=None if known is not None else self._inputs(small))
        if amend is not None:
            amend(left, total)
        if not self.restore.is_off:
            made_for |= {"plan": total.digest}
            now = self._graph_after(earlier, graph)
            self._restored(Cut(number, small, left, step, now, last=number == of), made_for)
        return left, total

    def _restored(self, cut: Cut, made_for: dict[str, JsonValue]) -> None:
        """Restore the model that a cut left, or recall how that went."""
        name = f"restored-{cut.number}"
        entry = self.decisions.entry(name, made_for)
        if entry is None:
            found = restored(cut, self.task, self.restore, measured=self.measures_cuts or cut.last, tell=self.tell)
            result = RESTORATION.dump_python(found, mode="json")
            self.store.keep(name, {"made_for": made_for, "result": result}, weights_of(cut.small))
            entry = self.store.recall(name)
            assert entry is not None
        # Read back, the weights are the same in every process, and in a run that continues from here.
        load_weights(cut.small, entry.tensors, phase=name)
        self.trained_between_cuts |= bool(self.restored)
        self.restored.append(RESTORATION.validate_python(entry.values["result"]))  # type: ignore[call-overload,index]
        self.tell(f"cut {cut.number}: {self.restored[-1].in_words()}")

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
        step: Step | None = None,
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
            step: see there.
            hooks: see there.
            between_cuts: whether another cut follows.
        """
        if not epochs:
            return None
        begun = self.store.phase(name).load()
        if begun is None or not begun.state.done:
            self.tell(f"{name}: {counted(epochs, 'epoch')}")
        result = self.store.train(
            name,
            self.task,
            model,
            epochs=epochs,
            settings=settings or self.finetune,
            subset=subset,
            frozen=frozen,
            step=step,
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
            restored=tuple(self.restored),
            trained_between_cuts=self.trained_between_cuts,
            notes=tuple(self.notes),
        )
        return Compressed(model=small, plan=plan, record=record)

    def evaluated(self, name: str, model: nn.Module, plan: Plan) -> Evaluation:
        """Evaluate on the validation split, once."""
        made_for: dict[str, JsonValue] = {"plan": plan.digest, "weights": self.weights}
        known = self.decisions.recalled(name, made_for)
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
        return step_between(self._graph_after(earlier, graph), graph or self.graph, earlier, total)

    def _graph_after(self, earlier: Plan, graph: ChannelGraph | None) -> ChannelGraph:
        """Return the graph of what ``earlier`` leaves, of the dense model or of another form of it."""
        if graph is None or graph is self.graph:
            return self.graph.after(earlier)
        return graph.after(same_plan(graph, earlier))

    def made_for(self, target: Budget | None, earlier: Plan) -> dict[str, JsonValue]:
        """Return all that a decision depends on, by which a store of another run is told.

        Args:
            target: what the decision has to meet, if it is a budget.
            earlier: the plan of the cuts before.
        """
        return {
            **self.decisions.decisive,
            "model": self.graph.fingerprint,
            "weights": self.weights,
            "budget": None if target is None else target.to_json(),
            "earlier cuts": earlier.digest,
        }

    def _inputs(self, model: nn.Module) -> ExampleInputs:
        device = next(model.parameters()).device
        inputs: ExampleInputs = map_tensors(lambda tensor: tensor.to(device), self.task.example_inputs)
        return inputs
