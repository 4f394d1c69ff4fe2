"""``secateur quantize``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, DataOptions, option, spread

if TYPE_CHECKING:
    from secateur.recipe import QuantizeResult, Stages


@spread
def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a model file such as runs/r56/model.safetensors, or a name such as resnet56-b with --weights",
        ),
    ],
    *,
    weights: Annotated[
        str | None,
        option("Model", help="trained weights of a network by name: .safetensors, or a file of tensors by torch.save"),
    ] = None,
    num_classes: Annotated[
        int | None, option("Model", min=1, help="outputs of a network by name; without it, the classes of the data")
    ] = None,
    fold_weight_standardisation: Annotated[
        bool,
        option("Model", "--fold-weight-standardisation", help="turn layers that compute their weights into plain ones"),
    ] = False,
    code: Annotated[
        str | None,
        option(
            "Model", "--model", metavar="FILE.PY:FUNCTION", help="builds the network of a file whose model is your code"
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        option(
            "INT8",
            metavar="CALIBRATOR",
            help="how the range of activations is chosen: max, percentile-99.99 (any percentage), entropy (default), "
            "entropy-tensorrt2017, entropy-smoothed or mse",
        ),
    ] = None,
    compare: Annotated[
        bool,
        option(
            "INT8",
            "--compare",
            help="try max, percentiles, entropy and mse, all from one pass, and pick the one whose predictions are "
            "nearest to fp32 on the validation split",
        ),
    ] = False,
    images: Annotated[
        int, option("INT8", min=1, help="training images to calibrate on, drawn by seed; all where there are fewer")
    ] = 1024,
    target: Annotated[
        str,
        option(
            "INT8",
            help="what executes the integers: cpu (x86 with VNNI), cpu-no-vnni (7-bit weights, because sums saturate "
            "there), or tensorrt (zero point 0)",
        ),
    ] = "cpu",
    weight_bits: Annotated[
        int, option("INT8", help="2 to 8; fewer are stored as int8 all the same, to see what they cost in accuracy")
    ] = 8,
    per_tensor_weights: Annotated[
        bool, option("INT8", "--per-tensor-weights", help="one step for a whole weight instead of one per channel")
    ] = False,
    repair: Annotated[
        list[str] | None,
        option(
            "INT8",
            metavar="REPAIR",
            help="mend without labels, each told with what it brought: equalization (for one step per weight), "
            "adaround (for 4 bits and fewer) or bias-correction (cheap); may be repeated, or several with commas",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        option(
            "INT8",
            metavar="POINTS",
            help="leave the most sensitive layers in float, as few as keep within so many points of the validation "
            "accuracy in fp32",
        ),
    ] = None,
    diagnose: Annotated[
        bool,
        option(
            "INT8", "--diagnose", help="also draw where it hurts: noise of every site, one layer at a time, the ranges"
        ),
    ] = False,
    batch: Annotated[int, option("INT8", min=1, help="samples of the second latency, beside that of one")] = 32,
    openvino: Annotated[
        bool | None,
        option(
            "INT8", "--openvino/--no-openvino", help="also run the file in OpenVINO; without it, where it is installed"
        ),
    ] = None,
    data: DataOptions,
    out: Annotated[Path, option(None, "--out", "-o", help="folder of the INT8 file; made if it is not there")] = Path(
        "secateur-int8"
    ),
    force: Annotated[bool, option(None, "--force", help="replace the INT8 file of other settings")] = False,
    common: CommonOptions,
) -> None:
    """Bring a trained model to INT8: calibrate, write the ONNX file, and measure the file itself.

    Batch norm is folded, training images show which ranges values have, and rounding is put wherever the target
    computes in integers. The folder gets model.int8.onnx (int8 weights, for ONNX Runtime and OpenVINO),
    simulation.safetensors (the same in torch, to train on from), report.md and record.json. The table compares fp32,
    the simulation and the file by accuracy, latency and bytes; a line for each operator that is left in float says why.

    Example: `secateur quantize resnet56-b --weights resnet56.safetensors --data parquet:cifar10 --calibrate entropy
    --images 1024 --target cpu --out runs/r56-int8`
    """
    from secateur import recipe

    job = recipe.QuantizeJob(
        model=recipe.ModelChoice(
            spec=model,
            weights=weights,
            num_classes=num_classes,
            fold_weight_standardisation=fold_weight_standardisation,
        ),
        code=code,
        data=choices.data_choice(data),
        quantize=recipe.Quantize(
            calibrate=calibrate,
            compare=compare,
            images=images,
            target=target,
            weight_bits=weight_bits,
            per_tensor_weights=per_tensor_weights,
            repair=tuple(name.strip() for entry in repair or () for name in entry.split(",")),
            max_drop=max_drop,
            diagnose=diagnose,
            batch=batch,
            openvino=openvino,
        ),
        seed=common.seed,
        machine=choices.machine(common, workers=data.workers),
    )
    result = recipe.quantize_named(job, out, force=force, command=show.words(), stages=_stages(quiet=common.quiet))
    if common.as_json:
        print(result.folder.joinpath("record.json").read_text(encoding="utf-8"), end="", file=show.RESULTS.get())
    else:
        _show(result)


def _show(result: "QuantizeResult") -> None:
    from secateur.report import calibrator_grid, int8_facts, int8_grid, timing_facts

    record = result.record
    if result.was_complete:
        print(f"{result.folder}: this was done already; nothing was computed\n")
    compared = [calibrator_grid(record.int8)] if record.int8 is not None and record.int8.trials else []
    facts = (
        *int8_facts(record),
        *timing_facts(record),
        *(("note", note) for note in record.notes),
        ("INT8 file", str(result.file)),
        ("simulation", str(result.folder / record.files["simulation"])),
        ("report", str(result.folder / record.files["report"])),
        *(("figure", str(result.folder / name)) for name in record.files.values() if name.endswith(".png")),
    )
    show.show(int8_grid(record), *compared, facts)


def _stages(*, quiet: bool) -> "Stages":
    from secateur.recipe import QuietStages

    if quiet:
        return QuietStages()
    return StageBar(sys.stderr) if sys.stderr.isatty() else StageLines(sys.stderr)


class StageLines:
    """One line per stage and note, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream

    def begins(self, what: str, *, images: int = 0) -> None:
        """Print what begins."""
        del images
        self._print(what)

    def advance(self, images: int) -> None:
        """Show nothing between stages."""

    def note(self, text: str) -> None:
        """Print the note."""
        self._print(text)

    def ends(self) -> None:
        """Show nothing."""

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class StageBar:
    """A bar per stage with images done and time left; notes stay above it."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on ``stream``."""
        self._stream = stream
        self._bars: Any = None

    def begins(self, what: str, *, images: int = 0) -> None:
        """Put up the bar of a stage; one that counts no images only moves."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bars.start()
        for task in list(self._bars.task_ids):
            self._bars.remove_task(task)
        self._bar = self._bars.add_task(what, total=images or None)

    def advance(self, images: int) -> None:
        """Move the bar."""
        if self._bars is not None:
            self._bars.update(self._bar, completed=images)

    def note(self, text: str) -> None:
        """Leave one line."""
        if self._bars is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bars.console.print(text, highlight=False, markup=False)

    def ends(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
