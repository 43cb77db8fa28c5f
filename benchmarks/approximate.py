"""Approximate ranking on the CPU: what it finds, and how long it takes next to the exact ranking.

    pip install faiss-cpu
    python benchmarks/approximate.py [--samples 20000] [--dim 2048] [--threads 2] [--rounds 3]

A flat index must give the exact ranks first. In every round, one after the other: the exact
ranking, and that of each search. Compare ratios, because rounds on a shared machine differ. Recall
is that of ``Ranking.recall``, on 256 rows; "labels" is the adjusted Rand index of the labels with
those of the exact ranking.
"""

import argparse
import platform
import statistics

import faiss
import torch
from features import make_features
from measuring import timed
from sklearn.metrics import adjusted_rand_score
from tqdm import tqdm

import mabm

SEARCHES = {
    "flat": mabm.FaissSearch("Flat"),
    "inverted lists, 4 of them scanned": mabm.FaissSearch(parameters="nprobe=4"),
    "inverted lists, 16 (default)": mabm.FaissSearch(),
    "inverted lists, 64": mabm.FaissSearch(parameters="nprobe=64"),
    "graph, HNSW32": mabm.FaissSearch("HNSW32", "efSearch=64"),
    "64 random directions": mabm.FaissSearch("RR64,Flat"),
    "64 principal directions": mabm.FaissSearch("PCA64,Flat"),
    "64 principal directions, graph": mabm.FaissSearch("PCA64,HNSW32", "efSearch=64"),
}
"""Indexes of faiss by name."""


def label(ranking: mabm.Ranking, features: torch.Tensor) -> torch.Tensor:
    """Labels from a ranking."""
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    return mabm.prune_distances(mabm.expand_queries(encoding, ranking)).dbscan()


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    features, modality = make_features(options.samples, options.dim)
    few, groups = make_features(600, options.dim)
    flat = mabm.rank_neighbors(few, groups, precision=SEARCHES["flat"])
    assert torch.equal(flat.ranks, mabm.rank_neighbors(few, groups).ranks)

    exact: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in SEARCHES}
    rankings = {}
    for _ in tqdm(range(options.rounds), desc="rounds"):
        seconds, expected = timed(mabm.rank_neighbors, features, modality)
        exact.append(seconds)
        for name, search in tqdm(SEARCHES.items(), desc="searches", leave=False):
            seconds, rankings[name] = timed(
                lambda search=search: mabm.rank_neighbors(features, modality, precision=search)
            )
            ratios[name].append(seconds / exact[-1])

    print(f"N = {options.samples:,}, D = {options.dim}, {options.threads} threads")
    versions = f"torch {torch.__version__}, faiss {faiss.__version__}"
    print(f"mabm {mabm.__version__}, {versions}, {platform.machine()}")
    print(f"exact ranking: {statistics.median(exact):.2f} s ({min(exact):.2f} to {max(exact):.2f})")
    print(f"{'':<36}{'time / exact':>14}{'least':>8}{'most':>8}{'recall':>9}{'labels':>9}")
    labels = label(expected, features)
    for name, ranking in rankings.items():
        each = ratios[name]
        agreement = adjusted_rand_score(labels, label(ranking, features))
        print(
            f"{name:<36}{statistics.median(each):14.2f}{min(each):8.2f}{max(each):8.2f}"
            f"{ranking.recall.total:9.4f}{agreement:9.4f}"
        )


if __name__ == "__main__":
    main()
