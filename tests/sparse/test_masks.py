import json
import math
import struct
from pathlib import Path

import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import trace
from secateur.errors import ArtifactError, UsageError
from secateur.graph import apply
from secateur.sparse import Masks

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def negative_zeros(tensor: torch.Tensor) -> int:
    return int(((tensor == 0) & torch.signbit(tensor)).sum())


def test_masks_count_by_layer_and_whole() -> None:
    masks = Masks({"a": torch.tensor([[True, False, True]]), "b": torch.tensor([False] * 8 + [True])})
    assert (masks.kept("a"), masks.size("a"), masks.kept("b"), masks.size("b")) == (2, 3, 1, 9)
    assert (masks.kept(), masks.size(), masks.density(), masks.density("b")) == (3, 12, 0.25, 1 / 9)
    assert str(masks).splitlines()[0] == "Masks: 3 of 12 weights stay (25.00%)"
    assert Masks({}).density() == 1.0
    with pytest.raises(UsageError, match=r"choose one of: a, b"):
        masks.kept("c")


def test_masks_cannot_be_changed_through_what_they_give() -> None:
    masks = Masks({"a": torch.ones(4, dtype=torch.bool)})
    masks["a"].fill_(False)
    assert bool(masks["a"].all())
    with pytest.raises(UsageError, match=r"torch\.float32, but must be boolean"):
        Masks({"a": torch.ones(4)})


def test_equal_masks_have_one_digest_whatever_their_order() -> None:
    a, b = torch.tensor([True, False]), torch.tensor([True, True, False])
    assert Masks({"a": a, "b": b}) == Masks({"b": b, "a": a})
    assert hash(Masks({"a": a})) == hash(Masks({"a": a.clone()}))
    others = [Masks({"a": a}), Masks({"a": ~a}), Masks({"c": a}), Masks({"a": a.reshape(1, 2)}), Masks({})]
    assert len({masks.digest for masks in others}) == len(others)


def test_and_keeps_what_both_keep() -> None:
    both = Masks({"a": torch.tensor([True, True, False]), "b": torch.tensor([True])}) & Masks(
        {"a": torch.tensor([False, True, True]), "c": torch.tensor([False])}
    )
    assert {name: mask.tolist() for name, mask in both.items()} == {
        "a": [False, True, False],
        "b": [True],
        "c": [False],
    }
    with pytest.raises(UsageError, match=r"\(3,\) and \(2,\)"):
        both & Masks({"a": torch.tensor([True, True])})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_removed_weights_are_plus_zero_whatever_they_were(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 1).to(dtype)
    values = [-1.5, -0.0, float("nan"), float("-inf"), -2.0, 3.0]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    Masks({"weight": torch.tensor([[False, False, False, False, True, True]])}).apply_(model)
    assert model.weight.tolist() == [[0, 0, 0, 0, -2.0, 3.0]]
    assert negative_zeros(model.weight) == 0


def test_masks_fit_weights_that_lie_channels_last_in_memory() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before, kept = model.weight.detach().clone(), drawn((4, 3, 3, 3), 1)
    Masks({"weight": kept}).apply_(model)
    assert torch.equal(model.weight, torch.where(kept, before, 0.0))


def test_masks_of_another_model_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    wrong = Masks({"0.weight": torch.zeros(2, 2, dtype=torch.bool), "1.weight": torch.zeros(3, 2, dtype=torch.bool)})
    with pytest.raises(UsageError, match=r"1\.weight has shape \(3, 2\), but the weight \(2, 2\)"):
        wrong.apply_(model)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    with pytest.raises(UsageError, match=r"did you mean '0\.weight'"):
        Masks({"0.weigth": torch.ones(1, dtype=torch.bool)}).apply_(model)


def test_masks_are_cut_with_their_model() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3))
    images = torch.randn(2, 1, 4, 4)
    graph = trace(model, images)
    masks = Masks({"0.weight": drawn((4, 1, 3, 3), 1), "3.weight": drawn((3, 16), 2)})
    plan = graph.plan({"0": [0, 2]})
    cut = masks.after(plan)
    assert torch.equal(cut["0.weight"], masks["0.weight"][[0, 2]])
    assert torch.equal(cut["3.weight"], masks["3.weight"].reshape(3, 4, 4)[:, [0, 2]].reshape(3, 8))
    cut.apply_(apply(model, plan, verify_with=None))
    with pytest.raises(UsageError, match="use a plan of the model that the masks were made for"):
        cut.after(plan)


@settings(max_examples=60, deadline=None)
@given(shapes=st.dictionaries(st.text("ab.é", min_size=1, max_size=4), SHAPES, max_size=4), seed=st.integers(0, 9))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, shapes: dict, seed: int) -> None:
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    masks = Masks({name: drawn(shape, seed) for name, shape in shapes.items()})
    masks.save(path)
    loaded = Masks.load(path)
    assert loaded == masks
    assert loaded.shapes == masks.shapes
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)
    assert masks.kept() == sum(int(mask.sum()) for mask in masks.values())
    assert path.stat().st_size <= 1000 + sum(math.prod(shape) // 8 + 1 for shape in shapes.values())


def rewritten(path: Path, header: object, bits: dict[str, torch.Tensor], key: str = "secateur") -> Path:
    arrays = {name: tensor.numpy() for name, tensor in bits.items()}
    text = header if isinstance(header, str) else json.dumps(header)
    safetensors.numpy.save_file(arrays, path, metadata={key: text})
    return path


GOOD = {"format": 1, "kind": "masks", "shapes": {"a": [3, 3]}}
BITS = torch.tensor([255, 128], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("header", "bits", "reason"),
    [
        ({**GOOD, "more": 1}, BITS, "does not describe itself"),
        ({**GOOD, "kind": "model"}, BITS, "does not describe itself"),
        ({**GOOD, "format": 2}, BITS, "format 2 of masks, but this version reads format 1"),
        ({**GOOD, "format": True}, BITS, "format True"),
        ({**GOOD, "shapes": {"b": [3, 3]}}, BITS, "describes other weights"),
        ({**GOOD, "shapes": {"a": [3, 6]}}, BITS, "18 weights"),
        ({**GOOD, "shapes": {"a": [2**48, 2**48]}}, BITS, "weights by its shape"),
        ({**GOOD, "shapes": {"a": [-3, -3]}}, BITS, "whole numbers"),
        ({**GOOD, "shapes": {"a": [3.0, 3]}}, BITS, "whole numbers"),
        ({**GOOD, "shapes": {"a": 9}}, BITS, "whole numbers"),
        ({**GOOD, "shapes": {"a": [1] * 9}}, BITS, "whole numbers"),
        (GOOD, torch.tensor([255, 129], dtype=torch.uint8), "bits set after its last weight"),
        (GOOD, BITS.to(torch.int8), "bits of type torch.int8"),
        (GOOD, BITS.reshape(1, 2), r"shape \(1, 2\)"),
        ('{"format": 1, "format": 1, "kind": "masks", "shapes": {"a": [3, 3]}}', BITS, "a key is repeated"),
        ("[" * 100_000, BITS, "not JSON"),
        ("7", BITS, "does not describe itself"),
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, header: object, bits: torch.Tensor, reason: str) -> None:
    path = rewritten(tmp_path / "masks.safetensors", header, {"a": bits})
    with pytest.raises(ArtifactError, match=reason):
        Masks.load(path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        Masks.load(tmp_path / "absent.safetensors")
    with pytest.raises(ArtifactError, match="instead of 'secateur' alone"):
        Masks.load(rewritten(tmp_path / "other.safetensors", GOOD, {"a": BITS}, key="else"))
    path = tmp_path / "masks.safetensors"
    Masks({"a": drawn((40, 40), 1)}).save(path)
    whole = path.read_bytes()
    for cut in (0, 7, 60, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError):
            Masks.load(path)
    path.write_bytes(struct.pack("<Q", 2**60) + whole[8:])
    with pytest.raises(ArtifactError, match="truncated or not a safetensors file"):
        Masks.load(path)
