"""Options of commands that load an encoder: its weights, its model, and the size of images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mabm.cli.command import positive

if TYPE_CHECKING:
    from mabm.train.trained import TrainedEncoder


def add_weights(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds WEIGHTS, one or ``several``, and ``--model``."""
    more = "; scores of several, such as the trials of a data set, are averaged" if several else ""
    parser.add_argument(
        "weights",
        nargs="+" if several else None,
        metavar="WEIGHTS",
        help="folder of a run, a file of weights, or emoji_xm, which ships with mabm (a run or "
        "file of that name takes precedence). A file may also be a released checkpoint of AGW, "
        f"ADCA, PGM or BMIL (.pth.tar, .t){more}",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="agw-resnet50, small or timm:NAME, for a file of weights that does not name its "
        "model; released checkpoints need agw-resnet50 (default: the model named in the file)",
    )


def add_size(group: argparse._ActionsContainer, *, default: str) -> None:
    """Adds ``--size``; ``default`` describes the default size in words."""
    group.add_argument(
        "--size",
        type=positive,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help=f"height and width in pixels to resize images to (default: {default})",
    )


def chosen_size(chosen: argparse.Namespace) -> tuple[int, int] | None:
    """The height and width given by ``--size``; ``None`` without it."""
    return None if chosen.size is None else (chosen.size[0], chosen.size[1])


def read_encoder(chosen: argparse.Namespace, weights: str) -> TrainedEncoder:
    """Loads an encoder from its weights, using ``--model`` and ``--size``.

    Raises:
        FileNotFoundError: There is no such run, file or name.
        ValueError: The weights belong to another encoder, or neither the file nor ``--model`` names
            the encoder.
    """
    from mabm.train.trained import read_trained

    return read_trained(weights, model=chosen.model, image_size=chosen_size(chosen))
