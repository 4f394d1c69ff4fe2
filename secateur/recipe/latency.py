"""Budgets in milliseconds: the table that a recipe names, and what the delivered file takes in the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from secateur.cost import Budget, LatencyTable, read_latency_table
from secateur.errors import BudgetError
from secateur.export import OnnxModel
from secateur.graph import ChannelGraph, Plan
from secateur.measure import compare_latency, steady_clock
from secateur.methods.levels import cost_after
from secateur.recipe.settings import Recipe
from secateur.record import LatencyBudget, environment

TIMED_RUNS = 100
"""Of the delivered file and of the dense one, in turn."""


@dataclass(frozen=True)
class Timing:
    """A budget in milliseconds and the table that it is told by."""

    table: LatencyTable
    budget: Budget

    def asked(self, graph: ChannelGraph, plan: Plan) -> LatencyBudget:
        """Return what was asked for and what is predicted of the network that ``plan`` leaves."""
        limit = self.budget.limits(graph)["latency_ms"]
        whole = self.budget.meter("latency_ms", graph)(graph.sizes)
        return LatencyBudget(
            asked_ms=limit,
            asked_share=limit / whole,
            predicted_ms=cost_after(graph, plan, "latency_ms", self.table),
            table_dense_ms=self.table.dense_ms,
            threads=self.table.threads,
            batch_size=self.table.batch_size,
            runtime=self.table.runtime,
            machine=environment("cpu").cpu,
            table=self.table.digest,
            table_machine=self.table.machine,
            table_error=self.table.worst_error,
        )

    def measured(self, asked: LatencyBudget, dense: Path, delivered: Path, example: Tensor) -> LatencyBudget:
        """Time the delivered file in turn with the dense one, as the table was measured.

        Raises:
            ArtifactError: a file cannot be run.
        """
        one, threads = example[:1], self.table.threads
        inputs = one.expand(self.table.batch_size, *one.shape[1:]).contiguous()
        models = OnnxModel(dense, threads=threads), OnnxModel(delivered, threads=threads)
        pair = compare_latency(*models, inputs, threads=threads, repeats=TIMED_RUNS)
        processor_share = None
        if threads == 1:
            clock = steady_clock(threads)
            steady = compare_latency(*models, inputs, threads=threads, repeats=TIMED_RUNS, clock_ns=clock)
            processor_share = steady.second.least_ms / steady.first.least_ms
        return replace(
            asked,
            measured_ms=pair.second.least_ms,
            measured_median_ms=pair.second.median_ms,
            dense_ms=pair.first.least_ms,
            dense_median_ms=pair.first.median_ms,
            processor_share=processor_share,
            runs=TIMED_RUNS,
        )


def with_table_fingerprint(recipe: Recipe) -> Recipe:
    """Return the recipe with the digest of its latency table, by which a run knows it again.

    Raises:
        ArtifactError: the table is missing or damaged.
        BudgetError: it is not the table that the recipe was made with.
    """
    if recipe.latency_table is None:
        return recipe
    found = read_latency_table(recipe.latency_table).digest
    known = recipe.latency_table_fingerprint
    if known not in (None, found):
        raise BudgetError(
            f"the recipe was made with another latency table: it names the fingerprint {known}, and "
            f"{recipe.latency_table} has {found}; give that table, or take latency_table_fingerprint out of the recipe"
        )
    return replace(recipe, latency_table_fingerprint=found)


def with_table(
    budget: Budget | None, path: str | None, graph: ChannelGraph, example: Tensor, *, threads: int | None
) -> Budget | None:
    """Return a budget with the table that a recipe or a command names; as it is where none is named.

    Args:
        budget: as it was asked for.
        path: of the table.
        graph: of the dense model.
        example: inputs of it, shape (N, C, H, W).
        threads: that were asked for; None where nobody did.

    Raises:
        ArtifactError: the table is missing or damaged.
        BudgetError: it was measured for another network, another input or other threads.
    """
    if path is None:
        return budget
    if budget is None or budget.latency_ms is None:
        raise BudgetError(
            f"there is a latency table ({path}), but no budget in milliseconds; give --latency-ms (budget.latency_ms "
            "in a recipe), such as 0.5x or 3.2ms, or leave --latency-table out"
        )
    table = read_latency_table(path)
    table.check(graph, input_shape=tuple(example.shape[1:]), threads=threads)
    return budget.with_table(table)


def timing_of(budget: Budget | None) -> Timing | None:
    """Return the budget in milliseconds, or None where there is none."""
    table = None if budget is None else budget.latency_model
    if budget is None or budget.latency_ms is None or not isinstance(table, LatencyTable):
        return None
    return Timing(table, budget)


def measured_budget(
    timing: Timing,
    asked: LatencyBudget,
    dense: Path | None,
    delivered: Path,
    example: Tensor,
    tell: Callable[[str], None],
) -> tuple[LatencyBudget, tuple[str, ...]]:
    """Time the delivered file, and return what to say where that cannot be compared with what was asked for."""
    if dense is None:
        return asked, ("the budget in milliseconds could not be checked, because there is no ONNX file to time",)
    tell(f"timing the delivered file against its budget of {asked.asked_ms:.3g} ms: {TIMED_RUNS} runs, in turn")
    found, notes = timing.measured(asked, dense, delivered, example), []
    if asked.machine != asked.table_machine:
        notes.append(
            f"the latency table was measured on {asked.table_machine}, and the file was timed on {asked.machine}; what "
            "it takes there says little about the budget"
        )
    return found, tuple(notes)
