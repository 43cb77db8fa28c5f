"""The emulated grid does what CUDA defines, and tells where a kernel leaves that."""

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import grid_build
import numpy as np
import pytest
import torch

FULL = 0xFFFFFFFF
LANE = np.arange(32)


@pytest.fixture(scope="module", params=["assembly", "ucontext"])
def variant(request: pytest.FixtureRequest) -> ModuleType:
    """The grid as it is, and with the switch for machines that have none in assembly."""
    defines = ("EMULATED_UCONTEXT",) if request.param == "ucontext" else ()
    loaded = grid_build.load("emulator_checks", ("emulator_checks.cpp",), defines=defines)
    assert loaded.switch == request.param
    return loaded


@pytest.fixture
def grid(variant: ModuleType) -> Iterator[ModuleType]:
    """The grid in ascending order."""
    variant.set_seed(0)
    variant.set_max_shared(227 << 10)
    yield variant
    variant.set_seed(0)
    variant.set_max_shared(227 << 10)


@pytest.fixture(params=grid_build.SEEDS)
def shuffled(grid: ModuleType, request: pytest.FixtureRequest) -> ModuleType:
    """The grid in each of the orders."""
    grid.set_seed(request.param)
    return grid


def thread_before(step: int, num_blocks: int = 4) -> np.ndarray:
    index = np.arange(256)
    return np.tile(np.where(index % step == 0, 0, index - 1), num_blocks)


# ---- Order ------------------------------------------------------------------------------------


def test_seed_zero_runs_blocks_and_threads_in_ascending_order(grid: ModuleType) -> None:
    turns = grid.coordinates(5, 96)[:, 4]
    assert turns.tolist() == list(range(5 * 96))


def test_every_thread_of_every_block_runs_once(shuffled: ModuleType) -> None:
    found = shuffled.coordinates(7, 320)
    assert found[:, 0].tolist() == list(range(320)) * 7
    assert found[:, 1].tolist() == np.repeat(np.arange(7), 320).tolist()
    assert (found[:, 2:4] == [320, 7]).all()
    assert sorted(found[:, 4]) == list(range(7 * 320))


def test_blocks_before_the_first_are_left_out(shuffled: ModuleType) -> None:
    shuffled.set_first_block(5)
    try:
        found = shuffled.coordinates(7, 32).reshape(7, 32, 5)
        assert found[5:, 0, 1].tolist() == [5, 6]
        assert sorted(found[5:, :, 4].flatten()) == list(range(64))
        assert shuffled.launch_nothing(5, 32, 0) == 0
    finally:
        shuffled.set_first_block(0)


def test_other_seeds_shuffle_blocks_and_threads_the_same_way_every_time(grid: ModuleType) -> None:
    def turns(seed: int) -> list[int]:
        grid.set_seed(seed)
        return grid.coordinates(40, 64)[:, 4].tolist()

    assert turns(1) == turns(1)
    assert turns(1) != turns(2)
    blocks = np.argsort(np.reshape(turns(1), (40, 64))[:, 0])
    assert blocks.tolist() != sorted(blocks)
    threads = np.argsort(np.reshape(turns(1), (40, 64)), axis=1)
    assert len({tuple(order) for order in threads}) > 20


def test_threads_that_never_wait_need_no_switch(shuffled: ModuleType) -> None:
    assert shuffled.launch_nothing(10, 256, 0) == 10  # one into each block


@pytest.mark.parametrize("kernel", ["thread_before_in_block", "thread_before_in_warp"])
def test_ascending_order_hides_a_missing_barrier_and_another_shows_it(
    grid: ModuleType, kernel: str
) -> None:
    expected = thread_before(256 if "block" in kernel else 32)

    def wrong(name: str) -> list[int]:
        found = []
        for seed in range(6):
            grid.set_seed(seed)
            if not np.array_equal(getattr(grid, name)(4), expected):
                found.append(seed)
        return found

    assert wrong(kernel) == []
    assert wrong(kernel + "_no_barrier") == [1, 2, 3, 4, 5]


def test_a_barrier_of_the_warp_does_not_serve_the_block(grid: ModuleType) -> None:
    grid.set_seed(1)
    assert not np.array_equal(grid.thread_before_in_block_warp_barrier(4), thread_before(256))


def test_a_barrier_missing_before_a_write_shows(shuffled: ModuleType) -> None:
    expected = np.tile((np.arange(256) + 5) % 256, 4)
    assert np.array_equal(shuffled.pass_on(4, 5), expected)
    assert not np.array_equal(shuffled.pass_on_no_barrier(4, 5), expected)


# ---- Errors -----------------------------------------------------------------------------------

PLACE = r"\(emulator_(?:faults.h|checks.cpp):\d+\)"
MASK = r"mask 0x[0-9a-f]+"
FAULTS = {
    "return before barrier": (
        rf"(thread 5 returns, but thread \d+ waits at __syncthreads {PLACE}"
        rf"|thread \d+ waits at __syncthreads {PLACE}, but thread 5 has returned)"
    ),
    "barriers of two lines": (
        rf"thread \d+ waits at __syncthreads {PLACE}, but thread \d+ at __syncthreads {PLACE}"
    ),
    "barriers of two kinds": (
        rf"thread \d+ waits at __syncthreads_(or|and) {PLACE}, "
        rf"but thread \d+ at __syncthreads_(or|and) {PLACE}"
    ),
    "returned lane": (
        rf"(thread (3|35) returns, but thread \d+ waits for it at __syncwarp {PLACE} with {MASK}"
        rf"|thread \d+ waits at __syncwarp {PLACE} with {MASK}, but thread (3|35) has returned)"
    ),
    "lane at barrier": (
        rf"thread (3|35) waits at __syncthreads {PLACE}, "
        rf"but thread \d+ waits for it at __shfl_xor_sync \(device.h:\d+\)"
        rf"|thread \d+ waits at __shfl_xor_sync \(device.h:\d+\) with {MASK}, "
        rf"but thread (3|35) waits at __syncthreads {PLACE}"
    ),
    "own lane left out": (
        rf"thread (0|32) is at __ballot_sync {PLACE} with mask 0xfffffffe, "
        "which leaves out its own lane 0"
    ),
    "two masks": (
        rf"thread \d+ is at __syncwarp {PLACE} with {MASK}, "
        rf"but thread \d+ waits for it at __syncwarp {PLACE} with {MASK}"
    ),
    "two operations": (
        rf"thread \d+ is at __(any|all)_sync {PLACE} with mask 0xffffffff, "
        rf"but thread \d+ waits for it at __(any|all)_sync {PLACE} with mask 0xffffffff"
    ),
    "two lines": (
        rf"thread \d+ is at __syncwarp {PLACE} with mask 0xffffffff, "
        rf"but thread \d+ waits for it at __syncwarp {PLACE} with mask 0xffffffff"
    ),
    "lanes that are not there": (
        rf"thread \d+ is at __syncwarp {PLACE} with mask 0xffffffff, "
        "but the block of 48 threads has no thread 48"
    ),
    "circle": rf"no thread can go on; waiting are thread 0 and 2 more at __syncwarp {PLACE}",
    "odd width": rf"thread \d+ is at __shfl_sync {PLACE} with a width of 3, which is no power of",
    "static index": "thread 63 takes element 64 of shared memory of 64",
    "negative index": "thread 0 takes element -1 of shared memory of 64",
    "dynamic index": r"thread 6\d takes element 6\d of shared memory of 60",
    "dynamic taken": r"takes 257 bytes of dynamic shared memory, and the launch asked for 256",
    "static taken": (
        r"declares \d+ bytes of static shared memory, which with 256 bytes of dynamic is more than "
        "49152"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_in_every_order_and_the_grid_goes_on(
    grid: ModuleType, fault: str
) -> None:
    for seed in range(5):
        grid.set_seed(seed)
        with pytest.raises(RuntimeError, match=rf"^block \d: .*{FAULTS[fault]}"):
            grid.run_fault(fault, 48 if fault == "lanes that are not there" else 64)
        assert np.array_equal(grid.thread_before_in_block(4), thread_before(256))


def test_a_kernel_may_throw(shuffled: ModuleType) -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="thrown by a kernel"):
            shuffled.run_fault("exception", 64)
        assert np.array_equal(shuffled.thread_before_in_block(4), thread_before(256))


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "message"),
    [
        (1, -1, 0, "invalid configuration argument"),
        (1, 1025, 0, "invalid configuration argument"),
        (2**31, 32, 0, "invalid configuration argument"),
        (2**32 + 3, 32, 0, "invalid configuration argument"),  # not 3 blocks
        (1, 32, 227 * 1024 + 1, "invalid argument"),
    ],
)
def test_launches_beyond_the_limits_are_refused(
    grid: ModuleType, blocks: int, threads: int, shared: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        grid.launch_nothing(blocks, threads, shared)
    assert grid.launch_nothing(2, 1024, 227 * 1024) == 2


# ---- Shared memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [64, 99, 163, 227])
def test_a_launch_has_what_its_kernel_was_allowed(grid: ModuleType, kib: int) -> None:
    grid.set_max_shared(kib << 10)
    assert grid.most_shared() == (kib - 1) << 10
    grid.launch_unasked(48 << 10)
    with pytest.raises(ValueError, match=r"^invalid argument$"):
        grid.launch_unasked((48 << 10) + 1)
    with pytest.raises(ValueError, match=r"^invalid argument$"):
        grid.launch_nothing(1, 32, (kib << 10) + 1)
    grid.launch_nothing(1, 32, 60 << 10)
    grid.launch_unasked((kib - 1) << 10)  # the kernel is the same, and was allowed all there is
    with pytest.raises(ValueError, match=r"^invalid argument$"):
        grid.launch_unasked(((kib - 1) << 10) + 1)


@pytest.mark.parametrize("kib", [47, 48, 49])
def test_a_launch_asks_for_what_its_kernel_declares_too(grid: ModuleType, kib: int) -> None:
    grid.set_max_shared(64 << 10)
    grid.launch_declaring(kib << 10)


@pytest.mark.parametrize("kib", [48, 64, 227])
def test_static_shared_memory_is_part_of_what_a_block_may_have(grid: ModuleType, kib: int) -> None:
    grid.set_max_shared(kib << 10)
    grid.launch_declaring((kib - 1) << 10)
    too_many = ((kib - 1) << 10) + 1
    with pytest.raises(
        RuntimeError,
        match=f"declares 1024 bytes of static shared memory, which with {too_many} bytes of "
        f"dynamic is more than {kib << 10}",
    ):
        grid.launch_declaring(too_many)


def test_shared_memory_starts_as_garbage_in_every_block(grid: ModuleType) -> None:
    def found(seed: int) -> np.ndarray:
        grid.set_seed(seed)
        return grid.uninitialized(6)

    assert np.array_equal(found(3), found(3))
    values = np.concatenate([found(seed).ravel() for seed in range(3)])
    assert len(set(values.tolist())) == 3 * 6 * 16


def test_pieces_of_shared_memory_are_apart_and_the_same_for_all_threads(
    shuffled: ModuleType,
) -> None:
    assert shuffled.pieces(3).tolist() == [1010101.0 * (63 - i) for i in range(64)] * 3


@pytest.mark.skipif(not grid_build.SANITIZED, reason="shown by AddressSanitizer: .ci/kernels")
@pytest.mark.parametrize("piece", [0, 1, 2])
def test_writing_behind_a_piece_stops_the_program(piece: int) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(grid_build.HERE)!r}); import grid_build\n"
        f"grid_build.load('emulator_checks', ('emulator_checks.cpp',)).overrun({piece})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "AddressSanitizer: use-after-poison" in result.stderr
    assert "overrun_kernel" in result.stderr


# ---- Operations of the warp and the block -----------------------------------------------------


def sources(name: str, argument: int, width: int) -> np.ndarray:
    """The lane that each lane reads, as CUDA defines it."""
    first = LANE // width * width
    if name == "shfl":
        return first + argument % width
    if name == "shfl_up":
        return np.where(LANE - argument >= first, LANE - argument, LANE)
    if name == "shfl_down":
        return np.where(LANE + argument < first + width, LANE + argument, LANE)
    return np.where(LANE ^ argument < first + width, LANE ^ argument, LANE)


@pytest.mark.parametrize("name", ["shfl", "shfl_up", "shfl_down", "shfl_xor"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_shuffles(shuffled: ModuleType, name: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=96) * 2**20).astype(dtype)
    masks = np.full(96, FULL, np.uint32)
    for width in (1, 2, 8, 16, 32):
        for argument in (0, 1, 3, 8, 17, 31):
            found = getattr(shuffled, name)(values, masks, argument, width)
            lane = sources(name, argument, width)
            assert found.dtype == dtype
            assert np.array_equal(found, values.reshape(3, 32)[:, lane].ravel())


def test_lanes_shuffle_among_their_mask(shuffled: ModuleType) -> None:
    values = np.arange(64, dtype=np.int32)
    masks = np.tile(np.where(LANE < 16, 0xFFFF, 0), 2).astype(np.uint32)
    found = shuffled.shfl_xor(values, masks, 1, 32)
    assert np.array_equal(found, np.where(masks != 0, values ^ 1, values))


def test_a_lane_that_is_not_in_the_mask_gives_garbage(grid: ModuleType) -> None:
    values = np.arange(32, dtype=np.int64)
    masks = np.where(LANE < 16, 0xFFFF, 0xFFFF0000).astype(np.uint32)
    found = grid.shfl_down(values, masks, 1, 32)
    assert np.array_equal(
        np.delete(found, [15, 31]), np.delete(np.append(values[1:], 31), [15, 31])
    )
    assert found[15] not in values
    assert found[31] == 31  # none behind it: its own


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_reductions_of_a_warp(shuffled: ModuleType, dtype: type) -> None:
    values = np.random.default_rng(1).integers(-1000, 1000, 256).astype(dtype)
    warps = values.reshape(8, 32)
    expected = np.stack([warps.sum(1), warps.min(1), warps.max(1)], axis=1)
    assert np.array_equal(shuffled.reductions(values), np.repeat(expected, 32, axis=0))


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_votes(shuffled: ModuleType, chance: float) -> None:
    rng = np.random.default_rng(2)
    predicates = np.where(rng.random(384) < chance, rng.integers(1, 9, 384), 0).astype(np.int32)
    # Warps take turns in voting whole, by halves, and by odd and even lanes.
    kinds = [np.full(32, FULL), np.where(LANE < 16, 0xFFFF, 0xFFFF0000)]
    kinds.append(np.where(LANE % 2 == 0, 0x55555555, 0xAAAAAAAA))
    masks = np.concatenate(kinds * 4).astype(np.uint32)
    found = shuffled.votes(masks, predicates, 128)
    for thread in range(384):
        warp = predicates[thread // 32 * 32 :][:32] != 0
        members = masks[thread] >> LANE & 1 == 1
        block = predicates[thread // 128 * 128 :][:128] != 0
        assert found[thread].tolist() == [
            np.sum(2 ** LANE[warp & members]),
            np.any(warp & members),
            np.all(warp[members]),
            np.sum(block),
            np.any(block),
            np.all(block),
        ]


def test_parts_of_a_warp_go_ways_of_their_own(shuffled: ModuleType) -> None:
    pairs = [2 * (lane // 2 * 2) + 1 for lane in range(16, 32)]
    assert shuffled.branches().tolist() == ([120] * 16 + pairs) * 2


# ---- Bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [0, 1, 2, 0x80000000, 0xFFFFFFFF, 1 << 63, 2**64 - 1, 0x12345 << 20])
def test_bits(grid: ModuleType, x: int) -> None:
    low = x & FULL

    def lowest(value: int) -> int:
        return (value & -value).bit_length()

    assert grid.bits(x) == [
        low.bit_count(),
        x.bit_count(),
        lowest(low),
        lowest(x),
        32 - low.bit_length(),
        64 - x.bit_length(),
    ]
    assert grid.reversed(low) == int(f"{low:032b}"[::-1], 2)


def test_bits_of_floats(grid: ModuleType) -> None:
    single = np.float32(-1.1)
    another = 0x40490FDB
    pi = float(np.uint32(another).view(np.float32))
    expected = (int(single.view(np.int32)), int(single.view(np.uint32)), pi, pi)
    assert grid.float_bits(single, another) == expected
    assert grid.double_bits(-1.1, 2**62) == (int(np.float64(-1.1).view(np.int64)), 2.0)


# ---- Atomic operations ------------------------------------------------------------------------

TYPES = {"i": np.int32, "u": np.uint32, "l": np.int64, "U": np.uint64, "f": np.float32}
TYPES["d"] = np.float64


@pytest.mark.parametrize(
    ("name", "function", "types"),
    [
        ("atomic_add", np.add, "iuUfd"),
        ("atomic_min", np.minimum, "iulU"),
        ("atomic_max", np.maximum, "iulU"),
        ("atomic_or", np.bitwise_or, "iuU"),
        ("atomic_and", np.bitwise_and, "iuU"),
    ],
)
def test_atomic_operations(shuffled: ModuleType, name: str, function: np.ufunc, types: str) -> None:
    for code in types:
        dtype = TYPES[code]
        start, *values = np.random.default_rng(3).integers(1, 2**12, 257).astype(dtype)
        last, before = getattr(shuffled, name)(np.array(values), start)
        assert last == function.reduce([start, *values])
        assert before.dtype == dtype
        # What each saw and made is what another saw: one chain from start to last.
        made = function(before, np.array(values))
        assert sorted([*before, last]) == sorted([start, *made])


def test_atomic_add_of_integers_wraps_around(grid: ModuleType) -> None:
    last, _ = grid.atomic_add(np.full(64, 2**26, np.int32), np.int32(2**31 - 1))
    assert last == 2**31 - 1
    last, _ = grid.atomic_add(np.full(64, 2**63, np.uint64), np.uint64(5))
    assert last == 5


def test_atomic_exchange(shuffled: ModuleType) -> None:
    for code in "iuUf":
        values = np.arange(1, 257).astype(TYPES[code])
        last, before = shuffled.atomic_exchange(values, TYPES[code](0))
        assert sorted([*before, last]) == list(range(257))


def test_counting_by_compare_and_swap_loses_none(grid: ModuleType) -> None:
    for seed in range(5):
        grid.set_seed(seed)
        assert grid.count(4) == 1024
        # Other threads come between a load and a store, as they would on a GPU.
        assert (grid.count_not_exclusive(4) == 1024) == (seed == 0)


def test_a_thread_may_wait_for_another_by_atomic_operations(shuffled: ModuleType) -> None:
    assert shuffled.spin() == 2


# ---- Floating point ---------------------------------------------------------------------------


def test_subnormal_numbers_are_kept_whatever_the_caller_does(grid: ModuleType) -> None:
    half = 1 << 22
    assert grid.half_of_least_normal() == half
    torch.set_flush_denormal(True)
    try:
        found = grid.half_of_least_normal()
    finally:
        torch.set_flush_denormal(False)
    assert found == half
