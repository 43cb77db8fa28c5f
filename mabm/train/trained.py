"""Loads an encoder from any weights, and chooses the data to test it on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mabm.data import DATA_SETS
from mabm.evaluation import check_trial
from mabm.models import Encoder, build_encoder, load_encoder, load_pretrained
from mabm.models.encoder_files import saved_model
from mabm.models.released_names import MODEL, is_released
from mabm.models.weight_files import read_weights
from mabm.models.weights import SHIPPED
from mabm.train.config import Config, DataConfig
from mabm.train.config_files import load_config, parse_config
from mabm.train.records.files import WEIGHTS


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder, and what its file records about its training.

    Attributes:
        encoder: The encoder, on the CPU in evaluation mode.
        model: Name of the encoder.
        config: The configuration of the run that wrote the file; ``None`` for other files.
    """

    encoder: Encoder
    model: str
    config: Config | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Image height and width used in training, or the only ones it accepts; else ``None``."""
        if self.config is not None:
            return self.config.data.height, self.config.data.width
        return self.encoder.image_size

    @property
    def batch_size(self) -> int:
        """Images per batch in evaluation: that of the run's configuration, or the default."""
        return (self.config or Config()).batch.evaluation


def read_trained(
    weights: str | Path,
    *,
    model: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> TrainedEncoder:
    """Loads the encoder of any weights.

    Args:
        weights: The folder of a run, a file written by a run or ``save_encoder``, the name of
            shipped weights, or plain weights: a file that ``load_weights`` reads, such as a
            released checkpoint. A run or file takes precedence over a shipped name.
        model: Name of the encoder, for plain weights only.
        image_size: Height and width of the images, for timm backbones that accept one size only.

    Raises:
        FileNotFoundError: There is no such run, file or name.
        ValueError: ``model`` is missing, or given although the file names it; or the weights do not
            fit.
    """
    path, known = weights_file(weights), SHIPPED.find(str(weights))
    if not path.exists() and known is not None:
        _check_model(known, model, SHIPPED[known][1])
        return TrainedEncoder(load_pretrained(known), SHIPPED[known][1])
    if not path.is_file():
        raise FileNotFoundError(
            f"WEIGHTS must be a finished run, a file or {', '.join(SHIPPED)}, got {weights}"
        )
    saved = saved_model(path)
    if saved is not None:
        _check_model(str(path), model, saved)
        encoder, meta = load_encoder(path)
        tree = meta.get("config")
        config = None if tree is None else parse_config(tree, str(path))
        return TrainedEncoder(encoder, saved, config)
    if model is None:
        hint = MODEL if is_released(read_weights(path)) else "NAME"
        raise ValueError(
            f"{path} contains only weights and does not name its encoder: give --model {hint} "
            f"(in Python model={hint!r})"
        )
    encoder = build_encoder(model, weights=path, image_size=image_size)
    return TrainedEncoder(encoder.eval(), model)


def weights_file(weights: str | Path) -> Path:
    """The file of weights: the one in the folder of a run, or the given file."""
    path = Path(weights)
    return path / WEIGHTS if path.is_dir() else path


def _check_model(place: str, given: str | None, own: str) -> None:
    if given is not None:
        raise ValueError(
            f"model (--model) must be omitted for {place}, whose encoder is {own}, got {given!r}"
        )


def data_to_test(
    trained: TrainedEncoder,
    *,
    name: str | None = None,
    root: str | None = None,
    trial: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> DataConfig:
    """The data to test an encoder on: that of its run, unless another data set is named.

    Args:
        trained: The encoder.
        name: Name of the data set; that of the run by default.
        root: Folder of the data set; that of the run by default.
        trial: Trial to test on, if the data set has trials. It must be the one trained on; this is
            the default for a run on this data set, otherwise the trial is required.
        image_size: Height and width that images are resized to: by default those that the encoder
            was trained with, else those of the data set's shipped configuration.

    Raises:
        ValueError: There is no such data set, none is named for weights without a run, or the trial
            is missing or not the one trained on.
    """
    own = None if trained.config is None else trained.config.data
    known = None if name is None else DATA_SETS.find(name)
    if name is not None and known is None:
        raise ValueError(f"data must be one of {', '.join(DATA_SETS)}, got {name!r}")
    if own is not None and known in (None, own.name):
        check_trial(own.trial, own.trial if trial is None else trial)
        data = own if root is None else replace(own, root=root)
    elif known is None:
        told = "" if root is None else f", got {root!r}"
        raise ValueError(
            f"these weights do not record a data set to test on{told}: give --data NAME:ROOT, such "
            "as sysu_mm01:ROOT, or --images LIST.csv (in Python data and root)"
        )
    else:
        most = DATA_SETS[known].num_trials
        if most is not None and trial is None:
            raise ValueError(
                f"give --trial N, in [1, {most}]: the trial of {known} that the weights were "
                "trained on, since its training identities include test identities of other trials"
            )
        data = replace(load_config(known).data, root=root, trial=trial)
        image_size = image_size or trained.image_size
    if image_size is None:
        return data
    return replace(data, height=image_size[0], width=image_size[1])
