"""No sparse file makes the reader crash, hang, or take memory that the format does not allow."""

import io
import json
import os
import pickle
import random
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_process import run
from torch import nn

from secateur import sparse
from secateur.errors import ArtifactError
from secateur.sparse.relative import pack

ROOT = Path(__file__).resolve().parent.parent.parent

# Of the benchmarks, one of which reads 120,000 mutated files; their folder has names that others use too.
sys.path.insert(0, str(ROOT / "benchmarks"))
import sparse_file  # noqa: E402
from sparse_mutations import Plain, small_state  # noqa: E402

sys.path.remove(str(ROOT / "benchmarks"))

Edit = Callable[[Plain], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sparse.safetensors"


@pytest.fixture
def good(path: Path) -> bytes:
    sparse.encode(small_state(0), path, values="codebook", entropy=False)
    return path.read_bytes()


def refuse(path: Path, content: bytes, match: str, *, max_bytes: int = 2**20) -> None:
    """Check that the file is refused in one sentence, and with little memory."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=match) as error:
            sparse.decode(path, max_bytes=max_bytes)
        assert tracemalloc.get_traced_memory()[1] < 4 * max_bytes + 2 * len(content) + 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))


def edited(content: bytes, edit: Edit) -> bytes:
    """Return the file after a lie, with lengths, offsets and checksum mended."""

    def lie(file: Plain, rng: random.Random) -> None:
        edit(file)

    return Plain(content).joined(random.Random(0), lie=lie)


def entry(**values: Any) -> Edit:
    return lambda file: file.inner["weights"]["fc.weight"].update(values)


def inner(**values: Any) -> Edit:
    return lambda file: file.inner.update(values)


def header(name: str, **values: Any) -> Edit:
    return lambda file: file.header[name].update(values)


def test_every_changed_byte_is_seen(path: Path, good: bytes) -> None:
    expected = sparse.decode(path)
    rng = random.Random(0)
    read = 0
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = sparse.decode(path)
        except ArtifactError:
            continue
        read += 1  # such as a blank behind the header that became a tab
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert read < 10


def test_truncated_anywhere_and_longer(path: Path, good: bytes) -> None:
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        for read in (sparse.decode, sparse.file_sizes):
            with pytest.raises(ArtifactError) as error:
                read(path)
            assert "\n" not in str(error.value)
    refuse(path, good + b"x", "bytes that no tensor owns")


def test_a_file_taken_apart_and_put_together_is_read(path: Path, good: bytes) -> None:
    path.write_bytes(edited(good, lambda file: None))
    assert torch.equal(sparse.decode(path)["conv.bias"], small_state(0)["conv.bias"])


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (inner(format="other"), "the format 'other' instead of 'secateur-sparse'"),
        (inner(version=2), "format version 2, but this secateur reads version 1"),
        (inner(version=True), "format version True"),
        (inner(surprise=1), "malformed: surprise"),
        (inner(weights=[]), "malformed: weights"),
        (lambda file: file.inner.pop("aliases"), "lacks aliases"),
        (lambda file: file.inner.pop("crc32"), "lacks crc32"),
        (inner(crc32=7), "malformed: crc32"),
        (lambda file: file.inner.update(crc32=file.inner.pop("crc32")), "does not begin with a checksum"),
        (inner(aliases={"a": "ghost"}), "gives the tensor ghost the other name 'a'"),
        (inner(aliases={"fc.bias": "fc.weight"}), "which is taken"),
        (inner(aliases={"a\n": "fc.weight"}), "gives the tensor fc.weight the other name"),
        (inner(aliases={"a": 3}), r"malformed: aliases\.a"),
        (
            lambda file: file.inner["weights"].update(ghost=file.inner["weights"]["fc.weight"]),
            "ghost is listed but not",
        ),
        (
            lambda file: file.inner["weights"].update({"fc.bias": file.inner["weights"]["fc.weight"]}),
            "fc.bias should be",
        ),
        (entry(dtype="I64"), "the type 'I64'; coded weights are"),
        (entry(dtype=3), "malformed"),
        (entry(shape=[]), r"has the shape \(\)"),
        (entry(shape=[1] * 9), "has the shape"),
        (entry(shape=[-40, -50]), "has the shape"),
        (entry(shape=[2**49, 0]), "has the shape"),
        (entry(shape=[40.0, 50]), "malformed"),
        (entry(shape=[2**30, 2**30]), r"would take [\d,]+ decoded, but at most 1,048,576 are allowed"),
        (entry(shape=[10, 11]), "entries for 110 elements"),
        (entry(bits=0), "indices of 0 bits"),
        (entry(bits=17), "indices of 17 bits"),
        (entry(bits=6), "indices of 6 bits in"),
        (entry(entries=-1), "-1 entries"),
        (entry(entries=2**40), "entries for 2000 elements"),
        (entry(entries=3, fillers=0), "stores 3 indices of 5 bits in"),
        (entry(entries=True), "malformed"),
        (entry(fillers=-1), "-1 fillers"),
        (entry(fillers=10**6), "1000000 fillers"),
        (entry(kind="own"), "which its kind 'own' does not have"),
        (entry(kind="other"), "malformed"),
        (entry(centroids=0), "a codebook of 0 centroids"),
        (entry(centroids=256), "a codebook of 256 centroids"),
        (entry(centroids=3), r"values of 2 bits in|should be stored as"),
        (entry(indices=["zip", 3]), "malformed"),
        (entry(indices=["packed", -5]), "bits in -5 bytes"),
        (entry(indices=["packed", 2**62]), "bits in"),
        (entry(indices=["deflate", 0]), "promises"),
        (entry(indices=["packed"]), "malformed"),
        (entry(surprise=1), "malformed"),
        (header("fc.weight", dtype="I8"), r"but is torch\.int8"),
        (header("fc.weight", shape=[1]), "its data_offsets span"),
        (header("fc.bias", data_offsets=[0, 160]), "overlaps other data"),
        (header("fc.bias", dtype="F31"), "unknown type"),
        (header("fc.bias", shape=[2**47, 2**47]), "its data_offsets span"),
    ],
)
def test_headers_that_lie(path: Path, good: bytes, edit: Edit, match: str) -> None:
    refuse(path, edited(good, edit), match)


def test_names_and_keys_that_are_repeated(path: Path, good: bytes) -> None:
    length = int.from_bytes(good[:8], "little")
    text, data = good[8 : 8 + length].decode().rstrip(), good[8 + length :]

    def joined(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "little") + text.encode() + data

    bias = json.dumps(json.loads(text)["fc.bias"])
    refuse(path, joined(text[:-1] + f', "fc.bias": {bias}}}'), "a key is repeated")
    inside = json.loads(text)
    for key in ("weights", "crc32"):
        again = json.dumps(json.loads(inside["__metadata__"]["secateur"])[key])
        changed = {
            **inside,
            "__metadata__": {"secateur": inside["__metadata__"]["secateur"][:-1] + f',"{key}":{again}}}'},
        }
        refuse(path, joined(json.dumps(changed)), "a key is repeated")
    for metadata, match in (
        ({}, "says nothing of sparse weights"),
        ({"secateur": "{"}, "is not JSON"),
        ({"secateur": "[1]"}, "the format 'list'"),
        ({"secateur": "é"}, "is not ASCII"),
        ({"secateur": 3}, "not an object of strings"),
    ):
        refuse(path, joined(json.dumps({**inside, "__metadata__": metadata})), match)


def with_streams(content: bytes, indices: bytes, values: bytes, **changes: Any) -> bytes:
    """Return the file with other packed streams for the weight of five bits."""

    def edit(file: Plain) -> None:
        weight = file.inner["weights"]["fc.weight"]
        codebook = file.data["fc.weight"][-4 * weight["centroids"] :]
        weight.update({"indices": ["packed", len(indices)], "values": ["packed", len(values)], **changes})
        file.data["fc.weight"] = indices + values + codebook

    file = Plain(content)
    edit(file)
    return file.joined(random.Random(0))


def packed(numbers: list[int], bits: int) -> bytes:
    return pack(np.array(numbers, np.uint8), bits)


def test_streams_that_lie(path: Path, good: bytes) -> None:
    weight = Plain(good).inner["weights"]["fc.weight"]
    width = max(1, weight["centroids"].bit_length())
    assert weight["bits"] == 5
    assert weight["centroids"] < 2**width - 1, "so that a code can be too large"

    def file(indices: list[int], values: list[int], *, fillers: int = 0, shape: tuple[int, ...] = (40,)) -> bytes:
        counts = {"entries": len(values), "fillers": fillers, "shape": list(shape)}
        return with_streams(good, packed(indices, 5), packed(values, width), **counts)

    path.write_bytes(file([0, 31, 0], [1, 0, 2], fillers=1))
    assert sparse.decode(path)["fc.weight"].nonzero()[:, 0].tolist() == [0, 33]
    refuse(path, file([20, 20], [1, 1]), "lead beyond the last of 40 elements")
    refuse(path, file([31, 31], [0, 1], fillers=1), "lead beyond the last of 40 elements")
    refuse(path, file([0, 31], [1, 0], fillers=1), "1 fillers are promised, but other ones")  # leads to nothing
    refuse(path, file([0, 5, 3], [1, 0, 1], fillers=1), "an entry without a value is no filler")
    refuse(path, file([0, 31, 3], [1, 0, 1], fillers=0), "an entry without a value is no filler")
    refuse(path, file([0, 1, 3], [1, 2, 1], fillers=1), "1 fillers are promised")
    refuse(path, file([0, 1], [1, 2**width - 1]), f"none of the {weight['centroids']} centroids")
    padded = bytearray(packed([0, 1, 2], 5))
    padded[-1] |= 0x80
    refuse(
        path, with_streams(good, bytes(padded), packed([1, 1, 1], width), entries=3, fillers=0), "bits behind the last"
    )


def test_a_codebook_that_is_not_finite(path: Path, good: bytes) -> None:
    file = Plain(good)
    file.data["fc.weight"] = file.data["fc.weight"][:-4] + np.float32(np.nan).tobytes()
    refuse(path, file.joined(random.Random(0)), "a centroid of a codebook is infinite or NaN")


def test_truth_values_that_are_neither(path: Path) -> None:
    sparse.encode({"mask": torch.tensor([True, False])}, path)
    file = Plain(path.read_bytes())
    file.data["mask"] = b"\1\2"
    refuse(path, file.joined(random.Random(0)), "mask of BOOL holds bytes other than 0 and 1")


def deflated(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(data) + coder.flush()


def test_bombs(path: Path, good: bytes) -> None:
    """A stream of 10 MB in 10 KB, under several promises; and a shape of terabytes in a few bytes."""

    def file(stream: bytes, entries: int, shape: list[int]) -> bytes:
        values = deflated(b"\1" * entries) if entries < 10**6 else deflated(b"\1" * 1000)
        changes = {"entries": entries, "fillers": 0, "shape": shape}
        content = with_streams(good, stream, values, **changes)
        taken = Plain(content)
        taken.inner["weights"]["fc.weight"].update(indices=["deflate", len(stream)], values=["deflate", len(values)])
        return taken.joined(random.Random(0))

    bomb = deflated(bytes(10**7))
    assert len(bomb) < 10**5
    refuse(path, file(bomb, 2000, [2000]), "does not hold exactly 2,000 numbers")
    refuse(path, file(bomb, 10**7, [10**7]), "promises|would take")
    refuse(path, file(deflated(bytes(1999)), 2000, [2000]), "does not hold exactly 2,000 numbers")
    refuse(path, file(deflated(bytes(2000)) + b"x", 2000, [2000]), "does not hold exactly 2,000 numbers")
    refuse(path, file(deflated(bytes(2000))[:-1], 2000, [2000]), "does not hold exactly 2,000 numbers")
    refuse(path, file(b"\xff" * 40, 2000, [2000]), "a compressed stream is damaged")
    refuse(path, file(deflated(b"\x20" * 2000), 2000, [10**5]), "a number of 5 bits is larger")
    refuse(path, file(deflated(b""), 3000, [3000]), "promises 3000 bytes of indices from 2 compressed ones")
    empty = {"entries": 0, "fillers": 0, "shape": [2**20, 2**20], "kind": "own", "centroids": 0}
    none = with_streams(good, b"", b"", **empty)
    content = Plain(none)
    content.data["fc.weight"] = b""
    path.write_bytes(content.joined(random.Random(0)))
    with pytest.raises(ArtifactError, match=r"would take 4,398,[\d,]+ decoded, but at most 268,435,456"):
        sparse.decode(path)


def test_what_may_be_decoded_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "zeros.sparse.safetensors"
    sparse.encode({"w": torch.zeros(1000, 1000)}, path)
    assert path.stat().st_size < 1000
    assert not sparse.decode(path)["w"].any()  # what is small is read however empty it is
    assert sparse.decode(path, max_bytes=4_000_000)["w"].numel() == 10**6
    with pytest.raises(ArtifactError, match="would take 4,000,000 decoded, but at most 3,999,999 are allowed"):
        sparse.decode(path, max_bytes=3_999_999)
    with pytest.raises(ArtifactError, match="at most 5 are allowed"):
        sparse.load_sparse(nn.Linear(1000, 1000, bias=False), path, max_bytes=5)


def test_a_large_header_takes_no_more_than_stated(path: Path) -> None:
    count = 5_000
    tensors = {f"t{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(count)}
    weight = {"dtype": "F32", "shape": [4], "bits": 5, "entries": 0, "fillers": 0, "kind": "own", "centroids": 0}
    weights = {name: {**weight, "indices": ["packed", 0], "values": ["packed", 0]} for name in tensors}
    inside = {"crc32": "00000000", "weights": weights, "aliases": {}, "provenance": {}}
    text = json.dumps({**inside, "format": "secateur-sparse", "version": 1}, separators=(",", ":"))
    content = json.dumps({"__metadata__": {"secateur": text}, **tensors}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="has the checksum"):
        sparse.decode(path)
    assert tracemalloc.get_traced_memory()[1] < 100 * len(content) + 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("values", ["fp32", "fp16", "codebook"])
def test_memory_of_writing_and_reading(values: Any, tmp_path: Path) -> None:
    """Of a million weights, a tenth of them left: what numpy and Python take, which holds all large arrays."""
    path = tmp_path / "x.sparse.safetensors"
    weight = torch.zeros(10**6)
    weight[::10] = torch.randn(10**5, generator=torch.Generator().manual_seed(0))
    dense = {"w": weight.reshape(1000, 1000)}
    tracemalloc.start()
    sparse.encode(dense, path, values=values)
    writing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    found = sparse.decode(path)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["w"].shape == (1000, 1000)
    assert writing < 1.5 * weight.nbytes  # the dense weights themselves are torch's, and not traced
    assert weight.nbytes <= reading < 2.5 * weight.nbytes


def test_pickles_and_archives_are_never_read(path: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(mark),)

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        refuse(path, pickle.dumps(Evil(), protocol), "is a pickle or zip archive")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", bytes(10**6))
    refuse(path, archive.getvalue(), "is a pickle or zip archive")
    torch.save({"w": torch.zeros(2)}, path)
    refuse(path, path.read_bytes(), "is a pickle or zip archive")
    assert not mark.exists()


def test_things_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        sparse.decode(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="is a folder"):
        sparse.decode(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # would block whoever opens it
    with pytest.raises(ArtifactError, match="there is no file"):
        sparse.load_sparse(nn.Linear(1, 1), tmp_path / "pipe")


def test_mutated_files(tmp_path: Path) -> None:
    """The benchmark that mutates 120,000 files, on some of them."""
    record = tmp_path / "fuzz.json"
    run(ROOT / "benchmarks" / "sparse_fuzz.py", "--files", 800, "--out", record)
    outcomes = json.loads(record.read_text())["outcomes"]
    assert sum(outcomes.values()) == 800
    assert sum(number for name, number in outcomes.items() if name.startswith("bytes")) == 400
    assert sum(number for name, number in outcomes.items() if name.endswith("refused")) > 600
    assert outcomes["change_stream: read"] > 0, "streams that are changed but sound must be reached"


def test_the_benchmark_measures(tmp_path: Path) -> None:
    rows = {(row["network"], row["codebook_bits"]): row for row in sparse_file.small_files(tmp_path)}
    for network, bits, most in (("lenet-300-100", 5, 30_000), ("lenet-300-100", 4, 30_000), ("lenet-5", 4, 45_000)):
        row = rows[network, bits]
        assert row["file_bytes"] <= most, row
        parts = sum(row[f"{part}_bytes"] for part in ("header", "dense_tensor", "index", "value", "codebook"))
        assert parts == row["file_bytes"]
        assert row["file_bytes"] < row["zip_bytes"] < row["csr_bytes"] < row["dense_bytes"]
    file = tmp_path / "x.sparse.safetensors"
    written = sparse_file.measured_here("write", "fp32", file, 0.1, "secateur:resnet20")
    assert written["seconds"] > 0
    assert sparse_file.measured_here("read", "fp32", file, 0.1, "secateur:resnet20")["peak_bytes"] >= 0
    kept = sum(weight.survivors for weight in sparse.file_sizes(file).weights)
    elements = sum(weight.elements for weight in sparse.file_sizes(file).weights)
    assert kept / elements == pytest.approx(0.1, rel=0.01)
