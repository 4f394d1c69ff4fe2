"""What a prune job measures at its end: the dense model, the cut one, and the files it wrote."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn

from secateur import record
from secateur.cost import profile_graph
from secateur.data import DataSource
from secateur.errors import ExportError
from secateur.export import OnnxModel, export_onnx, save
from secateur.graph import ChannelGraph, Plan, apply
from secateur.measure import compare_latency, compare_predictions, evaluate_artifact, open_classifier
from secateur.recipe.latency import Timing, measured_budget
from secateur.recipe.sparse_files import unpack_file
from secateur.recipe.subject import Subject
from secateur.record import Evaluation, Measurement, PrunedWeights
from secateur.training import SupervisedTask
from secateur.user_code import names_user_code
from secateur.wording import counted

LATENCY_REPEATS = 50


@dataclass(kw_only=True)
class Measured:
    """What was measured so far.

    Attributes:
        measurements: by the keys of ``RunRecord.measurements``.
        agreement: of the ONNX file with torch.
        latency_budget: what became of a budget in milliseconds.
        int8: how the INT8 file was made, where there is one.
        files: of a diagnosis of the INT8 file, by what they are.
        notes: what could not be measured and why.
    """

    measurements: dict[str, Measurement] = field(default_factory=dict)
    agreement: record.Agreement | None = None
    latency_budget: record.LatencyBudget | None = None
    int8: record.Int8 | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What there is to measure.

    Attributes:
        subject: the dense model.
        data: what it is evaluated on.
        graph: of the dense model.
        plan: what was cut.
        weights: which weights were pruned; None where none were.
        trained_between_cuts: whether weights changed on the way to the last cut, so that the cut model is not the dense
            one cut.
        after_cut: accuracy on the validation split right after the last cut and before anything was restored, as the
            method measured it.
        task: evaluates.
        model_file: the fine-tuned model.
        sparse_file: its compact file, where weights were pruned.
        onnx_file: where its ONNX file goes.
        exports_onnx: whether there is to be one.
        timing: a budget in milliseconds, if there is one.
        threads: that latency is measured with; idle threads of one model disturb the other, so 1 is steadiest.
    """

    subject: Subject
    data: DataSource
    graph: ChannelGraph
    plan: Plan
    weights: PrunedWeights | None
    trained_between_cuts: bool
    after_cut: Evaluation | None
    task: SupervisedTask
    model_file: Path
    sparse_file: Path
    onnx_file: Path
    exports_onnx: bool
    threads: int
    timing: Timing | None = None

    @property
    def code(self) -> str | None:
        """The user's function that builds the model, if one does."""
        name = self.subject.builder.name
        return name if names_user_code(name) else None


def measure_all(finished: Finished, tell: Callable[[str], None]) -> Measured:
    """Evaluate everything on the test split, export ONNX, compare it with torch, and time dense and cut in turn.

    The model file and the ONNX file are read back and evaluated as anybody would: these are the numbers reported.

    Raises:
        ArtifactError: a file cannot be read back.
        DataError: the data cannot be read.
        UsageError: a file cannot be written.
    """
    found = Measured()
    tell("evaluating the dense, the cut and the fine-tuned model on the test split")
    dense = finished.subject.model
    found.measurements["dense"] = _measured(finished, dense, finished.graph)
    found.measurements["cut"] = _after_cut(finished, found)
    found.measurements["tuned"] = replace(
        _costs(finished.graph.after(finished.plan)),
        validation=_validation(finished, finished.model_file),
        test=_evaluated(finished, finished.model_file),
        size_bytes=finished.model_file.stat().st_size,
    )
    if finished.weights is not None:
        _note(found, "dense", nonzeros=finished.weights.parameters)
        _note(found, "tuned", nonzeros=finished.weights.nonzeros)
        if finished.weights.file is not None and finished.weights.file.values != "fp32":
            found.measurements["sparse"] = _decoded(finished, found.measurements["tuned"])
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        dense_file, dense_onnx = Path(folder, "dense.safetensors"), Path(folder, "dense.onnx")
        save(dense, dense_file)
        _note(found, "dense", size_bytes=dense_file.stat().st_size)
        _note(found, "cut", size_bytes=finished.model_file.stat().st_size)
        tuned, _ = open_classifier(finished.model_file, device=finished.task.device, code=finished.code)
        assert isinstance(tuned, nn.Module)
        exported = False
        if finished.exports_onnx:
            tell("exporting ONNX and evaluating the file in ONNX Runtime")
            exported = _export(finished, found, tuned, dense_onnx)
        tell(f"measuring latency: {LATENCY_REPEATS} runs each, in turn, {counted(finished.threads, 'thread')}")
        _time(finished, found, tuned, dense_onnx if exported else None)
        if finished.timing is not None:
            asked = finished.timing.asked(finished.graph, finished.plan)
            example = finished.subject.example_inputs
            found.latency_budget, notes = measured_budget(
                finished.timing, asked, dense_onnx if exported else None, finished.onnx_file, example, tell
            )
            found.notes += notes
    return found


def _decoded(finished: Finished, tuned: Measurement) -> Measurement:
    """Return what the compact file decodes to, evaluated as anybody would who unpacks it."""
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        unpacked = Path(folder, "model.safetensors")
        unpack_file(finished.sparse_file, unpacked)
        return replace(
            tuned,
            validation=_validation(finished, unpacked),
            test=_evaluated(finished, unpacked),
            size_bytes=finished.sparse_file.stat().st_size,
        )


def _after_cut(finished: Finished, found: Measured) -> Measurement:
    """Return what the model is right after the last cut; with training between cuts only the method saw it."""
    graph = finished.graph.after(finished.plan)
    if finished.weights is not None:
        last = finished.weights.rounds[-1]
        found.notes.append(
            f"the row 'cut' is the model right after the last weights were removed ({last.nonzeros:,} non-zeros), "
            f"before it was retrained; it was evaluated on the validation split only ({last.after_cut.in_words()})"
        )
        return replace(_costs(finished.graph), validation=last.after_cut, nonzeros=last.nonzeros)
    if not finished.trained_between_cuts:
        return _measured(finished, apply(finished.subject.model, finished.plan, verify_with=None), graph)
    seen = finished.after_cut
    found.notes.append(
        "weights changed on the way to the last cut, so the row 'cut' is the model right after it, not the dense one "
        "cut; it was evaluated on the validation split only" + (f" ({seen.in_words()})" if seen is not None else "")
    )
    return replace(_costs(graph), validation=seen)


def _measured(finished: Finished, model: nn.Module, graph: ChannelGraph) -> Measurement:
    return replace(_costs(graph), validation=finished.task.evaluate(model), test=finished.task.evaluate(model, "test"))


def _costs(graph: ChannelGraph) -> Measurement:
    costs = profile_graph(graph)
    return Measurement(macs=costs.macs, params=costs.params, activation_bytes=costs.activation_bytes)


def _validation(finished: Finished, path: Path) -> Evaluation:
    return evaluate_artifact(path, finished.data, split="validation", device=finished.task.device, code=finished.code)


def _evaluated(finished: Finished, path: Path) -> Evaluation:
    return evaluate_artifact(path, finished.data, device=finished.task.device, code=finished.code)


def _export(finished: Finished, found: Measured, tuned: nn.Module, dense_onnx: Path) -> bool:
    """Export both models; a model that ONNX cannot express leaves a note, because the model file is there already."""
    inputs, preprocessing = finished.subject.example_inputs, finished.subject.preprocessing
    try:
        export_onnx(tuned, finished.onnx_file, inputs, preprocessing=preprocessing)
        export_onnx(finished.subject.model, dense_onnx, inputs, preprocessing=preprocessing)
    except ExportError as error:
        found.notes.append(f"there is no ONNX file: {error}")
        return False
    tuned_values = found.measurements["tuned"]
    found.measurements["dense_onnx"] = replace(
        found.measurements["dense"],
        size_bytes=dense_onnx.stat().st_size,
        validation=None,
        test=_evaluated(finished, dense_onnx),
    )
    found.measurements["onnx"] = replace(
        tuned_values,
        validation=_validation(finished, finished.onnx_file),
        test=_evaluated(finished, finished.onnx_file),
        size_bytes=finished.onnx_file.stat().st_size,
    )
    runnable = OnnxModel(finished.onnx_file, threads=finished.threads)
    agreement = compare_predictions(tuned, runnable, finished.data, device=finished.task.device)
    found.agreement = record.Agreement(**asdict(agreement))
    return True


def _time(finished: Finished, found: Measured, tuned: nn.Module, dense_onnx: Path | None) -> None:
    one, device = finished.subject.example_inputs[:1], finished.task.device
    pair = compare_latency(
        finished.subject.model, tuned, one, threads=finished.threads, repeats=LATENCY_REPEATS, device=device
    )
    _note(found, "dense", latency=pair.first.to_record())
    _note(found, "tuned", latency=pair.second.to_record())
    if dense_onnx is not None:
        pair = compare_latency(dense_onnx, finished.onnx_file, one, threads=finished.threads, repeats=LATENCY_REPEATS)
        _note(found, "dense_onnx", latency=pair.first.to_record())
        _note(found, "onnx", latency=pair.second.to_record())
        if finished.weights is not None:
            found.notes.append(
                "in ONNX Runtime, which multiplies zeros like any weight, a forward at batch 1 takes "
                f"{pair.second.median_ms:.3g} ms against {pair.first.median_ms:.3g} ms dense"
            )
        elif pair.ratio < 1:
            found.notes.append(
                "the cut model is not faster in ONNX Runtime, whose convolutions want multiples of 8 or 16 channels; "
                "try --round-to 8"
            )


def _note(found: Measured, key: str, **values: object) -> None:
    found.measurements[key] = replace(found.measurements[key], **values)  # type: ignore[arg-type]
