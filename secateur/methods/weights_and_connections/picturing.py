"""What figures of a run need: how weights are spread, and which layer reads the images themselves."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.graph.slots import mode_of
from secateur.record import Histogram, ImageLayer, LayerHistograms
from secateur.sparse import Masks, histogram
from secateur.sparse.prunable import layer_of

LARGEST_IMAGE = 16_384  # values of an image whose layer is drawn


def spread_before(model: nn.Module, names: tuple[str, ...]) -> dict[str, Histogram]:
    """Return weight → how its values are spread."""
    return {name: histogram(model.get_parameter(name)) for name in names}


def spread(before: Mapping[str, Histogram], model: nn.Module, masks: Masks) -> tuple[LayerHistograms, ...]:
    """Return the weights of each layer before, and those that the masks leave of ``model``."""
    parameters = masks.parameters_of(model)
    return tuple(
        LayerHistograms(layer=name, dense=dense, left=histogram(parameters[name].detach().cpu()[masks[name]]))
        for name, dense in before.items()
    )


def image_layer(model: nn.Module, names: tuple[str, ...], images: Tensor) -> ImageLayer | None:
    """Return the linear layer among ``names`` whose input is the images, flattened and otherwise as they are.

    Args:
        model: runs once, in eval mode.
        names: of weights.
        images: (N, C, H, W); of anything else no layer reads pixels.
    """
    if images.dim() != 4 or images[0].numel() > LARGEST_IMAGE:
        return None
    one = images[:1]
    wanted = one.reshape(1, -1)
    found: list[str] = []

    def note(name: str, given: tuple[object, ...]) -> None:
        read = given[0] if given else None
        if isinstance(read, Tensor) and read.shape == wanted.shape and torch.equal(read, wanted):
            found.append(name)

    layers = {name: layer_of(model, name) for name in names}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: note(name, given))
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with mode_of(model, training=False), torch.no_grad():
            model(one)
    finally:
        for handle in handles:
            handle.remove()
    return ImageLayer(layer=found[0], shape=(one.shape[1], one.shape[2], one.shape[3])) if found else None
