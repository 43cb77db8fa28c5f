"""``mabm train``: both training stages, from a configuration to a tested encoder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from mabm.cli.command import (
    INTERRUPTED,
    TERMINATED,
    Command,
    UsageError,
    positive,
    shows_progress,
    write,
)
from mabm.cli.data_sets import (
    TABLE_OF_IMAGES,
    configurations,
    either,
    image_list,
    root_in_words,
    shipped,
    trial_ranges,
)
from mabm.cli.files.outputs import check_folder, check_kind, check_not_read
from mabm.cli.interruption import ending_in_time
from mabm.evaluation import format_search_scores

if TYPE_CHECKING:
    from mabm.train import Config


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help=f"{either(configurations())}, which ship with mabm, or a TOML file; write "
        f"./{configurations()[0]} for a file of that name (default with --images: {image_list()})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the run; an existing run resumes from its last checkpoint "
        "(required unless --show)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="folder of the data set, sets data.root (default: that of the configuration)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="LIST.csv",
        help=f"{TABLE_OF_IMAGES}, to train and test on instead of the data of the configuration "
        "(default: that data)",
    )
    parser.add_argument(
        "--trial",
        type=positive,
        metavar="N",
        help=f"trial, sets data.trial: {trial_ranges()} (default: that of the configuration)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="change a value of the configuration; may be repeated, the last one wins "
        "(default: change nothing)",
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="fail if the folder already contains a run"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the full configuration as TOML and exit"
    )


def _execute(chosen: argparse.Namespace) -> int:
    if not chosen.show and chosen.output is None:
        raise UsageError("give --output DIR, the folder of the run, or --show")
    source = _source(chosen)
    from mabm.train.config_files import load_config, to_toml

    if chosen.output is not None:
        check_folder(chosen.output)
    config = load_config(source, _overrides(chosen))
    if chosen.show:
        write(to_toml(config).rstrip("\n"))
        return 0
    _check_root(config)
    _check_folder_of_run(chosen.output, source, config)
    from mabm.train import TrainingStopped, train
    from mabm.train.records.files import REPORT

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
        if (report := result.folder / REPORT).is_file():
            write(f"report {report}")
    return 0


def _source(chosen: argparse.Namespace) -> str:
    """The configuration: CONFIG, or the one for image lists if only ``--images`` is given."""
    if chosen.config is None and chosen.images is None:
        raise UsageError("give CONFIG, or --images LIST.csv")
    if chosen.images is not None and (chosen.data, chosen.trial) != (None, None):
        raise UsageError("--images cannot be combined with --data or --trial")
    return chosen.config or image_list()


def _check_root(config: Config) -> None:
    name = config.data.name
    if config.data.root is None and name not in shipped():
        option = "--images LIST.csv" if name == image_list() else "--data ROOT"
        raise UsageError(f"give {option}, {root_in_words(name)} (data.root)")


def _check_folder_of_run(folder: Path, source: str, config: Config) -> None:
    """Refuses a folder in which the run would overwrite its own inputs or files it did not write.

    A folder with checkpoints contains a run, and its files may be replaced. A run may be resumed
    from the configuration in its own folder, which is then not written again.
    """
    from mabm.train.records import files

    is_run = any(files.CHECKPOINT.fullmatch(path.name) for path in folder.glob("checkpoint-*.pt"))
    kept = folder / files.CONFIG
    if not is_run:
        check_kind(kept, _is_config_of_run)
        check_kind(folder / files.ENVIRONMENT, _is_environment)
        check_kind(folder / files.HISTORY, _is_history)
    reads = [Path(source)]
    reads += [Path(each) for each in (config.model.weights, config.data.root) if each is not None]
    for name in files.WRITTEN:
        if name != files.CONFIG:
            check_not_read(folder / name, reads)
    if not is_run and not (kept.is_file() and _is_written(kept, config)):
        check_not_read(kept, reads)


def _is_config_of_run(path: Path) -> bool:
    from mabm.train.config_files import load_config

    return _is_written(path, load_config(path))


def _is_written(path: Path, config: Config) -> bool:
    """Whether a file is a configuration as written by a run of this or an earlier version."""
    from mabm.models.weights import SHIPPED
    from mabm.train.config_files import to_toml

    text = path.read_text(encoding="utf-8")
    for name in SHIPPED:
        text = text.replace(f'"{name.replace("_", "-")}"', f'"{name}"')  # an earlier spelling
    return text == to_toml(config)


def _is_environment(path: Path) -> bool:
    facts = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(facts, dict) and {"mabm", "torch", "Python"} <= facts.keys()


def _is_history(path: Path) -> bool:
    *lines, torn = path.read_text(encoding="utf-8").split(
        "\n"
    )  # the last line may be incomplete after a kill
    entries = [json.loads(line) for line in lines]
    start = '{"stage": '
    if not (torn.startswith(start) or start.startswith(torn)):
        return False
    return all(isinstance(each, dict) and {"stage", "epoch"} <= each.keys() for each in entries)


def _words_at_end(number: int, folder: Path) -> str:
    """Says where a signal stopped the run, and how to resume it."""
    from mabm.train.records.checkpoint import newest_position

    what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    position = newest_position(folder)
    if position is None:
        return f"{what} before the first checkpoint; the same command starts again"
    return f"{what}; the same command resumes from the checkpoint at {position}"


def _overrides(chosen: argparse.Namespace) -> list[str]:
    given = []
    if chosen.data is not None:
        given.append(f"data.root={_in_toml(chosen.data, '--data must be a folder')}")
    if chosen.images is not None:
        given += [f"data.name={image_list()}", "data.trial=none"]
        given.append(f"data.root={_in_toml(chosen.images, '--images must be a table')}")
    if chosen.trial is not None:
        given.append(f"data.trial={chosen.trial}")
    return [*given, *chosen.set]


def _in_toml(path: Path, contract: str) -> str:
    """A path as a TOML string: as in JSON, except character 127, which TOML must escape.

    Raises:
        ValueError: The path is not valid UTF-8; file names may contain any bytes.
    """
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{contract} whose name is UTF-8, got {text!r}") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


COMMAND = Command(
    name="train",
    help="train an encoder without labels",
    description=(
        "Train an encoder on unlabeled images of two modalities in two stages: first within "
        "each modality, then across modalities. Prints the test scores of the last epoch and "
        "writes configuration, history, checkpoints, weights and a report to a folder. "
        "A run that was interrupted or killed resumes from its last checkpoint with the same "
        "command; on SIGTERM it writes a checkpoint first."
    ),
    examples="""
mabm train emoji_xm_smoke --output runs/smoke
    a first look: both stages and a report in a few minutes, on part of the open data
mabm train emoji_xm --output runs/emoji
    the open data that ships with mabm
mabm train sysu_mm01 --data /data/SYSU-MM01 --output runs/sysu --set model.weights=resnet50.pth
    SYSU-MM01 as published, from ImageNet weights in a file
mabm train regdb --data /data/RegDB --trial 3 --output runs/regdb-3 \\
        --set model.weights=resnet50.pth
    one of the ten trials of RegDB
mabm train --images list.csv --output runs/mine --set model.weights=resnet50.pth
    your own images; with the settings of another data set: mabm train llcm --images ...
mabm train sysu_mm01 --show --set clustering.eps=0.5 > mine.toml
    write all settings to a file to edit; then: mabm train mine.toml --output runs/mine
torchrun --nproc-per-node 4 -m mabm train sysu_mm01 --data /data/SYSU-MM01 \\
        --output runs/sysu --set model.weights=resnet50.pth
    on four GPUs, which split each batch
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
