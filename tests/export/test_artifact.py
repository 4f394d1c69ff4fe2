"""Saving and loading a cut model gives the same bits, and says what does not fit."""

import copy
from pathlib import Path

import pytest
import torch
from own_process import run
from small_net import Cut, Net, all_tensors, assert_same_bits
from torch import nn

import secateur
from secateur import graph
from secateur.errors import ArtifactError, TraceError, UsageError
from secateur.export import Builder, Preprocessing, file_fingerprint, inspect, load, load_built, save

IMAGES = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), size=(8, 8), channels=3, labels=tuple("abcde"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_load_gives_the_bits_that_were_saved(
    cut: Cut, tmp_path: Path, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    small = cut.small.to(dtype).to(memory_format=layout)
    small.block.steps.fill_(11)
    small.block.gain.mul_(3)  # cut and not persistent: no constructor gives it
    small.block.uncut.fill_(0.75)
    save(small, tmp_path / "net.safetensors", plan=cut.plan)
    dense = cut.build(1).to(dtype)
    before = copy.deepcopy(dense)
    loaded = load(dense, tmp_path / "net.safetensors")
    assert_same_bits(small, loaded)
    assert_same_bits(before, dense)
    assert type(loaded) is Net
    assert loaded.again.weight is loaded.twice.weight
    assert [t.stride() for t in all_tensors(loaded).values()] == [t.stride() for t in all_tensors(small).values()]
    # 0-dimensional tensors, and the integers that no tensor tells, came along.
    assert loaded.block.steps.shape == ()
    assert loaded.block.plain.num_features == 3
    assert loaded.block.depthwise.groups == 3


def test_the_saved_type_wins_over_the_type_of_the_dense_model(cut: Cut, tmp_path: Path) -> None:
    small = cut.small.to(torch.bfloat16)
    save(small, tmp_path / "net.safetensors", plan=cut.plan)
    loaded = load(cut.build(1), tmp_path / "net.safetensors")
    assert loaded.head.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.twice.weight, small.twice.weight)


def test_the_loaded_model_computes_what_the_saved_one_did(cut: Cut, tmp_path: Path) -> None:
    save(cut.small, tmp_path / "net.safetensors", plan=cut.plan)
    loaded = load(cut.build(1), tmp_path / "net.safetensors")
    assert torch.equal(loaded(cut.inputs), cut.small(cut.inputs))
    assert graph.verify(cut.dense, loaded, cut.plan, cut.inputs).passed


def test_two_cuts_are_saved_as_one(cut: Cut, tmp_path: Path) -> None:
    again = graph.trace(cut.small, cut.inputs)
    second = again.plan({"block.conv": [0, 2]})
    smaller = graph.apply(cut.small, second, verify_with=cut.inputs)
    save(smaller, tmp_path / "net.safetensors", plan=cut.plan.then(second))
    assert_same_bits(smaller, load(cut.build(1), tmp_path / "net.safetensors"))
    with pytest.raises(ArtifactError, match=r"composed with Plan\.then"):
        save(smaller, tmp_path / "other.safetensors", plan=cut.plan)
    assert not (tmp_path / "other.safetensors").exists()


def test_an_uncut_model_is_saved_without_a_plan(cut: Cut, tmp_path: Path) -> None:
    cut.dense.block.gain = cut.build(1).block.gain  # not persistent: what the constructor gives
    save(cut.dense, tmp_path / "net.safetensors")
    assert_same_bits(cut.dense, load(cut.build(1), tmp_path / "net.safetensors"))
    assert inspect(tmp_path / "net.safetensors").plan is None


def test_equal_models_give_equal_bytes_also_in_another_process(cut: Cut, tmp_path: Path) -> None:
    save(cut.small, tmp_path / "a.safetensors", plan=cut.plan, preprocessing=IMAGES)
    script = tmp_path / "saves_again.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from small_net import build; from secateur.export import inspect, load, save\n"
        "info = inspect(sys.argv[2]); small = load(build(3), sys.argv[2])\n"
        "save(small, sys.argv[3], plan=info.plan, preprocessing=info.preprocessing)\n"
    )
    run(script, Path(__file__).parent, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a.safetensors").read_bytes()


def test_inspect_says_what_was_saved(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.safetensors"
    noted = {"metrics": {"top1": 0.9}, "source_weights": file_fingerprint(__file__)}
    builder = Builder(name="/home/someone/nets.py:build", arguments={"num_classes": 5})
    save(cut.small, path, plan=cut.plan, preprocessing=IMAGES, builder=builder, provenance=noted)
    info = inspect(path)
    assert info.plan == cut.plan
    assert info.preprocessing == IMAGES
    assert info.builder == Builder(name="nets.py:build", arguments={"num_classes": 5})
    assert b"someone" not in path.read_bytes()
    assert info.provenance["metrics"] == {"top1": 0.9}
    assert set(info.provenance["versions"]) == {"secateur", "torch"}
    assert info.params == sum(p.numel() for p in cut.small.parameters())
    assert info.size_bytes == path.stat().st_size
    assert info.spec.aliases == {"twice.weight": ("again.weight",)}
    assert info.spec.non_persistent == ("block.gain",)
    assert "block.uncut" not in info.tensors
    assert info.spec.attributes["block.plain"] == {"num_features": 3}


@pytest.mark.parametrize("name", ["secateur:digits-resnet", "torchvision:resnet18"])
def test_load_built_builds_by_name(name: str, tmp_path: Path) -> None:
    dense = secateur.build_model(name, num_classes=7)
    x = torch.randn(2, 1 if "digits" in name else 3, 16, 16)
    channels = graph.trace(dense, x)
    plan = channels.plan({group.name: range(2) for group in channels.groups if group.prunable})
    small = graph.apply(dense, plan, verify_with=None)
    save(small, tmp_path / "net.safetensors", plan=plan, builder=Builder(name=name, arguments={"num_classes": 7}))
    state = torch.get_rng_state()
    assert_same_bits(small, load_built(tmp_path / "net.safetensors"))
    assert torch.equal(state, torch.get_rng_state())


def test_user_code_runs_only_when_it_is_named_again(cut: Cut, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "mynets.py"
    file.write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"Path({str(mark)!r}).touch()\nfrom small_net import build as dense\n"
        "def build(num_classes=5):\n    return dense(4)\n"
    )
    save(cut.small, tmp_path / "net.safetensors", plan=cut.plan, builder=f"{file}:build")
    with pytest.raises(ArtifactError, match=r"built by 'mynets\.py:build', which is code of its author"):
        load_built(tmp_path / "net.safetensors")
    assert not mark.exists()
    assert_same_bits(cut.small, load_built(tmp_path / "net.safetensors", code=f"{file}:build"))
    assert mark.exists()


def test_load_built_needs_a_builder_and_sane_arguments(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(cut.small, path, plan=cut.plan)
    with pytest.raises(ArtifactError, match="does not say what builds its Net"):
        load_built(path)
    save(cut.small, path, plan=cut.plan, builder=Builder(name="secateur:resnet20", arguments={"num_classes": 10**12}))
    with pytest.raises(ArtifactError, match="num_classes=1000000000000"):
        load_built(path)
    save(cut.small, path, plan=cut.plan, builder=Builder(name="secateur:resnet20", arguments={"depth": 3}))
    with pytest.raises(ArtifactError, match="depth=3"):
        load_built(path)
    # 8 GB of classifier, refused before it is built.
    save(cut.small, path, plan=cut.plan, builder=Builder(name="secateur:resnet50", arguments={"num_classes": 10**6}))
    with pytest.raises(ArtifactError, match="names the builder secateur:resnet50"):
        load_built(path)
    save(cut.small, path, plan=cut.plan, builder="hub:evil/model")
    with pytest.raises(ArtifactError, match="code of its author"):
        load_built(path)
    save(cut.small, path, plan=cut.plan, builder="secateur:resnet21")
    with pytest.raises(UsageError, match="did you mean"):
        load_built(path)


def test_a_model_that_does_not_fit_is_refused_by_tensor_shape_or_class(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(cut.small, path, plan=cut.plan)
    with pytest.raises(ArtifactError, match=r"is a Net, but the model is a Linear"):
        load(nn.Linear(2, 2), path)
    with pytest.raises(ArtifactError, match=r"block.gain of shape \(1, 6, 1, 1\), but this model's is \(1, 8, 1, 1\)"):
        load(Net(channels=8), path)
    with pytest.raises(ArtifactError, match=r"head.weight of shape \(5, 6\), but this model's is \(4, 6\)"):
        load(Net(classes=4), path)
    with pytest.raises(ArtifactError, match=r"build the dense model"):
        load(cut.small, path)
    untied = cut.build(0)
    untied.again.weight = nn.Parameter(untied.again.weight.detach().clone())
    with pytest.raises(ArtifactError, match=r"again\.weight"):
        load(untied, path)
    more = cut.build(0)
    more.extra = nn.Linear(1, 1)
    with pytest.raises(ArtifactError, match=r"without the tensor extra\.weight"):
        load(more, path)
    with torch.device("meta"):
        empty = Net()
    with pytest.raises(ArtifactError, match="meta device"):
        load(empty, path)


def test_what_a_file_cannot_hold_is_refused(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"

    class Remembers(nn.Linear):
        def get_extra_state(self) -> object:
            return {"steps": 3}

    with pytest.raises(ArtifactError, match="extra state"):
        save(Remembers(2, 2), path)
    with torch.device("meta"), pytest.raises(ArtifactError, match="meta device"):
        save(nn.Linear(2, 2), path)
    with pytest.raises(TraceError, match=r"\.module"):
        save(nn.DataParallel(nn.Linear(2, 2)), path)
    with pytest.raises(ArtifactError, match="JSON values only"):
        save(cut.small, path, plan=cut.plan, provenance={"loss": float("nan")})
    with pytest.raises(ArtifactError, match="JSON values only"):
        save(cut.small, path, plan=cut.plan, provenance={"model": cut.small})  # type: ignore[dict-item]
    with pytest.raises(ArtifactError, match="the plan is for Net, but the model is a Linear"):
        save(nn.Linear(2, 2), path, plan=cut.plan)
    with pytest.raises(ArtifactError, match="one of each per channel"):
        Preprocessing(mean=(0.5,), std=(0.5,), size=(8, 8), channels=3)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named_and_an_old_file_stays(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(cut.small, path, plan=cut.plan)
    before = path.read_bytes()
    with pytest.raises(ArtifactError):
        save(cut.small, path, plan=cut.plan, provenance={"loss": float("inf")})
    assert path.read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        save(cut.small, tmp_path / "file" / "net.safetensors", plan=cut.plan)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_views_of_one_storage_are_two_tensors(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.randn(2, 3)
            self.first = nn.Parameter(both[0])
            self.second = nn.Parameter(both[1])
            self.register_buffer("whole", both.t())

    model = Views()
    save(model, tmp_path / "views.safetensors")
    assert_same_bits(model, load(Views(), tmp_path / "views.safetensors"))
