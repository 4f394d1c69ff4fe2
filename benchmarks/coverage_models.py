"""Which models the coverage benchmark runs over, and how each is built: random weights, nothing is downloaded.

`coverage_models.json` holds the list, so that a run needs no search. Make it anew, after a new release of a library,
with `python benchmarks/coverage_models.py`; that counts the parameters of every timm model on the meta device (a few
minutes) and tries out which models take a smaller input than their own.
"""

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.files import write_text
from secateur.torchvision_shim import import_torchvision

LIST = Path(__file__).parent / "coverage_models.json"
SMALLEST = 2  # members of every timm module
MOST_PARAMS = 60_000_000  # of a timm model
SMALL_SIDE = 128  # pixels; used where a model takes it
CLASSES = 1000  # of a classifier
FAMILIES = ("torchvision", "segmentation", "detection", "timm", "transformers", "ultralytics")

YOLO = ("yolov8n", "yolo11n", "yolo12n")

# Few proposals and no threshold: with random weights a detector finds nothing, and runs its later parts on nothing.
_RCNN = {
    "min_size": 128,
    "max_size": 160,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 50,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
}
_DENSE = {"min_size": 128, "max_size": 160, "score_thresh": 0.0, "detections_per_img": 10, "topk_candidates": 50}
_SSD = {"score_thresh": 0.0, "detections_per_img": 10, "topk_candidates": 50}

_RCNN_HEADS = ("rpn.head", "roi_heads.box_predictor")

# Detector → arguments, and the modules that give raw scores and boxes before any are chosen.
DETECTORS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": (_RCNN, _RCNN_HEADS),
    "fasterrcnn_mobilenet_v3_large_fpn": (_RCNN, _RCNN_HEADS),
    "fasterrcnn_resnet50_fpn": (_RCNN, _RCNN_HEADS),
    "fasterrcnn_resnet50_fpn_v2": (_RCNN, _RCNN_HEADS),
    "fcos_resnet50_fpn": (_DENSE, ("head",)),
    "keypointrcnn_resnet50_fpn": (_RCNN, (*_RCNN_HEADS, "roi_heads.keypoint_predictor")),
    "maskrcnn_resnet50_fpn": (_RCNN, (*_RCNN_HEADS, "roi_heads.mask_predictor")),
    "maskrcnn_resnet50_fpn_v2": (_RCNN, (*_RCNN_HEADS, "roi_heads.mask_predictor")),
    "retinanet_resnet50_fpn": (_DENSE, ("head",)),
    "retinanet_resnet50_fpn_v2": (_DENSE, ("head",)),
    "ssd300_vgg16": (_SSD, ("head",)),
    "ssdlite320_mobilenet_v3_large": (_SSD, ("head",)),
}

# Name → (configuration class, model class, arguments of the configuration)
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
    "resnet_bottleneck": ("ResNetConfig", "ResNetForImageClassification", {}),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", {}),
    "mobilevit": ("MobileViTConfig", "MobileViTForImageClassification", {}),
    "segformer": ("SegformerConfig", "SegformerForSemanticSegmentation", {}),
}


@dataclass(frozen=True)
class Subject:
    """One model of the list.

    Attributes:
        name: ``family/model``.
        params: parameters.
        shape: of the input, without the batch.
        outputs: names of modules whose outputs are to be kept, where the model's own are not tensors of fixed shape.
    """

    name: str
    params: int
    shape: tuple[int, ...]
    outputs: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The library or the task."""
        return self.name.partition("/")[0]

    @property
    def model(self) -> str:
        """Name within the family."""
        return self.name.partition("/")[2]


def subjects() -> list[Subject]:
    """Return the committed list, by name."""
    rows = json.loads(LIST.read_text(encoding="utf-8"))["models"]
    return [
        Subject(row["name"], row["params"], tuple(row["shape"]), tuple(row["outputs"]))
        for row in sorted(rows, key=lambda row: row["name"])
    ]


def build(subject: Subject) -> nn.Module:
    """Build a model in evaluation mode, with random weights, the same each time."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of their own old names
        return _BUILDERS[subject.family](subject.model).eval()


def example_inputs(subject: Subject) -> Any:
    """Return inputs of one sample: a tensor, a tuple of positional arguments, or a mapping."""
    image = torch.randn(1, *subject.shape, generator=torch.Generator().manual_seed(1))
    if subject.family == "detection":
        return ([image[0]],)
    if subject.family == "transformers":
        return {"pixel_values": image}
    return image


def run(model: nn.Module, given: Any) -> Any:
    """Run a model once, without gradients."""
    with torch.no_grad():
        return model(**given) if isinstance(given, dict) else model(*(given if isinstance(given, tuple) else (given,)))


def heads(subject: Subject, model: nn.Module) -> list[nn.Module]:
    """Return the final layers, whose outputs are the classes: what a user of the peer is told to leave out."""
    if subject.family == "detection":
        return [model.get_submodule(name) for name in subject.outputs]
    if subject.family == "segmentation":
        return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels == 21]
    if subject.family == "ultralytics":
        return [list(model.get_submodule("model").children())[-1]]
    if subject.family == "transformers":
        # transformers gives two labels unless told otherwise
        return [
            layer
            for layer in model.modules()
            if (isinstance(layer, nn.Linear) and layer.out_features == 2)
            or (isinstance(layer, nn.Conv2d) and layer.out_channels == 2)
        ]
    return [
        layer
        for layer in model.modules()
        if (isinstance(layer, nn.Linear) and layer.out_features == CLASSES)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels == CLASSES)
    ]


def _torchvision(name: str) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return import_torchvision().models.get_model(name, weights=None, **options)


def _segmentation(name: str) -> nn.Module:
    return import_torchvision().models.get_model(name, weights=None, weights_backbone=None)


def _detection(name: str) -> nn.Module:
    options, _ = DETECTORS[name]
    return import_torchvision().models.get_model(name, weights=None, weights_backbone=None, **options)


def _timm(name: str) -> nn.Module:
    import_torchvision()
    return importlib.import_module("timm").create_model(name, pretrained=False)


def _transformers(name: str) -> nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import_torchvision()
    library = importlib.import_module("transformers")
    config, model, options = TRANSFORMERS[name]
    return getattr(library, model)(getattr(library, config)(**options))


def _ultralytics(name: str) -> nn.Module:
    # Settings go to a folder of this process and nothing is sent: the library writes and reports on import otherwise.
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo"))
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    import_torchvision()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    return tasks.DetectionModel(cfg=f"{name}.yaml", verbose=False)


_BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "segmentation": _segmentation,
    "detection": _detection,
    "timm": _timm,
    "transformers": _transformers,
    "ultralytics": _ultralytics,
}


# Making the list ------------------------------------------------------------------------------------------------


def _params(name: str) -> int | None:
    """Count on the meta device; None for a model that cannot be built there."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in _timm(name).parameters())
    except Exception as error:  # whatever a model's own code raises without values
        print(f"  {name} cannot be built on the meta device: {type(error).__name__}: {error}"[:150], flush=True)
        return None


def _smallest_of_timm(counts: dict[str, dict[str, int | None]] | None) -> tuple[list[str], dict[str, int]]:
    """Return the names of the smallest models, and modules whose smallest is too large, with its parameters."""
    import_torchvision()
    timm = importlib.import_module("timm")
    names, left_out = [], {}
    for module in timm.list_modules():
        known = counts[module] if counts is not None else {n: _params(n) for n in timm.list_models(module=module)}
        fitting = sorted((size, name) for name, size in known.items() if size is not None and size <= MOST_PARAMS)
        names += [name for _, name in fitting[:SMALLEST]]
        if not fitting:
            left_out[module] = min((size for size in known.values() if size is not None), default=0)
        print(f"{module}: {len(known)} models, {len(fitting)} of at most {MOST_PARAMS:,} parameters", flush=True)
    return names, left_out


def _with_shape(name: str, own: tuple[int, ...], fixed: bool) -> dict[str, Any]:
    """Build a model and find the smaller input that it takes, or keep its own."""
    outputs = DETECTORS[name.partition("/")[2]][1] if name.startswith("detection/") else ()
    small = (own[0], min(own[1], SMALL_SIDE), min(own[2], SMALL_SIDE))
    model = build(Subject(name, 0, own))
    params = sum(p.numel() for p in model.parameters())
    chosen = own
    if not fixed and small != own:
        try:
            run(model, example_inputs(Subject(name, params, small)))
            chosen = small
        except Exception:  # a model that is written for its own size
            chosen = own
    print(f"{name}: {params:,} parameters, input {chosen}", flush=True)
    gc.collect()
    return asdict(Subject(name, params, chosen, outputs))


def make_list(counts: dict[str, dict[str, int | None]] | None = None) -> None:
    """Write `coverage_models.json`."""
    models = import_torchvision().models
    rows = []
    for name in models.list_models(module=models):
        # Its auxiliary head, which only training reaches, needs the full size.
        side, fixed = (299, True) if name == "inception_v3" else (224, False)
        rows.append(_with_shape(f"torchvision/{name}", (3, side, side), fixed))
    for name in models.list_models(module=models.segmentation):
        rows.append(_with_shape(f"segmentation/{name}", (3, 128, 128), True))
    for name in models.list_models(module=models.detection):
        rows.append(_with_shape(f"detection/{name}", (3, 128, 160), True))
    for name in TRANSFORMERS:
        rows.append(_with_shape(f"transformers/{name}", (3, 128, 128), True))
    for name in YOLO:
        rows.append(_with_shape(f"ultralytics/{name}", (3, 128, 128), True))
    names, left_out = _smallest_of_timm(counts)
    for name in names:
        config = build(Subject(f"timm/{name}", 0, ())).default_cfg
        rows.append(_with_shape(f"timm/{name}", tuple(config["input_size"]), bool(config.get("fixed_input_size"))))
    versions = {
        library: importlib.metadata.version(library)
        for library in ("torchvision", "timm", "transformers", "ultralytics")
    }
    # One model per line, so that a change of the list can be read.
    lines = ",\n".join("  " + json.dumps(row) for row in sorted(rows, key=lambda row: row["name"]))
    head = f' "versions": {json.dumps(versions)},\n "timm_modules_left_out": {json.dumps(left_out)},\n'
    write_text(LIST, f'{{\n{head} "models": [\n{lines}\n ]\n}}\n')


def main() -> None:
    """Make the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=Path, help="JSON of timm module → model → parameters, counted before")
    counts = parser.parse_args().counts
    torch.set_num_threads(1)
    make_list(None if counts is None else json.loads(counts.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
