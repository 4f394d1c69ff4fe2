"""Products of activations, attention however it is called, torch's own layers of it, and recurrent layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, Function, images, prove, reason
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from secateur.graph import trace

PRODUCTS: dict[str, Function] = {
    "projection": lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.square),
    "projection, transposed": lambda m, x: torch.einsum("bchw,dc->bdhw", x, m.square),
    "rows with rows": lambda m, x: torch.einsum("bchw,bcvw->bcvh", x, x),
    "scale": lambda m, x: torch.einsum("bchw,c->bchw", x, m.vector),
    "three operands": lambda m, x: torch.einsum("bcij,bdij,bdij->bcij", x, x, x),
    "sum over channels": lambda m, x: x * torch.einsum("bchw,bchw->bhw", x, x).unsqueeze(1),
    "linear attention": lambda m, x: torch.einsum(
        "bcn,bcd,bdn->bcn", *(lambda q: (q, torch.einsum("bcn,bdn->bcd", q, q), q))(x.flatten(2))
    ).view_as(x),
    "gram matrix": lambda m, x: (x.flatten(2) @ (x.flatten(2).transpose(1, 2) @ x.flatten(2))).view_as(x),
    "tensordot": lambda m, x: torch.tensordot(x, m.square, ([1], [0])).permute(0, 3, 1, 2),
    "distances": lambda m, x: x * torch.cdist(x.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2)).sum((1, 2))
    .view(-1, 1, 1, 1),
    "distances of order one": lambda m, x: x
    * torch.cdist(x.flatten(2).mT, x.flatten(2).mT, p=1.0)[:, :1, 1:2, None],
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_activations(name: str) -> None:
    prove(Between(PRODUCTS[name]), "a")


def heads(layer: nn.Module, x: Tensor, number: int) -> Tensor:
    return layer(x).flatten(2).unflatten(1, (number, -1)).transpose(2, 3)


def attention(number: int, shared: int, function: Any = None, **settings: Any) -> Function:
    def attend(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.layers
        call = function or F.scaled_dot_product_attention
        found = call(heads(q, x, number), heads(k, x, shared), heads(v, x, shared), **settings)
        return found.transpose(2, 3).flatten(1, 2).unflatten(2, (8, 8))

    return attend


def projections(queries: int, keys: int) -> list[nn.Module]:
    return [nn.Conv2d(8, queries, 1), nn.Conv2d(8, keys, 1), nn.Conv2d(8, keys, 1)]


@pytest.mark.parametrize("function", [None, scaled_dot_product_attention], ids=["by module", "by name"])
def test_attention_of_one_head(function: Any) -> None:
    model = Between(attention(1, 1, function), *projections(8, 8))
    graph = prove(model, "a", "layers.2")
    assert "default scale" in str(graph.group("layers.0").locked)
    prove(Between(attention(1, 1, function, scale=0.3, is_causal=True), *projections(8, 8)), "layers.0", "layers.2")
    mask = torch.ones(64, 64, dtype=torch.bool).tril()
    masked = Between(
        lambda m, x: attention(1, 1, function, scale=0.3, attn_mask=mask.to(x.device))(m, x), *projections(8, 8)
    )
    prove(masked, "layers.0", "layers.2")


def test_attention_called_whole_in_inference_mode() -> None:
    def inside(m: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return attention(1, 1, torch.ops.aten.scaled_dot_product_attention.default)(m, x)

    class Inference(Between):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().forward(x)

    graph = trace(Inference(inside, *projections(8, 8)).eval(), images())
    assert "default scale" in str(graph.group("layers.0").locked)


def test_query_heads_that_share_a_key_head_go_with_it() -> None:
    written = trace(Between(attention(16, 8, scale=0.4, enable_gqa=True), *projections(16, 8)).eval(), images())
    assert any("written in the code" in str(group.locked) for group in written.groups)

    def counted(m: Any, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2).unsqueeze(-1) for layer in m.layers)
        return F.scaled_dot_product_attention(q, k, v, scale=0.4, enable_gqa=True).squeeze(-1).unflatten(2, (8, 8))

    graph = prove(Between(counted, *projections(16, 8)), "a")
    assert any(group.size == 8 and len(group.members) > 4 and group.name != "a" for group in graph.groups)


def tokens(m: Any, x: Tensor) -> Tensor:
    found = m.layers[0](x.flatten(2).transpose(1, 2))
    return found.transpose(1, 2).unflatten(2, (8, 8))


def test_an_encoder_layer_is_cut_inside_and_its_fast_path_is_restored() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    for layer in (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
    ):
        prove(Between(tokens, layer), "layers.0.linear1")
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    prove(Between(tokens, encoder), "layers.0.layers.0.linear1", "layers.0.layers.1.linear1")
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_multi_head_attention_gives_its_output_channels_alone() -> None:
    def attend(m: Any, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        return m.layers[0](rows, rows, rows)[0].transpose(1, 2).unflatten(2, (8, 8))

    model = Between(attend, nn.MultiheadAttention(8, 2, batch_first=True))
    prove(model, "layers.0.out_proj")
    assert "embed_dim of a MultiheadAttention in module 'layers.0'" in reason(model)


def test_keys_of_another_width_are_cut() -> None:
    def attend(m: Any, x: Tensor) -> Tensor:
        rows, keys = x.flatten(2).transpose(1, 2), m.layers[1](x).flatten(2).transpose(1, 2)
        return m.layers[0](rows, keys, keys, need_weights=False)[0].transpose(1, 2).unflatten(2, (8, 8))

    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    prove(Between(attend, layer, nn.Conv2d(8, 6, 1)), "layers.1")


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(
    "layer",
    [
        nn.RNN(8, 6, batch_first=True),
        nn.LSTM(8, 6, batch_first=True),
        nn.LSTM(8, 6, batch_first=True, proj_size=4),
        nn.GRU(8, 6, 2, batch_first=True, bidirectional=True),
    ],
    ids=["rnn", "lstm", "projected lstm", "gru"],
)
def test_recurrent_layers_are_locked_and_what_lies_around_is_cut(layer: nn.Module) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        rows = m.layers[1](x).mean(3).transpose(1, 2)
        return m.layers[2](m.layers[0](rows)[0].transpose(1, 2).unsqueeze(-1))

    wide = layer(torch.rand(1, 2, 8))[0].shape[-1]
    model = Between(forward, layer, nn.Conv2d(8, 8, 1), nn.Conv2d(wide, 4, 1))
    assert f"recurrent layer {type(layer).__name__} in module 'layers.0'" in reason(model, "layers.1")
    graph = trace(model, images())
    assert graph.group("a").prunable
    assert graph.group("layers.2").prunable


@pytest.mark.parametrize("layer", [nn.RNNCell(8, 6), nn.LSTMCell(8, 6), nn.GRUCell(8, 6)])
def test_recurrent_cells_are_locked(layer: nn.Module) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        state = m.layers[0](x.mean((2, 3)))
        return (state[0] if isinstance(state, tuple) else state)[..., None, None]

    assert f"recurrent layer {type(layer).__name__}" in reason(Between(forward, layer))
