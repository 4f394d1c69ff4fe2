"""Accuracy back without training, from the command line."""

import json
from pathlib import Path

import pytest
import torch
from cli_command import Ran, refused, run
from cli_toy import flat_network
from safetensors.torch import load_file

from secateur.cli import choices
from secateur.cli.options import RestoreOptions
from secateur.compensation import RestoreSettings
from secateur.errors import UsageError
from secateur.export import inspect as inspect_file
from secateur.record import read_record

TOY = Path(__file__).with_name("cli_toy.py")
NETWORK, DATA = ("--model", f"{TOY}:network"), ("--data", f"{TOY}:data")
RESTORE = ("--compensate", "both", "--compensate-images", "48", "--bn-images", "64")


def planned(weights: Path, folder: Path, *more: str) -> Ran:
    words = ("--weights", weights, "--input", "1x9x9", "--macs", "0.4", "--out", folder / "plan.json")
    return run("plan", *NETWORK, *words, *more)


def test_prune_restores_reports_and_refuses_to_go_on_otherwise(job: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = (*job, "--epochs", "0", "--out", str(out))
    ran = run(*words, *RESTORE)
    assert ran.code == 0, ran.err
    record = read_record(out / "record.json")
    (found,) = record.restored
    assert [(step.what, step.images) for step in found.steps] == [
        ("cut", 0),
        ("least squares and mean", 48),
        ("batch norm", 64),
    ]
    assert found.right_after_cut == record.measurements["cut"].validation
    assert found.steps[-1].validation is not None
    tuned = record.measurements["tuned"].validation
    assert tuned is not None
    assert tuned.top1 == found.steps[-1].validation.top1
    shown = " ".join(ran.out.split())
    assert "right after the cut" in shown
    assert "after least squares and mean (48 images" in shown
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "## Restored without training: validation top-1" in page
    assert "| cut | after the cut | after least squares and mean | after batch norm | training images |" in page
    assert "| restored |" in page  # the row of the result, which nothing was trained for
    again = run(*words, *RESTORE)
    assert "nothing was computed" in again.out
    refused(run(*words), "method.restore.compensate = both, but this one has none")
    refused(run(*words, *RESTORE[:-1], "65"), "method.restore.batch_norm_images = 64, but this one has 65")


def test_apply_restores_with_data_and_says_so_in_the_file(weights: Path, tmp_path: Path) -> None:
    assert planned(weights, tmp_path).code == 0
    words = ("apply", tmp_path / "plan.json", *NETWORK, "--weights", weights)
    out = ("--out", tmp_path / "small.safetensors")
    refused(run(*words, *out, *RESTORE), "--compensate both looks at training images, and there is no data", "--data")
    refused(run(*words, *out, "--bn-images", "64"), "--bn-images 64 looks at training images")
    assert not (tmp_path / "small.safetensors").exists()
    ran = run(*words, *DATA, *RESTORE, *out, "-q", "--json")
    assert ran.code == 0, ran.err
    steps = json.loads(ran.out)["restored"]["steps"]
    assert [step["what"] for step in steps] == ["cut", "least squares and mean", "batch norm"]
    file = tmp_path / "small.safetensors"
    shown = run("evaluate", file, *NETWORK, *DATA, "--split", "validation", "--json")
    assert json.loads(shown.out)["top1"] == steps[-1]["validation"]["top1"]
    assert inspect_file(file).provenance["restored"]["steps"][1]["images"] == 48  # type: ignore[index,call-overload]
    checked = run("verify", file, *NETWORK, "--weights", weights)
    assert checked.code == 0, checked.err
    assert "were re-fitted or trained after the cut" in checked.out
    seen = run("inspect", file)
    lines = [" ".join(line.split()) for line in seen.out.splitlines()]
    (restored,) = [line for line in lines if line.startswith("restored")]
    assert "right after the cut" in restored
    assert "after least squares and mean (48 images)" in restored
    assert "after batch norm (64 images)" in restored
    assert any(line.startswith("re-fitted 2 layers; largest relative squared error") for line in lines)
    assert "Layers re-fitted" in lines
    assert "steps" not in seen.out  # no key of the JSON
    assert "fingerprint" not in seen.out
    tabled = run(*words, *DATA, *RESTORE, *out, "-q", "--force")
    assert "Restored without training" in tabled.out
    assert "after batch norm" in " ".join(tabled.out.split())


def test_options_become_settings() -> None:
    assert choices.restore(RestoreOptions()) == RestoreSettings()
    wanted = RestoreSettings(compensate="mean", images=9, batch_norm_images=7)
    assert choices.restore(RestoreOptions(compensate="mean", compensate_images=9, bn_images=7)) == wanted
    with pytest.raises(UsageError, match=r"--compensate-images 9 is for --compensate, which is none"):
        choices.restore(RestoreOptions(compensate_images=9))


def test_a_plan_says_where_it_is_not_what_a_run_decides(weights: Path, tmp_path: Path) -> None:
    ran = planned(weights, tmp_path, "--method", "global", "--criterion", "gate_taylor", "--json")
    notes = json.loads(ran.out)["notes"]
    assert any("gate_taylor looks at data, and a plan has none: L1 norms stand in" in note for note in notes)
    ran = planned(weights, tmp_path, "--method", "gate_decorator", "--json", "--force")
    assert any("gate_decorator trains before it decides" in note for note in json.loads(ran.out)["notes"])
    ran = planned(weights, tmp_path, "--method", "global", "--criterion", "l2", "--json", "--force")
    assert not any("shows how much goes" in note for note in json.loads(ran.out)["notes"])


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("colour", ("which are 3×9×9", "its layer '0' is of type Conv2d for 1 channel, but gets 3")),
        ("large", ("which are 1×11×11", "its layer '6' is of type Linear for 196 features, but gets 324")),
    ],
)
def test_data_of_another_shape_is_refused_before_anything_is_written(
    data: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(flat_network().state_dict(), tmp_path / "weights.pt")
    network = ("--model", f"{TOY}:flat_network", "--weights", tmp_path / "weights.pt")
    plan = tmp_path / "plan.json"
    assert run("plan", *network, "--input", "1x9x9", "--macs", "0.6", "--out", plan).code == 0
    for asked in (("--compensate", "both"), ("--bn-images", "64"), ()):
        words = ("apply", plan, *network, "--data", f"{TOY}:{data}", *asked, "--out", tmp_path / "small.safetensors")
        refused(run(*words), "does not run on example inputs of shape", *(parts if asked else parts[1:]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "weights.pt"]


def test_apply_reads_images_as_prune_does(weights: Path, tmp_path: Path) -> None:
    assert planned(weights, tmp_path).code == 0
    words = ("apply", tmp_path / "plan.json", *NETWORK, "--weights", weights)
    out = ("--out", tmp_path / "small.safetensors")
    refused(run(*words, *DATA, "--batch-size", "8", *out), "--batch-size 8 says how images are read", "--bn-images")
    refused(run(*words, *DATA, "--validation-share", "0.2", *out), "--validation-share 0.2 says how images are read")
    refused(run(*words, "--augment", "flip", *out), "--augment flip says how images are read, and there is no data")
    refused(run(*words, *DATA, *RESTORE, "--augment", "flips", *out), "did you mean 'flip'")
    assert not (tmp_path / "small.safetensors").exists()
    found = {}
    for name, more in {"whole": (), "quarters": ("--batch-size", "16"), "split": ("--validation-share", "0.5")}.items():
        file = tmp_path / f"{name}.safetensors"
        ran = run(*words, *DATA, "--bn-images", "64", *more, "--out", file, "-q", "--json")
        assert ran.code == 0, ran.err
        step = json.loads(ran.out)["restored"]["steps"][1]
        assert step["images"] == 64
        found[name] = (step["validation"]["samples"], load_file(file)["1.running_var"])
    assert [samples for samples, _ in found.values()] == [16, 16, 80]
    # Averages over mini-batches: of four quarters not quite what the whole gives, and of other images something else.
    assert torch.allclose(found["quarters"][1], found["whole"][1], rtol=0.2)
    assert not torch.equal(found["quarters"][1], found["whole"][1])
    assert not torch.equal(found["split"][1], found["whole"][1])
