"""Memory limits in words, and reports on progress."""

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import mabm
from mabm._core import work as module
from mabm._core.work import Work, check_memory

FEATURES = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
STAGES = ["ranking", "neighbors", "encoding", "query expansion"]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (None, None),
        (1, 1),
        (np.int32(4096), 4096),
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        (" 100kB ", 100_000),
        ("2TiB", 2 << 40),
        ("123", 123),
        ("123B", 123),
        ("9223372036854775807", 2**63 - 1),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes_in_numbers_and_words(given: object, size: int | None) -> None:
    assert check_memory("max_memory", given) == size


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (4.0, TypeError, 'max_memory must be a number of bytes, or words such as "4GB"'),
        (True, TypeError, "got bool: True"),
        (["4GB"], TypeError, "got list"),
        (0, ValueError, "max_memory must be at least 1, got 0"),
        (-5, ValueError, "max_memory must be at least 1, got -5"),
        (2**63, ValueError, "max_memory must be in .*, got 9223372036854775808"),
        ("0GB", ValueError, r"max_memory must be in \[1, 2\*\*63\) bytes, got '0GB'"),
        ("9999999TiB", ValueError, r"max_memory must be in \[1, 2\*\*63\) bytes"),
        ("9223372036854775808", ValueError, r"max_memory must be in \[1, 2\*\*63\) bytes"),
        ("4 gigabytes", ValueError, "max_memory must be .*, got '4 gigabytes'"),
        ("-4GB", ValueError, "got '-4GB'"),
        ("4e9", ValueError, "got '4e9'"),
        ("٤GB", ValueError, "max_memory must be"),
        ("", ValueError, "got ''"),
    ],
)
def test_other_sizes_are_refused(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_memory("max_memory", given)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_reports_ten_times_a_second_and_at_both_ends(clock: Clock) -> None:
    reports: list[mabm.Progress] = []
    with Work.of(progress=reports.append).stage("ranking", 1000) as advance:
        for _ in range(1000):
            clock.now += 0.01
            advance(1)
    assert reports[0] == mabm.Progress("ranking", 0, 1000, 0.0, None)
    assert 90 <= len(reports) <= 102
    assert all(one.done < next_one.done for one, next_one in pairwise(reports))
    for report in reports[1:]:
        assert report.seconds == pytest.approx(report.done * 0.01)
        assert report.seconds_left == pytest.approx((1000 - report.done) * 0.01)
    assert reports[-1].done == 1000


def test_a_stage_that_counts_nothing_reports_its_ends(clock: Clock) -> None:
    reports: list[mabm.Progress] = []
    work = Work.of(progress=reports.append)
    with work.stage("graph", 7):
        clock.now += 2
    with work.stage("empty", 0):
        pass
    assert reports == [
        mabm.Progress("graph", 0, 7, 0.0, None),
        mabm.Progress("graph", 7, 7, 2.0, 0.0),
        mabm.Progress("empty", 0, 0, 0.0, 0.0),
        mabm.Progress("empty", 0, 0, 0.0, 0.0),
    ]


CALLS: list[tuple[Callable[..., Any], list[str]]] = [
    (lambda **more: mabm.rank_neighbors(FEATURES, k1=10, **more).ranks, STAGES[:1]),
    (lambda **more: mabm.encode_samples(FEATURES, k1=10, **more).weights, STAGES),
    (lambda **more: mabm.jaccard_graph(FEATURES, k1=10, **more).distances, [*STAGES, "graph"]),
    (lambda **more: mabm.modality_jaccard(FEATURES, k1=10, **more), [*STAGES, "dense distance"]),
    (
        lambda **more: mabm.pseudo_labels(FEATURES, k1=10, **more).labels,
        [*STAGES, "graph", "clustering"],
    ),
    (
        lambda **more: mabm.rerank(FEATURES[:20], FEATURES[20:], k1=10, **more),
        [*STAGES, "dense distance", "original distance"],
    ),
]


@pytest.mark.parametrize(("call", "stages"), CALLS)
def test_every_stage_is_reported_and_results_are_the_same(
    call: Callable[..., Any], stages: list[str]
) -> None:
    reports: list[mabm.Progress] = []
    np.testing.assert_array_equal(call(progress=reports.append), call())
    assert list(dict.fromkeys(report.stage for report in reports)) == stages
    for stage in stages:
        own = [report for report in reports if report.stage == stage]
        assert own[0].done == 0
        assert own[-1].done == own[-1].total > 0
        assert own[-1].seconds_left == 0


@pytest.mark.parametrize(("call", "stages"), CALLS)
def test_a_bar_is_on_standard_error_only_if_wanted(
    call: Callable[..., Any], stages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    call()
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    call(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(stage in shown.err for stage in stages)


@pytest.mark.parametrize(("call", "stages"), CALLS)
def test_an_error_of_the_callback_comes_out(call: Callable[..., Any], stages: list[str]) -> None:
    stop = KeyError("enough")

    def report(progress: mabm.Progress) -> None:
        if progress.stage == stages[-1]:
            raise stop

    with pytest.raises(KeyError) as caught:
        call(progress=report)
    assert caught.value is stop


@pytest.mark.parametrize("progress", [1, "yes", None])
def test_progress_of_another_kind_is_refused(progress: object) -> None:
    with pytest.raises(TypeError, match="progress must be True, False or a function of one arg"):
        mabm.pseudo_labels(FEATURES, progress=progress)


def test_without_tqdm_a_bar_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm: pip install"):
        mabm.pseudo_labels(FEATURES, progress=True)
    mabm.pseudo_labels(torch.from_numpy(FEATURES), k1=10, progress=lambda progress: None)


LIMITED: list[Callable[..., Any]] = [
    *(call for call, _ in CALLS),
    lambda **more: mabm.rank_neighbors(FEATURES, k1=10, precision="fast", **more).ranks,
    lambda **more: mabm.ModalityDBSCAN(k1=10, **more).fit_predict(FEATURES),
    lambda **more: mabm.ModalityDBSCAN(k1=10, **more).fit(FEATURES).predict(FEATURES[:7]),
    lambda **more: mabm.predict_labels(
        FEATURES[:7], None, FEATURES, np.arange(60) // 6, k1=10, **more
    ),
]


@pytest.mark.parametrize("call", LIMITED)
def test_a_limit_that_suffices_changes_nothing(call: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(call(max_memory="1GB"), call())


@pytest.mark.parametrize("call", LIMITED)
def test_a_limit_that_cannot_be_kept_is_refused_naming_both_sizes(
    call: Callable[..., Any],
) -> None:
    with pytest.raises(
        MemoryError,
        match=r"needs .* \(\d+ bytes\) beyond the features and the result, and max_memory allows "
        r"1000 bytes \(1000 bytes\)",
    ):
        call(max_memory=1000)
    with pytest.raises(TypeError, match="max_memory must be a number of bytes"):
        call(max_memory=1.5)


def test_what_is_taken_is_counted_in_messages() -> None:
    work = Work.of("2kB").less(500, "a", "do b").less(1000, "c", "do d")
    assert work.max_memory == 500
    with pytest.raises(
        MemoryError, match=r"^e needs 1.957 KiB \(2004 bytes\) .* allows .* \(2000 bytes\); do f$"
    ):
        work.less(504, "e", "do f")
    assert Work.of().less(10**15, "a", "do b").max_memory is None


def test_the_smallest_limit_changes_nothing() -> None:
    features = np.random.default_rng(1).normal(size=(1500, 16)).astype(np.float32)
    modality, limit, found = np.arange(1500) % 2, 1, None
    for _ in range(20):  # each message names the least that its part needs
        try:
            found = mabm.jaccard_graph(features, modality, max_memory=limit)
            break
        except MemoryError as error:
            limit = int(re.search(r"\((\d+) bytes\) beyond", str(error))[1])
    assert found is not None
    expected = mabm.jaccard_graph(features, modality)
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one, other)
