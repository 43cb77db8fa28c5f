"""From features to labels on the CPU: equality first, then time against a plain matrix product.

    python benchmarks/pseudo_labels.py [--samples 23200] [--dim 2048] [--threads 2] [--rounds 5]

In every round, one after the other: the plain product (``x @ x.T`` in row blocks with top-k, and
nothing else: a lower bound for any ranking), the ranking, the steps after it, and all of
``mabm.pseudo_labels``. Compare ratios, because rounds on a shared machine differ. Peak memory is
measured in a process of its own, without what it held once the features were there.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from features import make_features
from measuring import timed, with_peak
from sklearn.cluster import DBSCAN
from tqdm import tqdm

import mabm
from mabm import reference

BLOCK_ROWS = 1024


def plain_product(features: torch.Tensor, k: int = 30) -> torch.Tensor:
    """Indices (N, k) of the greatest inner products, by PyTorch's product and top-k."""
    blocks = features.split(BLOCK_ROWS)
    return torch.cat([(block @ features.T).topk(k, dim=1).indices for block in blocks])


def label_ranking(features: torch.Tensor, ranking: mabm.Ranking) -> torch.Tensor:
    """Everything after the ranking."""
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    encoding = mabm.expand_queries(encoding, ranking)
    return mabm.prune_distances(encoding).dbscan()


def check_equality(features: torch.Tensor, modality: torch.Tensor) -> None:
    """Compares the library with the definition (small) and with itself (full size)."""
    few, groups = make_features(600, 256)
    expected = reference.modality_jaccard(few, groups)
    np.testing.assert_allclose(mabm.modality_jaccard(few, groups), expected, rtol=0, atol=1e-6)
    labels = mabm.pseudo_labels(few, groups).labels
    np.testing.assert_array_equal(labels, reference.dbscan(expected, eps=0.6, min_samples=4))

    graph = mabm.jaccard_graph(features, modality)
    dbscan = DBSCAN(eps=0.6, min_samples=4, metric="precomputed")
    np.testing.assert_array_equal(graph.dbscan(), dbscan.fit_predict(graph.to_scipy()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = mabm.jaccard_graph(features, modality)
    torch.set_num_threads(threads)
    assert torch.equal(alone.indices, graph.indices)
    assert torch.equal(alone.distances, graph.distances)
    # The plain product finds the same nearest samples, but for its rounding.
    ranks = mabm.rank_neighbors(features, torch.zeros_like(modality), preset="bmil").ranks
    same = ranks.sort(dim=1).values == plain_product(features).sort(dim=1).values
    assert same.float().mean() > 0.999


def measure(features: torch.Tensor, modality: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part in each round."""
    seconds: dict[str, list[float]] = {
        name: [] for name in ("plain product", "ranking", "after the ranking", "pseudo_labels")
    }
    for _ in tqdm(range(rounds), desc="rounds"):
        seconds["plain product"].append(timed(plain_product, features)[0])
        taken, ranking = timed(mabm.rank_neighbors, features, modality)
        seconds["ranking"].append(taken)
        taken, labels = timed(label_ranking, features, ranking)
        seconds["after the ranking"].append(taken)
        taken, found = timed(mabm.pseudo_labels, features, modality)
        seconds["pseudo_labels"].append(taken)
        assert torch.equal(found.labels, labels)
    return seconds


def peak_memory(samples: int, dim: int) -> int:
    """Peak memory of pseudo_labels in bytes, without the features; call it in a fresh process."""
    features, modality = make_features(samples, dim)
    mabm.pseudo_labels(features[:64], modality[:64])  # libraries loaded, threads started
    return with_peak(mabm.pseudo_labels, features, modality)[0]


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=23_200)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument(
        "--peak-memory-only",
        action="store_true",
        help="print only the bytes of one peak",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_memory_only:
        print(peak_memory(options.samples, options.dim))
        return

    shape = ["--samples", str(options.samples), "--dim", str(options.dim)]
    command = [sys.executable, __file__, *shape, "--threads", str(options.threads)]
    command.append("--peak-memory-only")
    peaks = [int(subprocess.check_output(command)) for _ in range(options.rounds)]
    features, modality = make_features(options.samples, options.dim)
    check_equality(features, modality)
    seconds = measure(features, modality, options.rounds)

    print(f"N = {options.samples:,}, D = {options.dim}, {options.threads} threads")
    print(f"mabm {mabm.__version__}, torch {torch.__version__}, {platform.machine()}")
    print(f"{'seconds':<20}{'median':>9}{'least':>9}{'most':>9}")
    for name, values in seconds.items():
        print(f"{name:<20}{statistics.median(values):9.2f}{min(values):9.2f}{max(values):9.2f}")
    ratios = {
        "after the ranking / ranking": ("after the ranking", "ranking"),
        "pseudo_labels / plain product": ("pseudo_labels", "plain product"),
    }
    for name, (part, whole) in ratios.items():
        each = [a / b for a, b in zip(seconds[part], seconds[whole], strict=True)]
        print(f"{name}: {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")
    gigabytes = [peak / 1e9 for peak in (statistics.median(peaks), min(peaks), max(peaks))]
    print(
        "peak memory of pseudo_labels beyond the features: {:.2f} GB ({:.2f} to {:.2f})".format(
            *gigabytes
        )
    )
    if options.json:
        figures = {"options": vars(options) | {"json": None}, "seconds": seconds, "peaks": peaks}
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
