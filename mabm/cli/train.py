"""``mabm train``: both stages of the method, from a configuration to a tested encoder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from mabm.cli.command import (
    INTERRUPTED,
    TERMINATED,
    Command,
    UsageError,
    positive,
    shows_progress,
    write,
)
from mabm.cli.interruption import ending_in_time
from mabm.evaluation import format_search_scores


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="sysu, regdb, llcm or emoji-xm, which ship with mabm, or a TOML file",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the run; a run that is there goes on where it stands",
    )
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="folder of the data set (data.root)"
    )
    parser.add_argument(
        "--trial", type=positive, metavar="N", help="which split of RegDB, 1 to 10 (data.trial)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="change a value of the configuration; may be given several times, the last one wins",
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="refuse a folder that holds a run already"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the whole configuration as TOML and stop"
    )


def _execute(chosen: argparse.Namespace) -> int:
    if not chosen.show and chosen.output is None:
        raise UsageError("give --output DIR, the folder of the run, or --show")
    from mabm.train.config import load_config, to_toml

    config = load_config(chosen.config, _overrides(chosen))
    if chosen.show:
        write(to_toml(config).rstrip("\n"))
        return 0
    name = config.data.name
    if name != "emoji_xm" and config.data.root is None:
        raise UsageError(f"give --data ROOT, the folder of {name} (data.root)")
    from mabm.train import TrainingStopped, train

    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    if not is_first:
        logging.getLogger("mabm").setLevel(logging.ERROR)

    def tell(number: int) -> None:
        if is_first:
            sys.stderr.write(f"mabm train: {_words_at_end(number, chosen.output)}\n")

    try:
        with ending_in_time(tell) as stop:
            result = train(
                config,
                chosen.output,
                resume=not chosen.no_resume,
                progress=shows_progress(chosen),
                stop=stop,
            )
    except KeyboardInterrupt:
        if chosen.debug:
            traceback.print_exc()
        tell(signal.SIGINT)
        return INTERRUPTED
    except TrainingStopped:
        tell(signal.SIGTERM)
        return TERMINATED
    if is_first:
        if result.scores:
            write(format_search_scores(result.scores))
        write(f"saved {result.folder}")
    return 0


def _words_at_end(number: int, folder: Path) -> str:
    """What has become of a run that a signal ended."""
    from mabm.train.checkpoint import newest_position
    from mabm.train.resuming import name_position

    what = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    position = newest_position(folder)
    if position is None:
        return f"{what} before the first checkpoint; the same command begins again"
    return f"{what}; the same command goes on from the checkpoint at {name_position(position)}"


def _overrides(chosen: argparse.Namespace) -> list[str]:
    given = []
    if chosen.data is not None:
        given.append(f"data.root={json.dumps(str(chosen.data), ensure_ascii=False)}")  # as in TOML
    if chosen.trial is not None:
        given.append(f"data.trial={chosen.trial}")
    return [*given, *chosen.set]


COMMAND = Command(
    name="train",
    help="train an encoder without labels",
    description=(
        "Train an encoder on unlabelled images of two modalities, in two stages: first within "
        "each modality, then across them. Prints the scores of the last epoch on the test set and "
        "writes configuration, history, checkpoints, weights and a report to a folder. "
        "Interrupted or killed at any moment, the same command goes on from the last checkpoint; "
        "at SIGTERM it writes one first."
    ),
    examples="""
mabm train emoji-xm --output runs/emoji
    the open data that ships with mabm
mabm train sysu --data /data/SYSU-MM01 --output runs/sysu --set model.weights=resnet50.pth
    SYSU-MM01 as published, from ImageNet weights in a file
mabm train regdb --data /data/RegDB --trial 3 --output runs/regdb-3 \\
        --set model.weights=resnet50.pth
    one of the ten trials of RegDB
mabm train sysu --show --set clustering.eps=0.5 > mine.toml
    every setting there is, to edit; then: mabm train mine.toml --output runs/mine
torchrun --nproc-per-node 4 -m mabm train sysu --data /data/SYSU-MM01 --output runs/sysu \\
        --set model.weights=resnet50.pth
    on four GPUs, with the batch of one
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
