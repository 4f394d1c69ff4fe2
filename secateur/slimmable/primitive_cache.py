"""Room for the compiled kernels of many widths: oneDNN's primitive cache, which torch computes with on x86 CPUs."""

import os

VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
CAPACITY = 16_384
"""Primitives: three per convolution (forward and the two gradients) of 50 layers at a hundred pairs of widths."""


def enlarge_primitive_cache(capacity: int = CAPACITY) -> bool:
    """Let oneDNN keep ``capacity`` compiled primitives instead of 1,024; return whether that was left to be set.

    oneDNN compiles a kernel for each shape that it meets and forgets the one used longest ago when its cache is full.
    Random widths meet thousands of shapes. The setting counts for the whole process and is read when the first
    primitive is made, so call this before the first convolution; the environment variable
    ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` does the same from outside, and where it is set already, it stays.

    Source: oneDNN's developer guide, "Primitive cache": run-time controls.
    """
    if VARIABLE in os.environ or "DNNL_PRIMITIVE_CACHE_CAPACITY" in os.environ:
        return False
    os.environ[VARIABLE] = str(capacity)
    return True
