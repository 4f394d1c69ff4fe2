"""Making a network wider: cutting the new units again gives the old network bit for bit."""

import copy

import pytest
import torch
from slimmable_networks import TinyResidual, photos, tiny_residual
from torch import Tensor, nn

from secateur.errors import SurgeryError, UsageError
from secateur.graph import apply, trace
from secateur.models import build_model
from secateur.slimmable import plan_of, widened
from secateur.slimmable.widening import wider
from secateur.torchvision_shim import import_torchvision


def assert_contains(wide: nn.Module, model: nn.Module, images: Tensor, *, allow_approximate: bool = False) -> None:
    """Cut the new units, and compare parameters, buffers, layer sizes and outputs bit by bit."""
    old = {g.name: g.size for g in trace(model, images).groups if g.cuttable(allow_approximate=allow_approximate)}
    back = plan_of(trace(wide, images), old, allow_approximate=allow_approximate)
    small = apply(wide, back, verify_with=None)
    torch.testing.assert_close(small.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert repr(small) == repr(model)
    with torch.no_grad():
        assert torch.equal(small.eval()(images), model.eval()(images))


def torchvision_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(import_torchvision().models, name)(num_classes=4)
    return model


def test_sizes_by_hand() -> None:
    assert [wider(size, 1.5, 8) for size in (16, 32, 64, 10)] == [24, 48, 96, 16]
    assert wider(24, 1.5, 8) == 40  # 36 lies between; halves go up
    assert wider(4, 1.5, 8) == 6  # 8 would be a third too many
    assert wider(12, 1.5, 8) == 16
    assert wider(30, 1.01, 8) == 32
    assert wider(33, 1.0, 8) == 33  # never narrower


def test_a_small_network() -> None:
    model = tiny_residual()
    for _ in range(2):
        model.train()(photos())
    before = copy.deepcopy(model.state_dict())
    wide = widened(model, photos(), 1.5)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert repr(wide) == repr(TinyResidual(24, 40))  # depthwise groups, norms and all
    assert_contains(wide, model, photos())
    # Old units are those of the lowest numbers, new ones begin as the class does.
    assert torch.equal(wide.expand.weight[:24, :16], model.expand.weight)
    assert torch.equal(wide.stem_bn.running_mean[:16], model.stem_bn.running_mean)
    assert torch.equal(wide.stem_bn.running_mean[16:], torch.zeros(8))
    assert torch.equal(wide.stem_bn.weight[16:], torch.ones(8))
    bound = 1 / 24**0.5  # of a 1 × 1 convolution of 24 channels: Kaiming's with a = √5
    new = wide.expand.weight[24:]
    assert 0.8 * bound < new.abs().max() <= bound
    assert wide.stem_bn.num_batches_tracked == model.stem_bn.num_batches_tracked


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(0)
    first = widened(tiny_residual(), photos(), seed=1).state_dict()
    torch.manual_seed(9)
    state = torch.get_rng_state()
    model = TinyResidual()
    model.load_state_dict(tiny_residual().state_dict())
    torch.set_rng_state(state)
    torch.testing.assert_close(widened(model, photos(), seed=1).state_dict(), first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(widened(model, photos(), seed=2).state_dict()["expand.weight"], first["expand.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "regnet_x_400mf"])
def test_published_networks(name: str) -> None:
    model, images = torchvision_model(name), photos(2, 32)
    wide = widened(model, images)
    assert_contains(wide, model, images)
    ratio = trace(wide, images).macs() / trace(model, images).macs()
    assert 1.9 < ratio < 2.4  # 1.5² but for the ends


def test_the_mobilenet_is_the_one_that_its_builder_makes() -> None:
    images = photos(2, 32)
    built = import_torchvision().models.mobilenet_v2(num_classes=4, width_mult=1.5)
    wide = widened(torchvision_model("mobilenet_v2"), images)
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    other = {name for name, tensor in wide.state_dict().items() if tensor.shape != shapes[name]}
    # Its builder rounds the streams' widths and multiplies by six, where here each group is rounded by itself.
    assert len(other) < len(shapes) / 4


def test_flattened_maps_and_channels_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    model = model.to(memory_format=torch.channels_last)
    wide = widened(model, photos())
    assert wide[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert (wide[0].out_channels, wide[3].in_features, wide[3].out_features) == (12, 48, 5)
    assert_contains(wide, model, photos())


def test_bare_parameters_are_drawn_from_their_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
            self.scale = nn.Parameter(torch.full((8, 1, 1), 0.25))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x) * self.scale)

    model = Scaled()
    wide = widened(model, photos())
    assert torch.equal(wide.scale, torch.full((12, 1, 1), 0.25))
    assert wide.scale.requires_grad
    assert_contains(wide, model, photos())


def test_norms_across_channels_are_widened_if_allowed() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    with pytest.raises(SurgeryError, match="no group of several units"):
        widened(model, photos())
    wide = widened(model, photos(), allow_approximate=True)
    assert wide[2].normalized_shape == (12,)
    assert_contains(wide, model, photos(), allow_approximate=True)


def test_skipped_groups_and_factor_one() -> None:
    model = tiny_residual()
    wide = widened(model, photos(), skip=["stem"])
    assert (wide.stem.out_channels, wide.expand.out_channels) == (16, 40)
    same = widened(model, photos(), 1.0)
    assert same is not model
    assert same.stem.weight is not model.stem.weight
    torch.testing.assert_close(same.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_channel_shuffles_keep_what_depends_on_their_order() -> None:
    model, images = torchvision_model("shufflenet_v2_x0_5"), photos(2, 32)
    assert_contains(widened(model, images), model, images)


def test_mistakes_are_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"factor is 0\.5 .* use apply"):
        widened(tiny_residual(), photos(), 0.5)
    with pytest.raises(SurgeryError, match="selects channels by lists of their numbers"):
        widened(build_model("densenet40"), torch.zeros(2, 3, 32, 32))


def test_new_units_begin_as_their_network_does() -> None:
    torch.manual_seed(0)
    wide = widened(build_model("resnet20-b"), torch.zeros(2, 3, 32, 32), 2.0)
    new = wide.layer3[1].conv2.weight.detach()[64:]
    assert new.shape == (64, 128, 3, 3)
    assert float(new.std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)  # He's rule for the wide layer
    assert torch.equal(wide.layer3[1].bn2.weight.detach(), torch.ones(128))
    assert torch.equal(wide.layer3[1].bn2.running_mean, torch.zeros(128))
