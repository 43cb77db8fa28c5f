"""From features to labels by mabm and by the dense route: equality first, then time and memory.

    python benchmarks/routes.py [--samples 5800 11600 23200] [--dim 2048] [--threads 2]
                                [--rounds 3] [--dense-rounds 1] [--presets spcl bmil]
                                [--json FILE]

The dense route (``dense_route.py``) is the one of released code: a ranking, by PyTorch or by faiss
if that is installed (``pip install faiss-cpu``), a loop over rows on N x N matrices, and
scikit-learn's DBSCAN. It runs in the first ``--dense-rounds`` rounds, mabm and the rankings in
every round. Every run is a process of its own, with the same features and threads, one after the
other. Compare ratios, which are taken within rounds, because rounds on a shared machine differ.
Peak memory is that of the process, beyond the features.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_route import RANKINGS, Ints, cluster, dense_jaccard, group_rows
from features import KINDS, make_features
from measuring import timed, with_peak
from torch import Tensor
from tqdm import tqdm

import mabm

PRESETS = {"spcl": "classic", "bmil": "modality-aware"}
K1, K2 = 30, 6
Seconds = dict[str, float]


def has_faiss() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def run_mabm(features: Tensor, modality: Tensor, preset: str) -> tuple[Seconds, Ints]:
    """Seconds and labels of the library."""
    seconds, found = timed(
        lambda: mabm.pseudo_labels(features, modality, k1=K1, k2=K2, preset=preset)
    )
    return {"mabm": seconds}, found.labels.numpy()


def run_rankings(features: Tensor, modality: Tensor, preset: str) -> tuple[Seconds, Any]:
    """Seconds of the rankings alone, and the lists of the last one."""
    groups = group_rows(modality, preset)
    seconds, lists = {}, None
    for name in ("torch", "faiss") if has_faiss() else ("torch",):
        seconds[f"ranking by {name}"], lists = timed(RANKINGS[name], features, groups, K1)
    return seconds, lists


def run_dense(features: Tensor, modality: Tensor, preset: str) -> tuple[Seconds, Ints]:
    """Seconds of each step of the dense route, and its labels, by faiss if it is installed."""
    seconds, lists = run_rankings(features, modality, preset)
    seconds["loop over rows"], distance = timed(dense_jaccard, features, lists, K1, K2)
    seconds["DBSCAN"], labels = timed(cluster, distance)
    return seconds, labels


ROUTES = {"mabm": run_mabm, "rankings": run_rankings, "dense": run_dense}


def run_here(route: str, preset: str, options: argparse.Namespace) -> None:
    """Runs one route in this process: seconds and peak memory to stdout, labels to a file."""
    torch.set_num_threads(options.threads)
    features, modality = make_features(options.samples[0], options.dim, kind=options.kind)
    ROUTES[route](*make_features(400, options.dim), preset)  # libraries loaded, threads started
    peak, (seconds, result) = with_peak(ROUTES[route], features, modality, preset)
    if route != "rankings":
        np.save(options.labels, result)
    print(json.dumps({"seconds": seconds, "peak": peak}))


def run_apart(
    route: str, preset: str, count: int, options: argparse.Namespace
) -> tuple[dict[str, Any], Ints | None]:
    """Runs one route in a process of its own: its figures, and its labels if it has any."""
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels.npy"
        command = [sys.executable, __file__, "--samples", str(count), "--dim", str(options.dim)]
        command += ["--threads", str(options.threads), "--kind", options.kind]
        command += ["--route", route, "--preset", preset, "--labels", str(labels)]
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        output = subprocess.check_output(command, env=os.environ | threads, text=True)
        return json.loads(output), np.load(labels) if labels.exists() else None


def check_equality() -> None:
    """Distances and labels of both routes on a small input, for each preset and ranking."""
    features, modality = make_features(600, 256)
    for preset in PRESETS:
        expected = mabm.modality_jaccard(features, modality, k1=K1, k2=K2, preset=preset)
        labels = run_mabm(features, modality, preset)[1]
        for name in ("torch", "faiss") if has_faiss() else ("torch",):
            lists = RANKINGS[name](features, group_rows(modality, preset), K1)
            distance = dense_jaccard(features, lists, K1, K2)
            np.testing.assert_allclose(distance, expected, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(cluster(distance), labels)


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of every route and round at one number of samples, for each preset."""
    figures: dict[str, Any] = {preset: {"rounds": [], "peaks": {}} for preset in options.presets}
    for number in tqdm(range(options.rounds), desc=f"N = {count:,}", leave=False):
        for preset, found in figures.items():
            round_of: Seconds = {}
            labels: dict[str, Ints | None] = {}
            for route in ("mabm", "dense" if number < options.dense_rounds else "rankings"):
                record, labels[route] = run_apart(route, preset, count, options)
                round_of |= record["seconds"]
                found["peaks"].setdefault(route, []).append(record["peak"])
            found["rounds"].append(round_of)
            if number == 0:
                found["labels"] = _describe(labels["mabm"], labels.get("dense"), count, options)
    return figures


def _describe(ours: Ints, dense: Ints | None, count: int, options: argparse.Namespace) -> str:
    """What the clusters are, and whether both routes give the same labels."""
    modality = make_features(count, 1, kind=options.kind)[1]
    found = mabm.PseudoLabels(ours, modality.numpy())
    if dense is None:
        return str(found)
    differ = int((ours != dense).sum())
    same = "equal" if differ == 0 else f"different for {differ} samples"
    return f"{found}; labels of the dense route: {same}"


def add_totals(rounds: list[Seconds]) -> None:
    """Adds the whole dense route to each round in which it was run, for each ranking."""
    for seconds in rounds:
        if "loop over rows" in seconds:
            after = seconds["loop over rows"] + seconds["DBSCAN"]
            for name in [name for name in seconds if name.startswith("ranking by")]:
                seconds[f"dense route, {name}"] = seconds[name] + after


def table(found: dict[str, Any]) -> list[str]:
    """Lines of one preset: median, least and most of each part, beside mabm, and peak memory."""
    rounds = found["rounds"]
    lines = [f"{'seconds':<32}{'median':>9}{'least':>9}{'most':>9}{'of mabm':>10}{'peak GB':>9}"]
    for name in dict.fromkeys(name for seconds in rounds for name in seconds):
        values = [seconds[name] for seconds in rounds if name in seconds]
        ratio = statistics.median(s[name] / s["mabm"] for s in rounds if name in s)
        peaks = found["peaks"].get("dense" if name.startswith("dense") else name, [])
        memory = f"{statistics.median(peaks) / 1e9:9.2f}" if peaks else ""
        middle, least, most = statistics.median(values), min(values), max(values)
        lines.append(f"{name:<32}{middle:9.2f}{least:9.2f}{most:9.2f}{ratio:10.2f}{memory}")
    return lines


def machine() -> str:
    """Processor, versions and BLAS, as they stand where the figures are read."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(": ")[2] for line in info if "model name" in line), "")
    blas = "MKL" if torch.backends.mkl.is_available() else "not MKL"
    parts = [f"mabm {mabm.__version__}", f"torch {torch.__version__} (BLAS: {blas})"]
    parts.append(f"numpy {np.__version__}")
    if has_faiss():
        import faiss

        parts.append(f"faiss {faiss.__version__} (OpenBLAS)")
    return f"{processor}, {platform.machine()}: {', '.join(parts)}"


def main() -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[5_800, 11_600, 23_200])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dense-rounds", type=int, default=1)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--kind", choices=KINDS, default="usual", help="the kind of features")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    for name in ("--route", "--preset", "--labels"):  # of a process that runs one route
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.route:
        run_here(options.route, options.preset, options)
        return

    check_equality()
    print(machine())
    print(f"D = {options.dim}, {options.threads} threads, k1 = {K1}, k2 = {K2}, {options.kind}")
    figures = {}
    for count in options.samples:
        figures[count] = measure(count, options)
        for preset, found in figures[count].items():
            add_totals(found["rounds"])
            print(f"\nN = {count:,}, {PRESETS[preset]} ({preset}): {found['labels']}")
            print("\n".join(table(found)), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
