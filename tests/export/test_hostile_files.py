"""No file makes the reader crash, run code, set an attribute, or take memory that the file does not have."""

import contextlib
import json
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_net import Cut
from torch import nn

from secateur.errors import ArtifactError
from secateur.export import inspect, load, save

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def good(cut: Cut, tmp_path: Path) -> bytes:
    save(cut.small, tmp_path / "good.safetensors", plan=cut.plan)
    return (tmp_path / "good.safetensors").read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["secateur"]), content[8 + length :]


def joined(header: dict[str, Any] | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def unpack(inner: dict[str, Any]) -> None:
    """Put the lists of removed indices where their numbers are."""
    lists = inner["plan"].pop("indices")
    for dims in inner["plan"]["removed"].values():
        dims.update({dim: lists[number] for dim, number in dims.items()})


def pack(inner: dict[str, Any]) -> None:
    """Undo :func:`unpack`, whatever the lists have become."""
    if isinstance(inner["plan"], dict) and "removed" in inner["plan"]:
        lists = inner["plan"].setdefault("indices", [])
        for dims in inner["plan"]["removed"].values():
            for dim, indices in dims.items():
                if indices not in lists:
                    lists.append(indices)
                dims[dim] = lists.index(indices)


def edited(content: bytes, edit: Edit) -> bytes:
    """Return the file with its ``secateur`` object changed."""
    header, inner, data = parts(content)
    unpack(inner)
    edit(inner)
    pack(inner)
    header["__metadata__"]["secateur"] = json.dumps(inner)
    return joined(header, data)


def edited_header(content: bytes, edit: Edit) -> bytes:
    """Return the file with its safetensors header changed."""
    header, _, data = parts(content)
    edit(header)
    return joined(header, data)


def refuse(cut: Cut, path: Path, content: bytes, match: str = "") -> None:
    """Check that both readers refuse ``content`` in one sentence and leave the dense model alone."""
    path.write_bytes(content)
    dense = cut.build(1)
    groups = dense.block.depthwise.groups
    with pytest.raises(ArtifactError, match=match) as error:
        load(dense, path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600 + len(str(path))
    assert dense.block.depthwise.groups == groups


def test_truncated_anywhere(cut: Cut, good: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    header_end = 8 + int.from_bytes(good[:8], "little")
    lengths = {0, 1, 7, 8, 9, 10, header_end - 1, header_end, header_end + 1, len(good) - 1}
    for length in sorted(lengths | {rng.randrange(len(good)) for _ in range(40)}):
        path = tmp_path / "short.safetensors"
        path.write_bytes(good[:length])
        for read in (inspect, lambda p: load(cut.build(1), p)):
            with pytest.raises(ArtifactError) as error:
                read(path)
            assert "\n" not in str(error.value)


def test_random_bytes_and_flipped_bytes(cut: Cut, good: bytes, tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "random.safetensors"
    for size in (1, 8, 100, 10_000):
        path.write_bytes(rng.randbytes(size))
        with pytest.raises(ArtifactError):
            inspect(path)
    header_end = 8 + int.from_bytes(good[:8], "little")
    dense = cut.build(1)
    for _ in range(300):
        position = rng.randrange(header_end)
        path.write_bytes(good[:position] + rng.randbytes(1) + good[position + 1 :])
        with contextlib.suppress(ArtifactError):  # any other error fails the test
            load(dense, path)  # a changed digit of the provenance is still a model


def test_lengths_and_limits(cut: Cut, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    rest = good[8:]
    for length in (0, 1, len(rest) + 1, 2**63, 2**64 - 1):
        refuse(cut, path, length.to_bytes(8, "little") + rest, "does not fit the header length")
    refuse(cut, path, good + b"x", "bytes that no tensor owns")
    with path.open("wb") as file:  # sparse: 100 MiB that do not exist
        file.write((32 * 2**20).to_bytes(8, "little") + b"{")
        file.truncate(100 * 2**20)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="at most 16,777,216 are allowed"):
        inspect(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    many = {f"t{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(100_001)}
    refuse(cut, path, joined(many, b""), "at most 100,000 are allowed")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "not JSON"),
        ("[]", "instead of an object"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": 1, "a": 2}', "repeated"),
        ('{"a": ' + "9" * 10_000 + "}", "not JSON"),
        ('{"__metadata__": {"secateur": 3}}', "not an object of strings"),
        ('{"__metadata__": []}', "not an object of strings"),
        ('{"__metadata__": {"format": "pt"}}', "no 'secateur' in its metadata"),
        ("{}", "no 'secateur' in its metadata"),
        ('{"a": {"dtype": "F32", "shape": [1]}}', "exactly dtype, shape and data_offsets"),
        ('{"\\u0000": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "printable"),
        ('{"' + "a" * 513 + '": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "of 513 characters"),
    ],
)
def test_headers_that_are_none(cut: Cut, tmp_path: Path, text: str, match: str) -> None:
    refuse(cut, tmp_path / "net.safetensors", joined(text, b""), match)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("dtype", "F31", "unknown type"),
        ("dtype", ["F32"], "unknown type"),
        ("dtype", "F64", "its data_offsets span"),
        ("shape", [2**47, 2**47], "its data_offsets span"),
        ("shape", [2**60], "whole numbers"),
        ("shape", [-1, -5], "whole numbers"),
        ("shape", [True], "whole numbers"),
        ("shape", [5.0], "whole numbers"),
        ("shape", "5", "whole numbers"),
        ("shape", [1] * 9, "up to 8 whole numbers"),
        ("data_offsets", [0, 2**40], "its data_offsets span"),
        ("data_offsets", [20, 0], "its data_offsets span"),
        ("data_offsets", [0], "instead of"),
        ("data_offsets", [0, 20], "overlaps other data|leaves a gap"),
    ],
)
def test_tensor_entries_that_lie(cut: Cut, good: bytes, tmp_path: Path, field: str, value: object, match: str) -> None:
    def edit(header: dict[str, Any]) -> None:
        header["head.bias"][field] = value

    header, _, _ = parts(good)
    assert header["head.bias"]["data_offsets"] != [0, 20]
    tracemalloc.start()
    refuse(cut, tmp_path / "net.safetensors", edited_header(good, edit), match)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def set_at(*keys: str, to: object) -> Edit:
    def edit(inner: dict[str, Any]) -> None:
        place = inner
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return edit


def drop(*keys: str) -> Edit:
    def edit(inner: dict[str, Any]) -> None:
        place = inner
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (set_at("format", to="other"), "the format 'other'"),
        (set_at("version", to=2), "format version 2, but this secateur reads version 1"),
        (set_at("version", to=True), "format version True"),
        (set_at("version", to="1"), "format version 1"),
        (set_at("surprise", to=1), "malformed: surprise"),
        (drop("provenance"), "lacks provenance"),
        (drop("spec", "shapes"), r"malformed: spec\.shapes"),
        (set_at("spec", to=[]), "malformed: spec"),
        (set_at("spec", "shapes", to={"head.bias": "5"}), r"malformed: spec\.shapes"),
        (set_at("spec", "model_class", to="Linear"), "its plan is for Net"),
        (set_at("spec", "shapes", "head.bias", to=[6]), r"holds head.bias of shape \(5,\)"),
        (drop("spec", "shapes", "head.bias"), "no such tensor"),
        (set_at("spec", "shapes", "ghost", to=[5]), "does not hold the parameter ghost"),
        (set_at("spec", "shapes", "block.uncut", to=[2**40]), "block.uncut the shape"),
        (set_at("spec", "aliases", to={}), "tied to nothing"),
        (set_at("spec", "aliases", "ghost", to=["head.bias"]), "ties ghost"),
        (set_at("spec", "attributes", "head", "in_features", to=4), r"head\.in_features is 4 after the cut"),
        (set_at("spec", "attributes", to={"head": {"__class__": 1}}), "__class__ is 1"),
        (set_at("spec", "attributes", to={"head": {"in_features": "3"}}), "malformed"),
        (set_at("builder", to={"name": "secateur:resnet20", "arguments": {"num_classes": "7"}}), "malformed: builder"),
        (set_at("builder", to={"name": "secateur:resnet20", "pickle": "x"}), "malformed: builder"),
        (set_at("preprocessing", to={"mean": [0]}), "malformed: preprocessing"),
        (
            set_at("preprocessing", to={"mean": [0.0], "std": [0.0], "size": [8, 8], "channels": 1, "labels": []}),
            "std, peak and size above 0",
        ),
        (set_at("plan", to=3), "plan .* is refused"),
        (set_at("plan", to={}), "plan .* is refused"),
        (set_at("plan", "format", to="secateur-plan-9"), "secateur-plan-9"),
        (set_at("plan", "surprise", to=1), "not spelt as secateur spells it"),
        (set_at("plan", "shapes", "head.bias", to=[2**62]), "fingerprint"),
        (set_at("plan", "sizes", "ghost", to=3), "ghost"),
        (set_at("plan", "fingerprint", to="0" * 16), "fingerprint"),
        (set_at("plan", "removed", "head.weight", "1", to=[2, 0, 4]), "unsorted"),
        (set_at("plan", "removed", "head.weight", "1", to=[0, 0, 4]), "unsorted"),
        (set_at("plan", "removed", "head.weight", "1", to=[0, 2, 6]), "outside 0..5"),
        (set_at("plan", "removed", "head.weight", "1", to=[-1, 2, 4]), "outside 0..5"),
        (set_at("plan", "removed", "head.weight", "1", to=[0, 2, 10**30]), "plan .* is refused"),
        (set_at("plan", "removed", "head.weight", "1", to=[0, 2, 4.5]), "unsorted"),
        (set_at("plan", "removed", "head.weight", "1", to=[[0], [2], [4]]), "plan"),
        (set_at("plan", "removed", "head.weight", "1", to=[0, 1, 2, 3, 4, 5]), "removes all 6 indices"),
        (set_at("plan", "removed", "head.weight", "-1", to=[0, 2, 4]), "dimension -1 of head.weight"),
        (set_at("plan", "removed", "head.weight", "7", to=[0]), "plan .* is refused"),
        (set_at("plan", "removed", "head.weight", "01", to=[0]), "not spelt"),
        (set_at("plan", "removed", "ghost", to={"0": [0]}), "plan .* is refused"),
        (drop("plan", "removed", "head.weight"), r"the plan .* gives head.weight the shape \(5, 6\)"),
        (set_at("plan", "kept", "block.conv", to=[1, 1, 9]), "unsorted, too many, or outside"),
        (set_at("plan", "sizes", to={}), "malformed: KeyError"),
        (set_at("plan", to=None), r"block.gain of shape \(1, 3, 1, 1\), but this model's is \(1, 6, 1, 1\)"),
        (set_at("plan", "regrouped", to=[]), r"block\.depthwise\.(in_channels|groups)"),
    ],
)
def test_metadata_that_lies(cut: Cut, good: bytes, tmp_path: Path, edit: Edit, match: str) -> None:
    refuse(cut, tmp_path / "net.safetensors", edited(good, edit), match)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (["block.plain", "num_features", 0], "from 6 to 0"),
        (["block.plain", "num_features", -3], "from 6 to -3"),
        (["block.plain", "num_features", 7], "from 6 to 7"),
        (["block.plain", "training", 1], "may change num_features"),
        (["block.plain", "__class__", 1], "may change num_features"),
        (["block.plain", "eps", 1], "may change num_features"),
        (["block.conv", "stride", 1], "may change in_channels and out_channels and groups"),
        (["block", "steps", 1], "may change nothing"),
        (["", "forward", 1], "may change nothing"),
        (["ghost", "num_features", 1], "no such module"),
        (["block.plain.__dict__", "num_features", 1], "no such module"),
    ],
)
def test_a_file_sets_no_attribute_of_its_choice(
    cut: Cut, good: bytes, tmp_path: Path, entry: list[object], match: str
) -> None:
    refuse(cut, tmp_path / "net.safetensors", edited(good, set_at("plan", "attributes", to=[entry])), match)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (set_at("removed", "head.weight", "1", to=1), "malformed or was edited"),
        (set_at("removed", "head.weight", "1", to=-1), "malformed or was edited"),
        (set_at("removed", "head.weight", "1", to=False), "malformed or was edited"),
        (set_at("removed", "head.weight", "1", to=[0, 2, 4]), "malformed or was edited"),
        (set_at("removed", "head.weight", to=[0]), "malformed or was edited"),
        (set_at("removed", to=[]), "malformed or was edited"),
        (set_at("indices", to=[]), "malformed or was edited"),
        (set_at("indices", to=[{}]), "malformed or was edited"),
        (set_at("indices", to=[[0, 2, 4], [0, 2, 4]]), "not spelt"),
        (set_at("indices", to=[list(range(1_000_000))]), "more than 4,000,000 indices"),
    ],
)
def test_packed_indices_that_lie(cut: Cut, good: bytes, tmp_path: Path, edit: Edit, match: str) -> None:
    header, inner, data = parts(good)
    edit(inner["plan"])
    header["__metadata__"]["secateur"] = json.dumps(inner)
    refuse(cut, tmp_path / "net.safetensors", joined(header, data), match)


def test_another_kind_of_number_is_refused(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    cut.small.block.steps = cut.small.block.steps.float()
    save(cut.small, path, plan=cut.plan)
    with pytest.raises(ArtifactError, match=r"block.steps as torch.float32, but the model's is torch.int16"):
        load(cut.build(1), path)


def test_a_tensor_that_is_not_stored_is_named(cut: Cut, good: bytes, tmp_path: Path) -> None:
    header, inner, data = parts(good)
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    begin, _ = header.pop(last)["data_offsets"]
    assert last in inner["spec"]["shapes"]
    refuse(cut, tmp_path / "net.safetensors", joined(header, data[:begin]), "does not hold")


def test_a_pickle_is_never_read(cut: Cut, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(mark),)

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        refuse(cut, tmp_path / "evil.safetensors", pickle.dumps(Evil(), protocol), "is a pickle or zip archive")
    torch.save({"w": torch.zeros(2)}, tmp_path / "zip.safetensors")
    with pytest.raises(ArtifactError, match="is a pickle or zip archive"):
        inspect(tmp_path / "zip.safetensors")
    assert not mark.exists()


def test_things_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        inspect(tmp_path / "missing.safetensors")
    with pytest.raises(ArtifactError, match="is a folder"):
        inspect(tmp_path)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ArtifactError, match="0 bytes"):
        load(nn.Linear(1, 1), tmp_path / "empty.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")  # would block whoever opens it
    with pytest.raises(ArtifactError, match="there is no file"):
        inspect(tmp_path / "pipe.safetensors")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file whose reading fails, also for root, is Linux's")
def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        inspect("/proc/self/mem")
