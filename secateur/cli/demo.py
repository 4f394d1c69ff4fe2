"""``secateur demo``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, spread


@spread
def demo(
    common: CommonOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the run")] = Path("secateur-demo"),
    force: Annotated[bool, typer.Option("--force", help="start over")] = False,
) -> None:
    """Run the main job on real data that comes with scikit-learn: about a minute, nothing to download.

    Trains a small ResNet on handwritten digits, cuts it to half of its multiply-adds, fine-tunes it, proves the cut,
    exports ONNX, evaluates the ONNX file in ONNX Runtime, and prints one table of before and after.

    Example: `secateur demo --out /tmp/demo`
    """
    from secateur import recipe

    job = recipe.demo_recipe(seed=common.seed, machine=choices.machine(common))
    result = recipe.compress(job, out, force=force, command=show.words(), progress=show.progress(quiet=common.quiet))
    show.show_result(result, as_json=common.as_json)
