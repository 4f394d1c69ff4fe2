"""The result of a run: the before/after table, and the facts that belong to it."""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from secateur.record import MEAN_IOU, TOP1, Evaluation, Measurement, Proof, RunRecord
from secateur.report.grid import Grid
from secateur.report.int8 import int8_facts
from secateur.report.latency_budget import latency_facts
from secateur.report.pruned_weights import pruned_facts
from secateur.report.restored import restored_facts
from secateur.report.values import NOTHING, count, latency, of_dense, share, size
from secateur.wording import counted

MODELS = {
    "dense": "dense",
    "cut": "cut",
    "tuned": "fine-tuned",
    "sparse": "compact file, decoded",
    "dense_onnx": "dense, ONNX",
    "onnx": "fine-tuned, ONNX",
    "int8": "fine-tuned, INT8",
}
"""Keys of ``RunRecord.measurements`` in the order of the table, and what they are called."""

FILES = {
    "dense": "dense model",
    "model": "model file",
    "sparse": "compact file",
    "onnx": "ONNX file",
    "int8": "INT8 file, which ships",
    "steps": "steps",
    "steps_scores_png": "scores of each step, PNG",
    "steps_scores_svg": "scores of each step, SVG",
    "steps_kept_png": "what each step left, PNG",
    "steps_kept_svg": "what each step left, SVG",
    "steps_accuracy_png": "accuracy at each step, PNG",
    "steps_accuracy_svg": "accuracy at each step, SVG",
    "weights_scans_png": "sensitivity of layers, PNG",
    "weights_scans_svg": "sensitivity of layers, SVG",
    "weights_histograms_png": "spread of weights, PNG",
    "weights_histograms_svg": "spread of weights, SVG",
    "weights_pattern_png": "pattern over the image, PNG",
    "weights_pattern_svg": "pattern over the image, SVG",
    "tradeoff": "trade-off",
    "tradeoff_png": "trade-off, PNG",
    "tradeoff_svg": "trade-off, SVG",
}
"""What files of a run are called where their key in ``RunRecord.files`` does not say it well."""

FEW_SAMPLES = 100  # of a split; with fewer, one sample is more than a point
NAMED_GROUPS = 4  # per reason, in the list of what stayed locked


def result_grid(record: RunRecord) -> Grid:
    """Return the before/after table of a run."""
    dense = record.measurements.get("dense", Measurement())
    rows = [
        (title, *_cells(record.measurements[key], dense, sparse=record.weights is not None))
        for key, title in model_titles(record).items()
        if key in record.measurements
    ]
    samples = dense.test.samples if dense.test else 0
    return Grid(
        title=f"Before and after, on {counted(samples, 'test sample')}",
        headers=(
            *("model", score_name(record), "loss", "MACs", "parameters"),
            *(("non-zeros",) if record.weights is not None else ()),
            *("file", "peak activations", "latency"),
        ),
        rows=tuple(rows),
    )


def score_name(record: RunRecord) -> str:
    """Return what the models of a run are compared by: top-1, or mIoU where each pixel has a class."""
    measured = (found for value in record.measurements.values() for found in (value.validation, value.test) if found)
    trained = (epoch.validation for phase in record.phases for epoch in phase.epochs if epoch.validation)
    return next((found.score_name for found in (*measured, *trained)), TOP1)


def model_titles(record: RunRecord) -> dict[str, str]:
    """Return what the measured models of a run are called; a control was not fine-tuned, nor what was only restored."""
    if record.settings.get("control") == "scratch":
        made = "from scratch"
    elif record.restored and not any(phase.epochs for phase in record.phases if phase.phase != "dense"):
        made = "restored"
    else:
        return MODELS
    return {key: title.replace("fine-tuned", made) for key, title in MODELS.items()}


def result_facts(record: RunRecord, folder: Path | str | None = None) -> tuple[tuple[str, str], ...]:
    """Return what the table cannot hold: proof, agreement, what stayed locked, notes, and where the files are."""
    facts = [("samples", text)] if (text := samples_text(record)) else []
    if record.weights is None or record.proof is not None:
        facts.append(("proof", proof_text(record.proof)))
    facts += pruned_facts(record.weights)
    facts += int8_facts(record)
    facts += restored_facts(record.restored)
    if record.agreement is not None:
        met = record.agreement
        same = "every one" if met.equal == met.samples else f"{met.equal:,}"
        compared = "labelled test pixels" if score_name(record) == MEAN_IOU else "test samples"
        facts.append(
            (
                "ONNX and torch",
                f"the same class on {same} of {met.samples:,} {compared}; largest logit difference "
                f"{met.max_difference:.1e}",
            )
        )
    timing = next((value.latency for value in record.measurements.values() if value.latency), None)
    if timing is not None:
        facts.append(
            (
                "latency",
                f"median ± distance of the quartiles of {timing.repeats} runs, batch {timing.batch_size}, "
                f"{counted(timing.threads, 'thread')}, {timing.device}; models timed in turn",
            )
        )
    facts += latency_facts(record.latency_budget)
    if record.prunable_share_of_macs is not None:
        facts.append(("can be cut", f"at most {share(record.prunable_share_of_macs, 1)} of the MACs of this model"))
    if record.weights is None:  # which need no channel to be free
        facts += [("locked", text) for text in locked_texts(record.locked)] or [("locked", "nothing")]
    facts += [("note", note) for note in (*weak_comparisons(record), *record.notes)]
    if record.resumed:
        exact = "bit for bit as if it had not been" if record.bit_for_bit else "not bit for bit as if it had not been"
        facts.append(("continued", f"this run was interrupted and continued, {exact}"))
    facts += [
        (FILES.get(what, what.replace("_", " ")), str(Path(folder or "") / name)) for what, name in record.files.items()
    ]
    return tuple(facts)


def samples_text(record: RunRecord) -> str:
    """Return how many samples each split has, or nothing where the dense model was not evaluated."""
    return ", ".join(f"{found.samples:,} {split}" for split, found in _dense_evaluations(record).items())


def weak_comparisons(record: RunRecord) -> list[str]:
    """Return why the accuracies of a run say little: few samples, or a dense model that only guesses."""
    splits = _dense_evaluations(record)
    notes = [
        f"{counted(found.samples, f'{split} sample')}: one sample is {100 / found.samples:.3g} points of top-1"
        for split, found in splits.items()
        if 0 < found.samples < FEW_SAMPLES and found.top1 is not None
    ]
    guesses = [text for split, found in splits.items() if (text := _guess_text(split, found, _classes(record)))]
    if guesses and record.width_search is not None:
        notes.append(
            "the dense model is the super-net before it was trained, so its accuracy is that of guessing "
            f"({' and '.join(guesses)}); compare with the uniform network of as many multiply-adds instead"
        )
    elif guesses:
        notes.append(
            f"the dense model's top-1 is no better than guessing: {' and '.join(guesses)}; so the other rows say "
            "nothing about what the cut costs. Train the dense model for longer, or check its weights and preprocessing"
        )
    return notes


def _classes(record: RunRecord) -> int | None:
    if record.classes is not None:
        return record.classes
    model = record.settings.get("model")
    classes = model.get("num_classes") if isinstance(model, dict) else None
    return classes if isinstance(classes, int) and classes > 1 else None


def _guess_text(split: str, found: Evaluation, classes: int | None) -> str:
    """Return that a top-1 is within two standard errors of guessing, or nothing where it is above or nobody can tell.

    Without the number of classes the top-5 tells: whoever guesses is right as often with each of the five most likely
    classes. With five classes or fewer the top-5 is always right, and tells nothing.
    Of a mean IoU nobody can tell, because what guessing gives depends on how common each class is.
    """
    if found.top1 is None or (classes is None and not 0 < (found.top5 or 0) < 1):
        return ""
    chance = 1 / classes if classes is not None else (found.top5 or 0) / 5
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / max(1, found.samples))
    return f"{share(found.top1)} on {split}, where guessing gives up to {share(limit)}" if found.top1 <= limit else ""


def _dense_evaluations(record: RunRecord) -> dict[str, Evaluation]:
    dense = record.measurements.get("dense", Measurement())
    return {split: found for split in ("validation", "test") if (found := getattr(dense, split)) is not None}


def proof_text(proof: Proof | None) -> str:
    """Return the proof in one line."""
    if proof is None:
        return "none"
    drift = (
        ""
        if proof.drift is None
        else (
            f"drift {proof.drift:.1e} of the effect and {proof.drift_of_output:.1e} of the output, because channels "
            "are normalised together; exact up to these statistics, "
        )
    )
    return (
        f"{proof.verdict}: {drift}max|masked − cut| / max|original − masked| = {proof.relative_error:.1e} in float64, "
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


def _cells(value: Measurement, dense: Measurement, *, sparse: bool) -> tuple[str, ...]:
    return (
        share(value.test.score) if value.test else NOTHING,
        f"{value.test.loss:.4f}" if value.test else NOTHING,
        count(value.macs) + of_dense(value.macs, dense.macs),
        count(value.params) + of_dense(value.params, dense.params),
        *([count(value.nonzeros) + of_dense(value.nonzeros, dense.nonzeros)] if sparse else []),
        size(value.size_bytes) + of_dense(value.size_bytes, dense.size_bytes),
        size(value.activation_bytes) + of_dense(value.activation_bytes, dense.activation_bytes),
        latency(value.latency),
    )
