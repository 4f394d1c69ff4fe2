"""All criteria by name. A new one is a pure function and a row here."""

from collections.abc import Mapping

from secateur.criteria.activations import apoz, mean_activation
from secateur.criteria.criterion import Criterion, found_in
from secateur.criteria.filters import geometric_median_distance, lamp
from secateur.criteria.norms import l1_norm, l2_norm
from secateur.criteria.scales import scale_size
from secateur.criteria.taylor import activation_taylor, fisher, gate_taylor, weight_taylor

_PCNN = "Molchanov et al. 2017, arXiv:1611.06440"

CRITERIA: Mapping[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("l1", l1_norm, "Li et al. 2017, arXiv:1608.08710, §3.1"),
        Criterion("l2", l2_norm, "Li et al. 2017, arXiv:1608.08710, §4.5"),
        Criterion("random", None, "the control of Li et al. 2017, arXiv:1608.08710, §4.4", True),
        Criterion("fpgm", geometric_median_distance, "He et al. 2019, arXiv:1811.00250, §3.3"),
        Criterion("lamp", lamp, "Lee et al. 2021, arXiv:2010.07611, on squared norms of filters", True),
        Criterion("bn_scale", scale_size, "Liu et al. 2017, arXiv:1708.06519, §3", True, looks_at="scales"),
        Criterion(
            "gate_taylor",
            gate_taylor,
            "You et al. 2019, arXiv:1909.08174, Eq. 6 and 9",
            True,
            needs="gradients",
            looks_at="scales_or_producers",
            combine="sum",
            over_batches="sum",
        ),
        Criterion(
            "weight_taylor",
            weight_taylor,
            "Molchanov et al. 2019, arXiv:1906.10771, §3.1",
            True,
            needs="gradients",
            combine="sum",
        ),
        Criterion(
            "activation_taylor",
            activation_taylor,
            f"{_PCNN}, Eq. 8 and §2.3",
            True,
            needs="activation_gradients",
            per_layer_l2=True,
        ),
        Criterion("activation_taylor_raw", activation_taylor, f"{_PCNN}, Eq. 8", True, needs="activation_gradients"),
        Criterion(
            "fisher",
            fisher,
            "Theis et al. 2018, arXiv:1801.05787, §2",
            True,
            needs="activation_gradients",
            combine="sum",
        ),
        Criterion("apoz", apoz, "Hu et al. 2016, arXiv:1607.03250, Eq. 1", needs="activations"),
        Criterion("mean_activation", mean_activation, f"{_PCNN}, §2.2", needs="activations"),
    )
}


def criterion_named(name: str) -> Criterion:
    """Return a criterion by name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    return found_in(CRITERIA, name)
