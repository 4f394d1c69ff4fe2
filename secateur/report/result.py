"""The result of a run: the before/after table, and the facts that belong to it."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from secateur.record import Measurement, Proof, RunRecord
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, count, latency, of_dense, share, size

MODELS = {
    "dense": "dense",
    "cut": "cut",
    "tuned": "fine-tuned",
    "dense_onnx": "dense, ONNX",
    "onnx": "fine-tuned, ONNX",
}
"""Keys of ``RunRecord.measurements`` in the order of the table, and what they are called."""

NAMED_GROUPS = 4  # per reason, in the list of what stayed locked


def result_grid(record: RunRecord) -> Grid:
    """Return the before/after table of a run."""
    dense = record.measurements.get("dense", Measurement())
    rows = [
        (title, *_cells(record.measurements[key], dense))
        for key, title in model_titles(record).items()
        if key in record.measurements
    ]
    samples = dense.test.samples if dense.test else 0
    return Grid(
        title=f"Before and after, on {samples:,} test samples",
        headers=("model", "top-1", "loss", "MACs", "parameters", "file", "peak activations", "latency"),
        rows=tuple(rows),
    )


def model_titles(record: RunRecord) -> dict[str, str]:
    """Return what the measured models of a run are called; a control was not fine-tuned."""
    if record.settings.get("control") != "scratch":
        return MODELS
    return {key: title.replace("fine-tuned", "from scratch") for key, title in MODELS.items()}


def result_facts(record: RunRecord, folder: Path | str | None = None) -> tuple[tuple[str, str], ...]:
    """Return what the table cannot hold: proof, agreement, what stayed locked, notes, and where the files are."""
    facts = [("proof", proof_text(record.proof))]
    if record.agreement is not None:
        met = record.agreement
        same = "every one" if met.equal == met.samples else f"{met.equal:,}"
        facts.append(
            (
                "ONNX and torch",
                f"the same class on {same} of {met.samples:,} test samples; largest logit difference "
                f"{met.max_difference:.1e}",
            )
        )
    timing = next((value.latency for value in record.measurements.values() if value.latency), None)
    if timing is not None:
        facts.append(
            (
                "latency",
                f"median ± distance of the quartiles of {timing.repeats} runs, batch {timing.batch_size}, "
                f"{timing.threads} thread(s), {timing.device}; models timed in turn",
            )
        )
    if record.prunable_share_of_macs is not None:
        facts.append(("can be cut", f"at most {share(record.prunable_share_of_macs, 1)} of the MACs of this model"))
    facts += [("locked", text) for text in locked_texts(record.locked)] or [("locked", "nothing")]
    facts += [("note", note) for note in record.notes]
    if record.resumed:
        exact = "bit for bit as if it had not been" if record.bit_for_bit else "not bit for bit as if it had not been"
        facts.append(("continued", f"this run was interrupted and continued, {exact}"))
    facts += [(_FILE_TITLES.get(what, what), str(Path(folder or "") / name)) for what, name in record.files.items()]
    return tuple(facts)


_FILE_TITLES = {"dense": "dense model", "model": "model file", "onnx": "ONNX file"}


def proof_text(proof: Proof | None) -> str:
    """Return the proof in one line."""
    if proof is None:
        return "none"
    return (
        f"{proof.verdict}: max|masked − cut| / max|original − masked| = {proof.relative_error:.1e} in float64, "
        f"relative error {proof.float32_error:.1e} in float32"
    )


def locked_texts(locked: Mapping[str, str]) -> list[str]:
    """Return what stayed locked, one line per reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for group, reason in locked.items():
        by_reason[reason].append(group)
    lines = []
    for reason, groups in by_reason.items():
        names = ", ".join(groups[:NAMED_GROUPS])
        more = f" and {len(groups) - NAMED_GROUPS} more" if len(groups) > NAMED_GROUPS else ""
        lines.append(f"{names}{more}: {reason}")
    return lines


def _cells(value: Measurement, dense: Measurement) -> tuple[str, ...]:
    return (
        share(value.test.top1) if value.test else NOTHING,
        f"{value.test.loss:.4f}" if value.test else NOTHING,
        count(value.macs) + of_dense(value.macs, dense.macs),
        count(value.params) + of_dense(value.params, dense.params),
        size(value.size_bytes) + of_dense(value.size_bytes, dense.size_bytes),
        size(value.activation_bytes) + of_dense(value.activation_bytes, dense.activation_bytes),
        latency(value.latency),
    )
