"""One network at many widths: which widths there are, running and training it at them, making a network wider."""

from secateur.slimmable.norm_statistics import batch_statistics as batch_statistics
from secateur.slimmable.norm_statistics import post_statistics as post_statistics
from secateur.slimmable.primitive_cache import enlarge_primitive_cache as enlarge_primitive_cache
from secateur.slimmable.sandwich import Sandwich as Sandwich
from secateur.slimmable.switchable import SwitchableNorms as SwitchableNorms
from secateur.slimmable.widening import widened as widened
from secateur.slimmable.widths import Widths as Widths
from secateur.slimmable.widths import WidthSpace as WidthSpace
from secateur.slimmable.widths import kept_units as kept_units
from secateur.slimmable.widths import plan_of as plan_of
from secateur.slimmable.widths import width_space as width_space

__all__ = [
    "Sandwich",
    "SwitchableNorms",
    "WidthSpace",
    "Widths",
    "batch_statistics",
    "enlarge_primitive_cache",
    "kept_units",
    "plan_of",
    "post_statistics",
    "widened",
    "width_space",
]
