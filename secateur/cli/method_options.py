"""Options of what is cut first: the method, its settings, and what it leaves alone."""

from dataclasses import dataclass
from typing import Annotated, Literal

from secateur.cli.options import Text, option


@dataclass(frozen=True)
class MethodOptions:
    """What is cut first; an option that the chosen method does not have is refused."""

    method: Annotated[
        Literal[
            "magnitude",
            "l1",
            "global",
            "blocks",
            "gate_decorator",
            "network_slimming",
            "thinet",
            "weights_and_connections",
            "autoslim",
        ],
        option(
            "What to cut",
            help="magnitude: by weight norms over the whole network; l1: filter pruning as published; global: by any "
            "criterion, in steps; blocks: whole residual blocks; gate_decorator, network_slimming: as published, which "
            "train before they cut; thinet: layer by layer, by what the next layer gives; weights_and_connections: "
            "single weights become zero, to --nonzeros; autoslim: widths found by slimming a wide network greedily, "
            "such as --model resnet20@1.5x",
        ),
    ] = "magnitude"
    criterion: Annotated[
        Text,
        option(
            "What to cut",
            help="of magnitude, global and blocks: what makes a channel or block matter, such as l1, gate_taylor, fpgm "
            "or random; the guide lists all",
        ),
    ] = None
    setting: Annotated[
        list[str] | None,
        option(
            "What to cut",
            metavar="NAME=VALUE",
            help="any setting of the method by its name, as in a recipe, such as 'ticks_per_tock=5' of gate_decorator; "
            "repeatable; `secateur recipe --schema` describes all",
        ),
    ] = None
    scope: Annotated[
        Literal["global", "local", "isomorphic"] | None,
        option(
            "What to cut",
            help="compare all channels (magnitude), cut every layer alike (l1), or compare alike layers",
        ),
    ] = None
    level: Annotated[
        Literal["channel", "block", "both"] | None,
        option(
            "What to cut",
            help="cut channels (the default), drop whole residual blocks, lowest norms first, or both: blocks as long "
            "as the network stays above the budget, then channels",
        ),
    ] = None
    allow_approximate: Annotated[
        bool,
        option(
            "What to cut",
            "--allow-approximate",
            help="also cut channels that a norm or a mean ties together (layer norm, as in ConvNeXt): cutting these is "
            "not the same as zeroing them, so the proof is exact up to such statistics and reports the drift"
            "; fine-tune afterwards",
        ),
    ] = False
    combine: Annotated[
        Literal["mean", "sum", "max", "l2"] | None,
        option("What to cut", help="how the layers of a residual stream combine; mean by default"),
    ] = None
    ratio: Annotated[
        list[str] | None,
        option(
            "What to cut",
            metavar="LAYERS=SHARE",
            help="of l1 and weights_and_connections: share of filters or of weights that goes, such as 'layer1.*=0.6'; "
            "repeatable, in place of a budget",
        ),
    ] = None
    residual: Annotated[
        Literal["spare", "inner", "shortcut", "group"] | None,
        option(
            "What to cut",
            help="cut residual streams only if the budget needs it (spare, the default), never (inner), by the norms "
            "of their projection shortcut (l1 only), or like all other layers (group)",
        ),
    ] = None
    selection: Annotated[
        Literal["independent", "greedy"] | None,
        option("What to cut", help="of l1: whether norms count inputs that are gone already"),
    ] = None
    strategy: Annotated[
        Literal["once", "layer-by-layer"] | None,
        option("What to cut", help="of l1: retrain once, or after every layer"),
    ] = None
    layer_epochs: Annotated[
        int | None,
        option(
            "What to cut",
            min=0,
            help="of thinet, and of l1 layer by layer: epochs after each layer but the last; 1 by default",
        ),
    ] = None
    steps: Annotated[
        int | None,
        option("What to cut", min=1, help="cuts on the way to the budget; 1 by default, of global 10"),
    ] = None
    step_epochs: Annotated[
        float | None,
        option(
            "What to cut",
            min=0,
            help="epochs after each of several cuts but the last; of global and blocks also a part of one, such as "
            "0.5; 1 by default, of blocks 0",
        ),
    ] = None
    min_units: Annotated[
        int | None, option("What to cut", min=1, help="channels that every group keeps; 1 by default")
    ] = None
    min_share: Annotated[
        float | None, option("What to cut", help="of magnitude: share of channels that every group keeps")
    ] = None
    round_to: Annotated[int | None, option("What to cut", min=1, help="kept channels are multiples of this")] = None
    lock: Annotated[
        list[str] | None,
        option(
            "What to cut",
            "--lock",
            "--skip",
            metavar="PATTERN",
            help="layers, and with --level blocks, to leave alone, such as 'layer1.*'; repeatable",
        ),
    ] = None
