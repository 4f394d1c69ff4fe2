"""A model or a machine that cannot do the work: one clear sentence, before the work starts where it can be known."""

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_command import ENVIRONMENT, Ran, refused, run, spawn, start
from safetensors.torch import save_file

CODE = '''
import collections
import dataclasses
import os
import resource
import sys
import time

import torch
from torch import nn


def net(num_classes=3, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )


class Net(nn.Module):
    """A network that takes or returns something of its own."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x)


class TwoInputs(Net):
    def forward(self, image, mask):
        return self.inner(image) * mask


class KeywordInput(Net):
    def forward(self, *, pixel_values):
        return self.inner(pixel_values)


class DictInput(Net):
    def forward(self, batch):
        return self.inner(dict(batch)["image"])


class ListInput(Net):
    def forward(self, batch):
        if not isinstance(batch, list):
            raise TypeError("give a list of images")
        return self.inner(batch[0])


class Exits(Net):
    def forward(self, x):
        sys.exit(3)


def signals():
    return nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def videos():
    return nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3))


def colour():
    return net(channels=3)


def large():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 3))


def deep():
    return nn.Sequential(*(nn.Conv2d(1 if n == 0 else 8, 8, 3) for n in range(5)), nn.Flatten(), nn.Linear(8, 3))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.embedding(x).mean(1))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: object = None


class Returns(Net):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        logits = self.inner(x)
        return self.make(logits, x)


def a_dict():
    return Returns(lambda logits, x: {"aux": x, "out": logits})


def a_tuple():
    return Returns(lambda logits, x: (x, logits))


def a_list():
    return Returns(lambda logits, x: [logits])


def a_dataclass():
    return Returns(lambda logits, x: Output(logits))


class ModelOutput(collections.OrderedDict):
    pass


def an_output_object():
    return Returns(lambda logits, x: ModelOutput(logits=logits))


def nothing():
    return Returns(lambda logits, x: None)


def maps():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def dict_of_maps():
    return Returns(lambda logits, x: {"out": x, "aux": x})


def one_number():
    return Returns(lambda logits, x: logits[:, 0])


def transposed():
    return Returns(lambda logits, x: logits.t())


def two_classes():
    return net(2)


def seven_classes():
    return net(7)


class Heads(Net):
    def __init__(self, make):
        super().__init__()
        self.aux, self.make = nn.Linear(8, 3), make

    def forward(self, x):
        features = self.inner[:-1](x)
        logits = self.inner[-1](features)
        return self.make(logits, self.aux(features)) if self.training else logits


def auxiliary_tuple():
    return Heads(lambda logits, aux: (logits, aux, None))


def auxiliary_dict():
    return Heads(lambda logits, aux: {"out": logits, "aux": aux})


def nan():
    return Returns(lambda logits, x: (logits - logits) / (logits - logits))


def infinite():
    return Returns(lambda logits, x: logits.abs() / 0)


class NanInTraining(Net):
    def forward(self, x):
        return self.inner(x) * (float("nan") if self.training else 1)


class TrainingFails(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("targets should not be None")
        return self.inner(x)


class NoLayers(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] * 1


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.fft.fft(self.conv(x), dim=1).real.mean((2, 3)))


def number():
    return 3


def a_class():
    return nn.Linear


def raising():
    raise KeyError("depth")


def exiting():
    sys.exit("no licence")


def printing():
    print("building")
    return Prints()


class Prints(Net):
    def forward(self, x):
        print("running")
        return self.inner(x)


def limited(megabytes):
    """Leave so much memory to this process from now on."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


class Hungry(nn.Module):
    """Takes a lot of memory: 9 MB for each sample, or as much for each that it is trained on."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, x):
        if self.when == "run":
            return x + 0 * x.repeat(1, 1, 60, 60).mean((2, 3), keepdim=True)
        if self.training and torch.is_grad_enabled():
            for _ in range(10):
                x = torch.sigmoid(x.repeat(1, 1, 15, 15)).mean((2, 3), keepdim=True) + x
        return x


def hungry_to_train():
    limited(500)
    return nn.Sequential(*net()[:2], Hungry("train"), *net()[2:])


def hungry_to_run():
    if "SECATEUR_TEST_MEGABYTES" in os.environ:
        limited(int(os.environ["SECATEUR_TEST_MEGABYTES"]))
    return nn.Sequential(*net()[:2], Hungry("run"), *net()[2:])


class Slow(Net):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            time.sleep(0.05)
        return self.inner(x)


def samples(count):
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 9, 9, generator=torch.Generator().manual_seed(count))
    return images + labels[:, None, None, None] * torch.eye(9), labels


def data():
    return {"train": samples(120), "test": samples(60)}


def too_much_data():
    import numpy as np

    return {"train": (np.ones((2**30, 2**20)), [0])}
'''


UNREAD = ("prune", "--model", "digits-resnet", "--data", "digits", "--macs", "0.5", "--train-epochs", "1", "-q")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "mine.py"
    path.write_text(CODE)
    return path


def job(code: Path, model: str, out: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return (
        *("prune", "--model", f"{code}:{model}", "--data", f"{code}:data", "--macs", "0.5", "--train-epochs", "1"),
        *("--epochs", "1", "--batch-size", "32", "--threads", "1", "-q", "--out", out, *more),
    )


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
        ("large", ("'3' is of type Linear for 2048 features, but gets 648", "--input CxHxW", "pooling")),
        ("deep", ("Kernel size can't be greater than actual input size in its layer '4'",)),
        ("Words", ("'embedding' is of type Embedding, which takes integers, but gets float32", "from Python")),
    ],
)
def test_a_model_of_other_inputs(model: str, parts: tuple[str, ...], code: Path, tmp_path: Path) -> None:
    expected = ("does not run on example inputs of shape (2, 1, 9, 9)", *parts)
    refused(run(*job(code, model, tmp_path / "run")), "mine.py:data, which are 1×9×9", *expected)
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
    refused(run(*job(code, model, tmp_path / "run")), *parts)
    assert not (tmp_path / "run").exists()


def test_the_way_out_that_is_named_for_maps_works(code: Path, tmp_path: Path) -> None:
    model = ("--model", f"{code}:maps", "--input", "1x9x9")
    assert run("plan", *model, "--macs", "0.5", "--out", tmp_path / "plan.json").code == 0
    ran = run("apply", tmp_path / "plan.json", *model, "--out", tmp_path / "small.safetensors")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("model", ["auxiliary_tuple", "seven_classes"])
def test_outputs_that_are_taken(model: str, code: Path, tmp_path: Path) -> None:
    ran = run(*job(code, model, tmp_path / "run"))
    assert ran.code == 0, ran.err


def test_a_loss_that_is_nan_from_the_start_is_not_blamed_on_the_learning_rate(code: Path, tmp_path: Path) -> None:
    ran = run(*job(code, "NanInTraining", tmp_path / "run"))
    refused(ran, "loss is nan in phase 'dense', epoch 1 of 1, batch 1 of 4", "no learning rate is to blame")
    assert "lower learning rate" not in ran.err
    ran = run(*job(code, "net", tmp_path / "other", "--lr", "1e20", "--epochs", "3"))
    refused(ran, "phase 'finetune', epoch ", "lower learning rate than", "--train-lr in phase 'dense', else --lr")


@pytest.mark.parametrize(
    ("text", "function", "parts"),
    [
        ("def f(:\n", "f", ("SyntaxError", "mine.py, line 1")),
        ("import absent_thing\n", "f", ("ModuleNotFoundError: No module named 'absent_thing' (mine.py, line 1)",)),
        ("import sys; sys.exit(4)\n", "f", ("SystemExit: 4 (mine.py, line 1)",)),
        ("x = 1\n", "f", ("defines no function at all, so not 'f'",)),
        (CODE, "two_clases", ("unknown function 'two_clases'; did you mean 'two_classes'?",)),
        (CODE, "number", ("returned int; it should return an nn.Module",)),
        (CODE, "a_class", ("returned the class Linear; it should return an nn.Module: call it, as in Linear(…)",)),
        (CODE, "raising", ("KeyError: 'depth' (mine.py, line ",)),
        (CODE, "exiting", ("SystemExit: no licence (mine.py, line ",)),
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


def test_training_that_runs_out_of_memory_names_half_of_the_batch(code: Path, tmp_path: Path) -> None:
    words = job(code, "hungry_to_train", tmp_path / "run", "--batch-size", "80")
    refused(spawn(*words), "out of memory with batch size 80", "MB more", "try half of it: --batch-size 40")
    assert not list((tmp_path / "run").rglob("*.part"))
    ran = spawn(*words, "--batch-size", "8", "--force")
    assert ran.code == 0, ran.err


def test_evaluation_and_proof_that_run_out_of_memory(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", f"{code}:hungry_to_run")
    file = tmp_path / "small.safetensors"
    assert run("plan", *model, "--input", "1x9x9", "--macs", "0.5", "--out", tmp_path / "plan.json").code == 0
    assert run("apply", tmp_path / "plan.json", *model, "--input", "1x9x9", "--out", file).code == 0

    monkeypatch.setitem(ENVIRONMENT, "SECATEUR_TEST_MEGABYTES", "300")
    words = ("evaluate", file, *model, "--data", f"{code}:data", "--threads", "1", "--batch-size")
    refused(spawn(*words, "60"), "out of memory with batch size 60", "try half of it: --batch-size 30")
    assert spawn(*words, "6").code == 0

    large = ("apply", tmp_path / "plan.json", *model, "--input", "1x40x40", "--out", tmp_path / "other.safetensors")
    refused(spawn(*large), "out of memory", "more", "smaller --batch-size or --input")
    assert not (tmp_path / "other.safetensors").exists()


def test_data_that_does_not_fit_into_memory(code: Path, tmp_path: Path) -> None:
    words = job(code, "net", tmp_path / "run", "--data", f"{code}:too_much_data")
    refused(run(*words), "too_much_data", "Unable to allocate 8.00 PiB")
    assert not (tmp_path / "run").exists()


def test_a_second_run_names_the_process_of_the_first_and_sigterm_stops_that_as_ctrl_c_does(
    code: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [word for word in job(code, "Slow", folder, "--train-epochs", "20") if word != "-q"]
    first = start(*words)
    _wait_for(folder / "log.jsonl", first)
    refused(run(*words), f"another process is running in {folder} (process {first.pid}); wait until it has ended")

    _wait_for(folder / "checkpoint" / "phases" / "dense.safetensors", first)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("stopped; continue with: python -m secateur prune ")
    assert not (folder / "record.json").exists()
    again = run(*words)
    assert again.code == 0, again.err
    assert "phase 'dense' continued in epoch" in again.err


def test_sigterm_outside_of_training_stops_as_well(code: Path, tmp_path: Path) -> None:
    sleepy = tmp_path / "sleepy.py"
    sleepy.write_text("import pathlib, time\n\ndef f():\n    pathlib.Path('asleep').touch()\n    time.sleep(60)\n")
    process = start("groups", "--model", f"{sleepy}:f", "--input", "1x9x9", cwd=tmp_path)
    _wait_for(tmp_path / "asleep", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["stopped"]


def test_a_folder_that_cannot_be_written_and_one_that_is_a_file(code: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(run(*job(code, "net", tmp_path / "file")), "file is a file; give --out a folder")
    refused(run(*job(code, "net", tmp_path / "file" / "run")), "is a file", "another place")
    assert (tmp_path / "file").read_text() == "mine"
    refused(run(*job(code, "net", Path("/proc/run"))), "cannot write /proc/run", "choose a folder that can be written")


@pytest.mark.skipif(sys.platform != "linux", reason="takes the rights of root away in the way of Linux")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-m", "secateur", *UNREAD, "--out", str(folder / "run")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        # Root may write everywhere, unless the capability for it is dropped: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE.
        preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0),
        timeout=60,
    )
    refused(Ran(done.returncode, done.stdout, done.stderr), f"cannot write {folder / 'run'}: Permission denied")
    assert not list(folder.iterdir())


def _wait_for(path: Path, process: "subprocess.Popen[str]", *, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("auxiliary_dict", ("in training mode, ", "a dict with 'out' (32, 3), 'aux' (32, 3)")),
        (
            "TrainingFails",
            ("in training mode TrainingFails does not run", "targets should not be None (mine.py, line "),
        ),
        ("NoLayers", ("NoLayers has no convolution and no linear layer",)),
        ("Locked", ("nothing of Locked can be cut", "all of its groups (4) are locked: conv (_fft_r2c has no rule")),
    ],
)
def test_what_no_job_can_do_is_refused_before_the_folder_is_made(
    model: str, parts: tuple[str, ...], code: Path, tmp_path: Path
) -> None:
    refused(run(*job(code, model, tmp_path / "run")), *parts)
    assert not (tmp_path / "run").exists()


def test_locking_everything_names_the_option(code: Path, tmp_path: Path) -> None:
    refused(run(*job(code, "net", tmp_path / "run", "--lock", "*")), "because --lock matches all that could be")


def test_json_stays_json_whatever_the_code_of_the_user_prints(code: Path, tmp_path: Path) -> None:
    ran = run("groups", "--model", f"{code}:printing", "--input", "1x9x9", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["groups"]
    assert "building" in ran.err
    assert "running" in ran.err
