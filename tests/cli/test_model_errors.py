"""A model that no job can work with: one clear sentence, before the work starts where it can be known."""

from pathlib import Path

import pytest
import torch
from cli_command import ODD_MODELS, odd_job, refused, run
from safetensors.torch import save_file

ODD = ODD_MODELS.read_text()


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("TwoInputs", ("forward(image, mask)", "with 1 input:", "'mask'", "wrap it in a file.py:function")),
        ("KeywordInput", ("forward(pixel_values)", "wrap it")),
        ("DictInput", ("(mine.py, line ", "wrap it")),
        ("ListInput", ("TypeError: give a list of images (mine.py, line ", "wrap it")),
        ("Exits", ("SystemExit: 3 (mine.py, line ",)),
        ("signals", ("'0' is of type Conv1d, which takes (N, C, L), but gets (2, 1, 9, 9)", "wrap it")),
        ("videos", ("'0' is of type Conv3d, which takes (N, C, D, H, W), but gets (2, 1, 9, 9)", "wrap it")),
        ("colour", ("'0' is of type Conv2d for 3 channels, but gets 1", "--input CxHxW", "build it for 1")),
        ("large", ("'3' is of type Linear for 2,048 features, but gets 648", "--input CxHxW", "pooling")),
        ("deep", ("Kernel size can't be greater than actual input size in its layer '4'",)),
        ("Words", ("'embedding' is of type Embedding, which takes integers, but gets float32", "from Python")),
    ],
)
def test_a_model_of_other_inputs(model: str, parts: tuple[str, ...], code: Path, tmp_path: Path) -> None:
    expected = ("does not run on example inputs of shape (2, 1, 9, 9)", *parts)
    refused(run(*odd_job(code, model, tmp_path / "run")), "mine.py:data, which are 1×9×9", *expected)
    assert not (tmp_path / "run").exists()
    refused(run("groups", "--model", f"{code}:{model}", "--input", "1x9x9"), *expected)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("a_dict", ("a dict with 'aux' (32, 1, 9, 9), 'out' (32, 3)", 'returns model(x)["out"]')),
        ("a_tuple", ("a tuple of (32, 1, 9, 9), (32, 3)", "returns model(x)[1]")),
        ("a_list", ("a list of (32, 3)", "returns model(x)[0]")),
        ("a_dataclass", ("an Output with logits (32, 3), loss None", "returns model(x).logits")),
        ("an_output_object", ("no tensor, but ModelOutput with 'logits' (2, 3)", 'model(x)["logits"]')),
        ("nothing", ("returns no tensor, but None", "return its outputs")),
        ("maps", ("(32, 3, 9, 9)", "a value per pixel", "`secateur plan`")),
        ("dict_of_maps", ("'out' (32, 1, 9, 9)", "a value per pixel")),
        ("one_number", ("for N = 32 returned (32,)", "give a classifier")),
        ("transposed", ("for N = 32 returned (3, 32)", "give a classifier")),
        ("two_classes", ("2 outputs, but the data has 3 classes", "--num-classes 3")),
        ("nan", ("NaN or infinity for 32 of 32 samples", "weights")),
        ("infinite", ("NaN or infinity for 32 of 32 samples",)),
    ],
)
def test_a_model_of_other_outputs(model: str, parts: tuple[str, ...], code: Path, tmp_path: Path) -> None:
    refused(run(*odd_job(code, model, tmp_path / "run")), *parts)
    assert not (tmp_path / "run").exists()


def test_the_way_out_that_is_named_for_maps_works(code: Path, tmp_path: Path) -> None:
    model = ("--model", f"{code}:maps", "--input", "1x9x9")
    assert run("plan", *model, "--macs", "0.5", "--out", tmp_path / "plan.json").code == 0
    ran = run("apply", tmp_path / "plan.json", *model, "--out", tmp_path / "small.safetensors")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("model", ["auxiliary_tuple", "seven_classes"])
def test_outputs_that_are_taken(model: str, code: Path, tmp_path: Path) -> None:
    ran = run(*odd_job(code, model, tmp_path / "run"))
    assert ran.code == 0, ran.err


def test_a_loss_that_is_nan_from_the_start_is_not_blamed_on_the_learning_rate(code: Path, tmp_path: Path) -> None:
    ran = run(*odd_job(code, "NanInTraining", tmp_path / "run"))
    refused(ran, "loss is nan in phase 'dense', epoch 1 of 1, batch 1 of 4", "no learning rate is to blame")
    assert "lower learning rate" not in ran.err
    ran = run(*odd_job(code, "net", tmp_path / "other", "--lr", "1e20", "--epochs", "3"))
    refused(ran, "phase 'finetune', epoch ", "lower learning rate than", "--train-lr in phase 'dense', else --lr")


@pytest.mark.parametrize(
    ("text", "function", "parts"),
    [
        ("def f(:\n", "f", ("SyntaxError", "mine.py, line 1")),
        ("import absent_thing\n", "f", ("ModuleNotFoundError: No module named 'absent_thing' (mine.py, line 1)",)),
        ("import sys; sys.exit(4)\n", "f", ("SystemExit: 4 (mine.py, line 1)",)),
        ("x = 1\n", "f", ("defines no function at all, so not 'f'",)),
        (ODD, "two_clases", ("unknown function 'two_clases'; did you mean 'two_classes'?",)),
        (ODD, "number", ("returned int; it should return an nn.Module",)),
        (
            ODD_MODELS.read_text(),
            "a_class",
            ("returned the class Linear; it should return an nn.Module: call it, as in Linear(…)",),
        ),
        (ODD, "raising", ("KeyError: 'depth' (mine.py, line ",)),
        (ODD, "exiting", ("SystemExit: no licence (mine.py, line ",)),
    ],
)
def test_code_that_builds_no_model(text: str, function: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    refused(run("groups", "--model", f"{path}:{function}", "--input", "1x9x9"), "mine.py", *parts)


def test_weights_of_another_model_or_none(code: Path, tmp_path: Path) -> None:
    save_file(
        {"0.weight": torch.zeros(8, 1, 3, 3), "2.weight": torch.zeros(4, 8, 3, 3)}, tmp_path / "other.safetensors"
    )
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-8])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    model = ("groups", "--model", f"{code}:net", "--input", "1x9x9", "--weights")
    refused(run(*model, tmp_path / "other.safetensors"), "2.weight (file (4, 8, 3, 3), model (8, 8, 3, 3))", "missing:")
    refused(run(*model, tmp_path / "cut.safetensors"), "cut.safetensors is truncated", "copy it again")
    refused(run(*model, tmp_path / "whole.pt"), "torch.nn.modules.linear.Linear", "nothing was executed", "state_dict")


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("auxiliary_dict", ("in training mode, ", "a dict with 'out' (32, 3), 'aux' (32, 3)")),
        (
            "TrainingFails",
            ("in training mode TrainingFails does not run", "targets should not be None (mine.py, line "),
        ),
        ("NoLayers", ("NoLayers has no convolution and no linear layer",)),
        (
            "Locked",
            ("nothing of Locked can be cut", "all of its groups (4) are locked: conv (transformed along channels"),
        ),
    ],
)
def test_what_no_job_can_do_is_refused_before_the_folder_is_made(
    model: str, parts: tuple[str, ...], code: Path, tmp_path: Path
) -> None:
    refused(run(*odd_job(code, model, tmp_path / "run")), *parts)
    assert not (tmp_path / "run").exists()


def test_locking_everything_names_the_option(code: Path, tmp_path: Path) -> None:
    refused(
        run(*odd_job(code, "net", tmp_path / "run", "--lock", "*")),
        "because --lock or --residual leaves alone all that could be",
    )
