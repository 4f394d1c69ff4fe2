"""What is left of a layer's output without some of its inputs: contributions of units, and their sums of products."""

from secateur.criteria.reconstruction.folding import NormsBehind as NormsBehind
from secateur.criteria.reconstruction.folding import add_constant as add_constant
from secateur.criteria.reconstruction.folding import fold as fold
from secateur.criteria.reconstruction.gram import GramAccumulator as GramAccumulator
from secateur.criteria.reconstruction.readers import Reader as Reader
from secateur.criteria.reconstruction.readers import Target as Target
from secateur.criteria.reconstruction.readers import collect as collect
from secateur.criteria.reconstruction.readers import reader_at as reader_at
from secateur.criteria.reconstruction.readers import readers_of as readers_of
from secateur.criteria.reconstruction.rows import sample_rows as sample_rows
from secateur.criteria.reconstruction.rows import statistics_of_rows as statistics_of_rows
from secateur.criteria.reconstruction.selection import forward_selection as forward_selection
from secateur.criteria.reconstruction.selection import greedy_removal as greedy_removal
from secateur.criteria.reconstruction.selection import removal_order as removal_order
from secateur.criteria.reconstruction.statistics import Statistics as Statistics
from secateur.criteria.reconstruction.weights import Fit as Fit
from secateur.criteria.reconstruction.weights import best_bias as best_bias
from secateur.criteria.reconstruction.weights import least_squares as least_squares
from secateur.criteria.reconstruction.weights import relative_error as relative_error

__all__ = [
    "Fit",
    "GramAccumulator",
    "NormsBehind",
    "Reader",
    "Statistics",
    "Target",
    "add_constant",
    "best_bias",
    "collect",
    "fold",
    "forward_selection",
    "greedy_removal",
    "least_squares",
    "reader_at",
    "readers_of",
    "relative_error",
    "removal_order",
    "sample_rows",
    "statistics_of_rows",
]
