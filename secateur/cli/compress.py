"""``secateur compress``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import option, spread


@spread
def compress(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a .yaml file, or a name of `secateur recipe --list`")
    ],
    out: Annotated[
        Path | None,
        option(None, "--out", "-o", help="folder of the run; without it, the recipe's name with -run behind it"),
    ] = None,
    force: Annotated[bool, option(None, "--force", help="start over in the folder of another run")] = False,
    settings: Annotated[
        list[str] | None,
        option("Recipe", "--set", metavar="KEY=VALUE", help="replace a setting: --set budget.macs=0.4; repeatable"),
    ] = None,
    allow_approximate: Annotated[
        bool,
        option(
            "Recipe",
            "--allow-approximate",
            help="also cut channels that a norm or a mean ties together; the proof then reports the drift (the same as "
            "--set method.allow_approximate=true)",
        ),
    ] = False,
    allow_code: Annotated[
        bool, option("Recipe", "--allow-code", help="run the file.py:function that the recipe names")
    ] = False,
    dry_run: Annotated[
        bool, option("Recipe", "--dry-run", help="only check the recipe, and print it with all settings")
    ] = False,
    threads: Annotated[int | None, option(None, help="CPU threads; without it, as the recipe says")] = None,
    device: Annotated[str | None, option(None, help="auto, cpu, cuda, cuda:1 or mps")] = None,
    as_json: Annotated[bool, option(None, "--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, option(None, "--quiet", "-q", help="show no progress")] = False,
    verbose: Annotated[bool, option(None, "--verbose", "-v", help="show where an error came from")] = False,
) -> None:
    """Run a recipe: train, prune, fine-tune or distil, export, evaluate.

    A recipe holds every setting of a run. The folder of the run gets the model file, an ONNX file, the plan, a report,
    the recipe as it was run, and checkpoints: the same command continues a run that was stopped.

    Example: `secateur compress l1-resnet56-b --set data.root=datasets --set model.weights=resnet56.safetensors --set
    train_epochs=0 --out runs/r56-b`
    """
    del verbose  # read by the command itself
    from dataclasses import replace

    from secateur import recipe as recipes
    from secateur.cli.choices import on_machine

    chosen = recipes.read_recipe(recipe, settings or (), allow_code=allow_code)
    if allow_approximate:
        chosen = replace(chosen, method=recipes.method_from(chosen.method, ["allow_approximate=true"]))
    chosen = on_machine(chosen, threads, device)
    if dry_run and as_json:
        show.show_json(chosen.to_json())
        return
    if dry_run:
        print(recipes.recipe_yaml(chosen), end="")
        return
    out = out or Path(f"{Path(recipe).stem}-run")
    result = recipes.compress(chosen, out, force=force, command=show.words(), progress=show.progress(quiet=quiet))
    show.show_result(result, as_json=as_json)
