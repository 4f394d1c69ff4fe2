"""Tensors as small integers: which integers, and which range of real numbers they stand for."""
