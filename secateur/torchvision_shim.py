"""Import torchvision also where its compiled operators do not load.

The wheel of torchvision on the package registry is built for CUDA. Beside a CPU-only torch its library of
operators cannot be loaded, and ``import torchvision`` stops at ``register_fake("torchvision::nms")`` because
nobody has declared that operator. Models, data sets and transforms need none of the operators, so declaring
the two missing schemas first makes them work. Kernels in plain torch of non-maximum suppression and of region
pooling (``roi_align``) make all of torchvision's detectors run as well.

Region pooling is declared as an operator with its real name, so that a model shows the same operators here as where
the compiled ones load. Deformable convolution stays missing: torchvision itself then says so.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from secateur.errors import UsageError

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)

BLOCK_ELEMENTS = 1 << 22
"""Values that the kernel of ``roi_align`` interpolates at once, so that thousands of regions fit into memory."""

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
            _allow_roi_align()
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


def roi_align(
    features: Tensor,
    regions: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average each region of a feature map into a small map of fixed size, with bilinear interpolation.

    This is torchvision's own implementation in Python, which it would compile first, run on blocks of regions.

    Args:
        features: shape (N, C, H, W).
        regions: number of the image and corners (x1, y1, x2, y2) in image pixels, shape (K, 5).
        spatial_scale: feature pixels per image pixel.
        pooled_height: rows of the result.
        pooled_width: columns of the result.
        sampling_ratio: points per bin and axis; 0 or less takes as many as a bin has feature pixels.
        aligned: whether pixel centres lie at half coordinates.

    Returns:
        Shape (K, C, pooled_height, pooled_width).
    """
    arguments = (spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)
    channels, height, width = features.shape[1:]
    points = sampling_ratio**2 if sampling_ratio > 0 else height * width
    step = max(1, BLOCK_ELEMENTS // max(1, channels * pooled_height * pooled_width * points))
    if not regions.shape[0]:
        return features.new_zeros(0, channels, pooled_height, pooled_width)
    return torch.cat([_pool_regions()(features, block, *arguments) for block in torch.split(regions, step)])


def _pool_regions() -> Callable[..., Tensor]:
    module = importlib.import_module("torchvision.ops.roi_align")
    plain: Callable[..., Tensor] = module._roi_align.__wrapped__  # what torchvision would hand to torch.compile
    return plain


def _pooled_shape(features: Tensor, regions: Tensor, scale: float, height: int, width: int, *rest: object) -> Tensor:
    del scale, rest
    return features.new_empty(regions.shape[0], features.shape[1], height, width)


def _remember_regions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _pooled_gradient(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    features, regions = context.saved_tensors
    with torch.enable_grad():
        given = features.detach().requires_grad_()
        (found,) = torch.autograd.grad(roi_align(given, regions, *context.settings), given, gradient)
    return (found, *(None for _ in range(1 + len(context.settings))))


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", nms, "CPU")  # type: ignore[no-untyped-call]
    library.impl("roi_align", roi_align, "CPU")  # type: ignore[no-untyped-call]
    library.impl("roi_align", _pooled_shape, "Meta")  # type: ignore[no-untyped-call]
    torch.library.register_autograd(
        "torchvision::roi_align", _pooled_gradient, setup_context=_remember_regions, lib=library
    )
    _DECLARED.append(library)


def _allow_nms() -> None:
    """Let ``torchvision.ops.nms`` reach the kernel above; it would refuse because no compiled library was loaded.

    Only in the module of the boxes, where nms (and the rotated overlap, which stays missing) ask: elsewhere
    torchvision's own pure-Python fallbacks must still be taken.
    """
    boxes = importlib.import_module("torchvision.ops.boxes")
    vars(boxes)["_assert_has_ops"] = lambda: None


def _allow_roi_align() -> None:
    """Let ``torchvision.ops.roi_align`` call the operator; it would compile its Python implementation instead."""
    pooling = importlib.import_module("torchvision.ops.roi_align")
    vars(pooling)["_has_ops"] = lambda: True
    vars(pooling)["_assert_has_ops"] = lambda: None
