"""What a run is made of: typed dataclasses, read from TOML, with overrides from the command line.

Names and defaults are those of the published method on SYSU-MM01 (Wang et al., AAAI 2026, section
"Implementation details", and the released implementation where it differs). The shipped files under
``configs/`` change what other data sets need and say where each number comes from.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from mabm._core.arguments import check_integer, check_real
from mabm._core.names import DATA_SETS, find_name
from mabm.distance.graph import check_max_distance, check_min_samples
from mabm.distance.presets import MAX_K, PRESETS, Preset, check_k1, check_k2
from mabm.models.registry import MAX_EDGE, MAX_SEED
from mabm.models.weights import SHIPPED

CONFIGS: Final = DATA_SETS
"""Names of the shipped configurations: those of the data sets that they train on."""

# Far above what is used, and below what no machine can do.
_MOST: Final = 10**6  # of what is counted in a run
_MOST_IN_BATCH: Final = 2**16
_MOST_WORKERS: Final = 1024
_GREATEST_RATE: Final = 1e3
_TEMPERATURES: Final = 1e-4, 1e4
_GREATEST_MARGIN: Final = 1e4

_MOST_BYTES: Final = 2**20  # of a file
_MOST_BASES: Final = 16
_LONGEST: Final = 100  # characters of a value that a message shows
# What files begin with that are no UTF-8; the longer ones first.
_OTHER_ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

Association = Literal["off", "naive", "hungarian", "sinkhorn", "modality-aware"]
MemoryKind = Literal["hybrid", "mean", "hard"]
Precision = Literal["float32", "bfloat16", "float16"]
HalfList = Literal["merged", "balanced"]


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
        k1: Neighbors of a sample; when modalities are clustered together, shared among them.
        k2: Rows averaged by local query expansion: of each modality when clustered together (6 of
            two are 12 rows), in all when a modality is clustered alone.
        eps: Radius of DBSCAN.
        min_samples: Samples within ``eps`` that make a core, itself among them.
        alone_k1: ``k1`` where a modality is clustered alone; ``None``: the same.
        alone_k2: ``k2`` where a modality is clustered alone, rows in all; ``None``: the same.
        half_list: ``"merged"`` as released, or ``"balanced"`` between modalities.
        subset_ratio: Share of the visible images, drawn anew each epoch, that are clustered alone;
            below 1, the others (and not these) are clustered with the infrared images. Published
            with 0.5 on SYSU-MM01, because a dense matrix of all does not fit.
        association: How stage 2 joins modalities. ``"modality-aware"``: the method.
            ``"naive"``: global clustering blind to modality, by the classic distance with ``k1``,
            and as many rows averaged as ``k2`` of each modality are, at most ``k1``.
            ``"hungarian"``, ``"sinkhorn"``: clusters of each modality matched afterwards.
            ``"off"``: not at all.
    """

    k1: int = 30
    k2: int = 6
    eps: float = 0.6
    min_samples: int = 4
    alone_k1: int | None = None
    alone_k2: int | None = None
    half_list: HalfList = "merged"
    subset_ratio: float = 1.0
    association: Association = "modality-aware"

    def __post_init__(self) -> None:
        check_max_distance("eps", self.eps)
        check_min_samples(self.min_samples)
        _check_integers(self, 1, _MOST, "min_samples")
        check_k2(PRESETS["bmil"], self.k2, check_k1(PRESETS["bmil"], self.k1, num_groups=2))
        check_integer("alone_k1", self.k1_alone, at_least=1, at_most=MAX_K)
        ends = ", which ends at alone_k1"
        check_integer("alone_k2", self.k2_alone, at_least=1, at_most=self.k1_alone, reason=ends)
        _check_choice("half_list", self.half_list, get_args(HalfList))
        _check_choice("association", self.association, get_args(Association))
        if check_real("subset_ratio", self.subset_ratio, 0.0, 1.0) == 0:
            raise ValueError(f"subset_ratio must be above 0, got {self.subset_ratio}")

    @property
    def k1_alone(self) -> int:
        """``k1`` where a modality is clustered alone."""
        return self.k1 if self.alone_k1 is None else self.alone_k1

    @property
    def k2_alone(self) -> int:
        """``k2`` where a modality is clustered alone."""
        return self.k2 if self.alone_k2 is None else self.alone_k2

    @property
    def preset(self) -> Preset:
        """The modality-aware preset, with the half list asked for."""
        return dataclasses.replace(PRESETS["bmil"], half_list=self.half_list)


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


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: A shipped name (:data:`CONFIGS`; in any case, with ``-`` or ``_``, and ``sysu`` for
            ``sysu_mm01``) or the path of a TOML file; a name comes first, so that a file of that
            name in the current folder is ``./sysu``. Tables and keys are
            the fields of :class:`Config`; what is left out keeps its default. UTF-8, with or
            without a byte-order mark, of at most 1 MiB. A key ``base`` at the
            top names a shipped configuration or another file (from this one's folder) to change.
        overrides: ``"table.key=value"``, later ones win. The value is TOML; a bare word is a
            string, and ``none`` is none. TOML has no such value, so that what a base has set is
            unset here alone.

    Raises:
        ImportError: An extra is missing.
        FileNotFoundError: No such file or name.
        ValueError: What is in it does not fit: a misspelled key, a value out of contract.

    Example:
        >>> from mabm.train import CONFIGS, load_config
        >>> load_config(CONFIGS[0], ["stage2.epochs=3"]).stage2.epochs
        3
    """
    tree = _read_tree(source)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(source))


def parse_config(tree: Mapping[str, Any], source: str = "config") -> Config:
    """A :class:`Config` of nested dictionaries, as :func:`to_tree` gives them.

    Raises:
        ImportError: pydantic is missing.
        ValueError: An unknown key, or a value of another kind or out of contract; every table with
            one is named. Kinds are taken strictly: ``true`` is no integer, and ``"8"`` is none.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise ImportError('configurations need pydantic: pip install "mabm[train]"') from error
    # By way of JSON, since in strict mode pydantic makes dataclasses of JSON's tables alone. A date
    # becomes a table, lest it pass as a string.
    try:
        text = json.dumps(tree, default=lambda value: {type(value).__name__: str(value)})
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise ValueError(f"{source} must hold tables of plain values: {error}") from None
    try:
        return TypeAdapter(Config).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{source}: {'; '.join(map(_complaint, error.errors()))}") from None


def _complaint(error: Mapping[str, Any]) -> str:
    """What pydantic found, in the words of this library: key, contract and value."""
    key = _cut(".".join(str(part) for part in error["loc"]))
    if error["type"] == "json_invalid":  # we wrote it: lone surrogates or too deep
        return f"values must be Unicode and not nested deep: {error['ctx']['error']}"
    if error["type"] == "value_error":  # of __post_init__, whose messages begin with the field
        return f"{key}.{error['ctx']['error']}"
    if error["type"] == "unexpected_keyword_argument":
        table = Config() if len(error["loc"]) == 1 else getattr(Config(), error["loc"][0])
        names = ", ".join(each.name for each in dataclasses.fields(table))
        return f"{key} must be one of {names}"
    contract = error["msg"].removeprefix("Input should be ")
    return f"{key} must be {contract}, got {_cut(repr(error['input']))}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def to_tree(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested dictionaries without its ``None`` values, which TOML has not."""
    return {
        table: {key: value for key, value in fields.items() if value is not None}
        for table, fields in dataclasses.asdict(config).items()
    }


def to_toml(config: Config) -> str:
    """The configuration as TOML that :func:`load_config` reads; ``None`` stands in comments.

    Args:
        config: Whose settings are written, defaults among them.

    Raises:
        ImportError: tomli-w is missing.

    Example:
        >>> from mabm.train import Config, to_toml
        >>> to_toml(Config()).splitlines()[0]
        '[data]'
    """
    try:
        import tomli_w
    except ImportError as error:
        raise ImportError('configurations need tomli-w: pip install "mabm[train]"') from error
    tables = []
    for table, fields in dataclasses.asdict(config).items():
        text = tomli_w.dumps({table: to_tree(config)[table]})
        tables.append(text + "".join(f"# {key}: none\n" for key in fields if fields[key] is None))
    return "\n".join(tables)


def _read_tree(source: str | Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tables of a shipped name or a file, laid over those of its base."""
    if (shipped := find_name(str(source), CONFIGS)) is not None:
        name = f"configs/{shipped}.toml"
        tree = _parse_toml(resources.files("mabm.train").joinpath(name).read_text("utf-8"), name)
        folder = None
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(
                f"config must be one of {', '.join(CONFIGS)} or a TOML file, got {str(source)!r}"
            )
        tree = _parse_toml(_read_text(path), str(path))
        folder = path.parent
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"base must be a shipped name or a TOML file, got {base!r} in {source}")
    above = (*above, str(source))
    if find_name(base, CONFIGS) is None and folder is not None:
        base = os.path.normpath(folder / base)
    if _is_one_of(base, above) or len(above) > _MOST_BASES:
        raise ValueError(f"base must not lead back to itself, got {' -> '.join((*above, base))}")
    merged = _read_tree(base, above)
    for table, fields in tree.items():
        if isinstance(fields, dict) and isinstance(merged.get(table, {}), dict):
            merged.setdefault(table, {}).update(fields)
        else:
            merged[table] = fields
    return merged


def _is_one_of(base: str, above: Sequence[str]) -> bool:
    """Whether it was read already, by that name or by another."""
    return base in above or (
        os.path.exists(base)
        and any(os.path.samefile(base, each) for each in above if os.path.exists(each))
    )


def _read_text(path: Path) -> str:
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{path} must be TOML of at most {_MOST_BYTES} bytes, got {size}")
    content = path.read_bytes()
    for mark, encoding in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise ValueError(f"{path} must be in UTF-8, got {encoding}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be in UTF-8: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    table, dot, key = path.strip().partition(".")
    if not (equals and dot and table and key):
        raise ValueError(f"an override must read table.key=value, got {override!r}")
    fields = tree.setdefault(table, {})
    if not isinstance(fields, dict):
        raise ValueError(f"{table} must be a table, got {fields!r}")
    text = text.strip()
    if text.lower() == "none":
        fields[key] = None
        return
    try:
        parsed = _parse_toml(f"value = {text}", override)
    except ValueError:
        fields[key] = text  # a bare word
        return
    if len(parsed) != 1:
        raise ValueError(f"an override must hold one value, got {override!r}")
    fields[key] = parsed["value"]


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError('configurations need tomli: pip install "mabm[train]"') from error
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{source} must be TOML: it is nested too deep") from None
    except ValueError as error:  # of the syntax, or an integer of thousands of digits
        raise ValueError(f"{source} must be TOML: {error}") from None


def _check_integers(table: object, least: int, most: int, *names: str) -> None:
    for name in names:
        check_integer(name, getattr(table, name), at_least=least, at_most=most)


def _check_paths(table: object, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is not None and (not str(value) or "\0" in str(value)):
            raise ValueError(f"{name} must be a name without NUL, got {_cut(repr(value))}")


def _spell_as_known(table: object, field: str, names: Iterable[str]) -> None:
    """Gives a name that is known the spelling that it has in documents and files."""
    known = find_name(getattr(table, field), names)
    if known is not None:
        object.__setattr__(table, field, known)  # the tables are frozen


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {_cut(repr(value))}")
