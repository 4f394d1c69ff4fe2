"""The INT8 file of a run: float beside integers, the comparison of calibrators, and what runs in float and why."""

import shlex
from collections.abc import Mapping

from secateur.record import Int8, Measurement, RunRecord
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, latency, of_dense, share, size
from secateur.wording import counted

ALONE = {
    "dense": "fp32, torch",
    "dense_onnx": "fp32, ONNX Runtime",
    "simulated": "INT8, simulated",
    "int8": "INT8, ONNX Runtime",
    "openvino": "INT8, OpenVINO",
}
"""Keys of ``RunRecord.measurements`` of a model that was only brought to integers, and what they are called."""

AFTER_A_CUT = {
    "dense": "dense fp32, torch",
    "tuned": "cut fp32, torch",
    "dense_onnx": "dense fp32, ONNX Runtime",
    "onnx": "cut fp32, ONNX Runtime",
    "simulated": "cut INT8, simulated",
    "int8": "cut INT8, ONNX Runtime: ships",
    "openvino": "cut INT8, OpenVINO",
}
"""The same of a run that cut the model before."""


def int8_grid(record: RunRecord) -> Grid:
    """Return float beside integers: accuracy, latency of one sample and of a batch, bytes."""
    titles = AFTER_A_CUT if "tuned" in record.measurements else ALONE
    dense = record.measurements.get("dense", Measurement())
    rows, batch, name = [], 0, "top-1"
    for key, title in titles.items():
        value = record.measurements.get(key)
        if value is None:
            continue
        batch = value.batch_latency.batch_size if value.batch_latency else batch
        name = value.test.score_name if value.test else name
        rows.append(
            (
                title,
                share(value.test.score) if value.test else NOTHING,
                latency(value.latency),
                latency(value.batch_latency),
                f"{size(value.size_bytes)}{of_dense(value.size_bytes, dense.size_bytes)}",
            )
        )
    samples = dense.test.samples if dense.test else 0
    headers = ("model", name, "latency, batch 1", f"latency, batch {batch}", "file")
    return Grid(f"Float and INT8, on {counted(samples, 'test sample')}", headers, tuple(rows))


def calibrator_grid(found: Int8) -> Grid:
    """Return what each calibrator did on the validation split."""
    rows = tuple(
        (
            f"{trial.calibrator}{' ← picked' if trial.calibrator == found.calibrator else ''}",
            f"{trial.divergence_nats:.3g}",
            share(trial.validation.score),
            str(trial.fallbacks),
        )
        for trial in found.trials
    )
    name = found.trials[0].validation.score_name if found.trials else "top-1"
    headers = ("calibrator", "divergence from fp32 (nats)", f"validation {name}", "sites that took max instead")
    return Grid("Calibrators, simulated on the validation split, all from one pass", headers, rows)


def int8_facts(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return how the file was made, how it runs, how far it agrees with the simulation, and what runs in float."""
    found = record.int8
    if found is None:
        return ()
    met = found.agreement
    weights = "one step per weight" if found.per_tensor_weights else "one step per output channel"
    bits = "" if found.weight_bits == 8 else f", weights of {found.weight_bits} bits"
    facts = [
        (
            "calibration",
            f"{found.calibrator} on {counted(len(found.indices), 'training image')} (seed {found.seed}), "
            f"{counted(found.sites, 'site')}, {weights}{bits}, target {found.target}",
        ),
        *(("repair", line) for line in found.repairs),
        *((("left in float for accuracy", ", ".join(found.left_in_float)),) if found.left_in_float else ()),
        (
            "simulation and file",
            f"the same prediction on {share(met.equal / met.samples)} of {met.samples:,} ({met.samples - met.equal} "
            f"differ); largest difference of a logit {met.max_difference:.1e}",
        ),
        ("in integers", f"{integers_in_words(found)} ({found.runtime})"),
        *(("in float", _of_float(entry.kind, entry.module, entry.reason)) for entry in found.in_float),
        *((("in float", "nothing"),) if not found.in_float else ()),
    ]
    if found.masked_weights is not None:
        facts.append(("pruned weights", f"all {found.masked_weights:,} are 0 in the file"))
    if found.openvino is not None:
        facts.append(("OpenVINO", f"{found.openvino}; timed by itself, after the others"))
    facts += [("range", f"{site}: {note}") for site, note in found.site_notes.items()]
    return tuple(facts)


def integers_in_words(found: Int8) -> str:
    """Return how many operators of each kind run in integers, such as ``21 of 21 Conv, 9 of 9 Add``."""
    return ", ".join(f"{found.in_integers.get(kind, 0)} of {count} {kind}" for kind, count in found.operators.items())


def timing_facts(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return how latencies were taken."""
    timing = next((value.latency for value in record.measurements.values() if value.latency), None)
    if timing is None:
        return ()
    text = (
        f"median ± distance of the quartiles of {timing.repeats} runs at batch 1, {counted(timing.threads, 'thread')}, "
        "CPU; models timed in turn"
    )
    return (("latency", text),)


def int8_sections(record: RunRecord) -> list[str]:
    """Return the section of a report on the INT8 file, if there is one."""
    if record.int8 is None:
        return []
    grid = int8_grid(record)
    parts = [f"## {grid.title}", grid.to_markdown()]
    if record.int8.trials:
        grid = calibrator_grid(record.int8)
        parts += [f"{grid.title}:", grid.to_markdown()]
    return parts


def int8_markdown(record: RunRecord) -> str:
    """Return the page of a model that was brought to INT8, as Markdown."""
    model, data = record.settings.get("model"), record.settings.get("data")
    names = [str(part["spec"]) for part in (model, data) if isinstance(part, Mapping) and "spec" in part]
    facts = [*int8_facts(record), *timing_facts(record), *(("note", note) for note in record.notes)]
    parts = [
        f"# {' on '.join(names)}: brought to INT8",
        f"`{shlex.join(record.command) or 'secateur.quantize'}`",
        *int8_sections(record),
        "\n".join(f"* **{label}**: {text}" for label, text in facts),
        "## Where it ran",
        "\n".join(f"* {name}: {value}" for name, value in vars(record.environment).items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of_float(kind: str, module: str, reason: str) -> str:
    return f"{kind}{f' {module}' if module else ''}: {reason}"
