"""int8 as the first rung of a ranking: nothing is missing, whichever kernel multiplies."""

import importlib
import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from numpy.typing import NDArray
from torch import Tensor

import mabm
from mabm import reference
from mabm.distance import instructions, rung_choice, screening
from mabm.distance.instructions import fast_int8_kernel
from mabm.distance.list_layout import ListLayout
from mabm.distance.quantization import QuantizedRows, quantize_rows
from mabm.distance.rung_choice import Plan
from mabm.distance.rungs import Measures, float_rung, quantized_rung


@pytest.fixture(params=[False, True], ids=["plain", "rotated"])
def int8_first(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Ranks by int8 first, though no kernel here may be fast, and by float32 then."""
    put_int8_first(monkeypatch, rotate=request.param)


def put_int8_first(monkeypatch: pytest.MonkeyPatch, *, rotate: bool) -> None:
    def plan(x: Tensor, layout: ListLayout, measures: Measures, sides: object) -> Plan:
        rungs = [
            lambda: quantized_rung(x, measures, rotate=rotate),
            lambda: float_rung(x, measures),
        ]
        cells = torch.zeros(len(x), dtype=torch.int32)
        return Plan(rungs, 8 * max(layout.widths) + 64, cells)

    monkeypatch.setattr(screening, "choose_rungs", plan)


def expected_ranks(features: NDArray[np.float32], modality: Any, preset: str, k1: int) -> Any:
    """The lists of the definition, side by side."""
    groups = np.zeros(len(features), dtype=np.int64) if modality is None else modality
    lists = reference.rank(features, groups, mabm.PRESETS[preset], k1)
    return np.stack([np.concatenate(row) for row in lists])


def proven_by_int8(caplog: pytest.LogCaptureFixture) -> int:
    """Rows that int8 has proven, by the log."""
    text = next(m for m in caplog.messages if m.startswith("ranking ") and " by " in m)
    parts = text.partition(": ")[2].split(", ")
    return sum(int(part.split()[0]) for part in parts if "int8" in part)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.usefixtures("int8_first")
def test_ranks_are_those_of_the_definition(kind: str, preset: str) -> None:
    modality = np.arange(260) % 2
    features = make_features(kind, modality, seed=3)
    groups = modality if preset == "bmil" else None
    found = mabm.rank_neighbors(features, groups, k1=20, preset=preset)
    expected = expected_ranks(features, groups, preset, 20)
    np.testing.assert_array_equal(found.ranks, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e18])
@pytest.mark.usefixtures("int8_first")
def test_ranks_do_not_depend_on_the_scale(scale: float) -> None:
    power = 2.0 ** round(np.log2(scale))  # which rounds nothing
    features = make_features("clustered", np.arange(300) % 2, seed=4)
    expected = mabm.rank_neighbors(features, k1=12).ranks
    scaled = (features * power).astype(np.float32)
    np.testing.assert_array_equal(mabm.rank_neighbors(scaled, k1=12).ranks, expected)


@pytest.mark.parametrize("dim", [1, 3, 63, 1540])
@pytest.mark.usefixtures("int8_first")
def test_int8_proves_most_rows_of_clusters(dim: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(dim)
    centers = rng.normal(size=(40, dim))
    features = np.repeat(centers, 10, axis=0) + 0.3 * rng.normal(size=(400, dim))
    features = features.astype(np.float32)
    with caplog.at_level(logging.DEBUG, logger="mabm.distance.ranking"):
        found = mabm.rank_neighbors(features, k1=10).ranks
    assert proven_by_int8(caplog) > (100 if dim < 4 else 390)
    np.testing.assert_array_equal(found, expected_ranks(features, None, "spcl", 10))


@pytest.mark.usefixtures("int8_first")
def test_a_row_that_overflows_float32_is_ranked_too() -> None:
    features = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    features[3, 2] = 3.4e38
    features[5, 2] = -3.4e38
    found = mabm.rank_neighbors(features, k1=6).ranks
    np.testing.assert_array_equal(found, expected_ranks(features, None, "spcl", 6))


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 67, 70])
def test_operands_of_no_whole_steps(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Quantized rows are filled up with zeros; the op does not ask for them.
    def quantize(*arguments: Any, **options: Any) -> QuantizedRows:
        rows = quantize_rows(*arguments, **options)
        return rows._replace(values=rows.values[:, :dim].contiguous())

    put_int8_first(monkeypatch, rotate=False)
    monkeypatch.setattr("mabm.distance.rungs.quantize_rows", quantize)
    features = np.random.default_rng(dim).normal(size=(300, dim)).astype(np.float32)
    found = mabm.rank_neighbors(features, k1=10).ranks
    np.testing.assert_array_equal(found, expected_ranks(features, None, "spcl", 10))


@pytest.mark.usefixtures("int8_first")
def test_sums_of_the_largest_integers_do_not_overflow() -> None:
    signs = np.sign(np.random.default_rng(2).normal(size=(20, 20_000)))
    signs[7] = -signs[4]
    signs[9] = signs[4]
    signs[9, :2] *= -1
    features = np.concatenate([signs, -signs]).astype(np.float32)  # with a mean of zero
    found = mabm.rank_neighbors(features, k1=5).ranks
    np.testing.assert_array_equal(found, expected_ranks(features, None, "spcl", 5))


def test_more_dimensions_than_sums_of_int32_allow_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_int8_first(monkeypatch, rotate=False)
    with pytest.raises(RuntimeError, match="at most 131072 columns of int8, got 131136"):
        mabm.rank_neighbors(torch.ones(2, 2**17 + 1), k1=1)


def chosen_rungs(features: Any, kernel: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rungs of a ranking of N features, on a processor with this kernel for int8."""
    monkeypatch.setattr(rung_choice, "fast_int8_kernel", lambda: kernel)
    monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    x = torch.from_numpy(features.astype(np.float32))
    measures = screening.measure(x, euclidean=True)
    one = torch.zeros((1, 1), dtype=torch.int32)
    layout = ListLayout(torch.zeros(len(x), dtype=torch.int32), one, [15])
    return [make().name for make in rung_choice.choose_rungs(x, layout, measures).rungs]


def test_int8_is_chosen_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 512)).repeat(20, axis=0) + 0.8 * rng.normal(size=(1200, 512))
    assert "int8" not in chosen_rungs(features, None, monkeypatch)
    assert chosen_rungs(features, "AVX-512 VNNI", monkeypatch) == ["int8", "float32"]


def test_int8_follows_where_few_directions_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(60, 16)).repeat(20, axis=0) @ rng.normal(size=(16, 512))
    features = centers + 0.8 * rng.normal(size=(1200, 512))
    first, *others = chosen_rungs(features, "AVX-512 VNNI", monkeypatch)
    assert "directions" in first
    assert others == ["int8", "float32"]
    assert chosen_rungs(features, None, monkeypatch) == [first, "float32"]


def test_a_kernel_that_multiplies_wrongly_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ops = importlib.import_module("mabm._C")
    monkeypatch.setattr(ops, "screen_kernels", lambda: ("AVX2", "AVX-VNNI", "portable"))
    fast_int8_kernel.cache_clear()
    try:
        assert fast_int8_kernel() is None
    finally:
        fast_int8_kernel.cache_clear()
    assert "AVX-VNNI" in caplog.text


def test_the_log_names_the_instructions_once() -> None:
    script = (
        "import logging, torch; logging.basicConfig(level=logging.DEBUG)\n"
        "from mabm.distance.instructions import fast_int8_kernel\n"
        "import mabm; mabm.backends(); fast_int8_kernel(); fast_int8_kernel()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("instructions for float32") == 1
    assert instructions.logger.name == "mabm.distance.instructions"
