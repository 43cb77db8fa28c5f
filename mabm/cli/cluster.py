"""``mabm cluster``: from a file of features to cluster labels."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from mabm.cli.array_files import suffix_of
from mabm.cli.command import (
    Command,
    UsageError,
    add_device,
    groups_in_words,
    integer,
    resolve_device,
    write,
)
from mabm.cli.files import read_features, read_modality
from mabm.cli.outputs import check_output, is_labels, save_arrays
from mabm.clustering import PseudoLabels, pseudo_labels
from mabm.graph import check_max_distance, check_min_samples
from mabm.jaccard import jaccard_graph
from mabm.presets import DEFAULT_K1, DEFAULT_K2, PRESETS

_NO_MODALITY = "none"
_EPS = 0.6  # of SYSU-MM01
_OUTPUTS = dict.fromkeys((".npy", ".csv", ".npz"), is_labels)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "features",
        type=Path,
        metavar="FEATURES",
        help="(N, D) floating point: .npy, .npz or .safetensors; used as they are, so normalise "
        "them before if that is what you want",
    )
    parser.add_argument(
        "--modality",
        metavar="FILE",
        help="(N,) integers >= 0, the modality of each row: .npy, .npz, .safetensors or .csv; "
        "'none' clusters without (default: the array 'modality' beside the features)",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="array of an .npz or .safetensors file (default: features, or the only matrix)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where labels go: .npy, .csv or .npz; replaces earlier labels, and nothing else",
    )
    parser.add_argument(
        "--sweep",
        type=float,
        nargs="+",
        metavar="EPS",
        help="compare several radii in a table instead",
    )
    options = parser.add_argument_group("clustering")
    options.add_argument(
        "--k1",
        type=integer,
        default=DEFAULT_K1,
        help="neighbours of a sample (default: %(default)s)",
    )
    options.add_argument(
        "--k2",
        type=integer,
        default=DEFAULT_K2,
        help="rows averaged by query expansion: of each modality with bmil, in all with spcl and "
        "modal_invariant; ca_jaccard has its own (default: %(default)s)",
    )
    options.add_argument("--eps", type=float, help=f"radius of DBSCAN, in [0, 1) (default: {_EPS})")
    options.add_argument(
        "--min-samples",
        type=integer,
        default=4,
        metavar="N",
        help="samples within the radius, itself among them, that make a core (default: 4)",
    )
    options.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="which distance (default: bmil with a modality, spcl without)",
    )
    options.add_argument(
        "--precision",
        choices=("exact", "fast"),
        default="exact",
        help="how neighbours are searched (default: %(default)s)",
    )
    add_device(parser, results="Labels are the same on every device.")


def _execute(chosen: argparse.Namespace) -> int:
    if chosen.sweep is not None and (chosen.output is not None or chosen.eps is not None):
        given = "--output" if chosen.output is not None else "--eps"
        raise UsageError(f"--sweep prints a table of its own radii and goes without {given}")
    radii = [_EPS if chosen.eps is None else chosen.eps] if chosen.sweep is None else chosen.sweep
    for eps in radii:
        check_max_distance("eps", eps)
    check_min_samples(chosen.min_samples)
    if chosen.output is not None:
        reads = [chosen.features]
        if chosen.modality not in (None, _NO_MODALITY):
            reads.append(Path(chosen.modality))
        check_output(chosen.output, _OUTPUTS, reads=reads)
    device = resolve_device(chosen.device, needs_ops=True)
    features, modality = _read(chosen)
    features = features.to(device)
    modality = None if modality is None else modality.to(device)
    write(_describe(chosen, features, modality))
    if chosen.sweep is not None:
        _sweep(chosen, features, modality)
        return 0
    started = time.perf_counter()
    found = pseudo_labels(
        features,
        modality,
        eps=radii[0],
        min_samples=chosen.min_samples,
        k1=chosen.k1,
        k2=chosen.k2,
        preset=chosen.preset,
        precision=chosen.precision,
    )
    labels = found.labels.cpu().numpy()
    seconds = time.perf_counter() - started
    write(_summary(found, seconds))
    if chosen.output is not None:
        arrays = {"labels": labels}
        if modality is not None and suffix_of(chosen.output) != ".csv":
            arrays["modality"] = modality.cpu().numpy().astype(np.int64)
        save_arrays(chosen.output, arrays)
        write(f"saved {chosen.output}")
    return 0


def _read(chosen: argparse.Namespace) -> tuple[Tensor, Tensor | None]:
    features, beside = read_features(chosen.features, chosen.key)
    if chosen.modality == _NO_MODALITY:
        return features, None
    if chosen.modality is not None:
        return features, read_modality(Path(chosen.modality))
    if beside is None and chosen.preset != "spcl":
        raise UsageError(
            f"give --modality FILE, or --modality {_NO_MODALITY} to cluster without one"
        )
    return features, beside


def _describe(chosen: argparse.Namespace, features: Tensor, modality: Tensor | None) -> str:
    shape = " x ".join(map(str, features.shape))
    preset = chosen.preset or ("spcl" if modality is None else "bmil")
    return (
        f"{shape} features ({groups_in_words(modality)}) on {features.device}; "
        f"{preset}, k1 = {chosen.k1}, k2 = {chosen.k2}, min_samples = {chosen.min_samples}, "
        f"{chosen.precision}"
    )


def _summary(found: PseudoLabels[Tensor], seconds: float) -> str:
    total = len(found.labels)
    spanning = ""
    if found.num_spanning is not None:
        spanning = f", {found.num_spanning} of them spanning every modality"
    lines = [
        f"{found.num_clusters} clusters{spanning}",
        f"{found.num_noise} samples in none ({100 * found.num_noise / max(total, 1):.1f} %)",
    ]
    if found.size_histogram:
        sizes = np.repeat(list(found.size_histogram), list(found.size_histogram.values()))
        lines.append(
            f"sizes {sizes.min()} to {sizes.max()}, median {np.median(sizes):g}, "
            f"mean {sizes.mean():.1f}"
        )
    return "\n".join([*lines, f"{seconds:.2f} s"])


def _sweep(chosen: argparse.Namespace, features: Tensor, modality: Tensor | None) -> None:
    started = time.perf_counter()
    graph = jaccard_graph(
        features,
        modality,
        max_distance=max(chosen.sweep),
        k1=chosen.k1,
        k2=chosen.k2,
        preset=chosen.preset,
        precision=chosen.precision,
    )
    lines = [f"{'eps':>6}{'clusters':>10}{'spanning':>10}{'noise':>10}{'largest':>10}"]
    for entry in graph.sweep(chosen.sweep, chosen.min_samples, modality):
        spanning = "-" if entry.num_spanning is None else str(entry.num_spanning)
        lines.append(
            f"{entry.eps:6g}{entry.num_clusters:10d}{spanning:>10}{entry.num_noise:10d}"
            f"{entry.largest_cluster:10d}"
        )
    write("\n".join([*lines, f"{time.perf_counter() - started:.2f} s"]))


COMMAND = Command(
    name="cluster",
    help="features to cluster labels",
    description=(
        "Cluster samples by DBSCAN on their modality-aware Jaccard distance. Labels are numbered "
        "from 0; samples in no cluster get -1. Nothing of size N x N is ever held."
    ),
    examples="""
mabm cluster features.npy --modality modality.npy --output labels.npy
    the published settings of SYSU-MM01
mabm cluster features.npz --eps 0.3 --output labels.csv
    arrays 'features' and 'modality' in one file, as mabm extract writes them; RegDB's radius
mabm cluster features.npz --sweep 0.3 0.4 0.5 0.6
    what each radius makes of them
mabm cluster features.safetensors --key embeddings --modality none
    the classic k-reciprocal distance, blind to modality
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
