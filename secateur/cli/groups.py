"""``secateur groups``."""

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, spread


@spread
def groups(model: ModelOptions, inputs: InputOptions, common: CommonOptions) -> None:
    """Show which channels can only be cut together, what is locked and why, and how much can be cut at most.

    The network is run once; anything that is not understood is locked, never guessed.

    Example: `secateur groups --model torchvision:resnet18`
    """
    from secateur import report

    graph = choices.subject(model, inputs, common).trace()
    if common.as_json:
        show.show_json(graph.to_json())
        return
    show.show(report.groups_grid(graph), report.groups_facts(graph))
