"""The encoders that commands take: weights of any kind, their model, and the size of images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mabm.cli.command import positive

if TYPE_CHECKING:
    from mabm.train.trained import TrainedEncoder


def add_weights(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds WEIGHTS, one or ``several``, and ``--model``."""
    more = "; several are averaged, such as those of a data set's trials" if several else ""
    parser.add_argument(
        "weights",
        nargs="+" if several else None,
        metavar="WEIGHTS",
        help="folder of a run, a file of weights, or emoji_xm, which ships with mabm (a run or "
        "file of that name comes first). A file may also be a released checkpoint of AGW, ADCA, "
        f"PGM or BMIL (.pth.tar, .t){more}",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="agw-resnet50, small or timm:NAME, for a file of weights that does not say which; "
        "released checkpoints are of agw-resnet50 (default: what the file says)",
    )


def add_size(group: argparse._ActionsContainer, *, default: str) -> None:
    """Adds ``--size``; ``default`` says in words which size it is otherwise."""
    group.add_argument(
        "--size",
        type=positive,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help=f"pixels that images are resized to (default: {default})",
    )


def chosen_size(chosen: argparse.Namespace) -> tuple[int, int] | None:
    """What ``--size`` says."""
    return None if chosen.size is None else (chosen.size[0], chosen.size[1])


def read_encoder(chosen: argparse.Namespace, weights: str) -> TrainedEncoder:
    """Loads the encoder of weights, as ``--model`` and ``--size`` say.

    Raises:
        FileNotFoundError: There is no such run, file or name.
        ValueError: The weights are of another encoder, or neither the file nor ``--model`` names
            the encoder.
    """
    from mabm.train.trained import read_trained

    return read_trained(weights, model=chosen.model, image_size=chosen_size(chosen))
