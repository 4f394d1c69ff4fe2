"""Weights that are mostly zero: stored small, and read back exactly (format in FORMAT.md)."""

from secateur.sparse.candidates import MaskOptions as MaskOptions
from secateur.sparse.codebook import Codebook as Codebook
from secateur.sparse.codebook import cluster as cluster
from secateur.sparse.container import decode as decode
from secateur.sparse.container import encode as encode
from secateur.sparse.container import load_sparse as load_sparse
from secateur.sparse.dead import DeadUnits as DeadUnits
from secateur.sparse.dead import WithoutDead as WithoutDead
from secateur.sparse.dead import dead_units as dead_units
from secateur.sparse.dead import without_dead as without_dead
from secateur.sparse.granularity import Granularity as Granularity
from secateur.sparse.histograms import histogram as histogram
from secateur.sparse.keeping import KeepMasks as KeepMasks
from secateur.sparse.making import by_global_share as by_global_share
from secateur.sparse.making import by_nonzeros as by_nonzeros
from secateur.sparse.making import by_share as by_share
from secateur.sparse.making import by_threshold as by_threshold
from secateur.sparse.making import nonzeros as nonzeros
from secateur.sparse.making import weight_stds as weight_stds
from secateur.sparse.masks import Masks as Masks
from secateur.sparse.prunable import prunable_weights as prunable_weights
from secateur.sparse.runtime import SparseSpeed as SparseSpeed
from secateur.sparse.runtime import measure_sparse as measure_sparse
from secateur.sparse.sharing import SharedValues as SharedValues
from secateur.sparse.sizes import FileSizes as FileSizes
from secateur.sparse.sizes import WeightSize as WeightSize
from secateur.sparse.sizes import file_sizes as file_sizes

__all__ = [
    "Codebook",
    "DeadUnits",
    "FileSizes",
    "Granularity",
    "KeepMasks",
    "MaskOptions",
    "Masks",
    "SharedValues",
    "SparseSpeed",
    "WeightSize",
    "WithoutDead",
    "by_global_share",
    "by_nonzeros",
    "by_share",
    "by_threshold",
    "cluster",
    "dead_units",
    "decode",
    "encode",
    "file_sizes",
    "histogram",
    "load_sparse",
    "measure_sparse",
    "nonzeros",
    "prunable_weights",
    "weight_stds",
    "without_dead",
]
