"""ThiNet (Luo, Wu, Lin, ICCV 2017, arXiv:1707.06342): cut a layer by what the next one gives, train a little, go on."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget, MinimumWarning, Scope, allocate
from secateur.criteria import score
from secateur.errors import BudgetError
from secateur.graph import ChannelGraph, Group, Plan
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import nothing_to_cut
from secateur.methods.l1.layers import cuttable_layers
from secateur.methods.recovery import phase_after, recovered
from secateur.methods.running import MethodRun, silent
from secateur.methods.scoring_data import STAND_IN
from secateur.methods.step_records import DENSE, recorded
from secateur.methods.stepping import Residual
from secateur.methods.streams import SPARED, cuts_streams, sparing_streams
from secateur.methods.thinet.checks import check_settings
from secateur.methods.thinet.choosing import BY_OUTPUT, Chooser, Rows, Variant, check_readers, largest
from secateur.methods.thinet.layers import (
    check_longer,
    epochs_after,
    in_forward_order,
    kept_counts,
    stretches,
)
from secateur.methods.thinet.published import EPOCHS, FINETUNE, RECOVER, departures, trains_as_published
from secateur.training import Store, Task, TrainSettings


@dataclass(frozen=True, kw_only=True)
class ThiNet:
    """Cut layer after layer, each by how little the output of the next one changes; train a little after each.

    What the next layer gives is the sum of what its input channels contribute. The Gram matrix of the contributions
    tells how much is lost without any set of them: ``thinet`` removes the channels one by one whose sum is smallest
    (the conference paper), ``thinet_tpami`` adds those that explain most of what is missing (the journal version's
    code), and the weights of the next layer are then scaled by least squares (``reweight``). The other variants are
    those that the paper compares with: by the filters' L1 norms, by the share of zeros behind the ReLU, at random.

    ``keep`` says which share of its filters each layer keeps, as in the paper, and there is no budget; other layers
    stay whole. Without it a budget decides, and every layer that may be cut keeps the same share (``scope`` local).

    Residual blocks: ``inner`` cuts the first convolutions of the blocks and never the streams, as the paper does;
    ``group`` cuts streams too, by the sum of what all of their readers give; ``spare``, for budgets, is ``inner`` as
    long as the budget can be met so with a tenth of the filters left. With ``keep`` it is ``inner``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = False

    name: Literal["thinet"] = "thinet"
    variant: Variant = "thinet"  # or thinet_tpami, weight_sum, random, apoz
    reweight: bool | None = None  # scale the next layer's inputs; None: with thinet and thinet_tpami, as in the paper
    statistics: Literal["exact", "rows"] = "exact"  # over all positions, or over rows sampled as the authors do
    images: int | None = None  # training images to look at; None: 512, of rows 10 per class up to 10,000
    rows_per_image: int = 10  # of statistics rows: pairs of a filter and a position of each image
    keep: Mapping[str, float] = field(default_factory=dict)  # pattern of layers → share of filters that stays
    skip: tuple[str, ...] = ()  # patterns of layers that are left alone
    residual: Residual = "spare"  # or inner, group
    scope: Scope = "local"  # of a budget: local, or global and isomorphic by the filters' norms
    min_units: int = 1  # that every layer keeps
    round_to: int = 1  # of a budget: kept sizes are multiples of this
    together: Literal["layer", "block"] = "layer"  # block: train once for all layers of a residual block
    layer_epochs: float = 1  # passes over the training data after each layer but the last, or a part of one; 0: none
    longer: Mapping[str, float] = field(default_factory=dict)  # pattern of layers → passes after these instead
    recover: TrainSettings | None = RECOVER  # how to train between layers; None: as in the fine-tuning
    evaluate_steps: bool = True  # measure the validation accuracy right after every cut
    restore: RestoreSettings = RESTORE_NOTHING  # what comes back right after every cut, without training
    finetune_epochs: int = EPOCHS  # passes over the training data after the last cut
    finetune: TrainSettings | None = FINETUNE  # None: the task's own settings
    seed: int = 0  # of sampled rows and of the variant random

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, or would do nothing."""
        check_settings(self)

    @property
    def reweights(self) -> bool:
        """Whether the next layer's inputs are scaled by least squares."""
        return self.variant in BY_OUTPUT if self.reweight is None else self.reweight

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; as if all layers were cut at once.

        There is no data here: for the variants that need some, L1 norms stand in. The plan shows how much goes from
        each layer, not which filters stay.
        """
        check_longer(graph, self.longer)
        counts = self._counts(graph, model, budget)
        if self.variant in BY_OUTPUT or self.reweights:
            check_readers(graph, model, counts)
        scores = score(graph, model, "random" if self.variant == "random" else STAND_IN, only=counts, seed=self.seed)
        return graph.plan({name: largest(scores[name], count) for name, count in counts.items()})

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            measures_cuts=self.evaluate_steps,
            undecisive=frozenset({"finetune", "finetune_epochs", "evaluate_steps"}),
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self.finetune,
            tell=progress or silent,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MinimumWarning)  # noted when the counts are settled
            self.decide(run.graph, model, budget)  # what cannot be cut is not begun
        with run.noting_minima():
            counts = self._counts(run.graph, model, budget)
        if not counts:
            raise BudgetError(nothing_to_cut(budget))
        small, plan = self._layer_by_layer(run, counts)
        run.notes += self._departures(run.graph, plan)
        return run.finished(small, plan, self.finetune_epochs)

    def _layer_by_layer(self, run: MethodRun, counts: Mapping[str, int]) -> tuple[nn.Module, Plan]:
        """Cut one layer on the model as the cuts and the training before have left it, train, cut the next."""
        chooser = Chooser(
            run=run,
            variant=self.variant,
            reweight=self.reweights,
            rows=Rows(self.rows_per_image, self.seed) if self.statistics == "rows" else None,
            images=self.images,
            seed=self.seed,
        )
        order = in_forward_order(run.graph, counts)
        steps = stretches(run.graph, order, by_block=self.together == "block")
        pauses = [epochs_after(stretch, self.layer_epochs, self.longer) for stretch in steps]
        small, plan, phase, number = run.model, run.graph.plan({}), DENSE, 0
        for place, stretch in enumerate(steps, start=1):
            for name in stretch:
                number += 1
                earlier = plan
                small, plan = run.cut(
                    small,
                    earlier,
                    number,
                    len(order),
                    run.budget,
                    partial(chooser.decision, small, earlier, number, name, counts[name]),
                    amend=partial(chooser.reweigh, number, name) if self.reweights else None,
                )
                left = small if self.evaluate_steps else None
                recorded(run, number, after=phase, earlier=earlier, plan=plan, small=left)
            if place < len(steps) and recovered(run, number, small, pauses[place - 1], self.recover):
                phase = phase_after(number)
        return small, plan

    def _counts(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> dict[str, int]:
        """Return layer → filters that it keeps, for the layers that lose any.

        Raises:
            BudgetError: neither shares nor a budget are given, or both, or the budget cannot be met.
            PlanError: a pattern matches nothing that may be cut.
        """
        if self.keep:
            if budget is not None:
                raise BudgetError(
                    f"there are shares to keep and a budget ({budget.describe()}), and only one of them can decide how "
                    "much is cut; leave one out"
                )
            streams = self.residual == "group"
            layers = cuttable_layers(graph, streams=streams, skip=self.skip)
            return kept_counts(graph, layers, self.keep, streams=streams, min_units=self.min_units)
        if budget is None:
            raise BudgetError(
                "the method thinet needs to know how much to cut: give a budget, such as macs: 0.5 (--macs 0.5), or "
                "keep, the share that layers keep (--setting 'keep={layer1.*: 0.5}')"
            )

        def attempt(*, streams: bool) -> Plan:
            return self._allocated(graph, model, budget, streams=streams)

        plan = sparing_streams(attempt) if self.residual == "spare" else attempt(streams=self.residual == "group")
        return plan.kept_sizes()

    def _allocated(self, graph: ChannelGraph, model: nn.Module, budget: Budget, *, streams: bool) -> Plan:
        layers: Sequence[Group] = cuttable_layers(graph, streams=streams, skip=self.skip)
        scores = score(graph, model, STAND_IN, only=[group.name for group in layers])
        return allocate(
            graph,
            scores,
            budget,
            scope=self.scope,
            min_units=self.min_units,
            round_to=self.round_to,
            lock=self.skip,
        )

    def _departures(self, graph: ChannelGraph, plan: Plan) -> list[str]:
        """Say what is not as in the paper, as far as the settings tell."""
        notes = [SPARED] if self.residual == "spare" and cuts_streams(graph, plan) else []
        passes = {self.layer_epochs, *self.longer.values()}
        return notes + departures(
            variant=self.variant,
            reweight=self.reweights,
            exact=self.statistics == "exact",
            by_budget=not self.keep,
            streams=[name for name in plan.kept if graph.group(name).is_stream],
            trained_as_published=trains_as_published(self.recover, passes, self.finetune, self.finetune_epochs),
        )


_SETTINGS: TypeAdapter[ThiNet] = TypeAdapter(ThiNet)
