"""The settings of a run: typed dataclasses, one for each table of a configuration file.

Names and defaults are those of the published method on SYSU-MM01 (Wang et al., AAAI 2026, section
"Implementation details", and the released implementation where it differs). The shipped files under
``configs/`` change what other data sets need and say where each number comes from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from mabm._core.arguments import check_choice, check_integer, check_real, shown
from mabm._core.modalities import INFRARED, MODALITIES, MODALITY_NAMES
from mabm._core.names import NamedMapping
from mabm.cluster.dbscan import DBSCAN
from mabm.contrast.samplers import Sampling
from mabm.data import DATA_SETS
from mabm.data.augmentation import ERASING_FILL
from mabm.data.images import Resampling
from mabm.distance.graph import DEFAULT_EPS, DEFAULT_MIN_SAMPLES
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import (
    DEFAULT_K1,
    DEFAULT_K2,
    MAX_K,
    PRESETS,
    HalfList,
    resolve_preset,
)
from mabm.models.registry import MAX_EDGE, MAX_SEED
from mabm.models.weights import SHIPPED

# Limits far above any useful value, and low enough to be safe.
_MOST: Final = 10**6  # for any count in a run
_MOST_IN_BATCH: Final = 2**16
_MOST_WORKERS: Final = 1024
_GREATEST_RATE: Final = 1e3
_TEMPERATURES: Final = 1e-4, 1e4
_GREATEST_MARGIN: Final = 1e4


Association = Literal["off", "naive", "hungarian", "sinkhorn", "modality-aware"]
MemoryKind = Literal["hybrid", "mean", "hard"]
Normalization = Literal["whole", "halves"]
EncoderDtype = Literal["float32", "bfloat16", "float16"]


class _Table:
    """Base of all tables: pydantic refuses keys that are not fields."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Table):
    """The images of a run and how they are read.

    Attributes:
        name: Name of the data set, a key of ``mabm.data.DATA_SETS``; other spellings are replaced
            by it.
        root: Folder of the data set, or a table that lists images; ``None`` for data that ships
            with the package.
        trial: Number of the trial, from 1; ``None`` for data sets without trials.
        height: Height that images are resized to, in pixels.
        width: Width that images are resized to, in pixels.
        test_resampling: Filter for resizing test images, ``"lanczos"`` or ``"bicubic"``. Training
            images are resized with the bicubic filter, for clustering too. The released
            implementation uses Lanczos for test images.
        identities: Number of identities to train on, evenly spaced; ``None`` for all images,
            including those of unknown identity.
        held_out: Number of training identities, evenly spaced, to hold out of training and use
            instead of the test set, for choosing settings without looking at the test set.
        cache: Folder that caches decoded images; ``None`` decodes them each time.
        workers: Number of processes that decode images, at most one per CPU; 0 decodes in the
            training process.
    """

    name: str = "sysu_mm01"
    root: str | None = None
    trial: int | None = None
    height: int = 288
    width: int = 144
    test_resampling: Resampling = "lanczos"
    identities: int | None = None
    held_out: int = 0
    cache: str | None = None
    workers: int = 4

    def __post_init__(self) -> None:
        _spell_as_known(self, "name", DATA_SETS)
        check_choice("name", self.name, tuple(DATA_SETS))
        _check_paths(self, "root", "cache")
        _check_integers(self, 1, MAX_EDGE, "height", "width")
        check_choice("test_resampling", self.test_resampling, get_args(Resampling))
        _check_integers(self, 0, _MOST, "held_out")
        _check_integers(self, 0, _MOST_WORKERS, "workers")
        for name in ("trial", "identities"):
            if getattr(self, name) is not None:
                _check_integers(self, 1, _MOST, name)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Table):
    """The encoder (:func:`mabm.models.build_encoder`) and its initial weights.

    Attributes:
        name: ``"agw-resnet50"``, ``"small"`` or ``"timm:NAME"``.
        weights: A file of weights, or ``"emoji_xm"`` for the shipped weights (other spellings are
            replaced by it; write ``./emoji_xm`` for a file of that name); ``None`` initializes
            randomly.
    """

    name: str = "agw-resnet50"
    weights: str | None = None

    def __post_init__(self) -> None:
        _check_paths(self, "name", "weights")
        _spell_as_known(self, "weights", SHIPPED)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig(_Table):
    """Random changes to training images.

    Attributes:
        padding: Pixels added around an image before a random crop to its original size.
        flip: Probability of mirroring.
        erasing: Probability of erasing a rectangle.
        erasing_fill: Red, green and blue of an erased pixel, in [0, 255]; the default is that of
            the released implementation.
        jitter: Strength of color jitter, applied to the second visible view including its borders.
        jitter_infrared: Whether stage 1 also jitters infrared images.
        exchange: Whether the second visible view has one channel copied to all three.
        second_view: Whether each visible image is used in two views.
    """

    padding: int = 10
    flip: float = 0.5
    erasing: float = 0.5
    erasing_fill: tuple[float, float, float] = ERASING_FILL
    jitter: float = 0.5
    jitter_infrared: bool = True
    exchange: bool = True
    second_view: bool = True

    def __post_init__(self) -> None:
        _check_integers(self, 0, MAX_EDGE, "padding")
        for name in ("flip", "erasing", "jitter"):
            check_real(name, getattr(self, name), 0.0, 1.0)
        fill: object = self.erasing_fill  # Python does not check the type
        if not isinstance(fill, tuple | list) or len(fill) != 3:
            raise ValueError(f"erasing_fill must be red, green and blue, got {shown(fill)}")
        for color in fill:
            check_real("erasing_fill", color, 0.0, 255.0)


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig(_Table):
    """Pseudo-labels, which are computed at the start of every epoch.

    Attributes:
        k1: Number of neighbors per sample; split between the modalities when both are clustered
            together with ``"bmil"``.
        k2: Number of neighbors averaged by local query expansion: per modality when both are
            clustered together with ``"bmil"`` (6 per modality are 12), in total otherwise.
        eps: Radius of DBSCAN.
        min_samples: Number of samples within ``eps``, itself included, that make a sample a core.
        alone_k1: ``k1`` for clustering within one modality; ``None`` uses ``k1``.
        alone_k2: ``k2`` for clustering within one modality, in total; ``None`` uses ``k2``.
        preset: Distance for clustering both modalities together, a name in
            :data:`mabm.PRESETS`. ``"ca_jaccard"`` compares cameras and has its own list lengths:
            ``k1`` and ``k2`` must stay at their defaults. Within one modality, ``"spcl"`` is always
            used.
        half_list: ``"merged"`` or ``"balanced"``, for clustering across modalities; ``None`` uses
            the value of the preset.
        subset_ratio: Share of the visible images, drawn again each epoch, that are clustered within
            their modality; below 1, only the others are clustered with the infrared images.
            Published with 0.5 on SYSU-MM01, because a dense matrix of all images does not fit.
        association: How stage 2 associates the modalities. ``"modality-aware"``: global clustering
            by the distance of ``preset``, the published method. ``"naive"``: global clustering that
            ignores modality, by the classic distance with ``k1``, averaging as many neighbors in
            total as the modality-aware distance (``k2`` per modality), at most ``k1``.
            ``"hungarian"``, ``"sinkhorn"``: clusters within each modality, matched afterwards.
            ``"off"``: no association.
        center_modalities: Whether features are centered by :func:`mabm.center_modalities` before
            global clustering (``"modality-aware"`` or ``"naive"``). The published method does not.
        on_all_processes: Whether each process clusters its share of the images when several train
            together; otherwise the first one clusters all of them. Clusters are the same.
    """

    k1: int = DEFAULT_K1
    k2: int = DEFAULT_K2
    eps: float = DEFAULT_EPS
    min_samples: int = DEFAULT_MIN_SAMPLES
    alone_k1: int | None = None
    alone_k2: int | None = None
    preset: str = "bmil"
    half_list: HalfList | None = None
    subset_ratio: float = 1.0
    association: Association = "modality-aware"
    center_modalities: bool = False
    on_all_processes: bool = True

    def __post_init__(self) -> None:
        self.clusterer  # noqa: B018  # making it checks eps and min_samples
        _check_integers(self, 1, _MOST, "min_samples")
        self.distance  # noqa: B018  # making it checks k1, k2, preset and half_list
        check_integer("alone_k1", self.k1_alone, at_least=1, at_most=MAX_K)
        ends = ", which ends at alone_k1"
        check_integer("alone_k2", self.k2_alone, at_least=1, at_most=self.k1_alone, reason=ends)
        check_choice("association", self.association, get_args(Association))
        if check_real("subset_ratio", self.subset_ratio, 0.0, 1.0) == 0:
            raise ValueError(f"subset_ratio must be above 0, got {self.subset_ratio}")

    @property
    def clusterer(self) -> DBSCAN:
        """The clusterer that turns a graph into labels."""
        return DBSCAN(self.eps, self.min_samples)

    @property
    def distance(self) -> DistanceOptions:
        """The distance for clustering both modalities together."""
        preset = resolve_preset(self.preset, has_modality=True)
        if self.half_list is not None:
            preset = dataclasses.replace(preset, half_list=self.half_list)
        return DistanceOptions.resolve(
            self.k1, self.k2, preset, "exact", num_groups=len(MODALITIES)
        )

    @property
    def distance_alone(self) -> DistanceOptions:
        """The distance for clustering within one modality."""
        return DistanceOptions(self.k1_alone, self.k2_alone, PRESETS["spcl"])

    @property
    def k1_alone(self) -> int:
        """``k1`` for clustering within one modality."""
        return self.k1 if self.alone_k1 is None else self.alone_k1

    @property
    def k2_alone(self) -> int:
        """``k2`` for clustering within one modality."""
        return self.k2 if self.alone_k2 is None else self.alone_k2


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(_Table):
    """Losses and memories.

    Attributes:
        temperature: Divisor of similarities in the softmax.
        margin: Margin subtracted from the loss on the mean bank, which is then clipped at zero
            (hybrid memory, within modalities).
        num_selected: Number of prototypes in the softmax across modalities: the positives and the
            hardest others.
        momentum: Weight of the old prototype in a memory update.
        memory: Kind of memory: ``"hybrid"``, ``"mean"`` or ``"hard"``.
        split: Whether a global cluster has one prototype per modality instead of a single one.
    """

    temperature: float = 0.05
    margin: float = 0.2
    num_selected: int = 50
    momentum: float = 0.1
    memory: MemoryKind = "hybrid"
    split: bool = True

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature, *_TEMPERATURES)
        check_real("margin", self.margin, 0.0, _GREATEST_MARGIN)
        check_real("momentum", self.momentum, 0.0, 1.0)
        _check_integers(self, 1, _MOST, "num_selected")
        check_choice("memory", self.memory, get_args(MemoryKind))


@dataclass(frozen=True, kw_only=True)
class BatchConfig(_Table):
    """The batch of one optimizer step, summed over all processes.

    Attributes:
        identities: Number of clusters per modality in a batch, divided evenly among the processes.
        infrared_identities: Number of infrared clusters, if different from the number of visible
            ones; ``None`` uses ``identities``.
        instances: Number of images per cluster. A visible image in two views counts once.
        cameras: Whether images of a cluster are drawn from cameras other than the anchor's.
        sampling: ``"released"``: left-over clusters that do not fill a batch are dropped, and
            images of a cluster may repeat even if it has exactly as many as are drawn. ``"even"``:
            left-over clusters begin the next batch, and images repeat only if there are too few.
            See :class:`mabm.IdentityBatchSampler`.
        micro_batches: Number of parts in which a process passes its batch through the encoder.
            Losses and gradients are those of the whole batch, at the cost of a second forward
            pass; batch normalization uses the statistics of each part.
        normalization: ``"whole"``: batch normalization uses the statistics of the whole batch.
            ``"halves"``: as with ``torch.nn.DataParallel`` on two GPUs, which published numbers
            come from. The first visible view is normalized with one half of the infrared images,
            the second view with the other half, and running statistics come from the first half.
            One process only; ``micro_batches`` must be 1 or even, and 2 gives the same numbers
            as 1.
        evaluation: Number of images per step when no gradient is computed.
    """

    identities: int = 8
    infrared_identities: int | None = None
    instances: int = 16
    cameras: bool = True
    sampling: Sampling = "released"
    micro_batches: int = 1
    normalization: Normalization = "whole"
    evaluation: int = 256

    def __post_init__(self) -> None:
        names = "identities", "instances", "micro_batches", "evaluation"
        _check_integers(self, 1, _MOST_IN_BATCH, *names)
        check_choice("sampling", self.sampling, get_args(Sampling))
        check_choice("normalization", self.normalization, get_args(Normalization))
        if self.normalization == "halves" and self.micro_batches > 1 and self.micro_batches % 2:
            raise ValueError(
                "micro_batches must be 1 or even with normalization 'halves', "
                f"got {self.micro_batches}"
            )
        if self.infrared_identities is not None:
            _check_integers(self, 1, _MOST_IN_BATCH, "infrared_identities")
        for group in MODALITIES:
            size = self.identities_of(group) * self.instances
            if size % self.micro_batches:
                raise ValueError(
                    f"micro_batches must divide the {MODALITY_NAMES[group]} identities * instances "
                    f"= {size}, got {self.micro_batches}"
                )

    def identities_of(self, group: int) -> int:
        """Number of clusters of a modality.

        Args:
            group: Number of the modality.

        Example:
            >>> from mabm.train import BatchConfig
            >>> BatchConfig(identities=4, infrared_identities=8).identities_of(1)
            8
        """
        if group == INFRARED and self.infrared_identities is not None:
            return self.infrared_identities
        return self.identities


@dataclass(frozen=True, kw_only=True)
class StageConfig(_Table):
    """One stage: Adam, with its learning rate multiplied by ``gamma`` every ``step`` epochs.

    Attributes:
        epochs: Number of epochs; 0 skips the stage.
        iterations: Iterations per epoch; each contrast takes one optimizer step in each.
        lr: Initial learning rate; there is no warm-up.
        weight_decay: Weight decay of Adam, added to the gradient.
        step: Number of epochs between two reductions of the learning rate.
        gamma: Factor of each reduction.
    """

    epochs: int = 50
    iterations: int = 200
    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    step: int = 20
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_integers(self, 0, _MOST, "epochs")
        _check_integers(self, 1, _MOST, "iterations", "step")
        if check_real("lr", self.lr, 0.0, _GREATEST_RATE) == 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        check_real("weight_decay", self.weight_decay, 0.0, _GREATEST_RATE)
        check_real("gamma", self.gamma, 0.0, 1.0)

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of an epoch.

        Args:
            epoch: Number of the epoch, from 0.

        Example:
            >>> from mabm.train import StageConfig
            >>> f"{StageConfig(lr=1e-3, step=2).learning_rate(3):.0e}"
            '1e-04'
        """
        return self.lr * self.gamma ** (epoch // self.step)


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Table):
    """How a run is executed. Only ``seed`` and ``precision`` are settings of the method.

    Attributes:
        seed: Seed of all random numbers.
        precision: Precision of the encoder in training; losses are always float32.
        compile: Whether to compile the encoder with ``torch.compile``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; ``"auto"`` uses a GPU if there is one,
            otherwise the CPU.
        deterministic: Whether to restrict PyTorch to deterministic algorithms during the run. Runs
            on one CPU with a fixed number of threads are bit-for-bit reproducible in any case; on a
            GPU, PyTorch requires the environment variable CUBLAS_WORKSPACE_CONFIG.
        checkpoint_every: Iterations between checkpoints within an epoch; 0 writes a checkpoint only
            at the end of each epoch.
        evaluate_every: Epochs between evaluations. The start and the last epoch of a stage are
            always evaluated; 0 evaluates only these.
        max_skipped: Number of consecutive steps with a non-finite loss or gradient that are
            skipped before the run stops.
        tensorboard: Whether to write TensorBoard files.
        report: Whether to write ``report.html``: curves after every epoch, clusters and searches
            at the end.
    """

    seed: int = 0
    precision: EncoderDtype = "float32"
    compile: bool = False
    device: str = "auto"
    deterministic: bool = False
    checkpoint_every: int = 0
    evaluate_every: int = 5
    max_skipped: int = 10
    tensorboard: bool = False
    report: bool = True

    def __post_init__(self) -> None:
        _check_integers(self, 0, MAX_SEED, "seed")
        _check_integers(self, 0, _MOST, "checkpoint_every", "evaluate_every", "max_skipped")
        check_choice("precision", self.precision, get_args(EncoderDtype))


@dataclass(frozen=True, kw_only=True)
class Config(_Table):
    """A whole run: data, model, method, and how it is executed.

    Attributes:
        data: The images.
        model: The encoder.
        augmentation: Random changes to training images.
        clustering: How pseudo-labels are computed.
        contrast: Losses and memories.
        batch: Size and composition of a batch.
        stage1: Training within modalities.
        stage2: Training across modalities.
        run: Seed, device, checkpoints, reports.

    Example:
        >>> from mabm.train import ClusteringConfig, Config, StageConfig
        >>> config = Config(clustering=ClusteringConfig(eps=0.5), stage2=StageConfig(epochs=30))
        >>> config.stage(2).epochs, config.batch.identities
        (30, 8)
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(default_factory=StageConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def stage(self, number: int) -> StageConfig:
        """The settings of a stage.

        Args:
            number: 1 or 2.
        """
        return (self.stage1, self.stage2)[number - 1]


def _check_integers(table: object, least: int, most: int, *names: str) -> None:
    for name in names:
        check_integer(name, getattr(table, name), at_least=least, at_most=most)


def _check_paths(table: object, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is not None and (not str(value) or "\0" in str(value)):
            raise ValueError(f"{name} must be a name without NUL, got {shown(value)}")


def _spell_as_known(table: object, field: str, names: NamedMapping[Any]) -> None:
    """Replaces a known name by its standard spelling."""
    known = names.find(getattr(table, field))
    if known is not None:
        object.__setattr__(table, field, known)  # the tables are frozen
