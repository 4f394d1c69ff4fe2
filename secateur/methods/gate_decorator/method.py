"""Gate Decorator (You, Yan, Ye, Ma, Wang, NeurIPS 2019, arXiv:1909.08174): gates, and Tick-Tock to a budget."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, get_args

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget
from secateur.criteria import score
from secateur.criteria.scoring import Combine, Scores
from secateur.errors import BudgetError, UsageError
from secateur.gates import Gates, TickScores, decorate, gate_penalty, melt
from secateur.gates.norm import Clamped, Init
from secateur.graph import ChannelGraph, Plan, apply
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import nothing_to_cut, require_budget
from secateur.methods.gate_decorator.limits import Limits
from secateur.methods.gate_decorator.phases import COOLDOWN, FINETUNE, TICK, TOCK, Trained, still_in_a_tick
from secateur.methods.gate_decorator.threshold import Rule, survivors
from secateur.methods.running import MethodRun, silent
from secateur.methods.step_records import recorded, settled
from secateur.names import unknown_name
from secateur.training import Store, Task, TrainSettings

_AFTER_THE_CUTS = ("finetune", "finetune_epochs", "cooldown", "cooldown_epochs", "measure_steps")


@dataclass(frozen=True, kw_only=True)
class GateDecorator:
    """Put a gate on every channel; score, cut and mend in Ticks and Tocks until the budget is met; fine-tune.

    A Tick trains a short while with convolutions still, scores every gate by |φ·∂L/∂φ| and takes the lowest of all
    layers. Every ``ticks_per_tock`` Ticks, and once before the first, a Tock trains everything with the gates pushed
    towards zero. In the end the gates go into the layers that they belong to, so the result is an ordinary network.

    The defaults are the published run of ResNet-56 on CIFAR-10. Filters are cut for good after each Tick rather than
    masked until the end: a cut computes what the mask does, which every cut proves, and what follows gets cheaper.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = True

    name: Literal["gate_decorator"] = "gate_decorator"
    share: float = 0.002  # p, of the filters left, that a Tick takes; 0.005 for VGG-16
    ticks_per_tock: int = 10  # T
    sparsity: float = 1e-3  # λ of the penalty λ·Σ|φ| in a Tock
    tick: TrainSettings = TICK
    tick_epochs: int = 1
    tick_subset: int | float | None = None  # training samples of a Tick, or a share of them; None: all
    tick_trains: Trained = "all-but-convolutions"  # or gates-and-classifier, as in the paper, or gates
    tick_sparsity: bool = False  # the penalty in Ticks too; scores are of the bare loss either way
    tock: TrainSettings = TOCK
    tock_epochs: int = 10
    tock_first: bool = True  # a Tock before the first Tick
    combine: Combine = "sum"  # of a group's members; sum is what leaves residual streams whole in the published run
    replicate: bool = True  # a group's scores count once for each member in the threshold
    free_dead: bool = True  # filters that score exactly 0 go beside those that the share asks for
    min_share: float = 0.1  # of its filters that every layer keeps: max(1, int(0.1·C))
    last_tick: Literal["whole", "exact"] = "whole"  # exact: the last Tick takes no more than the budget asks for
    init: Init = "take-over"  # φ takes γ's place; one, or a number: φ beside a living γ
    clamped: Clamped = "drop"  # constants with |β/γ| > 10 at the take-over: drop, or keep beside the gate
    lock: tuple[str, ...] = ()  # patterns of groups to leave alone
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    measure_steps: bool = True  # validation accuracy after each Tick's cut
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 40  # passes over the training data after the last cut
    finetune: TrainSettings | None = FINETUNE  # None: the task's own settings
    cooldown_epochs: int = 10  # passes after that; the published VGG-16 has none
    cooldown: TrainSettings = COOLDOWN

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 <= self.share < 1:
            raise UsageError(f"share is {self.share:g}; it is what a Tick takes of the filters left, in [0, 1)")
        if not 0 <= self.min_share <= 1:
            raise UsageError(f"min_share is {self.min_share:g}, but must be a share in [0, 1]")
        if not 0 <= self.sparsity < float("inf"):
            raise UsageError(f"sparsity is {self.sparsity}, but must be at least 0 and finite")
        for name, least in (("ticks_per_tock", 1), ("tick_epochs", 1), ("tock_epochs", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        for name in ("finetune_epochs", "cooldown_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 0")
        for name, choices in (
            ("tick_trains", get_args(Trained)),
            ("combine", ("sum", "mean", "max", "l2")),
            ("last_tick", ("whole", "exact")),
            ("clamped", get_args(Clamped)),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(unknown_name(f"setting of {name}", str(getattr(self, name)), choices))
        if isinstance(self.tick_subset, bool) or (self.tick_subset is not None and self.tick_subset <= 0):
            raise UsageError(
                f"tick_subset is {self.tick_subset}; give a number of training samples, a share of them in (0, 1], or "
                "leave it out for all"
            )
        if isinstance(self.init, str) and self.init not in ("take-over", "one"):
            raise UsageError(unknown_name("setting of init", self.init, ("take-over", "one")) + ", or give a number")

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; by the filters' L1 norms, because gates are scored in training."""
        budget = require_budget(self.name, budget)
        copy = apply(model, graph.plan({}), verify_with=None)
        limits = self._limits(graph, self._decorated(copy, graph), budget)
        norms = score(graph, model, "l1", only=limits.floors)
        whole = {name: np.ones(graph.group(name).size, dtype=bool) for name in limits.floors}
        order = limits.least_first({name: norms[name] / norms[name].mean() for name in limits.floors}, whole)
        return limits.cut_until_met(order, graph.plan({}))

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            measures_cuts=self.measure_steps,
            undecisive=frozenset(_AFTER_THE_CUTS),
            model=model,
            task=task,
            store=store,
            budget=require_budget(self.name, budget),
            finetune=self.finetune,
            tell=progress or silent,
        )
        small, plan = self._ticked_and_tocked(run)
        done = run.finished(melt(small), plan, self.finetune_epochs)
        run.train("cooldown", done.model, self.cooldown_epochs, settings=self.cooldown)
        return replace(done, record=replace(done.record, phases=tuple(run.phases)))

    def _ticked_and_tocked(self, run: MethodRun) -> tuple[nn.Module, Plan]:
        """Return the model with gates that the last Tick leaves, and the plan of all cuts."""
        plan = run.graph.plan({})
        small = apply(run.model, plan, verify_with=None)
        whole = self._decorated(small, run.graph)
        gated = run.traced(small)
        _require_same_groups(run.graph, gated, whole)
        assert run.budget is not None
        limits = self._limits(run.graph, whole, run.budget)
        if limits.met(plan):
            raise BudgetError(nothing_to_cut(run.budget))
        run.notes += self._departures(whole)
        if self.tock_first:
            self._tock(run, 0, small, whole)
        number, met = 0, False
        while not met:
            number += 1
            gates = whole.after(plan)
            scores = settled(run, number, self._tick(run, number, small, gates, limits))

            def decision(plan: Plan = plan, scores: Scores = scores) -> Plan:
                return self._decided(limits, plan, scores, whole.members)

            earlier = plan
            small, plan = run.cut(small, earlier, number, None, run.budget, decision, graph=gated)
            measured = small if self.measure_steps else None
            recorded(run, number, after=f"tick-{number}", earlier=earlier, plan=plan, small=measured)
            met = limits.met(plan)
            run.tell(f"tick {number}: {run.steps[-1].removed} units went; {limits.progress(plan)}")
            if met:
                run.evaluated("after-cut", small, plan)
            if number % self.ticks_per_tock == 0:  # the authors' code tocks before it looks at the cost
                self._tock(run, number, small, whole.after(plan))
        return small, plan

    def _tick(self, run: MethodRun, number: int, small: nn.Module, gates: Gates, limits: Limits) -> Scores:
        """Train a short while and return the scores of the units that are left, of the groups that may be cut."""
        ticking = TickScores(gates)
        run.train(
            f"tick-{number}",
            small,
            self.tick_epochs,
            settings=self.tick,
            subset=self.tick_subset,
            frozen=still_in_a_tick(small, gates, self.tick_trains),
            hooks=[ticking, gate_penalty(gates, self.sparsity)] if self.tick_sparsity else [ticking],
            between_cuts=True,
        )
        scores = ticking.scores(combine=self.combine)
        return {name: scores[name] for name in limits.floors}

    def _tock(self, run: MethodRun, number: int, small: nn.Module, gates: Gates) -> None:
        hooks = [gate_penalty(gates, self.sparsity)] if self.sparsity else []
        run.train(f"tock-{number}", small, self.tock_epochs, settings=self.tock, hooks=hooks, between_cuts=True)

    def _decided(self, limits: Limits, plan: Plan, scores: Scores, members: Mapping[str, int]) -> Plan:
        """Return the plan of all cuts so far and the one that ``scores`` ask for.

        Raises:
            BudgetError: no filter is left that a Tick may take.
        """
        values = {name: scores[name].numpy() for name in limits.floors}
        rule = Rule(self.share, replicate=self.replicate, free_dead=self.free_dead)
        stay = survivors(values, members, limits.floors, rule)
        if all(marks.all() for marks in stay.values()):
            raise BudgetError(
                f"no filter is left that a Tick may take, at {limits.progress(plan)}: what is above the minimum of its "
                "layer scores exactly 0; lower min_share, or the learning rate of the Tocks"
            )
        order = limits.least_first(scores, {name: ~marks for name, marks in stay.items()}, plan)
        total = limits.without(order, plan)
        return limits.cut_until_met(order, plan) if self.last_tick == "exact" and limits.met(total) else total

    def _decorated(self, model: nn.Module, graph: ChannelGraph) -> Gates:
        return decorate(model, graph, init=self.init, clamped=self.clamped, allow_approximate=self.allow_approximate)

    def _limits(self, graph: ChannelGraph, gates: Gates, budget: Budget) -> Limits:
        """Return what may go down to what budget.

        Raises:
            BudgetError: the budget cannot be met with what every layer keeps.
            UsageError: a pattern to lock matches nothing, or nothing has a gate.
        """
        for pattern in self.lock:
            if not fnmatch.filter(graph.by_name, pattern):
                raise UsageError(unknown_name("group to lock", pattern, graph.by_name, rather=gates.by_group))
        open_ = [
            name
            for name in gates.by_group
            if graph.group(name).cuttable(allow_approximate=self.allow_approximate)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.lock)
        ]
        if not open_:
            raise UsageError(f"{graph.model_class} has no channels that can have a gate and may be cut")
        return Limits.of(graph, open_, budget, min_share=self.min_share, allow_approximate=self.allow_approximate)

    def _departures(self, gates: Gates) -> list[str]:
        """Say where this run differs from the published method."""
        standard = {entry.name: entry.default for entry in fields(self)}
        changed = [
            f"{name} is {getattr(self, name)}, where the authors have {standard[name]}"
            for name in (
                *("tick_trains", "tick_sparsity", "tock_first", "combine", "replicate", "free_dead", "min_share"),
                *("last_tick", "init", "clamped", "allow_approximate"),
            )
            if getattr(self, name) != standard[name]
        ]
        if (self.finetune, self.finetune_epochs) != (FINETUNE, standard["finetune_epochs"]):
            changed.append(
                "fine-tuning is not the authors' (40 epochs, one triangle of the rate from 1e-3 to 1e-2, batches of "
                "64, momentum 0)"
            )
        for name in ("tick", "tick_epochs", "tick_subset", "tock", "tock_epochs", "ticks_per_tock", "sparsity"):
            if getattr(self, name) != standard[name]:
                changed.append(f"{name} is not as in the authors' run of ResNet-56")
        notes = [
            "filters are cut for good after each Tick, where the authors mask them until the end; the function is the "
            "same, and every cut was proved",
            "every phase begins with fresh momentum, where the authors keep one optimiser",
            "the budget counts multiply-adds of convolutions and matrix products, where the authors also count 4 per "
            "element of batch norm",
            *changed,
        ]
        if gates.clamped and self.init == "take-over":
            count = sum(entry.channels for entry in gates.clamped.values())
            largest = max(entry.largest for entry in gates.clamped.values())
            fate = "stand beside the gates" if self.clamped == "keep" else "are lost"
            notes.append(
                f"{count} of {gates.channels} channels have |β/γ| above 10; the parts of their constants beyond it, up "
                f"to {largest:.2g}, {fate}"
            )
        if gates.ungated:
            named = [f"{path} ({reason})" for path, reason in gates.ungated.items()]
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            notes.append(f"without gates, though their channels could be cut: {'; '.join(named[:5])}{more}")
        return notes


_SETTINGS: TypeAdapter[GateDecorator] = TypeAdapter(GateDecorator)


def _require_same_groups(graph: ChannelGraph, gated: ChannelGraph, gates: Gates) -> None:
    """Refuse a model that gates change, or that never runs what they sit on.

    Raises:
        UsageError: it does.
    """
    unread = [gate.module for gate in gates.gates if gate.parameter in gated.unreached]
    if unread:
        raise UsageError(
            f"the gate on {unread[0]} has no effect, because the model reads its weights without calling it; lock its "
            "group (lock), or let the model call the module"
        )
    for name in gates.by_group:
        before, now = graph.group(name), gated.by_name.get(name)
        if now is None or (now.size, now.locked, now.approximate) != (before.size, before.locked, before.approximate):
            raise UsageError(
                f"with gates, the group {name!r} of {before.size} units is traced as "
                f"{'none' if now is None else f'{now.size} units, {now.locked or now.approximate}'}; lock it (lock)"
            )
