"""A latency table, in words: what whole networks took, and what the table says of them."""

from secateur.cost import LatencyTable
from secateur.measure import drift_note
from secateur.report.grid import Grid
from secateur.wording import counted


def table_grid(table: LatencyTable) -> Grid:
    """Return the whole networks that the table was fitted to and tried on."""
    rows = [
        (
            "whole" if number == 0 else "held out" if one.held_out else "fitted to",
            f"{one.macs:,}",
            f"{one.measured_ms:.3f}",
            f"{one.predicted_ms:.3f}",
            f"{100 * one.error:+.1f} %",
        )
        for number, one in enumerate(table.networks)
    ]
    return Grid(
        title=f"{table.model_class}: networks of random widths",
        headers=("network", "MACs", "measured ms", "predicted ms", "off by"),
        rows=tuple(rows),
    )


def table_facts(table: LatencyTable) -> tuple[tuple[str, str], ...]:
    """Return where and how the table was measured, and how well it predicts."""
    points = sum(len(one.out_sizes) * len(one.in_sizes) for one in table.operators)
    facts = [
        ("network", f"{table.dense_ms:.3f} ms uncut, inputs of {'×'.join(map(str, table.input_shape))}"),
        (
            "measured on",
            f"{table.runtime} {table.runtime_version}, {table.precision}, batch {table.batch_size}, "
            f"{counted(table.threads, 'thread')}, {table.machine}; the shortest of {table.rounds} rounds",
        ),
        ("layers", f"{counted(len(table.operators), 'layer')}, {points:,} widths, multiples of {table.multiple}"),
    ]
    if table.worst_error is not None:
        facts.append(
            ("prediction", f"off by at most {100 * table.worst_error:.1f} % on networks that the table has not seen")
        )
    note = drift_note(table)
    return (*facts, *([("note", note)] if note else []))
