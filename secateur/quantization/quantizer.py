"""``Quantizer`` and ``BiasQuantizer``: the modules of a simulation that round, one per site."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.errors import QuantizationError
from secateur.quantization.histogram import RangeHistogram
from secateur.quantization.mapping import TINY, Affine, Range, Spec, affine_of, fake_quantize

Mode = Literal["off", "observe", "quantize"]

INT32 = 2**31 - 1


class Quantizer(nn.Module):
    """One site: hands a tensor on as it is, counts its values, or rounds it to the reals that have an integer.

    Attributes:
        site: its name.
        spec: the integers.
        bounds: between which the values lie whatever the input is: (0, ∞) behind ReLU, (0, 6) behind ReLU6.
        mode: ``"off"``, ``"observe"`` (values are counted in ``histogram``) or ``"quantize"``.
        step: real size of one integer step, float32, shape () or (channels,); a parameter once :meth:`learn` is called.
        zero_point: the integer of 0, int32, of the same shape.
        histogram: what was counted.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(
        self, site: str, spec: Spec, *, channels: int | None = None, bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> None:
        """Make a site that is off and stands for a range of 1 until it is told another one.

        Args:
            site: its name, for messages.
            spec: the integers.
            channels: size of dimension ``spec.axis``, where there is a step per index.
            bounds: between which the values lie.
        """
        super().__init__()
        self.site, self.spec, self.bounds = site, spec, bounds
        self.mode: Mode = "off"
        self.histogram = RangeHistogram(site)
        shape = () if channels is None else (channels,)
        self.register_buffer("step", torch.full(shape, 1 / spec.highest))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (any shape), rounded where the mode is ``"quantize"``."""
        if self.mode == "off":
            return x
        if self.mode == "observe":
            self.histogram.update(x)
            return x
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()  # a number of 8 significant bits, divided in its own type, is not rounded as integers are
        return fake_quantize(x, self._trained_step(x) if self.learned else self.step, self.zero_point, self.spec)

    @property
    def learned(self) -> bool:
        """Whether the step is a parameter."""
        return isinstance(self.step, nn.Parameter)

    @property
    def affine(self) -> Affine:
        """The mapping that it applies, without gradients."""
        return Affine(self.current_step().detach(), self.zero_point, self.spec)

    def set_range(self, range: Range) -> None:
        """Take the mapping of a range, within what the values can be.

        Raises:
            QuantizationError: the range is no range, see :func:`affine_of`.
        """
        lowest, highest = (torch.as_tensor(end, dtype=torch.float64).clamp(*self.bounds) for end in range)
        self.set_affine(affine_of((lowest, highest), self.spec))

    def set_affine(self, affine: Affine) -> None:
        """Take step and zero point of ``affine``.

        Raises:
            QuantizationError: it is for other integers or another number of channels.
        """
        if affine.spec != self.spec or affine.step.shape != self.step.shape:
            raise QuantizationError(
                f"{self.site} takes {tuple(self.step.shape)} steps of {self.spec}, but is given "
                f"{tuple(affine.step.shape)} of {affine.spec}; make the mapping with the site's own spec"
            )
        with torch.no_grad():
            self.step.copy_(affine.step)
            self.zero_point.copy_(affine.zero_point)

    def learn(self) -> None:
        """Let training change the step (source: Esser et al. 2020, arXiv:1902.08153); the zero point stays."""
        if not self.learned:
            step = self._buffers.pop("step")
            self.register_parameter("step", nn.Parameter(step.detach().clone()))  # type: ignore[union-attr]

    def freeze(self) -> None:
        """Let training leave the step as it is."""
        if self.learned:
            step = self.current_step().detach().clone()
            self._parameters.pop("step")
            self.register_buffer("step", step)

    def current_step(self) -> Tensor:
        """Return the step that is applied: positive, and not beyond the largest value that there can be."""
        if not self.learned:
            return self.step
        largest = self.bounds[1] / (self.spec.highest - self.zero_point)
        return torch.minimum(self.step.clamp(min=TINY / self.spec.highest), largest.to(self.step.dtype))

    def _trained_step(self, x: Tensor) -> Tensor:
        """Return the step, its gradient scaled by 1/√(n · highest), n values per sample (ibid., §2.2)."""
        step = self.current_step()
        per_sample = x.numel() if self.spec.axis is not None else x[0].numel()
        factor = 1 / math.sqrt(max(1, per_sample) * self.spec.highest)
        scaled = step * factor
        return scaled + (step - scaled).detach()

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        kind = "symmetric" if self.spec.symmetric else "affine"
        return f"{self.site!r}, {self.spec.bits} bit {kind}, {self.mode}"


class BiasQuantizer(nn.Module):
    """Rounds a bias to int32, as the runtime adds it: the step is that of the input times that of the weight.

    It has no numbers of its own: what the two other sites say holds. If one of them does not round, neither does this.
    """

    def __init__(self, site: str, input_site: Quantizer, weight_site: Quantizer) -> None:
        """Keep references to the sites of the operator's input and weight; they stay with their own owners."""
        super().__init__()
        self.site = site
        self._sites = (input_site, weight_site)  # in a tuple, so that they are not registered here as well

    @property
    def input_site(self) -> Quantizer:
        """The site of what the operator reads."""
        return self._sites[0]

    @property
    def weight_site(self) -> Quantizer:
        """The site of the operator's weight."""
        return self._sites[1]

    @property
    def rounds(self) -> bool:
        """Whether both sites do."""
        return all(entry.mode == "quantize" for entry in self._sites)

    @property
    def step(self) -> Tensor:
        """Real size of one step, float64, shape () or (channels,)."""
        return self.input_site.current_step().detach().double() * self.weight_site.current_step().detach().double()

    def quantize(self, bias: Tensor) -> Tensor:
        """Return the integers of ``bias`` (channels,), int32."""
        return (bias.detach().double() / self.step).round().clamp(-INT32, INT32).to(torch.int32)

    def forward(self, bias: Tensor) -> Tensor:
        """Return ``bias`` (channels,), rounded; gradients pass as if it was not."""
        if not self.rounds:
            return bias
        rounded = (self.quantize(bias).double() * self.step).to(bias.dtype)
        return bias + (rounded - bias).detach() if bias.requires_grad and torch.is_grad_enabled() else rounded

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{self.site!r}, int32, {self.input_site.site!r} × {self.weight_site.site!r}"
