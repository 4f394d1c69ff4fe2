"""``report.md`` and ``report.png``: one run on a page."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from secateur.files import write_text
from secateur.graph import Plan
from secateur.record import TOP1, RunRecord, TrainResult
from secateur.report.figure import write_figure
from secateur.report.front import front_section
from secateur.report.grid import Grid
from secateur.report.int8 import int8_sections
from secateur.report.pruned_weights import pruned_sections
from secateur.report.restored import error_grid, restored_grid
from secateur.report.result import model_titles, result_facts, result_grid, samples_text, score_name
from secateur.report.values import share
from secateur.wording import counted


def write_report(folder: Path | str, record: RunRecord, plan: Plan) -> tuple[str, ...]:
    """Write ``report.md`` and, where matplotlib is installed, ``report.png`` into a run directory.

    Args:
        folder: the run directory.
        record: what the run measured.
        plan: what was cut.

    Returns:
        The names of the files written.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder = Path(folder)
    drawn = write_figure(folder / "report.png", record, plan)
    write_text(folder / "report.md", report_markdown(record, plan, figure="report.png" if drawn else None))
    return ("report.md", "report.png") if drawn else ("report.md",)


def report_markdown(record: RunRecord, plan: Plan, *, figure: str | None = None) -> str:
    """Return the page of a run as Markdown."""
    result = result_grid(record)
    facts = "\n".join(f"* **{label}**: {text}" for label, text in result_facts(record))
    parts = [
        *_headings(record),
        f"`{shlex.join(record.command) or 'secateur.recipe.compress'}`",
        f"## {result.title}",
        result.to_markdown(),
        facts,
        *([f"![what was kept, accuracy and training]({figure})"] if figure else []),
        "## Exact numbers",
        exact_grid(record).to_markdown(),
        "1 MAC = one multiply-add of a convolution or matrix product, per sample. Activations: the peak over operators "
        f"of the bytes alive, per sample.{f' Samples: {samples}.' if (samples := samples_text(record)) else ''}",
        *int8_sections(record),
        *_restored(record),
        *(["## What was cut", kept_grid(plan).to_markdown()] if record.weights is None or not plan.is_empty else []),
        *pruned_sections(record.weights),
        *_weights(record),
        *_left_alone(record),
        *_search(record),
        *front_section(record),
        *_steps(record),
        *(_phase(phase) for phase in record.phases if phase.epochs),
        "## Where it ran",
        "\n".join(f"* {name}: {value}" for name, value in vars(record.environment).items()),
    ]
    return "\n\n".join(parts) + "\n"


def exact_grid(record: RunRecord) -> Grid:
    """Return the counts without rounding, and the accuracy on both splits."""
    rows = []
    for key, title in model_titles(record).items():
        value = record.measurements.get(key)
        if value is None:
            continue
        nonzeros = (value.nonzeros,) if record.weights is not None else ()
        counts = (value.macs, value.params, *nonzeros, value.size_bytes, value.activation_bytes)
        accuracies = (value.validation, value.test)
        rows.append(
            (
                title,
                *(f"{number:,}" if number is not None else "–" for number in counts),
                *(share(accuracy.score) if accuracy else "–" for accuracy in accuracies),
            )
        )
    name = score_name(record)
    sparse = ("non-zeros",) if record.weights is not None else ()
    files = ("file bytes", "activation bytes")
    headers = ("model", "MACs", "parameters", *sparse, *files, f"validation {name}", f"test {name}")
    return Grid("Exact numbers", headers, tuple(rows))


def kept_grid(plan: Plan) -> Grid:
    """Return what stays of every group that lost units, and the blocks that went whole."""
    groups = [
        (name, str(plan.sizes[name]), str(len(units)), share(len(units) / plan.sizes[name], 1))
        for name, units in plan.kept.items()
    ]
    if plan.drops and not plan.kept:
        return Grid("What was cut", ("block", "kept"), tuple((name, "dropped whole") for name in plan.dropped_blocks))
    blocks = [(drop.block, "block", "dropped whole", share(0.0, 1)) for drop in plan.drops]
    return Grid("What was cut", ("group", "units", "kept", "share"), (*groups, *blocks))


def _phase(phase: TrainResult) -> str:
    rows = tuple(
        (
            str(epoch.epoch + 1),
            f"{epoch.train_loss:.4f}",
            f"{epoch.learning_rate:.3g}",
            share(epoch.validation.score) if epoch.validation else "–",
            f"{epoch.images_per_s:,.0f}",
        )
        for epoch in phase.epochs
    )
    name = next((epoch.validation.score_name for epoch in phase.epochs if epoch.validation), TOP1)
    grid = Grid(phase.phase, ("epoch", "loss", "learning rate", f"validation {name}", "images/s"), rows)
    return f"## Training: {phase.phase}\n\n{grid.to_markdown()}"


def _headings(record: RunRecord) -> list[str]:
    """Return the heading, which is the recipe's title where it has one, and what was done to which model."""
    model, data = record.settings.get("model"), record.settings.get("data")
    names = [str(part["spec"]) for part in (model, data) if isinstance(part, dict) and "spec" in part]
    done = _what_was_done(record)
    text = f"{' on '.join(names)}: {done}" if names else done[0].upper() + done[1:]
    title = " ".join(str(record.settings.get("title") or "").split())
    return [f"# {title}", f"{text}."] if title else [f"# {text}"]


def _what_was_done(record: RunRecord) -> str:
    """Return by what the size of the cut was decided, and whether this is the control."""
    method, wanted = record.settings.get("method"), record.settings.get("max_drop")
    if isinstance(wanted, dict):
        points = wanted["points"]
        shown = counted(points, "point") if isinstance(points, int | float) else f"{points} points"
        done = f"the smallest within {shown}"
    elif record.weights is not None:
        done = "single weights pruned to a budget" if record.settings.get("budget") else "single weights pruned"
    elif isinstance(method, dict) and method.get("ratios"):
        done = "cut by ratios"
    elif record.settings.get("budget"):
        done = "cut to a budget"
    else:
        done = "cut as the method decides"
    return f"{done}, trained from scratch as a control" if record.settings.get("control") == "scratch" else done


def _left_alone(record: RunRecord) -> list[str]:
    """Return a line for each setting by which the user kept layers out of the cut."""
    method = record.settings.get("method")
    if not isinstance(method, dict):
        return []
    asked = {name: value for name in ("lock", "skip") if isinstance(value := method.get(name), list) and value}
    return [
        f"Left alone, as asked for (`method.{name}`): {', '.join(f'`{pattern}`' for pattern in patterns)}."
        for name, patterns in asked.items()
    ]


def _weights(record: RunRecord) -> list[str]:
    """Return a section with the figures of pruned weights."""
    pictures = {
        "weights_scans_png": "validation score of each layer pruned alone",
        "weights_histograms_png": "how weights are spread before and after",
        "weights_pattern_png": "which pixels are read",
    }
    found = _pictures(record, pictures)
    return ["## Weights in pictures", *found] if found else []


def _pictures(record: RunRecord, pictures: Mapping[str, str]) -> list[str]:
    return [f"![{text}]({record.files[what]})" for what, text in pictures.items() if what in record.files]


def _steps(record: RunRecord) -> list[str]:
    """Return a section with the figures of the steps that a method took."""
    pictures = {
        "steps_kept_png": "what is kept, step by step",
        "steps_accuracy_png": "validation accuracy against multiply-adds, step by step",
        "steps_scores_png": "scores before each cut, step by step",
    }
    found = _pictures(record, pictures)
    if not found:
        return []
    return ["## Step by step", *found, f"The numbers: [{record.files['steps']}]({record.files['steps']})."]


def _restored(record: RunRecord) -> list[str]:
    """Return a section on what came back without training, if anything was restored."""
    if not record.restored:
        return []
    grid, errors = restored_grid(record.restored), error_grid(record.restored)
    which = f"the last cut, {record.restored[-1].cut}" if len(record.restored) > 1 else "the cut"
    layers = [] if errors is None else [f"How far each layer was from its output before {which}:", errors.to_markdown()]
    return [f"## {grid.title}", grid.to_markdown(), *layers]


def _search(record: RunRecord) -> list[str]:
    """Return a section with the figure of the search for the smallest model, and a link to its table."""
    table, picture = record.files.get("tradeoff"), record.files.get("tradeoff_png")
    if table is None and picture is None:
        return []
    return [
        "## Accuracy against budget",
        *([f"Every budget that was tried: [table]({table})."] if table else []),
        *([f"![validation accuracy against the share left]({picture})"] if picture else []),
    ]
