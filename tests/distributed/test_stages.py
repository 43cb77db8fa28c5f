"""Every stage on a team of threads, against the stages of one process: the same bits."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, cases, make_features
from golden_files import GOLDEN, Golden
from hypothesis import given
from hypothesis import strategies as st
from thread_team import run_as_team
from torch import Tensor

import mabm
from mabm._core.arrays import check_features
from mabm.distance.encoding import encode, expand
from mabm.distance.jaccard import prune, resolve_options
from mabm.distance.neighbors import find_neighbors
from mabm.distance.ranking import rank
from mabm.distributed import encoding, graph, neighbor_lists
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
    sizes = {0: len(x)}
    if groups is not None:
        names, numbers = torch.unique(groups, return_counts=True)
        sizes = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    parts = [None] * len(counts) if groups is None else torch.split(groups, counts)
    return [
        Shard(rows.contiguous(), part, rank, tuple(counts), sizes)
        for rank, (rows, part) in enumerate(zip(torch.split(x, counts), parts, strict=True))
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
    x: Tensor, groups: Tensor | None, options: Any, counts: list[int], eps: float = 0.5
) -> None:
    """Compares every result of a team with the rows of one process."""
    clusterer = mabm.DBSCAN(eps, 3)
    whole = all_stages(x, groups, options, clusterer)
    shards = shards_of(x, groups, counts)
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


@given(cases(max_size=60), st.data())
def test_any_split_gives_the_bits_of_one_process(case: Case, data: st.DataObject) -> None:
    x, groups = check_features(case.features), torch.from_numpy(case.modality)
    options = resolve_options(groups, case.k1, case.k2, case.preset, "exact")
    eps = data.draw(st.sampled_from((0.0, 0.3, 0.6)))
    check_same(x, groups, options, data.draw(splits(len(x))), eps)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_golden_inputs(golden: Golden) -> None:
    x, groups = check_features(golden.features), torch.from_numpy(golden.modality)
    options = resolve_options(groups, golden.k1, golden.k2, golden.preset, "exact")
    third = len(x) // 3
    check_same(x, groups, options, [third, 0, 2 * third, len(x) - 3 * third])


@pytest.mark.parametrize("kind", ["clustered", "duplicates", "ties"])
def test_results_do_not_depend_on_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_PAIRS_AT_ONCE", 5)
    monkeypatch.setattr(graph, "_PART_ROWS", 7)
    monkeypatch.setattr(neighbor_lists, "_MERGE_BYTES", 1 << 12)
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 2, size=90)
    x = check_features(make_features(kind, groups, 3))
    options = resolve_options(torch.from_numpy(groups), 10, 3, None, "exact")
    for counts in ([50, 40], [31, 0, 30, 29], [90]):
        check_same(x, torch.from_numpy(groups), options, counts)


@given(cases(max_size=40), st.data())
def test_without_groups(case: Case, data: st.DataObject) -> None:
    x = check_features(case.features)
    options = resolve_options(None, case.k1, min(case.k2, case.k1), "spcl", "exact")
    check_same(x, None, options, data.draw(splits(len(x))))
