"""`secateur pack` and `secateur unpack`: a file made small by its zeros, and the same file again."""

import json
from pathlib import Path

import pytest
import safetensors
import torch
from cli_command import forked, refused, run
from conftest import Finished
from safetensors.torch import load_file, save_file

from secateur import sparse

TOY = Path(__file__).with_name("cli_toy.py")


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """Weights of which most are zero."""
    torch.manual_seed(0)
    weight = torch.randn(80, 60)
    weight[weight.abs() < 1.5] = 0
    path = tmp_path / "net.safetensors"
    save_file({"fc.weight": weight, "fc.bias": torch.randn(80), "steps": torch.tensor(3)}, path, metadata={"by": "me"})
    return path


def test_packed_and_unpacked_is_the_same_file(pruned: Path) -> None:
    packed = pruned.with_name("net.sparse.safetensors")
    before = pruned.read_bytes()
    ran = run("pack", pruned)
    assert ran.code == 0, ran.err
    assert str(packed) in ran.out
    for word in ("fc.weight", "indices", "fillers", "codebook", "dense fp32", "CSR", "zip", "less than dense"):
        assert word in ran.out, word
    assert packed.stat().st_size < len(before) / 3
    refused(run("unpack", packed), "net.safetensors is there already", "--force")
    pruned.unlink()
    ran = run("unpack", packed)
    assert ran.code == 0, ran.err
    assert pruned.read_bytes() == before
    with safetensors.safe_open(pruned, framework="pt") as file:
        assert file.metadata() == {"by": "me"}


def test_a_packed_model_file_is_a_model_file_again(finished: Finished, tmp_path: Path) -> None:
    model = finished.folder / "model.safetensors"
    packed, again = tmp_path / "toy.sparse.safetensors", tmp_path / "toy.safetensors"
    ran = forked("pack", model, "--out", packed, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["file_bytes"] == packed.stat().st_size
    assert run("unpack", packed, "--out", again).code == 0
    assert again.read_bytes() == model.read_bytes()
    assert run("inspect", again).out.splitlines()[0] == run("inspect", model).out.splitlines()[0]


def test_settings_reach_the_file(pruned: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.sparse.safetensors"
    words = ("pack", pruned, "--out", out, "--force", "--json")
    ran = run(*words, "--values", "codebook", "--codebook-bits", "3", "--bits", "best", "--no-entropy")
    weight = json.loads(ran.out)["weights"][0]
    assert (weight["kind"], weight["centroids"]) == ("codebook", 7)
    assert json.loads(ran.out)["zip_bytes"]["fc.weight"] > 0
    assert torch.equal(sparse.decode(out)["fc.weight"], sparse.cluster(load_file(pruned)["fc.weight"], bits=3).weight())
    assert json.loads(run(*words, "--bits", "7", "--values", "fp16").out)["weights"][0]["bits"] == 7
    assert [row["name"] for row in json.loads(run(*words, "--only", "fc.*").out)["weights"]] == ["fc.weight"]
    refused(run(*words, "--bits", "many"), "'many'", "1 to 16, or best")
    refused(run(*words, "--bits", "17"), "17", "1 to 16 bits")
    refused(run(*words, "--only", "fc.weigth"), "did you mean 'fc.weight'")
    refused(run(*words, "--values", "fp8"), "fp8")
    refused(run(*words[:4], "--json"), "is there already")


def test_inspect_says_what_the_parts_take(pruned: Path) -> None:
    packed = pruned.with_name("net.sparse.safetensors")
    assert run("pack", pruned, "--values", "codebook").code == 0
    ran = run("inspect", packed)
    assert ran.code == 0, ran.err
    assert f"{packed.stat().st_size:,} bytes" in ran.out
    assert "shared" in ran.out
    refused(run("export", packed), "is a sparse file", f"secateur unpack {packed}")
    assert json.loads(run("inspect", packed, "--json").out)["file_bytes"] == packed.stat().st_size


def test_files_that_cannot_be_packed_or_unpacked(pruned: Path, tmp_path: Path) -> None:
    packed = pruned.with_name("net.sparse.safetensors")
    assert run("pack", pruned).code == 0
    refused(run("pack", packed, "--out", tmp_path / "x"), "is a sparse file already")
    masks = tmp_path / "masks.safetensors"
    save_file({"fc.weight": torch.ones(2, 3, dtype=torch.bool), "fc.bias": torch.ones(3)}, masks)
    refused(run("pack", masks), "no floating tensor of two dimensions", "no weights to pack", "model.safetensors")
    assert not masks.with_name("masks.sparse.safetensors").exists()
    refused(run("unpack", pruned, "--out", tmp_path / "x"), "nothing")
    refused(run("unpack", packed, "--out", packed, "--force"), "would be replaced")
    refused(run("pack", tmp_path / "missing.safetensors"), "there is no file")
    refused(run("unpack", packed, "--out", tmp_path / "x", "--max-bytes", "1000"), "at most 1,000 are allowed")
    refused(run("pack", pruned, "--values", "fp16", "--codebook-bits", "4", "--force"), "no use with --values fp16")
    damaged = bytearray(packed.read_bytes())
    damaged[-1] ^= 1
    packed.write_bytes(damaged)
    refused(run("unpack", packed, "--out", tmp_path / "x"), "damaged")
    assert not (tmp_path / "x").exists()
    large = {"fc.weight": torch.full((4, 4), 1e6)}
    save_file(large, pruned)
    refused(run("pack", pruned, "--values", "fp16", "--force"), "too large for fp16", "fp32")
    assert packed.read_bytes() == bytes(damaged)


def test_metadata_that_claims_a_model_is_checked(pruned: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "x.sparse.safetensors", tmp_path / "y.safetensors"
    for kept, words in (
        ({"secateur": '{"format":"secateur-model"}'}, ("was not packed from a model file", "version")),
        ({"secateur": "{"}, ("not JSON",)),
        ({"by": 3}, ("not strings",)),
        ("text", ("not an object of strings",)),
    ):
        sparse.encode(load_file(pruned), packed, provenance={"metadata": kept})
        refused(run("unpack", packed, "--out", out), *words)
        assert not out.exists()
