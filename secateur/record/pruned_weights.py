"""What a method that prunes single weights did: which rounds it took, what each layer keeps, and what that is worth."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from secateur.record.measurements import STRICT, Evaluation


@dataclass(frozen=True, kw_only=True)
class WeightScan:
    """How one layer alone bears pruning: validation results against the share that is gone, without retraining."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    round: int  # before which it was scanned, from 1
    layer: str  # name of its weight
    shares: tuple[float, ...]  # of the layer's weights that are gone, ascending
    scores: tuple[float, ...]  # validation top-1, or mean IoU where each pixel has a class, in [0, 1], one per share
    losses: tuple[float, ...]  # validation loss in nats, one per share
    dense: float  # the score with nothing more gone


@dataclass(frozen=True, kw_only=True)
class PruningRound:
    """One pruning and the retraining after it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    number: int  # from 1
    stage: str  # which layers were pruned: "all", "linear" or "convolution"; "surgery": masks that changed in training
    nonzeros: int  # parameters that are stored afterwards
    kept: dict[str, int]  # name of a weight → how many of its entries stay
    quality: dict[str, float]  # name → smallest |w| that stays, in standard deviations of the dense layer
    after_cut: Evaluation  # validation, right after pruning
    retrained: Evaluation | None = None  # validation, after the retraining; None where nothing was retrained
    dropout: dict[str, float] = field(default_factory=dict)  # module → its rate in the retraining


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer of the result, as in Tables 2 to 5 of Han et al. 2015, arXiv:1506.02626."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str  # of its weight
    weights: int  # of the dense layer
    kept: int  # that are not zero
    macs: int  # multiply-adds of the dense layer, per sample
    inputs: float | None = None  # share of the layer's inputs that are not zero; None where it did not run
    outputs: float | None = None  # the same of what the layer gives on (Act%): what the layer that runs next reads

    @property
    def density(self) -> float:
        """Share of the weights that stay (Weights%)."""
        return self.kept / self.weights if self.weights else 1.0

    @property
    def work(self) -> float:
        """Share of the multiply-adds with a weight and an input that are not zero (FLOP%), as if independent."""
        return self.density * (1.0 if self.inputs is None else self.inputs)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values lie in each of several bins of the same width, over a range with 0 in its middle."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    reach: float  # the bins cover [−reach, reach]
    counts: tuple[int, ...]  # of the values in each bin, from the lowest


@dataclass(frozen=True, kw_only=True)
class LayerHistograms:
    """The weights of one layer before and after, as in Figure 8 of Han et al. 2015, arXiv:1506.02626."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    layer: str  # name of its weight
    dense: Histogram  # before the first pruning
    left: Histogram  # of the result, without the weights that masks remove


@dataclass(frozen=True, kw_only=True)
class ImageLayer:
    """The linear layer that reads the images themselves, so that each of its inputs has a place in them."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    layer: str  # name of its weight, (outputs, channels · height · width)
    shape: tuple[int, int, int]  # of an image: channels, height, width


@dataclass(frozen=True, kw_only=True)
class CodedWeight:
    """What one weight takes in the compact file, and as other things would store it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    survivors: int
    fillers: int  # zeros that are stored because a gap is too long for an index
    bits: int  # of an index
    index_bytes: int
    value_bytes: int
    codebook_bytes: int
    dense_bytes: int  # as float32
    csr_bytes: int  # in compressed rows
    zip_bytes: int  # dense and deflated


@dataclass(frozen=True, kw_only=True)
class SparseFile:
    """The compact file of a run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    values: str = "fp32"  # of the coded weights: fp32 keeps every bit, fp16 rounds, codebook shares values
    codebook_epochs: int = 0  # passes over the training data that the shared values had
    file_bytes: int
    dense_bytes: int  # all tensors, with the coded weights as dense float32
    other_bytes: int  # tensors that are stored as they are, and the header
    weights: tuple[CodedWeight, ...]


@dataclass(frozen=True, kw_only=True)
class PrunedWeights:
    """What was pruned, and what is left."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    granularity: str  # what went together: weight, kernel, row, column, block(r,c) or n:m
    parameters: int  # of the dense model
    nonzeros: int  # parameters of the result that are stored: all but the weights that masks remove
    zeros: int  # weights that masks remove; each was found to be exactly 0 in the result
    layers: tuple[LayerWeights, ...]
    rounds: tuple[PruningRound, ...]
    scans: tuple[WeightScan, ...] = ()
    histograms: tuple[LayerHistograms, ...] = ()
    image_layer: ImageLayer | None = None  # None where no pruned linear layer reads the images as they are
    dead: str = ""  # which units without live inputs or outputs were cut for good, in words
    dead_units: dict[str, int] = field(default_factory=dict)  # group → how many
    dead_difference: float | None = None  # max |masked − cut| / max |masked| in float64; None where none was cut
    dense_energy_pj: float | None = None  # of one sample, by Horowitz' figures; None where a layer did not run
    energy_pj: float | None = None  # the same of the result
    speed: str = ""  # whether this sparsity speeds up the runtime at hand, in words
    file: SparseFile | None = None

    @property
    def ratio(self) -> float:
        """Parameters of the dense model for each that is stored."""
        return self.parameters / self.nonzeros if self.nonzeros else float("inf")

    def sentence(self) -> str:
        """Return what is proved of the result as one sentence."""
        return (
            f"{self.zeros:,} weights are removed, and each is exactly 0 in the model; {self.nonzeros:,} of "
            f"{self.parameters:,} parameters are left ({self.ratio:.1f}× fewer)"
        )
