"""What clustering will take: bytes hold against measured ones, seconds grow with the work."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mabm
from mabm.cluster import estimate as module

STAGES = ["ranking", "neighbors", "encoding", "query expansion", "graph", "clustering"]

MEASURED = """
import ctypes, json, sys
sys.path.insert(0, sys.argv[1])
import torch, mabm
from features import make_features
from measuring import with_peak
count, dim, preset, kind = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
def call(count, dim):
    features, modality = make_features(count, dim, kind=kind)
    modality = modality if preset == "bmil" else None
    return lambda: mabm.pseudo_labels(features, modality, preset=preset)
call(300, dim)()
whole = call(count, dim)
ctypes.CDLL(None).malloc_trim(0)  # what drawing the features has freed is not there to be used
print(json.dumps(with_peak(whole)[0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures in /proc")
@pytest.mark.parametrize(
    ("count", "dim", "preset", "kind"),
    [
        (3000, 2048, "bmil", "usual"),
        (6000, 512, "bmil", "noise"),
        (6000, 512, "spcl", "usual"),
        (12000, 32, "spcl", "usual"),
        (4000, 1100, "bmil", "decaying"),
    ],
)
def test_bytes_are_enough_and_not_far_too_many(
    count: int, dim: int, preset: str, kind: str
) -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    words = [sys.executable, "-c", MEASURED, benchmarks, count, dim, preset, kind]
    # Freed memory goes back at once, so that what counts is what is allocated.
    env = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": str(2**20),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=True, env=env
    )
    measured = json.loads(done.stdout)
    groups = 2 if preset == "bmil" else None
    peak = mabm.estimate(count, dim, groups, preset=preset).peak_bytes
    assert measured <= peak <= 3 * measured + 64_000_000, (measured, peak)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets trials take the seconds that a machine of known speed would, so that tests are exact."""

    def seconds(x: torch.Tensor, *_: object) -> dict[str, float]:
        return dict.fromkeys(STAGES, 1e-6 * len(x)) | {"ranking": 1e-9 * x.numel() * len(x)}

    monkeypatch.setattr(module, "_time_stages", seconds)
    monkeypatch.setattr(module, "_seconds_of_pair", lambda dim: 1e-10 * dim)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("field", ["seconds", "most_seconds", "peak_bytes"])
def test_more_samples_or_dimensions_take_more(field: str) -> None:
    def of(*sizes: int) -> Any:
        return getattr(mabm.estimate(*sizes), field)

    assert of(1000, 64) < of(5000, 64) < of(20000, 64) < of(10**6, 64) < of(2**31 - 1, 64)
    assert of(20000, 32) < of(20000, 64) < of(20000, 512) < of(20000, 4096) < of(20000, 40000)


@pytest.mark.usefixtures("steady")
def test_pairs_grow_with_the_square_and_later_stages_hardly_faster_than_samples() -> None:
    one, ten = (mabm.estimate(count, 2048) for count in (10**6, 10**7))
    noise = [each.most_seconds - each.seconds for each in (one, ten)]
    assert noise[1] == pytest.approx(100 * noise[0], rel=1e-6)
    for stage in STAGES[1:]:
        assert ten.stage_seconds[stage] == pytest.approx(10**1.2 * one.stage_seconds[stage])
    for each in (one, ten):
        assert each.seconds == pytest.approx(sum(each.stage_seconds.values()))
        assert each.peak_bytes == max(each.stage_bytes.values())
        assert list(each.stage_seconds) == list(each.stage_bytes) == STAGES


def test_what_is_small_enough_is_timed_itself() -> None:
    found = mabm.estimate(1, 1, None)
    assert 0 < found.seconds <= found.most_seconds < 60
    assert 0 < found.peak_bytes < 64_000_000


@pytest.mark.parametrize("preset", mabm.PRESETS)
def test_stages_are_those_of_the_call(preset: str) -> None:
    for k2 in (1, 6) if preset != "ca_jaccard" else (6,):
        reports: list[mabm.Progress] = []
        mabm.pseudo_labels(
            torch.randn(300, 8), [0, 1, 2] * 100, k2=k2, preset=preset, progress=reports.append
        )
        found = mabm.estimate(300, 8, 3, k2=k2, preset=preset)
        stages = list(dict.fromkeys(report.stage for report in reports))
        assert list(found.stage_seconds) == list(found.stage_bytes) == stages


def test_nothing_global_changes(caplog: pytest.LogCaptureFixture) -> None:
    random, threads = torch.random.get_rng_state(), torch.get_num_threads()
    precision, grad = torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    caplog.set_level("INFO")
    mabm.estimate(4000, 512, 2, k1=600)  # more neighbors than half of a modality in the trial
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert (torch.get_float32_matmul_precision(), torch.is_grad_enabled()) == (precision, grad)
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (1.2, "about 1 second"),
        (45.4, "about 45 seconds"),
        (170, "about 3 minutes"),
        (7000, "about 2 hours"),
        (10 * 86400, "about 10 days"),
    ],
)
@pytest.mark.usefixtures("steady")
def test_the_table_tells_time_and_memory(seconds: float, words: str) -> None:
    found = replace(mabm.estimate(5000, 128), seconds=seconds, peak_bytes=3 << 29)
    lines = str(found).splitlines()
    assert lines[0].split() == ["5000", "x", "128", "time", "memory"]
    assert [line[:18].rstrip() for line in lines[1:-2]] == STAGES
    assert f"in all            {words} " in lines[-2]
    assert lines[-2].endswith("1.5 GiB at most")
    assert lines[-1].startswith("features without structure (noise): ")


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: mabm.estimate(0, 8), ValueError, r"num_samples must be in \[1, 2147483647\], got 0"),
    (lambda: mabm.estimate(2**31, 8), ValueError, "num_samples must be in .*, got 2147483648"),
    (lambda: mabm.estimate(1e5, 8), TypeError, "num_samples must be an integer, got float"),  # type: ignore[arg-type]
    (lambda: mabm.estimate(10, 0), ValueError, r"dim must be in \[1, 2147483647\], got 0"),
    (lambda: mabm.estimate(10, 8, 0), ValueError, r"num_groups must be in \[1, 10\], got 0"),
    (lambda: mabm.estimate(10, 8, 11), ValueError, r"num_groups must be in \[1, 10\], got 11"),
    (lambda: mabm.estimate(10, 8, k1=1), ValueError, r"k1 must be in \[2, 1024\]"),
    (lambda: mabm.estimate(10, 8, k2=31), ValueError, r"k2 must be in \[1, 30\]"),
    (lambda: mabm.estimate(10, 8, None, preset="bmil"), ValueError, "preset 'bmil' needs modality"),
    (lambda: mabm.estimate(10, 8, preset="x"), ValueError, "preset must be one of"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_sizes_and_options_out_of_range_are_refused(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
