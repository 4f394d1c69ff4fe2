"""Short runs of recipes that come with Secateur: their settings, on data and networks of seconds."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from secateur.recipe import compress, read_recipe
from secateur.record import RunRecord

DIGITS = (
    *("model.spec=digits-resnet", "data.spec=digits", "data.augmentation=none", "data.train_share=0.5"),
    *("train_epochs=2", "export=[]", "machine.threads=1"),
)


def run(name: str, folder: Path, *changes: str, allow_code: bool = False) -> RunRecord:
    before = torch.get_num_threads()
    record = compress(read_recipe(name, changes, allow_code=allow_code), folder).record
    torch.set_num_threads(before)
    assert record.proof is not None
    assert record.proof.verdict == "exact"
    return record


def test_the_short_gate_decorator_runs_through_all_its_phases(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    record = run(
        *("gate_decorator_resnet20_cifar10-cpu", tmp_path / "run", *DIGITS, "budget.macs=0.85", "method.share=0.06"),
        *("method.ticks_per_tock=2", "method.tock_epochs=1", "method.finetune_epochs=1"),
    )
    names = [phase.phase for phase in record.phases]
    assert names[:3] == ["dense", "tock-0", "tick-1"]
    assert names[-2:] == ["finetune", "cooldown"]
    dense, tuned = record.measurements["dense"], record.measurements["tuned"]
    assert dense.macs is not None
    assert tuned.macs is not None
    assert tuned.macs <= 0.85 * dense.macs
    assert tuned.test is not None
    assert tuned.test.top1 is not None
    assert tuned.test.top1 > 0.2  # ten classes: learned more than guessing
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_short_network_slimming_runs_from_scratch(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    short = ("method.sparse_epochs=2", "method.finetune_epochs=2")
    record = run("network_slimming_resnet20_cifar10-cpu", tmp_path / "run", *DIGITS, *short)
    assert [phase.phase for phase in record.phases] == ["dense", "sparse-1", "finetune"]
    dense, tuned = record.measurements["dense"], record.measurements["tuned"]
    assert dense.params is not None
    assert tuned.params is not None
    assert tuned.params < dense.params
    assert any("sparse training takes 2 epochs, not 160" in note for note in record.notes)


FCN = """
from secateur.models.fcn import FCN32s

def network():
    return FCN32s(steps=(4, "pool", 4, "pool", 6, "pool", 6, "pool", 8, "pool"), hidden=8)
"""


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_fcn_recipe_runs_with_the_users_network_on_a_small_tree(tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    tree = tmp_path / "data" / "TrainVal" / "VOCdevkit" / "VOC2011"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tree / folder).mkdir(parents=True)
    for listed, numbers in {"train": range(6), "val": range(6, 8)}.items():
        (tree / "ImageSets/Segmentation" / f"{listed}.txt").write_text("".join(f"{n:06}\n" for n in numbers))
        for number in numbers:
            mask = images.new("P", (48, 48), 0)
            mask.putpalette([0, 0, 0, 128, 0, 0])
            mask.paste(1, (8 + number, 8, 40, 40))
            mask.save(tree / "SegmentationClass" / f"{number:06}.png")
            mask.convert("RGB").save(tree / "JPEGImages" / f"{number:06}.jpg")
    (tmp_path / "fcn.py").write_text(FCN)
    record = run(
        *("gate_decorator_fcn32s_voc2011", tmp_path / "run", f"model.spec={tmp_path / 'fcn.py'}:network"),
        *(f"data.root={tmp_path / 'data'}", "data.augmentation='segmentation:64'", "data.validation_share=0.25"),
        *("train_epochs=1", "method.tock_epochs=1", "method.finetune_epochs=1", "method.share=0.1", "export=[]"),
        *("machine.workers=0", "machine.threads=1"),
        allow_code=True,
    )
    tuned = record.measurements["tuned"]
    assert tuned.test is not None
    assert tuned.test.mean_iou is not None
    assert tuned.test.top1 is None
    assert record.measurements["dense"].macs is not None
    assert tuned.macs is not None
    assert tuned.macs <= 0.7 * record.measurements["dense"].macs
