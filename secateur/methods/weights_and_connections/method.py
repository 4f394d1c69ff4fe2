"""Learning both weights and connections (Han, Pool, Tran and Dally, NIPS 2015, arXiv:1506.02626)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings
from secateur.cost import Budget
from secateur.graph import ChannelGraph, Plan, apply
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.running import MethodRun, silent
from secateur.methods.weights_and_connections.checks import check_amount, check_settings
from secateur.methods.weights_and_connections.deciding import goal_after_surgery, goal_of_round, goal_on_the_way
from secateur.methods.weights_and_connections.dropout import weights_before_dropout
from secateur.methods.weights_and_connections.finishing import finished
from secateur.methods.weights_and_connections.goals import (
    Rule,
    Selection,
    allowed_nonzeros,
    shares_by_name,
    weights_to_prune,
)
from secateur.methods.weights_and_connections.penalty import WeightL1
from secateur.methods.weights_and_connections.picturing import spread_before
from secateur.methods.weights_and_connections.regrowing import Regrow, Surgery
from secateur.methods.weights_and_connections.rounds import Rounds
from secateur.sparse import Masks, prunable_weights, weight_stds
from secateur.sparse.making import StdOf
from secateur.sparse.prunable import settings_by_name
from secateur.training import Store, Task, TrainSettings

Order = Literal["together", "linear_first", "convolutions_first"]
Allocation = Literal["scan", "global", "uniform"]

_UNDECISIVE = frozenset({"finetune_epochs", "cut_dead", "activation_batches"})


@dataclass(frozen=True, kw_only=True)
class WeightsAndConnections:
    """Remove weights of small magnitude, retrain the others from where they are, with rescaled dropout; iterate.

    How much goes is said by ``quality`` (thresholds q·std per layer, as in the paper), by ``ratios`` (shares per
    layer), by a budget in non-zeros, or by ``tolerance_points``. A budget is shared out by ``allocation``: ``scan``
    prunes one layer at a time, looks at the validation split, and takes from each layer what costs all layers the same
    accuracy; ``global`` compares all weights; ``uniform`` takes the same share of each layer. ``tolerance_points``
    without a budget takes from each layer what costs it alone so many points.

    With ``regrow`` masks change while the network trains and weights come back (Dynamic Network Surgery). With a
    ``granularity`` other than single weights, kernels, rows, columns, blocks or n of m go together.

    Biases, norms and embeddings are never pruned.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "weights"
    trains_to_decide: ClassVar[bool] = True

    name: Literal["weights_and_connections"] = "weights_and_connections"
    quality: Mapping[str, float] = field(default_factory=dict)  # pattern of layers → q of the threshold q·std
    ratios: Mapping[str, float] = field(default_factory=dict)  # pattern of layers → share of weights that goes
    allocation: Allocation = "scan"  # of a budget over layers: scan, global or uniform
    tolerance_points: float | None = None  # of validation accuracy that each layer alone may cost
    scan_shares: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99)  # that scans look at
    granularity: str = "weight"  # what goes together: weight, kernel, row, column, block(r,c) or n:m
    norm: Literal["l1", "l2"] = "l1"  # of weights that go together
    std: StdOf = "dense"  # of quality: of the dense layer, of the survivors, or of all with zeros
    selection: Selection = "threshold"  # probabilistic: a control that draws by magnitude
    iterations: int = 1  # rounds of pruning and retraining
    quality_growth: float = 1.0  # factor of every q from round to round
    order: Order = "together"  # prune and retrain all at once, or linear layers and convolutions in turn
    skip: tuple[str, ...] = ()  # patterns of layers to leave alone
    connect_epochs: int = 0  # passes over the training data before the first pruning
    connect: TrainSettings | None = None  # of these; None: the task's own settings
    connect_l1: float = 0.0  # λ of L1 in these, loss per unit of |w|; L2 is the weight decay of the settings
    retrain_epochs: int = 10  # passes after each pruning but the last
    retrain_l1: float = 0.0  # λ of L1 in all retraining
    learning_rate_factor: float = 0.1  # of retraining, where finetune gives no settings of its own
    rescale_dropout: bool = True  # in retraining, by the square root of the surviving connections
    regrow: Regrow | None = None  # masks that change in training, before the last retraining
    cut_dead: bool = True  # cut units without live inputs or outputs for good, at the end
    activation_batches: int = 8  # of validation images, to count the zeros that layers read
    restore: RestoreSettings = RESTORE_NOTHING  # right after each pruning; only batch_norm_images
    finetune_epochs: int = 20  # passes after the last pruning
    finetune: TrainSettings | None = None  # of all retraining; None: the task's own, by learning_rate_factor
    seed: int = 0  # of probabilistic draws

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_settings(self)

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; the plan is empty, because shapes stay until dead units are known."""
        self._checked(model, budget)
        return graph.plan({})

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`."""
        names, allowed = self._checked(model, budget)
        several = self.iterations > 1 or self.regrow is not None
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            undecisive=_UNDECISIVE | (frozenset() if several else {"finetune"}),
            model=model,
            task=task,
            store=store,
            budget=budget,
            finetune=self._retraining(task),
            tell=progress or silent,
        )
        small = apply(model, run.graph.plan({}), verify_with=None)
        rounds = Rounds(
            run=run,
            model=small,
            names=names,
            allowed=allowed,
            batch_norm_images=self.restore.batch_norm_images,
            dropout=weights_before_dropout(small, task.example_inputs) if self.rescale_dropout else {},
            masks=Masks.full(small, names),
        )
        rounds.begin()
        hooks = (WeightL1(names, self.connect_l1),) if self.connect_l1 else ()
        settings = self.connect or _own_settings(task)
        run.train("connect", small, self.connect_epochs, settings=settings, hooks=hooks, between_cuts=True)
        rounds.stds, rounds.spread = weight_stds(small, names), spread_before(small, names)
        if self.regrow is None:
            for number in range(1, self.iterations + 1):
                self._round(rounds, number)
        else:
            self._surgery(rounds, self.regrow)
        return finished(self, rounds)

    def rule(self, names: tuple[str, ...]) -> Rule:
        """Return what goes first, of the weights ``names``."""
        return Rule(
            names=names,
            granularity=self.granularity,
            norm=self.norm,
            selection=self.selection,
            std=self.std,
            seed=self.seed,
        )

    def _checked(self, model: nn.Module, budget: Budget | None) -> tuple[tuple[str, ...], int | None]:
        """Return the weights that are pruned, and how many parameters may be stored."""
        check_amount(self, budget)
        names = weights_to_prune(model, self.skip)
        settings_by_name(self.quality, names, "layer in quality", model=model)
        shares_by_name(model, self.ratios, names)
        return names, allowed_nonzeros(model, budget, names, self.granularity)

    def _round(self, rounds: Rounds, number: int) -> None:
        """Prune and retrain once, all layers together or one kind after the other."""
        rule = self.rule(rounds.names)

        def decide() -> Masks:
            goal = goal_of_round(self, rounds, number)
            return goal.masks(rule, rounds.model, _earlier(rounds.masks), stds=rounds.stds, draw=number)

        before, masks = rounds.masks, rounds.decided(number, decide)
        last = number == self.iterations
        epochs = self.finetune_epochs if last else self.retrain_epochs
        phase = "finetune" if last else f"retrain-{number}"
        hooks = (WeightL1(rounds.names, self.retrain_l1),) if self.retrain_l1 else ()
        for stage in self._stages(rounds):
            if stage == "all":
                rounds.prune(number, stage, masks)
                rounds.retrain(phase, epochs, None, hooks=hooks, last=last)
                return
            kind = prunable_weights(rounds.model, kind=stage)
            before = Masks({name: masks[name] if name in kind else before[name] for name in rounds.names})
            rounds.prune(number, stage, before)
            frozen = rounds.others(stage)
            rounds.retrain(f"{phase}-{stage}", epochs, None, frozen=frozen, hooks=hooks, last=last)

    def _stages(self, rounds: Rounds) -> tuple[Literal["all", "linear", "convolution"], ...]:
        """Return what is pruned and retrained one after the other."""
        linear = set(prunable_weights(rounds.model, kind="linear"))
        kinds = {name in linear for name in rounds.names}
        if self.order == "together" or len(kinds) == 1:
            return ("all",)
        return ("linear", "convolution") if self.order == "linear_first" else ("convolution", "linear")

    def _surgery(self, rounds: Rounds, settings: Regrow) -> None:
        """Train with masks that change, then retrain with those that are there in the end."""
        rule = self.rule(rounds.names)
        goal = goal_after_surgery(self, rounds)
        on_the_way = goal_on_the_way(goal, rounds)

        def decide(model: nn.Module, masks: Masks, way: float, band: float) -> Masks:
            return on_the_way(way).masks(rule, model, masks, stds=rounds.stds, draw=1, band=band, regrow=True)

        surgery = Surgery(rounds.masks, decide, settings, seed=self.seed)
        hooks: tuple[object, ...] = (surgery,)
        if settings.l1:
            hooks = (surgery, WeightL1(rounds.names, settings.l1))  # of the weights beneath, which are in place by then
        training = settings.training or _own_settings(rounds.run.task)
        rounds.run.train("surgery", rounds.model, settings.epochs, settings=training, hooks=hooks, between_cuts=True)
        masks = rounds.decided(1, lambda: surgery.masks)
        rounds.prune(1, "surgery", masks)
        penalty = (WeightL1(rounds.names, self.retrain_l1),) if self.retrain_l1 else ()
        rounds.retrain("finetune", self.finetune_epochs, None, hooks=penalty, last=True)

    def _retraining(self, task: Task) -> TrainSettings | None:
        """Return how to retrain: as asked for, or as the dense network at a lower rate (arXiv:1506.02626, §4)."""
        own = _own_settings(task)
        if self.finetune is not None or own is None:
            return self.finetune
        factor = self.learning_rate_factor
        return replace(own, learning_rate=factor * own.learning_rate, learning_rate_min=factor * own.learning_rate_min)


def _own_settings(task: Task) -> TrainSettings | None:
    """Return how the task trains where nobody says otherwise, which is how the dense network was; None if unknown."""
    own = getattr(task, "settings", None)
    return own if isinstance(own, TrainSettings) else None


def _earlier(masks: Masks) -> Masks | None:
    """Return the masks of earlier rounds, or None where nothing is gone yet, so that no std is of survivors."""
    return masks if masks.kept() < masks.size() else None


_SETTINGS: TypeAdapter[WeightsAndConnections] = TypeAdapter(WeightsAndConnections)
