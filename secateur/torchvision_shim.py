"""Import torchvision also where its compiled operators do not load.

The wheel of torchvision on the package registry is built for CUDA. Beside a CPU-only torch its library of
operators cannot be loaded, and ``import torchvision`` stops at ``register_fake("torchvision::nms")`` because
nobody has declared that operator. Models, data sets and transforms need none of the operators, so declaring
the two missing schemas first makes them work, and a plain-torch kernel of non-maximum suppression makes most
detectors run as well.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

import torch
from torch import Tensor

from secateur.errors import UsageError

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# The operators live as long as the Library object that declared them, so it must never be collected.
_DECLARED: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Return torchvision, declaring ``torchvision::nms`` and ``qnms`` first where they are really missing.

    Where the compiled operators load, nothing is declared and torchvision is as its authors built it.

    Raises:
        UsageError: torchvision is not installed, or its installation is broken.
    """
    loaded = sys.modules.get("torchvision")
    if loaded is not None:
        return loaded
    found = importlib.util.find_spec("torchvision")
    if found is None:
        raise UsageError("torchvision is not installed; install it with: pip install 'secateur[vision]'")
    missing = not _operators_exist() and not _compiled_operators_load(found)
    if missing:
        _declare_operators()
    try:
        torchvision = importlib.import_module("torchvision")
        if missing:
            _allow_nms()
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"torchvision is installed but cannot be imported ({error}); "
            f"install the release that belongs to torch {torch.__version__}"
        ) from error
    return torchvision


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best box of each heap of overlapping ones (greedy non-maximum suppression).

    Args:
        boxes: corners (x1, y1, x2, y2), shape (N, 4).
        scores: shape (N,); higher is better.
        iou_threshold: a box is dropped when its intersection over union with a better kept one is above this.

    Returns:
        Indices of the kept boxes by falling score, int64, shape (K,).
    """
    left, top, right, bottom = boxes.float().unbind(1)
    areas = (right - left) * (bottom - top)
    order = scores.argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        width = (torch.minimum(right[best], right[rest]) - torch.maximum(left[best], left[rest])).clamp(min=0)
        height = (torch.minimum(bottom[best], bottom[rest]) - torch.maximum(top[best], top[rest])).clamp(min=0)
        overlap = width * height
        iou = overlap / (areas[best] + areas[rest] - overlap)
        # `not above` rather than `at most`: boxes without area give NaN and are kept, as the compiled
        # operator does.
        order = rest[~(iou > iou_threshold)]
    return torch.stack(kept) if kept else order


def _operators_exist() -> bool:
    return hasattr(torch.ops.torchvision, "nms")


def _compiled_operators_load(package: importlib.machinery.ModuleSpec) -> bool:
    """Try what torchvision itself will try on import: to load ``_C`` from its own folder."""
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    for folder in package.submodule_search_locations or ():
        library = importlib.machinery.FileFinder(folder, loader).find_spec("_C")
        if library is None or library.origin is None:
            continue
        try:
            torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            continue
        return _operators_exist()
    return False


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", nms, "CPU")  # type: ignore[no-untyped-call]
    _DECLARED.append(library)


def _allow_nms() -> None:
    """Let ``torchvision.ops.nms`` reach the kernel above; it would refuse because no compiled library was loaded.

    Only in the module of the boxes, where nms (and the rotated overlap, which stays missing) ask: elsewhere
    torchvision's own pure-Python fallbacks must still be taken.
    """
    boxes = importlib.import_module("torchvision.ops.boxes")
    vars(boxes)["_assert_has_ops"] = lambda: None
