"""Network Slimming (Liu, Li, Shen, Huang, Yan, Zhang, ICCV 2017, arXiv:1708.06519)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, MinimumWarning
from secateur.criteria.scoring import Combine
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph, Plan, apply
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.network_slimming.checks import check_amount, check_settings, require_layers
from secateur.methods.network_slimming.compensation import Compensation, check_compensation, compensate, require_exact
from secateur.methods.network_slimming.decision import (
    Kept,
    floors_of,
    one_pass,
    plan_of,
    sizes_of,
    step_of,
    still_there,
    ties_note,
    to_budget,
)
from secateur.methods.network_slimming.gating import GateChoice, Subject, subject_of, with_norms
from secateur.methods.network_slimming.percentile import percentile
from secateur.methods.network_slimming.published import STREAMS, TRAINING, departures
from secateur.methods.network_slimming.scales import (
    Layer,
    evenly_spread,
    layers_of,
    nothing_learned,
    open_groups,
    scores_of,
)
from secateur.methods.network_slimming.sparsity import ScaleSparsity
from secateur.methods.network_slimming.starting import check_can_start_anew, start_anew
from secateur.methods.numbering import in_original_numbers
from secateur.methods.running import MethodRun, silent
from secateur.methods.stepping import Residual, even_budgets, planned
from secateur.methods.streams import SPARED, cuts_streams
from secateur.training import Store, Task, TrainSettings


@dataclass(frozen=True, kw_only=True)
class NetworkSlimming:
    """Train with a penalty on the scales γ of batch norm, cut the channels of smallest |γ|, fine-tune; repeat.

    With ``ratio`` this share of all channels goes, by one threshold for all layers (§3.2), and there is no budget.
    Without it a budget decides, and channels of smallest |γ| go until it holds.

    With ``start: scratch`` the method draws new weights, with γ at ``scale_init``, and trains these, as in the paper;
    what the given weights are does not matter then. With ``start: weights`` sparse training goes on from them.

    Layers without a norm get gates in their place while they are trained sparsely. Models that carry channel
    selections have their streams selected at the consuming end, as the paper does it for pre-activation networks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = True

    name: Literal["network_slimming"] = "network_slimming"
    ratio: float | None = None  # share of all channels that goes in a pass; None: a budget decides
    scope: Literal["global", "local"] = "global"  # compare all channels, or take the same share from every layer
    max_layer_ratio: float | None = None  # largest share of a layer that goes in a pass (Table 4: 0.5)
    penalty: float = 1e-4  # λ, loss per unit of |γ|
    start: Literal["weights", "scratch"] = "weights"  # of sparse training
    scale_init: float = 0.5  # γ where training starts from scratch
    sparse_epochs: int = 160  # passes over the training data with the penalty, before each cut; 0: γ as they are
    training: TrainSettings | None = TRAINING  # with the penalty; None: the task's own settings
    passes: int = 1  # times that the network is trained sparsely, cut and fine-tuned
    gates: GateChoice = "auto"  # for layers without a norm: where none has one, everywhere, never
    selections: bool = True  # use the channel selections that the model carries
    residual: Residual = "spare"  # cut residual streams only if a budget needs it, never (inner), or always (group)
    combine: Combine = "mean"  # of several γ of one channel
    compensation: Compensation = "none"  # fold relu(β) of removed channels: only if that is exact, or everywhere
    min_units: int = 1  # that every layer keeps
    min_share: float = 0.0  # of its channels that every layer keeps
    round_to: int = 1  # kept sizes are multiples of this
    lock: tuple[str, ...] = ()  # patterns of layers to leave alone
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 160  # passes over the training data after each cut
    finetune: TrainSettings | None = None  # None: as in sparse training
    seed: int = 0  # of the weights drawn where training starts from scratch

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_settings(self)

    @property
    def level(self) -> Literal["channel"]:
        """What goes: channels, never whole blocks."""
        return "channel"

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; by the γ that there are.

        Where all γ are equal, as in a network that was never trained, every layer is taken to lose the same share.
        """
        check_amount(self.ratio, self.max_layer_ratio, budget)
        subject = self._subject(graph, model)
        layers = self._layers(graph, subject, budget)
        scores = scores_of(subject.model, layers, self.combine)
        if nothing_learned(scores):
            scores = evenly_spread(scores)
        plan = graph.plan({})
        if budget is not None:
            return self._to_budget(graph, layers, scores, plan, budget)
        there = still_there(graph, layers, plan)
        for _ in range(self.passes):
            left = {name: scores[name][list(units)] for name, units in there.items()}
            there = self._one_pass(graph, layers, left, there)
        return plan_of(graph, layers, there, plan, allow_approximate=self.allow_approximate)

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            # In several passes the later cuts are decided by what earlier fine-tuning left.
            undecisive=frozenset() if self.passes > 1 else frozenset({"finetune", "finetune_epochs"}),
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune or self.training,
            tell=progress or silent,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MinimumWarning)  # said again when the cut is decided for good
            self.decide(run.graph, model, budget)  # refuses what cannot be met, before the long work
        if self.start == "scratch":
            check_can_start_anew(model)
        subject = self._subject(run.graph, model)
        if self.compensation == "exact" and not subject.decorated:  # a closed gate leaves no constant
            layers = self._layers(run.graph, subject, budget)
            check_compensation(run.graph, model, layers, _inputs(task, model))
        small, plan = model, run.graph.plan({})
        targets = [None] * self.passes if budget is None else even_budgets(run.graph, budget, self.passes)
        for number, target in enumerate(targets, start=1):
            small, plan = self._pass(run, small, plan, number, target)
            if number < self.passes:
                accuracy = run.evaluated(f"cut-{number}", small, plan).score
                run.steps[-1] = replace(run.steps[-1], accuracy=accuracy)
                run.train(f"finetune-{number}", small, self.finetune_epochs, between_cuts=True)
        run.notes += departures(self, by_budget=budget is not None)
        if cuts_streams(run.graph, plan):
            run.notes.append(SPARED if self.residual == "spare" else STREAMS)
        result = run.finished(small, plan, self.finetune_epochs)
        after = result.record.after_cut
        last = replace(run.steps[-1], accuracy=None if after is None else after.score)
        return replace(result, record=replace(result.record, steps=(*run.steps[:-1], last)))

    def _pass(
        self, run: MethodRun, small: nn.Module, earlier: Plan, number: int, target: Budget | None
    ) -> tuple[nn.Module, Plan]:
        """Train sparsely, cut, compensate; return the smaller model and the plan of all cuts so far."""
        now = run.graph.after(earlier)
        fresh = self.start == "scratch" and number == 1
        if self.sparse_epochs:
            small = apply(small, now.plan({}), verify_with=None)
        if fresh:
            run.tell(f"starting from scratch, with γ = {self.scale_init:g}")
            start_anew(small, seed=self.seed, scale=self.scale_init)
        subject = self._subject(now, small, fresh=fresh)
        if number == 1:
            run.notes += subject.notes()
        phase = f"sparse-{number}" if self.sparse_epochs else "dense" if number == 1 else f"finetune-{number - 1}"
        if self.sparse_epochs:
            hook = ScaleSparsity(subject.penalised, self.penalty)
            run.train(phase, subject.model, self.sparse_epochs, settings=self.training, hooks=[hook], between_cuts=True)
        layers = self._layers(now, subject, target)
        scores = scores_of(subject.model, layers, self.combine)
        if nothing_learned(scores):
            raise BudgetError(
                f"all γ are {float(next(iter(scores.values()))[0]):g}, so they do not tell which channels matter; "
                "train with the penalty first, with sparse_epochs above 0"
            )
        before = subject.plain()

        def decision() -> Plan:
            return self._decided(run, layers, scores, earlier, target)

        amend = None if self.compensation == "none" else partial(self._compensate, run, before, earlier)
        after, plan = run.cut(before, earlier, number, self.passes, target, decision, amend=amend)
        run.steps.append(step_of(run.graph, number, phase, layers, scores, earlier, plan))
        return after, plan

    def _decided(
        self,
        run: MethodRun,
        layers: Sequence[Layer],
        scores: Mapping[str, Tensor],
        earlier: Plan,
        target: Budget | None,
    ) -> Plan:
        if target is not None:
            return self._to_budget(run.graph, layers, scores, earlier, target)
        if self.scope == "global" and self.ratio is not None:
            limit = percentile(torch.cat(list(scores.values())), self.ratio)
            note = ties_note(scores, self.ratio, limit)
            run.notes += [] if note is None else [note]
        there = self._one_pass(run.graph, layers, scores, still_there(run.graph, layers, earlier))
        return plan_of(run.graph, layers, there, earlier, allow_approximate=self.allow_approximate)

    def _compensate(self, run: MethodRun, before: nn.Module, earlier: Plan, after: nn.Module, plan: Plan) -> None:
        now = run.graph.after(earlier)
        scales = with_norms(before, now).scales
        layers = layers_of(now, scales, streams=True, selections=self.selections, allow_approximate=True)
        found = compensate(before, after, now, run.step(earlier, plan), layers, _inputs(run.task, before))
        if self.compensation == "exact":
            require_exact(found)
        run.notes.append(found.note())
        run.trained_between_cuts |= bool(found.folded)  # so that the result is not the dense model cut

    def _one_pass(
        self, graph: ChannelGraph, layers: Sequence[Layer], scores: Mapping[str, Tensor], there: Kept
    ) -> dict[str, list[int]]:
        assert self.ratio is not None
        return one_pass(
            scores,
            there,
            self.ratio,
            each=self.scope == "local",
            max_layer_ratio=self.max_layer_ratio,
            floors=self._floors(graph, layers),
            round_to=self.round_to,
        )

    def _to_budget(
        self, graph: ChannelGraph, layers: Sequence[Layer], scores: Mapping[str, Tensor], earlier: Plan, budget: Budget
    ) -> Plan:
        if not any(layer.selects for layer in layers):
            whole = in_original_numbers(graph, earlier, dict(scores))
            return planned(self, graph, whole, None, budget, normalize=False, earlier=earlier)
        return to_budget(
            graph,
            layers,
            scores,
            still_there(graph, layers, earlier),
            earlier,
            budget,
            floors=self._floors(graph, layers),
            round_to=self.round_to,
            allow_approximate=self.allow_approximate,
        )

    def _floors(self, graph: ChannelGraph, layers: Sequence[Layer]) -> dict[str, int]:
        return floors_of(sizes_of(graph, layers), min_units=self.min_units, min_share=self.min_share)

    def _layers(self, graph: ChannelGraph, subject: Subject, budget: Budget | None) -> list[Layer]:
        """Return what may be cut.

        Raises:
            BudgetError: nothing; says why.
        """
        layers = layers_of(
            graph,
            subject.scales,
            streams=self.residual == "group" if budget is None else self.residual != "inner",
            selections=self.selections,
            lock=self.lock,
            allow_approximate=self.allow_approximate,
        )
        require_layers(layers, graph)
        return layers

    def _subject(self, graph: ChannelGraph, model: nn.Module, *, fresh: bool = False) -> Subject:
        return subject_of(
            model,
            graph,
            self.gates,
            open_groups(graph, streams=True, lock=self.lock, allow_approximate=self.allow_approximate),
            trained=self.sparse_epochs > 0,
            start=self.scale_init if fresh else None,
            allow_approximate=self.allow_approximate,
        )


def _inputs(task: Task, model: nn.Module) -> Tensor:
    return task.example_inputs.to(next(model.parameters()).device)


_SETTINGS: TypeAdapter[NetworkSlimming] = TypeAdapter(NetworkSlimming)
