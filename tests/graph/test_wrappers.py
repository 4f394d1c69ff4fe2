"""Wrappers: refused in one sentence with the fix, or traced as ordinary modules; Hugging Face's models and outputs."""

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cutting import Residual, assert_exact, cut_and_prove, images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from secateur.errors import TraceError
from secateur.export import load, save
from secateur.graph import apply, fold_weight_standardisation, masked, narrowed, trace
from secateur.torchvision_shim import import_torchvision


class Distributed(nn.parallel.DistributedDataParallel):
    """The wrapper without the processes that it needs."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


class FullyShardedDataParallel(nn.Module):
    """Known by its name, because importing the real one takes seconds."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled_in_place() -> nn.Module:
    model = Residual()
    model.compile(backend="eager")
    return model


def scripted() -> Any:
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        return torch.jit.script(nn.Linear(2, 2))


def quantized() -> nn.Module:
    layer = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})
    return nn.Sequential(nn.Flatten(), layer())


def sharded() -> nn.Module:
    from torch.testing._internal.two_tensor import TwoTensor

    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(TwoTensor(torch.zeros(2, 2), torch.zeros(2, 2)))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "data parallel": (lambda: nn.DataParallel(Residual()), r"DataParallel wraps the model; pass its \.module"),
    "distributed": (
        lambda: Distributed(Residual()),
        r"Distributed wraps the model; pass its \.module, and wrap the cut",
    ),
    "inside": (
        lambda: nn.Sequential(Distributed(Residual())),
        r"Distributed wraps the model \(module '0'\); pass its \.module",
    ),
    "sharded": (lambda: FullyShardedDataParallel(Residual()), "FullyShardedDataParallel wraps the model"),
    "compiled": (
        lambda: torch.compile(Residual(), backend="eager"),
        r"torch\.compile wraps the model; pass what it was made from \(\._orig_mod\), and compile the cut model again",
    ),
    "compiled in place": (compiled_in_place, r"torch\.compile wraps the model"),
    "scripted": (scripted, "a ScriptModule has fixed shapes; pass the nn.Module that it was made from"),
    "quantized": (quantized, r"Linear is a quantized layer \(module '1'\); cut the float model, and quantize the cut"),
    "other tensors": (
        sharded,
        "weight is a TwoTensor, whose values lie in other tensors; pass the model with ordinary",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_hides_a_model_is_refused_in_one_sentence(name: str) -> None:
    build, match = REFUSED[name]
    model = build()
    with pytest.raises(TraceError, match=match) as refused:
        trace(model, images())
    assert "\n" not in str(refused.value)
    with pytest.raises(TraceError, match=match):
        fold_weight_standardisation(model, images())


def test_every_use_of_a_plan_refuses_a_wrapper(tmp_path: Path) -> None:
    model = Residual().eval()
    _, plan, small, _ = cut_and_prove(model, images())
    wrapped = nn.DataParallel(model)
    for use in (
        lambda: apply(wrapped, plan, verify_with=None),
        lambda: masked(wrapped, plan).__enter__(),
        lambda: narrowed(wrapped, plan).__enter__(),
        lambda: save(nn.DataParallel(small), tmp_path / "a.safetensors", plan=plan),
    ):
        with pytest.raises(TraceError, match=r"pass its \.module"):
            use()
    assert not list(tmp_path.iterdir())


def test_an_averaged_model_is_cut_as_it_is(tmp_path: Path) -> None:
    averaged = AveragedModel(Residual())
    averaged.update_parameters(Residual())
    _, plan, small = assert_exact(averaged, images())
    assert int(small.n_averaged) == 1
    assert "module.stem" in plan.kept
    save(small, tmp_path / "ema.safetensors", plan=plan)
    loaded = load(AveragedModel(Residual()).eval(), tmp_path / "ema.safetensors")
    torch.testing.assert_close(loaded(images()), small(images()), rtol=0, atol=0)
    loaded.update_parameters(small.module)


def test_a_graph_module_is_cut_as_it_is() -> None:
    traced = torch.fx.symbolic_trace(Residual().eval())
    _, plan, small = assert_exact(traced, images())
    assert isinstance(small, torch.fx.GraphModule)
    assert small.stem.out_channels == plan.kept_sizes()["stem"]


def test_a_lightning_module_is_cut_as_it_is() -> None:
    import_torchvision()
    lightning = pytest.importorskip("lightning.pytorch")

    class Trained(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Residual()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    _, plan, small = assert_exact(Trained(), images())
    assert isinstance(small, Trained)
    assert "net.stem" in plan.kept


# Forms of inputs and outputs ------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["scores", "maps"])


class Forms(nn.Module):
    """Nested lists in, a named tuple of a list and a mapping out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 5, 3), nn.Conv2d(1, 5, 3), nn.Linear(5, 2)

    def forward(self, pair: list[Any], *, more: dict[str, Tensor]) -> Any:
        x = torch.relu(self.a(pair[0]) + self.b(pair[1][0]))
        return Pair([self.out(x.mean((2, 3))) + more["shift"]], {"x": self.out(x.amax((2, 3)))})


def test_nested_inputs_by_keyword_and_a_named_tuple_out() -> None:
    given = {"pair": [images(), [images(channels=1)]], "more": {"shift": torch.ones(2, 2)}}
    _, plan, small = assert_exact(Forms(), given, cut={"a"})
    assert isinstance(small(**given), Pair)
    assert small.b.out_channels == plan.kept_sizes()["a"]


def hugging_face() -> dict[str, Callable[[Any], tuple[nn.Module, dict[str, Any]]]]:
    sizes = [8, 16, 24, 32]
    return {
        "resnet": lambda t: (
            t.ResNetForImageClassification(
                t.ResNetConfig(embedding_size=8, hidden_sizes=sizes, depths=[1, 1, 2, 1], num_labels=3)
            ),
            {"output_hidden_states": False},
        ),
        "convnext": lambda t: (
            t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=sizes, depths=[1] * 4, num_labels=3)),
            {},
        ),
        "segformer": lambda t: (
            t.SegformerForSemanticSegmentation(
                t.SegformerConfig(
                    depths=[1] * 4,
                    hidden_sizes=sizes,
                    num_attention_heads=[1, 2, 3, 4],
                    decoder_hidden_size=16,
                    num_labels=3,
                )
            ),
            {},
        ),
    }


@pytest.mark.parametrize("name", hugging_face())
def test_hugging_face_models_are_cut_as_ordinary_modules(name: str, tmp_path: Path) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    build = hugging_face()[name]
    model, more = build(transformers)
    given = {"pixel_values": torch.randn(2, 3, 64, 64), **more}
    _, plan, small, proof = cut_and_prove(model.eval(), given, 0.5)
    assert len(plan.kept) >= 4
    assert proof.verdict == "exact", proof.sentence()
    result = small(**given)
    assert type(result) is type(model(**given))
    save(small, tmp_path / "small.safetensors", plan=plan)
    loaded = load(build(transformers)[0].eval(), tmp_path / "small.safetensors")
    torch.testing.assert_close(loaded(**given).logits, result.logits, rtol=0, atol=0)
