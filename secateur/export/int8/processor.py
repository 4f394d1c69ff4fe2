"""What the processor can do."""

from pathlib import Path

_DOT_PRODUCTS = frozenset(("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Tell whether the processor sums products of 8-bit integers without saturating; None where that is not known."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return bool(_DOT_PRODUCTS & set(value.split()))
    return None
