"""``measure_latency_table``: how long each layer of a network takes on ONNX Runtime, in all widths."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import TypeAdapter
from torch import Tensor, nn

from secateur.cost import LatencyTable, OperatorTimes, write_latency_table
from secateur.errors import ArtifactError, UsageError
from secateur.export.onnx_runtime import require_onnx
from secateur.files import write_text
from secateur.graph import ChannelGraph, trace
from secateur.measure.latency_fit import fitted
from secateur.measure.network_times import MeasuredNetwork, WholeNetwork, random_plans, whole_network
from secateur.measure.operator_times import WidthGrid, kernel_block, timed_widths, width_grid
from secateur.record import environment
from secateur.record.measurements import STRICT
from secateur.record.strict_json import read_json

PARTIAL = ".partial"
"""Behind the name of a table: what is measured so far."""

DRIFT = 0.15
"""How much slower the machine may get while a table is measured before it is said."""

_FORMAT = 1  # of partial results


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is measured; the defaults are quick.

    Attributes:
        batch_size: samples in one forward pass.
        threads: that one operator may use.
        multiple: of channels that widths are measured at.
        rounds: of each measurement, of which the least counts.
        networks: whole networks that the table is fitted to, beside the uncut one.
        held_out: further ones that only tell how well it predicts.
        seed: of their widths.
    """

    __pydantic_config__: ClassVar = STRICT

    batch_size: int = 1
    threads: int = 1
    multiple: int = 8
    rounds: int = 15
    networks: int = 4
    held_out: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        least = {"batch_size": 1, "threads": 1, "multiple": 1, "rounds": 2, "networks": 1, "held_out": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {lowest}")


class TableProgress(Protocol):
    """Told how far the measuring is."""

    def begins(self, *, steps: int, done: int) -> None:
        """So many steps there are, of which some were done by an earlier call."""

    def step(self, what: str) -> None:
        """One step begins."""

    def ends(self) -> None:
        """All is measured, or stopped."""


class QuietTable:
    """Shows nothing."""

    def begins(self, *, steps: int, done: int) -> None:
        """Show nothing."""

    def step(self, what: str) -> None:
        """Show nothing."""

    def ends(self) -> None:
        """Show nothing."""


@dataclass(kw_only=True)
class _Partial:
    """What is measured so far."""

    __pydantic_config__: ClassVar = STRICT

    made_for: dict[str, Any]
    block: int | None = None
    grids: dict[str, list[float]] = field(default_factory=dict)
    networks: list[MeasuredNetwork] = field(default_factory=list)
    format: int = _FORMAT


_PARTIAL: TypeAdapter[_Partial] = TypeAdapter(_Partial)


def measure_latency_table(
    model: nn.Module,
    example_inputs: Tensor,
    path: Path | str | None = None,
    *,
    settings: TableSettings | None = None,
    graph: ChannelGraph | None = None,
    progress: TableProgress | None = None,
) -> LatencyTable:
    """Measure what a network takes on ONNX Runtime, as a function of the channels that its layers keep.

    Every convolution and matrix product is measured in a grid of widths, with the activation that is fused into it.
    Then a few whole networks of random widths are exported as they would be shipped and measured, in turn with the
    uncut one, which tells what layers take inside a network, and everything that is no such layer. Some of them are
    held out to say how well the table predicts.

    Args:
        model: the uncut network, on the CPU; it stays as it was.
        example_inputs: samples, of which the first gives the input, shape (N, C, H, W).
        path: where the table goes. Beside it stands what is measured so far: the same call continues one that was
            stopped. None keeps nothing.
        settings: how to measure.
        graph: of ``model``; traced anew if left out.
        progress: told how far it is.

    Raises:
        ExportError: the packages of ONNX are missing, or the network cannot be exported.
        ArtifactError: ONNX Runtime refuses a model, or partial results are damaged.
        UsageError: partial results are of another measurement, or a file cannot be written.
    """
    settings, progress = settings or TableSettings(), progress or QuietTable()
    _, onnxruntime = require_onnx()
    graph = graph or trace(model, example_inputs)
    one = example_inputs[:1].detach().cpu()
    example = one.expand(settings.batch_size, *one.shape[1:]).contiguous()
    empty = _empty(graph, one, settings, onnxruntime.__version__)
    partial = _begun(path, empty, settings)
    with whole_network(model, graph, example, threads=settings.threads, rounds=settings.rounds) as network:
        try:
            operators = _operators(network, settings, partial, path, progress)
            _networks(network, settings, partial, path, progress)
        finally:
            progress.ends()
    seen = 1 + settings.networks
    table = fitted(replace(empty, operators=operators), graph, partial.networks[:seen], partial.networks[seen:])
    if path is not None:
        write_latency_table(path, table)
        _partial_path(path).unlink(missing_ok=True)
    return table


def drift_note(table: LatencyTable) -> str | None:
    """Return what to say of a machine whose speed changed while a table was measured, or None."""
    if table.drift <= DRIFT:
        return None
    return (
        f"the machine was up to {100 * table.drift:.0f} % slower at times while the table was measured, so it was not "
        "idle; whole networks were compared in turn, but the table is better measured again on an idle machine"
    )


def _operators(
    network: WholeNetwork,
    settings: TableSettings,
    partial: _Partial,
    path: Path | str | None,
    progress: TableProgress,
) -> tuple[OperatorTimes, ...]:
    """Measure every operator; equal ones once."""
    how = {"threads": settings.threads, "rounds": settings.rounds}
    if partial.block is None:
        partial.block = kernel_block(network.operators, **how)
    weights: dict[str, WidthGrid] = {}
    for operator in network.operators:
        grid = width_grid(network.graph, operator, multiple=settings.multiple, block=partial.block)
        weights.setdefault(operator.weight, grid)  # one that is called twice counts by its factor
    different = {grid.key: grid for grid in weights.values()}
    steps = len(different) + 1 + settings.networks + settings.held_out
    known = sum(key in partial.grids for key in different)
    progress.begins(steps=steps, done=known + len(partial.networks))
    for key, grid in different.items():
        if key not in partial.grids:
            progress.step(f"{grid.operator.path}: {len(grid.widths)} widths")
            partial.grids[key] = timed_widths(grid, **how)
            _keep(path, partial)
    return tuple(grid.times(partial.grids[grid.key], partial.block) for grid in weights.values())


def _networks(
    network: WholeNetwork,
    settings: TableSettings,
    partial: _Partial,
    path: Path | str | None,
    progress: TableProgress,
) -> None:
    """Measure the uncut network, those of the fit, and those held out."""
    count = settings.networks + settings.held_out
    plans = random_plans(network.graph, count, multiple=settings.multiple, seed=settings.seed)
    # Those held out lie between the others in size.
    out = [(number + 1) * count // (settings.held_out + 1) for number in range(settings.held_out)]
    order = [*(number for number in range(count) if number not in out), *out]
    for number, plan in enumerate((None, *(plans[place] for place in order))):
        if number < len(partial.networks):
            continue
        progress.step("the whole network" if plan is None else f"network {number} of {count}")
        partial.networks.append(network.measured(plan))
        _keep(path, partial)


def _empty(graph: ChannelGraph, one: Tensor, settings: TableSettings, version: str) -> LatencyTable:
    place = environment("cpu")
    return LatencyTable(
        model_class=graph.model_class,
        fingerprint=graph.fingerprint,
        macs=graph.macs(),
        input_shape=tuple(one.shape[1:]),
        batch_size=settings.batch_size,
        threads=settings.threads,
        runtime_version=version,
        machine=place.cpu,
        secateur=place.secateur,
        multiple=settings.multiple,
        operators=(),
        rest_ms_per_byte=0.0,
        scale=1.0,
        overhead_ms=0.0,
        dense_ms=1.0,
        rounds=settings.rounds,
    )


def _partial_path(path: Path | str) -> Path:
    return Path(f"{path}{PARTIAL}")


def _begun(path: Path | str | None, empty: LatencyTable, settings: TableSettings) -> _Partial:
    """Return what an earlier call measured, or nothing yet.

    Raises:
        UsageError: it is of another network, machine or setting.
        ArtifactError: it is damaged.
    """
    made_for: dict[str, Any] = {
        "model": empty.fingerprint,
        "macs": empty.macs,
        "machine": empty.machine,
        "runtime": empty.runtime_version,
        **TypeAdapter(TableSettings).dump_python(settings, mode="json"),
    }
    if path is None or not _partial_path(path).exists():
        return _Partial(made_for=made_for)
    place = _partial_path(path)
    begun = read_json(place, _PARTIAL, "partial latency table", format=_FORMAT)
    for key, value in made_for.items():
        if begun.made_for.get(key) != value:
            raise UsageError(
                f"{place} was begun with {key} = {begun.made_for.get(key)}, but this one has {value}; continue with "
                "what began it, give --out another name, or remove that file"
            )
    if len(begun.networks) > 1 + settings.networks + settings.held_out:
        raise ArtifactError(f"{place} is damaged: it has {len(begun.networks)} networks; remove that file")
    return begun


def _keep(path: Path | str | None, partial: _Partial) -> None:
    if path is not None:
        write_text(_partial_path(path), _PARTIAL.dump_json(partial).decode())
