"""The graph of several processes, from rows at the very end of what is near."""

import numpy as np
import pytest
import torch
from thread_team import run_as_team

from mabm.distance.jaccard import prune
from mabm.distance.rows import Encoding
from mabm.distributed.graph import prune_shard
from mabm.distributed.shards import Shard

ONE = 2**30  # the weight of a row


def least_near(max_distance: float) -> int:
    """The least overlap of two rows of weight ``ONE`` that are near, by bisection."""
    low, high = 0, ONE
    while low < high:
        middle = (low + high) // 2
        is_near = np.float32(1 - middle / (2 * ONE - middle)) <= np.float32(max_distance)
        low, high = (low, middle) if is_near else (middle + 1, high)
    return low


@pytest.mark.parametrize("max_distance", [0.0, 0.1, 0.6, 0.7, 0.97, 0.99, 0.999999, 1 - 2**-24])
@pytest.mark.parametrize("less", [0, 1])
def test_rows_at_the_largest_distance(max_distance: float, less: int) -> None:
    overlap = max(least_near(max_distance) - less, 1)
    rest = ONE - overlap
    entries = [[(0, overlap), (1, rest)], [(0, overlap), (2, rest)], [(2, ONE)]]
    columns, weights = torch.tensor(
        [entry for row in entries for entry in row if entry[1]], dtype=torch.int32
    ).T.contiguous()
    sizes = [sum(weight > 0 for _, weight in row) for row in entries]
    parts = [
        Encoding.unchecked(torch.tensor([0, size]), own, of_own)
        for size, own, of_own in zip(sizes, columns.split(sizes), weights.split(sizes), strict=True)
    ]
    indptr = torch.tensor([0, *np.cumsum(sizes).tolist()])
    expected = prune(Encoding.unchecked(indptr, columns, weights), max_distance)
    assert (1 in expected.row(0).tolist()) == (not less)
    shards = [Shard(torch.empty(1, 0), None, rank, (1, 1, 1), {0: 3}) for rank in range(3)]
    found = run_as_team(
        3, lambda team: prune_shard(team, shards[team.rank], parts[team.rank], max_distance)
    )
    assert torch.equal(torch.cat([graph.indices for graph in found]), expected.indices)
    assert torch.equal(torch.cat([graph.distances for graph in found]), expected.distances)
