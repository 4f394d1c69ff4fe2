"""L1-norm filter pruning (Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017, arXiv:1608.08710)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, Scope, allocate, kept_units
from secateur.criteria.scoring import Combine
from secateur.errors import BudgetError, UsageError
from secateur.graph import ChannelGraph, Group, Plan
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.l1.layers import Residual, cuttable_layers, shares_for, shortcut_weights
from secateur.methods.l1.selection import Selection, l1_scores, largest, select
from secateur.methods.levels import Level, blocks_to_drop, check_level, names_blocks
from secateur.methods.running import MethodRun, silent
from secateur.methods.streams import SPARED, cuts_streams, sparing_streams
from secateur.training import Store, Task, TrainSettings

RETRAINING = TrainSettings(learning_rate=0.001, schedule="constant", weight_decay=1e-4, batch_size=64)
"""As published (§4: constant rate 0.001); weight decay and batch size are those of replications."""


PUBLISHED_EPOCHS = (40, 20)  # of retraining, on CIFAR-10 and on ImageNet


@dataclass(frozen=True, kw_only=True)
class L1:
    """Cut the filters of smallest L1 norm, layer by layer, by ratios or to a budget; retrain.

    With ``ratios`` each layer loses its share, as in the paper, and there is no budget. Without them a budget decides:
    by default every layer that may be cut loses the same share of its filters (``scope`` local).

    Residual blocks: ``inner`` cuts the first convolutions of the blocks and never what a shortcut ties together;
    ``shortcut`` also cuts residual streams, by the norms of the projection shortcut, which the other layers follow
    (both are the paper's, §3.3); ``group`` cuts them by the combined norms of all layers that produce the stream;
    ``spare`` is ``inner`` as long as the budget can be met so with a tenth of the filters left, and otherwise
    ``group``, because streams are by far the most sensitive layers of a residual network.

    ``level`` ``block`` drops whole residual blocks by the norms of their filters, and ``both`` drops blocks first and
    cuts filters for the rest of the way to the budget; the paper does neither.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = False

    name: Literal["l1"] = "l1"
    ratios: Mapping[str, float] = field(default_factory=dict)  # pattern of layers → share of filters that goes
    skip: tuple[str, ...] = ()  # patterns of layers that are left alone
    selection: Selection = "independent"  # or greedy
    residual: Residual = "spare"  # or inner, shortcut, group
    combine: Combine = "mean"  # of the layers of a residual stream
    scope: Scope = "local"  # of a budget: local, global or isomorphic
    min_units: int = 1  # that every layer keeps
    round_to: int = 1  # kept sizes are multiples of this
    level: Level = "channel"  # what goes: channel, block or both
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    strategy: Literal["once", "layer-by-layer"] = "once"  # cut all and retrain, or retrain after every layer
    layer_epochs: int = 1  # passes over the training data after each layer but the last
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = 40  # passes over the training data after the last cut
    finetune: TrainSettings | None = RETRAINING  # None: the task's own settings

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for pattern, share in self.ratios.items():
            if not 0 <= share < 1:
                raise UsageError(
                    f"the ratio for {pattern!r} is {share:g}; it is the share of filters that goes, from 0 up to but "
                    "not including 1"
                )
        for name, least in (("min_units", 1), ("round_to", 1), ("layer_epochs", 0), ("finetune_epochs", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        check_level(self.level)
        if self.level == "channel":
            return
        for unfit, what in ((bool(self.ratios), "there are ratios"), (self.strategy != "once", "layers go one by one")):
            if unfit:
                raise UsageError(
                    f"{what}, and level is {self.level}, but whole blocks go to a budget and all at once; give level "
                    "channel (--level channel), or a budget and strategy once"
                )

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if all layers were cut at once."""
        counts, blocks = self._counts(graph, model, budget)
        kept = select(
            graph,
            model,
            counts,
            selection=self.selection,
            combine=self.combine,
            scored_by=self._scored_by(graph),
        )
        return graph.plan(kept, blocks=blocks, allow_approximate=self.allow_approximate)

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune,
            tell=progress or silent,
        )
        if self.strategy == "once":
            small, plan = run.cut(
                model, run.graph.plan({}), 1, 1, budget, lambda: self.decide(run.graph, model, budget)
            )
        else:
            small, plan = self._layer_by_layer(run, model, budget)
        run.notes += self._departures(run.graph, plan)
        return run.finished(small, plan, self.finetune_epochs)

    def _layer_by_layer(self, run: MethodRun, model: nn.Module, budget: Budget | None) -> tuple[nn.Module, Plan]:
        """Cut one layer, retrain, cut the next: what is gone no longer counts, so the selection is greedy."""
        graph = run.graph
        with run.noting_minima():
            counts, _ = self._counts(graph, model, budget)
        names = [group.name for group in graph.groups if counts.get(group.name, group.size) < group.size]
        small, plan = model, graph.plan({})
        for number, name in enumerate(names, start=1):

            def decision(small: nn.Module = small, earlier: Plan = plan, name: str = name) -> Plan:
                now = graph.after(earlier)
                scores = l1_scores(now, small, self.combine, self._scored_by(now), only=(name,))
                kept = {**earlier.kept, name: largest(scores, name, counts[name])}
                return graph.plan(kept, allow_approximate=self.allow_approximate)

            small, plan = run.cut(small, plan, number, len(names), budget, decision)
            if number < len(names):
                run.train(f"layer-{number}", small, self.layer_epochs, between_cuts=True)
        return small, plan

    def _counts(
        self, graph: ChannelGraph, model: nn.Module, budget: Budget | None
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Return layer → filters that it keeps, for the layers that lose any, and the blocks that go whole.

        Raises:
            BudgetError: neither ratios nor a budget are given, or both, or the budget cannot be met.
            PlanError: a pattern matches nothing that may be cut.
        """
        if self.ratios:
            if budget is not None:
                raise BudgetError(
                    f"there are ratios and a budget ({budget.describe()}), and only one of them can decide how much is "
                    "cut; leave one out"
                )
            return self._counts_by_ratio(graph), ()
        if budget is None:
            raise BudgetError(
                "the method l1 needs to know how much to cut: give a budget, such as macs: 0.5 (--macs 0.5), or ratios "
                "per layer"
            )

        def attempt(*, streams: bool) -> Plan:
            return self._allocated(graph, model, budget, streams=streams)

        plan = sparing_streams(attempt) if self.residual == "spare" else attempt(streams=self.residual != "inner")
        return plan.kept_sizes(), plan.dropped_blocks

    def _counts_by_ratio(self, graph: ChannelGraph) -> dict[str, int]:
        streams = self.residual in ("shortcut", "group")
        layers = self._layers(graph, streams=streams)
        sizes = {group.name: group.size for group in layers}
        counts = {
            name: kept_units(sizes[name], share, min_units=self.min_units, round_to=self.round_to)
            for name, share in shares_for(graph, layers, self.ratios, streams=streams).items()
        }
        return {name: count for name, count in counts.items() if count < sizes[name]}

    def _allocated(self, graph: ChannelGraph, model: nn.Module, budget: Budget, *, streams: bool) -> Plan:
        layers = self._layers(graph, streams=streams) if self.level != "block" else []
        scores = l1_scores(graph, model, self.combine, self._scored_by(graph))
        return allocate(
            graph,
            {group.name: scores[group.name] for group in layers},
            budget,
            scope=self.scope,
            min_units=self.min_units,
            round_to=self.round_to,
            lock=self.skip,
            blocks=blocks_to_drop(self.level, graph, model, "l1", combine=self.combine),
            allow_approximate=self.allow_approximate,
        )

    def _layers(self, graph: ChannelGraph, *, streams: bool) -> list[Group]:
        skip = [pattern for pattern in self.skip if not names_blocks(graph, pattern, self.level)]
        return cuttable_layers(graph, streams=streams, skip=skip, allow_approximate=self.allow_approximate)

    def _scored_by(self, graph: ChannelGraph) -> dict[str, str]:
        return shortcut_weights(graph) if self.residual == "shortcut" else {}

    def _departures(self, graph: ChannelGraph, plan: Plan) -> list[str]:
        """Say what is not as in the paper, as far as the settings tell."""
        notes = []
        if not self.ratios:
            notes.append("departs from the paper: a budget decides how much each layer loses, not ratios per stage")
        if self.residual == "spare" and cuts_streams(graph, plan):
            notes.append(SPARED)
        if plan.drops:
            notes.append("departs from the paper: residual blocks are dropped whole")
        led = self._scored_by(graph)
        whole = [name for name in plan.kept if graph.group(name).is_stream and name not in led]
        if whole:
            notes.append(
                "departs from the paper: residual streams are cut as whole groups, by the combined norms of all layers "
                f"that produce them ({', '.join(whole)})"
            )
        if self.finetune_epochs:
            notes.append("departs from the paper: the last epoch is reported, not the best on the test set")
            if self.finetune != RETRAINING or self.finetune_epochs not in PUBLISHED_EPOCHS:
                notes.append(
                    "departs from the paper: retraining is not its constant rate of 0.001 over 40 (CIFAR-10) or 20 "
                    "(ImageNet) epochs"
                )
        return notes


_SETTINGS: TypeAdapter[L1] = TypeAdapter(L1)
