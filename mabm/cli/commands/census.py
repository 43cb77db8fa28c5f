"""``mabm census``: checks whether a data set is complete and laid out as published."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mabm.cli.command import Command, positive, write
from mabm.cli.data_sets import countable, either, trial_ranges


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=either(countable()))
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--trial", type=positive, metavar="N", help=f"trial: {trial_ranges()} (default: all)"
    )
    parser.add_argument(
        "--decode", action="store_true", help="also decode every image, which takes minutes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _execute(chosen: argparse.Namespace) -> int:
    from mabm.data import take_census

    census = take_census(chosen.name, chosen.root, trial=chosen.trial, decode=chosen.decode)
    write(json.dumps(census.to_dict(), indent=2) if chosen.json else str(census))
    return 0 if census.is_complete else 1


COMMAND = Command(
    name="census",
    help="check a data set against its published numbers",
    description=(
        "Count the images and identities of a data set, compare them with the published numbers, "
        "and list every folder or file that is missing, extra or misplaced. The exit status is 0 "
        "if everything is as published, 1 otherwise."
    ),
    examples="""
mabm census sysu_mm01 /data/SYSU-MM01
mabm census regdb /data/RegDB --trial 3
mabm census llcm /data/LLCM --json
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
