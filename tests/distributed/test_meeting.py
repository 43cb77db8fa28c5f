"""How processes begin and end a call: groups, time limits, tensors on the way, what is left."""

import gc
from datetime import timedelta
from typing import Any

import pytest
import real_processes
import torch
import torch.distributed as dist
from small_call import outcome, total
from torch import Tensor

from mabm.distributed import ProcessError
from mabm.distributed.agreement import Ready
from mabm.distributed.board import store_of
from mabm.distributed.group_arguments import check_group, check_timeout
from mabm.distributed.link import connect
from mabm.distributed.meeting import meet
from mabm.distributed.team import Team

DTYPES = (torch.bool, torch.int8, torch.int32, torch.int64, torch.float32, torch.float64)
CPU = torch.device("cpu")


def in_a_team(act: Any, *, group: Any = None) -> Any:
    def prepare() -> Ready[None]:
        return Ready({}, None, CPU, None)

    with meet("test", group, 60.0, prepare) as meeting:
        return act(meeting.team)


def rows_of(rank: int, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(-100, 100, shape, generator=generator).to(dtype)


def swaps(rank: int) -> Any:
    """What arrives, against what was sent; process r has r rows."""

    def act(team: Team) -> Any:
        right = []
        to, source = (rank + 1) % 3, (rank - 1) % 3
        for dtype in DTYPES:
            for width in ((), (5,), (2, 3)):
                found = team.swap(rows_of(rank, dtype, rank, *width), to, source)
                right.append(found.dtype == dtype)
                right.append(found.equal(rows_of(source, dtype, source, *width)))
        with team.stage("several"):
            into = [torch.empty(7, dtype=dtype) for dtype in DTYPES]
            begun = [
                team.start_swap(rows_of(rank, dtype, 7), to, source, each)
                for dtype, each in zip(DTYPES, into, strict=True)
            ]
            for arrival in begun:
                arrival.wait()
            right += [each.equal(rows_of(source, each.dtype, 7)) for each in into]
        with team.stage("apart"):  # to one process, from none
            sent = torch.ones(4 if rank == 0 else 0)
            received = torch.zeros(4 if rank == 1 else 0)
            team.start_swap(sent, 1, 0, received).wait()
            right.append(received.equal(torch.ones_like(received)))
        return right, dict(team.sent_bytes)

    return in_a_team(act)


def test_tensors_of_every_type_arrive_and_are_counted() -> None:
    widths = 1 + 5 + 6
    bytes_of_a_number = sum(torch.empty(0, dtype=dtype).element_size() for dtype in DTYPES)
    for rank, ended in enumerate(real_processes.run(3, swaps)):
        assert ended.code == 0
        right, sent_bytes = ended.value
        assert all(right)
        headers = 3 * len(DTYPES) * 8
        assert sent_bytes == {
            "": rank * widths * bytes_of_a_number + headers,
            "several": 7 * bytes_of_a_number,
            "apart": 16 if rank == 0 else 0,
        }


def in_groups(rank: int) -> Any:
    odd = dist.new_group([1, 3], timeout=timedelta(seconds=77))
    found = outcome(rank, group=odd), outcome(rank if rank < 3 else -1, group=odd)
    seconds = check_timeout(None, odd) if rank in (1, 3) else None
    alone = dist.new_group([2])
    return found, seconds, outcome(rank, group=alone)


def test_a_group_of_some_has_its_own_ranks() -> None:
    ended = real_processes.run(4, in_groups)
    none = "group must be a process group of torch.distributed that this process is a member of"
    none_of_it = ("ValueError", f"{none}, got GroupMember.NON_GROUP_MEMBER")
    own = ("ValueError", "value must be at least 0, got -1")
    of_other = ("ValueError", "process 1: value must be at least 0, got -1")
    for rank, found in ((1, (4, of_other)), (3, (4, own))):
        assert ended[rank].value == (found, 77.0, none_of_it)
    assert ended[0].value == ((none_of_it, none_of_it), None, none_of_it)
    assert ended[2].value == (
        (none_of_it, none_of_it),
        None,
        ("ValueError", "one value must be odd"),
    )


def keys(rank: int) -> Any:
    store = dist.distributed_c10d._get_default_store()
    numbers = []
    for each in range(4):
        total(rank)
        outcome(-1 if rank == 1 else 1)
        dist.barrier()
        if each:
            numbers.append(store.num_keys())
        dist.barrier()
    return numbers


def test_calls_leave_no_keys_behind() -> None:
    for ended in real_processes.run(2, keys):
        assert len(set(ended.value)) == 1


def threads(rank: int) -> int:
    total(rank)
    return real_processes.num_threads()


def test_threads_end_with_the_call() -> None:
    # PyTorch aborts a process whose thread lets go of the group while Python ends.
    assert [ended.value for ended in real_processes.run(2, threads)] == [0, 0]


def held(rank: int) -> Any:
    """Connections while an error and its traceback are held, with transfers under way."""
    total(rank)
    real_processes.wait_until(lambda: not real_processes.num_threads())
    before = real_processes.num_connections()
    dist.barrier()

    def act(team: Team) -> None:
        others = [each for each in range(3) if each != rank]
        begun = [team.start_swap(torch.ones(9), to, to, torch.ones(9)) for to in others]
        if rank == 0:
            raise MemoryError
        begun += [team.start_swap(torch.ones(0), to, to, torch.ones(9)) for to in others]
        for arrival in begun:
            arrival.wait()

    with pytest.raises((MemoryError, ProcessError)) as error:
        in_a_team(act)
    gc.collect()
    real_processes.wait_until(lambda: real_processes.num_connections() == before)
    dist.barrier()  # the ends of other processes close connections as well
    return error.type.__name__


def test_connections_close_although_the_error_is_held() -> None:
    ended = real_processes.run(3, held)
    assert [each.value for each in ended] == ["MemoryError", "ProcessError", "ProcessError"]


def test_one_process_needs_no_group() -> None:
    assert total(3, k1=30) == 3
    with pytest.raises(ValueError, match="value must be at least 0, got -1"):
        total(-1)
    with pytest.raises(ValueError, match="one value must be odd"):
        total(2)
    assert in_a_team(lambda team: (team.rank, team.size)) == (0, 1)


@pytest.mark.parametrize("timeout", [2, 2.0, timedelta(seconds=2)])
def test_a_time_limit_is_in_seconds(timeout: Any) -> None:
    assert check_timeout(timeout, None) == 2.0
    assert check_timeout(None, None) == 1800.0


@pytest.mark.parametrize(
    ("timeout", "error", "words"),
    [
        ("3", TypeError, "timeout must be a number, got str: '3'"),
        (True, TypeError, "timeout must be a number, got bool: True"),
        (0, ValueError, r"timeout must be in \[0.001, 1e\+08\] seconds, got 0"),
        (-1.5, ValueError, r"timeout must be in .* seconds, got -1.5"),
        (float("nan"), ValueError, r"timeout must be in .* seconds, got nan"),
        (float("inf"), ValueError, r"timeout must be in .* seconds, got inf"),
        (timedelta(0), ValueError, r"timeout must be in .* seconds, got 0.0"),
    ],
)
def test_a_wrong_time_limit_is_an_error(timeout: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        total(1, timeout=timeout)


@pytest.mark.parametrize("group", [3, "gloo", dist.ProcessGroup])
def test_what_is_no_group_is_an_error(group: Any) -> None:
    with pytest.raises(TypeError, match=r"group must be a process group of torch\.distributed"):
        total(1, group=group)


def test_a_group_that_is_no_more_is_an_error() -> None:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    group = dist.group.WORLD
    assert check_group(group) is None
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="got one that is destroyed"):
        total(1, group=group)


def link_between_gpus(rank: int, backend: str) -> str:
    group = dist.new_group(backend=backend)
    store = dist.PrefixStore("link", store_of(group))
    link = connect(store, group, 20.0, torch.device("cuda", 0))
    kind = link.device.type
    dist.barrier()
    link.close()
    return kind


@pytest.mark.parametrize("backend", ["gloo", "cpu:gloo"])
def test_tensors_of_gpus_travel_through_the_cpu_without_nccl(backend: str) -> None:
    ended = real_processes.run(2, link_between_gpus, backend)
    assert [(each.code, each.value) for each in ended] == [(0, "cpu")] * 2
