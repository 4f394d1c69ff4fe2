"""``secateur profile``."""

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, spread


@spread
def profile(model: ModelOptions, inputs: InputOptions, common: CommonOptions) -> None:
    """Count what a network costs: multiply-adds per module, parameters, bytes, peak activations.

    One MAC is one multiply-add of a convolution or matrix product, for one sample. Papers' "FLOPs" differ.

    Example: `secateur profile --model torchvision:mobilenet_v2`
    """
    import dataclasses

    from secateur import report
    from secateur.cost import profile_graph

    found = profile_graph(choices.subject(model, inputs, common).trace())
    if common.as_json:
        show.show_json(dataclasses.asdict(found))
        return
    show.show(report.profile_grid(found), report.profile_facts(found))
