"""Wrong input ends with one clear sentence and exit code 2, before any work starts where it can be known."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_command import ENVIRONMENT, Ran, refused, run, spawn
from safetensors.torch import load_file, save_file

TOY = Path(__file__).with_name("cli_toy.py")
NETWORK, DATA = f"{TOY}:network", f"{TOY}:data"
UNTRAINED = ("prune", "--model", NETWORK, "--data", DATA, "--macs", "0.5", "--train-epochs", "1", "-q")


def with_options(*options: str | Path) -> Ran:
    """Run a job that works, with options that make it wrong: the last of two wins."""
    return run(*UNTRAINED, *options)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--model", "resnet57-b"), ("unknown model 'resnet57-b'", "'resnet56-b'")),
        (("--model", "resnet18"), ("did you mean 'torchvision:resnet18'?",)),
        (("--model", "torchvision:resnet81"), ("unknown torchvision model 'resnet81'", "'resnet18'")),
        (("--model", "absent.py:network"), ("there is no file absent.py",)),
        (("--model", f"{TOY}:netwrok"), ("did you mean 'network'?",)),
        (("--data", "digit"), ("unknown data set 'digit'", "'digits'")),
        (("--data", "parquet:nowhere"), ("there is no folder nowhere",)),
        (("--data", f"{TOY}:empty"), ("train split", "is empty")),
        (("--normalize", "cifar"), ("unknown normalisation 'cifar'", "'cifar10'")),
        (("--criterion", "l11"), ("unknown criterion 'l11'", "'l1'")),
        (("--macz", "0.5"), ("--macz", "--macs")),
        (("--scope", "globl"), ("--scope", "'global'")),
        (("--macs", "0.001"), ("cannot reach macs", "Allow at least")),
        (("--params", "10"), ("cannot reach params",)),
        (("--macs", "1.5"), ("share outside (0, 1]",)),
        (("--macs", "0"), ("must be above 0",)),
        (("--macs", "-50%"), ("must be above 0",)),
        (("--macs", "half"), ("'half'", "0.5")),
        (("--latency-ms", "3"), ("latency table",)),
        (("--lock", "layre1.*"), ("layre1.*",)),
        (("--min-share", "2"), ("min_share is 2",)),
        (("--shrink", "params"), ("--shrink params is for the search that --max-drop starts", "leave --shrink out")),
        (("--recovery-epochs", "0"), ("--recovery-epochs 0 is for the search", "--max-drop 1")),
        (("--method", "l1", "--layer-epochs", "2"), ("--layer-epochs 2", "only one cut", "--strategy layer-by-layer")),
        (("--step-epochs", "2"), ("--step-epochs 2", "only one cut", "--steps of 2 or more")),
        (("--train-share", "nan"), ("share of the training data is nan",)),
        (("--min-share", "1"), ("cannot reach macs",)),
        (("--min-units", "0"), ("--min-units",)),
        (("--epochs", "-1"), ("epochs is -1",)),
        (("--train-epochs", "0"), ("no weights", "--weights", "--train-epochs")),
        (("--lr", "-1"), ("learning_rate is -1",)),
        (("--lr", "fast"), ("--lr", "number")),
        (("--batch-size", "0"), ("batch_size is 0",)),
        (("--label-smoothing", "1"), ("label_smoothing is 1",)),
        (("--validation-share", "1"), ("validation share is 1",)),
        (("--threads", "0"), ("threads is 0", "at least 1")),
        (("--device", "gpu"), ("device 'gpu'", "cuda")),
        (("--num-classes", "2"), ("2 outputs", "3 classes")),
        (("--model", f"{TOY}:fixed_network", "--num-classes", "3"), ("so no num_classes", "add num_classes")),
        (("--model", f"{TOY}:dict_network"), ("returned a dict", "file.py:function")),
        (("--model", f"{TOY}:tuple_network"), ("returned a tuple",)),
        (("--model", f"{TOY}:map_network"), ("(N, 3)", "4, 4)")),
        (
            (
                "--model",
                f"{TOY}:fixed_view",
            ),
            ("does not run", "try --lock '0.2'"),
        ),
        (("--macs", "100%"), ("already holds", "nothing to cut")),
        (("--validation-share", "0"), ("validation split", "--validation-share 0", "larger")),
        (("--weights", f"{TOY}"), ("leave out --weights or --train-epochs",)),
        (("--model", "torchvison:resnet18"), ("did you mean 'torchvision:resnet18'?",)),
        (("--model", "resnet21"), ("did you mean 'resnet20'?",)),
        (("--data", f"{TOY}:colour"), ("3×9×9", "(2, 3, 9, 9)")),
        (("--data", f"{TOY}:many_classes"), ("3 outputs", "10 classes")),
        (("--model", "digits-resnet", "--out", "/proc/run"), ("cannot write /proc/run",)),
        (("--out", f"{TOY}/run"), ("cannot write", "cli_toy.py")),
    ],
    ids=lambda value: " ".join(str(word).rpartition("/")[2] for word in value) if value[0].startswith("--") else "",
)
def test_options(options: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    refused(with_options("--out", str(tmp_path / "run"), *options), *parts)
    assert not (tmp_path / "run").exists()


def test_missing_words() -> None:
    refused(run("prune", "--model", NETWORK, "--data", DATA, "--train-epochs", "1"), "no budget", "--macs")
    refused(run("prune", "--model", NETWORK), "Missing option '--data'")
    refused(run("prnue"), "Did you mean 'prune'?")
    refused(run("groups", "--model", NETWORK, "--input", "3x32"), "3x32", "such as 3x32x32")
    refused(run("groups", "--model", "resnet20", "--input", "3x0x32"), "3x0x32")
    refused(run("groups", "--model", "resnet20", "--input", "3x99999x99999"), "240.0 GB", "smaller --input")
    refused(run("profile", "--model", NETWORK, "--input", "1x9x9", "--data", DATA), "asked for twice", "1x9x9")
    refused(run("groups", "--model", "torchvision:resnet18", "--input", "1x32x32"), "3 channels, not 1")


class Opened:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_weight_files(weights: Path, tmp_path: Path) -> None:
    sound, content = load_file(weights), weights.read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(content[:-100])
    (tmp_path / "corrupt.safetensors").write_bytes(b"\xff" * 200)
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"weight": Opened(tmp_path / "executed")}, tmp_path / "code.pt")
    torch.save(sound, tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:900])
    save_file({**sound, "3.weight": torch.zeros(12, 9, 3, 3)}, tmp_path / "other.safetensors")
    save_file({name: tensor for name, tensor in sound.items() if name != "8.bias"}, tmp_path / "less.safetensors")
    save_file({**sound, "8.bias": torch.full((3,), torch.nan)}, tmp_path / "nan.safetensors")
    expected = {
        "absent.safetensors": ("there is no weight file",),
        "truncated.safetensors": ("truncated",),
        "corrupt.safetensors": ("not a safetensors file",),
        "empty.pt": ("is empty",),
        "code.pt": ("refused", "nothing was executed"),
        "half.pt": ("truncated",),
        "other.safetensors": ("3.weight (file (12, 9, 3, 3), model (12, 8, 3, 3))",),
        "less.safetensors": ("missing: 8.bias",),
        "nan.safetensors": ("8.bias", "NaN"),
    }
    for name, parts in expected.items():
        refused(
            with_options("--weights", tmp_path / name, "--train-epochs", "0", "--out", tmp_path / "run"), name, *parts
        )
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    words = ("--train-epochs", "2", "--lr", "1e9", "--epochs", "3", "--batch-size", "32", "--out", tmp_path / "run")
    refused(with_options(*words), "loss is", "phase 'finetune'", "batch ", "the last checkpoint is kept")
    assert (tmp_path / "run" / "checkpoint" / "phases" / "dense.safetensors").is_file()
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_damaged_checkpoint_or_recipe_is_named(tmp_path: Path) -> None:
    words = ("--lr", "1e9", "--out", tmp_path / "run")
    assert with_options(*words).code == 2
    checkpoint = tmp_path / "run" / "checkpoint" / "phases" / "dense.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    refused(with_options(*words), "dense.safetensors", "corrupt")
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().splitlines()[0] + "\n[unclosed")
    refused(with_options(*words), "recipe.yaml is damaged", "--force")


@pytest.mark.parametrize("kilobytes", [4, 200])
def test_a_full_disk_is_one_sentence(kilobytes: int, tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: first the checkpoint does not fit, then the ONNX file."""
    limit = kilobytes * 1024

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = ("prune", "--model", "digits-resnet", "--data", "digits", "--macs", "0.5", "--train-epochs", "1", "-q")
    process = subprocess.run(
        [sys.executable, "-m", "secateur", *words, "--epochs", "0", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=limited,
        timeout=120,
    )
    refused(Ran(process.returncode, process.stdout, process.stderr), "cannot write", "free space")


def test_the_real_process_ends_likewise(tmp_path: Path) -> None:
    refused(
        spawn("prune", "--model", "resnet57", "--data", "digits", "--macs", "0.5", "--train-epochs", "1"), "resnet57"
    )
    ran = spawn("groups", "--model", "resnet57", "-v")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert "UsageError" in ran.err
    assert ran.err.splitlines()[-1].startswith("secateur: unknown model 'resnet57'; did you mean 'resnet56'?")
