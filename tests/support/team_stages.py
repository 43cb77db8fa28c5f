"""Every stage by a team of threads, to be held against the stages of one process."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from thread_team import run_as_team
from torch import Tensor

import mabm
from mabm.distance.encoding import encode, expand
from mabm.distance.jaccard import prune
from mabm.distance.neighbors import find_neighbors
from mabm.distance.ranking import group_sizes, rank
from mabm.distributed.clustering import cluster_shard
from mabm.distributed.encoding import encode_shard, expand_shard
from mabm.distributed.graph import prune_shard
from mabm.distributed.neighbors import find_neighbors_of_shard
from mabm.distributed.ranking import rank_shards
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team

MAX_DISTANCE = 0.7


@st.composite
def splits(draw: st.DrawFn, count: int, max_size: int = 5) -> list[int]:
    """Numbers of rows of 1 to ``max_size`` processes, many of them 0."""
    size = draw(st.integers(1, max_size))
    cuts = draw(st.lists(st.integers(0, count), min_size=size - 1, max_size=size - 1))
    return np.diff([0, *sorted(cuts), count]).tolist()


def shards_of(x: Tensor, groups: Tensor | None, counts: list[int]) -> list[Shard]:
    """The rows as those of processes that have so many each."""
    sizes = group_sizes(groups, len(x))
    parts = [None] * len(counts) if groups is None else groups.split(counts)
    return [
        Shard(rows, part, rank, tuple(counts), sizes)
        for rank, (rows, part) in enumerate(zip(x.split(counts), parts, strict=True))
    ]


def all_stages(x: Tensor, groups: Tensor | None, options: Any, clusterer: Any) -> dict[str, Any]:
    """What one process finds."""
    ranking = rank(x, groups, options.preset, options.k1)
    sets = find_neighbors(ranking)
    rows = encode(x, sets, ranking)
    expanded = expand(rows, ranking, options.k2)
    graph = prune(expanded, MAX_DISTANCE)
    return {
        "ranking": ranking,
        "sets": sets,
        "rows": rows,
        "expanded": expanded,
        "graph": graph,
        "found": mabm.PseudoLabels(clusterer(graph), groups, None, clusterer.core_samples(graph)),
    }


def stages_of_shard(team: Team, shard: Shard, options: Any, clusterer: Any) -> dict[str, Any]:
    """What a process of a team finds."""
    ranking = rank_shards(team, shard, options)
    sets = find_neighbors_of_shard(team, shard, ranking)
    rows = encode_shard(team, shard, sets, ranking)
    expanded = expand_shard(team, shard, rows, ranking, options.k2)
    graph = prune_shard(team, shard, expanded, MAX_DISTANCE)
    return {
        "ranking": ranking,
        "sets": sets,
        "rows": rows,
        "expanded": expanded,
        "graph": graph,
        "found": cluster_shard(team, shard, graph, clusterer),
    }


def check_same(
    x: Tensor,
    groups: Tensor | None,
    options: Any,
    counts: list[int],
    eps: float = 0.5,
    team_runs_in: AbstractContextManager[None] | None = None,
) -> None:
    """Compares every result of a team with the rows of one process.

    Args:
        x: (N, D) the features of all processes.
        groups: (N,) their groups.
        options: Those of the distance.
        counts: Number of rows of each process.
        eps: That of DBSCAN.
        team_runs_in: What the team runs in, and the one process does not.
    """
    clusterer = mabm.DBSCAN(eps, 3)
    whole = all_stages(x, groups, options, clusterer)
    shards = shards_of(x, groups, counts)
    with team_runs_in or nullcontext():
        parts = run_as_team(
            len(counts), lambda team: stages_of_shard(team, shards[team.rank], options, clusterer)
        )
    for name in ("ranks", "scores"):
        joined = torch.cat([getattr(part["ranking"], name) for part in parts])
        assert torch.equal(joined, getattr(whole["ranking"], name)), name
    for stage in ("sets", "rows", "expanded", "graph"):
        expected = whole[stage]
        sizes = torch.cat([part[stage].indptr.diff() for part in parts])
        assert torch.equal(sizes, expected.indptr.diff()), stage
        for number, column in enumerate(expected.tensors()[1:], 1):
            joined = torch.cat([part[stage].tensors()[number] for part in parts])
            assert torch.equal(joined, column), f"{stage} {number}"
            assert joined.dtype == column.dtype
    found = whole["found"]
    for name in ("labels", "core"):
        joined = torch.cat([getattr(part["found"], name) for part in parts])
        assert torch.equal(joined, getattr(found, name)), name
    sizes = torch.unique(found.labels[found.labels >= 0], return_counts=True)[1]
    for part in parts:
        assert torch.equal(part["found"].sizes, sizes)
        assert part["found"].spanning == found.num_spanning
