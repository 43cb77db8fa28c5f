"""The kernels of the library, each launched about once on inputs of the real size: for a profiler.

    ncu --profile-from-start off ... python benchmarks/gpu/one_launch.py [--size 34167x2048]

Everything runs once before, so that the costs of a first call are not profiled. Of the ranking
only the first block of rows runs. No stage starts after ``--seconds``, because a profiler prints
only when its program ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for features.py

from features import make_features
from stages import Prepared

import mabm
from mabm.distance.candidates import propose_candidates
from mabm.distance.list_layout import ListLayout

# Rows of the dense distance, against all.
_ROWS = 4096


@contextmanager
def profiled(device: torch.device) -> Iterator[None]:
    """The part of the program that a profiler records."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    yield
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


def rank_a_block(given: Prepared) -> None:
    """Ranks the first block of rows: its candidates, and the lists made of them."""
    layout = ListLayout.of(given.features, given.modality, mabm.PRESETS["bmil"], 30)
    rows, candidates = next(propose_candidates(given.features, layout, False))
    lists = (candidates.indices, candidates.counts, layout.widths)
    torch.ops.mabm.rank_candidates(given.features, rows, *lists, False)


def rank_some_exactly(given: Prepared) -> None:
    """Ranks a few rows by exact scores only."""
    layout = ListLayout.of(given.features, given.modality, mabm.PRESETS["bmil"], 30)
    rows = torch.arange(min(64, len(given.features)), device=given.features.device)
    lists = (layout.groups, layout.list_of_group, layout.widths)
    torch.ops.mabm.rank_exactly(given.features, rows, *lists, False)


def main() -> int:
    """Runs every stage, unprofiled and then profiled, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default=None, metavar="NxD")
    parser.add_argument("--seconds", type=float, default=25)
    options = parser.parse_args()
    start, device = time.perf_counter(), torch.device(options.device)
    size = options.size or ("34167x2048" if device.type == "cuda" else "400x32")
    count, dim = map(int, size.split("x"))
    given = Prepared.of(*make_features(count, dim, device=device))
    stages: dict[str, Callable[[], object]] = {
        "a block of the ranking": lambda: rank_a_block(given),
        "k_reciprocal_neighbors": lambda: mabm.k_reciprocal_neighbors(given.ranking),
        "encode_neighbors": lambda: mabm.encode_neighbors(given.features, given.neighbors),
        "expand_queries": lambda: mabm.expand_queries(given.encoding, given.ranking),
        "prune_distances": lambda: mabm.prune_distances(given.expanded),
        "dbscan": given.graph.dbscan,
        "jaccard_distance": lambda: mabm.jaccard_distance(given.expanded, slice(0, _ROWS)),
        "rows ranked exactly": lambda: rank_some_exactly(given),
    }
    for stage in stages.values():
        stage()
    for name, stage in stages.items():
        if time.perf_counter() - start > options.seconds:
            print(f"no time left for {name}", flush=True)
            continue
        with profiled(device):
            stage()
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
