"""What a run is made of: typed dataclasses, one for each table of a configuration file.

Names and defaults are those of the published method on SYSU-MM01 (Wang et al., AAAI 2026, section
"Implementation details", and the released implementation where it differs). The shipped files under
``configs/`` change what other data sets need and say where each number comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from mabm._core.arguments import check_integer, check_real, shown
from mabm._core.modalities import MODALITIES
from mabm._core.names import DATA_SETS, find_name
from mabm.cluster.dbscan import DBSCAN
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

# Far above what is used, and below what no machine can do.
_MOST: Final = 10**6  # of what is counted in a run
_MOST_IN_BATCH: Final = 2**16
_MOST_WORKERS: Final = 1024
_GREATEST_RATE: Final = 1e3
_TEMPERATURES: Final = 1e-4, 1e4
_GREATEST_MARGIN: Final = 1e4


Association = Literal["off", "naive", "hungarian", "sinkhorn", "modality-aware"]
MemoryKind = Literal["hybrid", "mean", "hard"]
Precision = Literal["float32", "bfloat16", "float16"]


class _Table:
    """What pydantic is told of every table, when it reads one: unknown keys are mistakes."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Table):
    """Which images, and how they come in.

    Attributes:
        name: Data set, one of ``mabm.data.DATA_SETS``; other spellings of it become that one.
        root: Its folder; ``None`` for data that ships with the package.
        trial: Which of the ten splits (RegDB alone).
        height: Pixels an image is resized to.
        width: Pixels an image is resized to.
        identities: Train on so many identities, evenly spaced, instead of all.
        held_out: Take so many training identities, evenly spaced, out of training and evaluate on
            them in place of the test set: for choosing settings without looking at the test set.
        cache: Folder for images decoded once, or ``None`` to decode them each time.
        workers: Processes that decode, at most one a CPU; 0 decodes in the training process.
    """

    name: str = "sysu_mm01"
    root: str | None = None
    trial: int | None = None
    height: int = 288
    width: int = 144
    identities: int | None = None
    held_out: int = 0
    cache: str | None = None
    workers: int = 4

    def __post_init__(self) -> None:
        _spell_as_known(self, "name", DATA_SETS)
        _check_choice("name", self.name, DATA_SETS)
        _check_paths(self, "root", "cache")
        _check_integers(self, 1, MAX_EDGE, "height", "width")
        _check_integers(self, 0, _MOST, "held_out")
        _check_integers(self, 0, _MOST_WORKERS, "workers")
        for name in ("trial", "identities"):
            if getattr(self, name) is not None:
                _check_integers(self, 1, _MOST, name)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Table):
    """Which encoder (:func:`mabm.models.build_encoder`), and the weights it starts from.

    Attributes:
        name: ``"agw-resnet50"``, ``"small"`` or ``"timm:NAME"``.
        weights: A file of weights, or ``"emoji_xm"`` for those that ship (other spellings become
            that one; a file of such a name is ``./emoji_xm``); ``None`` starts at random.
    """

    name: str = "agw-resnet50"
    weights: str | None = None

    def __post_init__(self) -> None:
        _check_paths(self, "name", "weights")
        _spell_as_known(self, "weights", SHIPPED)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig(_Table):
    """How training images are varied; what the two views and the modalities add is in the method.

    Attributes:
        padding: Pixels around an image before it is cropped to its size at a random place.
        flip: Chance of mirroring.
        erasing: Chance of erasing a rectangle.
        jitter: Strength of color jitter, on the second visible view.
        jitter_infrared: Whether stage 1 jitters infrared images too.
        exchange: Whether the second visible view has one channel copied to all three.
        second_view: Whether visible images come in two views.
    """

    padding: int = 10
    flip: float = 0.5
    erasing: float = 0.5
    jitter: float = 0.5
    jitter_infrared: bool = True
    exchange: bool = True
    second_view: bool = True

    def __post_init__(self) -> None:
        _check_integers(self, 0, MAX_EDGE, "padding")
        for name in ("flip", "erasing", "jitter"):
            check_real(name, getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig(_Table):
    """How pseudo-labels are found at the start of an epoch.

    Attributes:
        k1: Neighbors of a sample; when modalities are clustered together, shared among them with
            ``"bmil"``.
        k2: Rows averaged by local query expansion: when clustered together, of each modality with
            ``"bmil"`` (6 of two are 12 rows); in all otherwise.
        eps: Radius of DBSCAN.
        min_samples: Samples within ``eps`` that make a core, itself among them.
        alone_k1: ``k1`` where a modality is clustered alone; ``None``: the same.
        alone_k2: ``k2`` where a modality is clustered alone, rows in all; ``None``: the same.
        preset: Distance by which modalities are clustered together, a name of
            :data:`mabm.PRESETS`. ``"ca_jaccard"`` compares cameras and has list lengths of its own,
            with ``k1`` and ``k2`` at their defaults. A modality alone is always clustered by
            ``"spcl"``.
        half_list: ``"merged"`` or ``"balanced"`` between modalities; ``None``: that of the preset.
        subset_ratio: Share of the visible images, drawn anew each epoch, that are clustered alone;
            below 1, the others (and not these) are clustered with the infrared images. Published
            with 0.5 on SYSU-MM01, because a dense matrix of all does not fit.
        association: How stage 2 joins modalities. ``"modality-aware"``: global clustering by the
            distance of ``preset``, the method.
            ``"naive"``: global clustering blind to modality, by the classic distance with ``k1``,
            and as many rows averaged as ``k2`` of each modality are, at most ``k1``.
            ``"hungarian"``, ``"sinkhorn"``: clusters of each modality matched afterwards.
            ``"off"``: not at all.
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

    def __post_init__(self) -> None:
        self.clusterer  # noqa: B018  # checked as it is made, and so is the distance
        _check_integers(self, 1, _MOST, "min_samples")
        self.distance  # noqa: B018
        check_integer("alone_k1", self.k1_alone, at_least=1, at_most=MAX_K)
        ends = ", which ends at alone_k1"
        check_integer("alone_k2", self.k2_alone, at_least=1, at_most=self.k1_alone, reason=ends)
        _check_choice("association", self.association, get_args(Association))
        if check_real("subset_ratio", self.subset_ratio, 0.0, 1.0) == 0:
            raise ValueError(f"subset_ratio must be above 0, got {self.subset_ratio}")

    @property
    def clusterer(self) -> DBSCAN:
        """What makes labels of a graph."""
        return DBSCAN(self.eps, self.min_samples)

    @property
    def distance(self) -> DistanceOptions:
        """The distance by which modalities are clustered together."""
        preset = resolve_preset(self.preset, has_modality=True)
        if self.half_list is not None:
            preset = dataclasses.replace(preset, half_list=self.half_list)
        return DistanceOptions.resolve(
            self.k1, self.k2, preset, "exact", num_groups=len(MODALITIES)
        )

    @property
    def distance_alone(self) -> DistanceOptions:
        """The distance by which a modality is clustered alone."""
        return DistanceOptions(self.k1_alone, self.k2_alone, PRESETS["spcl"])

    @property
    def k1_alone(self) -> int:
        """``k1`` where a modality is clustered alone."""
        return self.k1 if self.alone_k1 is None else self.alone_k1

    @property
    def k2_alone(self) -> int:
        """``k2`` where a modality is clustered alone."""
        return self.k2 if self.alone_k2 is None else self.alone_k2


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(_Table):
    """Losses and memories.

    Attributes:
        temperature: What similarities are divided by.
        margin: What the loss on the mean bank is forgiven (hybrid memory, within modalities).
        num_selected: Prototypes in the softmax across modalities.
        momentum: What a row of a memory keeps of itself.
        memory: Kind of the memories.
        split: Whether a global cluster has a prototype for each modality, or one for all.
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
        _check_choice("memory", self.memory, get_args(MemoryKind))


@dataclass(frozen=True, kw_only=True)
class BatchConfig(_Table):
    """The batch of one optimizer step, of all processes together.

    Attributes:
        identities: Clusters of each modality in a batch; the processes share them out evenly.
        instances: Images of a cluster.
        cameras: Whether images of a cluster are drawn from cameras other than the anchor's.
        micro_batches: In how many parts a process takes its batch through the encoder. Losses and
            gradients are those of the whole batch, at the price of a second forward pass; batch
            normalization sees the parts.
        evaluation: Images a step where no gradient is taken.
    """

    identities: int = 8
    instances: int = 16
    cameras: bool = True
    micro_batches: int = 1
    evaluation: int = 256

    def __post_init__(self) -> None:
        names = "identities", "instances", "micro_batches", "evaluation"
        _check_integers(self, 1, _MOST_IN_BATCH, *names)
        if self.identities * self.instances % self.micro_batches:
            raise ValueError(
                f"micro_batches must divide identities * instances = "
                f"{self.identities * self.instances}, got {self.micro_batches}"
            )


@dataclass(frozen=True, kw_only=True)
class StageConfig(_Table):
    """One stage: Adam, its rate multiplied by ``gamma`` every ``step`` epochs, no warm-up.

    Attributes:
        epochs: How many; 0 leaves the stage out.
        iterations: Of an epoch.
        lr: Learning rate.
        weight_decay: Of Adam, added to the gradient.
        step: Epochs between two falls of the rate.
        gamma: What the rate is multiplied by.
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


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Table):
    """How a run is executed; but for ``seed`` and ``precision``, nothing here is of the method.

    Attributes:
        seed: Of everything drawn at random.
        precision: Of the encoder's arithmetic in training; losses are float32 always.
        compile: Whether ``torch.compile`` prepares the encoder.
        device: ``"auto"`` takes a GPU where there is one, else the CPU.
        deterministic: Whether PyTorch is held to algorithms that give the same bits each time, for
            as long as the run lasts. Runs on one CPU with one number of threads repeat to the bit
            in any case; on a GPU the environment must have CUBLAS_WORKSPACE_CONFIG, which PyTorch
            then asks for.
        checkpoint_every: Iterations between checkpoints within an epoch; 0: at its end alone.
        evaluate_every: Epochs between evaluations; the start and the last epoch of a stage are
            always evaluated. 0: these alone.
        max_skipped: Steps with a loss or gradient that is not finite which may be left out in a
            row before the run stops.
        tensorboard: Whether to write TensorBoard files.
        report: Whether to write ``report.html`` in the end.
    """

    seed: int = 0
    precision: Precision = "float32"
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
        _check_choice("precision", self.precision, get_args(Precision))


@dataclass(frozen=True, kw_only=True)
class Config(_Table):
    """A whole run: data, model, method, and how it is executed.

    Attributes:
        data: Which images.
        model: Which encoder.
        augmentation: How training images are varied.
        clustering: How pseudo-labels are found.
        contrast: Losses and memories.
        batch: What a batch holds.
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
        """Stage 1 or 2.

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


def _spell_as_known(table: object, field: str, names: Iterable[str]) -> None:
    """Gives a name that is known the spelling that it has in documents and files."""
    known = find_name(getattr(table, field), names)
    if known is not None:
        object.__setattr__(table, field, known)  # the tables are frozen


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {shown(value)}")
