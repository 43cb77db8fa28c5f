"""``mabm evaluate``: scores of trained encoders on the test set of their data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mabm._core.devices import find_device
from mabm._core.files import write_text
from mabm.cli.command import (
    Command,
    UsageError,
    add_device,
    integer,
    name_of,
    positive,
    shows_progress,
    write,
)
from mabm.cli.data_sets import (
    TABLE_OF_IMAGES,
    either,
    image_list,
    in_folders,
    more_searches,
    shipped,
    split_data,
    trial_ranges,
)
from mabm.cli.encoders import add_size, add_weights, chosen_size, read_encoder
from mabm.cli.files.outputs import check_output, is_scores
from mabm.distance.reranking import RerankOptions
from mabm.evaluation import MORE_SEARCH_TASKS, SEARCH_TASKS, SearchScores, format_search_scores

if TYPE_CHECKING:
    from mabm.train import DataConfig
    from mabm.train.trained import TrainedEncoder


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    published = (*SEARCH_TASKS.values(), *MORE_SEARCH_TASKS.values())
    tasks = sorted({task.name for each in published for task in each})
    add_weights(parser, several=True)
    parser.add_argument(
        "--data",
        metavar="[NAME:]ROOT",
        help=f"data set and its folder, NAME:ROOT with NAME {either(in_folders())}, or "
        f"{either(shipped())} without one; for weights of a run ROOT is enough (default: the "
        "run's)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="LIST.csv",
        help=f"{TABLE_OF_IMAGES}; the images of split test are used "
        "(default: the images of --data)",
    )
    parser.add_argument(
        "--trial",
        action="append",
        type=positive,
        metavar="N",
        help=f"trial that the weights were trained on: {trial_ranges()}; once for each of WEIGHTS "
        "(default: that of the run; any other is an error)",
    )
    add_size(parser, default="that of the run; for other weights, that of the data's configuration")
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        type=name_of(tasks),
        choices=tasks,
        help="name of a search, such as indoor-search; may be repeated (default: "
        f"all searches of the data set except {', '.join(more_searches())})",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the scores of every trial to a .json file (default: only print the table)",
    )
    _add_reranking(parser)
    add_device(parser, results="Features differ by rounding.")


def _add_reranking(parser: argparse.ArgumentParser) -> None:
    """Adds the options of re-ranking."""
    group = parser.add_argument_group("re-ranking")
    group.add_argument(
        "--rerank",
        action="store_true",
        help="re-rank each trial by the modality-aware Jaccard distance; published results do not "
        "re-rank",
    )
    options = RerankOptions()
    group.add_argument(
        "--k1",
        type=integer,
        default=options.k1,
        metavar="N",
        help="neighbors per image, split among the modalities, in [2, 1024] (default: %(default)s)",
    )
    group.add_argument(
        "--k2",
        type=integer,
        default=options.k2,
        metavar="N",
        help="neighbors averaged by query expansion, per modality, in [1, k1] "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--lambda",
        type=float,
        dest="lambda_value",
        default=options.lambda_value,
        metavar="WEIGHT",
        help="weight of the original distance against the Jaccard distance, in [0, 1] "
        "(default: %(default)s)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    rerank = None
    if chosen.rerank:
        rerank = RerankOptions(k1=chosen.k1, k2=chosen.k2, lambda_value=chosen.lambda_value)
    elif (chosen.k1, chosen.k2, chosen.lambda_value) != _defaults():
        raise UsageError("--k1, --k2 and --lambda need --rerank")
    if chosen.images is not None and (chosen.data, chosen.trial) != (None, None):
        raise UsageError("--images cannot be combined with --data or --trial")
    trials = chosen.trial or [None] * len(chosen.weights)
    if len(trials) != len(chosen.weights):
        raise UsageError(
            f"give --trial once for each of WEIGHTS, {len(chosen.weights)} times, got {len(trials)}"
        )
    if chosen.json is not None:
        from mabm.train.trained import weights_file

        files = [weights_file(weights) for weights in chosen.weights]
        check_output(chosen.json, {".json": is_scores}, reads=files, option="--json")
    device = find_device(chosen.device, "--device")
    from mabm.train import evaluate_encoder

    if len(chosen.weights) > 1:
        _check_trials(chosen, trials)
    results, tested = [], []
    for weights, trial in zip(chosen.weights, trials, strict=True):
        trained, data = _to_test(chosen, weights, trial)
        results.append(
            evaluate_encoder(
                trained.encoder,
                data,
                tasks=chosen.task,
                rerank=rerank,
                batch_size=trained.batch_size,
                device=str(device),
                progress=shows_progress(chosen),
            )
        )
        tested.append({"path": weights, "model": trained.model})
    scores = [
        SearchScores.combine(of_task) if len(results) > 1 else of_task[0]
        for of_task in zip(*results, strict=True)
    ]
    write(format_search_scores(scores))
    if chosen.json is not None:
        entries = [{"weights": tested, **each.to_dict()} for each in scores]
        write_text(chosen.json, json.dumps(entries, indent=2) + "\n")
        write(f"saved {chosen.json}")
    return 0


def _to_test(
    chosen: argparse.Namespace, weights: str, trial: int | None
) -> tuple[TrainedEncoder, DataConfig]:
    """The encoder that the weights are for, and the images to test it on."""
    from mabm.train.trained import data_to_test

    name, root = _data(chosen.data)
    if chosen.images is not None:
        name, root = image_list(), str(chosen.images)
    trained = read_encoder(chosen, weights)
    return trained, data_to_test(
        trained, name=name, root=root, trial=trial, image_size=chosen_size(chosen)
    )


def _data(text: str | None) -> tuple[str | None, str | None]:
    """The name and the folder in ``--data``; either may be left out."""
    from mabm.data import DATA_SETS

    if text is None:
        return None, None
    given, colon, _ = text.partition(":")
    known = DATA_SETS.find(given)
    # A single word is a folder if one of that name exists, unless it names data that ships.
    is_name = bool(colon) or known in shipped() or not Path(text).is_dir()
    return split_data(text) if known is not None and is_name else (None, text)


def _check_trials(chosen: argparse.Namespace, trials: list[int | None]) -> None:
    """Checks, before any weights are tested, that the results can be averaged.

    Raises:
        FileNotFoundError: Weights are missing, or a run is not finished.
        ValueError: The weights are for several data sets, or two of them for the same trial.
    """
    parts = [
        _to_test(chosen, weights, trial)[1]
        for weights, trial in zip(chosen.weights, trials, strict=True)
    ]
    if len({(part.name, part.trial) for part in parts}) < len(parts) or any(
        part.name != parts[0].name for part in parts
    ):
        words = ", ".join(
            f"{weights} of {part.name}" + (f", trial {part.trial}" if part.trial else "")
            for weights, part in zip(chosen.weights, parts, strict=True)
        )
        raise ValueError(
            f"WEIGHTS must be for one data set and for different trials to be averaged, got {words}"
        )


def _defaults() -> tuple[int, int, float]:
    options = RerankOptions()
    return options.k1, options.k2, options.lambda_value


COMMAND = Command(
    name="evaluate",
    help="test trained encoders",
    description=(
        "Evaluate the encoder of a run, or any other weights, on the searches of a data set: CMC, "
        "mAP and mINP in percent, with mean and population standard deviation over the trials. "
        "Galleries are the ones that the published test code draws. If a data set has trials, a "
        "model is tested on the trial that it was trained on."
    ),
    examples="""
mabm evaluate runs/sysu --json scores.json
    all-search and indoor-search, ten galleries each
mabm evaluate runs/sysu --task indoor-search --rerank
    one search, with modality-aware re-ranking
mabm evaluate runs/sysu --task all-search-multi-shot
    ten images per identity and camera; this search runs only when it is named
mabm evaluate runs/regdb-* --data /data/RegDB
    the models of several trials, averaged
mabm evaluate adca_sysu.pth.tar --model agw-resnet50 --data sysu_mm01:/data/SYSU-MM01
    a released checkpoint of AGW, ADCA, PGM or BMIL
mabm evaluate runs/sysu --images list.csv
    your own images: a table with the columns path, modality, identity, split, optionally camera
mabm evaluate 1.pth.tar 2.pth.tar --trial 1 --trial 2 --model agw-resnet50 --data regdb:ROOT
    released checkpoints of two trials, averaged
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
