"""``mabm estimate``: what clustering will take, before it is run."""

from __future__ import annotations

import argparse

from mabm.cli.command import Command, integer, name_of, write
from mabm.cluster.estimate import estimate
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, MAX_K, PRESETS


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("num_samples", type=integer, metavar="N", help="number of samples")
    parser.add_argument("dim", type=integer, metavar="D", help="number of dimensions")
    parser.add_argument(
        "--modalities",
        type=integer,
        default=2,
        metavar="N",
        help="number of modalities; 0 clusters without one (default: %(default)s)",
    )
    parser.add_argument(
        "--k1",
        type=integer,
        default=DEFAULT_K1,
        metavar="N",
        help=f"neighbors per sample, in [1, {MAX_K}] (default: %(default)s)",
    )
    parser.add_argument(
        "--k2",
        type=integer,
        default=DEFAULT_K2,
        metavar="N",
        help="neighbors averaged by query expansion, in [1, k1] (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        type=name_of(PRESETS),
        choices=tuple(PRESETS),
        help="variant of the distance (default: bmil with a modality, spcl without)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    num_groups = chosen.modalities or None
    found = estimate(
        chosen.num_samples,
        chosen.dim,
        num_groups,
        k1=chosen.k1,
        k2=chosen.k2,
        preset=chosen.preset,
    )
    write(str(found))
    return 0


COMMAND = Command(
    name="estimate",
    help="estimate the time and memory of clustering",
    description=(
        "Estimate what mabm cluster will take on this machine's CPU for N samples of D dimensions. "
        "Small synthetic features are clustered, for about a second, and the time is scaled. It "
        "depends on the features: the table is for those of trained encoders, which differ in few "
        "directions; the last line is for noise."
    ),
    examples="""
mabm estimate 23200 2048
    SYSU-MM01, with the features of a ResNet-50
mabm estimate 200000 256 --modalities 0
    the classic k-reciprocal distance, which ignores modality
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
