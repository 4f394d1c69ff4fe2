"""Energy of one inference from counts of memory accesses and arithmetic: an estimate, not a measurement.

Source: Horowitz, "Computing's Energy Problem", ISSCC 2014, 45 nm CMOS, as in Table 1 of Han et al. 2015,
arXiv:1506.02626.
"""

DRAM_PJ = 640.0  # of one 32-bit access to main memory
SRAM_PJ = 5.0  # of one 32-bit access to a 32 kB cache
MULTIPLY_PJ = 3.7  # of one 32-bit floating-point product
ADD_PJ = 0.9  # of one 32-bit floating-point sum


def inference_energy_pj(*, weights: float, macs: float) -> float:
    """Return picojoules of one sample through layers at batch 1.

    Every stored weight is fetched from main memory once, 32 bits each; every multiply-add reads one input from the
    cache, multiplies and adds. Indices of sparse weights, outputs that are written back and idle current are left out.

    Args:
        weights: that are stored.
        macs: multiply-adds that are done; those with a zero weight or input need not be.
    """
    return weights * DRAM_PJ + macs * (SRAM_PJ + MULTIPLY_PJ + ADD_PJ)
