"""The network at its published width, which a search's widths are shown against."""

from dataclasses import replace

import torch

from secateur.data import DataSource
from secateur.errors import SecateurError
from secateur.graph import trace
from secateur.models import build_model
from secateur.models.widths import split_width
from secateur.recipe.settings import Recipe
from secateur.record import WidthSearch
from secateur.user_code import names_user_code


def beside_default(recipe: Recipe, data: DataSource, search: WidthSearch | None) -> WidthSearch | None:
    """Return ``search`` with the widths of the network whose name has no ``@1.5x`` behind it, where that is one.

    Args:
        recipe: whose model is the super-net.
        data: gives the images that it takes.
        search: what was found in it; None stays None.
    """
    plain, factor = split_width(recipe.model.spec)
    if search is None or factor == 1:
        return search
    classes, channels = recipe.model.num_classes, None
    if not names_user_code(plain):
        classes, channels = classes or data.num_classes, data.sample_shape[0]
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(plain, num_classes=classes, in_channels=channels)
        graph = trace(model, torch.zeros(2, *data.sample_shape))
    except SecateurError:  # it is only there to be compared with
        return search
    if not all(name in graph.by_name for name in search.sizes):
        return search
    return replace(search, default={name: graph.group(name).size for name in search.sizes}, default_macs=graph.macs())
