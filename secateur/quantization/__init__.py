"""Tensors as small integers: which integers, and which range of real numbers they stand for."""

from secateur.quantization.histogram import RangeHistogram as RangeHistogram
from secateur.quantization.histogram import reduce_all_ as reduce_all_
from secateur.quantization.mapping import Affine as Affine
from secateur.quantization.mapping import Spec as Spec
from secateur.quantization.mapping import affine_of as affine_of
from secateur.quantization.mapping import fake_quantize as fake_quantize
from secateur.quantization.mapping import range_of as range_of

__all__ = ["Affine", "RangeHistogram", "Spec", "affine_of", "fake_quantize", "range_of", "reduce_all_"]
