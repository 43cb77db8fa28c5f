"""``mabm evaluate``: scores of trained encoders on the test set of their data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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
from mabm.cli.data_sets import trial_ranges
from mabm.cli.files.outputs import check_output, is_scores
from mabm.distance.reranking import RerankOptions
from mabm.evaluation import MORE_SEARCH_TASKS, SEARCH_TASKS, SearchScores, format_search_scores


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    published = (*SEARCH_TASKS.values(), *MORE_SEARCH_TASKS.values())
    tasks = sorted({task.name for each in published for task in each})
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a finished run, or its file of weights; several are averaged, such as "
        "those of a data set's trials",
    )
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="folder of the data set (default: the run's)"
    )
    parser.add_argument(
        "--trial",
        type=positive,
        metavar="N",
        help=f"trial of {trial_ranges()}; any but the run's own is refused (default: the run's)",
    )
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        type=name_of(tasks),
        choices=tasks,
        help="a search by its name, such as indoor-search; may be given several times (default: "
        "all of the data set but multi-shot ones and sampled-infrared-to-visible of llcm)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write every trial's scores to a .json file too (default: print the table alone)",
    )
    _add_reranking(parser)
    add_device(parser, results="Features differ by rounding.")


def _add_reranking(parser: argparse.ArgumentParser) -> None:
    """Adds the options of re-ranking."""
    group = parser.add_argument_group("re-ranking")
    group.add_argument(
        "--rerank",
        action="store_true",
        help="re-rank the distances of each trial by the modality-aware Jaccard distance; "
        "published results use none",
    )
    options = RerankOptions()
    group.add_argument(
        "--k1",
        type=integer,
        default=options.k1,
        metavar="N",
        help="neighbors of an image, shared by the modalities, in [2, 1024] (default: %(default)s)",
    )
    group.add_argument(
        "--k2",
        type=integer,
        default=options.k2,
        metavar="N",
        help="neighbors that query expansion averages, of each modality, in [1, k1] "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--lambda",
        type=float,
        dest="lambda_value",
        default=options.lambda_value,
        metavar="WEIGHT",
        help="weight of the original distance beside the Jaccard distance, in [0, 1] "
        "(default: %(default)s)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    rerank = None
    if chosen.rerank:
        rerank = RerankOptions(k1=chosen.k1, k2=chosen.k2, lambda_value=chosen.lambda_value)
    elif (chosen.k1, chosen.k2, chosen.lambda_value) != _defaults():
        raise UsageError("--k1, --k2 and --lambda need --rerank")
    if chosen.json is not None:
        files = [_weights(run) for run in chosen.runs]
        check_output(chosen.json, {".json": is_scores}, reads=files, option="--json")
    device = find_device(chosen.device, "--device")
    _check_runs(chosen.runs)
    from mabm.train import evaluate_weights

    results = [
        evaluate_weights(
            run,
            root=None if chosen.data is None else str(chosen.data),
            trial=chosen.trial,
            tasks=chosen.task,
            rerank=rerank,
            device=str(device),
            progress=shows_progress(chosen),
        )
        for run in chosen.runs
    ]
    scores = [
        SearchScores.combine(of_task) if len(results) > 1 else of_task[0]
        for of_task in zip(*results, strict=True)
    ]
    write(format_search_scores(scores))
    if chosen.json is not None:
        write_text(chosen.json, json.dumps([each.to_dict() for each in scores], indent=2) + "\n")
        write(f"saved {chosen.json}")
    return 0


def _weights(run: Path) -> Path:
    return run / "weights.pt" if run.is_dir() else run


def _check_runs(runs: list[Path]) -> None:
    """Checks, before any run is tested, that the results can be averaged.

    Raises:
        FileNotFoundError: A run is missing or not finished.
        ValueError: The runs are of several data sets, or two are of one trial.
    """
    from mabm.train.scoring import load_run

    files = [_weights(run) for run in runs]
    for run, file in zip(runs, files, strict=True):
        if not file.is_file():
            raise FileNotFoundError(f"RUN must be a finished run or a file of weights, got {run}")
    if len(runs) == 1:
        return
    parts = [load_run(file)[1].data for file in files]
    if len({(part.name, part.trial) for part in parts}) < len(parts) or any(
        part.name != parts[0].name for part in parts
    ):
        words = ", ".join(
            f"{run} of {part.name}" + (f", trial {part.trial}" if part.trial else "")
            for run, part in zip(runs, parts, strict=True)
        )
        raise ValueError(f"RUN must be runs of one data set, each of another trial, got {words}")


def _defaults() -> tuple[int, int, float]:
    options = RerankOptions()
    return options.k1, options.k2, options.lambda_value


COMMAND = Command(
    name="evaluate",
    help="test trained encoders",
    description=(
        "Test the encoder of a run on the searches of its data set: CMC, mAP and mINP in percent, "
        "their mean and population standard deviation over the trials. Galleries are those that "
        "the published test code draws. Where a data set has trials, a model is tested on the "
        "one that it was trained on."
    ),
    examples="""
mabm evaluate runs/sysu --json scores.json
    all-search and indoor-search, ten galleries each
mabm evaluate runs/sysu --task indoor-search --rerank
    one search, with modality-aware re-ranking
mabm evaluate runs/regdb-* --data /data/RegDB
    the models of several trials, averaged
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
