import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.torchvision_shim import import_torchvision, nms

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def brute_force(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    def iou(a: list[float], b: list[float]) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        overlap = max(width, 0.0) * max(height, 0.0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
        return overlap / union

    kept: list[int] = []
    corners = boxes.tolist()
    for index in sorted(range(len(corners)), key=lambda i: -float(scores[i])):
        if all(iou(corners[index], corners[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_of_torchvision_is_the_greedy_rule(threshold: float) -> None:
    torchvision = import_torchvision()
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(60, 2, generator=generator) * 10
    boxes = torch.cat([corner, corner + 1 + torch.rand(60, 2, generator=generator) * 5], dim=1)
    scores = torch.rand(60, generator=generator)
    expected = brute_force(boxes, scores, threshold)
    assert torchvision.ops.nms(boxes, scores, threshold).tolist() == expected
    assert nms(boxes, scores, threshold).tolist() == expected


def test_nms_of_nothing_is_nothing() -> None:
    assert import_torchvision().ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_importing_twice_gives_the_same_module() -> None:
    assert import_torchvision() is import_torchvision()


def test_a_detector_runs() -> None:
    models = import_torchvision().models
    detector = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3)
    with torch.no_grad():
        found = detector.eval()([torch.rand(3, 64, 64)])
    assert set(found[0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("declared", [True, False])
def test_operators_that_exist_are_left_alone(declared: bool) -> None:
    before = "library = torch.library.Library('torchvision', 'DEF'); [library.define(text) for text in shim.SCHEMAS]"
    script = f"import torch; from secateur import torchvision_shim as shim; {before if declared else 'pass'}; " + (
        "shim.import_torchvision(); print(len(shim._DECLARED))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    compiled = "+cpu" not in torch.__version__
    assert int(done.stdout) == 0 or not (declared or compiled)


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"torchvision is not installed; .*secateur\[vision\]"):
        import_torchvision()
