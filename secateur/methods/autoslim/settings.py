"""How each phase of AutoSlim trains, and what its settings refuse."""

import fnmatch
from collections.abc import Sequence
from typing import Literal

from secateur.errors import UsageError
from secateur.graph import ChannelGraph
from secateur.names import unknown_name
from secateur.slimmable import WidthSpace, width_space
from secateur.training import TrainSettings

SUPERNET = TrainSettings(
    batch_size=1024,
    learning_rate=0.5,
    nesterov=True,
    weight_decay=1e-4,
    decay_norms_and_biases=False,
    schedule="linear",
    evaluate_every=0,
)
"""The authors' settings of universally slimmable networks. No evaluation on the way: running statistics are idle."""

FINETUNE = TrainSettings(
    batch_size=2048,
    learning_rate=0.5,
    nesterov=True,
    weight_decay=1e-4,
    decay_norms_and_biases=False,
    schedule="linear",
    label_smoothing=0.1,
)
"""The authors' settings for what was found, of MobileNets on ImageNet; they also spare depthwise weights decay."""

Start = Literal["scratch", "supernet"]
"""What the found network begins its training with: random weights, as published, or those of the super-net."""


def space_of(
    graph: ChannelGraph,
    *,
    lower: float,
    steps: int,
    multiple: int,
    lock: Sequence[str],
    allow_approximate: bool,
) -> WidthSpace:
    """Return the widths to search.

    Raises:
        UsageError: a pattern to lock matches no group, or nothing is left to choose.
    """
    for pattern in lock:
        if not fnmatch.filter(graph.by_name, pattern):
            rather = [group.name for group in graph.groups if group.prunable]
            raise UsageError(unknown_name("group to lock", pattern, graph.by_name, rather=rather))
    skipped = [name for name in graph.by_name if any(fnmatch.fnmatchcase(name, pattern) for pattern in lock)]
    return width_space(
        graph, lower=lower, steps=steps, multiple=multiple, skip=skipped, allow_approximate=allow_approximate
    )
