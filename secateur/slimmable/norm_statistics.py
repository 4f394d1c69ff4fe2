"""Batch norm of a network of many widths: by the batch itself, or by statistics of each width's own."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.compensation import reestimate_batch_norm
from secateur.graph import Plan
from secateur.graph.slots import stored_tensors
from secateur.graph.surgery import cut_copy
from secateur.training import Batch


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Let every batch norm use the mean and variance of its batch inside the block, in eval mode too.

    Running statistics are neither read nor written: those of a network that runs at many widths belong to none of
    them. In a large batch its own statistics are near enough to those of the data to compare networks by (source: Yu &
    Huang 2019, arXiv:1903.11728; the authors evaluate candidates on 2,000 images or more at once). Dropout and all else
    stay in the mode in which they are. The block may lie within :func:`secateur.narrowed` or, which is faster, around
    it.

    Args:
        model: its batch norms must get more than one value per channel.

    Yields:
        The model.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            # Such a norm in training mode gives its running statistics to no operator, whatever it holds.
            norm.training, norm.track_running_stats = True, False
        yield model
    finally:
        for norm, training, tracks in before:
            norm.training, norm.track_running_stats = training, tracks


def post_statistics(model: nn.Module, plan: Plan, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Measure the running statistics of one width after training, for ``narrowed(model, plan, statistics=…)``.

    Means and variances are averaged over all batches alike, see :func:`secateur.reestimate_batch_norm`; ``model`` is
    left as it was. The cut model takes them too: ``small.load_state_dict(statistics, strict=False)``.

    Source: Yu & Huang 2019, "Universally slimmable networks", arXiv:1903.05134, section 4.2: statistics after training,
    of some large batches, without a moving average.

    Args:
        model: the network that the plan was made for.
        plan: the width, see :func:`secateur.slimmable.plan_of`.
        batches: (inputs, labels), or inputs alone, on the model's device; a few large ones do.

    Returns:
        Every buffer of the network at this width, by name.

    Raises:
        PlanError: the plan was made for another model.
        DataError: there are no batches, or they cannot be used.
    """
    small = cut_copy(model, plan)
    reestimate_batch_norm(small, batches)
    return {name: entry.tensor for name, entry in stored_tensors(small).items() if not entry.is_parameter}
