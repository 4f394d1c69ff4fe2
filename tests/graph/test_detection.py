"""Detectors and segmentation networks of torchvision, proved on what their heads compute; region pooling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cutting import random_plan
from torch import Tensor, nn

from secateur.graph import apply, trace, verify
from secateur.graph.inputs import tensors_of
from secateur.graph.outputs import raw_outputs
from secateur.torchvision_shim import import_torchvision

torchvision = import_torchvision()
detection = torchvision.models.detection

IMAGES = ([torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(n)) for n in range(2)],)
SIZES = {"min_size": 48, "max_size": 64, "num_classes": 3}


class Backbone(nn.Module):
    """Two maps of eight channels, as a pyramid gives them."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.out_channels = channels
        self.stem, self.bn = nn.Conv2d(3, 6, 3, 4, 1, bias=False), nn.BatchNorm2d(6)
        self.lateral, self.down = nn.Conv2d(6, channels, 1), nn.Conv2d(6, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.bn(self.stem(x)))
        return {"0": self.lateral(x), "1": self.down(x)}


def anchors(*sizes: int) -> Any:
    kind = detection.anchor_utils.AnchorGenerator
    return kind(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))


def two_stage(kind: Any, **more: Any) -> nn.Module:
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1"], 3, 2)
    return kind(
        Backbone(),
        rpn_anchor_generator=anchors(8, 16),
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_test=10,
        box_detections_per_img=5,
        box_roi_pool=pool,
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 9, 12),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(12, 3),
        **{**SIZES, "num_classes": None},
        **more,
    )


def mask() -> nn.Module:
    parts = detection.mask_rcnn
    return two_stage(
        detection.MaskRCNN,
        mask_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0", "1"], 4, 2),
        mask_head=parts.MaskRCNNHeads(8, (6, 6), 1),
        mask_predictor=parts.MaskRCNNPredictor(6, 5, 3),
    )


def keypoints() -> nn.Module:
    parts = detection.keypoint_rcnn
    return two_stage(
        detection.KeypointRCNN,
        keypoint_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0", "1"], 4, 2),
        keypoint_head=parts.KeypointRCNNHeads(8, (6, 6)),
        keypoint_predictor=parts.KeypointRCNNPredictor(6, 4),
    )


def one_map() -> Any:
    kind = detection.anchor_utils.AnchorGenerator
    return kind(((8,), (16,)), ((1.0,),) * 2)


def ssd() -> nn.Module:
    boxes = detection.anchor_utils.DefaultBoxGenerator([[2], [2]])
    head = detection.ssd.SSDHead([8, 8], boxes.num_anchors_per_location(), 3)
    return detection.ssd.SSD(Backbone(), boxes, (48, 64), 3, head=head)


def fcos() -> nn.Module:
    return detection.FCOS(Backbone(32), anchor_generator=one_map(), **SIZES)


DETECTORS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "Faster R-CNN": (lambda: two_stage(detection.FasterRCNN), ("rpn.head", "roi_heads.box_predictor")),
    "Mask R-CNN": (mask, ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")),
    "Keypoint R-CNN": (keypoints, ("rpn.head", "roi_heads.box_predictor", "roi_heads.keypoint_predictor")),
    "RetinaNet": (lambda: detection.RetinaNet(Backbone(), anchor_generator=anchors(8, 16), **SIZES), ("head",)),
    "FCOS": (fcos, ("head",)),
    "SSD": (ssd, ("head",)),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_are_proved_on_their_heads(name: str) -> None:
    build, heads = DETECTORS[name]
    model = build().eval()
    graph = trace(model, IMAGES)
    assert graph.outputs == heads == raw_outputs(model)
    plan = random_plan(graph, 0.5)
    assert "backbone.stem" in plan.kept
    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, IMAGES)
    assert proof.verdict == "exact", proof.sentence()
    redrawn = {output.module for output in proof.outputs if output.weights == "redrawn" and output.verdict == "exact"}
    assert redrawn == set(heads)  # boxes reach every head, although the weights are random
    assert [set(found) for found in small(*IMAGES)] == [set(found) for found in model(*IMAGES)]


def test_a_wrong_cut_of_a_detector_is_refused() -> None:
    model = two_stage(detection.FasterRCNN).eval()
    plan = random_plan(trace(model, IMAGES), 0.5)
    assert plan.kept
    small = apply(model, plan, verify_with=None)
    small.rpn.head.register_forward_hook(lambda module, args, result: ([t + 1e-3 for t in result[0]], result[1]))
    proof = verify(model, small, plan, IMAGES)
    assert proof.verdict == "different"


def test_a_detector_in_a_wrapper_without_parameters_is_known() -> None:
    class Wrapper(nn.Module):
        def __init__(self, head: bool) -> None:
            super().__init__()
            self.detector = ssd()
            self.other = nn.Linear(2, 2) if head else None

        def forward(self, x: list[Tensor]) -> Any:
            return self.detector(x)

    assert raw_outputs(Wrapper(head=False)) == ("detector.head",)
    assert raw_outputs(Wrapper(head=True)) == ()
    assert raw_outputs(nn.Linear(2, 2)) == ()


def test_a_list_of_images_is_a_batch_of_as_many() -> None:
    model = ssd().eval()
    alike = [IMAGES[0][0]] * 2
    stacked = torch.stack(alike)
    assert trace(model, (alike,)).macs() == trace(model, stacked).macs() == trace(model, (alike[:1],)).macs()


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_segmentation_networks_with_dictionaries_of_outputs(name: str) -> None:
    more = {"aux_loss": True} if "deeplab" in name else {}
    build = torchvision.models.get_model_builder(name)
    model = build(weights=None, weights_backbone=None, num_classes=3, **more).eval()
    given = torch.randn(2, 3, 32, 32)
    graph = trace(model, given)
    assert graph.outputs == ()
    assert graph.prunable_share_of_macs() > 0.9
    plan = random_plan(graph, 0.5)
    proof = verify(model, apply(model, plan, verify_with=None), plan, given)
    assert proof.verdict == "exact", proof.sentence()
    assert len(proof.outputs) == 2 * len(tensors_of(model(given)))


# Region pooling ----------------------------------------------------------------------------------------------


def test_region_pooling_by_hand() -> None:
    rows = torch.arange(8.0).reshape(1, 1, 8, 1).expand(1, 1, 8, 8)  # each value is its row
    region = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
    found = torchvision.ops.roi_align(rows, region, (2, 2), sampling_ratio=2, aligned=True)
    # Two bins of two rows; points at 0.5 and 1.5 of each, half a pixel up because of the alignment.
    expected = torch.tensor([[0.5, 0.5], [2.5, 2.5]])
    torch.testing.assert_close(found[0, 0], expected)


def test_region_pooling_in_blocks_is_region_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    corners = torch.rand(7, 2, dtype=torch.float64) * 4
    regions = torch.cat([torch.tensor([[0, 1, 0, 1, 1, 0, 0]]).T.double(), corners, corners + 4], 1)
    whole = torchvision.ops.roi_align(features, regions, (2, 3), sampling_ratio=2)
    monkeypatch.setattr("secateur.torchvision_shim.BLOCK_ELEMENTS", 100)
    torch.testing.assert_close(torchvision.ops.roi_align(features, regions, (2, 3), sampling_ratio=2), whole)
    assert torchvision.ops.roi_align(features, regions[:0], (2, 3)).shape == (0, 3, 2, 3)
    shape = torch.ops.torchvision.roi_align(features.to("meta"), regions.to("meta"), 1.0, 2, 3, 2, False).shape
    assert shape == whole.shape


def test_region_pooling_has_gradients() -> None:
    features = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    regions = torch.tensor([[0, 0.3, 0.2, 4.1, 5.0], [0, 1.0, 2.0, 3.0, 3.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: torchvision.ops.roi_align(x, regions, (2, 2), sampling_ratio=2), features)


def test_deformable_convolution_says_that_its_operator_is_missing() -> None:
    if torch.version.cuda is not None:
        pytest.skip("the compiled operators load here")
    with pytest.raises(RuntimeError, match=r"Couldn't load custom C\+\+ ops"):
        torchvision.ops.deform_conv2d(torch.rand(1, 1, 3, 3), torch.rand(1, 18, 1, 1), torch.rand(1, 1, 3, 3))
