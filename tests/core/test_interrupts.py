"""Ctrl-C, and errors, in the midst of an op: what was raised comes out, and nothing goes on."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch

import mabm
from mabm._core.extension import interruptible

OPS = torch.ops.mabm

# Half of 800 columns in each of 20,000 rows: long to compare with each other.
ENCODING = """
chosen = torch.rand(1000, 800).argsort(1)[:, :400].sort(1).values.repeat(20, 1)
starts = torch.arange(0, 20_000 * 400 + 1, 400)
encoding = mabm.Encoding.from_values(starts, chosen.flatten().int(), torch.ones(8_000_000))
ready()
"""
# Each stage by itself, of a size that takes a minute or more of two threads, which is longer than
# the test waits. At ready() the signal is on its way.
STAGES = {
    "ranking": """
x = torch.randn(400_000, 64)
ready()
mabm.rank_neighbors(x)
""",
    "exact ranking": """
x = torch.randn(200_000, 256)
ready()
with interruptible():
    torch.ops.mabm.rank_exactly(x, torch.arange(200_000), torch.zeros(200_000).int(),
        torch.zeros(1, 1).int(), [30], True)
""",
    "exact ranking of few rows": """
x = torch.randn(10_000, 64).repeat(300, 1)
ready()
with interruptible():
    torch.ops.mabm.rank_exactly(x, torch.arange(1000), torch.zeros(3_000_000).int(),
        torch.zeros(1, 1).int(), [30], True)
""",
    "reciprocity": """
ranks = torch.arange(9000).repeat(9000, 1)
ready()
with interruptible():
    torch.ops.mabm.reciprocal_mask(ranks)
""",
    "encoding": """
starts, columns = torch.arange(0, 5000 * 5000 + 1, 5000), torch.arange(5000).int().repeat(5000)
sets = mabm.NeighborSets(starts, columns)
x = torch.randn(5000, 20_000)
ready()
mabm.encode_neighbors(x, sets)
""",
    "graph": ENCODING + "while True: mabm.prune_distances(encoding, max_distance=0.5)",
    "dense distance": ENCODING + "while True: mabm.jaccard_distance(encoding)",
    "clustering": """
starts, columns = torch.arange(0, 2000 * 2000 + 1, 2000), torch.arange(2000).int().repeat(2000)
graph = mabm.NeighborGraph(starts, columns, torch.zeros(len(columns)), 0.5)
ready()
graph.sweep([0.5] * 1_000_000)
""",
}
START = """
import signal, sys, torch, mabm
from mabm._core.extension import interruptible
torch.set_num_threads(2)
signal.signal(signal.SIGINT, signal.default_int_handler)
def ready():
    print("ready", flush=True)
try:
"""
END = """
except KeyboardInterrupt:
    print("interrupted", flush=True)
else:
    print("finished", flush=True)
"""


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_ends_every_stage(stage: str) -> None:
    code = START + indented(STAGES[stage]) + END
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.3)  # it is at work
            child.send_signal(signal.SIGINT)
            printed, _ = child.communicate(timeout=20)
        finally:
            child.kill()
    assert printed == "interrupted\n"


def long_ranking(count: int = 60_000) -> tuple[object, ...]:
    """Arguments of ``rank_exactly``; it takes them a minute or so."""
    return (
        torch.randn(count, 64),
        torch.arange(count),
        torch.zeros(count, dtype=torch.int32),
        torch.zeros(1, 1, dtype=torch.int32),
        [30],
        True,
    )


@pytest.fixture
def on_signal() -> Callable[[Callable[..., object]], None]:
    """Calls a handler once, after 0.3 s of the processor: not while others keep it from here."""
    before = signal.getsignal(signal.SIGPROF)

    def arm(handler: Callable[..., object]) -> None:
        signal.signal(signal.SIGPROF, handler)
        signal.setitimer(signal.ITIMER_PROF, 0.3)

    yield arm
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def arm_and_wait(
    on_signal: Callable[[Callable[..., object]], None], handler: Callable[..., object]
) -> None:
    on_signal(handler)
    while True:  # busily, as the timer counts the time of the processor
        pass


class StopError(Exception):
    """What a handler of one's own raises."""


needs_timer = pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs SIGPROF")


@needs_timer
def test_the_exception_of_a_signal_handler_is_passed_on(
    on_signal: Callable[[Callable[..., object]], None],
) -> None:
    stop = StopError("enough")

    def handler(*args: object) -> None:
        raise stop

    args = long_ranking()
    on_signal(handler)
    with pytest.raises(StopError) as caught, interruptible():
        OPS.rank_exactly(*args)
    assert caught.value is stop
    assert caught.value.__cause__ is None
    mabm.pseudo_labels(torch.randn(30, 4))  # nothing is left of it


@needs_timer
def test_a_handler_that_raises_nothing_runs_meanwhile_and_the_op_goes_on(
    on_signal: Callable[[Callable[..., object]], None],
) -> None:
    args = long_ranking(4000)
    expected = OPS.rank_exactly(*args)
    calls = []
    on_signal(lambda *_: calls.append(1))
    ranks, scores = OPS.rank_exactly(*args)
    while not calls:  # the op was faster
        pass
    assert torch.equal(ranks, expected[0])
    assert torch.equal(scores, expected[1])


@needs_timer
def test_an_op_in_another_thread_goes_on(
    on_signal: Callable[[Callable[..., object]], None],
) -> None:
    features = torch.randn(300, 8)
    expected = mabm.pseudo_labels(features).labels
    found: list[torch.Tensor] = []
    thread = threading.Thread(
        target=lambda: found.extend(mabm.pseudo_labels(features).labels for _ in range(50))
    )

    def handler(*args: object) -> None:
        raise StopError

    thread.start()
    with pytest.raises(StopError):
        arm_and_wait(on_signal, handler)
    thread.join()
    assert len(found) == 50
    assert all(torch.equal(labels, expected) for labels in found)


@needs_timer
def test_an_op_called_directly_raises_when_it_is_interrupted(
    on_signal: Callable[[Callable[..., object]], None],
) -> None:
    def handler(*args: object) -> None:
        raise StopError

    args = long_ranking()
    on_signal(handler)
    with pytest.raises(RuntimeError, match="interrupted by a signal"):
        OPS.rank_exactly(*args)


@pytest.mark.skipif(sys.platform != "linux", reason="limiting memory needs Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_runs_out_in_a_parallel_loop_is_named(threads: int) -> None:
    # Every thread of the loop takes scratch for as many rows as there are.
    code = f"""
import resource, torch, mabm
torch.set_num_threads({threads})
count = 30_000_000
ranks = torch.zeros(count, 1, dtype=torch.int64)
mask = torch.zeros(count, 1, dtype=torch.bool)
torch.ops.mabm.reciprocal_mask(ranks[:1000])  # threads are started
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (320 << 20), -1))
try:
    torch.ops.mabm.expand_neighbors(ranks, mask, None, None)
except MemoryError as error:
    print("MemoryError:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("MemoryError: "), done.stdout
    assert "parallel_for" not in done.stdout


def test_a_result_that_does_not_fit_is_named() -> None:
    count = 2**23  # squared, more bytes than there are addresses
    encoding = mabm.Encoding.from_values(
        torch.arange(count + 1), torch.arange(count, dtype=torch.int32), torch.ones(count)
    )
    with pytest.raises(
        MemoryError,
        match=r"^the dense \(8388608, 8388608\) distance ran out of memory \(no room for "
        r"8388608 x 8388608 numbers of 4 bytes\); compute fewer rows",
    ):
        mabm.jaccard_distance(encoding)
