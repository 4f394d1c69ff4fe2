"""AutoSlim (Yu & Huang 2019, arXiv:1903.11728): one network trained at all widths tells which widths to train."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict, TypeAdapter
from torch import nn

from secateur.compensation import RESTORE_NOTHING, RestoreSettings, reestimate_batch_norm
from secateur.cost import Budget
from secateur.cost.latency_table import multiple_of
from secateur.errors import BudgetError, UsageError
from secateur.graph import ChannelGraph, Plan, apply
from secateur.methods.autoslim.baseline import least_costs, uniform_within
from secateur.methods.autoslim.front import Configuration
from secateur.methods.autoslim.settings import FINETUNE, SUPERNET, Start, space_of
from secateur.methods.autoslim.stages import searched
from secateur.methods.autoslim.training_found import trained_alone, trained_jointly, trained_uniform
from secateur.methods.contract import Compressed, Progress, Reduces
from secateur.methods.cut_words import nothing_to_cut, require_budget
from secateur.methods.running import MethodRun, silent
from secateur.names import unknown_name
from secateur.record import WidthSearch
from secateur.slimmable import Sandwich, WidthSpace, enlarge_primitive_cache, plan_of
from secateur.training import Store, Task, TrainSettings

_AFTER_THE_SEARCH = ("finetune", "finetune_epochs", "start", "joint", "uniform")


@dataclass(frozen=True, kw_only=True)
class AutoSlim:
    """Train one network at many widths, slim it greedily to the budget, train what was found.

    The model is the super-net: the widest network there is, such as ``resnet20@1.5x``. It learns to work at all widths
    (the sandwich rule, its own widest form as the teacher); then, step by step, the layer loses channels whose loss
    costs the least validation accuracy, until the budget is held. The network of these widths is then trained from
    random weights, alone or together with networks of further budgets. Shares in a budget are of the super-net.

    The defaults are the published settings on ImageNet.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    reduces: ClassVar[Reduces] = "channels"
    trains_to_decide: ClassVar[bool] = True

    name: Literal["autoslim"] = "autoslim"
    supernet_epochs: int = 50  # passes at all widths; 0 searches the model as it is
    supernet: TrainSettings = SUPERNET
    samples: int = 4  # networks per step: the widest, the narrowest, and random ones
    distil: bool = True  # all but the widest learn from it, not from the labels
    lower: float = 0.1  # smallest share of a layer's channels
    steps: int = 10  # even steps of a layer's width; the released networks have 12
    multiple: int = 8  # which channels are rounded to
    lock: tuple[str, ...] = ()  # patterns of groups that stay as wide as they are
    search_batch: int = 2048  # validation samples that are normalised together
    search_samples: int | None = None  # validation samples that decide; None: all
    shortlist: int | None = None  # measure so many candidates of a step, chosen by first-order scores; None: all
    share_prefixes: bool = True  # compute once what a step's candidates have in common; changes nothing but time
    prefix_mib: int = 1024  # bound on what is kept for that
    post_batches: int = 5  # training batches by which batch norm of what was found is measured anew
    restore: RestoreSettings = RESTORE_NOTHING  # what else comes back right after the cut, without training
    start: Start = "scratch"  # or supernet: train the found network on from the super-net's weights
    joint: tuple[float, ...] = ()  # further budgets, shares of the super-net's MACs, trained together with the first
    uniform: bool = True  # also train the network of one width multiplier at the same MACs, to compare with
    finetune_epochs: int = 300  # passes that train the found network
    finetune: TrainSettings | None = FINETUNE  # None: the task's own settings
    allow_approximate: bool = False  # also cut channels that are normalised together, which is not the same as zeroing
    seed: int = 0  # of random widths and of random weights

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name, least in (
            ("supernet_epochs", 0),
            ("samples", 1),
            ("steps", 1),
            ("multiple", 1),
            ("search_batch", 2),
            ("prefix_mib", 0),
            ("post_batches", 0),
            ("finetune_epochs", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        for name, least in (("search_samples", 2), ("shortlist", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}, but must be at least {least}; leave it out for all")
        if not 0 < self.lower <= 1:
            raise UsageError(f"lower is {self.lower:g}, but must lie in (0, 1]: it is a share of a layer's channels")
        if self.start not in get_args(Start):
            raise UsageError(unknown_name("setting of start", str(self.start), get_args(Start)))
        for share in self.joint:
            if not 0 < share < 1:
                raise UsageError(f"joint has {share:g}, but a further budget is a share of the MACs in (0, 1)")
        if self.joint and self.start == "supernet":
            raise UsageError("networks that are trained together begin with random weights; leave joint or start out")

    def space(self, graph: ChannelGraph) -> WidthSpace:
        """Return the widths that are searched.

        Raises:
            UsageError: a pattern to lock matches nothing, or nothing is left to choose.
        """
        return space_of(
            graph,
            lower=self.lower,
            steps=self.steps,
            multiple=self.multiple,
            lock=self.lock,
            allow_approximate=self.allow_approximate,
        )

    def decide(self, graph: ChannelGraph, model: nn.Module, budget: Budget | None) -> Plan:
        """See :class:`secateur.methods.Method`; one width multiplier for all layers, because the search needs data."""
        del model
        budget = require_budget(self.name, budget)
        space = self.space(graph)
        found = uniform_within(graph, space, budget)
        if found is None:
            raise BudgetError(
                f"{budget.describe()} cannot be met: with every group at its smallest width, {graph.model_class} still "
                f"costs {least_costs(graph, space, budget)}; allow more, or make the smallest share of a layer smaller "
                f"(method.lower, now {self.lower:g})"
            )
        return plan_of(graph, found, allow_approximate=self.allow_approximate)

    def compress(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> Compressed:
        """See :class:`secateur.methods.Method`; ``model`` is the super-net."""
        run = self._begun(model, task, budget, store, progress)
        supernet = self._supernet(run)
        found = searched(run, self, supernet)
        run.notes.append(found.in_words())
        small, plan = self._cut(run, supernet, found.chosen)
        done = run.finished(small, plan, 0)
        run.notes += self._departures()
        model, search = done.model, found.recorded(run.graph, self.joint)
        if self.finetune_epochs:
            if self.joint:
                model, others = trained_jointly(run, self, found)
                trained = [replace(one, trained=result) for one, result in zip(search.joint, others, strict=True)]
                search = replace(search, joint=tuple(trained))
            else:
                trained_alone(run, self, model)
            if self.uniform:
                result = trained_uniform(run, self, supernet, found)
                uniform = [replace(u, trained=result) if u.beside == search.chosen else u for u in search.uniform]
                search = replace(search, uniform=tuple(uniform))
        record = replace(done.record, phases=tuple(run.phases), notes=tuple(run.notes), width_search=search)
        return replace(done, model=model, record=record)

    def search(
        self, model: nn.Module, task: Task, budget: Budget | None, *, store: Store, progress: Progress | None = None
    ) -> WidthSearch:
        """Only train the super-net and search it down to the budgets; :meth:`compress` goes on from there.

        Args:
            model: the super-net, which stays as it was.
            task: trains and evaluates it.
            budget: of the chosen network; the search ends where this and those of ``joint`` are held.
            store: of the run, which may be the one that :meth:`compress` goes on with.
            progress: told what is being done.

        Raises:
            BudgetError: the budget cannot be met.
            TrainingError: the loss is not finite, or the store belongs to another run.
        """
        run = self._begun(model, task, budget, store, progress)
        return searched(run, self, self._supernet(run)).recorded(run.graph, self.joint)

    def _begun(
        self, model: nn.Module, task: Task, budget: Budget | None, store: Store, progress: Progress | None
    ) -> MethodRun:
        enlarge_primitive_cache()
        run = MethodRun(
            method=self.name,
            settings=_SETTINGS.dump_python(self, mode="json"),
            kind=_SETTINGS,
            restore=self.restore,
            undecisive=frozenset(_AFTER_THE_SEARCH),
            model=model,
            task=task,
            store=store,
            budget=require_budget(self.name, budget),
            finetune=self.finetune,
            tell=progress or silent,
        )
        if self.decide(run.graph, model, budget).is_empty:  # what cannot be met is not begun
            raise BudgetError(nothing_to_cut(budget))
        self._note_other_multiple(run)
        return run

    def _note_other_multiple(self, run: MethodRun) -> None:
        """Say where widths may be chosen that the latency table was not measured at."""
        if run.budget is None or run.budget.rounding(self.multiple) == self.multiple:
            return
        measured = multiple_of(run.budget.latency_model)
        note = (
            f"widths are searched in multiples of {self.multiple}, but the latency table was measured at multiples of "
            f"{measured}, between which a layer may take longer than it says; search with method.multiple={measured}, "
            f"or measure with `--multiple {self.multiple}`"
        )
        run.notes.append(note)
        run.tell(f"note: {note}")

    def _supernet(self, run: MethodRun) -> nn.Module:
        """Return a copy of the model that was trained at all widths."""
        supernet = apply(run.model, run.graph.plan({}), verify_with=None)
        step = Sandwich(
            run.graph,
            self.space(run.graph),
            loss=run.task.loss,
            samples=self.samples,
            distil=self.distil,
            seed=self.seed,
            allow_approximate=self.allow_approximate,
        )
        run.train("supernet", supernet, self.supernet_epochs, settings=self.supernet, step=step, between_cuts=True)
        return supernet

    def _cut(self, run: MethodRun, supernet: nn.Module, chosen: Configuration) -> tuple[nn.Module, Plan]:
        """Cut the super-net to what was found, and measure its batch norms anew."""

        def measured(small: nn.Module, plan: Plan) -> None:
            del plan
            if self.post_batches and any(
                isinstance(module, nn.modules.batchnorm._BatchNorm) for module in small.modules()
            ):
                reestimate_batch_norm(small, run.task.batches(self.post_batches))

        return run.cut(
            supernet,
            run.graph.plan({}),
            1,
            1,
            run.budget,
            lambda: plan_of(run.graph, chosen.widths, allow_approximate=self.allow_approximate),
            amend=measured,
        )

    def _departures(self) -> list[str]:
        """Say where this run differs from the published method."""
        standard = {entry.name: entry.default for entry in fields(self)}
        names = ("supernet", "supernet_epochs", "samples", "distil", "lower", "start", "finetune", "finetune_epochs")
        changed = [
            f"{name} is not as published"
            if isinstance(standard[name], TrainSettings)
            else f"{name} is {getattr(self, name)}, where the authors have {standard[name]}"
            for name in names
            if getattr(self, name) != standard[name]
        ]
        if self.shortlist is not None:
            changed.append(f"each step of the search measured {self.shortlist} candidates only, by first-order scores")
        return changed


_SETTINGS: TypeAdapter[AutoSlim] = TypeAdapter(AutoSlim)
