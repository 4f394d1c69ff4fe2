"""How the weights of a layer are spread, as counts over even bins."""

import torch
from torch import Tensor

from secateur.record import Histogram

BINS = 81  # odd, so that one has 0 in its middle
_CHUNK = 1 << 22  # values at a time, of which 64-bit numbers are made


def histogram(values: Tensor, *, bins: int = BINS) -> Histogram:
    """Count finite values in even bins over [−r, r], with r the largest magnitude; each value is in exactly one.

    Args:
        values: of any shape and floating type.
        bins: their number.
    """
    flat = values.detach().reshape(-1)
    flat = flat[torch.isfinite(flat)].float()
    reach = float(flat.abs().max()) if flat.numel() else 0.0
    reach = reach or 1.0  # of nothing, or of zeros alone
    counts = torch.zeros(bins, dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        places = ((chunk.double() / reach + 1) * (bins / 2)).long().clamp_(0, bins - 1)
        counts += torch.bincount(places, minlength=bins)
    return Histogram(reach=reach, counts=tuple(counts.tolist()))
