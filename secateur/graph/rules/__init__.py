"""The table of operator rules: one small function per family says how channels flow through it.

A rule is ``rule(flow, args, kwargs, result)``; it reads labels with ``flow.dims``, ties or locks them, and labels the
result with ``flow.give``. To add an operator: write the function in the file of its family, add a row here, add a
cut-equals-masked test. What has no row locks its inputs and is reported; nothing is ever passed through on a guess.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from secateur.graph.rules import (
    attention,
    convolution,
    elementwise,
    gathering,
    joining,
    matmul,
    movement,
    normalization,
    pooling,
    reductions,
    windows,
)

Rule = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]

_ELEMENTWISE = """
abs mul div true_divide floor_divide remainder fmod pow sqrt rsqrt square exp exp2 expm1 log log2 log10
log1p sin cos tan tanh asin acos atan atan2 sinh cosh sigmoid logit erf erfc erfinv neg reciprocal sign sgn floor ceil
round trunc frac relu relu6 hardtanh hardswish hardsigmoid silu mish gelu elu selu celu leaky_relu softplus softshrink
hardshrink threshold log_sigmoid_forward clamp clamp_min clamp_max maximum minimum fmax fmin where lerp addcmul
addcdiv nan_to_num isnan isinf isfinite eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and
bitwise_or bitwise_not bitwise_xor masked_fill clone detach alias lift_fresh _to_copy to contiguous positive real conj
zeros_like ones_like empty_like full_like rand_like randn_like bernoulli bernoulli_ native_dropout dropout fill zero
normal uniform rrelu_with_noise _conj fake_quantize_per_tensor_affine heaviside xlogy hypot copysign logaddexp
logaddexp2 i0 lgamma digamma polygamma sinc asinh acosh atanh deg2rad rad2deg nextafter signbit isposinf isneginf
complex polar angle gcd lcm bitwise_left_shift bitwise_right_shift igamma igammac exponential geometric cauchy
log_normal random special_entr special_ndtri special_log_ndtr special_i0e special_i1 special_i1e special_erfcx
special_xlog1py special_zeta
"""

_SAME_AS_FIRST = "native_dropout log_sigmoid_forward"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise.elementwise),
    **dict.fromkeys(_SAME_AS_FIRST.split(), elementwise.like_first),
    **dict.fromkeys(["add", "sub", "rsub"], elementwise.addition),
    "copy": elementwise.copy_in_place,
    **dict.fromkeys(["new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"], elementwise.fresh),
    "_prelu_kernel": elementwise.elementwise,
    "prelu": elementwise.prelu,
    # convolutions and matrix products
    "convolution": convolution.convolution,
    "convolution_overrideable": convolution.convolution,
    "mm": matmul.matrix_product,
    "bmm": matmul.matrix_product,
    "mv": matmul.matrix_product,
    "addmm": matmul.added_matrix_product,
    "baddbmm": matmul.added_matrix_product,
    "addmv": matmul.added_matrix_product,
    "dot": matmul.dot,
    "vdot": matmul.dot,
    "_euclidean_dist": matmul.distance,
    "_cdist_forward": matmul.distance,
    "scaled_dot_product_attention": attention.scaled_dot_product_attention,
    # normalisation
    **dict.fromkeys(
        [
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
        ],
        normalization.batch_norm,
    ),
    "native_layer_norm": normalization.layer_norm,
    "native_group_norm": normalization.group_norm,
    "_weight_norm_interface": normalization.weight_norm,
    "_softmax": normalization.softmax,
    "_log_softmax": normalization.softmax,
    "glu": normalization.glu,
    # views and other movements
    **dict.fromkeys(["view", "_unsafe_view", "_reshape_alias", "reshape", "unflatten", "view_copy"], movement.view),
    "permute": movement.permute,
    "transpose": movement.transpose,
    "t": movement.transpose,
    "squeeze": movement.squeeze,
    "unsqueeze": movement.unsqueeze,
    "expand": movement.expand,
    "repeat": movement.repeat,
    "flip": movement.flip,
    "constant_pad_nd": movement.constant_pad,
    **dict.fromkeys(
        [f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)], movement.window_pad
    ),
    "pixel_shuffle": movement.pixel_shuffle,
    "pixel_unshuffle": movement.pixel_unshuffle,
    "channel_shuffle": windows.channel_shuffle,
    "native_channel_shuffle": windows.channel_shuffle,
    "im2col": windows.im2col,
    "col2im": windows.col2im,
    **dict.fromkeys(["_fft_r2c", "_fft_c2r", "_fft_c2c"], windows.fourier),
    "view_as_real": windows.as_real,
    "view_as_complex": windows.as_complex,
    # joining and taking apart
    "cat": joining.cat,
    "stack": joining.stack,
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"], joining.split),
    "slice": joining.slice_,
    "select": joining.select,
    "unbind": joining.unbind,
    "index_select": joining.index_select,
    "index": joining.index,
    "embedding": joining.embedding,
    "gather": gathering.gather,
    **dict.fromkeys(["scatter", "scatter_add", "scatter_reduce"], gathering.scatter),
    "index_put": gathering.index_put,
    **dict.fromkeys(["index_add", "index_copy", "index_fill"], gathering.index_write),
    "bucketize": gathering.bucketize,
    # pooling and resizing
    **dict.fromkeys(
        [
            "avg_pool1d",
            "adaptive_avg_pool1d",
            "max_pool1d",
            "max_pool1d_with_indices",
            "upsample_nearest1d",
            "upsample_linear1d",
            "_upsample_nearest_exact1d",
            "adaptive_max_pool1d",
        ],
        pooling.over_line,
    ),
    **dict.fromkeys(
        [
            "avg_pool2d",
            "_adaptive_avg_pool2d",
            "adaptive_avg_pool2d",
            "max_pool2d_with_indices",
            "max_pool2d",
            "adaptive_max_pool2d",
            "fractional_max_pool2d",
            "upsample_nearest2d",
            "upsample_bilinear2d",
            "upsample_bicubic2d",
            "_upsample_nearest_exact2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
            "mkldnn_max_pool2d",
        ],
        pooling.over_plane,
    ),
    **dict.fromkeys(
        [
            "avg_pool3d",
            "_adaptive_avg_pool3d",
            "max_pool3d_with_indices",
            "adaptive_max_pool3d",
            "upsample_nearest3d",
            "upsample_trilinear3d",
            "_upsample_nearest_exact3d",
        ],
        pooling.over_volume,
    ),
    **dict.fromkeys(["max_unpool2d", "max_unpool3d"], windows.unpool),
    **dict.fromkeys(["grid_sampler_2d", "grid_sampler_3d"], windows.grid_sample),
    **dict.fromkeys(["torchvision::roi_align", "torchvision::roi_pool"], windows.roi_align),
    # reductions
    "sum": reductions.total,
    "nansum": reductions.total,
    **dict.fromkeys(
        [
            "mean",
            "amax",
            "amin",
            "max",
            "min",
            "var",
            "std",
            "var_mean",
            "std_mean",
            "prod",
            "any",
            "all",
            "argmax",
            "argmin",
            "logsumexp",
            "median",
            "nanmedian",
            "mode",
            "aminmax",
            "count_nonzero",
        ],
        reductions.statistic,
    ),
    "linalg_vector_norm": reductions.norm,
    "norm": reductions.norm,
    "kthvalue": reductions.kth_value,
    **dict.fromkeys(["sort", "cumsum", "cumprod", "argsort", "cummax", "cummin", "logcumsumexp"], reductions.along),
    "topk": reductions.topk,
}

# Aggregations over a whole tensor that share a name with an element-wise operator of two tensors.
_PAIRWISE = {"max": "other", "min": "other"}

# Overloads that do something else than the operator whose name they share.
_UNLIKE = {("view", "dtype"), ("view_copy", "dtype"), ("where", "default")}

# In place these change the shape of a tensor that others may hold under its old labels.
_RESHAPE_IN_PLACE = {"t_", "transpose_", "squeeze_", "unsqueeze_"}


@cache
def rule_for(func: Any) -> tuple[str, Rule | None]:
    """Return the name of an ATen operator, in-place underscore removed, and its rule (None if it has none)."""
    name = func._schema.name.removeprefix("aten::")
    if "::" in name:
        return name, RULES.get(name)
    plain = name if name in RULES else name.removesuffix("_")
    written = any(argument.is_out for argument in func._schema.arguments)
    if written or name in _RESHAPE_IN_PLACE or (plain, func._overloadname) in _UNLIKE:
        return plain, None
    if plain in _PAIRWISE and func._overloadname == _PAIRWISE[plain]:
        return plain, elementwise.elementwise
    return plain, RULES.get(plain)
