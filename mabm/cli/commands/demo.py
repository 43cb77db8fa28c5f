"""``mabm demo``: both clusterings side by side, on open data."""

from __future__ import annotations

import argparse
from pathlib import Path

from mabm.cli.command import Command, integer, natural, shows_progress, write
from mabm.cli.files.outputs import check_folder, check_kind, is_picture


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="folder for the pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="seed of the images made from the drawings, >= 0; features of 0 ship, those of others "
        "are computed in about a minute (default: %(default)s)",
    )
    parser.add_argument(
        "--k1",
        type=integer,
        metavar="N",
        help="neighbors of a sample, both modalities together: even, in [2, 1024] (default: 24)",
    )
    parser.add_argument(
        "--k2",
        type=integer,
        metavar="N",
        help="neighbors that query expansion averages, both modalities together: even, in [2, K1] "
        "(default: 6)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    # Imported here: other commands, and --help, need neither the data nor the pictures.
    from mabm import demo

    given = {name: getattr(chosen, name) for name in ("k1", "k2")}
    settings = demo.Settings(**{name: value for name, value in given.items() if value is not None})
    check_folder(chosen.output)
    for name in (demo.EXAMPLES_PICTURE, demo.PAIRS_PICTURE):
        check_kind(chosen.output / name, is_picture)
    result = demo.run(
        chosen.output, seed=chosen.seed, settings=settings, progress=shows_progress(chosen)
    )
    lines = [demo.format_table(result), ""]
    lines += [f"saved {picture}" for picture in result.pictures]
    write("\n".join([*lines, f"{result.seconds:.1f} s in total"]))
    return 0


COMMAND = Command(
    name="demo",
    help="cluster open drawings naively and modality-aware, and compare",
    description=(
        "Cluster images of 350 emoji that the encoder has not seen, in color (visible) and "
        "monochrome (infrared), by the naive and by the modality-aware distance, over all eps. "
        "Prints tables and saves two pictures: the same emoji before and after, and precision "
        "against recall. The images are drawings, not photographs. Takes about ten seconds on two "
        "cores; a minute more with another seed."
    ),
    examples="""
mabm demo                          the tables, and two pictures in demo_output
mabm demo --seed 1                 other images of the same drawings
mabm demo --k1 16 --k2 4           shorter lists of neighbors
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
