"""``mabm extract``: features of a data set, or of images listed in a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch

from mabm._core.devices import find_device
from mabm.cli.command import (
    Command,
    UsageError,
    add_device,
    natural,
    positive,
    shows_progress,
    write,
)
from mabm.cli.data_sets import (
    TABLE_OF_IMAGES,
    either,
    in_folders,
    shipped,
    split_data,
    trial_ranges,
    with_trials,
)
from mabm.cli.encoders import add_size, add_weights, chosen_size, read_encoder
from mabm.cli.files.modalities import Modality
from mabm.cli.files.outputs import check_not_read, check_output, is_extracted, save_arrays

if TYPE_CHECKING:
    from mabm.data import ImageSet
    from mabm.data.images import Resampling

_OUTPUTS = dict.fromkeys((".npz", ".npy", ".safetensors"), is_extracted)
_SIZE = (288, 144)  # height and width of the field


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    _add_images(parser)
    _add_features(parser)
    _add_computation(parser)
    add_device(parser, results="Features differ by rounding.")


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the input images."""
    from mabm.data.images import Resampling

    group = parser.add_argument_group("images")
    group.add_argument(
        "--data",
        metavar="NAME[:ROOT]",
        help=f"images of a data set: {either(in_folders())} with its folder, or "
        f"{either(shipped())} (default: use --images)",
    )
    group.add_argument(
        "--split",
        choices=("train", "test"),
        help="split to use (default: train with --data, all images with --images)",
    )
    group.add_argument(
        "--trial",
        type=positive,
        metavar="N",
        help=f"trial: {trial_ranges()} (default: none; other data sets have no trials)",
    )
    group.add_argument(
        "--images",
        type=Path,
        metavar="LIST.csv",
        help=f"{TABLE_OF_IMAGES} (default: use --data)",
    )
    add_size(group, default="the size of the run; for image files 288 144")
    group.add_argument(
        "--resampling",
        choices=get_args(Resampling),
        help="resizing filter (default: as published, lanczos with --split test, bicubic for "
        "other images)",
    )


def _add_features(parser: argparse.ArgumentParser) -> None:
    """Adds the output file and the normalization of features."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npz or .safetensors: arrays features, modality, camera and identity (-1: unknown), "
        "in .npz also path; .npy: features only (required)",
    )
    parser.add_argument(
        "--renormalize",
        action="store_true",
        help="normalize the mean of the two features to length one again, as in testing but not "
        "in clustering",
    )


def _add_computation(parser: argparse.ArgumentParser) -> None:
    """Adds the options for reading images and the batch size of the encoder."""
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="images per batch of the encoder, >= 1 (default: %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=natural,
        default=0,
        metavar="N",
        help="processes that decode images; 0 decodes in the main process (default: %(default)s)",
    )
    group.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder that caches decoded images (default: decode them each time)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    if (chosen.data is None) == (chosen.images is None):
        raise UsageError("give either --data NAME[:ROOT] or --images LIST.csv")
    if chosen.images is not None and chosen.trial is not None:
        raise UsageError(f"--trial needs --data {either(with_trials())}:ROOT")
    from mabm.train.trained import weights_file

    lists = [] if chosen.images is None else [chosen.images]
    check_output(chosen.output, _OUTPUTS, reads=[weights_file(chosen.weights), *lists])
    device = find_device(chosen.device, "--device")
    from mabm.data import ImageReader
    from mabm.train.extraction import extract_features

    images = _read_list(chosen) if chosen.data is None else _read_split(chosen)
    if not isinstance(images.images, np.ndarray):
        check_not_read(chosen.output, images.images)
    trained = read_encoder(chosen, chosen.weights)
    size = chosen_size(chosen) or trained.image_size
    if size is None and not isinstance(images.images, np.ndarray):
        size = _SIZE
    modality = torch.from_numpy(images.modality.copy())
    features = extract_features(
        trained.encoder.to(device),
        ImageReader(images, size=size, resampling=_resampling(chosen), cache=chosen.cache),
        modality,
        batch_size=chosen.batch_size,
        workers=chosen.workers,
        normalize_mean=chosen.renormalize,
        progress=shows_progress(chosen),
    )
    arrays: dict[str, npt.NDArray[Any]] = {
        "features": features.numpy(),
        "modality": images.modality,
        "camera": images.camera,
        "identity": images.identity,
    }
    if not isinstance(images.images, np.ndarray):
        arrays["path"] = np.array([str(path) for path in images.images])
    save_arrays(chosen.output, arrays)
    shape = " x ".join(map(str, features.shape))
    write(f"{shape} features ({Modality(modality).in_words()})\nsaved {chosen.output}")
    return 0


def _resampling(chosen: argparse.Namespace) -> Resampling:
    if chosen.resampling is not None:
        return cast("Resampling", chosen.resampling)
    return "lanczos" if chosen.split == "test" else "bicubic"


def _read_split(chosen: argparse.Namespace) -> ImageSet:
    from mabm.data import read_data

    name, root = split_data(chosen.data)
    data = read_data(name, root, trial=chosen.trial)
    return data.test if chosen.split == "test" else data.train


def _read_list(chosen: argparse.Namespace) -> ImageSet:
    """Reads the images listed in a table: all of them, or those of a split."""
    from mabm.data import list_images

    images, is_test = list_images(chosen.images)
    if chosen.split is None:
        return images
    of_split = images.select(is_test if chosen.split == "test" else ~is_test)
    if not len(of_split):
        raise ValueError(f"{chosen.images} must list images of --split {chosen.split}, got none")
    return of_split


COMMAND = Command(
    name="extract",
    help="extract features from images",
    description=(
        "Extract a feature from each image: the mean of the features of the image and its "
        "horizontal flip, each taken after the encoder's BNNeck and normalized to length one. The "
        "output can be passed to mabm cluster."
    ),
    examples="""
mabm extract runs/sysu --data sysu_mm01:/data/SYSU-MM01 --output train.npz
    training images with the encoder of a run; then: mabm cluster train.npz
mabm extract emoji_xm --data emoji_xm --split test --renormalize --output test.npz
    open data and weights, both shipped with mabm
mabm extract adca.pth.tar --model agw-resnet50 --images list.csv --output features.safetensors
    your own images with a released checkpoint: a table with the columns path and modality
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
