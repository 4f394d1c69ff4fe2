"""``secateur groups``."""

from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, spread

SHOWN_GROUPS = 40


@spread
def groups(
    model: ModelOptions,
    inputs: InputOptions,
    common: CommonOptions,
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="show one group in full: its members, what ties them, what locks it"),
    ] = None,
    locked: Annotated[bool, typer.Option("--locked", help="show only what cannot be cut, and why")] = False,
    everything: Annotated[bool, typer.Option("--all", help="shorten no list")] = False,
) -> None:
    """Show which channels can only be cut together, what is locked and why, and how much can be cut at most.

    The network is run once; anything that is not understood is locked, never guessed. MACs are the share of the
    operators that a group takes part in: an operator counts for what it reads and for what it makes. Without `--all`,
    long lists name a few and count the others.

    Example: `secateur groups --model torchvision:resnet18`

    Example: `secateur groups --model torchvision:resnet18 --group layer1.0.conv1`
    """
    from secateur import report
    from secateur.errors import UsageError

    if group is not None and locked:
        raise UsageError(f"--group {group} shows one group and --locked all that cannot be cut; give one of them")
    graph = choices.subject(model, inputs, common).trace()
    if group is not None:
        told = graph.why(group)
        if common.as_json:
            show.show_json(told.to_json())
        else:
            print(told)
        return
    if common.as_json:
        show.show_json({**({} if locked else graph.to_json()), "why": report.why_json(graph)})
        return
    if not locked:
        show.show(report.groups_grid(graph, limit=None if everything else SHOWN_GROUPS))
        print()
    print(report.why_text(graph, whole=everything, locked=locked))
