"""The sparse file: what is decoded is what was encoded, and its parts take what they should."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from own_process import run
from torch import Tensor, nn

from secateur import sparse
from secateur.errors import ArtifactError, UsageError
from secateur.randomness import generator_for

WAYS: list[dict[str, Any]] = [
    {},
    {"entropy": False},
    {"bits": "best"},
    {"bits": 1},
    {"bits": 16},
    {"values": "fp16"},
    {"values": "codebook"},
    {"values": "codebook", "bits": "best", "codebook_bits": 4, "entropy": False},
]


def pruned(shape: tuple[int, ...], density: float, name: object = 0) -> Tensor:
    draw = generator_for("sparse file tests", str(name), *shape)
    weight = torch.randn(shape, generator=draw) / 10
    return torch.where(torch.rand(shape, generator=draw) < density, weight, 0.0)


def state() -> dict[str, Tensor]:
    return {
        "conv.weight": pruned((6, 3, 3, 3), 0.4),
        "conv.bias": torch.randn(6, generator=generator_for("bias")),
        "norm.running_mean": torch.tensor([-0.0, torch.nan, 1.0]),
        "norm.num_batches_tracked": torch.tensor(12345678901),
        "fc.weight": pruned((40, 60), 0.05),
        "empty.weight": torch.zeros(3, 4),
        "none.weight": torch.empty(0, 4),
        "mask": torch.tensor([True, False]),
        "table": torch.arange(6, dtype=torch.int16).reshape(2, 3),
    }


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def rounded(name: str, tensor: Tensor, way: dict[str, Any]) -> Tensor:
    """Return what a tensor becomes in a file, worked out without one."""
    if not name.endswith("weight") or way.get("values") in (None, "fp32"):
        return tensor
    if way["values"] == "fp16":
        return tensor.half().to(tensor.dtype)
    bits = way.get("codebook_bits") or (5 if tensor.dim() == 2 else 8)
    return sparse.cluster(tensor, bits=bits).weight(tensor.dtype)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_decoded_is_what_was_encoded(way: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.sparse.safetensors"
    sparse.encode(state(), path, **way)
    found = sparse.decode(path)
    assert found.keys() == state().keys()
    for name, tensor in state().items():
        assert same_bits(found[name], rounded(name, tensor, way)), name
    # What was rounded once is not rounded again.
    sparse.encode(found, tmp_path / "again.sparse.safetensors", **way)
    assert (tmp_path / "again.sparse.safetensors").read_bytes() == path.read_bytes()


@given(
    weight=hnp.arrays(
        np.uint32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=9),
        elements=st.one_of(st.just(0), st.just(0), st.integers(0, 2**32 - 1)),
    ),
    bits=st.one_of(st.integers(1, 16), st.just("best")),
    entropy=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
@settings(max_examples=120, deadline=None)
def test_any_bits_come_back(
    weight: np.ndarray, bits: Any, entropy: bool, dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensor = torch.from_numpy(weight.view(np.int32)).view(torch.float32)
    if dtype != torch.float32:  # other types take their own bits, of which a conversion keeps not all
        tensor = tensor.reshape(-1).view(dtype) if dtype.itemsize < 4 else tensor.to(dtype)
        tensor = tensor.reshape(weight.shape[0], -1)
    path = tmp_path_factory.mktemp("bits") / "x.sparse.safetensors"
    sizes = sparse.encode({"w": tensor}, path, bits=bits, entropy=entropy)
    expected = tensor if not sizes.weights else torch.where(tensor == 0, torch.zeros((), dtype=dtype), tensor)
    found = sparse.decode(path)["w"]
    assert same_bits(found, expected)
    assert torch.equal(found, tensor) or tensor.isnan().any()


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(
    gaps=st.lists(st.one_of(st.integers(1, 6), st.sampled_from([31, 32, 33, 255, 256, 257, 2**16 + 1])), max_size=20),
    tail=st.integers(0, 40),
)
@settings(max_examples=15, deadline=None)
def test_any_gaps_come_back(
    way: dict[str, Any], gaps: list[int], tail: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weight = torch.zeros(sum(gaps) + tail, 1)
    weight[(torch.tensor(gaps, dtype=torch.int64).cumsum(0) - 1)] = 0.5
    path = tmp_path_factory.mktemp("gaps") / "x.sparse.safetensors"
    sparse.encode({"w": weight}, path, **way)
    assert same_bits(sparse.decode(path)["w"], weight)


def test_negative_zeros_count_as_zeros_and_nan_as_a_value(tmp_path: Path) -> None:
    weight = torch.zeros(50, 50)
    weight[0] = -0.0
    odd = torch.tensor([0x7FC01234, -0x00000001 & 0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    weight[1, :3] = odd
    sizes = sparse.encode({"w": weight}, tmp_path / "x.sparse.safetensors")
    assert sizes.weights[0].survivors == 3
    found = sparse.decode(tmp_path / "x.sparse.safetensors")["w"]
    assert same_bits(found[1, :3], odd)
    assert not torch.signbit(found[0]).any()


def test_fp32_keeps_dense_what_would_grow(tmp_path: Path) -> None:
    dense = {"w": torch.randn(30, 30, generator=generator_for("dense"))}
    dense["w"][0, 0] = -0.0
    sizes = sparse.encode(dense, tmp_path / "x.sparse.safetensors", entropy=False)
    assert sizes.weights == ()
    assert sizes.dense_tensor_bytes == 3600
    assert same_bits(sparse.decode(tmp_path / "x.sparse.safetensors")["w"], dense["w"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types_keep_theirs(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = pruned((30, 40), 0.1).to(dtype)
    for way in WAYS:
        sparse.encode({"weight": weight}, tmp_path / "x.sparse.safetensors", **way)
        found = sparse.decode(tmp_path / "x.sparse.safetensors")["weight"]
        assert same_bits(found, rounded("weight", weight, way))


def test_values_beyond_half_precision_and_without_centroid_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    with pytest.raises(ArtifactError, match=r"fc\.weight cannot be stored: a value of magnitude 7e\+04 is too large"):
        sparse.encode({"fc.weight": torch.full((2, 2), 7e4)}, path, values="fp16")
    with pytest.raises(ArtifactError, match=r"fc\.weight cannot be stored: a weight is infinite or NaN"):
        sparse.encode({"fc.weight": torch.full((2, 2), torch.nan)}, path, values="codebook")
    infinite = torch.tensor([[torch.inf, 0.0, -torch.inf, torch.nan]])
    sparse.encode({"fc.weight": infinite}, path, values="fp16")
    assert torch.equal(sparse.decode(path)["fc.weight"].isinf(), infinite.isinf())
    path.unlink()
    assert list(tmp_path.iterdir()) == []


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(16)
        with torch.no_grad():
            self.first.weight.mul_(self.first.weight.abs() > 0.2)


def test_a_model_with_tied_weights_is_filled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = Tied(), tmp_path / "tied.sparse.safetensors"
    sizes = sparse.encode(model, path, values="fp16")
    assert [weight.name for weight in sizes.weights] == ["first.weight"]  # not the embedding, not twice
    fresh = Tied()
    assert sparse.load_sparse(fresh, path) is fresh
    assert fresh.second.weight is fresh.first.weight
    assert torch.equal(fresh.first.weight, model.first.weight.half().float())
    assert torch.equal(fresh.embedding.weight, model.embedding.weight)
    assert fresh.norm.num_batches_tracked == 0
    found = sparse.decode(path)
    assert found["second.weight"] is found["first.weight"]


def test_a_file_that_does_not_fit_leaves_the_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for other, match in (
        (nn.Sequential(nn.Linear(4, 3)), r"only this Sequential has 1\.bias"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), r"only the file has 2\.bias"),
        (
            nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)),
            r"0\.weight in the shape \(3, 5\), but the model's is \(3, 4\)",
        ),
    ):
        sparse.encode(other, path)
        with pytest.raises(ArtifactError, match=match):
            sparse.load_sparse(model, path)
    changed = dict(model.state_dict())
    changed["1.num_batches_tracked"] = torch.tensor(1.0)
    sparse.encode(changed, path)
    with pytest.raises(
        ArtifactError, match=r"1\.num_batches_tracked as torch\.float32, but the model's is torch\.int64"
    ):
        sparse.load_sparse(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    sparse.encode({name: tensor.double() if "0" in name else tensor for name, tensor in before.items()}, path)
    sparse.load_sparse(model, path)  # another precision is fine
    assert model[0].weight.dtype == torch.float32


def test_trained_codebooks_are_stored_as_they_are(tmp_path: Path) -> None:
    weight = pruned((20, 30), 0.3)
    book = sparse.cluster(weight, bits=3)
    book = book.with_centroids(book.centroids + 0.01)
    path = tmp_path / "x.sparse.safetensors"
    sparse.encode({"fc.weight": weight, "other.weight": weight.clone()}, path, codebooks={"fc.weight": book})
    found = sparse.decode(path)
    assert torch.equal(found["fc.weight"], book.weight())
    assert torch.equal(found["other.weight"], weight)
    with pytest.raises(ArtifactError, match=r"for the shape \(20, 30\), but the weight has \(2, 2\)"):
        sparse.encode({"fc.weight": torch.ones(2, 2)}, path, codebooks={"fc.weight": book})
    with pytest.raises(UsageError, match=r"did you mean 'fc\.weight'"):
        sparse.encode({"fc.weight": weight}, path, codebooks={"fc.weigth": book})


def test_the_overhead_of_indices_is_the_paper_s(tmp_path: Path) -> None:
    # Without fillers 5 bits beside 32 are 15.6 %, 8 bits 25 %.
    matrix = torch.zeros(40, 64)
    matrix[:, ::4] = 0.5
    sizes = sparse.encode(
        {"fc": matrix, "conv": matrix.reshape(40, 4, 4, 4)}, tmp_path / "x.sparse.safetensors", entropy=False
    )
    conv, fc = sizes.weights
    assert (fc.bits, fc.fillers, fc.index_bytes / fc.value_bytes) == (5, 0, 5 / 32)
    assert (conv.bits, conv.fillers, conv.index_bytes / conv.value_bytes) == (8, 0, 8 / 32)
    assert fc.survivors == 640


def test_sizes_add_up_to_the_file(tmp_path: Path) -> None:
    for number, way in enumerate(WAYS):
        path = tmp_path / f"{number}.sparse.safetensors"
        written = sparse.encode(state(), path, **way)
        assert sparse.file_sizes(path) == written
        assert written.file_bytes == path.stat().st_size
    sizes = written.with_zip(sparse.decode(path))
    fc = next(weight for weight in sizes.weights if weight.name == "fc.weight")
    assert fc.dense_bytes == 40 * 60 * 4
    assert fc.csr_bytes == fc.survivors * 8 + 41 * 4
    assert fc.total_bytes == fc.index_bytes + fc.value_bytes + fc.codebook_bytes
    assert fc.filler_bytes == (fc.index_bytes + fc.value_bytes) * fc.fillers / (fc.survivors + fc.fillers)
    assert fc.total_bytes < sizes.zip_bytes["fc.weight"] < fc.dense_bytes
    assert sizes.dense_bytes == sum(weight.dense_bytes for weight in sizes.weights) + sizes.dense_tensor_bytes


def test_the_best_width_is_not_larger_than_any(tmp_path: Path) -> None:
    weight = {"w": pruned((100, 100), 0.02)}

    def size(bits: Any, entropy: bool) -> int:
        return (
            sparse.encode(weight, tmp_path / "x.sparse.safetensors", bits=bits, entropy=entropy).weights[0].total_bytes
        )

    assert size("best", False) == min(size(bits, False) for bits in range(1, 17))
    assert size("best", True) <= 1.02 * min(size(bits, True) for bits in range(1, 17))  # an estimate, by entropy


def test_settings_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    weights = {
        "a.weight": pruned((30, 30), 0.1),
        "b.weight": pruned((30, 30), 0.1, "b"),
        "c.weight": pruned((30, 30), 0.1),
    }
    sizes = sparse.encode(weights, path, bits={"a.*": 3, "*b*": 7}, values="codebook", codebook_bits={"c*": 2})
    assert [weight.bits for weight in sizes.weights] == [3, 7, 5]
    assert [weight.centroids for weight in sizes.weights][2] == 3
    for chosen in (["b*"], "b*"):
        only = sparse.encode(weights, path, weights=chosen)
        assert [weight.name for weight in only.weights] == ["b.weight"]
    for settings_, match in (
        ({"bits": 17}, "bits of a.weight is 17; give 1 to 16 bits"),
        ({"bits": {"*": 0}}, "bits of a.weight is 0"),
        ({"bits": 5.0}, "bits of a.weight is 5.0; give 1 to 16 bits, as a whole number"),
        ({"bits": "most"}, "bits of a.weight is 'most'; give a number of bits, or best"),
        ({"codebook_bits": "best"}, "codebook_bits of a.weight is 'best'"),
        ({"codebook_bits": 2.5}, "codebook_bits of a.weight is 2.5"),
        ({"codebook_bits": 9}, "codebook_bits of a.weight is 9"),
        ({"bits": {"d.weight": 3}}, "unknown weight in bits 'd.weight'; did you mean"),
        ({"codebook_bits": {"d.*": 3}}, "unknown weight in codebook_bits"),
        ({"weights": ["d.weight"]}, "unknown weight 'd.weight'; did you mean"),
        ({"values": "fp8"}, "unknown kind of values 'fp8'; did you mean 'fp32'"),
    ):
        with pytest.raises(UsageError, match=match):
            sparse.encode(weights, path, **settings_)


def test_tensors_that_see_one_memory_in_several_ways(tmp_path: Path) -> None:
    numbers = torch.randn(4, 6)
    given_ = {"a": numbers, "b": numbers.view(-1), "c": numbers.view(torch.int32), "d": numbers[1:]}
    sparse.encode(given_, tmp_path / "x.sparse.safetensors")
    found = sparse.decode(tmp_path / "x.sparse.safetensors")
    assert all(torch.equal(found[name], given_[name]) for name in given_)
    with pytest.raises(ArtifactError, match="1 names a tensor, but names are texts"):
        sparse.encode({1: numbers}, tmp_path / "y.sparse.safetensors")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (3, "w is a int, but a file holds tensors"),
        (torch.eye(3).to_sparse(), "of layout torch.sparse_coo"),
        (torch.empty(3, 3, device="meta"), "on the meta device"),
        (torch.zeros(2, dtype=torch.complex128), "torch.complex128"),
        (nn.LazyLinear(3).weight, "has no shape yet"),
    ],
)
def test_what_a_file_cannot_hold(entry: object, match: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=match):
        sparse.encode({"w": entry}, tmp_path / "x.sparse.safetensors")  # type: ignore[dict-item]
    with pytest.raises(ArtifactError, match="cannot be written"):
        sparse.encode({"w": torch.ones(2, 2)}, tmp_path / "x", provenance={"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    sparse.encode(state(), path)
    before = path.read_bytes()
    with pytest.raises(ArtifactError):
        sparse.encode({**state(), "bad.weight": torch.full((2, 2), 1e9)}, path, values="fp16")
    name = "x" * 600
    with pytest.raises(ArtifactError, match=f"cannot be saved: {path} names a tensor"):
        sparse.encode({name: torch.ones(3)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_views_and_other_orders_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    base = pruned((8, 6, 4, 4), 0.2)
    given_ = {
        "last": base.clone(memory_format=torch.channels_last),
        "turned": base.permute(3, 0, 1, 2),
        "part": base[2:5],
        "row": torch.arange(12.0).reshape(3, 4)[1],
        "column": torch.arange(12.0).reshape(3, 4)[:, 1],
    }
    sparse.encode(given_, path)
    found = sparse.decode(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in given_.items())


def test_any_reader_of_safetensors_lists_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    sparse.encode(state(), path)
    with safetensors.safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(state())
        assert file.get_tensor("fc.weight").dtype == np.uint8
        assert file.get_tensor("norm.num_batches_tracked") == 12345678901


def test_a_fresh_process_decodes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.sparse.safetensors"
    sparse.encode(state(), path, values="codebook")
    script = tmp_path / "decodes.py"
    script.write_text(
        "import hashlib, sys; from secateur import sparse; found = sparse.decode(sys.argv[1]); "
        "print(*(f'{name}:{hashlib.sha256(found[name].numpy().tobytes()).hexdigest()}' for name in sorted(found)))"
    )
    found = sparse.decode(path)
    here = [f"{name}:{hashlib.sha256(found[name].numpy().tobytes()).hexdigest()}" for name in sorted(found)]
    assert run(script, path).split() == here
