"""``mabm cluster``: pseudo-labels for a file of features."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mabm._core.devices import find_device
from mabm._core.work import check_memory
from mabm.cli.command import (
    Command,
    UsageError,
    add_device,
    integer,
    name_of,
    shows_bars,
    write,
)
from mabm.cli.errors import tell
from mabm.cli.files.inputs import STANDARD
from mabm.cli.files.labels import KINDS, Settings, write_labels
from mabm.cli.files.modalities import Modality
from mabm.cli.files.outputs import check_output, is_labels
from mabm.cli.processes import Processes, started_processes
from mabm.cli.shares import (
    NO_MODALITY,
    Samples,
    centered,
    check_shared,
    cluster_rows,
    distance_of,
    read_samples,
)
from mabm.cluster.dbscan import DBSCAN
from mabm.cluster.pseudo_labels import pseudo_labels
from mabm.distance.graph import DEFAULT_EPS, DEFAULT_MIN_SAMPLES
from mabm.distance.jaccard import jaccard_graph
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, MAX_K, PRESETS

_LOG = logging.getLogger(__name__)

_OUTPUTS = dict.fromkeys(KINDS, is_labels)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument(
        "--sweep",
        type=float,
        nargs="+",
        metavar="EPS",
        help="print a table that compares several radii in [0, 1), without writing labels "
        "(default: one radius, --eps)",
    )
    _add_clustering(parser)
    add_device(parser, results="Labels are the same on every device by design.")


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Adds the options for input and output files."""
    parser.add_argument(
        "features",
        metavar="FEATURES",
        help="(N, D) floating point: .npy, .npz, .safetensors, .pt, .pth or .csv (a sample per "
        "line), a folder of .npy files whose rows are joined in the order of their names (2 before "
        "10), or - for standard input; used as they are, not normalized",
    )
    parser.add_argument(
        "--modality",
        metavar="FILE",
        help="(N,) modality of each sample, integers >= 0 or words: a file of any of these kinds, "
        "a folder of files named as those of FEATURES, or -; 'none' ignores modality (default: the "
        "array or column 'modality' in the file of features)",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="name of the array in an .npz, .safetensors, .pt or .pth file (default: features, or "
        "the only matrix)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file for the labels: .npy, .csv, .npz, or - for standard output, one per line, with "
        "the summary on standard error; .npz also stores what mabm assign needs; replaces only an "
        "earlier file of labels (default: print the summary only)",
    )


def _add_clustering(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the distance and of DBSCAN."""
    options = parser.add_argument_group("clustering")
    options.add_argument(
        "--k1",
        type=integer,
        default=DEFAULT_K1,
        metavar="N",
        help=f"neighbors per sample, in [1, {MAX_K}]: split among the modalities with bmil, in "
        "total with spcl and modal_invariant; ca_jaccard sets its own (default: %(default)s)",
    )
    options.add_argument(
        "--k2",
        type=integer,
        default=DEFAULT_K2,
        metavar="N",
        help="neighbors averaged by query expansion, in [1, k1]: per modality "
        "with bmil, in total with spcl and modal_invariant; ca_jaccard sets its own "
        "(default: %(default)s)",
    )
    options.add_argument(
        "--eps",
        type=float,
        help=f"radius of DBSCAN, a Jaccard distance in [0, 1) (default: {DEFAULT_EPS})",
    )
    options.add_argument(
        "--min-samples",
        type=integer,
        default=DEFAULT_MIN_SAMPLES,
        metavar="N",
        help="samples within the radius, itself included, needed for a core sample, >= 1 "
        "(default: %(default)s)",
    )
    options.add_argument(
        "--preset",
        type=name_of(PRESETS),
        choices=tuple(PRESETS),
        help="variant of the distance (default: bmil with a modality, spcl without)",
    )
    options.add_argument(
        "--center-modalities",
        action="store_true",
        help="first subtract from each row the mean of its modality, and scale it to unit length; "
        "not part of the published method (default: features as they are)",
    )
    options.add_argument(
        "--precision",
        choices=("exact", "fast"),
        default="exact",
        help="neighbor search: exact finds the true neighbors, fast may miss some (default: "
        "%(default)s)",
    )
    options.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="most memory to allocate beyond the features, such as 4GB or 512MiB, with the same "
        "labels (default: no limit)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    with started_processes() as processes:

        def step() -> AbstractContextManager[None]:
            return processes.together(lambda error: tell(error, chosen))

        with step():
            clusterers, device = _check(chosen, processes)
        with processes.connected(device), ExitStack() as stack:
            with step():
                samples = read_samples(chosen, device, processes, stack)
            if chosen.center_modalities:
                with step():
                    samples = centered(samples, processes)
            say = _say(chosen, processes)
            with step():
                say(_describe(chosen, samples, processes))
                if chosen.sweep is not None:
                    _sweep(chosen, samples)
                else:
                    _cluster(chosen, clusterers[0], samples, processes, say)
    return 0


def _check(chosen: argparse.Namespace, processes: Processes) -> tuple[list[DBSCAN], torch.device]:
    """Refuses arguments that cannot be combined before anything is read."""
    if chosen.sweep is not None and (chosen.output is not None or chosen.eps is not None):
        given = "--output" if chosen.output is not None else "--eps"
        raise UsageError(f"--sweep cannot be combined with {given}")
    if chosen.features == chosen.modality == STANDARD:
        raise UsageError("only one of FEATURES and --modality may be - (standard input)")
    if processes.size > 1:
        check_shared(chosen)
    radii = chosen.sweep or [DEFAULT_EPS if chosen.eps is None else chosen.eps]
    clusterers = [DBSCAN(eps, chosen.min_samples) for eps in radii]
    if chosen.output not in (None, STANDARD) and processes.rank == 0:
        typed = (chosen.features, chosen.modality)
        reads = [Path(each) for each in typed if each not in (None, STANDARD, NO_MODALITY)]
        output = Path(chosen.output)
        check_output(output, _OUTPUTS, reads=reads)
        for folder in reads:
            if folder.is_dir() and folder.samefile(output.parent):
                raise ValueError(f"--output must not be in a folder of inputs, got {output}")
    check_memory("--max-memory", chosen.max_memory)
    return clusterers, find_device(chosen.device, "--device", needs_ops=True)


def _say(chosen: argparse.Namespace, processes: Processes) -> Callable[[str], None]:
    """Tells the user what was found; only the first process does."""
    if processes.rank:
        return lambda _: None
    return _LOG.info if chosen.output == STANDARD else write


def _cluster(
    chosen: argparse.Namespace,
    clusterer: DBSCAN,
    samples: Samples,
    processes: Processes,
    say: Callable[[str], None],
) -> None:
    started = time.perf_counter()
    if processes.size == 1:
        clustering = pseudo_labels(
            samples.features,
            samples.groups,
            clusterer=clusterer,
            max_memory=chosen.max_memory,
            progress=shows_bars(chosen),
            **distance_of(chosen),
        )
    else:
        clustering = cluster_rows(chosen, clusterer, samples, processes)
    labels = clustering.labels.cpu().numpy()
    seconds = time.perf_counter() - started
    if processes.rank:
        return
    summary = replace(clustering.summary(), samples={})  # printed before the work
    say(f"{summary}\n{seconds:.2f} s")
    if chosen.output is None:
        return
    modality = samples.modality
    preset = PRESETS[_preset(chosen, modality)]
    distance = DistanceOptions(chosen.k1, chosen.k2, preset, chosen.precision)
    names = None if modality is None else modality.names
    settings = Settings(clusterer, distance, names, chosen.center_modalities)
    beside = {
        "modality": None if modality is None else modality.numbers.numpy(),
        "core": None if clustering.core is None else clustering.core.cpu().numpy(),
        "settings": np.array(settings.to_json()),
    }
    write_labels(chosen.output, labels, beside)
    if chosen.output != STANDARD:
        write(f"saved {chosen.output}")


def _preset(chosen: argparse.Namespace, modality: Modality | None) -> str:
    preset: str = chosen.preset or ("spcl" if modality is None else "bmil")
    return preset


def _describe(chosen: argparse.Namespace, samples: Samples, processes: Processes) -> str:
    modality = samples.modality
    shape = " x ".join(map(str, samples.shape))
    groups = "no modality" if modality is None else modality.in_words()
    where = str(samples.features.device)
    if processes.size > 1:
        where += f" in {processes.size} processes"
    return (
        f"{shape} features ({groups}) on {where}; {_preset(chosen, modality)}, "
        f"k1 = {chosen.k1}, k2 = {chosen.k2}, min_samples = {chosen.min_samples}, "
        f"{chosen.precision}{', centered by modality' if chosen.center_modalities else ''}"
    )


def _sweep(chosen: argparse.Namespace, samples: Samples) -> None:
    started = time.perf_counter()
    graph = jaccard_graph(
        samples.features,
        samples.groups,
        max_distance=max(chosen.sweep),
        max_memory=chosen.max_memory,
        progress=shows_bars(chosen),
        **distance_of(chosen),
    )
    lines = [f"{'eps':>6}{'clusters':>10}{'spanning':>10}{'noise':>10}{'largest':>10}"]
    for entry in graph.sweep(chosen.sweep, chosen.min_samples, samples.groups):
        spanning = "-" if entry.num_spanning is None else str(entry.num_spanning)
        lines.append(
            f"{entry.eps:6g}{entry.num_clusters:10d}{spanning:>10}{entry.num_noise:10d}"
            f"{entry.largest_cluster:10d}"
        )
    write("\n".join([*lines, f"{time.perf_counter() - started:.2f} s"]))


COMMAND = Command(
    name="cluster",
    help="cluster features into pseudo-labels",
    description=(
        "Cluster samples by DBSCAN on their modality-aware Jaccard distance. Labels are numbered "
        "from 0; samples in no cluster get -1. Memory is linear in the number of samples. In a "
        "file, 'visible', 'infrared' and 'thermal' stand for the modalities 0, 1 and 1; other "
        "words are numbered in sorted order. Under torchrun, each process reads and clusters its "
        "share of the rows of one .npy file or of a folder; the labels are those of one process."
    ),
    examples="""
mabm cluster features.npy --modality modality.npy --output labels.npy
    the published settings of SYSU-MM01
mabm cluster features.npz --eps 0.3 --output labels.csv
    'features' and 'modality' in one file, as mabm extract writes them; the radius for RegDB
mabm cluster features.npz --sweep 0.3 0.4 0.5 0.6
    compare the clusters that each radius gives
mabm cluster features.pt --key embeddings --modality none
    the classic k-reciprocal distance, which ignores modality
torchrun --nproc-per-node 4 -m mabm cluster features --modality modality --output labels.npy
    folders of .npy files, split evenly among four processes, one for each GPU if there are any
cat features.csv | mabm cluster - --output - > labels.txt
    a table of features with a column 'modality'; labels one per line
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
