"""The control of every method: what it found, trained from random weights instead of the ones it kept."""

from dataclasses import replace

from torch import nn

from secateur.graph import apply
from secateur.methods.contract import Compressed, Progress
from secateur.methods.running import silent
from secateur.methods.weights_and_connections.finishing import of_other_weights, require_zeros
from secateur.sparse import KeepMasks
from secateur.training import Store, Task, TrainSettings
from secateur.wording import counted


def from_scratch(
    compressed: Compressed,
    fresh: nn.Module,
    task: Task,
    *,
    epochs: int,
    settings: TrainSettings,
    store: Store,
    progress: Progress | None = None,
) -> Compressed:
    """Return ``compressed`` with new weights, trained from scratch.

    Source: the last column of Table 1 of Li et al. 2017, arXiv:1608.08710; Liu et al. 2019, arXiv:1810.05270. The
    random weights are those that the network's class draws for the dense network, cut by the plan, and zero where its
    masks remove them. What tables say of its weights and of the zeros that layers read is measured anew; rounds and
    scans stay those of the run that found the masks.

    Args:
        compressed: what the method found; its weights are not used.
        fresh: the dense network with random weights of its own.
        task: trains.
        epochs: as many as the method trained the cut model for.
        settings: of training from scratch, whose learning rate is not that of fine-tuning.
        store: keeps the phase ``scratch``.
        progress: told what is being done.

    Raises:
        TrainingError: the loss is not finite, or the store belongs to another run.
        VerificationError: a weight that masks remove is not 0 afterwards.
    """
    small = apply(fresh, compressed.plan, verify_with=None)
    hooks: tuple[KeepMasks, ...] = ()
    if compressed.masks is not None:
        compressed.masks.apply_(small)
        hooks = (KeepMasks(compressed.masks),)
    trained = counted(epochs, "epoch")
    (progress or silent)(f"control: the same architecture from random weights, {trained}")
    result = store.train("scratch", task, small, epochs=epochs, settings=settings, hooks=hooks)
    weights = compressed.record.weights
    if compressed.masks is not None and weights is not None:
        require_zeros(small, compressed.masks)
        weights = of_other_weights(weights, fresh, small, compressed.masks, task)
    note = f"control: the weights of the cut model were thrown away; it was trained from scratch for {trained}"
    record = compressed.record
    return replace(
        compressed,
        model=small,
        record=replace(
            record,
            phases=(*record.phases, result),
            weights=weights,
            notes=(*record.notes, note),
        ),
    )
