"""What became of a budget in milliseconds, in words."""

from secateur.record import LatencyBudget
from secateur.wording import counted


def latency_facts(found: LatencyBudget | None) -> tuple[tuple[str, str], ...]:
    """Return what was asked for, predicted and measured; nothing where there was no budget in milliseconds."""
    if found is None:
        return ()
    error = "" if found.table_error is None else f" (the table is off by up to {100 * found.table_error:.1f} %)"
    asked = (
        f"at most {found.asked_ms:.3g} ms asked for, {found.asked_share:.3f} of the dense model; "
        f"{found.predicted_ms:.3g} ms predicted{error}"
    )
    how = f"{found.runtime}, batch {found.batch_size}, {counted(found.threads, 'thread')}"
    if found.measured_ms is None or found.measured_share is None or found.off is None or found.dense_ms is None:
        return (("latency budget", f"{asked}; {how}"),)
    processor = "" if found.processor_share is None else f" ({found.processor_share:.3f} of its processor time)"
    return (
        ("latency budget", asked),
        (
            "latency measured",
            f"{found.measured_ms:.3g} ms, {found.measured_share:.3f} of the dense model's {found.dense_ms:.3g} ms"
            f"{processor}; {100 * found.off:+.1f} % from what was asked for; shortest of {found.runs} runs in turn, "
            f"{how}",
        ),
    )
