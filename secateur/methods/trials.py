"""A search and its candidates, which are cut, briefly trained and measured one by one, and known from then on."""

import contextlib
import json
import shutil
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, JsonValue, TypeAdapter
from torch import nn

from secateur.cost import Budget
from secateur.errors import ArtifactError, BudgetError, TrainingError, UsageError
from secateur.graph import ChannelGraph
from secateur.methods.contract import Method, Progress
from secateur.methods.levels import cost_after
from secateur.record import Evaluation, with_defaults
from secateur.record.measurements import STRICT
from secateur.record.strict_json import read_json, write_json
from secateur.training import Store, Task, join_processes, weights_digest

FORMAT = 1  # of the JSON of a search; another number is refused

BETWEEN_CUTS = ("layer_epochs", "step_epochs")
"""Settings of methods that train between their cuts, which candidates do not."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One budget that was tried: what it gave, or why it cannot be met."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    share: float  # of the original's amount, asked for
    reached: float | None = None  # share that is left; at most the one asked for
    macs: int | None = None  # per sample
    params: int | None = None
    after_cut: Evaluation | None = None  # on the validation split, before any recovery
    validation: Evaluation | None = None  # on the validation split, after the recovery
    drop_points: float | None = None  # percentage points of score below the dense model, after the recovery
    within: bool = False  # whether that is near enough
    reason: str | None = None  # why the budget cannot be met
    bit_for_bit: bool = True  # the numbers are guaranteed to equal those of an unbroken search


@dataclass(frozen=True, kw_only=True)
class Search:
    """What :func:`secateur.methods.smallest.smallest_within` found; its ``curve`` is accuracy against budget."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    amount: str  # the quantity that was made small, a name of Budget's
    max_drop_points: float  # percentage points of the validation score
    recovery_epochs: int  # that every candidate got
    budget: Budget | None = None  # the smallest within the drop, with the other limits; None where none is
    share: float | None = None  # of the original's amount, in that budget
    dense: Evaluation  # on the validation split
    standard_error_points: float  # of the dense model's top-1, in percentage points; 0 for a mean IoU
    curve: tuple[Candidate, ...]  # by share, smallest first
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that the budget was taken from; None where nothing is near enough."""
        return next((candidate for candidate in self.curve if candidate.share == self.share), None)


class NothingNearError(BudgetError):
    """No candidate of a search came within the drop.

    Attributes:
        search: what was measured, without a budget.
    """

    def __init__(self, message: str, search: Search) -> None:
        super().__init__(message)
        self.search = search


_CANDIDATE = TypeAdapter(Candidate)
_EVALUATION = TypeAdapter(Evaluation)
_SEARCH = TypeAdapter(Search)


def write_search(path: Path | str, search: Search) -> None:
    """Write ``search`` as indented JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_json(path, _SEARCH, search)


def read_search(path: Path | str) -> Search:
    """Return the search in a file that :func:`write_search` wrote.

    Raises:
        ArtifactError: the file is missing, is not a search, or has keys or a format that are not known.
    """
    search = read_json(path, _SEARCH, "search", format=FORMAT)
    if search.chosen is None and (search.share is not None or search.budget is not None):
        raise ArtifactError(f"{path} is not a search: no candidate of its curve has the chosen share {search.share}")
    return search


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Everything that all candidates of a search share, and the store that knows the finished ones.

    Attributes:
        method: how to cut; its training is replaced by the recovery.
        model: the trained dense model.
        graph: of that model.
        task: trains and evaluates.
        store: keeps results; the weights of a candidate lie in a folder of it, which goes when its result is kept.
        amount: the quantity that is made small, a name of Budget's.
        also: other limits, which every candidate holds too.
        recovery_epochs: passes over the training data after the cut.
        tell: told what is being done.
    """

    method: Method
    model: nn.Module
    graph: ChannelGraph
    task: Task
    store: Store
    amount: str
    also: Budget | None
    recovery_epochs: int
    tell: Progress

    def budget(self, share: float) -> Budget:
        """Return the budget of a candidate: its share, and the other limits."""
        return budget_of(self.amount, share, self.also)

    def dense(self) -> Evaluation:
        """Return the dense model's validation accuracy, measured once.

        Raises:
            TrainingError: the store belongs to another search.
        """
        known = self._recalled("smallest-dense", self._subject)
        if known is not None:
            return _EVALUATION.validate_python(known)
        result = self.task.evaluate(self.model)
        self._keep("smallest-dense", self._subject, _EVALUATION.dump_json(result))
        return result

    def measured(self, share: Fraction) -> Candidate:
        """Return what the candidate with ``share`` gave: known, continued where it was killed, or measured now.

        Raises:
            TrainingError: a loss is not finite, or the store belongs to another search.
        """
        name = f"{share.numerator}-of-{share.denominator}"
        budget, folder = self.budget(float(share)), self.store.folder / "candidates" / name
        settings: JsonValue = TypeAdapter(type(self._quick)).dump_python(self._quick, mode="json")
        limits: dict[str, JsonValue] = budget.to_json()
        asked = {**self._subject, "method": self.method.name, "settings": settings, "budget": limits}
        known = self._recalled(f"smallest-{name}", asked)
        if known is not None:
            candidate = _CANDIDATE.validate_python(known)
        else:
            candidate = self._tried(float(share), budget, Store(folder))
            self._keep(f"smallest-{name}", asked, _CANDIDATE.dump_json(candidate))
        # Not before the result is on disk; a search that is killed in between passes here again.
        if join_processes().first:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
        return candidate

    def _tried(self, share: float, budget: Budget, own: Store) -> Candidate:
        def tell(message: str) -> None:
            self.tell(f"{self.amount} {share:g}: {message}")

        try:
            result = self._quick.compress(self.model, self.task, budget, store=own, progress=tell)
        except BudgetError as error:
            return Candidate(share=share, reason=str(error))
        whole = budget.meter(self.amount, self.graph)(self.graph.sizes)
        return Candidate(
            share=share,
            reached=cost_after(self.graph, result.plan, self.amount, budget.latency_model) / whole,
            macs=self.graph.macs(result.plan),
            params=self.graph.params(result.plan),
            after_cut=result.record.after_cut,
            validation=self.task.evaluate(result.model),
            bit_for_bit=all(phase.bit_for_bit for phase in result.record.phases),
        )

    @cached_property
    def _quick(self) -> Method:
        """The method with the recovery in place of its own fine-tuning, and no training between cuts."""
        settings: Any = self.method
        if not is_dataclass(settings) or isinstance(settings, type):
            raise UsageError(f"{settings!r} is no method: its settings are not the fields of a dataclass")
        between = {entry.name: 0 for entry in fields(settings) if entry.name in BETWEEN_CUTS}
        quick: Any = replace(settings, finetune_epochs=self.recovery_epochs, **between)
        return cast(Method, quick)

    @cached_property
    def _subject(self) -> dict[str, JsonValue]:
        """The dense model, by its structure and its numbers."""
        return {"model": self.graph.fingerprint, "weights": weights_digest(self.model)}

    def _keep(self, name: str, made_for: dict[str, JsonValue], result: bytes) -> None:
        self.store.keep(name, {"made_for": made_for, "result": json.loads(result)})

    def _recalled(self, name: str, made_for: dict[str, JsonValue]) -> JsonValue:
        """Return what an earlier run of the same search kept, or None.

        Raises:
            TrainingError: it was another search; names what differs, with both values.
        """
        entry = self.store.recall(name)
        if entry is None:
            return None
        values = entry.values if isinstance(entry.values, dict) else {}
        begun = values.get("made_for")
        if not isinstance(begun, dict) or "result" not in values:
            raise TrainingError(f"{name} in {self.store.folder} is not a result of a search; use another folder")
        settings = begun.get("settings")
        if isinstance(settings, dict):  # a setting that is new since then has its default
            begun = {**begun, "settings": dict(with_defaults(settings, TypeAdapter(type(self._quick))))}
        for key, value in made_for.items():
            # As text, because the order of ratios decides and mappings are equal in any order.
            if json.dumps(begun.get(key)) != json.dumps(value):
                raise TrainingError(
                    f"the store {self.store.folder} belongs to another search: {name} was measured for {key} = "
                    f"{begun.get(key)}, not {value}; continue with the settings that began it, or use another folder"
                )
        return values["result"]


def budget_of(amount: str, share: float, also: Budget | None) -> Budget:
    """Return ``also`` with ``amount`` limited to ``share``, which replaces a larger limit on the same amount."""
    others: dict[str, Any] = {} if also is None else also.given()
    limits = {**others, amount: share}
    return Budget(**limits) if also is None else also.with_limits(limits)
