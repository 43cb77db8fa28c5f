"""Every pair of samples is compared by one process, once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mabm.distributed.halves import compared, meetings
from mabm.distributed.shards import Shard


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_every_pair_meets_once(counts: list[int]) -> None:
    sizes, num_compared = tuple(counts), torch.zeros(sum(counts), sum(counts), dtype=torch.int64)
    for rank, count in enumerate(counts):
        shard = Shard(torch.zeros(count, 1), None, rank, sizes, {0: sum(counts)})
        samples = torch.arange(shard.first, shard.first + count)
        num_compared[samples[:, None], samples] += 1
        for meeting in meetings(shard):
            own, visitors = compared(sizes, rank, meeting.source)
            assert own == meeting.own
            assert compared(sizes, meeting.to, rank)[1] == meeting.lent
            others = shard.first_of(meeting.source) + torch.arange(sizes[meeting.source])[visitors]
            num_compared[samples[own][:, None], others] += 1
            num_compared[others[:, None], samples[own]] += 1
    assert bool((num_compared == 1).all())
