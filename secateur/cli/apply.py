"""``secateur apply``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, ReadingOptions, RestoreOptions, spread


@spread
def apply(
    plan: Annotated[Path, typer.Argument(help="plan written by `secateur plan --out`", metavar="PLAN.json")],
    model: ModelOptions,
    inputs: InputOptions,
    reading: ReadingOptions,
    restoring: RestoreOptions,
    common: CommonOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="model file to write")] = Path("model.safetensors"),
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Cut a network as a plan says, prove the cut, and write the smaller model. Nothing is trained.

    A cut that cannot be proved is refused, and no file is written. With --data, --compensate and --bn-images bring
    accuracy back in seconds, and the validation split says how much.

    Example: `secateur apply plan.json --model resnet56-b --weights resnet56.safetensors --out small.safetensors`
    """
    from secateur import recipe, report

    recipe.check_target(out, force=force)
    settings = choices.restore(restoring)
    recipe.require_data(settings, data=inputs.data is not None)
    size = choices.batch_size(reading, restores=not settings.is_off)
    read = recipe.read_plan(plan)
    subject = choices.subject(model, inputs, common, plan, reading=reading)
    tell = show.progress(quiet=common.quiet).note
    done = recipe.apply_plan(subject, read, out, restore=settings, batch_size=size, seed=common.seed, tell=tell)
    if common.as_json:
        restored = {} if done.restored is None else {"restored": dataclasses.asdict(done.restored)}
        show.show_json({"model": str(out), "proof": done.proof.to_json(), **restored})
        return
    facts = (("proof", done.proof.sentence()), ("model file", str(out)))
    if done.restored is None:
        show.show(facts)
    else:
        show.show(report.restored_grid((done.restored,)), (*facts, *report.restored_facts((done.restored,))))
